//===- SplitRotaryEmbeddings.cpp - Rotary embeddings as two halves --------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "SliceHalf.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace quant_llm;

namespace {

/// Ops that are followed upwards from a value, at most: sums and products of an
/// embedding are two or three, computing its cosines a few more.
constexpr int kMaxDepth = 16;

/// Tensors that an embedding may be computed from, each as it is read.
constexpr size_t kMaxReads = 256;

/// A tensor of two halves, one after the other along `dim`.
struct Joined {
  Value halves[2];
  int64_t dim;
};

/// A pointwise op on tensors with one result and a body that knows of its
/// scalars only.
struct Pointwise {
  linalg::LinalgOp op;
  AffineMap resultMap;

  static std::optional<Pointwise> get(Value value) {
    auto op = value.getDefiningOp<linalg::LinalgOp>();
    if (!op || !op.hasPureTensorSemantics() || op->getNumResults() != 1 ||
        op.getNumReductionLoops() != 0 || op.hasIndexSemantics() ||
        op.payloadUsesValueFromOperand(op.getDpsInitOperand(0)))
      return std::nullopt;
    AffineMap map = op.getMatchingIndexingMap(op.getDpsInitOperand(0));
    if (!map.isPermutation())
      return std::nullopt;
    for (Operation &inner : op.getBlock()->without_terminator())
      if (inner.getNumRegions() != 0 || !isMemoryEffectFree(&inner))
        return std::nullopt;
    return Pointwise{op, map};
  }

  /// The map of an input for a map of the result's dimensions.
  AffineMap getInputMap(OpOperand *input, AffineMap map) {
    return op.getMatchingIndexingMap(input)
        .compose(inversePermutation(resultMap))
        .compose(map);
  }
};

} // namespace

/// The dimension of a tensor that a loop runs over, or -1 if it is repeated for
/// all of the loop; nothing if the loop counts elements in another way.
static std::optional<int64_t> getDim(AffineMap map, int64_t loop) {
  int64_t found = -1;
  for (auto [i, expr] : llvm::enumerate(map.getResults())) {
    if (!expr.isFunctionOfDim(loop))
      continue;
    if (!isa<AffineDimExpr>(expr) || found >= 0)
      return std::nullopt;
    found = i;
  }
  return found;
}

/// Which half of dimension `dim` of a large tensor a slice is, with all of the
/// other dimensions; -1 if it is none.
template <typename OpTy>
static int getHalf(OpTy slice, RankedTensorType large, int64_t dim) {
  std::optional<Half> half = Half::get(slice, large, dim);
  if (!half || half->interleaved || slice.getDroppedDims().any())
    return -1;
  for (int64_t i = 0; i < large.getRank(); ++i)
    if (i != dim &&
        (!isConstantIntValue(slice.getMixedStrides()[i], 1) ||
         !isConstantIntValue(slice.getMixedOffsets()[i], 0) ||
         (!large.isDynamicDim(i) &&
          !isConstantIntValue(slice.getMixedSizes()[i], large.getDimSize(i)))))
      return -1;
  return half->isSecond;
}

static std::optional<Joined> getJoined(Value value) {
  if (auto concat = value.getDefiningOp<tensor::ConcatOp>()) {
    if (concat.getInputs().size() != 2)
      return std::nullopt;
    Joined joined{{concat.getInputs()[0], concat.getInputs()[1]},
                  int64_t(concat.getDim())};
    auto first = cast<RankedTensorType>(joined.halves[0].getType());
    if (first != joined.halves[1].getType() || first.isDynamicDim(joined.dim))
      return std::nullopt;
    return joined;
  }
  auto second = value.getDefiningOp<tensor::InsertSliceOp>();
  auto first = second ? second.getDest().getDefiningOp<tensor::InsertSliceOp>()
                      : tensor::InsertSliceOp();
  auto empty = first ? first.getDest().getDefiningOp<tensor::EmptyOp>()
                     : tensor::EmptyOp();
  if (!empty)
    return std::nullopt;
  RankedTensorType type = second.getType();
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    int a = getHalf(first, type, dim), b = getHalf(second, type, dim);
    if (a < 0 || b < 0 || a == b)
      continue;
    // A slice of fewer rows is no half.
    for (tensor::InsertSliceOp insert : {first, second})
      for (int64_t i = 0; i < type.getRank(); ++i)
        if (type.isDynamicDim(i) &&
            insert.getMixedSizes()[i] != empty.getMixedSizes()[i])
          return std::nullopt;
    Joined joined{{}, dim};
    joined.halves[a] = first.getSource();
    joined.halves[b] = second.getSource();
    return joined;
  }
  return std::nullopt;
}

namespace {

/// One embedding, y = x cos + (-x2, x1) sin, and how it is split.
class Embedding {
public:
  /// Of the halves that are joined; nothing if they are not of one tensor or
  /// no sum with that tensor follows.
  static std::optional<Embedding> get(Operation *join) {
    if (join->getNumResults() != 1 || !join->hasOneUse())
      return std::nullopt;
    std::optional<Joined> joined = getJoined(join->getResult(0));
    if (!joined)
      return std::nullopt;
    Embedding embedding;
    embedding.joined = join->getResult(0);
    embedding.parts = *joined;
    Slice slices[2];
    for (int half : {0, 1}) {
      std::optional<Slice> slice =
          embedding.getSlice(joined->halves[half], joined->dim);
      if (!slice)
        return std::nullopt;
      slices[half] = *slice;
    }
    if (slices[0].source != slices[1].source ||
        slices[0].half == slices[1].half)
      return std::nullopt;
    embedding.x = slices[0].source;
    // Up to the first value that x is a part of, too.
    Value value = embedding.joined;
    embedding.dim = joined->dim;
    for (int steps = 0; steps < kMaxDepth && value.hasOneUse(); ++steps) {
      OpOperand &use = *value.getUses().begin();
      if (use.getOwner()->getNumResults() != 1)
        return std::nullopt;
      value = use.getOwner()->getResult(0);
      std::optional<Pointwise> pointwise = Pointwise::get(value);
      if (!pointwise || !pointwise->op.isDpsInput(&use))
        return std::nullopt;
      auto loop = dyn_cast<AffineDimExpr>(
          pointwise->op.getMatchingIndexingMap(&use).getResult(embedding.dim));
      if (!loop)
        return std::nullopt;
      embedding.dim = *getDim(pointwise->resultMap, loop.getPosition());
      if (embedding.dependsOnX(value, /*onJoined=*/false, kMaxDepth)) {
        // Split before, as an embedding of the other tensor in the sum.
        if (value.use_empty())
          return std::nullopt;
        embedding.result = value;
        auto type = cast<RankedTensorType>(value.getType());
        if (type.isDynamicDim(embedding.dim) ||
            !embedding.canEmit(value,
                               AffineMap::getMultiDimIdentityMap(
                                   type.getRank(), value.getContext()),
                               /*isPart=*/false))
          return std::nullopt;
        return embedding;
      }
    }
    return std::nullopt;
  }

  /// The result that is no longer used.
  Value split() {
    OpBuilder builder(result.getContext());
    builder.setInsertionPoint(result.getDefiningOp());
    Location loc = result.getLoc();
    auto type = cast<RankedTensorType>(result.getType());
    SmallVector<OpFoldResult> whole =
        tensor::getMixedSizes(builder, loc,
                              cast<linalg::LinalgOp>(result.getDefiningOp())
                                  .getDpsInitOperand(0)
                                  ->get());
    SmallVector<OpFoldResult> sizes = whole;
    int64_t size = type.getDimSize(dim) / 2;
    sizes[dim] = builder.getIndexAttr(size);
    Value y =
        tensor::EmptyOp::create(builder, loc, whole, type.getElementType());
    for (int half : {0, 1}) {
      SmallVector<OpFoldResult> offsets(type.getRank(),
                                        builder.getIndexAttr(0));
      SmallVector<OpFoldResult> strides(type.getRank(),
                                        builder.getIndexAttr(1));
      offsets[dim] = builder.getIndexAttr(half * size);
      y = tensor::InsertSliceOp::create(builder, loc,
                                        buildHalf(builder, half, sizes), y,
                                        offsets, sizes, strides);
    }
    result.replaceAllUsesWith(y);
    return result;
  }

private:
  struct Slice {
    Value source;
    int half;
  };

  /// A half of a tensor, perhaps with pointwise ops behind it.
  std::optional<Slice> getSlice(Value value, int64_t dim) {
    for (int steps = 0; steps < kMaxDepth; ++steps) {
      if (auto slice = value.getDefiningOp<tensor::ExtractSliceOp>()) {
        int half = getHalf(slice, slice.getSourceType(), dim);
        if (half < 0)
          return std::nullopt;
        return Slice{slice.getSource(), half};
      }
      std::optional<Pointwise> pointwise = Pointwise::get(value);
      if (!pointwise || pointwise->op.getNumDpsInputs() != 1 ||
          pointwise->op.getMatchingIndexingMap(
              pointwise->op.getDpsInputOperand(0)) != pointwise->resultMap)
        return std::nullopt;
      value = pointwise->op.getDpsInputOperand(0)->get();
    }
    return std::nullopt;
  }

  /// Whether a value is x, or computed from it by pointwise ops.
  bool dependsOnX(Value value, bool onJoined, int depth) {
    if (value == x)
      return true;
    if (value == joined)
      return onJoined;
    std::optional<Pointwise> pointwise = Pointwise::get(value);
    if (!pointwise || depth == 0)
      return false;
    auto [it, isNew] = dependence[onJoined].try_emplace(value, false);
    if (!isNew)
      return it->second;
    bool depends = llvm::any_of(pointwise->op.getDpsInputs(), [&](Value input) {
      return dependsOnX(input, onJoined, depth - 1);
    });
    return dependence[onJoined][value] = depends;
  }

  /// Whether a tensor has as many channels in a dimension as the result, known
  /// here and now.
  bool hasChannels(Value value, int64_t dim) {
    return cast<RankedTensorType>(value.getType()).getDimSize(dim) ==
           cast<RankedTensorType>(result.getType()).getDimSize(this->dim);
  }

  /// Whether emit() can be called for a value and what it is computed from.
  bool canEmit(Value value, AffineMap map, bool isPart) {
    if (!isa<RankedTensorType>(value.getType()) ||
        emitted[isPart].contains({value, map}))
      return true;
    if (emitted[isPart].size() >= kMaxReads)
      return false;
    emitted[isPart][{value, map}] = {};
    std::optional<int64_t> channels = getDim(map, dim);
    if (value == joined)
      return channels == parts.dim && hasChannels(x, parts.dim) &&
             canEmit(parts.halves[0], map, true) &&
             canEmit(parts.halves[1], map, true);
    if (isPart && value.getDefiningOp<tensor::ExtractSliceOp>())
      return channels == parts.dim;
    if (!isPart && value == x)
      return channels == parts.dim && hasChannels(x, parts.dim);
    if (!isPart && !dependsOnX(value, /*onJoined=*/true, kMaxDepth))
      return channels && (*channels < 0 || hasChannels(value, *channels));
    Pointwise pointwise = *Pointwise::get(value);
    return llvm::all_of(
        pointwise.op.getDpsInputOperands(), [&](OpOperand *input) {
          return canEmit(input->get(), pointwise.getInputMap(input, map),
                         isPart);
        });
  }

  /// One half of the result: an op that reads halves of x and of what is
  /// multiplied with them.
  Value buildHalf(OpBuilder &builder, int half, ArrayRef<OpFoldResult> sizes) {
    Location loc = result.getLoc();
    Type element = getElementTypeOrSelf(result.getType());
    AffineMap identity = builder.getMultiDimIdentityMap(sizes.size());
    inputs.clear();
    forget();
    emit(builder, result, identity, half, /*isPart=*/false, nullptr, {});
    forget();
    SmallVector<Value> values;
    SmallVector<AffineMap> maps;
    for (const auto &[input, number] : inputs) {
      values.push_back(input.first);
      maps.push_back(input.second);
    }
    maps.push_back(identity);
    SmallVector<utils::IteratorType> iterators(sizes.size(),
                                               utils::IteratorType::parallel);
    Value init = tensor::EmptyOp::create(builder, loc, sizes, element);
    return linalg::GenericOp::create(
               builder, loc, init.getType(), values, init, maps, iterators,
               [&](OpBuilder &body, Location loc, ValueRange arguments) {
                 linalg::YieldOp::create(body, loc,
                                         emit(builder, result, identity, half,
                                              /*isPart=*/false, &body,
                                              arguments));
               })
        .getResult(0);
  }

  void forget() {
    for (auto &scalars : emitted)
      scalars.clear();
  }

  /// The scalar of an element of a tensor. Without `body` only the inputs of
  /// the new op are collected, in the order in which they are met. `isPart`
  /// says that the tensor is a half already.
  Value emit(OpBuilder &builder, Value value, AffineMap map, int half,
             bool isPart, OpBuilder *body, ValueRange arguments) {
    std::pair<Value, AffineMap> key{value, map};
    if (auto it = emitted[isPart].find(key); it != emitted[isPart].end())
      return it->second;
    Value scalar = emitNew(builder, value, map, half, isPart, body, arguments);
    emitted[isPart][key] = scalar;
    return scalar;
  }

  Value emitNew(OpBuilder &builder, Value value, AffineMap map, int half,
                bool isPart, OpBuilder *body, ValueRange arguments) {
    auto read = [&](Value input) -> Value {
      unsigned number =
          inputs.try_emplace({input, map}, inputs.size()).first->second;
      return body ? arguments[number] : Value();
    };
    if (value == joined)
      return emit(builder, parts.halves[half], map, half, /*isPart=*/true, body,
                  arguments);
    if (!isa<RankedTensorType>(value.getType()))
      return read(value);
    if (isPart) {
      if (auto slice = value.getDefiningOp<tensor::ExtractSliceOp>())
        return read(getHalfOf(builder, x, parts.dim,
                              getHalf(slice, slice.getSourceType(), parts.dim),
                              0));
    } else if (value == x || !dependsOnX(value, /*onJoined=*/true, kMaxDepth)) {
      int64_t channels = *getDim(map, dim);
      return read(channels < 0 ? value
                               : getHalfOf(builder, value, channels, half,
                                           value == x ? 0 : kMaxDepth));
    }
    Pointwise pointwise = *Pointwise::get(value);
    SmallVector<Value> scalars;
    for (OpOperand *input : pointwise.op.getDpsInputOperands())
      scalars.push_back(emit(builder, input->get(),
                             pointwise.getInputMap(input, map), half, isPart,
                             body, arguments));
    if (!body)
      return {};
    IRMapping mapping;
    Block *block = pointwise.op.getBlock();
    for (auto [argument, scalar] : llvm::zip(block->getArguments(), scalars))
      mapping.map(argument, scalar);
    for (Operation &inner : block->without_terminator())
      body->clone(inner, mapping);
    return mapping.lookupOrDefault(block->getTerminator()->getOperand(0));
  }

  /// A half of a tensor along a dimension. Angles are often repeated for both
  /// halves, (f, f): what is computed from them is then one value for both, by
  /// which the coefficients of both halves are seen to be the same.
  Value getHalfOf(OpBuilder &builder, Value value, int64_t dim, int half,
                  int depth) {
    std::pair<Value, std::pair<int64_t, int>> key{value, {dim, half}};
    if (Value known = halves.lookup(key))
      return known;
    Value built = buildHalfOf(builder, value, dim, half, depth);
    halves[key] = built;
    return built;
  }

  Value buildHalfOf(OpBuilder &builder, Value value, int64_t dim, int half,
                    int depth) {
    auto type = cast<RankedTensorType>(value.getType());
    Location loc = value.getLoc();
    SmallVector<OpFoldResult> offsets(type.getRank(), builder.getIndexAttr(0));
    SmallVector<OpFoldResult> strides(type.getRank(), builder.getIndexAttr(1));
    int64_t size = type.getDimSize(dim) / 2;
    offsets[dim] = builder.getIndexAttr(half * size);
    if (depth > 0) {
      if (std::optional<Joined> joined = getJoined(value);
          joined && joined->dim == dim)
        return joined->halves[half];
      if (Value pointwise =
              buildPointwiseHalf(builder, value, dim, half, depth))
        return pointwise;
      auto expand = value.getDefiningOp<tensor::ExpandShapeOp>();
      ReassociationIndices *group = nullptr;
      SmallVector<ReassociationIndices> groups;
      if (expand) {
        groups = expand.getReassociationIndices();
        for (ReassociationIndices &indices : groups)
          if (indices.size() == 1 && indices.front() == dim)
            group = &indices;
      }
      if (group && hasChannels(expand.getSrc(), group - groups.data())) {
        Value source = getHalfOf(builder, expand.getSrc(),
                                 group - groups.data(), half, depth - 1);
        SmallVector<int64_t> shape(type.getShape());
        shape[dim] = size;
        SmallVector<OpFoldResult> sizes = expand.getMixedOutputShape();
        sizes[dim] = builder.getIndexAttr(size);
        auto [it, isNew] = expanded.try_emplace({value, source});
        if (isNew)
          it->second = tensor::ExpandShapeOp::create(
              builder, loc, type.clone(shape), source, groups, sizes);
        return it->second;
      }
    }
    SmallVector<OpFoldResult> sizes =
        tensor::getMixedSizes(builder, loc, value);
    sizes[dim] = builder.getIndexAttr(size);
    return tensor::ExtractSliceOp::create(builder, loc, value, offsets, sizes,
                                          strides);
  }

  /// A pointwise op on halves, or nothing if the value is no such op's.
  Value buildPointwiseHalf(OpBuilder &builder, Value value, int64_t dim,
                           int half, int depth) {
    std::optional<Pointwise> pointwise = Pointwise::get(value);
    if (!pointwise || pointwise->op.getNumDpsInputs() == 0)
      return {};
    AffineMap identity =
        builder.getMultiDimIdentityMap(pointwise->resultMap.getNumResults());
    SmallVector<Value> key{value};
    for (OpOperand *input : pointwise->op.getDpsInputOperands()) {
      std::optional<int64_t> channels =
          getDim(pointwise->getInputMap(input, identity), dim);
      if (!channels ||
          (*channels >= 0 && !hasChannels(input->get(), *channels)))
        return {};
      key.push_back(*channels < 0 ? input->get()
                                  : getHalfOf(builder, input->get(), *channels,
                                              half, depth - 1));
    }
    for (const auto &[known, clone] : pointwiseHalves)
      if (known == key)
        return clone;
    Location loc = value.getLoc();
    auto type = cast<RankedTensorType>(value.getType());
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(
        builder, loc, pointwise->op.getDpsInitOperand(0)->get());
    sizes[dim] = builder.getIndexAttr(type.getDimSize(dim) / 2);
    SmallVector<Value> operands(llvm::drop_begin(key));
    operands.push_back(
        tensor::EmptyOp::create(builder, loc, sizes, type.getElementType()));
    Value clone = mlir::clone(builder, pointwise->op.getOperation(),
                              operands.back().getType(), operands)
                      ->getResult(0);
    pointwiseHalves.emplace_back(std::move(key), clone);
    return clone;
  }

  Value joined, x, result;
  Joined parts;
  /// The dimension of the result that has the halves.
  int64_t dim;
  /// Whether values depend on x, without and with what is joined.
  llvm::DenseMap<Value, bool> dependence[2];
  /// The scalars of one op, or what canEmit() has seen, of whole tensors and of
  /// halves.
  llvm::DenseMap<std::pair<Value, AffineMap>, Value> emitted[2];
  llvm::MapVector<std::pair<Value, AffineMap>, unsigned> inputs;
  llvm::DenseMap<std::pair<Value, std::pair<int64_t, int>>, Value> halves;
  llvm::DenseMap<std::pair<Value, Value>, Value> expanded;
  /// Pointwise ops by the op and the halves that they read.
  SmallVector<std::pair<SmallVector<Value>, Value>> pointwiseHalves;
};

} // namespace

int64_t quant_llm::splitRotaryEmbeddings(FunctionOpInterface function) {
  SmallVector<Operation *> joins;
  function.walk([&](Operation *op) {
    if (isa<tensor::ConcatOp, tensor::InsertSliceOp>(op))
      joins.push_back(op);
  });
  int64_t numSplit = 0;
  llvm::SetVector<Operation *> unused;
  for (Operation *join : joins)
    if (std::optional<Embedding> embedding = Embedding::get(join)) {
      unused.insert(embedding->split().getDefiningOp());
      ++numSplit;
    }
  // Erased together: embeddings share what their angles are computed from.
  while (!unused.empty()) {
    Operation *op = unused.pop_back_val();
    if (!isOpTriviallyDead(op))
      continue;
    for (Value operand : op->getOperands())
      if (Operation *definition = operand.getDefiningOp())
        unused.insert(definition);
    op->erase();
  }
  return numSplit;
}
