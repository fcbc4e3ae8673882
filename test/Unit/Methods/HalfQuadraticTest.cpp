//===- HalfQuadraticTest.cpp ----------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/HalfQuadratic.h"

#include "quant-llm/Methods/Grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {
std::vector<float> makeWeights(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weights(static_cast<size_t>(count));
  for (float &weight : weights) {
    weight = normal(random);
    if (random() % 50 == 0)
      weight *= 6.0f;
  }
  return weights;
}

Scheme parse(const std::string &text) {
  Result<Scheme> scheme = parseScheme(text);
  EXPECT_TRUE(scheme.ok()) << text << ": " << scheme.message();
  return *scheme;
}

/// Mean |w - value| of the elements of a block.
double getMeanError(const std::vector<float> &weights, int64_t k,
                    const std::vector<float> &values, const BlockGrid &grid,
                    int64_t cell) {
  double sum = 0, count = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i)
    if (i / k / grid.blockN * grid.gridK + i % k / grid.blockK == cell) {
      auto at = static_cast<size_t>(i);
      sum += std::fabs(static_cast<double>(weights[at]) - values[at]);
      ++count;
    }
  return sum / count;
}
} // namespace

/// How many blocks have a smaller mean error after than before; none may have
/// one that is larger by more than that part of it.
static int64_t countBetterBlocks(const std::vector<float> &weights, int64_t k,
                                 const std::vector<float> &before,
                                 const std::vector<float> &after,
                                 const BlockGrid &grid, double tolerance,
                                 const std::string &text) {
  int64_t better = 0;
  for (int64_t cell = 0; cell < grid.gridN * grid.gridK; ++cell) {
    double old = getMeanError(weights, k, before, grid, cell);
    double now = getMeanError(weights, k, after, grid, cell);
    EXPECT_LE(now, old * (1 + tolerance)) << text << ", block " << cell;
    better += now < old;
  }
  return better;
}

/// Options of a solver that stays where it begins: nothing is shrunk.
static HalfQuadraticOptions getOptionsOfStart() {
  HalfQuadraticOptions options;
  options.iterations = 1;
  options.beta = 1e30;
  return options;
}

TEST(HalfQuadraticTest, NoBlockGetsWorseThanItBeginsAndMostGetBetter) {
  int64_t n = 12, k = 200;
  HalfQuadraticOptions options;
  for (const char *text : {"uint3, block = [1, 64], zero = f16",
                           "uint4, block = [1, 48], zero = bf16",
                           "uint3, block = [4, 32], zero = f32, scale = f32",
                           "nf4, block = [1, -1], zero = f16"}) {
    Scheme scheme = parse(text);
    std::vector<float> weights = makeWeights(n * k, 31);
    MatrixView view{weights.data(), SourceType::F32, n, k};
    Result<QuantizedMatrix> nearest = quantize(view, scheme, "w", 1);
    Result<QuantizedMatrix> start =
        quantizeHalfQuadratic(view, scheme, getOptionsOfStart(), "w", 1);
    Result<QuantizedMatrix> solved =
        quantizeHalfQuadratic(view, scheme, options, "w", 2);
    ASSERT_TRUE(nearest.ok() && start.ok() && solved.ok()) << solved.message();
    EXPECT_EQ(solved->scales, nearest->scales);
    std::vector<float> before(weights.size()), after(weights.size());
    ASSERT_TRUE(dequantize(*start, scheme, before.data(), 1).ok());
    ASSERT_TRUE(dequantize(*solved, scheme, after.data(), 1).ok());
    BlockGrid grid = getBlockGrid(scheme, n, k);
    EXPECT_GT(countBetterBlocks(weights, k, before, after, grid, 0, text),
              grid.gridN * grid.gridK / 4)
        << text;

    Result<QuantizedMatrix> again =
        quantizeHalfQuadratic(view, scheme, options, "w", 1);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->codes, solved->codes);
    EXPECT_EQ(again->zeros, solved->zeros);
  }
}

// The zero that is begun with is that of integer zeros, which have a code for
// the weight 0.
TEST(HalfQuadraticTest, NoBlockIsWorseThanUnderIntegerZeros) {
  int64_t n = 12, k = 192;
  for (const char *element : {"uint3", "uint4"}) {
    std::string text = std::string(element) + ", block = [1, 64], scale = f32";
    Scheme scheme = parse(text + ", zero = f32");
    Scheme integer = parse(text + ", zero = int");
    std::vector<float> weights = makeWeights(n * k, 57);
    MatrixView view{weights.data(), SourceType::F32, n, k};
    Result<QuantizedMatrix> nearest = quantize(view, integer, "w", 1);
    Result<QuantizedMatrix> solved =
        quantizeHalfQuadratic(view, scheme, {}, "w", 1);
    ASSERT_TRUE(nearest.ok() && solved.ok()) << solved.message();
    std::vector<float> before(weights.size()), after(weights.size());
    ASSERT_TRUE(dequantize(*nearest, integer, before.data(), 1).ok());
    ASSERT_TRUE(dequantize(*solved, scheme, after.data(), 1).ok());
    BlockGrid grid = getBlockGrid(scheme, n, k);
    EXPECT_GT(countBetterBlocks(weights, k, before, after, grid, 1e-6, text),
              grid.gridN * grid.gridK / 2)
        << text;
  }
}

TEST(HalfQuadraticTest, AlignedStartByHand) {
  // s = 1 and, by rule minmax, z = -0.6, which is moved to -1: 0 has a code
  // there.
  const float weights[] = {-0.6f, 0.4f, 1.4f, 2.4f, 0.0f};
  Scheme scheme = parse("uint2, block = [1, -1], zero = f32, scale = f32");
  MatrixView view{weights, SourceType::F32, 1, 5};
  auto getZero = [&](const Result<QuantizedMatrix> &stored) {
    EXPECT_TRUE(stored.ok()) << stored.message();
    Result<Grid> grid = Grid::get(stored->view(), scheme);
    EXPECT_TRUE(grid.ok()) << grid.message();
    EXPECT_EQ(grid->getScale(0), 1.0f);
    return grid->getZero(0);
  };
  auto getFirstZero = [&] {
    return getZero(
        quantizeHalfQuadratic(view, scheme, getOptionsOfStart(), "w", 1));
  };
  EXPECT_FLOAT_EQ(getZero(quantize(view, scheme, "w", 1)), -0.6f);
  EXPECT_FLOAT_EQ(getFirstZero(), -1.0f);

  // Of weights that do not reach 0 the range stays.
  const float positive[] = {5.25f, 6.25f, 7.25f, 8.25f};
  view = {positive, SourceType::F32, 1, 4};
  EXPECT_EQ(getFirstZero(), 5.25f);
}

TEST(HalfQuadraticTest, OneIterationByHand) {
  // s = 1, z = 0 by rule minmax; all residuals are shrunk to nothing, so that
  // the zero becomes the mean of w - s v(q): (0.4 + 0.4 + 0.4) / 5 = 0.24.
  const float weights[] = {0.4f, 1.4f, 2.4f, 3.0f, 0.0f};
  Scheme scheme = parse("uint2, block = [1, -1], zero = f32, scale = f32");
  HalfQuadraticOptions options;
  options.iterations = 1;
  options.beta = 0.1;
  Result<QuantizedMatrix> stored = quantizeHalfQuadratic(
      {weights, SourceType::F32, 1, 5}, scheme, options, "w", 1);
  ASSERT_TRUE(stored.ok());
  Result<Grid> grid = Grid::get(stored->view(), scheme);
  ASSERT_TRUE(grid.ok());
  EXPECT_EQ(grid->getScale(0), 1.0f);
  EXPECT_NEAR(grid->getZero(0), 0.24, 1e-6);
}

TEST(HalfQuadraticTest, BlocksOfOneValueStay) {
  const float weights[] = {2, 2, 2, 2, 0, 0, 0, 0};
  Scheme scheme = parse("uint4, block = [1, 4], zero = f16");
  Result<QuantizedMatrix> stored = quantizeHalfQuadratic(
      {weights, SourceType::F32, 1, 8}, scheme, {}, "w", 1);
  ASSERT_TRUE(stored.ok());
  float values[8];
  ASSERT_TRUE(dequantize(*stored, scheme, values, 1).ok());
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(values[i], weights[i]);
}

TEST(HalfQuadraticTest, BadInput) {
  const float weights[] = {1, 2, 3, 4};
  MatrixView view{weights, SourceType::F32, 1, 4};
  auto getMessage = [&](const char *scheme,
                        const HalfQuadraticOptions &options) {
    return quantizeHalfQuadratic(view, parse(scheme), options, "w", 1)
        .message();
  };
  for (const char *other :
       {"int4, block = [1, -1]", "uint4, block = [1, -1], zero = int"})
    EXPECT_EQ(getMessage(other, {}),
              "tensor 'w': expected a scheme with a float zero, which is what "
              "half-quadratic quantization chooses (the mean error is less "
              "than the step that an integer zero could move); use zero = f16, "
              "or round to nearest");
  const char *good = "uint4, block = [1, -1], zero = f16";
  EXPECT_EQ(getMessage(good, {}), "");
  for (double norm : {0.0, 1.5, std::nan("")}) {
    HalfQuadraticOptions options;
    options.norm = norm;
    EXPECT_NE(
        getMessage(good, options).find("expected a norm p with 0 < p <= 1"),
        std::string::npos);
  }
  HalfQuadraticOptions options;
  options.beta = 0;
  EXPECT_EQ(getMessage(good, options),
            "tensor 'w': expected a positive beta but got 0.000000");
  options = {};
  options.kappa = 0.5;
  EXPECT_NE(getMessage(good, options), "");
  options = {};
  options.iterations = 0;
  EXPECT_NE(getMessage(good, options), "");
}
