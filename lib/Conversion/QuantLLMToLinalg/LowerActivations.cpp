//===- LowerActivations.cpp - Quantized activations to linalg -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas of quantize_activation written out. A group of channels becomes
// a dimension of its own where groups divide the channels, so that all loops
// are projections that vectorize; ragged groups read by computed indices.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace quant_llm;

namespace {

/// Emits the lowering of one activation.
class Activation {
public:
  Activation(OpBuilder &b, Location loc, ActivationType type, Value shaped)
      : b(b), loc(loc), type(type),
        sizes(tensor::getMixedSizes(b, loc, shaped)),
        scheme(type.getScheme().toNumerics()), f32(b.getF32Type()),
        i8(b.getI8Type()), i32(b.getI32Type()) {
    isSplit = type.isGrouped() && type.getK() % type.getGroup() == 0;
    rank = type.getShape().size() + (isSplit ? 1 : 0);
    for (int64_t i = 0; i + 1 < int64_t(type.getShape().size()); ++i)
      if (type.isPerToken())
        gridDims.push_back(i);
    if (type.isGrouped())
      gridDims.push_back(type.getShape().size() - 1);
  }

  SmallVector<Value> quantize(QuantizeActivationOp op);
  Value dequantize(ValueRange components);
  Value subtractZeros(ValueRange components);
  Value spreadScales(Value scales);

private:
  /// Whether scales are read by index instead of by a map.
  bool isRagged() const { return type.isGrouped() && !isSplit; }

  AffineMap project(int64_t loops, ArrayRef<int64_t> dims) {
    SmallVector<AffineExpr> exprs;
    for (int64_t dim : dims)
      exprs.push_back(b.getAffineDimExpr(dim));
    return AffineMap::get(loops, 0, exprs, b.getContext());
  }
  Value number(OpBuilder &b, Location loc, double value) {
    return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value));
  }
  Value integer(OpBuilder &b, Location loc, int64_t value) {
    return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value));
  }
  Value widen(OpBuilder &b, Location loc, Value value) {
    if (value.getType() == f32)
      return value;
    if (isa<mlir::FloatType>(value.getType()))
      return arith::ExtFOp::create(b, loc, f32, value);
    // A zero.
    return arith::UIToFPOp::create(b, loc, f32, value);
  }

  SmallVector<OpFoldResult> getLoopSizes();
  Value split(Value x);
  Value collapse(Value x);
  Value perElement(ValueRange elements, ValueRange grids, Type result,
                   function_ref<Value(OpBuilder &, Location, ValueRange)> body);
  Value perBlock(ValueRange grids, Type result,
                 function_ref<Value(OpBuilder &, Location, ValueRange)> body);
  Value reduce(Value x,
               function_ref<Value(OpBuilder &, Location, Value, Value)> body);
  Value emitScale(OpBuilder &b, Location loc, Value range, Value isFinite);
  Value encode(OpBuilder &b, Location loc, Value u);
  Value encodeFloat(OpBuilder &b, Location loc, Value u,
                    const SmallFloat &format);
  Value decode(OpBuilder &b, Location loc, Value code, Value table);

  OpBuilder &b;
  Location loc;
  ActivationType type;
  SmallVector<OpFoldResult> sizes;
  Scheme scheme;
  Type f32, i8, i32;
  /// Channels are two loops, the group and the channel in it.
  bool isSplit;
  /// Of the loops over elements, and those that number the scales.
  int64_t rank;
  SmallVector<int64_t> gridDims;
};

} // namespace

SmallVector<OpFoldResult> Activation::getLoopSizes() {
  SmallVector<OpFoldResult> result = sizes;
  if (isSplit) {
    result.back() = b.getIndexAttr(type.getNumGroups());
    result.push_back(b.getIndexAttr(type.getGroup()));
  }
  return result;
}

static SmallVector<ReassociationIndices> getSplitGroups(int64_t rank) {
  SmallVector<ReassociationIndices> groups;
  for (int64_t i = 0; i + 2 < rank; ++i)
    groups.push_back({i});
  groups.push_back({rank - 2, rank - 1});
  return groups;
}

/// x with a dimension for the groups.
Value Activation::split(Value x) {
  if (!isSplit)
    return x;
  auto dense = cast<RankedTensorType>(x.getType());
  SmallVector<int64_t> shape(dense.getShape());
  shape.back() = type.getNumGroups();
  shape.push_back(type.getGroup());
  return tensor::ExpandShapeOp::create(b, loc, dense.clone(shape), x,
                                       getSplitGroups(rank), getLoopSizes());
}

Value Activation::collapse(Value x) {
  if (!isSplit)
    return x;
  auto whole = RankedTensorType::get(
      type.getShape(), cast<RankedTensorType>(x.getType()).getElementType());
  return tensor::CollapseShapeOp::create(b, loc, whole, x,
                                         getSplitGroups(rank));
}

/// A tensor with a value for every element, from one element of each of
/// `elements` (which are split) and that of its block of each of `grids`.
Value Activation::perElement(
    ValueRange elements, ValueRange grids, Type result,
    function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  SmallVector<OpFoldResult> loops = getLoopSizes();
  SmallVector<Value> inputs(elements);
  AffineMap identity = b.getMultiDimIdentityMap(rank);
  SmallVector<AffineMap> maps(elements.size(), identity);
  if (!isRagged()) {
    llvm::append_range(inputs, grids);
    maps.append(grids.size(), project(rank, gridDims));
  }
  maps.push_back(identity);
  Value init = tensor::EmptyOp::create(b, loc, loops, result);
  return linalg::GenericOp::create(
             b, loc, TypeRange{init.getType()}, inputs, ValueRange{init}, maps,
             SmallVector<utils::IteratorType>(rank,
                                              utils::IteratorType::parallel),
             [&](OpBuilder &b, Location loc, ValueRange args) {
               SmallVector<Value> values(args.drop_back());
               if (isRagged()) {
                 SmallVector<Value> at;
                 for (int64_t dim : gridDims)
                   at.push_back(linalg::IndexOp::create(b, loc, dim));
                 at.back() = arith::DivUIOp::create(
                     b, loc, at.back(),
                     arith::ConstantIndexOp::create(b, loc, type.getGroup()));
                 for (Value grid : grids)
                   values.push_back(
                       tensor::ExtractOp::create(b, loc, grid, at));
               }
               linalg::YieldOp::create(b, loc, body(b, loc, values));
             })
      .getResult(0);
}

/// A tensor with a value for every block.
Value Activation::perBlock(
    ValueRange grids, Type result,
    function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
  int64_t gridRank = gridDims.size();
  Value init = tensor::EmptyOp::create(
      b, loc, tensor::getMixedSizes(b, loc, grids.front()), result);
  SmallVector<AffineMap> maps(grids.size() + 1,
                              b.getMultiDimIdentityMap(gridRank));
  return linalg::GenericOp::create(
             b, loc, TypeRange{init.getType()}, grids, ValueRange{init}, maps,
             SmallVector<utils::IteratorType>(gridRank,
                                              utils::IteratorType::parallel),
             [&](OpBuilder &b, Location loc, ValueRange args) {
               linalg::YieldOp::create(b, loc, body(b, loc, args.drop_back()));
             })
      .getResult(0);
}

/// The reduction of every block, beginning with 0.
Value Activation::reduce(
    Value x, function_ref<Value(OpBuilder &, Location, Value, Value)> body) {
  int64_t loops = type.getShape().size() + (type.isGrouped() ? 1 : 0);
  SmallVector<OpFoldResult> gridSizes;
  if (type.isPerToken())
    gridSizes.assign(sizes.begin(), std::prev(sizes.end()));
  if (type.isGrouped())
    gridSizes.push_back(b.getIndexAttr(type.getNumGroups()));
  Value empty = tensor::EmptyOp::create(b, loc, gridSizes, f32);
  Value init =
      linalg::FillOp::create(b, loc, number(b, loc, 0), empty).getResult(0);
  SmallVector<utils::IteratorType> iterators(loops,
                                             utils::IteratorType::reduction);
  for (int64_t dim : gridDims)
    iterators[dim] = utils::IteratorType::parallel;
  Value shaped = split(x);
  if (isRagged()) {
    // Gives the loops their extents.
    SmallVector<OpFoldResult> all = sizes;
    all.back() = b.getIndexAttr(type.getNumGroups());
    all.push_back(b.getIndexAttr(type.getGroup()));
    shaped = tensor::EmptyOp::create(b, loc, all, type.getElementType());
  }
  AffineMap maps[] = {b.getMultiDimIdentityMap(loops),
                      project(loops, gridDims)};
  return linalg::GenericOp::create(
             b, loc, TypeRange{init.getType()}, ValueRange{shaped},
             ValueRange{init}, maps, iterators,
             [&](OpBuilder &b, Location loc, ValueRange args) {
               Value element = args[0];
               if (isRagged()) {
                 // The last channel again does not change a range.
                 SmallVector<Value> at;
                 for (int64_t i = 0; i < loops; ++i)
                   at.push_back(linalg::IndexOp::create(b, loc, i));
                 Value inGroup = at.pop_back_val();
                 auto index = [&](int64_t value) {
                   return arith::ConstantIndexOp::create(b, loc, value);
                 };
                 at.back() = arith::AddIOp::create(
                     b, loc,
                     arith::MulIOp::create(b, loc, at.back(),
                                           index(type.getGroup())),
                     inGroup);
                 at.back() = arith::MinUIOp::create(b, loc, at.back(),
                                                    index(type.getK() - 1));
                 element = tensor::ExtractOp::create(b, loc, x, at);
               }
               linalg::YieldOp::create(
                   b, loc, body(b, loc, widen(b, loc, element), args[1]));
             })
      .getResult(0);
}

/// The stored scale of a range.
Value Activation::emitScale(OpBuilder &b, Location loc, Value range,
                            Value isFinite) {
  Result<Element> element = Element::get(scheme.element);
  assert(element.ok() && "a verified scheme has a legal element");
  double largest = element->maxValue();
  if (scheme.rule == ScaleRule::AbsMaxFull)
    largest = std::ldexp(1.0, scheme.element.bits - 1);
  else if (scheme.rule == ScaleRule::MinMax)
    largest -= element->minValue();
  Value scale = arith::DivFOp::create(b, loc, range, number(b, loc, largest));
  auto stored = cast<mlir::FloatType>(Type(type.getScheme().getScaleType()));
  // Keeps NaN.
  scale = arith::MinimumFOp::create(
      b, loc, scale,
      number(
          b, loc,
          APFloat::getLargest(stored.getFloatSemantics()).convertToDouble()));
  scale = arith::SelectOp::create(
      b, loc, isFinite, scale,
      number(b, loc, std::numeric_limits<float>::quiet_NaN()));
  if (stored == f32)
    return scale;
  return arith::TruncFOp::create(b, loc, stored, scale);
}

/// The code of a small float, as i32: the mantissa at the exponent of the
/// number, or at the smallest one, is rounded to an integer.
Value Activation::encodeFloat(OpBuilder &b, Location loc, Value u,
                              const SmallFloat &format) {
  const int64_t mantissa = format.mantissaBits;
  const int64_t least = 1 - format.bias;
  Value bits = arith::BitcastOp::create(b, loc, i32, u);
  Value sign = arith::ShRUIOp::create(b, loc, bits, integer(b, loc, 31));
  sign =
      arith::ShLIOp::create(b, loc, sign, integer(b, loc, format.bits() - 1));
  Value magnitude = math::AbsFOp::create(b, loc, u);
  magnitude = arith::MinimumFOp::create(
      b, loc, magnitude,
      number(b, loc, decodeSmallFloat(format, format.maxCode)));
  Value exponent = arith::ShRUIOp::create(
      b, loc, arith::BitcastOp::create(b, loc, i32, magnitude),
      integer(b, loc, 23));
  exponent = arith::SubIOp::create(b, loc, exponent, integer(b, loc, 127));
  exponent = arith::MaxSIOp::create(b, loc, exponent, integer(b, loc, least));
  Value factor =
      arith::SubIOp::create(b, loc, integer(b, loc, mantissa + 127), exponent);
  factor = arith::ShLIOp::create(b, loc, factor, integer(b, loc, 23));
  factor = arith::BitcastOp::create(b, loc, f32, factor);
  Value rounded = math::RoundEvenOp::create(
      b, loc, arith::MulFOp::create(b, loc, magnitude, factor));
  // A NaN must not reach the conversion.
  Value isNaN = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, u, u);
  rounded = arith::SelectOp::create(b, loc, isNaN, number(b, loc, 0), rounded);
  Value code = arith::FPToSIOp::create(b, loc, i32, rounded);
  Value above = arith::ShLIOp::create(
      b, loc, arith::SubIOp::create(b, loc, exponent, integer(b, loc, least)),
      integer(b, loc, mantissa));
  code = arith::OrIOp::create(b, loc,
                              arith::AddIOp::create(b, loc, code, above), sign);
  return arith::SelectOp::create(b, loc, isNaN, integer(b, loc, format.nanCode),
                                 code);
}

/// The code (i8) whose value is nearest to u.
Value Activation::encode(OpBuilder &b, Location loc, Value u) {
  if (const SmallFloat *format = getSmallFloat(scheme.element.kind))
    return arith::TruncIOp::create(b, loc, i8, encodeFloat(b, loc, u, *format));
  Result<Element> element = Element::get(scheme.element);
  assert(element.ok() && "a verified scheme has a legal element");
  Value rounded = math::RoundEvenOp::create(b, loc, u);
  rounded = arith::MaximumFOp::create(b, loc, rounded,
                                      number(b, loc, element->minValue()));
  rounded = arith::MinimumFOp::create(b, loc, rounded,
                                      number(b, loc, element->maxValue()));
  Value isNaN = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, u, u);
  rounded = arith::SelectOp::create(b, loc, isNaN, number(b, loc, 0), rounded);
  return arith::TruncIOp::create(b, loc, i8,
                                 arith::FPToSIOp::create(b, loc, i32, rounded));
}

SmallVector<Value> Activation::quantize(QuantizeActivationOp op) {
  Value source = op.getSource();
  SmallVector<Value> grids(op.getGiven());
  Type stored = type.getScheme().getScaleType();
  std::optional<Value> clip;
  if (std::optional<APFloat> ratio = op.getClip())
    clip = number(b, loc, ratio->convertToFloat());
  auto clipped = [&](OpBuilder &b, Location loc, Value value) -> Value {
    return clip ? arith::MulFOp::create(b, loc, value, *clip).getResult()
                : value;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  auto isLess = [](OpBuilder &b, Location loc, Value lhs, Value rhs) -> Value {
    return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLT, lhs, rhs);
  };
  if (grids.empty() && scheme.rule == ScaleRule::MinMax) {
    Value lowest =
        reduce(source, [](OpBuilder &b, Location loc, Value x, Value range) {
          return arith::MinimumFOp::create(b, loc, range, x).getResult();
        });
    Value highest =
        reduce(source, [](OpBuilder &b, Location loc, Value x, Value range) {
          return arith::MaximumFOp::create(b, loc, range, x).getResult();
        });
    grids.push_back(perBlock(
        {lowest, highest}, stored,
        [&](OpBuilder &b, Location loc, ValueRange args) {
          // Not a difference of products, which might be contracted.
          Value range =
              clipped(b, loc, arith::SubFOp::create(b, loc, args[1], args[0]));
          Value isFinite = arith::AndIOp::create(
              b, loc, isLess(b, loc, number(b, loc, -infinity), args[0]),
              isLess(b, loc, args[1], number(b, loc, infinity)));
          return emitScale(b, loc, range, isFinite);
        }));
    if (scheme.zero == ZeroKind::Integer)
      grids.push_back(perBlock(
          {lowest, grids.front()}, i8,
          [&](OpBuilder &b, Location loc, ValueRange args) {
            Value scale = widen(b, loc, args[1]);
            Value u = arith::DivFOp::create(
                b, loc, arith::NegFOp::create(b, loc, clipped(b, loc, args[0])),
                scale);
            // 0 / 0 is NaN, which is encoded as 0.
            return encode(b, loc, u);
          }));
  } else if (grids.empty()) {
    Value range =
        reduce(source, [](OpBuilder &b, Location loc, Value x, Value range) {
          return arith::MaximumFOp::create(b, loc, range,
                                           math::AbsFOp::create(b, loc, x))
              .getResult();
        });
    grids.push_back(perBlock(
        range, stored, [&](OpBuilder &b, Location loc, ValueRange args) {
          return emitScale(b, loc, clipped(b, loc, args[0]),
                           isLess(b, loc, args[0], number(b, loc, infinity)));
        }));
  }
  Value codes = perElement(
      split(source), grids, i8,
      [&](OpBuilder &b, Location loc, ValueRange args) {
        Value scale = widen(b, loc, args[1]);
        Value u = arith::DivFOp::create(b, loc, widen(b, loc, args[0]), scale);
        if (scheme.zero == ZeroKind::Integer)
          u = arith::AddFOp::create(b, loc, u, widen(b, loc, args[2]));
        Value zero = number(b, loc, 0);
        Value isZero = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ,
                                             scale, zero);
        return encode(b, loc, arith::SelectOp::create(b, loc, isZero, zero, u));
      });
  SmallVector<Value> components{collapse(codes)};
  llvm::append_range(components, grids);
  return components;
}

/// v(q) of a byte.
Value Activation::decode(OpBuilder &b, Location loc, Value code, Value table) {
  if (!table) {
    if (scheme.element.kind == ElementKind::Int)
      return arith::SIToFPOp::create(b, loc, f32, code);
    return arith::UIToFPOp::create(b, loc, f32, code);
  }
  unsigned bits = scheme.element.bits;
  if (bits < 8)
    code = arith::AndIOp::create(
        b, loc, code,
        arith::ConstantOp::create(b, loc, b.getI8IntegerAttr((1 << bits) - 1)));
  Value index = arith::IndexCastUIOp::create(b, loc, b.getIndexType(), code);
  return tensor::ExtractOp::create(b, loc, table, index);
}

Value Activation::dequantize(ValueRange components) {
  Value table;
  if (getSmallFloat(scheme.element.kind)) {
    Result<Element> element = Element::get(scheme.element);
    assert(element.ok() && "a verified scheme has a legal element");
    ArrayRef<float> values = element->table();
    auto tableType =
        RankedTensorType::get({static_cast<int64_t>(values.size())}, f32);
    table = arith::ConstantOp::create(
        b, loc, DenseElementsAttr::get(tableType, values));
  }
  return collapse(perElement(
      split(components.front()), components.drop_front(), f32,
      [&](OpBuilder &b, Location loc, ValueRange args) {
        Value value = decode(b, loc, args[0], table);
        if (scheme.zero == ZeroKind::Integer)
          value = arith::SubFOp::create(b, loc, value, widen(b, loc, args[2]));
        return arith::MulFOp::create(b, loc, widen(b, loc, args[1]), value)
            .getResult();
      }));
}

/// Codes less their zeros, as i16.
Value Activation::subtractZeros(ValueRange components) {
  Type i16 = b.getI16Type();
  return collapse(perElement(
      split(components.front()), components.drop_front(2), i16,
      [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
        if (scheme.element.kind == ElementKind::Int)
          return arith::ExtSIOp::create(b, loc, i16, args[0]);
        Value code = arith::ExtUIOp::create(b, loc, i16, args[0]);
        if (args.size() == 1)
          return code;
        return arith::SubIOp::create(
            b, loc, code, arith::ExtUIOp::create(b, loc, i16, args[1]));
      }));
}

/// The scales of every token and group, as f32.
Value Activation::spreadScales(Value scales) {
  SmallVector<OpFoldResult> loops = sizes;
  loops.back() = b.getIndexAttr(type.getNumGroups());
  Value init = tensor::EmptyOp::create(b, loc, loops, f32);
  AffineMap maps[] = {project(loops.size(), gridDims),
                      b.getMultiDimIdentityMap(loops.size())};
  return linalg::GenericOp::create(
             b, loc, TypeRange{init.getType()}, ValueRange{scales},
             ValueRange{init}, maps,
             SmallVector<utils::IteratorType>(loops.size(),
                                              utils::IteratorType::parallel),
             [&](OpBuilder &b, Location loc, ValueRange args) {
               linalg::YieldOp::create(b, loc, widen(b, loc, args[0]));
             })
      .getResult(0);
}

void quant_llm::decomposeQuantizeActivation(RewriterBase &rewriter,
                                            QuantizeActivationOp op) {
  Activation activation(rewriter, op.getLoc(), op.getResult().getType(),
                        op.getSource());
  SmallVector<Value> components = activation.quantize(op);
  for (auto [component, value] :
       llvm::zip_equal(op.getResult().getType().getComponents(), components))
    if (value.getType() != component.type)
      value =
          tensor::CastOp::create(rewriter, op.getLoc(), component.type, value);
  rewriter.replaceOpWithNewOp<AssembleOp>(op, op.getResult().getType(),
                                          components);
}

Value quant_llm::emitDequantizedActivation(OpBuilder &builder, Location loc,
                                           ActivationType type,
                                           ValueRange components) {
  return Activation(builder, loc, type, components.front())
      .dequantize(components);
}

std::pair<Value, Value>
quant_llm::emitIntegerActivation(OpBuilder &builder, Location loc,
                                 ActivationType type, ValueRange components) {
  Activation activation(builder, loc, type, components.front());
  return {activation.subtractZeros(components),
          activation.spreadScales(components[1])};
}

namespace {

struct QuantizeActivationConversion
    : public OpRewritePattern<QuantizeActivationOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(QuantizeActivationOp op,
                                PatternRewriter &rewriter) const override {
    decomposeQuantizeActivation(rewriter, op);
    return success();
  }
};

} // namespace

void quant_llm::populateActivationsToLinalgPatterns(
    RewritePatternSet &patterns) {
  patterns.add<QuantizeActivationConversion>(patterns.getContext());
}
