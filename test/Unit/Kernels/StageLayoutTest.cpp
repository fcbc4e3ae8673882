//===- StageLayoutTest.cpp - Stages of the mma.sync kernels ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/StageLayout.h"
#include "quant-llm/Numerics/Element.h"

#include <gtest/gtest.h>

using namespace quant_llm;

namespace {

int64_t earlyStages(const char *scheme, int64_t rowTile, int64_t stages,
                    unsigned numWeights = 1) {
  KernelProblem problem;
  problem.scheme = parseScheme(scheme).take();
  problem.n = 4096;
  problem.k = 4096;
  problem.numWeights = numWeights;
  KernelConfig config;
  config.family = KernelFamily::FewTokens;
  config.rowTile = rowTile;
  config.tokenTile = 8;
  config.stageK = 256;
  config.stages = stages;
  config.copy = ActivationCopy::Tensor;
  return StageLayout(problem, config).earlyStages;
}

} // namespace

// As many as eight copies bring: one for each 16 rows of codes, scales and
// zeros of each weight.
TEST(StageLayoutTest, EarlyStages) {
  const char *symmetric = "int4, block = [1, 128], scale = f16";
  EXPECT_EQ(earlyStages(symmetric, 16, 8), 4);
  EXPECT_EQ(earlyStages(symmetric, 32, 8), 2);
  EXPECT_EQ(earlyStages(symmetric, 48, 8), 1);
  EXPECT_EQ(earlyStages(symmetric, 16, 8, /*numWeights=*/2), 2);
  const char *zeros =
      "uint4, block = [1, 128], scale = f16, zero = int, rule = minmax";
  EXPECT_EQ(earlyStages(zeros, 16, 8), 2);
  // Scales of rows are read at the end, those of columns where they lie.
  EXPECT_EQ(earlyStages("int8, block = [1, -1], scale = f16", 16, 9), 8);
  EXPECT_EQ(earlyStages("int8, block = [-1, 1], scale = f16", 16, 9), 8);
}

// At least one stage, however many copies it takes, and no more than there are.
TEST(StageLayoutTest, EarlyStagesInTheRing) {
  const char *symmetric = "int4, block = [1, 128], scale = f16";
  EXPECT_EQ(earlyStages(symmetric, 16, 3), 3);
  EXPECT_EQ(earlyStages(symmetric, 128, 4), 1);
  EXPECT_EQ(earlyStages(symmetric, 256, 2, /*numWeights=*/2), 1);
}
