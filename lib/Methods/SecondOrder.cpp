//===- SecondOrder.cpp - Rounding by the error of the outputs -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Rows are worked on in panels of 32, stored by columns: [k][32]. All inner
// loops then run over the rows of a panel, in vectors, and a row's result is
// the same whichever panel or thread it is in.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/SecondOrder.h"

#include "quant-llm/Methods/Grid.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Support/Parallel.h"

#include "Clones.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <tuple>
#include <utility>

using namespace quant_llm;

static constexpr int64_t panelRows = 32;
/// Columns whose errors are spread over the columns behind them at once.
static constexpr int64_t blockColumns = 128;
/// Each retry has ten times the damping of the one before.
static constexpr int maxDampingRetries = 4;
/// Sides of the blocks by which Hessians are factored and their factors
/// inverted, whatever the number of threads: it does not change the sums.
static constexpr int64_t factorBlock = 96;
static constexpr int64_t inverseBlock = 32;

/// to[j] -= sum over i < count of matrix[i * stride + j] * from[i], for j in
/// [begin, end); to and from are [.][panelRows].
QUANT_LLM_CLONES
static void subtractProduct(const float *matrix, int64_t stride, int64_t count,
                            int64_t begin, int64_t end, const float *from,
                            float *to) {
  for (int64_t j = begin; j < end; ++j) {
    float sums[panelRows] = {};
    for (int64_t i = 0; i < count; ++i) {
      float factor = matrix[i * stride + j];
      for (int64_t r = 0; r < panelRows; ++r)
        sums[r] += factor * from[i * panelRows + r];
    }
    for (int64_t r = 0; r < panelRows; ++r)
      to[j * panelRows + r] -= sums[r];
  }
}

/// to[j] = sum over i < count of matrix[i * stride + j] * from[i], for j < 4.
QUANT_LLM_CLONES
static void multiplyFour(const float *matrix, int64_t stride, int64_t count,
                         const float *from, float *to) {
  float sums[4][panelRows] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float *factors = matrix + i * stride;
    const float *row = from + i * panelRows;
    for (int64_t r = 0; r < panelRows; ++r) {
      sums[0][r] += factors[0] * row[r];
      sums[1][r] += factors[1] * row[r];
      sums[2][r] += factors[2] * row[r];
      sums[3][r] += factors[3] * row[r];
    }
  }
  std::memcpy(to, sums, sizeof(sums));
}

/// to[j] -= row[j] * from for j in [begin, end).
QUANT_LLM_CLONES
static void subtractOuter(const float *row, int64_t begin, int64_t end,
                          const float *from, float *to) {
  for (int64_t j = begin; j < end; ++j)
    for (int64_t r = 0; r < panelRows; ++r)
      to[j * panelRows + r] -= row[j] * from[r];
}

//===----------------------------------------------------------------------===//
// Hessians
//===----------------------------------------------------------------------===//

Status quant_llm::verifyHessian(const HessianView &hessian, int64_t k,
                                const std::string &tensorName) {
  auto error = [&](const std::string &text) {
    return Status::error("tensor '" + tensorName + "': " + text);
  };
  if (hessian.k != k)
    return error("expected a Hessian of the " + std::to_string(k) +
                 " inputs of the weight but got one of " +
                 std::to_string(hessian.k) +
                 "; was the calibration made for another model?");
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j)
      if (!std::isfinite(hessian.at(i, j)))
        return error("expected finite values of the Hessian but got a NaN or "
                     "an infinity at (" +
                     std::to_string(i) + ", " + std::to_string(j) +
                     "); calibrate again in a wider type");
    if (hessian.at(i, i) < 0.0f)
      return error("expected no negative value on the diagonal of the Hessian "
                   "but got " +
                   std::to_string(hessian.at(i, i)) + " at channel " +
                   std::to_string(i));
  }
  return Status::success();
}

/// The mean of the diagonal without zeros; 1 if there are only zeros.
static double getMeanDiagonal(const HessianView &hessian) {
  double sum = 0;
  int64_t alive = 0;
  for (int64_t i = 0; i < hessian.k; ++i) {
    sum += hessian.at(i, i);
    alive += hessian.at(i, i) > 0.0f;
  }
  return alive ? sum / static_cast<double>(alive) : 1.0;
}

namespace {
/// The whole symmetric matrix, times the power of two that brings the mean of
/// its diagonal to [1, 2): whatever its scale, sums over it are in range.
struct ScaledHessian {
  ScaledHessian(const HessianView &hessian, int threads)
      : exponent(std::ilogb(getMeanDiagonal(hessian))) {
    int64_t k = hessian.k;
    values.resize(static_cast<size_t>(k * k));
    double factor = std::ldexp(1.0, -exponent);
    parallelFor(k, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < k; ++j)
          values[static_cast<size_t>(i * k + j)] = static_cast<float>(
              static_cast<double>(hessian.at(i, j)) * factor);
    });
  }

  std::vector<float> values;
  int exponent;
};
} // namespace

static std::vector<int64_t> identityOrder(int64_t k) {
  std::vector<int64_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// The order in which GPTQ rounds columns.
static std::vector<int64_t> getColumnOrder(const HessianView &hessian,
                                           bool actOrder) {
  std::vector<int64_t> order = identityOrder(hessian.k);
  if (actOrder)
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      float atA = hessian.at(a, a), atB = hessian.at(b, b);
      return atA != atB ? atA > atB : a < b;
    });
  return order;
}

namespace {
/// U of GPTQ, k * k, row-major, and the damping that it needed.
struct InverseFactor {
  std::vector<float> values;
  double damping = 0;
  int retries = 0;
};
} // namespace

/// Puts L of A = L L^T in place of the lower triangle of A; false if A is not
/// positive definite.
static bool factorCholesky(Eigen::MatrixXd &matrix, int threads) {
  int64_t k = matrix.rows();
  for (int64_t begin = 0; begin < k; begin += factorBlock) {
    int64_t width = std::min(factorBlock, k - begin), end = begin + width;
    Eigen::Ref<Eigen::MatrixXd> corner =
        matrix.block(begin, begin, width, width);
    if (Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>>(corner).info() !=
        Eigen::Success)
      return false;
    int64_t blocks = (k - end + factorBlock - 1) / factorBlock;
    auto rowsOf = [&](int64_t block) {
      int64_t first = end + block * factorBlock;
      return matrix.block(first, begin, std::min(factorBlock, k - first),
                          width);
    };
    parallelFor(blocks, threads, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        auto rows = rowsOf(block);
        corner.transpose()
            .triangularView<Eigen::Upper>()
            .solveInPlace<Eigen::OnTheRight>(rows);
      }
    });
    // Blocks (i, j) with j <= i, counted along the rows.
    parallelFor(blocks * (blocks + 1) / 2, threads,
                [&](int64_t first, int64_t last) {
                  int64_t i = 0, j = first;
                  while (j > i)
                    j -= ++i;
                  for (; first < last; ++first) {
                    auto left = rowsOf(i), right = rowsOf(j);
                    matrix
                        .block(end + i * factorBlock, end + j * factorBlock,
                               left.rows(), right.rows())
                        .noalias() -= left * right.transpose();
                    if (j++ == i) {
                      ++i;
                      j = 0;
                    }
                  }
                });
  }
  return true;
}

/// U of GPTQ from L, the lower triangle of `factor`: row and column i of the
/// inverse of L become row and column k - 1 - i. False if it has an infinity, a
/// NaN, or no positive diagonal.
static bool invertFactor(const Eigen::MatrixXd &factor,
                         std::vector<float> &values, int threads) {
  int64_t k = factor.rows();
  values.assign(static_cast<size_t>(k * k), 0.0f);
  int64_t blocks = (k - 1) / inverseBlock + 1;
  std::vector<char> usable(static_cast<size_t>(blocks), true);
  parallelFor(blocks, threads, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; ++at) {
      // The first columns are the longest: every second one from the end, so
      // that all threads have as much to do.
      int64_t block = at % 2 == 0 ? at / 2 : blocks - 1 - at / 2;
      int64_t begin = block * inverseBlock, rest = k - begin;
      int64_t width = std::min(inverseBlock, rest);
      Eigen::MatrixXd columns = Eigen::MatrixXd::Identity(rest, width);
      factor.bottomRightCorner(rest, rest)
          .triangularView<Eigen::Lower>()
          .solveInPlace(columns);
      bool good = true;
      for (int64_t i = 0; i < rest; ++i) {
        float *row = values.data() + (rest - 1 - i) * k + (k - 1 - begin);
        for (int64_t j = 0; j < std::min(width, i + 1); ++j) {
          auto value = static_cast<float>(columns(i, j));
          good &= std::isfinite(value) && (i != j || value > 0.0f);
          *(row - j) = value;
        }
      }
      usable[static_cast<size_t>(block)] = good;
    }
  });
  return std::all_of(usable.begin(), usable.end(),
                     [](char good) { return good; });
}

/// Factors H with its rows and columns in the reversed `order`, and with
/// growing damping until that works and `use` takes the factor, L in the lower
/// triangle.
template <typename Use>
static Result<std::pair<double, int>>
factorDamped(const HessianView &hessian, const std::vector<int64_t> &order,
             double damping, int threads, Use use) {
  int64_t k = hessian.k;
  double mean = getMeanDiagonal(hessian), used = damping;
  for (int retry = 0; retry <= maxDampingRetries; ++retry) {
    // Without damping to begin with, a retry begins with the usual one.
    used = retry == 0       ? damping
           : damping == 0.0 ? 0.01 * std::pow(10.0, retry - 1)
                            : damping * std::pow(10.0, retry);
    Eigen::MatrixXd matrix(k, k);
    parallelFor(k, threads, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        int64_t column = order[static_cast<size_t>(k - 1 - j)];
        for (int64_t i = j; i < k; ++i)
          matrix(i, j) =
              hessian.at(order[static_cast<size_t>(k - 1 - i)], column);
        matrix(j, j) = (matrix(j, j) > 0.0 ? matrix(j, j) : mean) + used * mean;
      }
    });
    if (factorCholesky(matrix, threads) && use(matrix))
      return std::pair(used, retry);
  }
  return Status::error("the Hessian of its inputs cannot be factored, not even "
                       "with a damping of " +
                       std::to_string(used) +
                       "; use more calibration tokens or round to nearest");
}

/// With P the reversal of rows and columns, P H P = L L^T gives H = R R^T with
/// R = P L P upper triangular, and so H^-1 = U^T U with U = R^-1 = P L^-1 P:
/// one Cholesky factorization and no inverse of H.
static Result<InverseFactor> factorInverse(const HessianView &hessian,
                                           const std::vector<int64_t> &order,
                                           double damping, int threads) {
  InverseFactor result;
  Result<std::pair<double, int>> done = factorDamped(
      hessian, order, damping, threads, [&](const Eigen::MatrixXd &factor) {
        return invertFactor(factor, result.values, threads);
      });
  if (!done.ok())
    return done.status();
  std::tie(result.damping, result.retries) = *done;
  return result;
}

//===----------------------------------------------------------------------===//
// Panels
//===----------------------------------------------------------------------===//

namespace {
/// Rows [firstRow, firstRow + rows) of a matrix; rows beyond are zero.
struct Panel {
  int64_t firstRow, rows;
  std::vector<float> values; // [k][panelRows]

  Panel(const MatrixView &matrix, int64_t index,
        const std::vector<int64_t> &order)
      : firstRow(index * panelRows),
        rows(std::min(panelRows, matrix.n - firstRow)),
        values(static_cast<size_t>(matrix.k * panelRows)) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    for (int64_t r = 0; r < rows; ++r) {
      loadRow(matrix, firstRow + r, 0, matrix.k, row.data());
      for (size_t i = 0; i < row.size(); ++i)
        values[i * panelRows + static_cast<size_t>(r)] =
            row[static_cast<size_t>(order[i])];
    }
  }

  float *at(int64_t column) { return values.data() + column * panelRows; }
};

/// Sum of the products of two arrays [k][panelRows], row by row and then over
/// rows, in float64.
double multiplyPanels(const float *a, const float *b, int64_t k) {
  double sums[panelRows] = {};
  for (int64_t i = 0; i < k; ++i)
    for (int64_t r = 0; r < panelRows; ++r)
      sums[r] += static_cast<double>(a[i * panelRows + r]) *
                 static_cast<double>(b[i * panelRows + r]);
  return std::accumulate(sums, sums + panelRows, 0.0);
}

int64_t getNumPanels(int64_t n) { return (n - 1) / panelRows + 1; }
} // namespace

OutputErrorMeter::OutputErrorMeter(const HessianView &hessian, int threads)
    : k(hessian.k) {
  ScaledHessian scaled(hessian, threads);
  exponent = scaled.exponent;
  upper = std::move(scaled.values);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      upper[static_cast<size_t>(i * k + j)] *= i < j   ? 2.0f
                                               : i > j ? 0.0f
                                                       : 1.0f;
}

double OutputErrorMeter::compute(const MatrixView &matrix,
                                 const float *approximation,
                                 int threads) const {
  std::vector<int64_t> order = identityOrder(k);
  MatrixView other{approximation, SourceType::F32, matrix.n, k};
  int64_t panels = getNumPanels(matrix.n);
  std::vector<double> parts(static_cast<size_t>(panels));
  parallelFor(panels, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> product;
    for (int64_t index = begin; index < end; ++index) {
      Panel panel(matrix, index, order);
      if (approximation) {
        Panel subtracted(other, index, order);
        for (size_t i = 0; i < panel.values.size(); ++i)
          panel.values[i] = subtracted.values[i] - panel.values[i];
      }
      product.assign(panel.values.size(), 0.0f);
      int64_t j = 0;
      for (; j + 4 <= k; j += 4)
        multiplyFour(upper.data() + j, k, j + 4, panel.values.data(),
                     product.data() + j * panelRows);
      // The last columns.
      for (; j < k; ++j) {
        subtractProduct(upper.data(), k, j + 1, j, j + 1, panel.values.data(),
                        product.data());
        for (int64_t r = 0; r < panelRows; ++r)
          product[static_cast<size_t>(j * panelRows + r)] *= -1.0f;
      }
      parts[static_cast<size_t>(index)] =
          multiplyPanels(panel.values.data(), product.data(), k);
    }
  });
  double sum = 0;
  for (double part : parts)
    sum += part;
  return std::ldexp(sum, exponent);
}

OutputError quant_llm::computeOutputError(const MatrixView &matrix,
                                          const float *approximation,
                                          const HessianView &hessian,
                                          int threads) {
  OutputErrorMeter meter(hessian, threads);
  return {meter.compute(matrix, approximation, threads),
          meter.compute(matrix, nullptr, threads)};
}

double quant_llm::getRelativeError(const OutputError &error) {
  if (!std::isfinite(error.error) || !std::isfinite(error.reference))
    return std::numeric_limits<double>::quiet_NaN();
  return error.reference > 0.0
             ? std::sqrt(std::max(0.0, error.error) / error.reference)
             : 0.0;
}

namespace {
/// What GPTQ and QuantEase share: the result that is being made, its grid, and
/// the columns' order.
class SecondOrder {
public:
  SecondOrder(const MatrixView &matrix, const Scheme &scheme,
              const HessianView &hessian, const std::string &tensorName,
              int threads, const QuantizedMatrix *start)
      : matrix(matrix), scheme(scheme), hessian(hessian),
        tensorName(tensorName), threads(threads), start(start) {}

  /// Checks the input, and rounds to nearest.
  Status begin(SecondOrderReport *to, bool measureErrors);
  Status runGPTQ(const GPTQOptions &options);
  Status runQuantEase(const QuantEaseOptions &options);
  Result<QuantizedMatrix> finish();

private:
  void runGPTQPanel(int64_t index, const InverseFactor &factor,
                    bool dynamicGroups, Status &status);
  Status chooseGroup(Panel &panel, int64_t column);
  void runQuantEasePanel(int64_t index, const std::vector<float> &symmetric,
                         const QuantEaseOptions &options);
  void storeCodes(const Panel &panel, const std::vector<uint8_t> &codes);
  /// The relative error of the outputs of what is stored now.
  Status measure(double &error);
  Status withName(const Status &status) const {
    return status.withContext("tensor '" + tensorName + "'");
  }

  const MatrixView &matrix;
  const Scheme &scheme;
  const HessianView &hessian;
  const std::string &tensorName;
  int threads;
  const QuantizedMatrix *start;
  SecondOrderReport *report = nullptr;
  QuantizedMatrix stored;
  std::optional<Grid> grid;
  std::optional<OutputErrorMeter> meter;
  /// tr(W H W^T), for the report.
  double reference = 0;
  std::vector<int64_t> order;
};
} // namespace

Status SecondOrder::begin(SecondOrderReport *to, bool measureErrors) {
  report = to;
  Status status = verifyHessian(hessian, matrix.k, tensorName);
  if (start) {
    if (status.ok())
      status = verifyFinite(matrix, tensorName, threads);
    if (status.ok() && (start->n != matrix.n || start->k != matrix.k))
      status = withName(Status::error("expected a start of its own shape"));
    if (!status.ok())
      return status;
    stored = *start;
  } else {
    Result<QuantizedMatrix> nearest =
        quantize(matrix, scheme, tensorName, threads);
    if (!nearest.ok())
      return nearest.status();
    if (!status.ok())
      return status;
    stored = nearest.take();
  }
  Result<Grid> read = Grid::get(stored.view(), scheme);
  if (!read.ok())
    return withName(read.status());
  grid.emplace(read.take());
  order = identityOrder(matrix.k);
  if (!report)
    return Status::success();
  *report = SecondOrderReport();
  for (int64_t i = 0; i < matrix.k; ++i)
    report->deadColumns += hessian.at(i, i) == 0.0f;
  if (!measureErrors)
    return Status::success();
  meter.emplace(hessian, threads);
  reference = meter->compute(matrix, nullptr, threads);
  return measure(report->nearestError);
}

Status SecondOrder::measure(double &error) {
  std::vector<float> values(static_cast<size_t>(matrix.n * matrix.k));
  Status status = dequantize(stored, scheme, values.data(), threads);
  if (!status.ok())
    return withName(status);
  error = getRelativeError(
      {meter->compute(matrix, values.data(), threads), reference});
  return Status::success();
}

Result<QuantizedMatrix> SecondOrder::finish() {
  if (meter)
    if (Status status = measure(report->error); !status.ok())
      return status;
  return std::move(stored);
}

/// Packs codes [k][panelRows], columns in `order`.
void SecondOrder::storeCodes(const Panel &panel,
                             const std::vector<uint8_t> &codes) {
  int64_t rowBytes = packedRowBytes(matrix.k, scheme.element.bits);
  std::vector<uint8_t> row(static_cast<size_t>(matrix.k));
  for (int64_t r = 0; r < panel.rows; ++r) {
    for (size_t i = 0; i < row.size(); ++i)
      row[static_cast<size_t>(order[i])] =
          codes[i * panelRows + static_cast<size_t>(r)];
    packRow(row.data(), matrix.k, scheme.element.bits,
            stored.codes.data() + (panel.firstRow + r) * rowBytes);
  }
}

//===----------------------------------------------------------------------===//
// GPTQ
//===----------------------------------------------------------------------===//

/// Scales and zeros of the group that begins at `column`, from the panel as it
/// is now.
Status SecondOrder::chooseGroup(Panel &panel, int64_t column) {
  const BlockGrid &blocks = grid->blocks();
  int64_t width = std::min(blocks.blockK, matrix.k - column);
  std::vector<float> values(static_cast<size_t>(panel.rows * width));
  for (int64_t i = 0; i < width; ++i)
    for (int64_t r = 0; r < panel.rows; ++r)
      values[static_cast<size_t>(r * width + i)] = panel.at(column + i)[r];
  Scheme group = scheme;
  group.blockK = -1;
  Result<QuantizedMatrix> result =
      quantize({values.data(), SourceType::F32, panel.rows, width}, group,
               tensorName, /*threads=*/1);
  if (!result.ok())
    return Status::error("tensor '" + tensorName +
                         "': the errors that GPTQ spreads have grown out of "
                         "bounds; use a higher damping or static groups");
  Result<Grid> chosen = Grid::get(result->view(), group);
  if (!chosen.ok())
    return chosen.status();
  size_t scaleBytes = floatTypeBytes(scheme.scaleType);
  size_t zeroBytes =
      stored.zeros.size() / static_cast<size_t>(blocks.gridN * blocks.gridK);
  for (int64_t i = 0; i < chosen->blocks().gridN; ++i) {
    int64_t cell = (panel.firstRow / blocks.blockN + i) * blocks.gridK +
                   column / blocks.blockK;
    auto to = static_cast<size_t>(cell), from = static_cast<size_t>(i);
    std::memcpy(stored.scales.data() + to * scaleBytes,
                result->scales.data() + from * scaleBytes, scaleBytes);
    if (zeroBytes)
      std::memcpy(stored.zeros.data() + to * zeroBytes,
                  result->zeros.data() + from * zeroBytes, zeroBytes);
    grid->set(cell, chosen->getScale(i), chosen->getZero(i));
  }
  return Status::success();
}

void SecondOrder::runGPTQPanel(int64_t index, const InverseFactor &factor,
                               bool dynamicGroups, Status &status) {
  int64_t k = matrix.k;
  Panel panel(matrix, index, order);
  std::vector<uint8_t> codes(static_cast<size_t>(k * panelRows));
  std::vector<float> errors(static_cast<size_t>(blockColumns * panelRows));
  // A group has to be seen as a whole, with all errors spread, where it begins.
  int64_t group = grid->blocks().blockK;
  int64_t groupBlock = blockColumns / std::min(group, blockColumns) * group;
  for (int64_t begin = 0; begin < k;) {
    int64_t end = begin + blockColumns;
    if (dynamicGroups)
      end = group < blockColumns ? begin + groupBlock
                                 : std::min(end, begin / group * group + group);
    end = std::min(end, k);
    for (int64_t i = begin; i < end; ++i) {
      int64_t column = order[static_cast<size_t>(i)];
      if (dynamicGroups && column % group == 0) {
        status = chooseGroup(panel, column);
        if (!status.ok())
          return;
      }
      const float *row = factor.values.data() + i * k;
      float *error = errors.data() + (i - begin) * panelRows;
      for (int64_t r = 0; r < panel.rows; ++r) {
        float weight = panel.at(i)[r];
        Grid::Rounded rounded = grid->round(panel.firstRow + r, column, weight);
        codes[static_cast<size_t>(i * panelRows + r)] = rounded.code;
        error[r] = (weight - rounded.value) / row[i];
      }
      std::fill(error + panel.rows, error + panelRows, 0.0f);
      subtractOuter(row, i + 1, end, error, panel.values.data());
    }
    subtractProduct(factor.values.data() + begin * k, k, end - begin, end, k,
                    errors.data(), panel.values.data());
    begin = end;
  }
  storeCodes(panel, codes);
}

Status quant_llm::verifyDamping(double damping) {
  if (damping >= 0.0 && damping <= kMostDamping)
    return Status::success();
  return Status::error("expected a damping from 0 to 1000000 but got " +
                       std::to_string(damping));
}

Status SecondOrder::runGPTQ(const GPTQOptions &options) {
  if (Status status = verifyDamping(options.damping); !status.ok())
    return withName(status);
  order = getColumnOrder(hessian, options.actOrder);
  Result<InverseFactor> factor =
      factorInverse(hessian, order, options.damping, threads);
  if (!factor.ok())
    return withName(factor.status());
  if (report) {
    report->damping = factor->damping;
    report->dampingRetries = factor->retries;
  }
  bool dynamicGroups = !start && !options.actOrder && !options.staticGroups &&
                       !scheme.scaleScheme && grid->blocks().blockN == 1;
  int64_t panels = getNumPanels(matrix.n);
  std::vector<Status> statuses(static_cast<size_t>(panels));
  parallelFor(panels, threads, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index)
      runGPTQPanel(index, *factor, dynamicGroups,
                   statuses[static_cast<size_t>(index)]);
  });
  order = identityOrder(matrix.k);
  for (const Status &status : statuses)
    if (!status.ok())
      return status;
  return Status::success();
}

//===----------------------------------------------------------------------===//
// QuantEase
//===----------------------------------------------------------------------===//

/// Keeps D = Q - W and its product G = D H up to date, by blocks of columns.
void SecondOrder::runQuantEasePanel(int64_t index,
                                    const std::vector<float> &symmetric,
                                    const QuantEaseOptions &options) {
  int64_t k = matrix.k;
  auto size = static_cast<size_t>(k * panelRows);
  Panel weights(matrix, index, order);
  std::vector<uint8_t> codes(size);
  std::vector<float> values(size), products(size), changes(size);
  int64_t rowBytes = packedRowBytes(k, scheme.element.bits);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t r = 0; r < weights.rows; ++r) {
      auto at = static_cast<size_t>(i * panelRows + r);
      unsigned code =
          packedCode(stored.codes.data() + (weights.firstRow + r) * rowBytes, i,
                     scheme.element.bits);
      codes[at] = static_cast<uint8_t>(code);
      values[at] = grid->decode(weights.firstRow + r, i, code);
      changes[at] = weights.values[at] - values[at];
    }
  // G = D H; the changes of a block are the negative of what is added to D.
  subtractProduct(symmetric.data(), k, k, 0, k, changes.data(),
                  products.data());
  for (int sweep = 0; sweep < options.sweeps; ++sweep) {
    bool last = sweep + 1 == options.sweeps;
    bool relaxed = options.relax && !last && sweep % 3 == 1 && sweep <= 25;
    for (int64_t begin = 0; begin < k; begin += blockColumns) {
      int64_t end = std::min(begin + blockColumns, k);
      for (int64_t j = begin; j < end; ++j) {
        const float *row = symmetric.data() + j * k;
        float *change = changes.data() + (j - begin) * panelRows;
        std::fill(change, change + panelRows, 0.0f);
        if (row[j] <= 0.0f)
          continue;
        for (int64_t r = 0; r < weights.rows; ++r) {
          auto at = static_cast<size_t>(j * panelRows + r);
          float wanted = values[at] - products[at] / row[j];
          float chosen = wanted;
          if (!relaxed) {
            Grid::Rounded rounded =
                grid->round(weights.firstRow + r, j, wanted);
            codes[at] = rounded.code;
            chosen = rounded.value;
          }
          change[r] = values[at] - chosen;
          values[at] = chosen;
        }
        subtractOuter(row, begin, end, change, products.data());
      }
      const float *rows = symmetric.data() + begin * k;
      subtractProduct(rows, k, end - begin, 0, begin, changes.data(),
                      products.data());
      subtractProduct(rows, k, end - begin, end, k, changes.data(),
                      products.data());
    }
  }
  storeCodes(weights, codes);
}

Status SecondOrder::runQuantEase(const QuantEaseOptions &options) {
  if (options.sweeps < 1)
    return withName(Status::error("expected at least one sweep but got " +
                                  std::to_string(options.sweeps)));
  if (options.startFromGPTQ) {
    Status status = runGPTQ(options.gptq);
    if (!status.ok())
      return status;
  }
  ScaledHessian symmetric(hessian, threads);
  parallelFor(getNumPanels(matrix.n), threads, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index)
      runQuantEasePanel(index, symmetric.values, options);
  });
  return Status::success();
}

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

Result<std::vector<double>>
quant_llm::getConditionalMoments(const HessianView &hessian,
                                 const GPTQOptions &options,
                                 const std::string &tensorName, int threads) {
  Status status = verifyHessian(hessian, hessian.k, tensorName);
  if (status.ok())
    status = verifyDamping(options.damping)
                 .withContext("tensor '" + tensorName + "'");
  if (!status.ok())
    return status;
  std::vector<int64_t> order = getColumnOrder(hessian, options.actOrder);
  Result<InverseFactor> factor =
      factorInverse(hessian, order, options.damping, threads);
  if (!factor.ok())
    return factor.status().withContext("tensor '" + tensorName + "'");
  const auto k = static_cast<size_t>(hessian.k);
  std::vector<double> moments(k);
  for (size_t i = 0; i < k; ++i) {
    // Dead inputs have something on their diagonal only to be factored.
    if (hessian.at(order[i], order[i]) == 0.0f)
      continue;
    double diagonal = factor->values[i * k + i];
    moments[static_cast<size_t>(order[i])] = 1.0 / (diagonal * diagonal);
  }
  return moments;
}

Result<std::vector<float>>
quant_llm::correctForDrift(const MatrixView &matrix, const HessianView &hessian,
                           const Drift &drift, double damping,
                           const std::string &tensorName, int threads,
                           DriftReport *report) {
  const std::string where = "tensor '" + tensorName + "'";
  Status status = verifyHessian(hessian, matrix.k, tensorName);
  for (double strength : {drift.inputStrength, drift.residualStrength})
    if (status.ok() && !(strength >= 0.0 && strength <= 1.0))
      status = Status::error("expected a strength from 0 to 1 but got " +
                             std::to_string(strength))
                   .withContext(where);
  if (status.ok())
    status = verifyDamping(damping).withContext(where);
  if (status.ok())
    status = verifyFinite(matrix, tensorName, threads);
  const int64_t n = matrix.n, k = matrix.k;
  auto verifyDrift = [&](const float *values, int64_t rows, const char *name) {
    if (!values || !status.ok())
      return;
    const float *end = values + rows * k;
    const float *bad = std::find_if_not(
        values, end, [](float value) { return std::isfinite(value); });
    if (bad != end)
      status = Status::error(std::string("expected a finite ") + name +
                             " but got " + std::to_string(*bad) + " at [" +
                             std::to_string((bad - values) / k) + ", " +
                             std::to_string((bad - values) % k) +
                             "]; measure it again")
                   .withContext(where);
  };
  verifyDrift(drift.inputs, k, "drift");
  verifyDrift(drift.residual, n, "residual drift");
  if (!status.ok())
    return status;

  using Values =
      Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  std::vector<float> corrected(static_cast<size_t>(n * k));
  // Wider than panels, as products with the whole drift, and the same for any
  // number of threads.
  constexpr int64_t most = 64;
  const int64_t parts = (n - 1) / most + 1;
  std::vector<std::pair<double, double>> norms(static_cast<size_t>(parts));
  Result<std::pair<double, int>> done = factorDamped(
      hessian, identityOrder(k), damping, threads,
      [&](const Eigen::MatrixXd &factor) {
        Eigen::MatrixXd ofInputs;
        if (drift.inputs)
          ofInputs =
              drift.inputStrength * Eigen::Map<const Values>(drift.inputs, k, k)
                                        .transpose()
                                        .cast<double>();
        parallelFor(parts, threads, [&](int64_t begin, int64_t end) {
          for (int64_t part = begin; part < end; ++part) {
            int64_t first = part * most;
            int64_t rows = std::min(most, n - first);
            Values weight(rows, k);
            for (int64_t row = 0; row < rows; ++row)
              loadRow(matrix, first + row, 0, k, weight.row(row).data());
            Eigen::MatrixXd wanted = Eigen::MatrixXd::Zero(k, rows);
            if (drift.inputs)
              wanted = ofInputs * weight.transpose().cast<double>();
            if (drift.residual)
              wanted +=
                  drift.residualStrength *
                  Eigen::Map<const Values>(drift.residual + first * k, rows, k)
                      .transpose()
                      .cast<double>();
            // The factor is of H with its rows and columns reversed.
            Eigen::MatrixXd added = wanted.colwise().reverse();
            factor.triangularView<Eigen::Lower>().solveInPlace(added);
            factor.transpose().triangularView<Eigen::Upper>().solveInPlace(
                added);
            double original = 0, changed = 0;
            for (int64_t row = 0; row < rows; ++row)
              for (int64_t i = 0; i < k; ++i) {
                double value = weight(row, i);
                double difference = added(k - 1 - i, row);
                original += value * value;
                changed += difference * difference;
                corrected[static_cast<size_t>((first + row) * k + i)] =
                    static_cast<float>(value + difference);
              }
            norms[static_cast<size_t>(part)] = {original, changed};
          }
        });
        return true;
      });
  if (!done.ok())
    return done.status().withContext(where);
  if (!std::all_of(corrected.begin(), corrected.end(),
                   [](float value) { return std::isfinite(value); }))
    return Status::error("what the drift asks for is too large for binary32; "
                         "measure it again, or give more damping")
        .withContext(where);
  double original = 0, changed = 0;
  for (auto [of, by] : norms) {
    original += of;
    changed += by;
  }
  if (report)
    *report = {original > 0 ? std::sqrt(changed / original) : 0.0, done->first,
               done->second};
  return corrected;
}

Result<QuantizedMatrix> quant_llm::quantizeGPTQ(
    const MatrixView &matrix, const Scheme &scheme, const HessianView &hessian,
    const GPTQOptions &options, const std::string &tensorName, int threads,
    SecondOrderReport *report, const QuantizedMatrix *start) {
  SecondOrder method(matrix, scheme, hessian, tensorName, threads, start);
  Status status = method.begin(report, options.measureErrors);
  if (status.ok())
    status = method.runGPTQ(options);
  if (!status.ok())
    return status;
  return method.finish();
}

Result<QuantizedMatrix> quant_llm::quantizeQuantEase(
    const MatrixView &matrix, const Scheme &scheme, const HessianView &hessian,
    const QuantEaseOptions &options, const std::string &tensorName, int threads,
    SecondOrderReport *report, const QuantizedMatrix *start) {
  SecondOrder method(matrix, scheme, hessian, tensorName, threads, start);
  Status status = method.begin(report, options.gptq.measureErrors);
  if (status.ok())
    status = method.runQuantEase(options);
  if (!status.ok())
    return status;
  return method.finish();
}
