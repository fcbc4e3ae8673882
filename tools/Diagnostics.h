//===- Diagnostics.h - How the tools report errors --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_DIAGNOSTICS_H
#define QUANT_LLM_TOOLS_DIAGNOSTICS_H

#include "StandardOutput.h"

#include "quant-llm/Support/AtomicFile.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/CrashRecoveryContext.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/Signals.h"

#include <cstdio>

#include <unistd.h>

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

/// The first thing that a tool does: what it cannot print, because the disk is
/// full or standard output is closed, ends it with a message and `exitCode`.
/// The streams of LLVM end with a fatal error when they are closed at the
/// latest, and this is what it is like.
inline void reportLostOutput(const char *tool, int exitCode = 1) {
  reserveStandardOutput();
  static const char *name;
  static int code;
  name = tool;
  code = exitCode;
  llvm::install_fatal_error_handler([](void *, const char *reason, bool) {
    llvm::StringRef text(reason);
    bool isOutput = text.consume_front("IO failure on output stream: ");
    std::fprintf(stderr, "%s: error: %s%s\n", name,
                 isOutput ? "cannot write the output: " : "", text.data());
    // What ends only a part of the work is for who started that part.
    if (!isOutput && llvm::CrashRecoveryContext::GetCurrent())
      return;
    llvm::sys::RunInterruptHandlers();
    abandonFiles();
    ::_exit(code);
  });
}

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_DIAGNOSTICS_H
