//===- VerifyTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

using namespace quant_llm;
using namespace quant_llm::test;

namespace {

/// int4, groups of 128 columns, f16.
KernelProblem makeProblem(int64_t n = 4096, int64_t k = 4096) {
  KernelProblem problem;
  problem.scheme.blockK = 128;
  problem.n = n;
  problem.k = k;
  return problem;
}

KernelConfig makeFewTokens() {
  KernelConfig config;
  config.family = KernelFamily::FewTokens;
  config.copy = ActivationCopy::Tensor;
  config.rowTile = 16;
  config.tokenTile = 8;
  config.stageK = 1024;
  config.stages = 4;
  config.warpsRows = 1;
  config.warpsK = 8;
  config.ctasPerSM = 2;
  config.maxTokens = 8;
  return config;
}

ChipLimits chip(const char *name) {
  Result<ChipLimits> limits = getChipLimits(name);
  EXPECT_TRUE(limits.ok()) << limits.message();
  return *limits;
}

void expectRefused(const KernelProblem &problem, const KernelConfig &config,
                   const char *chipName, const std::string &message) {
  expectError(verifyKernel(problem, config, chip(chipName)), message);
}

} // namespace

TEST(VerifyTest, Chips) {
  ChipLimits hopper = chip("sm_90a");
  EXPECT_EQ(hopper.computeCapability, 90);
  EXPECT_EQ(hopper.sharedBytesPerCTA, 232448);
  EXPECT_TRUE(hopper.hasWgmma);
  EXPECT_FALSE(chip("sm_90").hasWgmma);
  EXPECT_TRUE(chip("sm_120a").hasBulkCopy);
  EXPECT_FALSE(chip("sm_120a").hasWgmma);
  EXPECT_FALSE(chip("sm_89").hasBulkCopy);
  EXPECT_EQ(chip("sm_86").sharedBytesPerCTA, 99 * 1024);
  expectError(getChipLimits("sm_70"),
              "expected a chip out of sm_80, sm_86, sm_89, sm_90, sm_90a, "
              "sm_100a, sm_120a but got 'sm_70'");
}

TEST(VerifyTest, Names) {
  for (KernelFamily family :
       {KernelFamily::FewTokens, KernelFamily::Multistage, KernelFamily::Wgmma})
    EXPECT_EQ(parseKernelFamily(getName(family)), family);
  for (ActivationCopy copy : {ActivationCopy::Tensor, ActivationCopy::Async16,
                              ActivationCopy::Element})
    EXPECT_EQ(parseActivationCopy(getName(copy)), copy);
  EXPECT_FALSE(parseKernelFamily("tokens"));
  EXPECT_FALSE(parseActivationCopy(""));
  EXPECT_EQ(describe(makeFewTokens()),
            "1 to 8 tokens: few_tokens, 16 rows x 8 tokens, 4 stages of 1024 "
            "columns, warps 1 x 8, split 1, 2 per multiprocessor, copies "
            "tensor");
}

TEST(VerifyTest, Accepts) {
  Status status = verifyKernel(makeProblem(), makeFewTokens(), chip("sm_90a"));
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(
      verifyKernel(makeProblem(1, 8), KernelConfig(), chip("sm_80")).ok());
}

TEST(VerifyTest, Problems) {
  KernelConfig config;
  KernelProblem problem = makeProblem();
  auto refused = [&](const std::string &message) {
    expectRefused(problem, config, "sm_90a", message);
    problem = makeProblem();
  };
  problem.n = 0;
  refused("expected 1 to 67108864 rows of a weight (kernels count bytes in 32 "
          "bits) but got 0");
  // 2^31 bytes of a strip of codes of 8 bits.
  problem.k = int64_t(1) << 27;
  refused("expected 1 to 67108864 columns of a weight (kernels count bytes in "
          "32 bits) but got 134217728");
  problem.k = INT64_MAX;
  refused("but got 9223372036854775807");
  problem.activation = TensorType::F32;
  refused("expected activations of f16 or bf16 but got f32");
  problem.numWeights = 3;
  refused("expected one or two weights but got 3");
  problem.epilogue.resize(17);
  refused("expected at most 16 operands of an epilogue but got 17");
  problem.scheme.blockK = 8;
  problem.scheme.blockN = 1;
  refused("expected blocks of at least 16 columns, or of all rows");
  problem.scheme.element.bits = 9;
  refused("expected an element of 1 to 8 bits but got 9");
}

TEST(VerifyTest, EveryScheme) {
  std::string codebook = "codebook<8, [-1";
  for (int i = 1; i != 256; ++i)
    codebook += ", " + std::to_string(i / 256.0);
  std::vector<std::string> elements = {"ternary",  "f4E2M1FN",     "f6E2M3FN",
                                       "f6E3M2FN", "f8E4M3FN",     "f8E5M2",
                                       "nf4",      codebook + "]>"};
  for (int bits = 1; bits <= 8; ++bits)
    for (const char *kind : {"int", "uint"})
      elements.push_back(kind + std::to_string(bits));
  KernelProblem problem = makeProblem();
  problem.n = 130;
  problem.k = 320;
  KernelConfig config;
  config.family = KernelFamily::Multistage;
  config.copy = ActivationCopy::Async16;
  int64_t count = 0;
  for (const std::string &element : elements)
    for (const char *scale : {"f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN",
                              "scheme<f8E4M3FN, block = [-1, -1], scale = f32>",
                              "scheme<uint8, block = [1, 4], scale = f32>"})
      for (const char *zero : {"", "int", "f16", "bf16", "f32", "f8E4M3FN"})
        for (const char *block :
             {"[-1, -1]", "[1, -1]", "[-1, 1]", "[1, 16]", "[1, 64]",
              "[1, 128]", "[1, 24]", "[16, 32]", "[128, 128]"}) {
          std::string text =
              element + ", block = " + block + ", scale = " + scale;
          if (*zero)
            text += std::string(", zero = ") + zero + ", rule = minmax";
          else if (element == "int1")
            text += ", rule = absmax_full";
          Result<Scheme> scheme = parseScheme(text);
          // docs/Spec.md does not have all combinations of zeros.
          if (!scheme.ok() || !verifyScheme(*scheme, problem.n, problem.k).ok())
            continue;
          problem.scheme = *scheme;
          Status status = verifyKernel(problem, config, chip("sm_80"));
          EXPECT_TRUE(status.ok()) << text << ": " << status.message();
          ++count;
        }
  // Of 24 elements, with all zeros or all but one or five.
  EXPECT_GT(count, 24 * 7 * 9 * 4);
}

TEST(VerifyTest, Configurations) {
  KernelConfig config;
  auto refused = [&](const std::string &message) {
    expectError(verifyConfig(config), message);
    config = KernelConfig();
  };
  for (const ConfigField &field : getConfigFields())
    for (int64_t value : {int64_t(-1), int64_t(0), INT64_MAX}) {
      if (field.member == &KernelConfig::split && value == kStreamK)
        continue;
      config.*field.member = value;
      refused("expected " + std::string(field.name) +
              " to be 1 to 65536 but got " + std::to_string(value));
    }
  config.minTokens = 0;
  refused("expected tokens to be a range from 1 on but got [0, ");
  config.minTokens = 3, config.maxTokens = 2;
  refused("expected tokens to be a range from 1 on but got [3, 2]");
  config.rowTile = 24;
  refused("expected row_tile to be a multiple of 16 but got 24");
  config.tokenTile = 12;
  refused("expected token_tile to be a multiple of 8 but got 12");
  config.stageK = 32;
  refused("expected stage_k to be a multiple of 64 but got 32");
  config.warpsRows = 65536, config.warpsK = 65536;
  refused("expected warps that give at most 1024 threads but got 137438953472");
}

TEST(VerifyTest, Tiles) {
  KernelProblem problem = makeProblem();
  KernelConfig config = makeFewTokens();
  auto refused = [&](const std::string &message,
                     const char *chipName = "sm_90a") {
    expectRefused(problem, config, chipName, message);
    problem = makeProblem();
    config = makeFewTokens();
  };
  config.stageK = 64, config.warpsK = 1;
  refused("expected stage_k to be a multiple of 128 for the family few_tokens "
          "but got 64");
  config.rowTile = 48, config.warpsRows = 2;
  refused("expected warps_rows to divide the 3 strips of 16 rows of row_tile "
          "but got 2");
  config.warpsK = 3;
  refused("expected warps_k to divide the 8 units of 128 columns of stage_k "
          "but got 3");
  config.stages = 1;
  refused("expected at least 2 stages but got 1");
  config.split = 9;
  refused("expected split to be 1 to 4 (few_tokens: the CTAs of a cluster, at "
          "most 8, and at most one per stage_k columns; else 1) but got 9");
  refused("expected a chip with bulk copies (sm_90 or later) for the family "
          "few_tokens but got sm_89",
          "sm_89");
  config.copy = ActivationCopy::Async16;
  refused("expected copy = tensor for the family few_tokens but got async16");
  config.tokenTile = 512, config.stageK = 128, config.warpsK = 1;
  refused("expected token_tile to be at most 256");
  config.family = KernelFamily::Multistage;
  refused("expected copy = async16 or element for the family multistage but "
          "got tensor");
  problem.k = 100;
  refused("expected the family multistage with copy = element, because rows of "
          "100 columns do not begin at multiples of 16 bytes, but got the "
          "family few_tokens with copy = tensor");
}

TEST(VerifyTest, Experts) {
  KernelProblem problem = makeProblem(96, 2048);
  problem.experts = 8;
  EXPECT_TRUE(verifyKernel(problem, makeFewTokens(), chip("sm_90a")).ok());
  KernelConfig config;
  config.family = KernelFamily::Wgmma;
  config.copy = ActivationCopy::Tensor;
  config.tokenTile = 64;
  config.stageK = 64;
  config.warpsRows = 1;
  expectRefused(problem, config, "sm_90a",
                "expected experts with a multiple of 64 rows for the family "
                "wgmma but got 96");
  problem.n = 128;
  Status status = verifyKernel(problem, config, chip("sm_90a"));
  EXPECT_TRUE(status.ok()) << status.message();
  problem.experts = int64_t(1) << 30;
  expectRefused(problem, config, "sm_90a",
                "expected at most 524288 experts of 128 rows but got "
                "1073741824");
}

TEST(VerifyTest, StreamK) {
  KernelProblem problem = makeProblem(1280, 8192);
  KernelConfig config;
  config.family = KernelFamily::Wgmma;
  config.copy = ActivationCopy::Tensor;
  config.rowTile = 128;
  config.tokenTile = 128;
  config.stageK = 64;
  config.warpsRows = 2;
  config.split = kStreamK;
  Status status = verifyKernel(problem, config, chip("sm_90a"));
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_NE(describe(config).find(", split stream_k, "), std::string::npos);
  config.warpsRows = 1;
  config.warpsK = 2;
  expectRefused(problem, config, "sm_90a",
                "expected warps_k = 1 with split = stream_k but got 2");
  config.warpsK = 1;
  problem.experts = 8;
  expectRefused(problem, config, "sm_90a",
                "expected no split = stream_k for experts");
  problem.experts = 0;
  config = makeFewTokens();
  config.split = kStreamK;
  expectRefused(problem, config, "sm_90a",
                "expected the family wgmma for split = stream_k but got "
                "few_tokens");
}

TEST(VerifyTest, ChipLimits) {
  KernelProblem problem = makeProblem();
  KernelConfig config = makeFewTokens();
  config.tokenTile = 256;
  config.stageK = 128;
  config.warpsK = 1;
  config.rowTile = 128;
  // 8 strips x 32 tiles x 4 sums.
  expectRefused(problem, config, "sm_90a",
                "expected sums for 255 registers a thread (64 threads, 2 CTAs "
                "per multiprocessor), of which 372 are needed for other "
                "things, but row_tile, token_tile and warps_rows ask for "
                "1024");
  config = makeFewTokens();
  config.stages = 16;
  expectRefused(problem, config, "sm_90a",
                "expected at most 232448 bytes of shared memory on sm_90a but "
                "the stages need ");
  config.stages = 6;
  expectRefused(problem, config, "sm_90a",
                "expected 2 CTAs to fit into the 233472 bytes of shared memory "
                "of a multiprocessor of sm_90a but they need ");
  // What fits a CTA exactly fits once.
  config.ctasPerSM = 1;
  EXPECT_TRUE(verifyKernel(problem, config, chip("sm_90a")).ok());
}
