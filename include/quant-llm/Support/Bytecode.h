//===- Bytecode.h - Can MLIR be given a buffer ------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The reader of MLIR 22.1 trusts much of what it reads: counts size its tables,
// and attributes are built without being verified. The parser of text recurses
// without bound. A damaged file would end the process (docs/UpstreamIssues.md),
// so whoever gives MLIR a buffer does that by parseSafely() (Parser/), which
// begins with checkSource().
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_BYTECODE_H
#define QUANT_LLM_SUPPORT_BYTECODE_H

#include "quant-llm/Support/Status.h"

#include <string_view>

namespace quant_llm {

/// Whether `buffer` begins like bytecode; anything else is text to MLIR.
bool isBytecode(std::string_view buffer);

/// Checks that the reader of MLIR 22.1 can be given `buffer`, which must begin
/// like bytecode: sections, tables, every attribute and type, and the structure
/// of the IR. Not checked is what text and the verifiers of operations
/// decide, which report errors themselves. Refused beside damaged files are
/// those of versions before 5, with attributes in encodings other than those of
/// the dialects builtin and quant, and with deeper nesting than a stack holds.
Status checkBytecode(std::string_view buffer);

/// Checks that text is not nested more deeply than a stack holds: brackets,
/// operators in expressions, and aliases of attributes and types in each other.
/// Anything else the parser decides.
Status checkTextNesting(std::string_view text);

/// checkBytecode() of bytecode, else that it is text, and checkTextNesting().
Status checkSource(std::string_view buffer);

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_BYTECODE_H
