//===- AttributeNames.h - Discardable attributes of quant_llm ---*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What passes tell later passes and the runtime about modules and functions.
// The dialect verifies the form of these attributes, so that a reader may rely
// on it whoever wrote them.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTENAMES_H
#define QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTENAMES_H

#include "llvm/ADT/StringRef.h"

namespace quant_llm {

/// On a function, unit: `quant_llm.dispatch` calls it; it works on buffers.
inline constexpr llvm::StringLiteral kKernelAttrName = "quant_llm.kernel";

/// On a kernel: its parallel regions use threads only if there is enough work.
/// An array of i64: the least work, a factor, and pairs of the number of an
/// argument and a dimension of it; the work is the product of all these.
inline constexpr llvm::StringLiteral kParallelIfAttrName =
    "quant_llm.parallel_if";

/// On a function, an array of i64: for each of its results before
/// bufferization the argument that was updated in place and has become this
/// result, or -1.
inline constexpr llvm::StringLiteral kResultAliasesAttrName =
    "quant_llm.result_aliases";

/// On a module, an array of strings: the messages of the checks in its code.
inline constexpr llvm::StringLiteral kChecksAttrName = "quant_llm.checks";

/// On a module, an array of strings: the kernels that a profile counts.
inline constexpr llvm::StringLiteral kProfiledKernelsAttrName =
    "quant_llm.profiled_kernels";

/// On a module, an array of dictionaries: symbol, archive and key (strings) and
/// type (of a memref) of each parameter that the runtime has to bind.
inline constexpr llvm::StringLiteral kParametersAttrName =
    "quant_llm.parameters";

/// On a channel transform, unit: it is left where it is, because nothing
/// absorbs it or its partner does not need it to move.
inline constexpr llvm::StringLiteral kOnlineAttrName = "quant_llm.online";

/// On an argument of a function that is a state (a cache), unit: its elements
/// and those of the result that it becomes are transformed ones.
inline constexpr llvm::StringLiteral kChangedStateAttrName =
    "quant_llm.changed_state";

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTENAMES_H
