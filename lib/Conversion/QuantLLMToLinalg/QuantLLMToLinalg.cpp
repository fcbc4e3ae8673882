//===- QuantLLMToLinalg.cpp - The exact reference lowering ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formulas of the ops written out, one operation after the other as Spec.md
// has them: the oracle for every kernel.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace quant_llm {
#define GEN_PASS_DEF_CONVERTQUANTLLMTOLINALG
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

/// The layout of a weight; null of canonical and dense ones.
static WeightLayoutAttrInterface getLayout(Value weight) {
  auto type = dyn_cast<WeightType>(weight.getType());
  return type ? type.getLayout() : nullptr;
}

LogicalResult quant_llm::verifyCanonicalWeights(Operation *root) {
  WalkResult walked = root->walk([](Operation *op) {
    if (!isa<LinearOpInterface, DequantizeOp>(op))
      return WalkResult::advance();
    for (Value operand : op->getOperands())
      if (WeightLayoutAttrInterface layout = getLayout(operand)) {
        op->emitOpError("expected weights in canonical storage but got the "
                        "layout ")
            << layout
            << ", which only GPU kernels read; lower the module as it was "
               "before quant-llm-prepack";
        return WalkResult::interrupt();
      }
    return WalkResult::advance();
  });
  return failure(walked.wasInterrupted());
}

SmallVector<Value> quant_llm::getWeightComponents(OpBuilder &builder,
                                                  Location loc, Value weight) {
  if (auto assemble = weight.getDefiningOp<AssembleOp>())
    return llvm::to_vector(assemble.getComponents());
  SmallVector<Type> types;
  for (const WeightComponent &component : getComponentsOf(weight.getType()))
    types.push_back(component.type);
  auto components = ComponentsOp::create(builder, loc, types, weight);
  return llvm::to_vector(ValueRange(components.getResults()));
}

//===----------------------------------------------------------------------===//
// The value of a stored element
//===----------------------------------------------------------------------===//

/// A constant tensor of values by code.
static Value emitTable(OpBuilder &builder, Location loc,
                       ArrayRef<float> values) {
  auto type = RankedTensorType::get({static_cast<int64_t>(values.size())},
                                    builder.getF32Type());
  return arith::ConstantOp::create(builder, loc,
                                   DenseElementsAttr::get(type, values));
}

/// The values of an 8-bit float by its bits; empty for other types.
static SmallVector<float> getByteFloatTable(Type type) {
  SmallVector<float> values;
  if (!isa<Float8E8M0FNUType, Float8E4M3FNType>(type))
    return values;
  const SmallFloat *format = getSmallFloat(ElementKind::F8E4M3FN);
  for (unsigned code = 0; code < 256; ++code)
    values.push_back(
        isa<Float8E8M0FNUType>(type)
            ? e8m0ToFloat(static_cast<uint8_t>(code))
            : decodeSmallFloat(*format, static_cast<uint8_t>(code)));
  return values;
}

namespace {

/// A component read as f32.
struct FloatComponent {
  /// Outside the body: creates the table that its type may need.
  FloatComponent(OpBuilder &builder, Location loc, Value tensor)
      : tensor(tensor) {
    Type type = cast<RankedTensorType>(tensor.getType()).getElementType();
    SmallVector<float> values = getByteFloatTable(type);
    if (!values.empty())
      table = emitTable(builder, loc, values);
  }

  Value read(OpBuilder &builder, Location loc, ValueRange indices) const {
    Value value = tensor::ExtractOp::create(builder, loc, tensor, indices);
    Type f32 = builder.getF32Type();
    if (table) {
      Value bits = arith::BitcastOp::create(builder, loc,
                                            builder.getIntegerType(8), value);
      Value index = arith::IndexCastUIOp::create(builder, loc,
                                                 builder.getIndexType(), bits);
      return tensor::ExtractOp::create(builder, loc, table, index);
    }
    if (value.getType() == f32)
      return value;
    return arith::ExtFOp::create(builder, loc, f32, value);
  }

  Value tensor;
  Value table;
};

} // namespace

/// `matrix` + A B, added in the order of the rank, each step in f32.
static Value emitAddedProduct(OpBuilder &builder, Location loc, Value matrix,
                              ValueRange factors) {
  AffineExpr n, k, j;
  bindDims(builder.getContext(), n, k, j);
  SmallVector<AffineMap> maps = AffineMap::inferFromExprList(
      ArrayRef<ArrayRef<AffineExpr>>{{n, j}, {j, k}, {n, k}},
      builder.getContext());
  utils::IteratorType iterators[] = {utils::IteratorType::parallel,
                                     utils::IteratorType::parallel,
                                     utils::IteratorType::reduction};
  auto widen = [](OpBuilder &b, Location loc, Value value) -> Value {
    Type f32 = b.getF32Type();
    return value.getType() == f32
               ? value
               : arith::ExtFOp::create(b, loc, f32, value).getResult();
  };
  auto sum = linalg::GenericOp::create(
      builder, loc, TypeRange{matrix.getType()}, factors, ValueRange{matrix},
      maps, iterators, [&](OpBuilder &b, Location loc, ValueRange args) {
        Value product = arith::MulFOp::create(b, loc, widen(b, loc, args[0]),
                                              widen(b, loc, args[1]));
        Value next = arith::AddFOp::create(b, loc, args[2], product);
        linalg::YieldOp::create(b, loc, next);
      });
  return sum.getResult(0);
}

Value quant_llm::emitDequantizedMatrix(OpBuilder &builder, Location loc,
                                       int64_t n, int64_t k,
                                       const Scheme &scheme,
                                       ValueRange components) {
  int64_t bits = scheme.element.bits;
  int64_t blockN = scheme.blockN < 0 ? n : scheme.blockN;
  int64_t blockK = scheme.blockK < 0 ? k : scheme.blockK;
  Value codes = components.front();
  Value scaleMatrix;
  if (scheme.scaleScheme) {
    scaleMatrix = emitDequantizedMatrix(
        builder, loc, (n + blockN - 1) / blockN, (k + blockK - 1) / blockK,
        *scheme.scaleScheme, components.slice(1, 2));
    components = components.drop_front(3);
  } else {
    scaleMatrix = components[1];
    components = components.drop_front(2);
  }
  FloatComponent scales(builder, loc, scaleMatrix);
  std::optional<FloatComponent> floatZeros;
  if (scheme.zero == ZeroKind::Float)
    floatZeros.emplace(builder, loc, components.front());
  Result<Element> element = Element::get(scheme.element);
  // Attributes verify their elements, so there is nothing to report.
  assert(element.ok() && "a verified scheme has a legal element");
  Value values = emitTable(builder, loc, element->table());

  auto type = RankedTensorType::get({n, k}, builder.getF32Type());
  Value init = tensor::EmptyOp::create(builder, loc, type.getShape(),
                                       type.getElementType());
  AffineMap identity = builder.getMultiDimIdentityMap(2);
  SmallVector<utils::IteratorType> parallel(2, utils::IteratorType::parallel);
  auto generic = linalg::GenericOp::create(
      builder, loc, TypeRange{type}, ValueRange{}, ValueRange{init},
      ArrayRef<AffineMap>{identity}, parallel,
      [&](OpBuilder &b, Location loc, ValueRange) {
        auto constant = [&](int64_t value) -> Value {
          return arith::ConstantIndexOp::create(b, loc, value);
        };
        Value row = linalg::IndexOp::create(b, loc, 0);
        Value column = linalg::IndexOp::create(b, loc, 1);
        // The code: `bits` bits from bit column * bits of the row's bit string.
        // It lies in one byte or two.
        Value firstBit = arith::MulIOp::create(b, loc, column, constant(bits));
        Value byte = arith::DivUIOp::create(b, loc, firstBit, constant(8));
        Type i32 = b.getI32Type();
        auto readByte = [&](Value at) -> Value {
          Value code =
              tensor::ExtractOp::create(b, loc, codes, ValueRange{row, at});
          return arith::ExtUIOp::create(b, loc, i32, code);
        };
        Value word = readByte(byte);
        if (8 % bits != 0) {
          int64_t numBytes =
              cast<RankedTensorType>(codes.getType()).getDimSize(1);
          Value next = arith::MinUIOp::create(
              b, loc, arith::AddIOp::create(b, loc, byte, constant(1)),
              constant(numBytes - 1));
          Value high = arith::ShLIOp::create(
              b, loc, readByte(next),
              arith::ConstantIntOp::create(b, loc, 8, 32));
          word = arith::OrIOp::create(b, loc, word, high);
        }
        Value shift = arith::IndexCastOp::create(
            b, loc, i32, arith::RemUIOp::create(b, loc, firstBit, constant(8)));
        Value code = arith::AndIOp::create(
            b, loc, arith::ShRUIOp::create(b, loc, word, shift),
            arith::ConstantIntOp::create(b, loc, (int64_t(1) << bits) - 1, 32));
        Value codeIndex =
            arith::IndexCastUIOp::create(b, loc, b.getIndexType(), code);
        Value value = tensor::ExtractOp::create(b, loc, values, codeIndex);

        Value block[] = {
            arith::DivUIOp::create(b, loc, row, constant(blockN)),
            arith::DivUIOp::create(b, loc, column, constant(blockK))};
        Value scale = scales.read(b, loc, block);
        if (scheme.zero == ZeroKind::Integer) {
          Value zero =
              tensor::ExtractOp::create(b, loc, components.front(), block);
          Value zeroValue =
              arith::UIToFPOp::create(b, loc, b.getF32Type(), zero);
          value = arith::SubFOp::create(b, loc, value, zeroValue);
        }
        value = arith::MulFOp::create(b, loc, scale, value);
        if (floatZeros)
          value = arith::AddFOp::create(b, loc, value,
                                        floatZeros->read(b, loc, block));
        linalg::YieldOp::create(b, loc, value);
      });
  Value matrix = generic.getResult(0);
  if (scheme.lowRank != 0)
    matrix = emitAddedProduct(builder, loc, matrix, components.take_back(2));
  return matrix;
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

/// Whether an expert's rows are a weight under the scheme: no block of scales
/// has rows of two experts, and there are as many rows as the low-rank part
/// needs.
static bool canSplitRows(const Scheme &scheme, int64_t rows, int64_t experts) {
  if (rows / experts < scheme.lowRank)
    return false;
  if (scheme.blockN < 0)
    return true;
  if (rows / experts % scheme.blockN != 0)
    return false;
  return !scheme.scaleScheme ||
         canSplitRows(*scheme.scaleScheme, rows / scheme.blockN, experts);
}

/// Rows number `part` * `rows` and following of a matrix.
static Value sliceRows(OpBuilder &builder, Location loc, Value matrix,
                       Value part, int64_t rows) {
  auto type = cast<RankedTensorType>(matrix.getType());
  Value first = arith::MulIOp::create(
      builder, loc, part, arith::ConstantIndexOp::create(builder, loc, rows));
  SmallVector<OpFoldResult> offsets{first}, sizes{builder.getIndexAttr(rows)};
  if (type.getRank() == 2) {
    offsets.push_back(builder.getIndexAttr(0));
    sizes.push_back(builder.getIndexAttr(type.getDimSize(1)));
  }
  SmallVector<OpFoldResult> strides(offsets.size(), builder.getIndexAttr(1));
  return tensor::ExtractSliceOp::create(builder, loc, matrix, offsets, sizes,
                                        strides);
}

/// The components of the `rows` rows of an expert, from those of all experts.
static void sliceComponents(OpBuilder &builder, Location loc,
                            const Scheme &scheme, ValueRange components,
                            Value expert, int64_t rows,
                            SmallVectorImpl<Value> &slices) {
  if (scheme.lowRank != 0) {
    // All rows share B.
    Scheme codes = scheme;
    codes.lowRank = 0;
    sliceComponents(builder, loc, codes, components.drop_back(2), expert, rows,
                    slices);
    slices.push_back(
        sliceRows(builder, loc, components.take_back(2)[0], expert, rows));
    slices.push_back(components.back());
    return;
  }
  slices.push_back(sliceRows(builder, loc, components[0], expert, rows));
  ValueRange grids = components.drop_front();
  if (scheme.blockN < 0) {
    // All rows share the scales.
    llvm::append_range(slices, grids);
    return;
  }
  int64_t gridRows = rows / scheme.blockN;
  if (scheme.scaleScheme) {
    sliceComponents(builder, loc, *scheme.scaleScheme, grids.take_front(2),
                    expert, gridRows, slices);
    grids = grids.drop_front(2);
  }
  for (Value grid : grids)
    slices.push_back(sliceRows(builder, loc, grid, expert, gridRows));
}

void quant_llm::expandGroupedLinear(RewriterBase &rewriter,
                                    GroupedLinearOp op) {
  Location loc = op.getLoc();
  int64_t n = op.getN(), experts = op.getNumExperts();
  Value offsets = op.getOffsets();
  // Of an activation, its components.
  auto activation = dyn_cast<ActivationType>(op.getInput().getType());
  SmallVector<Value> input{op.getInput()};
  if (activation)
    input = getWeightComponents(rewriter, loc, op.getInput());
  auto resultType = cast<RankedTensorType>(op.getResult().getType());

  // Weights that cannot be divided become matrices.
  SmallVector<SmallVector<Value>> components;
  for (Value weight : op.getWeights()) {
    auto type = dyn_cast<WeightType>(weight.getType());
    if (!type) {
      components.push_back({weight});
      continue;
    }
    components.push_back(getWeightComponents(rewriter, loc, weight));
    Scheme scheme = type.getScheme().toNumerics();
    if (!canSplitRows(scheme, type.getN(), experts))
      components.back() = {emitDequantizedMatrix(
          rewriter, loc, type.getN(), type.getK(), scheme, components.back())};
  }

  auto constant = [&](int64_t value) -> Value {
    return arith::ConstantIndexOp::create(rewriter, loc, value);
  };
  Value zero = constant(0), one = constant(1);
  Value tokens = tensor::DimOp::create(rewriter, loc, input.front(), zero);
  SmallVector<OpFoldResult> sizes =
      tensor::getMixedSizes(rewriter, loc, input.front());
  sizes.back() = rewriter.getIndexAttr(n);
  Value init = tensor::EmptyOp::create(rewriter, loc, sizes,
                                       resultType.getElementType());
  auto loop = scf::ForOp::create(
      rewriter, loc, zero, constant(experts), one, init,
      [&](OpBuilder &b, Location loc, Value expert, ValueRange carried) {
        // Offsets that do not ascend must not lead out of the operands.
        auto readOffset = [&](Value index, Value least) -> Value {
          Value offset = tensor::ExtractOp::create(b, loc, offsets, index);
          offset = arith::IndexCastOp::create(b, loc, b.getIndexType(), offset);
          offset = arith::MaxSIOp::create(b, loc, offset, least);
          return arith::MinSIOp::create(b, loc, offset, tokens);
        };
        Value next = arith::AddIOp::create(b, loc, expert, one);
        Value begin = readOffset(expert, zero);
        Value end = readOffset(next, begin);
        Value count = arith::SubIOp::create(b, loc, end, begin);

        SmallVector<OpFoldResult> first{begin, b.getIndexAttr(0)};
        SmallVector<OpFoldResult> strides(2, b.getIndexAttr(1));
        auto sizesOf = [&](int64_t columns) {
          return SmallVector<OpFoldResult>{count, b.getIndexAttr(columns)};
        };
        auto sliceTokens = [&](Value tensor) -> Value {
          auto type = cast<RankedTensorType>(tensor.getType());
          if (type.getRank() == 1) {
            // The scales of the tokens.
            OpFoldResult one = b.getIndexAttr(1), size = count;
            return tensor::ExtractSliceOp::create(b, loc, tensor, first.front(),
                                                  size, one);
          }
          return tensor::ExtractSliceOp::create(
              b, loc, tensor, first, sizesOf(type.getDimSize(1)), strides);
        };
        auto sliceInput = [&]() -> Value {
          if (!activation)
            return sliceTokens(input.front());
          SmallVector<Value> slices(input);
          slices.front() = sliceTokens(slices.front());
          if (activation.isPerToken())
            for (Value &grid : MutableArrayRef(slices).drop_front())
              grid = sliceTokens(grid);
          auto type = ActivationType::get(
              {ShapedType::kDynamic, activation.getK()},
              activation.getElementType(), activation.getScheme());
          return AssembleOp::create(b, loc, type, slices);
        };
        SmallVector<Value> weights, operands;
        for (auto [weight, parts] :
             llvm::zip_equal(op.getWeights(), components)) {
          if (parts.size() == 1) {
            weights.push_back(sliceRows(b, loc, parts.front(), expert, n));
            continue;
          }
          auto type = cast<WeightType>(weight.getType());
          SmallVector<Value> slices;
          sliceComponents(b, loc, type.getScheme().toNumerics(), parts, expert,
                          n, slices);
          auto ofExpert = WeightType::get(
              {n, type.getK()}, type.getElementType(), type.getScheme());
          weights.push_back(AssembleOp::create(b, loc, ofExpert, slices));
        }
        for (Value operand : op.getEpilogueOperands()) {
          bool perRow =
              cast<RankedTensorType>(operand.getType()).getRank() == 1;
          operands.push_back(perRow ? sliceRows(b, loc, operand, expert, n)
                                    : sliceTokens(operand));
        }
        auto type = RankedTensorType::get({ShapedType::kDynamic, n},
                                          resultType.getElementType());
        auto linear = LinearOp::create(b, loc, type, sliceInput(), weights,
                                       operands, nullptr);
        IRMapping mapping;
        op.getEpilogue().cloneInto(&linear.getEpilogue(), mapping);
        Value inserted = tensor::InsertSliceOp::create(
            b, loc, linear.getResult(), carried.front(), first, sizesOf(n),
            strides);
        scf::YieldOp::create(b, loc, inserted);
      });
  rewriter.replaceOp(op, loop.getResults());
}

//===----------------------------------------------------------------------===//
// Low-rank parts
//===----------------------------------------------------------------------===//

void quant_llm::splitLowRank(RewriterBase &rewriter, LinearOp op) {
  Location loc = op.getLoc();
  auto resultType = cast<RankedTensorType>(op.getResult().getType());
  Type f32 = rewriter.getF32Type();
  // x W^T as a sum in f32.
  auto multiply = [&](Value x, Value weight) -> Value {
    SmallVector<int64_t> shape(resultType.getShape());
    shape.back() = getWeightShape(weight.getType())[0];
    return LinearOp::create(rewriter, loc, RankedTensorType::get(shape, f32), x,
                            weight);
  };
  SmallVector<Value> weights, products;
  // For each weight the number of its product, or -1.
  SmallVector<int64_t> numbers;
  for (Value weight : op.getWeights()) {
    auto type = dyn_cast<WeightType>(weight.getType());
    if (!type || type.getScheme().getLowRank() == 0) {
      weights.push_back(weight);
      numbers.push_back(-1);
      continue;
    }
    SmallVector<Value> parts = getWeightComponents(rewriter, loc, weight);
    Value b = parts.pop_back_val(), a = parts.pop_back_val();
    auto codes = WeightType::get(type.getShape(), type.getElementType(),
                                 type.getScheme().withoutLowRank());
    weights.push_back(AssembleOp::create(rewriter, loc, codes, parts));
    numbers.push_back(products.size());
    products.push_back(multiply(multiply(op.getInput(), b), a));
  }
  if (products.empty())
    return;

  SmallVector<Value> operands(op.getEpilogueOperands());
  llvm::append_range(operands, products);
  auto body = [&](OpBuilder &b, Location loc, ValueRange args) {
    ValueRange own = args.drop_back(products.size());
    ValueRange added = args.take_back(products.size());
    SmallVector<Value> mapped(own);
    for (auto [i, number] : llvm::enumerate(numbers))
      if (number >= 0)
        mapped[i] = arith::AddFOp::create(b, loc, own[i], added[number]);
    if (!op.hasEpilogue()) {
      Value sum = mapped.front();
      if (Type type = resultType.getElementType(); type != f32)
        sum = arith::TruncFOp::create(b, loc, type, sum);
      YieldOp::create(b, loc, sum);
      return;
    }
    IRMapping mapping;
    Block &epilogue = op.getEpilogue().front();
    mapping.map(epilogue.getArguments(), mapped);
    for (Operation &inner : epilogue)
      b.clone(inner, mapping);
  };
  rewriter.replaceOpWithNewOp<LinearOp>(op, resultType, op.getInput(), weights,
                                        operands, body);
}

//===----------------------------------------------------------------------===//
// Patterns
//===----------------------------------------------------------------------===//

/// The sizes of a tensor.
static SmallVector<OpFoldResult> getSizes(OpBuilder &builder, Location loc,
                                          Value tensor) {
  return tensor::getMixedSizes(builder, loc, tensor);
}

namespace {

struct DequantizeConversion : public OpRewritePattern<DequantizeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(DequantizeOp op,
                                PatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    if (getLayout(op.getSource()))
      return rewriter.notifyMatchFailure(op, "the weight has a layout");
    SmallVector<Value> components =
        getWeightComponents(rewriter, loc, op.getSource());
    Value values;
    if (auto type = dyn_cast<WeightType>(op.getSource().getType()))
      values = emitDequantizedMatrix(rewriter, loc, type.getN(), type.getK(),
                                     type.getScheme().toNumerics(), components);
    else
      values = emitDequantizedActivation(
          rewriter, loc, cast<ActivationType>(op.getSource().getType()),
          components);
    Type element = op.getType().getElementType();
    if (element.isF32()) {
      rewriter.replaceOp(op, values);
      return success();
    }
    int64_t rank = op.getType().getRank();
    Value init = tensor::EmptyOp::create(
        rewriter, loc, getSizes(rewriter, loc, values), element);
    AffineMap identity = rewriter.getMultiDimIdentityMap(rank);
    rewriter.replaceOpWithNewOp<linalg::GenericOp>(
        op, TypeRange{op.getType()}, ValueRange{values}, ValueRange{init},
        ArrayRef<AffineMap>{identity, identity},
        SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
        [&](OpBuilder &b, Location loc, ValueRange args) {
          Value rounded = arith::TruncFOp::create(b, loc, element, args[0]);
          linalg::YieldOp::create(b, loc, rounded);
        });
    return success();
  }
};

struct LinearConversion : public OpRewritePattern<LinearOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(LinearOp op,
                                PatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    if (llvm::any_of(op.getWeights(), getLayout))
      return rewriter.notifyMatchFailure(op, "a weight has a layout");
    Value input = op.getInput();
    if (auto type = dyn_cast<ActivationType>(input.getType()))
      input = emitDequantizedActivation(
          rewriter, loc, type, getWeightComponents(rewriter, loc, input));
    auto resultType = cast<RankedTensorType>(op.getResult().getType());
    unsigned rank = resultType.getRank();
    Type f32 = rewriter.getF32Type();

    // acc[m..., n] = sum over k of x[m..., k] * W[n, k]
    SmallVector<OpFoldResult> sizes = getSizes(rewriter, loc, input);
    sizes.back() = rewriter.getIndexAttr(op.getN());
    AffineMap result = rewriter.getMultiDimIdentityMap(rank);
    SmallVector<AffineExpr> dims;
    for (unsigned i = 0; i <= rank; ++i)
      dims.push_back(rewriter.getAffineDimExpr(i));
    auto makeMap = [&](ArrayRef<AffineExpr> results) {
      return AffineMap::get(rank + 1, 0, results, rewriter.getContext());
    };
    SmallVector<AffineExpr> inputDims(dims.begin(), dims.end() - 2);
    inputDims.push_back(dims[rank]);
    AffineMap maps[] = {makeMap(inputDims),
                        makeMap({dims[rank - 1], dims[rank]}),
                        makeMap(ArrayRef(dims).drop_back())};
    SmallVector<utils::IteratorType> iterators(rank + 1,
                                               utils::IteratorType::parallel);
    iterators.back() = utils::IteratorType::reduction;
    auto widen = [&](OpBuilder &b, Location loc, Value value) -> Value {
      return value.getType() == f32
                 ? value
                 : arith::ExtFOp::create(b, loc, f32, value).getResult();
    };
    SmallVector<Value> sums;
    Value zero =
        arith::ConstantOp::create(rewriter, loc, rewriter.getF32FloatAttr(0));
    for (Value weight : op.getWeights()) {
      if (auto type = dyn_cast<WeightType>(weight.getType()))
        weight =
            emitDequantizedMatrix(rewriter, loc, type.getN(), type.getK(),
                                  type.getScheme().toNumerics(),
                                  getWeightComponents(rewriter, loc, weight));
      Value empty = tensor::EmptyOp::create(rewriter, loc, sizes, f32);
      Value init =
          linalg::FillOp::create(rewriter, loc, zero, empty).getResult(0);
      auto sum = linalg::GenericOp::create(
          rewriter, loc, TypeRange{init.getType()}, ValueRange{input, weight},
          ValueRange{init}, maps, iterators,
          [&](OpBuilder &b, Location loc, ValueRange args) {
            Value product = arith::MulFOp::create(
                b, loc, widen(b, loc, args[0]), widen(b, loc, args[1]));
            Value next = arith::AddFOp::create(b, loc, args[2], product);
            linalg::YieldOp::create(b, loc, next);
          });
      sums.push_back(sum.getResult(0));
    }
    if (!op.hasEpilogue() && resultType.getElementType() == f32) {
      rewriter.replaceOp(op, sums.front());
      return success();
    }

    SmallVector<Value> operands = sums;
    SmallVector<AffineMap> epilogueMaps(sums.size(), result);
    for (Value operand : op.getEpilogueOperands()) {
      operands.push_back(operand);
      bool perOutput =
          cast<RankedTensorType>(operand.getType()).getRank() == 1 && rank != 1;
      epilogueMaps.push_back(
          perOutput
              ? AffineMap::get(rank, 0, {dims[rank - 1]}, rewriter.getContext())
              : result);
    }
    epilogueMaps.push_back(result);
    Value empty = tensor::EmptyOp::create(rewriter, loc, sizes,
                                          resultType.getElementType());
    rewriter.replaceOpWithNewOp<linalg::GenericOp>(
        op, TypeRange{empty.getType()}, operands, ValueRange{empty},
        epilogueMaps,
        SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
        [&](OpBuilder &b, Location loc, ValueRange args) {
          if (!op.hasEpilogue()) {
            Value rounded = arith::TruncFOp::create(
                b, loc, resultType.getElementType(), args[0]);
            linalg::YieldOp::create(b, loc, rounded);
            return;
          }
          Block &body = op.getEpilogue().front();
          IRMapping mapping;
          for (auto [from, to] : llvm::zip(body.getArguments(), args))
            mapping.map(from, to);
          for (Operation &inner : body.without_terminator())
            b.clone(inner, mapping);
          linalg::YieldOp::create(
              b, loc,
              mapping.lookupOrDefault(body.getTerminator()->getOperand(0)));
        });
    return success();
  }
};

struct GroupedLinearExpansion : public OpRewritePattern<GroupedLinearOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(GroupedLinearOp op,
                                PatternRewriter &rewriter) const override {
    if (llvm::any_of(op.getWeights(), getLayout))
      return rewriter.notifyMatchFailure(op, "a weight has a layout");
    expandGroupedLinear(rewriter, op);
    return success();
  }
};

struct ConvertQuantLLMToLinalg
    : public quant_llm::impl::ConvertQuantLLMToLinalgBase<
          ConvertQuantLLMToLinalg> {
  using ConvertQuantLLMToLinalgBase::ConvertQuantLLMToLinalgBase;

  void runOnOperation() override {
    if (failed(verifyCanonicalWeights(getOperation())))
      return signalPassFailure();
    RewritePatternSet patterns(&getContext());
    populateQuantLLMToLinalgPatterns(patterns);
    populateActivationsToLinalgPatterns(patterns);
    populateTransformsToLinalgPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace

void quant_llm::populateQuantLLMToLinalgPatterns(RewritePatternSet &patterns) {
  patterns.add<DequantizeConversion, LinearConversion, GroupedLinearExpansion>(
      patterns.getContext());
}
