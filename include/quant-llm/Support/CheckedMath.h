//===- CheckedMath.h - Arithmetic that notices overflow ---------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_CHECKEDMATH_H
#define QUANT_LLM_SUPPORT_CHECKEDMATH_H

#include <optional>

namespace quant_llm {

/// a * b, or nothing if T cannot hold it.
template <typename T>
std::optional<T> checkedMul(T a, T b) {
  T result;
  if (__builtin_mul_overflow(a, b, &result))
    return std::nullopt;
  return result;
}

/// a + b, or nothing if T cannot hold it.
template <typename T>
std::optional<T> checkedAdd(T a, T b) {
  T result;
  if (__builtin_add_overflow(a, b, &result))
    return std::nullopt;
  return result;
}

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_CHECKEDMATH_H
