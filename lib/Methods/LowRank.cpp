//===- LowRank.cpp - What singular vectors mend of a rounding -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/LowRank.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Rotation.h"
#include "quant-llm/Support/Parallel.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/QR>
#include <Eigen/SVD>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace quant_llm;
using Matrix = Eigen::MatrixXd;

/// Vectors beside the wanted ones in a block, and blocks after the first one.
static constexpr int64_t oversampling = 8;
static constexpr int64_t numSteps = 8;
/// Rows or columns of a matrix that are multiplied at once, for any number of
/// threads.
static constexpr int64_t panelSize = 64;
/// Each retry has ten times the damping of the one before.
static constexpr int maxDampingRetries = 4;

namespace {

/// E L, as the product that it is.
class ErrorOperator {
public:
  ErrorOperator(int64_t n, int64_t k, int threads)
      : error(n, k), threads(threads) {}

  /// x -> E L x
  Matrix apply(const Matrix &x) const {
    Matrix y =
        factor.size() ? Matrix(factor.triangularView<Eigen::Lower>() * x) : x;
    Matrix result(error.rows(), x.cols());
    forPanels(error.rows(), [&](int64_t begin, int64_t size) {
      result.middleRows(begin, size).noalias() =
          error.middleRows(begin, size).cast<double>() * y;
    });
    return result;
  }

  /// x -> L^T E^T x
  Matrix applyTransposed(const Matrix &x) const {
    Matrix result(error.cols(), x.cols());
    forPanels(error.cols(), [&](int64_t begin, int64_t size) {
      result.middleRows(begin, size).noalias() =
          error.middleCols(begin, size).cast<double>().transpose() * x;
    });
    if (factor.size())
      result = factor.triangularView<Eigen::Lower>().transpose() * result;
    return result;
  }

  /// |(E - A B) L|_F
  double getRemainingNorm(const Matrix &a, const Matrix &b) const {
    int64_t panels = (error.rows() - 1) / panelSize + 1;
    std::vector<double> sums(static_cast<size_t>(panels));
    forPanels(error.rows(), [&](int64_t begin, int64_t size) {
      Matrix rest = error.middleRows(begin, size).cast<double>();
      if (a.size())
        rest.noalias() -= a.middleRows(begin, size) * b;
      if (factor.size())
        rest = rest * factor.triangularView<Eigen::Lower>();
      sums[static_cast<size_t>(begin / panelSize)] = rest.squaredNorm();
    });
    double sum = 0;
    for (double part : sums)
      sum += part;
    return std::sqrt(sum);
  }

  using RowMajor =
      Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  RowMajor error;
  /// L; empty if it is the identity.
  Matrix factor;

private:
  template <typename Body>
  void forPanels(int64_t size, const Body &body) const {
    parallelFor(
        (size - 1) / panelSize + 1, threads, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            body(i * panelSize, std::min(panelSize, size - i * panelSize));
        });
  }

  int threads;
};

} // namespace

/// An orthonormal basis of the columns.
static Matrix orthonormalize(const Matrix &columns) {
  Eigen::ColPivHouseholderQR<Matrix> qr(columns);
  return qr.householderQ() * Matrix::Identity(columns.rows(), qr.rank());
}

/// An orthonormal basis [k, m] of a space in which the leading right singular
/// vectors of the operator are.
static Matrix getKrylovBasis(const ErrorOperator &op, int64_t rank) {
  int64_t n = op.error.rows(), k = op.error.cols();
  int64_t width = rank + oversampling;
  if (std::min(n, k) <= width * (numSteps + 1))
    return n < k ? orthonormalize(op.applyTransposed(Matrix::Identity(n, n)))
                 : Matrix(Matrix::Identity(k, k));
  std::vector<int8_t> signs = getRandomSigns(/*seed=*/1, k * width);
  Matrix block(k, width);
  for (int64_t i = 0; i < k * width; ++i)
    block.data()[i] = signs[static_cast<size_t>(i)];
  Matrix basis(k, 0);
  for (int64_t step = 0; step <= numSteps; ++step) {
    if (step != 0)
      block = op.applyTransposed(op.apply(block));
    // What is in the basis already must not drown what is new.
    for (int pass = 0; pass < 2 && basis.cols() != 0; ++pass)
      block -= basis * (basis.transpose() * block);
    block = orthonormalize(block);
    if (block.cols() == 0)
      break;
    Matrix next(k, basis.cols() + block.cols());
    next << basis, block;
    basis = std::move(next);
  }
  // The last blocks of an exhausted space are noise.
  return orthonormalize(basis);
}

/// L of H + damping I, with H scaled to a mean diagonal of 1.
static bool factorHessian(const HessianView &hessian, double damping,
                          Matrix &factor) {
  int64_t k = hessian.k;
  double mean = 0;
  for (int64_t i = 0; i < k; ++i)
    mean += static_cast<double>(hessian.at(i, i)) / static_cast<double>(k);
  if (!(mean > 0))
    mean = 1;
  factor.resize(k, k);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = j; i < k; ++i)
      factor(i, j) = static_cast<double>(hessian.at(j, i)) / mean;
    factor(j, j) += damping;
  }
  Eigen::LLT<Eigen::Ref<Matrix>> llt(factor);
  return llt.info() == Eigen::Success && factor.diagonal().allFinite() &&
         factor.diagonal().minCoeff() > 0;
}

/// Rounds a matrix to the type and stores it row by row.
static void store(Matrix &matrix, FloatType type, std::vector<uint8_t> &bytes) {
  size_t width = floatTypeBytes(type);
  bytes.resize(static_cast<size_t>(matrix.size()) * width);
  uint8_t *to = bytes.data();
  for (int64_t i = 0; i < matrix.rows(); ++i)
    for (int64_t j = 0; j < matrix.cols(); ++j, to += width) {
      storeFloat(type, static_cast<float>(matrix(i, j)), to);
      matrix(i, j) = loadFloat(type, to);
    }
}

Status quant_llm::addLowRank(const MatrixView &matrix, const Scheme &scheme,
                             const HessianView *hessian, double damping,
                             const std::string &tensorName, int threads,
                             QuantizedMatrix &stored, LowRankReport *report) {
  auto withName = [&](const Status &status) {
    return status.withContext("tensor '" + tensorName + "'");
  };
  int64_t n = matrix.n, k = matrix.k, rank = scheme.lowRank;
  if (Status status = verifyScheme(scheme, n, k); !status.ok())
    return withName(status);
  if (rank == 0)
    return withName(Status::error("expected a scheme with low_rank"));
  if (stored.n != n || stored.k != k)
    return withName(Status::error("expected codes of a matrix of this shape"));
  if (Status status = verifyDamping(damping); !status.ok())
    return withName(status);
  Scheme codes = scheme;
  codes.lowRank = 0;
  Result<RowReader> reader = RowReader::get(stored.view(), codes);
  if (!reader.ok())
    return withName(reader.status());
  if (Status status = verifyFinite(matrix, tensorName, threads); !status.ok())
    return status;

  ErrorOperator op(n, k, threads);
  double usedDamping = 0;
  if (hessian) {
    if (Status status = verifyHessian(*hessian, k, tensorName); !status.ok())
      return status;
    int retry = 0;
    for (; retry <= maxDampingRetries; ++retry) {
      usedDamping = retry == 0       ? damping
                    : damping == 0.0 ? 0.01 * std::pow(10.0, retry - 1)
                                     : damping * std::pow(10.0, retry);
      if (factorHessian(*hessian, usedDamping, op.factor))
        break;
    }
    if (retry > maxDampingRetries)
      return withName(Status::error(
          "the Hessian of the inputs cannot be factored; calibrate with more "
          "tokens, or without a calibration file for the low-rank part"));
  }
  parallelFor(n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(k));
    for (int64_t row = begin; row < end; ++row) {
      loadRow(matrix, row, 0, k, op.error.row(row).data());
      reader->read(row, row + 1, values.data());
      for (int64_t i = 0; i < k; ++i)
        op.error(row, i) -= values[static_cast<size_t>(i)];
    }
  });

  // With the columns of Q a basis, (E L) Q = U S W^T has the singular values of
  // E L, and V = Q W.
  Matrix basis = getKrylovBasis(op, rank);
  Matrix a = Matrix::Zero(n, rank), b = Matrix::Zero(rank, k);
  if (basis.cols() != 0) {
    Eigen::BDCSVD<Matrix> svd(op.apply(basis),
                              Eigen::ComputeThinU | Eigen::ComputeThinV);
    int64_t count = std::min<int64_t>(rank, svd.singularValues().size());
    Matrix right = basis * svd.matrixV().leftCols(count);
    if (op.factor.size())
      op.factor.triangularView<Eigen::Lower>().transpose().solveInPlace(right);
    for (int64_t j = 0; j < count; ++j) {
      double value = svd.singularValues()[j], norm = right.col(j).norm();
      if (!(value > 0) || !(norm > 0))
        continue;
      // Equal norms: a = u c, b = s v / c.
      double scale = std::sqrt(value * norm);
      a.col(j) = svd.matrixU().col(j) * scale;
      b.row(j) = right.col(j).transpose() * (value / scale);
    }
  }
  store(a, scheme.lowRankType, stored.lowRankA);
  store(b, scheme.lowRankType, stored.lowRankB);
  if (report) {
    double norm = op.getRemainingNorm({}, {});
    report->error = op.getRemainingNorm(a, b);
    report->remainingError = norm > 0 ? report->error / norm : 0.0;
    report->damping = usedDamping;
  }
  return Status::success();
}
