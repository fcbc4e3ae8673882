//===- Text.h - Text in file formats ----------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_FORMATS_TEXT_H
#define QUANT_LLM_LIB_FORMATS_TEXT_H

#include <string>
#include <string_view>

namespace quant_llm {

/// Whether the bytes are valid UTF-8 (no overlong forms, no surrogates).
bool isValidUtf8(std::string_view text);

/// Appends `text`, valid UTF-8, as a JSON string with its quotes.
void appendJsonString(std::string &out, std::string_view text);

/// Text from a file for a message: shortened if very long, with bytes that are
/// not printable ASCII as \xNN.
std::string makePrintable(std::string_view text);

/// The same in quotes.
std::string quoteForMessage(std::string_view text);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_FORMATS_TEXT_H
