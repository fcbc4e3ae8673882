//===- OptionErrors.h - What LLVM says of options, reworded -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// LLVM judges options of command lines, and of MLIR's own passes, itself. What
// it says is that a value is wrong, but seldom what would be right: here that
// becomes what was expected and what was found.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_OPTIONERRORS_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_OPTIONERRORS_H

#include "llvm/ADT/APInt.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <string>
#include <vector>

namespace quant_llm {

/// An option, as LLVM's help has it.
struct OptionHelp {
  std::string name;
  /// Where it is one of several names, these.
  std::vector<std::string> values;
};

/// The options of a pass or pipeline of that name; none if there is no such.
std::vector<OptionHelp> findPassOptions(llvm::StringRef name);

/// What is expected instead of `text`, which is no integer in [least, most].
template <typename T>
std::string expectInteger(llvm::StringRef text, T least, T most) {
  llvm::APInt any;
  text.consume_front("-");
  if (text.getAsInteger(0, any))
    return "an integer";
  return "an integer from " + std::to_string(least) + " to " +
         std::to_string(most);
}

/// What was expected and found where LLVM's parsers of values say `error`, such
/// as "'abc' value invalid for integer argument!"; `error` itself if it is none
/// of theirs. `help` is what is known of the option, if anything.
std::string describeValueError(llvm::StringRef error, const OptionHelp *help);

/// Reads a command line into LLVM's options; after `overview` comes what --help
/// lists. False if it is wrong: `message` is what, in one sentence.
bool parseCommandLine(llvm::ArrayRef<char *> arguments,
                      llvm::StringRef overview, std::string &message);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_OPTIONERRORS_H
