//===- LinalgToQuantLLM.h - Raising contractions of weights -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_LINALGTOQUANTLLM_LINALGTOQUANTLLM_H
#define QUANT_LLM_CONVERSION_LINALGTOQUANTLLM_LINALGTOQUANTLLM_H

#include "mlir/IR/Value.h"

#include <functional>

namespace mlir {
class RewritePatternSet;
} // namespace mlir

namespace quant_llm {

/// Adds the patterns that turn linalg contractions with a weight accepted by
/// `isWeight` into quant_llm.linear, and that move reshapes of leading
/// dimensions from the input of a linear to its result.
void populateLinalgToQuantLLMPatterns(
    mlir::RewritePatternSet &patterns,
    std::function<bool(mlir::Value)> isWeight);

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_LINALGTOQUANTLLM_LINALGTOQUANTLLM_H
