//===- GranularityTest.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Granularity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace quant_llm;

static MatrixView view(const std::vector<float> &values, int64_t k) {
  return {values.data(), SourceType::F32,
          static_cast<int64_t>(values.size()) / k, k};
}

TEST(GranularityTest, ExpectedRangesOfNormalNumbers) {
  // Small cases in closed form: E[max-min] of 2 is 2/sqrt(pi), of 3 is
  // 3/sqrt(pi).
  EXPECT_NEAR(expectedNormalRange(2, false), 2 / std::sqrt(M_PI), 1e-9);
  EXPECT_NEAR(expectedNormalRange(3, false), 3 / std::sqrt(M_PI), 1e-9);
  EXPECT_NEAR(expectedNormalRange(1, false), 0, 1e-9);
  EXPECT_NEAR(expectedNormalRange(1, true), 2 * std::sqrt(2 / M_PI), 1e-9);
  // E[max(|x|,|y|)] = 2/sqrt(pi).
  EXPECT_NEAR(expectedNormalRange(2, true), 4 / std::sqrt(M_PI), 1e-9);
  // Tables of the control chart constant d2.
  EXPECT_NEAR(expectedNormalRange(10, false), 3.07751, 1e-5);
  EXPECT_NEAR(expectedNormalRange(25, false), 3.93063, 1e-5);
}

TEST(GranularityTest, ExpectedRatiosOfNormalNumbers) {
  // The table of methods.md 2.1.3.
  struct {
    int64_t from;
    double ratio;
  } const table[] = {{8192, 0.954}, {4096, 0.949}, {2048, 0.944}, {1024, 0.937},
                     {512, 0.929},  {256, 0.918},  {128, 0.903}};
  for (auto [from, ratio] : table)
    EXPECT_NEAR(expectedNormalRange(from, from / 2, false) /
                    expectedNormalRange(from, from, false),
                ratio, 6e-4)
        << from;
  EXPECT_NEAR(expectedNormalRange(4096, 64, false) /
                  expectedNormalRange(4096, 4096, false),
              0.646, 6e-4);
}

TEST(GranularityTest, RangesOfAMatrix) {
  std::vector<float> values = {1, -2, 3, 4, 5, 0, 0, 0, 0, -6};
  Result<RangeTable> table =
      computeRanges(view(values, 5), {-1, 2, 1, 99}, false, "w", 2);
  ASSERT_TRUE(table.ok());
  // Row 0: 7; groups (1,-2) (3,4) (5): (2*3 + 2*1 + 1*0) / 5.
  EXPECT_DOUBLE_EQ(table->ranges[0], 7);
  EXPECT_DOUBLE_EQ(table->ranges[1], 6);
  EXPECT_DOUBLE_EQ(table->ranges[2], 1.6);
  EXPECT_DOUBLE_EQ(table->ranges[3], 0);
  EXPECT_DOUBLE_EQ(table->ranges[4], 0);
  EXPECT_DOUBLE_EQ(table->ranges[6], 7);
  EXPECT_DOUBLE_EQ(table->sum(0), 13);
  table = computeRanges(view(values, 5), {-1, 2}, true, "w", 1);
  ASSERT_TRUE(table.ok());
  EXPECT_DOUBLE_EQ(table->ranges[0], 10);
  EXPECT_DOUBLE_EQ(table->ranges[2], (2 * 4 + 2 * 8 + 1 * 10) / 5.0);
  EXPECT_DOUBLE_EQ(table->ranges[3], 12 / 5.0);
}

/// A 4096x4096 standard normal matrix, and the same with one entry of 20.
class NormalMatrixTest : public testing::Test {
protected:
  static void SetUpTestSuite() {
    values = new std::vector<float>(size_t(4096) * 4096);
    std::mt19937_64 random(2024);
    std::normal_distribution<float> normal;
    for (float &value : *values)
      value = normal(random);
  }
  static void TearDownTestSuite() { delete values; }

  static GranularityChoice choose(const GranularityOptions &options) {
    Result<GranularityChoice> choice =
        chooseGranularity(view(*values, 4096), options, "w", 2);
    EXPECT_TRUE(choice.ok()) << choice.message();
    return *choice;
  }

  static std::vector<float> *values;
};

std::vector<float> *NormalMatrixTest::values;

TEST_F(NormalMatrixTest, StaysWholeUntilAnOutlierSplitsIt) {
  GranularityOptions options;
  options.sizes = {2048, 1024, 512, 256, 128, 64};
  options.symmetric = false;
  for (bool symmetric : {false, true})
    for (RangeStatistic statistic :
         {RangeStatistic::Raw, RangeStatistic::Gaussian})
      for (RangeAggregation aggregation :
           {RangeAggregation::Mean, RangeAggregation::Min}) {
        options.symmetric = symmetric;
        options.statistic = statistic;
        options.aggregation = aggregation;
        GranularityChoice choice = choose(options);
        ASSERT_EQ(choice.steps.size(), 1u);
        // With 2*max|w| single rows of noise shrink more.
        if (!symmetric || aggregation == RangeAggregation::Mean) {
          EXPECT_EQ(choice.group, -1) << choice.reason;
        }
      }

  options = GranularityOptions();
  options.sizes = {2048, 1024, 512, 256, 128, 64};
  options.symmetric = false;
  options.alpha = 1.1; // follow all splits
  GranularityChoice noise = choose(options);
  ASSERT_EQ(noise.steps.size(), 6u);
  for (const GranularityStep &step : noise.steps) {
    EXPECT_GT(step.ratio, 0.83);
    EXPECT_LT(step.ratio, 0.90);
  }

  float saved = (*values)[size_t(1234) * 4096 + 777];
  (*values)[size_t(1234) * 4096 + 777] = 20;
  GranularityChoice outlier = choose(options);
  // methods.md 2.1.3 with another seed: 0.646, 0.709, 0.763, 0.807.
  const double known[] = {0.646, 0.709, 0.763, 0.807};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(outlier.steps[i].ratio, known[i], 0.02);
    EXPECT_EQ(outlier.steps[i].row, 1234);
  }
  options.alpha = 0.8;
  EXPECT_EQ(choose(options).group, 512);
  options.aggregation = RangeAggregation::Mean;
  EXPECT_EQ(choose(options).group, -1);
  (*values)[size_t(1234) * 4096 + 777] = saved;
}

TEST_F(NormalMatrixTest, MeanRatiosAreTheExpectedOnes) {
  GranularityOptions options;
  options.sizes = {2048, 1024, 512, 256, 128, 64};
  options.alpha = 1.1;
  options.aggregation = RangeAggregation::Mean;
  for (bool symmetric : {false, true}) {
    options.symmetric = symmetric;
    options.statistic = RangeStatistic::Raw;
    GranularityChoice raw = choose(options);
    options.statistic = RangeStatistic::Gaussian;
    GranularityChoice normalized = choose(options);
    ASSERT_EQ(raw.steps.size(), 6u);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(raw.steps[i].ratio, raw.steps[i].expected, 2e-3);
      EXPECT_NEAR(normalized.steps[i].ratio, 1, 2e-3);
    }
  }
}

TEST(GranularityTest, ReasonsAndSteps) {
  // Row 1 has an outlier in the last quarter.
  std::vector<float> values(2 * 128, 1.0f);
  for (size_t i = 0; i < values.size(); i += 2)
    values[i] = -1.0f;
  values[255] = 3;
  GranularityOptions options;
  options.sizes = {16, 32, 64, 512, 64};
  Result<GranularityChoice> choice =
      chooseGranularity(view(values, 128), options, "w", 1);
  ASSERT_TRUE(choice.ok());
  // 128: 6; 64: (2+6)/2 = 4; 32: (2*3+6)/4 = 3; 16: (2*7+6)/8 = 2.5
  EXPECT_EQ(choice->group, 32);
  EXPECT_EQ(choice->reason,
            "K=128 -> 64: smallest row ratio 0.6667 (row 1) < 0.8, split; "
            "64 -> 32: smallest row ratio 0.75 (row 1) < 0.8, split; "
            "32 -> 16: smallest row ratio 0.8333 (row 1) >= 0.8, stop");
  options.aggregation = RangeAggregation::Mean;
  choice = chooseGranularity(view(values, 128), options, "w", 1);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->group, 64);
  EXPECT_EQ(choice->reason, "K=128 -> 64: mean ratio 0.75 < 0.8, split; "
                            "64 -> 32: mean ratio 0.8333 >= 0.8, stop");
  options.sizes = {128, 256};
  choice = chooseGranularity(view(values, 128), options, "w", 1);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->group, -1);
  EXPECT_EQ(choice->reason, "K=128: no allowed group size is smaller");
}

TEST(GranularityTest, ZeroRowsDoNotSplit) {
  std::vector<float> values(4 * 64, 0.0f);
  GranularityOptions options;
  options.sizes = {16};
  for (RangeAggregation aggregation :
       {RangeAggregation::Mean, RangeAggregation::Min}) {
    options.aggregation = aggregation;
    Result<GranularityChoice> choice =
        chooseGranularity(view(values, 64), options, "w", 1);
    ASSERT_TRUE(choice.ok());
    EXPECT_EQ(choice->group, -1);
    EXPECT_EQ(choice->steps[0].ratio, 1.0);
  }
}

TEST(GranularityTest, ARaggedTailIsNoShrinkage) {
  // 576 normal numbers in groups of 512 and 64.
  std::vector<float> values(size_t(400) * 576);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (float &value : values)
    value = normal(random);
  GranularityOptions options;
  options.sizes = {512};
  options.aggregation = RangeAggregation::Mean;
  options.statistic = RangeStatistic::Gaussian;
  Result<GranularityChoice> choice =
      chooseGranularity(view(values, 576), options, "w", 1);
  ASSERT_TRUE(choice.ok());
  EXPECT_GT(choice->steps[0].expected, 0.95);
  EXPECT_NEAR(choice->steps[0].ratio, 1, 0.005);
}

TEST(GranularityTest, SameForAnyThreadCount) {
  std::vector<float> values(size_t(77) * 300);
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (float &value : values)
    value = normal(random);
  Result<RangeTable> one =
      computeRanges(view(values, 300), {-1, 128, 7}, true, "w", 1);
  ASSERT_TRUE(one.ok());
  for (int threads : {2, 5, 100}) {
    Result<RangeTable> other =
        computeRanges(view(values, 300), {-1, 128, 7}, true, "w", threads);
    ASSERT_TRUE(other.ok());
    EXPECT_EQ(one->ranges, other->ranges);
  }
}

TEST(GranularityTest, BadInput) {
  std::vector<float> values(4 * 8, 1.0f);
  GranularityOptions options;
  for (double alpha : {0.0, -1.0, 3.0, double(NAN)}) {
    options.alpha = alpha;
    EXPECT_FALSE(chooseGranularity(view(values, 8), options, "w", 1).ok());
  }
  options.alpha = 0.8;
  options.sizes = {4, 0};
  EXPECT_EQ(chooseGranularity(view(values, 8), options, "w", 1).message(),
            "expected group sizes of at least 1 but got 0");
  EXPECT_FALSE(computeRanges(view(values, 8), {-2}, true, "w", 1).ok());
  EXPECT_FALSE(
      computeRanges({nullptr, SourceType::F32, 0, 4}, {1}, true, "w", 1).ok());
  options.sizes = {4};
  values[17] = NAN;
  values[30] = INFINITY;
  for (int threads : {1, 2, 4})
    EXPECT_EQ(
        chooseGranularity(view(values, 8), options, "w", threads).message(),
        "tensor 'w' has nan at row 2, column 1; expected finite weights");
  EXPECT_EQ(parseRangeStatistic("x").message(),
            "expected a statistic (raw, gaussian) but got 'x'");
  EXPECT_EQ(*parseRangeAggregation("min"), RangeAggregation::Min);
}
