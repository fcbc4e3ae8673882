//===- RuntimeFunctions.h - What generated code calls -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Names of the symbols that the runtime of the CPU defines. Names that begin
// with kRuntimePrefix belong to the passes and the runtime.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_QUANTLLMTOCPU_RUNTIMEFUNCTIONS_H
#define QUANT_LLM_CONVERSION_QUANTLLMTOCPU_RUNTIMEFUNCTIONS_H

#include "llvm/ADT/StringRef.h"

namespace quant_llm {

inline constexpr llvm::StringLiteral kRuntimePrefix = "__quant_llm_";

/// (i64, i64, i64) -> (): ends the call with a message of `quant_llm.checks`
/// and two numbers for it. Not to be called in parallel regions.
inline constexpr llvm::StringLiteral kFailCheckFunction =
    "__quant_llm_fail_check";
/// (i64, i64, i64) -> (): the same unless the first number is negative.
inline constexpr llvm::StringLiteral kRequireFunction = "__quant_llm_require";

/// The end of messages that say what a check got, {0}, and the bound of that,
/// {1} (the last one of the message).
inline constexpr llvm::StringLiteral kGotValue = " but got {0}";

/// A variable that stands for the call in progress.
inline constexpr llvm::StringLiteral kCallState = "__quant_llm_call_state";
/// @{ (state, i64, i64, i64) -> () and (state, index as i64, extent as i64) ->
/// (): note a failed check or an index out of range. They return, on any
/// thread; the call fails when the kernel is done.
inline constexpr llvm::StringLiteral kCheckFaultFunction =
    "__quant_llm_check_fault";
inline constexpr llvm::StringLiteral kIndexFaultFunction =
    "__quant_llm_index_fault";
/// @}

/// @{ The functions behind memref.alloc and memref.dealloc by the names of
/// upstream's lowering, and those of the runtime, which take the state first.
inline constexpr llvm::StringLiteral kAllocFunction =
    "_mlir_memref_to_llvm_aligned_alloc";
inline constexpr llvm::StringLiteral kFreeFunction =
    "_mlir_memref_to_llvm_free";
inline constexpr llvm::StringLiteral kAllocateFunction = "__quant_llm_allocate";
inline constexpr llvm::StringLiteral kReleaseFunction = "__quant_llm_release";
/// @}

/// @{ () -> i64 and (times, number of the kernel, i64) -> ().
inline constexpr llvm::StringLiteral kProfileBeginFunction =
    "__quant_llm_profile_begin";
inline constexpr llvm::StringLiteral kProfileEndFunction =
    "__quant_llm_profile_end";
inline constexpr llvm::StringLiteral kProfileTimes =
    "__quant_llm_profile_times";
/// @}

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_QUANTLLMTOCPU_RUNTIMEFUNCTIONS_H
