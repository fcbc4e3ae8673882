//===- ParseSafely.h - Parsers of MLIR, guarded -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_PARSER_PARSESAFELY_H
#define QUANT_LLM_PARSER_PARSESAFELY_H

#include "quant-llm/Support/Status.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <string_view>

namespace quant_llm {

/// Runs `parse`, which gives `source` (text or bytecode) to MLIR's parser. The
/// error tells why that cannot be done: what checkSource() finds, without
/// running `parse`, or that the parser would have ended the process
/// (docs/UpstreamIssues.md). What `parse` had allocated until then is lost, so
/// that it should do nothing else. Errors that the parser reports are its own
/// affair.
///
/// While it runs, the handlers of the signals of a fault are LLVM's; faults of
/// other threads go to those that were there.
Status parseSafely(std::string_view source, llvm::function_ref<void()> parse);

/// Whether `source` has an operation for which MLIR's parser is known to end
/// the process, or the name of one in a string or a comment.
bool mayFaultParser(std::string_view source);

} // namespace quant_llm

#endif // QUANT_LLM_PARSER_PARSESAFELY_H
