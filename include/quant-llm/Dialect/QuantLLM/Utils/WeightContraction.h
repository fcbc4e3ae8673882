//===- WeightContraction.h - Matching y = x * W^T in linalg -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One matcher answers two questions that must never be answered differently:
// which linalg ops the raising pass turns into quant_llm.linear, and which
// linalg ops the stage verifier complains about because they should have been.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_WEIGHTCONTRACTION_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_WEIGHTCONTRACTION_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/SmallVector.h"

#include <optional>
#include <string>

namespace quant_llm {

/// Where the elements of a tensor come from: element `d` of the tensor is
/// element `map(d)` of `source`, perhaps widened to a larger float type.
struct TracedTensor {
  mlir::Value source;
  /// One result per dimension of `source`; each is a dimension of the tensor.
  mlir::AffineMap map;
};

/// Looks through ops that only move, repeat or widen elements (transpose,
/// broadcast, copy and widening linalg ops, tensor.cast, arith.extf, reshapes
/// that only add or remove dimensions of size 1) until `stop` accepts a value.
std::optional<TracedTensor>
traceTensor(mlir::Value value, llvm::function_ref<bool(mlir::Value)> stop);

/// A linalg op that computes y[b..., n] = init + sum_k x[b..., k] * W[n, k].
struct WeightContraction {
  /// The weight, [N, K]; the value that the predicate accepted.
  mlir::Value weight;
  mlir::Value activation;
  mlir::Value init;
  /// Dimensions of the activation in the order b..., k.
  llvm::SmallVector<int64_t> activationOrder;
  /// Dimensions of the result in the order b..., n.
  llvm::SmallVector<int64_t> resultOrder;
};

/// Matches `op` with a weight accepted by `isWeight`. On failure `reason` says
/// why not (lower case, no period) if an operand does come from such a value,
/// and is left empty if the op has nothing to do with any.
std::optional<WeightContraction>
matchWeightContraction(mlir::linalg::LinalgOp op,
                       llvm::function_ref<bool(mlir::Value)> isWeight,
                       std::string &reason);

/// Whether `value` is a tensor filled with zeros.
bool isZeroFilled(mlir::Value value);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_WEIGHTCONTRACTION_H
