//===- Rounding.h - Whole multiples -----------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_ROUNDING_H
#define QUANT_LLM_SUPPORT_ROUNDING_H

#include <cstdint>

namespace quant_llm {

/// a / b, rounded up; for a >= 0 and b > 0, without overflow.
constexpr int64_t ceilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/// The smallest multiple of `multiple` that is not below `value`.
constexpr int64_t roundUp(int64_t value, int64_t multiple) {
  return ceilDiv(value, multiple) * multiple;
}

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_ROUNDING_H
