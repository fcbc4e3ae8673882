//===- LowRankTest.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/LowRank.h"

#include "quant-llm/Numerics/Float.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {
using Values = std::vector<double>;

struct Problem {
  int64_t n, k;
  std::vector<float> weights;

  Problem(int64_t n, int64_t k, unsigned seed = 1)
      : n(n), k(k), weights(static_cast<size_t>(n * k)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float &weight : weights)
      weight = 0.05f * normal(random);
  }
  MatrixView view() const { return {weights.data(), SourceType::F32, n, k}; }

  /// W - W_q of stored codes, with their low-rank part or without.
  Values getError(const QuantizedMatrix &stored, const Scheme &scheme) const {
    std::vector<float> values(weights.size());
    EXPECT_TRUE(dequantize(stored, scheme, values.data(), 1).ok());
    Values error(weights.size());
    for (size_t i = 0; i < error.size(); ++i)
      error[i] = double(weights[i]) - double(values[i]);
    return error;
  }
};

Scheme getScheme(int64_t rank, FloatType type = FloatType::F32) {
  Scheme scheme;
  scheme.element.bits = 3;
  scheme.blockK = 32;
  scheme.lowRank = rank;
  scheme.lowRankType = type;
  return scheme;
}

Scheme withoutLowRank(Scheme scheme) {
  scheme.lowRank = 0;
  return scheme;
}

QuantizedMatrix quantizeCodes(const Problem &problem, const Scheme &scheme) {
  Result<QuantizedMatrix> stored =
      quantize(problem.view(), withoutLowRank(scheme), "w", 1);
  EXPECT_TRUE(stored.ok());
  return stored.take();
}

/// tr(E H E^T); without H that of the identity.
double getObjective(const Values &error, int64_t k,
                    const std::vector<float> &hessian = {}) {
  double sum = 0;
  auto width = static_cast<size_t>(k);
  for (size_t row = 0; row < error.size() / width; ++row)
    for (size_t i = 0; i < width; ++i)
      for (size_t j = 0; j < width; ++j)
        if (hessian.empty() ? i == j : true)
          sum += error[row * width + i] * error[row * width + j] *
                 (hessian.empty() ? 1.0 : double(hessian[i * width + j]));
  return sum;
}

/// The eigenvalues of a symmetric matrix in falling order, by Jacobi's method.
Values getEigenvalues(Values a, size_t size) {
  for (int sweep = 0; sweep < 30; ++sweep)
    for (size_t p = 0; p < size; ++p)
      for (size_t q = p + 1; q < size; ++q) {
        double apq = a[p * size + q];
        if (apq == 0)
          continue;
        double theta = (a[q * size + q] - a[p * size + p]) / (2 * apq);
        double t = (theta >= 0 ? 1 : -1) /
                   (std::fabs(theta) + std::sqrt(theta * theta + 1));
        double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (size_t i = 0; i < size; ++i) {
          double x = a[i * size + p], y = a[i * size + q];
          a[i * size + p] = c * x - s * y;
          a[i * size + q] = s * x + c * y;
        }
        for (size_t i = 0; i < size; ++i) {
          double x = a[p * size + i], y = a[q * size + i];
          a[p * size + i] = c * x - s * y;
          a[q * size + i] = s * x + c * y;
        }
      }
  Values values;
  for (size_t i = 0; i < size; ++i)
    values.push_back(a[i * size + i]);
  std::sort(values.rbegin(), values.rend());
  return values;
}

/// The least |E - A B|^2 for a rank: what is left of the singular values.
double getBest(const Values &error, int64_t n, int64_t k, int64_t rank) {
  auto rows = static_cast<size_t>(n), columns = static_cast<size_t>(k);
  Values gram(rows * rows);
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < rows; ++j)
      for (size_t c = 0; c < columns; ++c)
        gram[i * rows + j] += error[i * columns + c] * error[j * columns + c];
  Values values = getEigenvalues(gram, rows);
  double sum = 0;
  for (size_t i = static_cast<size_t>(rank); i < rows; ++i)
    sum += values[i];
  return sum;
}
} // namespace

TEST(LowRankTest, BestOfSmallMatrices) {
  for (auto [n, k, rank] : {std::array<int64_t, 3>{12, 40, 1},
                            {12, 40, 5},
                            {40, 12, 5},
                            {9, 9, 9},
                            {1, 33, 1},
                            {33, 1, 1}}) {
    Problem problem(n, k);
    Scheme scheme = getScheme(rank);
    QuantizedMatrix stored = quantizeCodes(problem, scheme);
    double best =
        getBest(problem.getError(stored, withoutLowRank(scheme)), n, k, rank);
    double all =
        getObjective(problem.getError(stored, withoutLowRank(scheme)), k);
    LowRankReport report;
    ASSERT_TRUE(addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1,
                           stored, &report)
                    .ok());
    double error = getObjective(problem.getError(stored, scheme), k);
    EXPECT_NEAR(error, best, 1e-6 * all) << n << "x" << k << " " << rank;
    EXPECT_NEAR(report.remainingError, std::sqrt(error / all), 1e-3);
  }
}

// Errors of rounding have no gaps between their singular values, the hardest
// case for a Krylov space.
TEST(LowRankTest, NearlyBestOfLargeMatrices) {
  Problem problem(200, 300);
  for (int64_t rank : {1, 8}) {
    Scheme scheme = getScheme(rank);
    QuantizedMatrix stored = quantizeCodes(problem, scheme);
    Values error = problem.getError(stored, withoutLowRank(scheme));
    double all = getObjective(error, 300);
    double best = getBest(error, 200, 300, rank);
    ASSERT_TRUE(
        addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, stored).ok());
    double mended = all - getObjective(problem.getError(stored, scheme), 300);
    EXPECT_GT(mended, 0.995 * (all - best)) << rank;
    EXPECT_LE(mended, 1.0001 * (all - best)) << rank;
  }
}

TEST(LowRankTest, TypesOfFactors) {
  Problem problem(48, 96);
  double before = 0;
  for (FloatType type : {FloatType::F32, FloatType::F16, FloatType::BF16}) {
    Scheme scheme = getScheme(4, type);
    QuantizedMatrix stored = quantizeCodes(problem, scheme);
    ASSERT_TRUE(
        addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, stored).ok());
    EXPECT_EQ(stored.lowRankA.size(), 48 * 4 * floatTypeBytes(type));
    EXPECT_EQ(stored.lowRankB.size(), 96 * 4 * floatTypeBytes(type));
    double error = getObjective(problem.getError(stored, scheme), 96);
    if (before != 0) {
      EXPECT_NEAR(error, before, 0.01 * before);
    } else {
      before = error;
    }
  }
}

// A product of matrices that have the rank is found again, whatever the codes.
TEST(LowRankTest, ExactOnItsOwnKind) {
  Problem problem(400, 333, 2), a(400, 3, 3), b(3, 333, 4);
  Scheme scheme = getScheme(3);
  QuantizedMatrix stored = quantizeCodes(problem, scheme);
  std::vector<float> values(problem.weights.size());
  ASSERT_TRUE(
      dequantize(stored, withoutLowRank(scheme), values.data(), 1).ok());
  for (size_t i = 0; i < 400; ++i)
    for (size_t j = 0; j < 333; ++j) {
      double sum = values[i * 333 + j];
      for (size_t r = 0; r < 3; ++r)
        sum += double(a.weights[i * 3 + r]) * double(b.weights[r * 333 + j]);
      problem.weights[i * 333 + j] = static_cast<float>(sum);
    }
  LowRankReport report;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, stored, &report)
          .ok());
  EXPECT_LT(report.remainingError, 1e-5);
}

TEST(LowRankTest, HessianWeighsTheError) {
  Problem problem(40, 64);
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::vector<double> size(64);
  for (double &value : size)
    value = std::exp(1.5 * normal(random));
  std::vector<double> sum(64 * 64);
  for (int token = 0; token < 256; ++token) {
    std::vector<double> x(64);
    double common = normal(random);
    for (size_t i = 0; i < 64; ++i)
      x[i] = size[i] * (normal(random) + common);
    for (size_t i = 0; i < 64; ++i)
      for (size_t j = 0; j < 64; ++j)
        sum[i * 64 + j] += x[i] * x[j];
  }
  std::vector<float> hessian(sum.begin(), sum.end());
  HessianView view{hessian.data(), 64};
  Scheme scheme = getScheme(4);
  QuantizedMatrix plain = quantizeCodes(problem, scheme), weighted = plain;
  double all = getObjective(problem.getError(plain, withoutLowRank(scheme)), 64,
                            hessian);
  LowRankReport report;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, nullptr, 0.0, "w", 1, plain).ok());
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, &view, 0.0, "w", 1, weighted, &report)
          .ok());
  double error = getObjective(problem.getError(weighted, scheme), 64, hessian);
  EXPECT_LT(error,
            0.5 * getObjective(problem.getError(plain, scheme), 64, hessian));
  EXPECT_NEAR(report.remainingError, std::sqrt(error / all), 1e-3);
  EXPECT_EQ(report.damping, 0.0);

  // The scale of H does not matter.
  for (float &value : hessian)
    value *= 1024;
  QuantizedMatrix again = weighted;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, &view, 0.0, "w", 1, again).ok());
  EXPECT_EQ(again.lowRankA, weighted.lowRankA);
  EXPECT_EQ(again.lowRankB, weighted.lowRankB);
}

TEST(LowRankTest, SingularHessianIsDamped) {
  Problem problem(16, 32);
  std::vector<float> hessian(32 * 32, 1.0f);
  for (size_t i = 0; i < 32; ++i)
    hessian[i * 32 + 7] = hessian[7 * 32 + i] = 0;
  HessianView view{hessian.data(), 32};
  Scheme scheme = getScheme(2);
  QuantizedMatrix stored = quantizeCodes(problem, scheme);
  LowRankReport report;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, &view, 0.0, "w", 1, stored, &report)
          .ok());
  EXPECT_EQ(report.damping, 0.01);
  for (double value : problem.getError(stored, scheme))
    EXPECT_TRUE(std::isfinite(value));

  std::fill(hessian.begin(), hessian.end(), 0.0f);
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, &view, 0.01, "w", 1, stored, &report)
          .ok());
  hessian[33] = -1;
  EXPECT_FALSE(
      addLowRank(problem.view(), scheme, &view, 0.01, "w", 1, stored).ok());
}

TEST(LowRankTest, NothingToMend) {
  Problem problem(200, 210);
  std::fill(problem.weights.begin(), problem.weights.end(), 0.0f);
  Scheme scheme = getScheme(2, FloatType::F16);
  QuantizedMatrix stored = quantizeCodes(problem, scheme);
  LowRankReport report;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, stored, &report)
          .ok());
  EXPECT_EQ(report.remainingError, 0.0);
  EXPECT_EQ(stored.lowRankA, std::vector<uint8_t>(200 * 2 * 2));
}

TEST(LowRankTest, ThreadsDoNotMatter) {
  Problem problem(150, 300);
  Scheme scheme = getScheme(4, FloatType::F16);
  QuantizedMatrix one = quantizeCodes(problem, scheme), four = one;
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, one).ok());
  ASSERT_TRUE(
      addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 4, four).ok());
  EXPECT_EQ(one.lowRankA, four.lowRankA);
  EXPECT_EQ(one.lowRankB, four.lowRankB);
}

TEST(LowRankTest, Errors) {
  Problem problem(8, 16);
  Scheme scheme = getScheme(2);
  QuantizedMatrix stored = quantizeCodes(problem, scheme);
  auto message = [&](const Scheme &scheme) {
    return addLowRank(problem.view(), scheme, nullptr, 0.01, "w", 1, stored)
        .message();
  };
  EXPECT_EQ(message(getScheme(9)),
            "tensor 'w': expected the rank of low_rank to be at most 8 for a "
            "8x16 weight but got 9");
  EXPECT_EQ(message(getScheme(0)),
            "tensor 'w': expected a scheme with low_rank");
  EXPECT_EQ(message(getScheme(1, FloatType::F8E4M3FN)),
            "tensor 'w': expected low_rank of type f16, bf16 or f32 but got "
            "f8E4M3FN");
  EXPECT_EQ(quantize(problem.view(), scheme, "w", 1).message(),
            "tensor 'w': expected a scheme without low_rank");
  std::vector<float> hessian(15 * 15);
  HessianView view{hessian.data(), 15};
  EXPECT_FALSE(
      addLowRank(problem.view(), scheme, &view, 0.01, "w", 1, stored).ok());
  for (double damping : {-1.0, 2e6, std::nan("")})
    EXPECT_EQ(
        addLowRank(problem.view(), scheme, nullptr, damping, "w", 1, stored)
            .message()
            .substr(0, 53),
        "tensor 'w': expected a damping from 0 to 1000000 but ");
  problem.weights[20] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message(scheme).substr(0, 38),
            "tensor 'w' has nan at row 1, column 4;");
}
