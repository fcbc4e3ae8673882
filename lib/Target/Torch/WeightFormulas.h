//===- WeightFormulas.h - Schemes as PyTorch source -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_TARGET_TORCH_WEIGHTFORMULAS_H
#define QUANT_LLM_LIB_TARGET_TORCH_WEIGHTFORMULAS_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "llvm/ADT/ArrayRef.h"

#include <set>
#include <string>

namespace quant_llm::torch {

/// Functions of a module that its code calls; each is printed once.
enum class Helper { Unpack, Spread, Ste, Decode, Activation };

/// The text of the helpers and of what they need themselves.
std::string printHelpers(const std::set<Helper> &helpers);

/// The dense matrix of a weight with the given components. A failure has been
/// diagnosed at `op`.
mlir::FailureOr<std::string>
emitDequantize(mlir::Operation *op, WeightType type,
               llvm::ArrayRef<std::string> components,
               std::set<Helper> &helpers);

/// The statements (lines) that compute `result`, the dense matrix of the
/// quantized `source`, such that gradients pass through the rounding. Learned
/// scales, zeros and roundings come from `parameters` under `name` and
/// ".scales", ".zeros", ".rounding", if there are any.
mlir::FailureOr<std::string>
emitFakeQuantize(mlir::Operation *op, WeightType type, llvm::StringRef source,
                 llvm::StringRef name, llvm::StringRef result,
                 std::set<Helper> &helpers);

/// What is left of the activation `source` after it was quantized by the op,
/// with given scales and zeros or none; gradients pass through the rounding.
mlir::FailureOr<std::string>
emitQuantizeActivation(QuantizeActivationOp op, llvm::StringRef source,
                       llvm::ArrayRef<std::string> given,
                       std::set<Helper> &helpers);

} // namespace quant_llm::torch

#endif // QUANT_LLM_LIB_TARGET_TORCH_WEIGHTFORMULAS_H
