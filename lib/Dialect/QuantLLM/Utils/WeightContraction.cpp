//===- WeightContraction.cpp - Matching y = x * W^T in linalg -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/SmallBitVector.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;

namespace quant_llm {

/// Skips scalar widening casts.
static Value skipWidening(Value value) {
  while (auto cast = value.getDefiningOp<arith::ExtFOp>())
    value = cast.getIn();
  return value;
}

/// Skips scalar float casts in either direction; only for accumulators, which
/// `linear` keeps in f32 anyway.
static Value skipFloatCasts(Value value) {
  for (;;) {
    if (auto cast = value.getDefiningOp<arith::ExtFOp>())
      value = cast.getIn();
    else if (auto cast = value.getDefiningOp<arith::TruncFOp>())
      value = cast.getIn();
    else
      return value;
  }
}

/// If every result of `map` is a distinct dimension, returns their positions.
static std::optional<SmallVector<int64_t>> getDims(AffineMap map) {
  SmallVector<int64_t> dims;
  llvm::SmallBitVector seen(map.getNumDims());
  for (AffineExpr expr : map.getResults()) {
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim || seen[dim.getPosition()])
      return std::nullopt;
    seen.set(dim.getPosition());
    dims.push_back(dim.getPosition());
  }
  return dims;
}

/// The map of a reshape that only adds or removes unit dimensions, from the
/// dimensions of its result to those of its operand.
static std::optional<AffineMap>
getUnitReshapeMap(RankedTensorType expanded,
                  ArrayRef<ReassociationIndices> groups,
                  bool resultIsExpanded) {
  MLIRContext *context = expanded.getContext();
  // For each collapsed dimension, the one expanded dimension that carries it.
  SmallVector<int64_t> carrier;
  for (const ReassociationIndices &group : groups) {
    int64_t found = group.front();
    unsigned large = 0;
    for (int64_t dim : group) {
      if (expanded.getDimSize(dim) == 1)
        continue;
      found = dim;
      ++large;
    }
    if (large > 1)
      return std::nullopt;
    carrier.push_back(found);
  }
  SmallVector<AffineExpr> exprs;
  if (resultIsExpanded) {
    for (int64_t dim : carrier)
      exprs.push_back(getAffineDimExpr(dim, context));
    return AffineMap::get(expanded.getRank(), 0, exprs, context);
  }
  // Collapsing: unit dimensions of the operand have no counterpart in the
  // result, which a map of dimensions cannot say unless there are none.
  return std::nullopt;
}

/// One step of traceTensor.
static std::optional<TracedTensor> traceOneStep(Value value) {
  Operation *op = value.getDefiningOp();
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!op || !type)
    return std::nullopt;
  MLIRContext *context = value.getContext();

  if (isa<arith::ExtFOp, tensor::CastOp>(op)) {
    auto source = dyn_cast<RankedTensorType>(op->getOperand(0).getType());
    if (!source)
      return std::nullopt;
    return TracedTensor{op->getOperand(0), AffineMap::getMultiDimIdentityMap(
                                               type.getRank(), context)};
  }
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
    std::optional<AffineMap> map =
        getUnitReshapeMap(type, expand.getReassociationIndices(), true);
    if (!map)
      return std::nullopt;
    return TracedTensor{expand.getSrc(), *map};
  }
  auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
  if (!linalgOp || linalgOp.getNumDpsInputs() != 1 ||
      linalgOp.getNumDpsInits() != 1 ||
      linalgOp.getNumParallelLoops() != linalgOp.getNumLoops() ||
      linalgOp.hasIndexSemantics())
    return std::nullopt;
  OpOperand *input = linalgOp.getDpsInputOperand(0);
  if (!isa<RankedTensorType>(input->get().getType()))
    return std::nullopt;
  Block *body = linalgOp.getBlock();
  Value yielded = body->getTerminator()->getOperand(0);
  if (skipWidening(yielded) != body->getArgument(0))
    return std::nullopt;
  AffineMap inputMap = linalgOp.getMatchingIndexingMap(input);
  AffineMap initMap =
      linalgOp.getMatchingIndexingMap(linalgOp.getDpsInitOperand(0));
  if (!initMap.isPermutation() || !getDims(inputMap))
    return std::nullopt;
  return TracedTensor{input->get(),
                      inputMap.compose(inversePermutation(initMap))};
}

std::optional<TracedTensor> traceTensor(Value value,
                                        llvm::function_ref<bool(Value)> stop) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return std::nullopt;
  TracedTensor traced{value, AffineMap::getMultiDimIdentityMap(
                                 type.getRank(), value.getContext())};
  while (!stop(traced.source)) {
    std::optional<TracedTensor> step = traceOneStep(traced.source);
    if (!step)
      return std::nullopt;
    traced = TracedTensor{step->source, step->map.compose(traced.map)};
  }
  return traced;
}

bool isZeroFilled(Value value) {
  for (;;) {
    if (auto cast = value.getDefiningOp<tensor::CastOp>()) {
      value = cast.getSource();
      continue;
    }
    if (matchPattern(value, m_AnyZeroFloat()))
      return true;
    if (auto splat = value.getDefiningOp<tensor::SplatOp>())
      return matchPattern(splat.getInput(), m_AnyZeroFloat());
    if (auto fill = value.getDefiningOp<linalg::FillOp>())
      return matchPattern(fill.getInputs()[0], m_AnyZeroFloat());
    if (auto generic = value.getDefiningOp<linalg::GenericOp>()) {
      std::optional<Value> filled = linalg::isaFillOpInterface(generic);
      return filled && matchPattern(*filled, m_AnyZeroFloat());
    }
    return false;
  }
}

/// Whether the body of `op` is acc + x * w, with `weightIndex` the index of the
/// weight among the two inputs.
static bool isMultiplyAccumulate(linalg::LinalgOp op) {
  Block *body = op.getBlock();
  if (body->getNumArguments() != 3)
    return false;
  Value first = body->getArgument(0), second = body->getArgument(1);
  Value accumulator = body->getArgument(2);
  auto areFactors = [&](Value lhs, Value rhs) {
    lhs = skipWidening(lhs);
    rhs = skipWidening(rhs);
    return (lhs == first && rhs == second) || (lhs == second && rhs == first);
  };
  Value yielded = skipFloatCasts(body->getTerminator()->getOperand(0));
  if (auto fma = yielded.getDefiningOp<math::FmaOp>())
    return skipFloatCasts(fma.getC()) == accumulator &&
           areFactors(fma.getA(), fma.getB());
  auto add = yielded.getDefiningOp<arith::AddFOp>();
  if (!add)
    return false;
  for (auto [sum, product] : {std::pair(add.getLhs(), add.getRhs()),
                              std::pair(add.getRhs(), add.getLhs())}) {
    auto multiply = skipWidening(product).getDefiningOp<arith::MulFOp>();
    if (multiply && skipFloatCasts(sum) == accumulator &&
        areFactors(multiply.getLhs(), multiply.getRhs()))
      return true;
  }
  return false;
}

/// Whether `linear` takes elements of this type.
static bool isSupportedElement(Type type) {
  Type element = getElementTypeOrSelf(type);
  return element.isF16() || element.isBF16() || element.isF32();
}

/// Matches `op` with input `weightIndex` as the weight.
static std::optional<WeightContraction>
matchWithWeight(linalg::LinalgOp op, unsigned weightIndex,
                llvm::function_ref<bool(Value)> isWeight, std::string &reason) {
  OpOperand *weightOperand = op.getDpsInputOperand(weightIndex);
  std::optional<TracedTensor> traced =
      traceTensor(weightOperand->get(), isWeight);
  if (!traced)
    return std::nullopt;
  auto refuse = [&](const Twine &why) {
    reason = why.str();
    return std::nullopt;
  };

  if (op.getNumDpsInits() != 1 || op.getNumDpsInputs() != 2)
    return refuse("it is not a contraction of two operands");
  if (!op.hasPureTensorSemantics())
    return refuse("it works on memrefs, not on tensors");
  if (!isMultiplyAccumulate(op))
    return refuse("its body is not a sum of products of the two operands");
  auto weightType = dyn_cast<RankedTensorType>(traced->source.getType());
  if (!weightType || weightType.getRank() != 2 || !weightType.hasStaticShape())
    return refuse("the weight is not a matrix of static shape");

  OpOperand *activationOperand = op.getDpsInputOperand(1 - weightIndex);
  OpOperand *initOperand = op.getDpsInitOperand(0);
  for (Value value :
       {traced->source, activationOperand->get(), initOperand->get()})
    if (!isSupportedElement(value.getType()))
      return refuse("an operand has element type other than f16, bf16 or f32");

  AffineMap weightAccess =
      traced->map.compose(op.getMatchingIndexingMap(weightOperand));
  std::optional<SmallVector<int64_t>> weightDims = getDims(weightAccess);
  std::optional<SmallVector<int64_t>> activationDims =
      getDims(op.getMatchingIndexingMap(activationOperand));
  std::optional<SmallVector<int64_t>> resultDims =
      getDims(op.getMatchingIndexingMap(initOperand));
  if (!weightDims || !activationDims || !resultDims)
    return refuse("an indexing map is more than a choice of loop dimensions");

  SmallVector<unsigned> reductions;
  op.getReductionDims(reductions);
  if (reductions.size() != 1)
    return refuse(llvm::formatv("it sums over {0} dimensions instead of one",
                                reductions.size()));
  int64_t k = reductions.front();
  int64_t rows = (*weightDims)[0], columns = (*weightDims)[1];
  if (rows == k)
    return refuse(
        "the parameter is stored as [inputs, outputs]; a linear needs "
        "[outputs, inputs], and this pass does not copy parameters");
  if (columns != k)
    return refuse("it does not sum over the last dimension of the parameter");
  int64_t n = rows;
  if (!llvm::is_contained(*activationDims, k) ||
      llvm::is_contained(*activationDims, n))
    return refuse(
        "the other operand is not indexed by the inputs of the parameter "
        "alone");
  if (!llvm::is_contained(*resultDims, n) || llvm::is_contained(*resultDims, k))
    return refuse("the result is not indexed by the outputs of the parameter");

  // The order of the batch dimensions is the result's, so that a result that
  // ends in n needs no transpose.
  WeightContraction match;
  match.weight = traced->source;
  match.activation = activationOperand->get();
  match.init = initOperand->get();
  auto positionOf = [](ArrayRef<int64_t> dims, int64_t dim) {
    return static_cast<int64_t>(llvm::find(dims, dim) - dims.begin());
  };
  for (int64_t dim : *resultDims) {
    if (dim == n)
      continue;
    int64_t position = positionOf(*activationDims, dim);
    if (position == static_cast<int64_t>(activationDims->size()))
      return refuse("a dimension of the result is not one of the activation");
    match.activationOrder.push_back(position);
    match.resultOrder.push_back(positionOf(*resultDims, dim));
  }
  match.activationOrder.push_back(positionOf(*activationDims, k));
  match.resultOrder.push_back(positionOf(*resultDims, n));
  if (match.activationOrder.size() != activationDims->size() ||
      static_cast<int64_t>(match.activationOrder.size()) !=
          op.getNumLoops() - 1)
    return refuse("a dimension of the activation is not one of the result");
  return match;
}

std::optional<WeightContraction>
matchWeightContraction(linalg::LinalgOp op,
                       llvm::function_ref<bool(Value)> isWeight,
                       std::string &reason) {
  reason.clear();
  // The second operand first: in every front end it is the weight.
  for (int64_t index = op.getNumDpsInputs() - 1; index >= 0; --index) {
    std::string why;
    if (std::optional<WeightContraction> match =
            matchWithWeight(op, index, isWeight, why))
      return match;
    if (reason.empty())
      reason = why;
  }
  return std::nullopt;
}

} // namespace quant_llm
