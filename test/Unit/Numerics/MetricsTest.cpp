//===- MetricsTest.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace quant_llm;

TEST(MetricsTest, KnownValues) {
  const float weights[] = {3, 0, -4, 0};
  const float values[] = {3, 1, -4, -2};
  MatrixView matrix{weights, SourceType::F32, 2, 2};
  ErrorMetrics errors = computeErrors(matrix, values, 1);
  EXPECT_DOUBLE_EQ(errors.mse, 5.0 / 4);
  EXPECT_DOUBLE_EQ(errors.relativeFrobenius, std::sqrt(5.0 / 25));
  EXPECT_DOUBLE_EQ(errors.maxAbs, 2.0);
  EXPECT_DOUBLE_EQ(errors.sqnrDecibels, 10 * std::log10(5.0));
}

TEST(MetricsTest, NoErrorAndNoWeight) {
  const float zeros[] = {0, 0}, ones[] = {1, 1};
  ErrorMetrics same = computeErrors({zeros, SourceType::F32, 1, 2}, zeros, 1);
  EXPECT_EQ(same.mse, 0.0);
  EXPECT_EQ(same.relativeFrobenius, 0.0);
  EXPECT_EQ(same.sqnrDecibels, INFINITY);
  ErrorMetrics lost = computeErrors({zeros, SourceType::F32, 1, 2}, ones, 1);
  EXPECT_EQ(lost.relativeFrobenius, INFINITY);
  EXPECT_EQ(lost.sqnrDecibels, -INFINITY);
}

TEST(MetricsTest, SameForAnyThreadCountAndFromStorage) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> weights(37 * 211);
  for (float &weight : weights)
    weight = normal(random);
  MatrixView matrix{weights.data(), SourceType::F32, 37, 211};
  Scheme scheme;
  scheme.blockK = 32;
  Result<QuantizedMatrix> stored = quantize(matrix, scheme, "w", 2);
  ASSERT_TRUE(stored.ok()) << stored.message();
  std::vector<float> values(weights.size());
  ASSERT_TRUE(dequantize(*stored, scheme, values.data(), 2).ok());
  ErrorMetrics first = computeErrors(matrix, values.data(), 1);
  EXPECT_GT(first.sqnrDecibels, 15);
  for (int threads : {2, 3, 7, 64}) {
    ErrorMetrics other = computeErrors(matrix, values.data(), threads);
    EXPECT_EQ(first.mse, other.mse);
    EXPECT_EQ(first.relativeFrobenius, other.relativeFrobenius);
    EXPECT_EQ(first.maxAbs, other.maxAbs);
    Result<ErrorMetrics> streamed =
        computeErrors(matrix, stored->view(), scheme, threads);
    ASSERT_TRUE(streamed.ok());
    EXPECT_EQ(first.mse, streamed->mse);
  }
}

TEST(MetricsTest, ShapesMustAgree) {
  const float weights[] = {1, 2};
  Scheme scheme;
  Result<QuantizedMatrix> stored =
      quantize({weights, SourceType::F32, 1, 2}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  Result<ErrorMetrics> errors = computeErrors({weights, SourceType::F32, 2, 1},
                                              stored->view(), scheme, 1);
  ASSERT_FALSE(errors.ok());
  EXPECT_EQ(errors.message(),
            "expected matrices of one shape but got 2x1 and 1x2");
}
