//===- ClipSearchTest.cpp -------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/ClipSearch.h"

#include "quant-llm/Methods/Grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {

/// Weights with outliers, and what makes them matter.
struct Problem {
  int64_t n, k;
  std::vector<float> weights, columns, elements, hessian;

  Problem(int64_t n, int64_t k, unsigned seed) : n(n), k(k) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    auto count = static_cast<size_t>(n * k), width = static_cast<size_t>(k);
    for (size_t i = 0; i < count; ++i) {
      float value = normal(random);
      weights.push_back(value * value * value);
      elements.push_back(std::exp(2 * normal(random)));
    }
    std::vector<float> x(3 * count);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = normal(random) + (i % width ? x[i - 1] : 0.0f);
    size_t tokens = x.size() / width;
    for (size_t i = 0; i < width; ++i)
      for (size_t j = 0; j < width; ++j) {
        float sum = 0;
        for (size_t t = 0; t < tokens; ++t)
          sum += x[t * width + i] * x[t * width + j];
        hessian.push_back(sum / static_cast<float>(tokens));
      }
    for (size_t i = 0; i < width; ++i)
      columns.push_back(hessian[i * width + i]);
  }

  MatrixView view() const { return {weights.data(), SourceType::F32, n, k}; }

  /// The error of the elements in rows [row, row + rows) and columns [column,
  /// column + count) by the definitions.
  double getError(const std::vector<float> &values, char kind, int64_t row,
                  int64_t rows, int64_t column, int64_t count) const {
    double sum = 0;
    auto at = [&](int64_t r, int64_t i) {
      auto index = static_cast<size_t>(r * k + i);
      return static_cast<double>(values[index]) - weights[index];
    };
    for (int64_t r = row; r < row + rows; ++r)
      for (int64_t i = column; i < column + count; ++i)
        switch (kind) {
        case 'c':
          sum += columns[static_cast<size_t>(i)] * at(r, i) * at(r, i);
          break;
        case 'e':
          sum += elements[static_cast<size_t>(r * k + i)] * at(r, i) * at(r, i);
          break;
        default:
          for (int64_t j = column; j < column + count; ++j)
            sum +=
                hessian[static_cast<size_t>(i * k + j)] * at(r, i) * at(r, j);
        }
    return sum;
  }

  ClipImportance getImportance(char kind) const {
    ClipImportance importance;
    if (kind == 'c')
      importance.columns = columns.data();
    else if (kind == 'e')
      importance.elements = elements.data();
    else
      importance.hessian = {hessian.data(), k};
    return importance;
  }
};

Scheme parse(const std::string &text) {
  Result<Scheme> scheme = parseScheme(text);
  EXPECT_TRUE(scheme.ok()) << text << ": " << scheme.message();
  return *scheme;
}

std::vector<float> getValues(const QuantizedMatrix &stored,
                             const Scheme &scheme) {
  std::vector<float> values(static_cast<size_t>(stored.n * stored.k));
  EXPECT_TRUE(dequantize(stored, scheme, values.data(), 1).ok());
  return values;
}

/// Scheme without rule, its rule, kind of importance, whether the ends of a
/// range are shrunk apart.
using Parameters = std::tuple<const char *, const char *, char, bool>;
class Clip : public testing::TestWithParam<Parameters> {};

TEST_P(Clip, EveryBlockHasTheBestRange) {
  auto [start, rule, kind, eachEnd] = GetParam();
  Scheme scheme = parse(std::string(start) + rule + ", rounding = half_even");
  // Ragged blocks.
  Problem problem(37, 40, 5);
  ClipOptions options;
  options.grid = 12;
  options.eachEnd = eachEnd;
  Result<QuantizedMatrix> found = quantizeClipped(
      problem.view(), scheme, problem.getImportance(kind), options, "w", 1);
  ASSERT_TRUE(found.ok()) << found.message();
  std::vector<float> values = getValues(*found, scheme);

  // A block on its own, clamped to each range: codes of the original.
  BlockGrid blocks = getBlockGrid(scheme, problem.n, problem.k);
  Scheme base = scheme;
  if (base.rule == ScaleRule::Mse)
    base.rule =
        base.zero == ZeroKind::None ? ScaleRule::AbsMax : ScaleRule::MinMax;
  int clipped = 0, apart = 0;
  for (int64_t row = 0; row < problem.n; row += blocks.blockN)
    for (int64_t column = 0; column < problem.k; column += blocks.blockK) {
      int64_t rows = std::min(blocks.blockN, problem.n - row);
      int64_t count = std::min(blocks.blockK, problem.k - column);
      std::vector<float> block;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < count; ++i)
          block.push_back(problem.weights[static_cast<size_t>(
              (row + r) * problem.k + column + i)]);
      auto [least, most] = std::minmax_element(block.begin(), block.end());
      float low = *least, high = *most;
      if (scheme.zero != ZeroKind::Float) {
        low = std::min(low, 0.0f);
        high = std::max(high, 0.0f);
      }
      if (scheme.zero == ZeroKind::None)
        low = -(high = std::max(high, -low));
      double best = HUGE_VAL;
      float bestLow = 1, bestHigh = 1;
      auto tryRange = [&](float ofLow, float ofHigh) {
        float middle = scheme.zero == ZeroKind::Float ? (low + high) / 2 : 0;
        std::vector<float> clamped = block;
        if (ofLow != 1 || ofHigh != 1)
          for (float &value : clamped)
            value = std::clamp(value, middle + (low - middle) * ofLow,
                               middle + (high - middle) * ofHigh);
        Scheme whole = base;
        whole.blockN = whole.blockK = -1;
        Result<QuantizedMatrix> stored = quantize(
            {clamped.data(), SourceType::F32, rows, count}, whole, "b", 1);
        ASSERT_TRUE(stored.ok());
        Result<Grid> grid = Grid::get(stored->view(), whole);
        ASSERT_TRUE(grid.ok());
        std::vector<float> tried = problem.weights;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t j = 0; j < count; ++j) {
            auto index =
                static_cast<size_t>((row + r) * problem.k + column + j);
            tried[index] = grid->round(r, j, problem.weights[index]).value;
          }
        double error = problem.getError(tried, kind, row, rows, column, count);
        if (error < best) {
          best = error;
          bestLow = ofLow;
          bestHigh = ofHigh;
        }
      };
      auto forEachRatio = [](auto body) {
        for (int i = 0; i < 6; ++i) // c > 1/2
          body(static_cast<float>(1.0 - i / 12.0));
      };
      forEachRatio([&](float c) { tryRange(c, c); });
      if (eachEnd && scheme.zero != ZeroKind::None) {
        float other = bestHigh;
        forEachRatio([&](float c) { tryRange(c, other); });
        other = bestLow;
        forEachRatio([&](float c) { tryRange(other, c); });
      }
      clipped += bestLow != 1 || bestHigh != 1;
      apart += bestLow != bestHigh;
      double error = problem.getError(values, kind, row, rows, column, count);
      EXPECT_NEAR(error, best, 1e-4 * best + 1e-9)
          << "block at " << row << ", " << column;
    }
  EXPECT_GT(clipped, 0);
  EXPECT_EQ(apart > 0, eachEnd && scheme.zero != ZeroKind::None);
  // Any number of threads.
  Result<QuantizedMatrix> again = quantizeClipped(
      problem.view(), scheme, problem.getImportance(kind), options, "w", 3);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->codes, found->codes);
  EXPECT_EQ(again->scales, found->scales);
  EXPECT_EQ(again->zeros, found->zeros);
}

INSTANTIATE_TEST_SUITE_P(
    Schemes, Clip,
    testing::Combine(
        testing::Values("uint3, block = [1, 16], scale = f16, zero = int",
                        "uint4, block = [5, 16], scale = f32, zero = f16",
                        "uint2, block = [1, -1], scale = bf16, zero = int"),
        testing::Values(", rule = minmax", ", rule = mse"),
        testing::Values('c', 'e', 'h'), testing::Bool()));
INSTANTIATE_TEST_SUITE_P(
    Symmetric, Clip,
    testing::Combine(testing::Values("int3, block = [1, 16], scale = f16",
                                     "int4, block = [40, 8], scale = f16"),
                     testing::Values(", rule = absmax", ", rule = absmax_full",
                                     ", rule = mse"),
                     testing::Values('c', 'h'), testing::Bool()));

// What is measured for a range is what is stored if it is the best one,
// whatever the other blocks of the row have.
TEST(ClipSearchTest, ScalesUnderAScaleAreThoseThatWereMeasured) {
  Scheme scheme =
      parse("uint3, block = [1, 16], scale = scheme<f8E4M3FN, block = [1, -1], "
            "scale = f16>, zero = int, rounding = half_even");
  Problem problem(40, 96, 8);
  ClipOptions options;
  options.grid = 20;
  options.shrink = 0.6;
  Result<QuantizedMatrix> found = quantizeClipped(
      problem.view(), scheme, problem.getImportance('c'), options, "w", 2);
  Result<QuantizedMatrix> whole = quantize(problem.view(), scheme, "w", 1);
  ASSERT_TRUE(found.ok() && whole.ok()) << found.message();
  EXPECT_EQ(found->scales, whole->scales);
  QuantizedView scales;
  BlockGrid blocks = getBlockGrid(scheme, problem.n, problem.k);
  scales.n = blocks.gridN;
  scales.k = blocks.gridK;
  scales.codes = whole->view().scaleCodes;
  scales.scales = whole->view().scales;
  Result<Grid> scaleGrid = Grid::get(scales, *scheme.scaleScheme);
  ASSERT_TRUE(scaleGrid.ok()) << scaleGrid.message();
  std::vector<float> values = getValues(*found, scheme);
  int clipped = 0;
  for (int64_t row = 0; row < problem.n; ++row)
    for (int64_t block = 0; block < blocks.gridK; ++block) {
      const float *weights =
          problem.weights.data() + row * problem.k + block * blocks.blockK;
      auto [least, most] = std::minmax_element(weights, weights + 16);
      float low = std::min(*least, 0.0f), high = std::max(*most, 0.0f);
      double best = HUGE_VAL;
      int bestStep = 0;
      for (int i = 0; i < 12; ++i) {
        auto ratio = static_cast<float>(1.0 - i / 20.0);
        float scale =
            scaleGrid->round(row, block, (high * ratio - low * ratio) / 7.0f)
                .value;
        float zero = std::clamp(std::nearbyint(-low * ratio / scale), 0.f, 7.f);
        std::vector<float> tried = problem.weights;
        for (int64_t j = 0; j < 16; ++j)
          tried[static_cast<size_t>(weights - problem.weights.data() + j)] =
              scale *
              (std::clamp(std::nearbyint(weights[j] / scale + zero), 0.f, 7.f) -
               zero);
        double error = problem.getError(tried, 'c', row, 1, block * 16, 16);
        if (error < best) {
          best = error;
          bestStep = i;
        }
      }
      clipped += bestStep > 0;
      EXPECT_NEAR(problem.getError(values, 'c', row, 1, block * 16, 16), best,
                  1e-4 * best + 1e-9)
          << "block " << block << " of row " << row;
    }
  EXPECT_GT(clipped, problem.n);
}

TEST(ClipSearchTest, EqualImportanceIsRuleMse) {
  // The grid of rule mse: 33 ratios from 1 to 8/40.
  Problem problem(20, 64, 2);
  std::vector<float> ones(64, 1.0f);
  ClipImportance importance;
  importance.columns = ones.data();
  ClipOptions options;
  options.grid = 40;
  options.shrink = 33.0 / 40;
  for (const char *text :
       {"uint3, block = [1, 16], scale = f16, zero = int, rule = mse, "
        "rounding = half_even",
        "int4, block = [1, 32], scale = f16, rule = mse, rounding = "
        "half_even"}) {
    Scheme scheme = parse(text);
    Result<QuantizedMatrix> found =
        quantizeClipped(problem.view(), scheme, importance, options, "w", 1);
    Result<QuantizedMatrix> expected = quantize(problem.view(), scheme, "w", 1);
    ASSERT_TRUE(found.ok() && expected.ok());
    // Errors that are equal up to rounding may choose otherwise.
    size_t different = 0;
    for (size_t i = 0; i < found->codes.size(); ++i)
      different += found->codes[i] != expected->codes[i];
    EXPECT_LE(different, found->codes.size() / 50) << text;
  }
}

TEST(ClipSearchTest, EasyQuantDescends) {
  Problem problem(24, 96, 7);
  for (const char *text :
       {"int4, block = [1, -1], scale = f32, rule = absmax, rounding = "
        "half_even",
        "int3, block = [1, 32], scale = f16, rule = absmax, rounding = "
        "half_even",
        "int3, block = [4, 32], scale = f16, rule = absmax_full, rounding = "
        "half_even"}) {
    Scheme scheme = parse(text);
    Result<QuantizedMatrix> found =
        quantizeEasyQuant(problem.view(), scheme, {}, "w", 2);
    Result<QuantizedMatrix> nearest = quantize(problem.view(), scheme, "w", 1);
    ASSERT_TRUE(found.ok() && nearest.ok()) << found.message();
    std::vector<float> a = getValues(*found, scheme),
                       b = getValues(*nearest, scheme);
    BlockGrid blocks = getBlockGrid(scheme, problem.n, problem.k);
    double sumA = 0, sumB = 0;
    std::vector<float> ones = problem.columns;
    std::fill(ones.begin(), ones.end(), 1.0f);
    std::swap(problem.columns, ones);
    for (int64_t row = 0; row < problem.n; row += blocks.blockN)
      for (int64_t column = 0; column < problem.k; column += blocks.blockK) {
        double errorA =
            problem.getError(a, 'c', row, blocks.blockN, column, blocks.blockK);
        double errorB =
            problem.getError(b, 'c', row, blocks.blockN, column, blocks.blockK);
        EXPECT_LE(errorA, errorB * (1 + 1e-6));
        sumA += errorA;
        sumB += errorB;
      }
    std::swap(problem.columns, ones);
    EXPECT_LT(sumA, 0.95 * sumB) << text;
    Result<QuantizedMatrix> again =
        quantizeEasyQuant(problem.view(), scheme, {}, "w", 1);
    EXPECT_EQ(again->codes, found->codes);
    EXPECT_EQ(again->scales, found->scales);
  }
  // Blocks of zeros stay.
  std::fill(problem.weights.begin(), problem.weights.end(), 0.0f);
  Scheme scheme = parse("int4, block = [1, 32], scale = f16, rule = absmax, "
                        "rounding = half_even");
  Result<QuantizedMatrix> zeros =
      quantizeEasyQuant(problem.view(), scheme, {}, "w", 1);
  ASSERT_TRUE(zeros.ok());
  EXPECT_EQ(getValues(*zeros, scheme), problem.weights);
}

TEST(ClipSearchTest, BadInput) {
  Problem problem(4, 8, 1);
  Scheme scheme = parse("uint4, block = [1, 8], scale = f16, zero = int, rule "
                        "= minmax, rounding = half_even");
  auto fails = [&](const ClipImportance &importance, const ClipOptions &options,
                   const char *text) {
    Result<QuantizedMatrix> found =
        quantizeClipped(problem.view(), scheme, importance, options, "w", 1);
    ASSERT_FALSE(found.ok());
    EXPECT_NE(found.message().find(text), std::string::npos) << found.message();
  };
  ClipImportance good = problem.getImportance('c');
  fails({}, {},
        "tensor 'w': expected one importance of the elements but got 0");
  fails(good, {0, 0.5}, "expected a grid of at least 1 but got 0");
  fails(good, {20, 0.0}, "expected a shrink with 0 < shrink <= 1");
  fails(good, {20, std::nan("")}, "expected a shrink");
  problem.columns[3] = -1;
  fails(good, {},
        "expected importances that are finite and not negative but "
        "got -1");
  problem.elements[5] = std::numeric_limits<float>::infinity();
  fails(problem.getImportance('e'), {}, "tensor 'w': expected importances");
  ClipImportance narrow;
  narrow.hessian = {problem.hessian.data(), 7};
  fails(narrow, {}, "expected a Hessian of the 8 inputs");
  problem.weights[9] = std::nanf("");
  fails(problem.getImportance('h'), {}, "tensor 'w' has nan at row 1");

  auto easyFails = [&](const char *text, const EasyQuantOptions &options,
                       const char *message) {
    Result<QuantizedMatrix> found =
        quantizeEasyQuant(problem.view(), parse(text), options, "w", 1);
    ASSERT_FALSE(found.ok());
    EXPECT_NE(found.message().find(message), std::string::npos)
        << found.message();
  };
  const char *symmetric = "int4, block = [1, 8], scale = f16, rule = absmax, "
                          "rounding = half_even";
  easyFails("uint4, block = [1, 8], scale = f16, zero = int, rule = minmax, "
            "rounding = half_even",
            {}, "expected a scheme without zero");
  easyFails("int4, block = [1, 8], scale = f8E8M0FNU, rule = absmax, rounding "
            "= half_even",
            {}, "powers of two");
  easyFails(symmetric, {0, 0.01}, "expected at least one step");
  easyFails(symmetric, {10, 1.5}, "expected a rate with 0 < rate < 1");
  easyFails(symmetric, {}, "tensor 'w' has nan");
}

} // namespace
