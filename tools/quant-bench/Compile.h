//===- Compile.h - A linear layer for the occasion --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_COMPILE_H
#define QUANT_LLM_TOOLS_QUANTBENCH_COMPILE_H

#include "Options.h"

namespace quant_llm::bench {

/// Writes a module with one linear layer of random weights to `directory` and
/// compiles it there with quant-opt; the directory then is an artifact.
Status compileCase(const Case &given, const Options &options,
                   const std::string &directory);

/// Ends the compiler that compileCase waits for, if it does, by a signal. For
/// another thread.
void stopCompiler(int signal);

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_COMPILE_H
