//===- Printable.h - Text from files in messages ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_IMPORT_PRINTABLE_H
#define QUANT_LLM_LIB_IMPORT_PRINTABLE_H

#include <string>
#include <string_view>

namespace quant_llm {

/// Text from a file for a message in quotes: cut if very long, bytes that are
/// not printable ASCII as \xNN. A name in a file must not be able to control
/// the terminal or break a consumer that expects UTF-8.
inline std::string printable(std::string_view text) {
  constexpr size_t longest = 80;
  const char *digits = "0123456789abcdef";
  std::string result;
  for (char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
      continue;
    }
    result += "\\x";
    result += digits[byte >> 4];
    result += digits[byte & 15];
  }
  return text.size() > longest ? result + "..." : result;
}

} // namespace quant_llm

#endif // QUANT_LLM_LIB_IMPORT_PRINTABLE_H
