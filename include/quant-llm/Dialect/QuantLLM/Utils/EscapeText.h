//===- EscapeText.h - Foreign texts in messages -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_ESCAPETEXT_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_ESCAPETEXT_H

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace quant_llm {

/// Without line breaks and other control characters: messages have one line.
inline std::string escapeText(llvm::StringRef text) {
  std::string escaped;
  for (char c : text) {
    if (c == '\n')
      escaped += "\\n";
    else if (c == '\t')
      escaped += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      escaped +=
          "\\x" + llvm::toHex(llvm::StringRef(&c, 1), /*LowerCase=*/true);
    else
      escaped += c;
  }
  return escaped;
}

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_ESCAPETEXT_H
