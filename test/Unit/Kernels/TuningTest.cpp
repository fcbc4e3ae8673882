//===- TuningTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/Tuning.h"
#include "quant-llm/Kernels/StreamK.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

using namespace quant_llm;
using namespace quant_llm::test;

namespace {

const char *const kernelText =
    R"({"family": "multistage", "copy": "async16", "row_tile": 64,
        "token_tile": 16, "stage_k": 256, "stages": 3, "warps_rows": 4,
        "warps_k": 2, "split": 1, "ctas_per_sm": 2, "tokens": [1, null]})";

/// A file of one entry whose text is changed at one place.
std::string makeFile(const std::string &from = "", const std::string &to = "") {
  std::string text =
      R"({"schema": "quant_llm.tuning/1", "entries": [
          {"chip": "sm_80", "scheme": "#s", "n": 64, "k": 128,
           "kernels": [)" +
      std::string(kernelText) + "]}]}";
  if (!from.empty()) {
    size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
  }
  return text;
}

KernelConfig forTokens(int64_t low, int64_t high) {
  KernelConfig config;
  config.minTokens = low;
  config.maxTokens = high;
  return config;
}

} // namespace

TEST(TuningTest, Reads) {
  Result<std::vector<TuningEntry>> entries = parseTuning(makeFile());
  ASSERT_TRUE(entries.ok()) << entries.message();
  ASSERT_EQ(entries->size(), 1u);
  const TuningEntry &entry = entries->front();
  EXPECT_EQ(entry.chip, "sm_80");
  EXPECT_EQ(entry.scheme, "#s");
  EXPECT_EQ(entry.n, 64);
  EXPECT_EQ(entry.k, 128);
  EXPECT_EQ(entry.weights, 1);
  ASSERT_EQ(entry.kernels.size(), 1u);
  const KernelConfig &config = entry.kernels.front();
  EXPECT_EQ(config.family, KernelFamily::Multistage);
  EXPECT_EQ(config.copy, ActivationCopy::Async16);
  EXPECT_EQ(config.rowTile, 64);
  EXPECT_EQ(config.stages, 3);
  EXPECT_EQ(config.warpsK, 2);
  EXPECT_EQ(config.ctasPerSM, 2);
  EXPECT_EQ(config.minTokens, 1);
  EXPECT_EQ(config.maxTokens, INT64_MAX);
  EXPECT_EQ(parseTuning(makeFile(R"("n": 64)", R"("weights": 2, "n": 64)"))
                ->front()
                .weights,
            2);
  auto splitOf = [](const std::string &text) {
    return parseTuning(makeFile(R"("split": 1)", R"("split": )" + text))
        ->front()
        .kernels.front()
        .split;
  };
  EXPECT_EQ(splitOf("4"), 4);
  EXPECT_EQ(splitOf(R"("stream_k")"), kStreamK);
  EXPECT_EQ(entry.experts, 0);
  EXPECT_EQ(parseTuning(makeFile(R"("n": 64)", R"("experts": 8, "n": 64)"))
                ->front()
                .experts,
            8);
}

TEST(TuningTest, Refuses) {
  auto refused = [](const std::string &from, const std::string &to,
                    const std::string &message) {
    expectError(parseTuning(makeFile(from, to)), message);
  };
  expectError(parseTuning(""), "");
  expectError(parseTuning("[]"), "tuning file: expected an object");
  expectError(parseTuning("{}"), "tuning file: expected a field 'schema'");
  refused("tuning/1", "tuning/2",
          "expected 'schema' to be 'quant_llm.tuning/1' but got "
          "'quant_llm.tuning/2'");
  refused(R"("entries")", R"("items")", "expected a field 'entries'");
  refused(R"("sm_80")", R"("sm_1")", "entry 0: expected a chip out of sm_80");
  refused(R"("sm_80")", "7", "entry 0: expected 'chip' to be text");
  refused(R"("#s")", R"("")", "entry 0: expected 'scheme' to be text");
  refused(R"("n": 64)", R"("n": -64)",
          "entry 0: expected 'n' to be an integer from 1 to 1073741824 but "
          "got -64");
  refused(R"("n": 64)", R"("n": 64.5)", "but got 64.5");
  refused(R"("n": 64)", R"("weights": 3, "n": 64)",
          "entry 0: expected 'weights' to be an integer from 1 to 2 but got 3");
  refused(R"("k": 128)", R"("k": 128, "m": 1)",
          "entry 0: expected no field 'm'");
  refused("multistage", "multi",
          "entry 0, kernel 0: expected 'family' to be one of few_tokens, "
          "multistage, wgmma but got 'multi'");
  refused("async16", "async",
          "expected 'copy' to be one of tensor, async16, element but got "
          "'async'");
  refused(R"("stages": 3)", R"("stages": 1e99)",
          "kernel 0: expected 'stages' to be an integer");
  refused(R"("stages": 3,)", "", "kernel 0: expected a field 'stages'");
  for (const char *split : {"0", R"("stream")"})
    refused(R"("split": 1)", std::string(R"("split": )") + split,
            "kernel 0: expected 'split' to be an integer from 1");
  refused(R"("row_tile": 64)", R"("row_tile": 65)",
          "kernel 0: expected row_tile to be a multiple of 16 but got 65");
  refused("[1, null]", "[1]",
          "kernel 0: expected 'tokens' to be [min, max] but got 1 elements");
  refused("[1, null]", "[null, 4]", "but got null");
  refused("[1, null]", "[1, 8]",
          "entry 0: expected the last kernel to be for all tokens from 1 on "
          "but it ends at 8");
  refused(kernelText, "", "entry 0: expected at least one kernel");
  refused(kernelText, "5", "entry 0, kernel 0: expected an object");
  std::string entry = makeFile();
  entry = entry.substr(entry.find('[') + 1);
  entry.resize(entry.size() - 2);
  refused("{\"chip\"", entry + ", {\"chip\"",
          "entry 1: expected every chip, scheme, n, k, weights and experts "
          "once");
  refused(R"("n": 64)", R"("experts": 0, "n": 64)",
          "entry 0: expected 'experts' to be an integer from 1");
}

TEST(TuningTest, Coverage) {
  auto covered = [](std::vector<KernelConfig> kernels) {
    return verifyCoverage(kernels);
  };
  EXPECT_TRUE(covered({forTokens(1, INT64_MAX)}).ok());
  EXPECT_TRUE(
      covered({forTokens(1, 8), forTokens(9, 9), forTokens(10, INT64_MAX)})
          .ok());
  expectError(covered({}), "expected at least one kernel");
  expectError(covered({forTokens(2, INT64_MAX)}),
              "expected a kernel from 1 tokens on but got one from 2");
  expectError(covered({forTokens(1, 8), forTokens(10, INT64_MAX)}),
              "expected a kernel from 9 tokens on but got one from 10");
  expectError(covered({forTokens(1, INT64_MAX), forTokens(1, INT64_MAX)}),
              "expected no kernel behind one for all further tokens but got "
              "one from 1");
}
