//===- CommandLine.h - How the tools read command lines ---------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_COMMANDLINE_H
#define QUANT_LLM_TOOLS_COMMANDLINE_H

#include "quant-llm/Dialect/QuantLLM/Utils/OptionErrors.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/raw_ostream.h"

#include <string>

namespace quant_llm {

/// Reads the command line of `tool` into LLVM's options; false after a message
/// if it is wrong.
inline bool readCommandLine(llvm::StringRef tool,
                            llvm::ArrayRef<char *> arguments,
                            llvm::StringRef overview) {
  std::string message;
  if (parseCommandLine(arguments, overview, message))
    return true;
  llvm::errs() << tool << ": error: " << message << "; '" << tool
               << " --help' lists all options\n";
  return false;
}

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_COMMANDLINE_H
