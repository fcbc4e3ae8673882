//===- SmallWork.h - When threads do not pay --------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Waking the other threads takes a few microseconds, so each kernel does small
// work on the calling thread. All thresholds are here; they were measured on
// two cores with AVX-512.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_SMALLWORK_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_SMALLWORK_H

#include <cstdint>

namespace quant_llm {

/// Multiplications (tokens x N x K) of a linear. With one token it also waits
/// for memory, so its multiplications count for more than those of a
/// contraction.
inline constexpr int64_t kLeastParallelLinear = 1 << 17;

/// Multiplications of a contraction of activations.
inline constexpr int64_t kLeastParallelContraction = 1 << 19;

/// Scalar operations of other loops, a function of the math dialect counted as
/// eight.
inline constexpr int64_t kLeastParallelLoop = 1 << 16;

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_SMALLWORK_H
