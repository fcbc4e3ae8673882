//===- ListAlternatives.h - Names in messages -------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_LISTALTERNATIVES_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_LISTALTERNATIVES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace quant_llm {

/// "a, b or c".
inline std::string listAlternatives(llvm::ArrayRef<llvm::StringRef> names) {
  std::string text;
  for (const auto &[i, name] : llvm::enumerate(names)) {
    text += i == 0 ? "" : i + 1 == names.size() ? " or " : ", ";
    text += name;
  }
  return text;
}

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_LISTALTERNATIVES_H
