//===- QuantLLMToLinalg.h - The exact reference lowering --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_QUANTLLMTOLINALG_QUANTLLMTOLINALG_H
#define QUANT_LLM_CONVERSION_QUANTLLMTOLINALG_QUANTLLMTOLINALG_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/PatternMatch.h"

namespace quant_llm {

/// Refuses the first op under `root` that computes with a weight that has a
/// layout: only canonical components can be lowered here.
llvm::LogicalResult verifyCanonicalWeights(mlir::Operation *root);

/// The components of a weight or an activation: the operands of the `assemble`
/// that made it, or the results of a new `components`.
llvm::SmallVector<mlir::Value> getWeightComponents(mlir::OpBuilder &builder,
                                                   mlir::Location loc,
                                                   mlir::Value weight);

/// `tensor<NxKxf32>` with the value of every element of a matrix stored under
/// `scheme`, by the formula and not rounded afterwards.
mlir::Value emitDequantizedMatrix(mlir::OpBuilder &builder, mlir::Location loc,
                                  int64_t n, int64_t k, const Scheme &scheme,
                                  mlir::ValueRange components);

/// Replaces a `linear` of weights with a low-rank part by one of weights
/// without it that adds x B^T A^T, two more `linear`s, in its epilogue.
void splitLowRank(mlir::RewriterBase &rewriter, LinearOp op);

/// Replaces the op by linalg that computes its components, and an `assemble`.
void decomposeQuantizeActivation(mlir::RewriterBase &rewriter,
                                 QuantizeActivationOp op);

/// The value of every element of an activation as f32, by the formula and not
/// rounded afterwards.
mlir::Value emitDequantizedActivation(mlir::OpBuilder &builder,
                                      mlir::Location loc, ActivationType type,
                                      mlir::ValueRange components);

/// What products of integers take of an activation with integer codes: the
/// codes less their zeros as i16, and the scales [tokens..., groups] as f32.
std::pair<mlir::Value, mlir::Value>
emitIntegerActivation(mlir::OpBuilder &builder, mlir::Location loc,
                      ActivationType type, mlir::ValueRange components);

/// Replaces the op by a loop over its experts with a `linear` on the tokens of
/// each; its weights have no layout.
void expandGroupedLinear(mlir::RewriterBase &rewriter, GroupedLinearOp op);

/// `dequantize`, `linear` and `grouped_linear` to linalg on the components of
/// weights without a layout.
void populateQuantLLMToLinalgPatterns(mlir::RewritePatternSet &patterns);

/// `quantize_activation` to linalg.
void populateActivationsToLinalgPatterns(mlir::RewritePatternSet &patterns);

/// Channel transforms (`scale_channels`, `rotate`, ...) to linalg.
void populateTransformsToLinalgPatterns(mlir::RewritePatternSet &patterns);

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_QUANTLLMTOLINALG_QUANTLLMTOLINALG_H
