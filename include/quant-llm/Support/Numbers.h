//===- Numbers.h - Numbers in messages and names ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_NUMBERS_H
#define QUANT_LLM_SUPPORT_NUMBERS_H

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <type_traits>

namespace quant_llm {

/// The shortest decimal number, as %g writes it, that reads back as `value`.
template <typename T>
std::string formatShortest(T value) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  char buffer[32];
  for (int digits = 1; digits <= std::numeric_limits<T>::max_digits10;
       ++digits) {
    std::snprintf(buffer, sizeof(buffer), "%.*g", digits,
                  static_cast<double>(value));
    T read;
    if constexpr (std::is_same_v<T, float>)
      read = std::strtof(buffer, nullptr);
    else
      read = std::strtod(buffer, nullptr);
    if (read == value)
      break;
  }
  return buffer;
}

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_NUMBERS_H
