//===- FewTokensCostTest.cpp ----------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/FewTokensCost.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace quant_llm;

namespace {

ChipLimits getH100() {
  Result<ChipLimits> chip = getChipLimits("sm_90a");
  EXPECT_TRUE(chip.ok());
  return *chip;
}

KernelProblem makeProblem(int64_t n, int64_t k) {
  KernelProblem problem;
  problem.scheme.blockK = 128;
  problem.n = n;
  problem.k = k;
  return problem;
}

KernelConfig makeConfig(int64_t rowTile, int64_t tokenTile, int64_t stageK,
                        int64_t stages, int64_t warpsRows, int64_t warpsK,
                        int64_t split) {
  KernelConfig config;
  config.family = KernelFamily::FewTokens;
  config.copy = ActivationCopy::Tensor;
  config.rowTile = rowTile;
  config.tokenTile = tokenTile;
  config.stageK = stageK;
  config.stages = stages;
  config.warpsRows = warpsRows;
  config.warpsK = warpsK;
  config.split = split;
  return config;
}

double getTime(const KernelProblem &problem, const KernelConfig &config,
               int64_t tokens) {
  return estimateFewTokens(problem, config, getH100(), tokens).total;
}

/// The least time that the configurations selected for `tokens` promise, or 0
/// if another family takes over.
double getSelectedTime(const KernelProblem &problem, int64_t tokens) {
  for (const KernelConfig &config : selectKernels(problem, getH100(), nullptr))
    if (config.minTokens <= tokens && tokens <= config.maxTokens)
      return config.family == KernelFamily::FewTokens
                 ? getTime(problem, config, tokens)
                 : 0;
  return 0;
}

} // namespace

// Kernels of all sizes, one and several waves, with and without a split.
TEST(FewTokensCostTest, Measurements) {
  struct Measurement {
    int64_t n, k, tokens;
    KernelConfig config;
    double microseconds;
  };
  const Measurement measurements[] = {
      {576, 576, 16, makeConfig(16, 8, 512, 4, 1, 4, 1), 2.39},
      {1280, 8192, 1, makeConfig(16, 8, 2048, 4, 1, 8, 1), 5.03},
      {1280, 8192, 16, makeConfig(48, 16, 512, 3, 3, 4, 4), 5.25},
      {2560, 2560, 64, makeConfig(48, 32, 512, 3, 3, 4, 1), 6.26},
      {3584, 3584, 64, makeConfig(64, 64, 256, 5, 4, 2, 2), 8.80},
      {3584, 18944, 8, makeConfig(32, 8, 1024, 4, 1, 8, 1), 14.69},
      {4096, 1024, 64, makeConfig(64, 32, 256, 4, 4, 2, 1), 4.57},
      {4096, 4096, 32, makeConfig(64, 32, 256, 5, 4, 2, 2), 7.03},
      {5120, 13824, 32, makeConfig(80, 32, 256, 4, 5, 2, 2), 19.33},
      {8192, 8192, 8, makeConfig(64, 8, 1024, 3, 2, 4, 1), 15.55},
      {12288, 4096, 64, makeConfig(96, 64, 256, 5, 6, 2, 1), 20.29},
      {28672, 4096, 1, makeConfig(224, 8, 512, 2, 7, 2, 1), 23.88},
  };
  for (const Measurement &m : measurements) {
    double time = getTime(makeProblem(m.n, m.k), m.config, m.tokens);
    EXPECT_NEAR(time / m.microseconds, 1, 0.15)
        << m.n << "x" << m.k << ", " << m.tokens << " tokens";
  }
}

TEST(FewTokensCostTest, PartsAndWhole) {
  KernelConfig config = makeConfig(64, 16, 512, 4, 4, 2, 1);
  FewTokensCost cost =
      estimateFewTokens(makeProblem(4096, 4096), config, getH100(), 16);
  double largest = 0;
  for (double part : {cost.memory, cost.cache, cost.instructions, cost.chain}) {
    EXPECT_GT(part, 0);
    largest = std::max(largest, part);
  }
  EXPECT_GT(cost.total, cost.overhead + cost.ends + largest);
  EXPECT_STREQ(cost.bound, "instructions");
  config = makeConfig(224, 8, 512, 3, 7, 2, 1);
  EXPECT_STREQ(
      estimateFewTokens(makeProblem(28672, 4096), config, getH100(), 1).bound,
      "memory");
}

TEST(FewTokensCostTest, MoreIsNeverFaster) {
  KernelConfig config = makeConfig(64, 32, 512, 3, 4, 2, 1);
  for (int64_t split : {1, 2, 4}) {
    config.split = split;
    double time = getTime(makeProblem(4096, 4096), config, 20);
    EXPECT_GE(getTime(makeProblem(4096, 4096), config, 32), time);
    EXPECT_GE(getTime(makeProblem(4160, 4096), config, 20), time);
    EXPECT_GE(getTime(makeProblem(4096, 4608), config, 20), time);
    KernelConfig wider = config;
    wider.tokenTile = 40;
    EXPECT_GE(getTime(makeProblem(4096, 4096), wider, 20), time);
    KernelProblem problem = makeProblem(4096, 4096);
    problem.scheme.element.bits = 8;
    EXPECT_GE(getTime(problem, config, 20), time);
    problem.activation = TensorType::BF16;
    EXPECT_GE(getTime(problem, config, 20), time);
    problem = makeProblem(4096, 4096);
    problem.numWeights = 2;
    EXPECT_GE(getTime(problem, config, 20), time);
    problem = makeProblem(4096, 4096);
    problem.scheme.blockK = 16;
    problem.scheme.zero = ZeroKind::Float;
    EXPECT_GE(getTime(problem, config, 20), time);
  }
}

TEST(FewTokensCostTest, Residents) {
  // 25 KiB a stage: two CTAs of 4 stages have room, where two are wanted.
  KernelProblem problem = makeProblem(8192, 8192);
  KernelConfig config = makeConfig(64, 8, 512, 4, 4, 2, 1);
  EXPECT_EQ(getResidentCTAs(problem, config, getH100()), 1);
  config.ctasPerSM = 2;
  EXPECT_EQ(getResidentCTAs(problem, config, getH100()), 2);
  config.stages = 6;
  EXPECT_EQ(getResidentCTAs(problem, config, getH100()), 1);
  // Registers for the sums of two weights of 64 tokens and two strips.
  config = makeConfig(64, 64, 128, 2, 2, 4, 1);
  config.ctasPerSM = 2;
  problem.scheme.blockK = -1;
  EXPECT_EQ(getResidentCTAs(problem, config, getH100()), 1);
  // Of 11 warps three are on one of the four parts of a multiprocessor: as many
  // registers are taken as by 12.
  EXPECT_EQ(getRegisterLimit(getH100(), 11 * 32, 2), 80);
  EXPECT_EQ(getRegisterLimit(getH100(), 12 * 32, 2), 80);
  EXPECT_EQ(getRegisterLimit(getH100(), 11 * 32, 1), 168);
}

// Time grows with the problem, without steps that a rule for single shapes
// would make.
TEST(FewTokensCostTest, ChoiceIsSmooth) {
  for (int64_t tokens : {1, 16, 32}) {
    double before = getSelectedTime(makeProblem(1024, 4096), tokens);
    for (int64_t n = 1024 + 208; n <= 16384; n += 208) {
      double time = getSelectedTime(makeProblem(n, 4096), tokens);
      EXPECT_GT(time, 0.96 * before) << n << " rows, " << tokens << " tokens";
      EXPECT_LT(time, 1.35 * before) << n << " rows, " << tokens << " tokens";
      before = time;
    }
    before = getSelectedTime(makeProblem(4096, 1024), tokens);
    for (int64_t k = 1024 + 256; k <= 16384; k += 256) {
      double time = getSelectedTime(makeProblem(4096, k), tokens);
      EXPECT_GT(time, 0.96 * before)
          << k << " columns, " << tokens << " tokens";
      EXPECT_LT(time, 1.35 * before)
          << k << " columns, " << tokens << " tokens";
      before = time;
    }
  }
}
