//===- Options.h - Command line of quant-bench ------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_OPTIONS_H
#define QUANT_LLM_TOOLS_QUANTBENCH_OPTIONS_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm::bench {

/// What to measure: linear layers of a directory that is there, or of one that
/// is compiled first.
struct Case {
  std::string artifact;
  /// Name of the linear; empty for all.
  std::string linear;
  /// A problem to compile, if there is no artifact.
  int64_t n = 0;
  int64_t k = 0;
  /// Of a grouped linear, n x k being the weight of one; 0 for a linear.
  int64_t experts = 0;
  std::string scheme;
  std::string activation = "f16";
  /// Steps of the epilogue (parseEpilogue).
  std::string epilogue;
  /// Of a grouped linear: of all experts.
  std::vector<int64_t> tokens;
};

struct Options {
  std::vector<Case> cases;
  std::string json;
  std::string chip = "sm_90a";
  /// Where to compile to; empty for a temporary directory.
  std::string directory;
  bool compileOnly = false;
  /// No timing, so also without limits and cuBLAS.
  bool verifyOnly = false;
  std::string compiler;
  std::string cublas;
  std::string driver;
  int64_t device = 0;
  int64_t replays = 30;
  int64_t seed = 1;
  bool help = false;
  bool version = false;
};

/// Reads the command line (without the name of the program) and the file of
/// --cases.
Result<Options> parseOptions(const std::vector<std::string> &arguments);

/// The text of --help.
const char *getUsage();

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_OPTIONS_H
