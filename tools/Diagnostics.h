//===- Diagnostics.h - How the tools report errors --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_DIAGNOSTICS_H
#define QUANT_LLM_TOOLS_DIAGNOSTICS_H

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"

namespace quant_llm {

/// The command line of a tool of MLIR, with the default that errors do not
/// repeat the operation that they are about: that may be a whole module.
inline llvm::SmallVector<char *> addDiagnosticDefaults(int argc, char **argv) {
  static char quiet[] = "--mlir-print-op-on-diagnostic=false";
  llvm::SmallVector<char *> arguments(argv, argv + argc);
  bool isGiven = llvm::any_of(arguments, [](llvm::StringRef argument) {
    return argument.ltrim('-').starts_with("mlir-print-op-on-diagnostic");
  });
  if (!isGiven && argc > 0)
    arguments.insert(arguments.begin() + 1, quiet);
  return arguments;
}

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_DIAGNOSTICS_H
