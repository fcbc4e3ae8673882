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
/// A tensor.extract_slice of consecutive rows of a matrix whose rows have been
/// reordered: a part of a weight that quant-llm-allocate-rows has split.
bool isRowSlice(mlir::Operation *op);
/// Erases below `root` what such values are made of and nothing uses; tensor
/// constants as well if `constants`.
void eraseUnusedData(mlir::Operation *root, bool constants);

/// Replaces `value` in all its uses by inverse(transform(value)), which is
/// created where the builder is: behind the value and the data.
void insertTransformPair(mlir::OpBuilder &builder, mlir::Value value,
                         const ChannelTransform &transform);

//===----------------------------------------------------------------------===//
// Rotary embedding
//===----------------------------------------------------------------------===//

/// Pairs of channels of a tensor, rotated by angles of their own:
///     y1 = x1 c - x2 s,    y2 = x2 c + x1 s
/// with x1 and x2 the halves of the channels of x, y1 and y2 those of y. Only
/// what acts on each pair as a multiple of a rotation commutes with it.
struct RotaryEmbedding {
  /// x.
  mlir::Value source;
  /// The dimension of y that holds the pairs, and for each dimension of y that
  /// of x, or -1.
  int64_t dim;
  llvm::SmallVector<int64_t> sourceDims;
  /// Pairs are (2 i, 2 i + 1), else (i, i + size / 2).
  bool interleaved;
  /// The coefficients are those above; else only y1 and y2 are known to be sums
  /// of products with x1 and x2, which scales of pairs commute with.
  bool isRotation;
  /// What reads the halves of x, and nothing else does.
  llvm::SmallVector<mlir::OpOperand *> reads;

  /// The channel that a channel is paired with, of `size` channels.
  int64_t getPartner(int64_t channel, int64_t size) const {
    return interleaved ? channel ^ 1 : (channel + size / 2) % size;
  }
};

/// The rotary embedding that yields a value: two slices inserted into an empty
/// tensor.
std::optional<RotaryEmbedding> matchRotaryEmbedding(mlir::Value value);

/// Splits rotary embeddings that are written with all channels at once,
///     y = x cos + (-x2, x1) sin,
/// as Hugging Face's models do, into ops that compute y1 and y2, which
/// matchRotaryEmbedding knows. Returns how many.
int64_t splitRotaryEmbeddings(mlir::FunctionOpInterface function);

/// Lets halves that a rotary embedding writes to slices of a tensor (a cache)
/// become one value that is then written. Returns how many.
int64_t joinRotatedHalves(mlir::FunctionOpInterface function);

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
  /// The keys of an attention behind their rotary embedding, a value of its own
  /// after joinRotatedHalves. The queries absorb the inverse.
  QueryKey,
};

/// As in the option `sites`: `norm-attention`, ...
llvm::StringRef getSiteKindName(TransformSiteKind kind);
std::optional<TransformSiteKind> parseTransformSiteKind(llvm::StringRef name);

struct TransformSite {
  TransformSiteKind kind;
  /// What is transformed, along its last dimension.
  mlir::Value value;
  /// The linears that absorb the inverse; for QueryKey the one that has the
  /// keys as its result.
  llvm::SmallVector<LinearOp> consumers;
  /// Channels of a head, for ValueOutput and QueryKey; else the whole
  /// dimension.
  int64_t block = 0;
  /// For QueryKey: the dimension of the heads, if each may have scales of its
  /// own.
  std::optional<int64_t> headDim = std::nullopt;

  int64_t getChannels() const {
    return llvm::cast<mlir::RankedTensorType>(value.getType())
        .getShape()
        .back();
  }
  /// How a site is called in files and remarks: the parameter of the first
  /// consumer, "residual" for a stream. Empty if its weight is no parameter.
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
