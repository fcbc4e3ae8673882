//===- Options.h - What is wrong with options of passes ---------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CAPI_OPTIONS_H
#define QUANT_LLM_LIB_CAPI_OPTIONS_H

#include "llvm/ADT/StringRef.h"

#include <string>

namespace quant_llm {

/// LLVM's parsers of options say what is wrong with a value on standard error,
/// where a caller of a library does not look. This finds the first value that
/// the pass or pipeline `name` does not take, and says what it takes, after
/// `text` its options were refused; empty if nothing is to be said.
std::string explainOptions(llvm::StringRef name, llvm::StringRef text);

/// The same for the message of a pipeline that cannot be parsed.
std::string explainPipelineError(llvm::StringRef message);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CAPI_OPTIONS_H
