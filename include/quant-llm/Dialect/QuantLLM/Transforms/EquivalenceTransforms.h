//===- EquivalenceTransforms.h - Insert and move transforms -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What methods that transform a model are made of: places where a pair of
// transforms can be inserted, and the rules by which a transform crosses an op.
// docs/Transforms.md explains both.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_EQUIVALENCETRANSFORMS_H
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_EQUIVALENCETRANSFORMS_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Interfaces/FunctionInterfaces.h"

#include <optional>
#include <string>

namespace quant_llm {

/// Attaches TransformCommuteOpInterface to `linear`, linalg, tensor, and the
/// pointwise ops of arith and math.
void registerTransformCommuteModels(mlir::DialectRegistry &registry);

/// Whether a value is made of parameters and constants only, by ops that
/// quant-llm-materialize-transforms evaluates: it absorbs every transform.
bool isParameterLike(mlir::Value value);
/// One op of such a value.
bool isEvaluable(mlir::Operation *op);
/// Erases below `root` what such values are made of and nothing uses; tensor
/// constants as well if `constants`.
void eraseUnusedData(mlir::Operation *root, bool constants);

/// Replaces `value` in all its uses by inverse(transform(value)), which is
/// created where the builder is: behind the value and the data.
void insertTransformPair(mlir::OpBuilder &builder, mlir::Value value,
                         const ChannelTransform &transform);

//===----------------------------------------------------------------------===//
// Sites
//===----------------------------------------------------------------------===//

enum class TransformSiteKind {
  /// The output of a norm that linears read: queries, keys and values.
  NormAttention,
  /// The same before the linears of a feed-forward layer.
  NormMLP,
  /// The same before any other linear, such as the head.
  NormHead,
  /// The input of the last linear of a feed-forward layer, a product with the
  /// result of another linear.
  UpDown,
  /// The values of an attention, result of a linear.
  ValueOutput,
  /// The stream that layers add to, where it begins.
  Residual,
};

/// As in the option `sites`: `norm-attention`, ...
llvm::StringRef getSiteKindName(TransformSiteKind kind);
std::optional<TransformSiteKind> parseTransformSiteKind(llvm::StringRef name);

struct TransformSite {
  TransformSiteKind kind;
  /// What is transformed, along its last dimension.
  mlir::Value value;
  /// The linears that absorb the inverse.
  llvm::SmallVector<LinearOp> consumers;
  /// Channels of a head, for ValueOutput; else the whole dimension.
  int64_t block = 0;

  int64_t getChannels() const {
    return llvm::cast<mlir::RankedTensorType>(value.getType())
        .getShape()
        .back();
  }
  /// The parameter of the first consumer: how a site is called in files and
  /// remarks. Empty if its weight is no parameter.
  std::string getName() const;
};

/// The sites of a function whose weight contractions are linears, in the order
/// of the ops; found by structure, whatever the names.
llvm::SmallVector<TransformSite>
findTransformSites(mlir::FunctionOpInterface function);

/// Takes the gains of norms out of them: a pointwise op that multiplies a
/// normalized value by a parameter loses that factor, and `scale_channels` by
/// the parameter follows, ready to be moved into linears. Returns how many.
int64_t extractNormGains(mlir::FunctionOpInterface function);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_EQUIVALENCETRANSFORMS_H
