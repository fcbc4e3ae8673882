//===- SelectTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/StreamK.h"

#include "quant-llm/Kernels/Tuning.h"
#include "quant-llm/Numerics/Element.h"

#include <gtest/gtest.h>

#include <set>

using namespace quant_llm;

namespace {

const char *const chipNames[] = {"sm_80",  "sm_86",   "sm_89",  "sm_90",
                                 "sm_90a", "sm_100a", "sm_120a"};

/// Every configuration fits its chip, and together they cover all tokens.
void expectComplete(const KernelProblem &problem, const char *chipName) {
  Result<ChipLimits> chip = getChipLimits(chipName);
  ASSERT_TRUE(chip.ok());
  std::vector<std::string> reasons;
  std::vector<KernelConfig> configs = selectKernels(problem, *chip, &reasons);
  Status covered = verifyCoverage(configs);
  EXPECT_TRUE(covered.ok()) << chipName << ": " << covered.message();
  EXPECT_EQ(reasons.size(), configs.size());
  for (size_t i = 0; i < configs.size(); ++i) {
    Status status = verifyKernel(problem, configs[i], *chip);
    EXPECT_TRUE(status.ok())
        << chipName << ": " << describe(configs[i]) << ": " << status.message();
    EXPECT_EQ(reasons[i].find(describe(configs[i]) + ": "), 0u);
  }
}

} // namespace

TEST(SelectTest, EveryShapeOnEveryChip) {
  for (int64_t n : {1, 17, 64, 172, 192, 576, 1000, 4096, 10944, 32000})
    for (int64_t k : {1, 17, 64, 172, 192, 576, 1000, 4096, 7392, 28672})
      for (const char *chip : chipNames) {
        KernelProblem problem;
        problem.scheme.blockK = 128;
        problem.n = n;
        problem.k = k;
        SCOPED_TRACE(std::to_string(n) + "x" + std::to_string(k));
        expectComplete(problem, chip);
      }
}

TEST(SelectTest, EveryScheme) {
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (int64_t block : {16, 24, 32, 64, 128, 256, 1000, -1})
      for (unsigned weights : {1, 2})
        for (const char *chip : chipNames) {
          KernelProblem problem;
          problem.scheme.element = {ElementKind::UInt, bits, {}};
          problem.scheme.blockK = block;
          problem.scheme.zero = ZeroKind::Float;
          problem.scheme.zeroType = FloatType::F32;
          problem.scheme.scaleType = FloatType::F32;
          problem.scheme.rule = ScaleRule::MinMax;
          problem.numWeights = weights;
          problem.n = 4096;
          problem.k = 4096;
          SCOPED_TRACE(std::to_string(bits) + " bits, block " +
                       std::to_string(block));
          expectComplete(problem, chip);
        }
}

TEST(SelectTest, Experts) {
  for (int64_t experts : {1, 4, 8, 60, 64, 128, 1000})
    for (int64_t n : {17, 192, 1408, 14336})
      for (int64_t k : {172, 2048})
        for (const char *chip : chipNames) {
          KernelProblem problem;
          problem.scheme.blockK = 128;
          problem.experts = experts;
          problem.n = n;
          problem.k = k;
          SCOPED_TRACE(std::to_string(experts) + " experts of " +
                       std::to_string(n) + "x" + std::to_string(k));
          expectComplete(problem, chip);
        }
}

// A tile of tokens fits what an expert has, not what all have together.
TEST(SelectTest, TilesOfExperts) {
  Result<ChipLimits> chip = getChipLimits("sm_90a");
  KernelProblem problem;
  problem.scheme.blockK = 128;
  problem.experts = 64;
  problem.n = 1408;
  problem.k = 2048;
  auto tileFor = [&](int64_t tokens) -> int64_t {
    for (const KernelConfig &config : selectKernels(problem, *chip, nullptr))
      if (config.minTokens <= tokens && tokens <= config.maxTokens)
        return config.tokenTile;
    return 0;
  };
  EXPECT_EQ(tileFor(1), 8);
  EXPECT_EQ(tileFor(64), 8);
  EXPECT_EQ(tileFor(4 * 64), 8);
  EXPECT_EQ(tileFor(8 * 64), 16);
  EXPECT_GE(tileFor(400 * 64), 64);
}

TEST(SelectTest, WhatHasNoKernel) {
  Result<ChipLimits> chip = getChipLimits("sm_90a");
  KernelProblem problem;
  problem.n = problem.k = 64;
  problem.activation = TensorType::F32;
  std::vector<std::string> reasons;
  EXPECT_TRUE(selectKernels(problem, *chip, &reasons).empty());
  EXPECT_TRUE(reasons.empty());
}

TEST(SelectTest, ReasonsAreOptional) {
  Result<ChipLimits> chip = getChipLimits("sm_80");
  KernelProblem problem;
  problem.n = problem.k = 64;
  EXPECT_FALSE(selectKernels(problem, *chip, nullptr).empty());
}

namespace {

std::vector<KernelConfig> selectInt4(int64_t n, int64_t k, const char *chip) {
  KernelProblem problem;
  problem.scheme.blockK = 128;
  problem.n = n;
  problem.k = k;
  Result<ChipLimits> limits = getChipLimits(chip);
  EXPECT_TRUE(limits.ok());
  return selectKernels(problem, *limits, nullptr);
}

} // namespace

// No more tokens are multiplied than the range has, rounded up to 8.
TEST(SelectTest, TokenTilesFollowTheRange) {
  for (const KernelConfig &config : selectInt4(4096, 4096, "sm_90a")) {
    if (config.family != KernelFamily::FewTokens)
      continue;
    int64_t tiles =
        (config.maxTokens + config.tokenTile - 1) / config.tokenTile;
    EXPECT_LE(tiles, 4);
    EXPECT_LE(config.maxTokens, 64);
    EXPECT_LE(tiles * config.tokenTile - config.minTokens, 15);
  }
}

// A split is for weights whose rows are too few for all multiprocessors.
TEST(SelectTest, SplitWhereRowsAreFew) {
  for (const KernelConfig &config : selectInt4(1024, 16384, "sm_90a"))
    if (config.family == KernelFamily::FewTokens) {
      EXPECT_GT(config.split, 1) << describe(config);
      EXPECT_LE(1024 / config.rowTile * config.split, 2 * 132);
    }
  for (int64_t n : {32000, 57344, 128256})
    for (const KernelConfig &config : selectInt4(n, 4096, "sm_90a"))
      if (config.maxTokens <= 32) {
        EXPECT_EQ(config.split, 1) << describe(config);
        EXPECT_GE(config.rowTile, 64) << describe(config);
      }
}

TEST(SelectTest, FamiliesByTokens) {
  for (const char *chip : {"sm_90a", "sm_90", "sm_80"})
    for (const KernelConfig &config : selectInt4(28672, 8192, chip)) {
      bool hasBulkCopy = std::string(chip) != "sm_80";
      bool hasWgmma = std::string(chip) == "sm_90a";
      if (config.minTokens > 64) {
        EXPECT_EQ(config.family,
                  hasWgmma ? KernelFamily::Wgmma : KernelFamily::Multistage);
      } else if (!hasBulkCopy) {
        EXPECT_EQ(config.family, KernelFamily::Multistage);
      } else if (config.minTokens <= 32 || !hasWgmma) {
        EXPECT_EQ(config.family, KernelFamily::FewTokens) << chip;
      }
    }
}

namespace {
/// What is chosen for `tokens` tokens of int4 weights on Hopper.
KernelConfig chosenFor(int64_t n, int64_t k, int64_t tokens) {
  for (const KernelConfig &config : selectInt4(n, k, "sm_90a"))
    if (config.minTokens <= tokens && tokens <= config.maxTokens)
      return config;
  ADD_FAILURE() << "no kernel for " << tokens << " tokens";
  return {};
}
} // namespace

TEST(SelectTest, ColumnsAreSharedWhereTilesAreFew) {
  // 64 tiles of 64 rows: two CTAs and two warpgroups each.
  KernelConfig few = chosenFor(4096, 4096, 64);
  EXPECT_EQ(few.family, KernelFamily::Wgmma);
  EXPECT_EQ(few.rowTile, 64);
  EXPECT_EQ(few.tokenTile, 64);
  EXPECT_EQ(few.warpsK, 2);
  EXPECT_EQ(few.split, 2);
  // 20 tiles.
  EXPECT_GE(chosenFor(1280, 8192, 64).split, 4);
  // Tiles for every multiprocessor: nothing is shared.
  for (int64_t tokens : {1024, 2048, 4096, 100000}) {
    KernelConfig many = chosenFor(8192, 8192, tokens);
    EXPECT_EQ(many.rowTile * many.tokenTile, 256 * 128);
    EXPECT_EQ(many.warpsK, 1);
    EXPECT_LE(many.split, 1);
  }
}

TEST(SelectTest, WavesAreFull) {
  // The tiles of a wave run at once; a second wave with few tiles would double
  // the time.
  for (int64_t n : {1280, 2048, 4096, 5120, 6144, 8192})
    for (int64_t tokens : {64, 128, 256, 512}) {
      KernelConfig config = chosenFor(n, 8192, tokens);
      if (config.split == kStreamK)
        continue;
      int64_t ctas = (n + config.rowTile - 1) / config.rowTile *
                     ((tokens + config.tokenTile - 1) / config.tokenTile) *
                     config.split;
      int64_t waves = (ctas + 131) / 132;
      EXPECT_GE(ctas, waves * 132 * 6 / 10)
          << n << ", " << tokens << " tokens: " << describe(config);
    }
}

TEST(SelectTest, TilesAreDealtOutWhereNoneFill) {
  // 80 tiles of 128 x 128; two waves of which one is nearly empty.
  EXPECT_EQ(chosenFor(1280, 8192, 1024).split, kStreamK);
  EXPECT_EQ(chosenFor(5120, 5120, 1024).split, kStreamK);
  EXPECT_EQ(chosenFor(3584, 18944, 512).split, kStreamK);
  // 32 tiles of rows and 4 of tokens: a full wave of whole tiles.
  EXPECT_EQ(chosenFor(4096, 4096, 512).split, 1);
  // Two units: an exchange takes longer than a tile.
  for (int64_t tokens : {256, 512, 1024, 4096})
    EXPECT_NE(chosenFor(4096, 256, tokens).split, kStreamK);
}

TEST(SelectTest, TokensOfTilesByInstructionsOfTheFormat) {
  Result<ChipLimits> chip = getChipLimits("sm_90a");
  ASSERT_TRUE(chip.ok());
  auto tokenTile = [&](const char *text, int64_t tokens) {
    Result<Scheme> scheme = parseScheme(text);
    EXPECT_TRUE(scheme.ok()) << scheme.message();
    KernelProblem problem;
    problem.scheme = *scheme;
    problem.n = problem.k = 4096;
    for (const KernelConfig &config : selectKernels(problem, *chip, nullptr))
      if (config.minTokens <= tokens && tokens <= config.maxTokens)
        return config.tokenTile;
    ADD_FAILURE() << text;
    return int64_t(0);
  };
  // Weights that take many instructions are used for twice as many tokens.
  for (int64_t tokens : {1024, 4096}) {
    EXPECT_EQ(tokenTile("int4, block = [1, 128], scale = f16", tokens), 128);
    EXPECT_EQ(tokenTile("nf4, block = [1, 64], scale = f16", tokens), 256);
    EXPECT_EQ(tokenTile("f4E2M1FN, block = [1, 32], scale = f8E8M0FNU", tokens),
              256);
  }
}
