//===- ModelBuilder.cpp - IR of a model of the Llama family
//-----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Shape of the IR, chosen for what follows:
// - Every weight contraction is one linalg.matmul of activations and a
// parameter
//   in its own type, so that raising needs no cleanup.
// - New keys and values are written by destination-style ops straight into
// slices
//   of the cache, which one-shot bufferization does in place.
// - The query heads of one key-value head are rows of the same matrix:
// attention
//   is two batched matmuls whatever the grouping, and nothing is repeated.
// - The rotation works on halves of a head, which are contiguous, not on
// gathered
//   elements.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/ModelBuilder.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/StringMap.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace quant_llm;

using Body = llvm::function_ref<Value(OpBuilder &, Location, ValueRange)>;

namespace {

class ModelBuilder {
public:
  ModelBuilder(MLIRContext &context, const ModelConfig &config,
               llvm::ArrayRef<StoredTensor> tensors)
      : config(config), tensors(tensors), b(&context), loc(b.getUnknownLoc()),
        f32(b.getF32Type()), half(config.headDim / 2),
        group(config.numHeads / config.numKVHeads) {
    for (const StoredTensor &tensor : tensors)
      byName[tensor.spec.name] = &tensor;
  }

  OwningOpRef<ModuleOp> build(llvm::StringRef archivePath);

private:
  // Declarations.
  void addModelAttribute(ModuleOp module);
  void addParameters(llvm::StringRef archivePath);
  void buildForward();

  // Parts of the model.
  Value embed(Value tokens);
  Value rotaryTable(bool sine);
  Value attention(const std::string &prefix, int64_t layer, Value x);
  Value feedForward(const std::string &prefix, Value x);

  // Blocks of those.
  Value parameter(const std::string &name);
  Value rmsNorm(Value x, const std::string &name);
  Value linear(Value x, const std::string &name, bool bias);
  Value add(Value x, Value y);
  Value rotate(Value heads, Value destination, ArrayRef<OpFoldResult> offsets,
               ArrayRef<OpFoldResult> sizes, ArrayRef<unsigned> order,
               ArrayRef<int64_t> headShape);
  Value activate(OpBuilder &b, Location loc, Value x);
  void require(Value x, arith::CmpIPredicate predicate, Value bound,
               const char *otherwise);

  // Shorthand for upstream ops.
  Value constant(TypedAttr value);
  Value f32Constant(double value);
  Value indexConstant(int64_t value);
  Value empty(ArrayRef<OpFoldResult> sizes);
  Value filled(ArrayRef<OpFoldResult> sizes, Value value);
  Value generic(ValueRange inputs, Value init, ArrayRef<AffineMap> maps,
                Body body, unsigned reductions = 0);
  Value widen(OpBuilder &b, Location loc, Value x);
  AffineMap map(unsigned dims, ArrayRef<unsigned> results);
  OpFoldResult attr(int64_t value) { return b.getIndexAttr(value); }
  void at(const std::string &name) {
    loc = NameLoc::get(b.getStringAttr(name), UnknownLoc::get(b.getContext()));
  }

  const ModelConfig &config;
  llvm::ArrayRef<StoredTensor> tensors;
  llvm::StringMap<const StoredTensor *> byName;
  OpBuilder b;
  Location loc;
  Type f32;
  const int64_t half;
  /// Query heads per key-value head.
  const int64_t group;

  Block *entry = nullptr;
  /// Only looked up, never iterated.
  llvm::DenseMap<Attribute, Value> constants;
  Operation *lastConstant = nullptr;

  // Values of the function that all layers share.
  Value keyCache, valueCache;
  /// Number of tokens, position of the first, length with the new tokens,
  /// number of query rows of a key-value head.
  Value count, position, length, queryRows;
  Value cosine, sine;
};

} // namespace

//===----------------------------------------------------------------------===//
// Shorthand
//===----------------------------------------------------------------------===//

/// One constant of each value, at the start of the function.
Value ModelBuilder::constant(TypedAttr value) {
  Value &slot = constants[value];
  if (!slot) {
    OpBuilder::InsertionGuard guard(b);
    if (lastConstant)
      b.setInsertionPointAfter(lastConstant);
    else
      b.setInsertionPointToStart(entry);
    auto op = arith::ConstantOp::create(b, b.getUnknownLoc(), value);
    lastConstant = op;
    slot = op;
  }
  return slot;
}

Value ModelBuilder::f32Constant(double value) {
  return constant(b.getF32FloatAttr(static_cast<float>(value)));
}

Value ModelBuilder::indexConstant(int64_t value) {
  return constant(b.getIndexAttr(value));
}

Value ModelBuilder::empty(ArrayRef<OpFoldResult> sizes) {
  return tensor::EmptyOp::create(b, loc, sizes, f32);
}

Value ModelBuilder::filled(ArrayRef<OpFoldResult> sizes, Value value) {
  return linalg::FillOp::create(b, loc, value, empty(sizes)).getResult(0);
}

AffineMap ModelBuilder::map(unsigned dims, ArrayRef<unsigned> results) {
  SmallVector<AffineExpr> exprs;
  for (unsigned result : results)
    exprs.push_back(b.getAffineDimExpr(result));
  return AffineMap::get(dims, 0, exprs, b.getContext());
}

/// A linalg.generic with one result; the innermost `reductions` loops reduce.
Value ModelBuilder::generic(ValueRange inputs, Value init,
                            ArrayRef<AffineMap> maps, Body body,
                            unsigned reductions) {
  SmallVector<utils::IteratorType> iterators(maps.back().getNumDims(),
                                             utils::IteratorType::parallel);
  for (unsigned i = 0; i < reductions; ++i)
    iterators[iterators.size() - 1 - i] = utils::IteratorType::reduction;
  auto op = linalg::GenericOp::create(
      b, loc, TypeRange{init.getType()}, inputs, ValueRange{init}, maps,
      iterators, [&](OpBuilder &nested, Location loc, ValueRange args) {
        linalg::YieldOp::create(nested, loc, body(nested, loc, args));
      });
  return op.getResult(0);
}

/// `x` in float32.
Value ModelBuilder::widen(OpBuilder &b, Location loc, Value x) {
  return x.getType() == f32 ? x
                            : arith::ExtFOp::create(b, loc, f32, x).getResult();
}

//===----------------------------------------------------------------------===//
// Blocks
//===----------------------------------------------------------------------===//

Value ModelBuilder::parameter(const std::string &name) {
  const StoredTensor *tensor = byName.lookup(name);
  assert(tensor && "listTensors and the builder disagree");
  Type element = tensor->type == StorageType::F32   ? Type(f32)
                 : tensor->type == StorageType::F16 ? Type(b.getF16Type())
                                                    : Type(b.getBF16Type());
  auto type = RankedTensorType::get(tensor->spec.shape, element);
  return GetParameterOp::create(b, loc, type, tensor->key);
}

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension of `x`, whose
/// first dimension counts tokens.
Value ModelBuilder::rmsNorm(Value x, const std::string &name) {
  at(name);
  Value weight = parameter(name + ".weight");
  auto type = cast<RankedTensorType>(x.getType());
  const unsigned rank = type.getRank();
  SmallVector<OpFoldResult> sizes{count};
  for (int64_t size : type.getShape().drop_front())
    sizes.push_back(attr(size));
  SmallVector<OpFoldResult> outer(sizes.begin(), sizes.end() - 1);

  AffineMap whole = b.getMultiDimIdentityMap(rank);
  SmallVector<unsigned> outerDims(rank - 1);
  for (unsigned i = 0; i + 1 < rank; ++i)
    outerDims[i] = i;
  AffineMap rows = map(rank, outerDims);

  Value squares = generic(
      x, filled(outer, f32Constant(0)), {whole, rows},
      [](OpBuilder &b, Location loc, ValueRange args) -> Value {
        Value square = arith::MulFOp::create(b, loc, args[0], args[0]);
        return arith::AddFOp::create(b, loc, args[1], square);
      },
      /*reductions=*/1);
  Value size = f32Constant(static_cast<double>(type.getShape().back()));
  Value eps = f32Constant(config.rmsNormEps);
  Value one = f32Constant(1);
  AffineMap outerWhole = b.getMultiDimIdentityMap(rank - 1);
  Value scale =
      generic(squares, empty(outer), {outerWhole, outerWhole},
              [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
                Value mean = arith::DivFOp::create(b, loc, args[0], size);
                Value sum = arith::AddFOp::create(b, loc, mean, eps);
                // Not math.rsqrt: C libraries lack the function.
                Value root = math::SqrtOp::create(b, loc, sum);
                return arith::DivFOp::create(b, loc, one, root);
              });
  return generic(
      {x, scale, weight}, empty(sizes),
      {whole, rows, map(rank, {rank - 1}), whole},
      [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
        Value scaled = arith::MulFOp::create(b, loc, args[0], args[1]);
        return arith::MulFOp::create(b, loc, widen(b, loc, args[2]), scaled);
      });
}

Value ModelBuilder::linear(Value x, const std::string &name, bool bias) {
  at(name);
  Value weight = parameter(name + ".weight");
  const int64_t outputs =
      cast<RankedTensorType>(weight.getType()).getDimSize(0);
  SmallVector<OpFoldResult> sizes{count, attr(outputs)};
  Value init = filled(sizes, f32Constant(0));
  const AffineMap maps[] = {map(3, {0, 2}), map(3, {1, 2}), map(3, {0, 1})};
  NamedAttribute indexing =
      b.getNamedAttr("indexing_maps", b.getAffineMapArrayAttr(maps));
  Value y = linalg::MatmulOp::create(b, loc, TypeRange{init.getType()},
                                     ValueRange{x, weight}, ValueRange{init},
                                     indexing)
                .getResult(0);
  if (!bias)
    return y;
  AffineMap whole = b.getMultiDimIdentityMap(2);
  return generic(
      {y, parameter(name + ".bias")}, empty(sizes), {whole, map(2, {1}), whole},
      [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
        return arith::AddFOp::create(b, loc, args[0], widen(b, loc, args[1]));
      });
}

Value ModelBuilder::add(Value x, Value y) {
  AffineMap whole = b.getMultiDimIdentityMap(2);
  return generic({x, y}, empty({count, attr(config.hiddenSize)}),
                 {whole, whole, whole},
                 [](OpBuilder &b, Location loc, ValueRange args) -> Value {
                   return arith::AddFOp::create(b, loc, args[0], args[1]);
                 });
}

/// Row `token` of the embedding table for each token, in float32.
Value ModelBuilder::embed(Value tokens) {
  at("model.embed_tokens");
  Value table = parameter("model.embed_tokens.weight");
  Value size = constant(b.getI64IntegerAttr(config.vocabSize));
  return generic(
      tokens, empty({count, attr(config.hiddenSize)}),
      {map(2, {0}), map(2, {0, 1})},
      [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
        // Negative numbers are large unsigned ones.
        Value isToken = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult,
                                              args[0], size);
        cf::AssertOp::create(b, loc, isToken,
                             "a token is not in the vocabulary");
        Value row =
            arith::IndexCastOp::create(b, loc, b.getIndexType(), args[0]);
        Value column = linalg::IndexOp::create(b, loc, 1);
        Value element =
            tensor::ExtractOp::create(b, loc, table, ValueRange{row, column});
        return widen(b, loc, element);
      });
}

/// cos or sin of position times frequency, [tokens, headDim / 2].
Value ModelBuilder::rotaryTable(bool isSine) {
  at("model.rotary_emb");
  const std::vector<float> frequencies = computeInverseFrequencies(config);
  auto type = RankedTensorType::get({half}, f32);
  Value table = constant(
      DenseElementsAttr::get(type, llvm::ArrayRef<float>(frequencies)));
  return generic(
      table, empty({count, attr(half)}), {map(2, {1}), map(2, {0, 1})},
      [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
        Value row = linalg::IndexOp::create(b, loc, 0);
        Value index = arith::AddIOp::create(b, loc, position, row);
        Value integer =
            arith::IndexCastOp::create(b, loc, b.getI64Type(), index);
        Value real = arith::SIToFPOp::create(b, loc, f32, integer);
        Value angle = arith::MulFOp::create(b, loc, real, args[0]);
        return isSine ? math::SinOp::create(b, loc, angle).getResult()
                      : math::CosOp::create(b, loc, angle).getResult();
      });
}

/// Rotates `heads`, whose shape is [tokens, headShape..., headDim], and writes
/// the result to the slice of `destination` at `offsets` and `sizes`, where the
/// dimensions of the result are those of `heads` in the order `order` and
/// leading sizes of 1 are dropped. Returns the updated destination.
Value ModelBuilder::rotate(Value heads, Value destination,
                           ArrayRef<OpFoldResult> offsets,
                           ArrayRef<OpFoldResult> sizes,
                           ArrayRef<unsigned> order,
                           ArrayRef<int64_t> headShape) {
  // Split the head in its two halves, both contiguous.
  const unsigned rank = headShape.size() + 2;
  SmallVector<OpFoldResult> begin(rank, attr(0)), extent{count},
      step(rank, attr(1));
  SmallVector<int64_t> shape{ShapedType::kDynamic};
  for (int64_t size : headShape) {
    extent.push_back(attr(size));
    shape.push_back(size);
  }
  extent.push_back(attr(half));
  shape.push_back(half);
  auto halfType = RankedTensorType::get(shape, f32);
  Value low = tensor::ExtractSliceOp::create(b, loc, halfType, heads, begin,
                                             extent, step);
  begin.back() = attr(half);
  Value high = tensor::ExtractSliceOp::create(b, loc, halfType, heads, begin,
                                              extent, step);

  // Result dimension i is dimension order[i] of the heads.
  SmallVector<unsigned> position(rank);
  SmallVector<int64_t> resultShape;
  for (unsigned i = 0; i < rank; ++i) {
    position[order[i]] = i;
    resultShape.push_back(shape[order[i]]);
  }
  auto resultType = RankedTensorType::get(resultShape, f32);
  AffineMap headMap = map(rank, position);
  AffineMap tableMap = map(rank, {position.front(), rank - 1});
  const AffineMap maps[] = {headMap, headMap, tableMap, tableMap,
                            b.getMultiDimIdentityMap(rank)};

  SmallVector<OpFoldResult> at(offsets), size(sizes),
      stride(sizes.size(), attr(1));
  size.back() = attr(half);
  auto write = [&](Value real, Value imaginary, bool upper) {
    at.back() = attr(upper ? half : 0);
    Value slice = tensor::ExtractSliceOp::create(b, loc, resultType,
                                                 destination, at, size, stride);
    Value rotated =
        generic({real, imaginary, cosine, sine}, slice, maps,
                [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
                  Value x = arith::MulFOp::create(b, loc, args[0], args[2]);
                  Value y = arith::MulFOp::create(b, loc, args[1], args[3]);
                  if (upper)
                    return arith::AddFOp::create(b, loc, x, y);
                  return arith::SubFOp::create(b, loc, x, y);
                });
    destination = tensor::InsertSliceOp::create(b, loc, rotated, destination,
                                                at, size, stride);
  };
  write(low, high, /*upper=*/false);
  write(high, low, /*upper=*/true);
  return destination;
}

Value ModelBuilder::activate(OpBuilder &b, Location loc, Value x) {
  switch (config.activation) {
  case Activation::SiLU: {
    // x / (1 + exp(-x))
    Value exp = math::ExpOp::create(b, loc, arith::NegFOp::create(b, loc, x));
    Value sum = arith::AddFOp::create(b, loc, exp, f32Constant(1));
    return arith::DivFOp::create(b, loc, x, sum);
  }
  case Activation::GELU: {
    // x / 2 * (1 + erf(x / sqrt(2)))
    Value scaled =
        arith::MulFOp::create(b, loc, x, f32Constant(std::sqrt(0.5)));
    Value erf = math::ErfOp::create(b, loc, scaled);
    Value sum = arith::AddFOp::create(b, loc, erf, f32Constant(1));
    Value halved = arith::MulFOp::create(b, loc, x, f32Constant(0.5));
    return arith::MulFOp::create(b, loc, halved, sum);
  }
  case Activation::GELUTanh: {
    // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    Value square = arith::MulFOp::create(b, loc, x, x);
    Value cube = arith::MulFOp::create(b, loc, square, x);
    Value inner = arith::MulFOp::create(b, loc, cube, f32Constant(0.044715));
    inner = arith::AddFOp::create(b, loc, x, inner);
    inner =
        arith::MulFOp::create(b, loc, inner, f32Constant(std::sqrt(2 / M_PI)));
    Value tanh = math::TanhOp::create(b, loc, inner);
    Value sum = arith::AddFOp::create(b, loc, tanh, f32Constant(1));
    Value halved = arith::MulFOp::create(b, loc, x, f32Constant(0.5));
    return arith::MulFOp::create(b, loc, halved, sum);
  }
  case Activation::ReLU:
    return arith::MaximumFOp::create(b, loc, x, f32Constant(0));
  }
  return x;
}

//===----------------------------------------------------------------------===//
// Layers
//===----------------------------------------------------------------------===//

Value ModelBuilder::attention(const std::string &prefix, int64_t layer,
                              Value x) {
  const int64_t groups = config.numKVHeads;
  const int64_t headDim = config.headDim;
  Value q = linear(x, prefix + "q_proj", config.qkvBias);
  Value k = linear(x, prefix + "k_proj", config.qkvBias);
  Value v = linear(x, prefix + "v_proj", config.qkvBias);

  // Split the columns into heads: [tokens, heads, headDim].
  auto heads = [&](Value value, ArrayRef<int64_t> headShape) -> Value {
    SmallVector<int64_t> shape{ShapedType::kDynamic};
    SmallVector<OpFoldResult> sizes{count};
    for (int64_t size : headShape) {
      shape.push_back(size);
      sizes.push_back(attr(size));
    }
    SmallVector<ReassociationIndices> dims{{0}, {}};
    for (size_t i = 0; i < headShape.size(); ++i)
      dims[1].push_back(i + 1);
    return tensor::ExpandShapeOp::create(
        b, loc, RankedTensorType::get(shape, f32), value, dims, sizes);
  };
  if (config.qkNorm) {
    q = rmsNorm(heads(q, {config.numHeads, headDim}), prefix + "q_norm");
    k = rmsNorm(heads(k, {groups, headDim}), prefix + "k_norm");
    at(prefix + "rotary");
    q = tensor::ExpandShapeOp::create(
        b, loc,
        RankedTensorType::get({ShapedType::kDynamic, groups, group, headDim},
                              f32),
        q, ArrayRef<ReassociationIndices>{{0}, {1, 2}, {3}},
        ArrayRef<OpFoldResult>{count, attr(groups), attr(group),
                               attr(headDim)});
  } else {
    at(prefix + "rotary");
    q = heads(q, {groups, group, headDim});
    k = heads(k, {groups, headDim});
  }
  v = heads(v, {groups, headDim});

  // Queries by key-value head: [groups, tokens, group, headDim].
  SmallVector<OpFoldResult> querySizes{attr(groups), count, attr(group),
                                       attr(headDim)};
  SmallVector<OpFoldResult> zeros(4, attr(0));
  Value queries = rotate(q, empty(querySizes), zeros, querySizes, {1, 0, 2, 3},
                         {groups, group});

  // Append keys and values to the rows of this layer in the caches.
  at(prefix + "cache");
  SmallVector<OpFoldResult> offsets{attr(layer), attr(0), position, attr(0)};
  SmallVector<OpFoldResult> sizes{attr(1), attr(groups), count, attr(headDim)};
  SmallVector<OpFoldResult> steps(4, attr(1));
  keyCache = rotate(k, keyCache, offsets, sizes, {1, 0, 2}, {groups});
  auto newType =
      RankedTensorType::get({groups, ShapedType::kDynamic, headDim}, f32);
  Value slice = tensor::ExtractSliceOp::create(b, loc, newType, valueCache,
                                               offsets, sizes, steps);
  slice =
      linalg::TransposeOp::create(b, loc, v, slice, ArrayRef<int64_t>{1, 0, 2})
          ->getResult(0);
  valueCache = tensor::InsertSliceOp::create(b, loc, slice, valueCache, offsets,
                                             sizes, steps);

  // All rows so far.
  at(prefix + "attention");
  offsets[2] = attr(0);
  sizes[2] = length;
  Value keys = tensor::ExtractSliceOp::create(b, loc, newType, keyCache,
                                              offsets, sizes, steps);
  Value values = tensor::ExtractSliceOp::create(b, loc, newType, valueCache,
                                                offsets, sizes, steps);

  // The query heads of a group share keys and values, so tokens and heads
  // together are the rows of one matrix, token-major.
  const Value rows = queryRows;
  queries = tensor::CollapseShapeOp::create(
      b, loc, queries, ArrayRef<ReassociationIndices>{{0}, {1, 2}, {3}});
  Value zero = f32Constant(0);
  SmallVector<OpFoldResult> scoreSizes{attr(groups), rows, length};
  Value init = filled(scoreSizes, zero);
  const AffineMap scoreMaps[] = {map(4, {0, 1, 3}), map(4, {0, 2, 3}),
                                 map(4, {0, 1, 2})};
  Value scores =
      linalg::BatchMatmulOp::create(
          b, loc, TypeRange{init.getType()}, ValueRange{queries, keys},
          ValueRange{init},
          b.getNamedAttr("indexing_maps", b.getAffineMapArrayAttr(scoreMaps)))
          .getResult(0);

  // Scale and mask. The most negative number rather than an infinity: no
  // arithmetic on it, however rewritten, makes a NaN.
  Value lowest = f32Constant(std::numeric_limits<float>::lowest());
  Value scale = f32Constant(1 / std::sqrt(static_cast<double>(headDim)));
  Value groupSize = indexConstant(group);
  AffineMap whole = b.getMultiDimIdentityMap(3);
  AffineMap outer = map(3, {0, 1});
  scores =
      generic(scores, empty(scoreSizes), {whole, whole},
              [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
                Value row = linalg::IndexOp::create(b, loc, 1);
                Value column = linalg::IndexOp::create(b, loc, 2);
                Value token = arith::DivUIOp::create(b, loc, row, groupSize);
                Value last = arith::AddIOp::create(b, loc, position, token);
                Value seen = arith::CmpIOp::create(
                    b, loc, arith::CmpIPredicate::ule, column, last);
                Value scaled = arith::MulFOp::create(b, loc, args[0], scale);
                return arith::SelectOp::create(b, loc, seen, scaled, lowest);
              });

  // Softmax; the division waits until the rows are short.
  SmallVector<OpFoldResult> rowSizes{attr(groups), rows};
  Value maximum = generic(
      scores, filled(rowSizes, lowest), {whole, outer},
      [](OpBuilder &b, Location loc, ValueRange args) -> Value {
        return arith::MaximumFOp::create(b, loc, args[0], args[1]);
      },
      /*reductions=*/1);
  Value weights =
      generic({scores, maximum}, empty(scoreSizes), {whole, outer, whole},
              [](OpBuilder &b, Location loc, ValueRange args) -> Value {
                Value shifted = arith::SubFOp::create(b, loc, args[0], args[1]);
                return math::ExpOp::create(b, loc, shifted);
              });
  Value sums = generic(
      weights, filled(rowSizes, zero), {whole, outer},
      [](OpBuilder &b, Location loc, ValueRange args) -> Value {
        return arith::AddFOp::create(b, loc, args[0], args[1]);
      },
      /*reductions=*/1);
  init = filled({attr(groups), rows, attr(headDim)}, zero);
  Value mixed = linalg::BatchMatmulOp::create(b, loc, TypeRange{init.getType()},
                                              ValueRange{weights, values},
                                              ValueRange{init})
                    .getResult(0);

  // Divide and return to one row per token.
  const int64_t dynamic = ShapedType::kDynamic;
  mixed = tensor::ExpandShapeOp::create(
      b, loc, RankedTensorType::get({groups, dynamic, group, headDim}, f32),
      mixed, ArrayRef<ReassociationIndices>{{0}, {1, 2}, {3}}, querySizes);
  sums = tensor::ExpandShapeOp::create(
      b, loc, RankedTensorType::get({groups, dynamic, group}, f32), sums,
      ArrayRef<ReassociationIndices>{{0}, {1, 2}},
      ArrayRef<OpFoldResult>{attr(groups), count, attr(group)});
  Value result = generic(
      {mixed, sums}, empty({count, attr(groups), attr(group), attr(headDim)}),
      {map(4, {1, 0, 2, 3}), map(4, {1, 0, 2}), map(4, {0, 1, 2, 3})},
      [](OpBuilder &b, Location loc, ValueRange args) -> Value {
        return arith::DivFOp::create(b, loc, args[0], args[1]);
      });
  result = tensor::CollapseShapeOp::create(
      b, loc, result, ArrayRef<ReassociationIndices>{{0}, {1, 2, 3}});
  return linear(result, prefix + "o_proj", config.outputBias);
}

Value ModelBuilder::feedForward(const std::string &prefix, Value x) {
  Value gate = linear(x, prefix + "gate_proj", config.mlpBias);
  Value up = linear(x, prefix + "up_proj", config.mlpBias);
  at(prefix + "act_fn");
  AffineMap whole = b.getMultiDimIdentityMap(2);
  Value inner =
      generic({gate, up}, empty({count, attr(config.intermediateSize)}),
              {whole, whole, whole},
              [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
                Value active = activate(b, loc, args[0]);
                return arith::MulFOp::create(b, loc, active, args[1]);
              });
  return linear(inner, prefix + "down_proj", config.mlpBias);
}

//===----------------------------------------------------------------------===//
// Module
//===----------------------------------------------------------------------===//

void ModelBuilder::addModelAttribute(ModuleOp module) {
  SmallVector<NamedAttribute> entries;
  auto integer = [&](const char *name, int64_t value) {
    entries.push_back(b.getNamedAttr(name, b.getI64IntegerAttr(value)));
  };
  entries.push_back(
      b.getNamedAttr("architecture", b.getStringAttr(config.architecture)));
  integer("num_layers", config.numLayers);
  integer("hidden_size", config.hiddenSize);
  integer("intermediate_size", config.intermediateSize);
  integer("num_heads", config.numHeads);
  integer("num_kv_heads", config.numKVHeads);
  integer("head_dim", config.headDim);
  integer("vocab_size", config.vocabSize);
  integer("max_positions", config.maxPositions);
  entries.push_back(
      b.getNamedAttr("tied_embeddings", b.getBoolAttr(config.tiedEmbeddings)));
  if (config.bosToken)
    integer("bos_token_id", *config.bosToken);
  if (!config.eosTokens.empty())
    entries.push_back(b.getNamedAttr("eos_token_ids",
                                     b.getDenseI64ArrayAttr(config.eosTokens)));
  if (config.padToken)
    integer("pad_token_id", *config.padToken);
  module->setAttr("quant_llm.model", b.getDictionaryAttr(entries));
}

void ModelBuilder::addParameters(llvm::StringRef archivePath) {
  ArchiveOp::create(b, loc, "model", archivePath);
  for (const StoredTensor &tensor : tensors) {
    Type element = tensor.type == StorageType::F32   ? Type(f32)
                   : tensor.type == StorageType::F16 ? Type(b.getF16Type())
                                                     : Type(b.getBF16Type());
    ParameterOp::create(b, loc, tensor.key, "model", /*key=*/StringAttr(),
                        RankedTensorType::get(tensor.spec.shape, element));
  }
}

/// Makes it an error of the call if the comparison does not hold.
void ModelBuilder::require(Value x, arith::CmpIPredicate predicate, Value bound,
                           const char *otherwise) {
  Value holds = arith::CmpIOp::create(b, loc, predicate, x, bound);
  cf::AssertOp::create(b, loc, holds, otherwise);
}

void ModelBuilder::buildForward() {
  const int64_t dynamic = ShapedType::kDynamic;
  auto tokensType = RankedTensorType::get({dynamic}, b.getI64Type());
  auto cacheType = RankedTensorType::get(
      {config.numLayers, config.numKVHeads, dynamic, config.headDim}, f32);
  auto logitsType = RankedTensorType::get({dynamic, config.vocabSize}, f32);
  auto function = func::FuncOp::create(
      b, loc, "forward",
      b.getFunctionType({tokensType, cacheType, cacheType, b.getI64Type()},
                        {logitsType, cacheType, cacheType}));
  // For what is made for people to read.
  const char *names[] = {"tokens", "keys", "values", "position"};
  for (auto [i, name] : llvm::enumerate(names))
    function.setArgAttr(i, "quant_llm.name", b.getStringAttr(name));
  entry = function.addEntryBlock();
  b.setInsertionPointToStart(entry);
  Value tokens = entry->getArgument(0);
  keyCache = entry->getArgument(1);
  valueCache = entry->getArgument(2);

  // The caches are of one size, and 0 <= position <= size - count.
  at("model");
  Value capacity = tensor::DimOp::create(b, loc, keyCache, indexConstant(2));
  Value valueCapacity =
      tensor::DimOp::create(b, loc, valueCache, indexConstant(2));
  require(valueCapacity, arith::CmpIPredicate::eq, capacity,
          "the cache of values has not the size of that of keys");
  count = tensor::DimOp::create(b, loc, tokens, indexConstant(0));
  position = arith::IndexCastOp::create(b, loc, b.getIndexType(),
                                        entry->getArgument(3));
  require(position, arith::CmpIPredicate::sge, indexConstant(0),
          "the position of the first token is negative");
  require(count, arith::CmpIPredicate::sle, capacity,
          "there are more tokens than the caches hold");
  Value room = arith::SubIOp::create(b, loc, capacity, count);
  require(position, arith::CmpIPredicate::sle, room,
          "the tokens do not fit into the caches from the position on");
  length = arith::AddIOp::create(b, loc, position, count);
  queryRows = arith::MulIOp::create(b, loc, count, indexConstant(group));

  Value x = embed(tokens);
  cosine = rotaryTable(/*isSine=*/false);
  sine = rotaryTable(/*isSine=*/true);
  for (int64_t layer = 0; layer < config.numLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    Value normed = rmsNorm(x, prefix + "input_layernorm");
    x = add(x, attention(prefix + "self_attn.", layer, normed));
    normed = rmsNorm(x, prefix + "post_attention_layernorm");
    x = add(x, feedForward(prefix + "mlp.", normed));
  }
  x = rmsNorm(x, "model.norm");
  Value logits =
      linear(x, config.tiedEmbeddings ? "model.embed_tokens" : "lm_head",
             /*bias=*/false);
  func::ReturnOp::create(b, loc, ValueRange{logits, keyCache, valueCache});
}

OwningOpRef<ModuleOp> ModelBuilder::build(llvm::StringRef archivePath) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  addModelAttribute(*module);
  b.setInsertionPointToStart(module->getBody());
  addParameters(archivePath);
  buildForward();
  return module;
}

void quant_llm::loadModelDialects(MLIRContext &context) {
  context
      .loadDialect<arith::ArithDialect, cf::ControlFlowDialect,
                   func::FuncDialect, linalg::LinalgDialect, math::MathDialect,
                   tensor::TensorDialect, QuantLLMDialect>();
}

OwningOpRef<ModuleOp>
quant_llm::buildModel(MLIRContext &context, const ModelConfig &config,
                      llvm::ArrayRef<StoredTensor> tensors,
                      llvm::StringRef archivePath) {
  loadModelDialects(context);
  return ModelBuilder(context, config, tensors).build(archivePath);
}
