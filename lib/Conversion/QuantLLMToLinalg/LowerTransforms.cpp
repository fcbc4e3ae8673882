//===- LowerTransforms.cpp - Channel transforms to linalg -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"

#include "quant-llm/Numerics/Rotation.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace quant_llm;

namespace {

/// Emits the parts of a lowered transform, all in the type that it is computed
/// in.
class Emitter {
public:
  Emitter(OpBuilder &b, Operation *op) : b(b), loc(op->getLoc()) {
    bool isWide = llvm::any_of(op->getOperandTypes(), [](Type type) {
      return getElementTypeOrSelf(type).isF64();
    });
    type = isWide ? b.getF64Type() : b.getF32Type();
  }

  Value convert(OpBuilder &b, Location loc, Value x, Type to) {
    unsigned from = x.getType().getIntOrFloatBitWidth();
    unsigned width = to.getIntOrFloatBitWidth();
    if (x.getType() == to)
      return x;
    // f16 and bf16 have one width, but one of the two types is always `type`.
    if (from < width)
      return arith::ExtFOp::create(b, loc, to, x);
    return arith::TruncFOp::create(b, loc, to, x);
  }

  /// A pointwise op on `inputs`; the result has the shape of the first one.
  Value pointwise(ValueRange inputs, ArrayRef<AffineMap> inputMaps,
                  Type element,
                  function_ref<Value(OpBuilder &, Location, ValueRange)> body) {
    SmallVector<OpFoldResult> sizes =
        tensor::getMixedSizes(b, loc, inputs.front());
    Value init = tensor::EmptyOp::create(b, loc, sizes, element);
    SmallVector<AffineMap> maps(inputMaps);
    maps.push_back(b.getMultiDimIdentityMap(sizes.size()));
    SmallVector<utils::IteratorType> parallel(sizes.size(),
                                              utils::IteratorType::parallel);
    return linalg::GenericOp::create(
               b, loc, TypeRange{init.getType()}, inputs, ValueRange{init},
               maps, parallel,
               [&](OpBuilder &nested, Location loc, ValueRange args) {
                 SmallVector<Value> wide;
                 for (Value arg : args.drop_back())
                   wide.push_back(convert(nested, loc, arg, type));
                 Value result = body(nested, loc, wide);
                 linalg::YieldOp::create(nested, loc,
                                         convert(nested, loc, result, element));
               })
        .getResult(0);
  }

  /// x with elements of another type.
  Value cast(Value x, Type element) {
    auto xType = llvm::cast<RankedTensorType>(x.getType());
    if (xType.getElementType() == element)
      return x;
    return pointwise(
        x, b.getMultiDimIdentityMap(xType.getRank()), element,
        [](OpBuilder &, Location, ValueRange args) { return args[0]; });
  }

  /// Projects the loops of a tensor of this rank on `dims`.
  AffineMap project(int64_t rank, ArrayRef<int64_t> dims) {
    SmallVector<AffineExpr> exprs;
    for (int64_t dim : dims)
      exprs.push_back(b.getAffineDimExpr(dim));
    return AffineMap::get(rank, 0, exprs, b.getContext());
  }

  Value number(double value) {
    return arith::ConstantOp::create(b, loc, b.getFloatAttr(type, value));
  }

  Value constant(ArrayRef<int64_t> shape, ArrayRef<double> values) {
    SmallVector<APFloat> elements;
    for (double value : values) {
      APFloat element(value);
      bool losesInfo;
      element.convert(llvm::cast<mlir::FloatType>(type).getFloatSemantics(),
                      APFloat::rmNearestTiesToEven, &losesInfo);
      elements.push_back(element);
    }
    return arith::ConstantOp::create(
        b, loc,
        DenseElementsAttr::get(RankedTensorType::get(shape, type), elements));
  }

  /// A factor of the matrix that blocks are multiplied by.
  struct Factor {
    Value matrix;
    int64_t order;
    bool transposed;
  };

  /// Multiplies every block of dimension `dim` by the Kronecker product of the
  /// factors.
  Value multiply(Value x, int64_t dim, ArrayRef<Factor> factors) {
    auto xType = llvm::cast<RankedTensorType>(x.getType());
    // Blocks and factors become dimensions of their own.
    int64_t block = 1;
    for (const Factor &factor : factors)
      block *= factor.order;
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(b, loc, x);
    SmallVector<OpFoldResult> newSizes;
    SmallVector<int64_t> newShape;
    SmallVector<ReassociationIndices> groups;
    for (int64_t i = 0; i < xType.getRank(); ++i) {
      ReassociationIndices &group = groups.emplace_back();
      auto add = [&](OpFoldResult size, int64_t extent) {
        group.push_back(newShape.size());
        newSizes.push_back(size);
        newShape.push_back(extent);
      };
      if (i != dim) {
        add(sizes[i], xType.getDimSize(i));
        continue;
      }
      int64_t blocks = xType.getDimSize(i) / block;
      add(b.getIndexAttr(blocks), blocks);
      for (const Factor &factor : factors)
        add(b.getIndexAttr(factor.order), factor.order);
    }
    auto newType = RankedTensorType::get(newShape, type);
    Value y =
        tensor::ExpandShapeOp::create(b, loc, newType, x, groups, newSizes);
    int64_t rank = newShape.size();
    for (auto [index, factor] : llvm::enumerate(factors)) {
      int64_t position = dim + 1 + static_cast<int64_t>(index);
      SmallVector<int64_t> in = llvm::to_vector(llvm::seq<int64_t>(0, rank));
      SmallVector<int64_t> out = in;
      in[position] = rank;
      SmallVector<int64_t> matrix{rank, position};
      if (factor.transposed)
        std::swap(matrix[0], matrix[1]);
      AffineMap maps[] = {project(rank + 1, in), project(rank + 1, matrix),
                          project(rank + 1, out)};
      SmallVector<utils::IteratorType> iterators(rank + 1,
                                                 utils::IteratorType::parallel);
      iterators.back() = utils::IteratorType::reduction;
      Value empty = tensor::EmptyOp::create(b, loc, newSizes, type);
      Value init =
          linalg::FillOp::create(b, loc, number(0), empty).getResult(0);
      y = linalg::GenericOp::create(
              b, loc, TypeRange{newType}, ValueRange{y, factor.matrix},
              ValueRange{init}, maps, iterators,
              [](OpBuilder &nested, Location loc, ValueRange args) {
                Value product =
                    arith::MulFOp::create(nested, loc, args[0], args[1]);
                Value sum =
                    arith::AddFOp::create(nested, loc, args[2], product);
                linalg::YieldOp::create(nested, loc, sum);
              })
              .getResult(0);
    }
    return tensor::CollapseShapeOp::create(b, loc, xType, y, groups);
  }

  OpBuilder &b;
  Location loc;
  Type type;
};

//===----------------------------------------------------------------------===//
// Scales, shifts, permutations
//===----------------------------------------------------------------------===//

/// A transform whose data is a vector over channels.
template <typename OpTy, typename ForwardOp, typename InverseOp>
struct VectorConversion : public OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;

  LogicalResult matchAndRewrite(OpTy op,
                                PatternRewriter &rewriter) const override {
    Emitter emit(rewriter, op);
    RankedTensorType type = op.getInput().getType();
    Value data = op->getOperand(1);
    AffineMap maps[] = {rewriter.getMultiDimIdentityMap(type.getRank()),
                        emit.project(type.getRank(), op.getDims())};
    rewriter.replaceOp(
        op, emit.pointwise(
                {op.getInput(), data}, maps, type.getElementType(),
                [&](OpBuilder &b, Location loc, ValueRange args) {
                  return op.getInverse()
                             ? InverseOp::create(b, loc, args[0], args[1])
                                   .getResult()
                             : ForwardOp::create(b, loc, args[0], args[1])
                                   .getResult();
                }));
    return success();
  }
};

struct PermuteConversion : public OpRewritePattern<PermuteChannelsOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(PermuteChannelsOp op,
                                PatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    Emitter emit(rewriter, op);
    RankedTensorType type = op.getInput().getType();
    int64_t rank = type.getRank(), dim = op.getDims().front();
    Value indices = op.getPermutation();
    if (op.getInverse())
      indices = invert(rewriter, loc, indices);
    SmallVector<OpFoldResult> sizes =
        tensor::getMixedSizes(rewriter, loc, op.getInput());
    Value init =
        tensor::EmptyOp::create(rewriter, loc, sizes, type.getElementType());
    AffineMap maps[] = {emit.project(rank, {dim}),
                        rewriter.getMultiDimIdentityMap(rank)};
    rewriter.replaceOpWithNewOp<linalg::GenericOp>(
        op, TypeRange{init.getType()}, ValueRange{indices}, ValueRange{init},
        maps,
        SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
        [&](OpBuilder &b, Location loc, ValueRange args) {
          // In range whatever the operand holds.
          Type integer = args[0].getType();
          auto bound = [&](int64_t value) {
            return arith::ConstantOp::create(b, loc,
                                             b.getIntegerAttr(integer, value));
          };
          Value index = arith::MaxSIOp::create(b, loc, args[0], bound(0));
          index = arith::MinSIOp::create(b, loc, index,
                                         bound(type.getDimSize(dim) - 1));
          SmallVector<Value> position;
          for (int64_t i = 0; i < rank; ++i)
            position.push_back(linalg::IndexOp::create(b, loc, i));
          position[dim] =
              arith::IndexCastOp::create(b, loc, b.getIndexType(), index);
          Value element =
              tensor::ExtractOp::create(b, loc, op.getInput(), position);
          linalg::YieldOp::create(b, loc, element);
        });
    return success();
  }

  /// q with q[p[c]] = c: the largest c for which p[c] is the index. That of a
  /// constant is a constant.
  static Value invert(OpBuilder &b, Location loc, Value permutation) {
    auto type = cast<RankedTensorType>(permutation.getType());
    Type integer = type.getElementType();
    if (DenseIntElementsAttr known;
        matchPattern(permutation, m_Constant(&known))) {
      // What this very rewrite folded to a constant was not verified.
      SmallVector<APInt> inverse(static_cast<size_t>(type.getDimSize(0)),
                                 APInt(integer.getIntOrFloatBitWidth(), 0));
      for (auto [c, index] : llvm::enumerate(known.getValues<APInt>()))
        if (index.ult(inverse.size()))
          inverse[index.getZExtValue()] = APInt(index.getBitWidth(), c);
      return arith::ConstantOp::create(
          b, loc, DenseIntElementsAttr::get(type, inverse));
    }
    Value zero =
        arith::ConstantOp::create(b, loc, b.getIntegerAttr(integer, 0));
    Value empty = tensor::EmptyOp::create(b, loc, type.getShape(), integer);
    Value init = linalg::FillOp::create(b, loc, zero, empty).getResult(0);
    AffineExpr channel = b.getAffineDimExpr(1);
    AffineMap maps[] = {AffineMap::get(2, 0, channel),
                        AffineMap::get(2, 0, b.getAffineDimExpr(0))};
    return linalg::GenericOp::create(
               b, loc, TypeRange{type}, ValueRange{permutation},
               ValueRange{init}, maps,
               {utils::IteratorType::parallel, utils::IteratorType::reduction},
               [&](OpBuilder &b, Location loc, ValueRange args) {
                 auto index = [&](int64_t dim) -> Value {
                   Value i = linalg::IndexOp::create(b, loc, dim);
                   return arith::IndexCastOp::create(b, loc, integer, i);
                 };
                 Value isHere = arith::CmpIOp::create(
                     b, loc, arith::CmpIPredicate::eq, args[0], index(0));
                 Value none = arith::ConstantOp::create(
                     b, loc, b.getIntegerAttr(integer, 0));
                 Value place =
                     arith::SelectOp::create(b, loc, isHere, index(1), none);
                 linalg::YieldOp::create(
                     b, loc,
                     Value(arith::MaxSIOp::create(b, loc, args[1], place)));
               })
        .getResult(0);
  }
};

//===----------------------------------------------------------------------===//
// Matrices
//===----------------------------------------------------------------------===//

struct RotateConversion : public OpRewritePattern<RotateOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(RotateOp op,
                                PatternRewriter &rewriter) const override {
    Emitter emit(rewriter, op);
    RankedTensorType type = op.getInput().getType();
    int64_t dim = op.getDims().front();
    Value x = emit.cast(op.getInput(), emit.type);
    SmallVector<Emitter::Factor> factors;
    auto addFactor = [&](Value matrix) {
      factors.push_back({matrix,
                         cast<RankedTensorType>(matrix.getType()).getDimSize(0),
                         op.getInverse()});
    };
    if (!op.getHadamard()) {
      for (Value matrix : op.getMatrices())
        addFactor(emit.cast(matrix, emit.type));
      x = emit.multiply(x, dim, factors);
      rewriter.replaceOp(op, emit.cast(x, type.getElementType()));
      return success();
    }

    int64_t order = op.getBlock();
    Result<HadamardMatrix> matrix = HadamardMatrix::get(order);
    // The verifier has seen the order.
    if (!matrix.ok())
      return rewriter.notifyMatchFailure(op, matrix.message());
    addHadamardFactors(emit, *matrix, addFactor);
    if (!op.getInverse())
      x = scale(emit, op, x);
    if (!factors.empty())
      x = emit.multiply(x, dim, factors);
    if (op.getInverse())
      x = scale(emit, op, x);
    rewriter.replaceOp(op, emit.cast(x, type.getElementType()));
    return success();
  }

  static void addHadamardFactors(Emitter &emit, const HadamardMatrix &matrix,
                                 function_ref<void(Value)> add) {
    auto addMatrix = [&](int64_t order, auto at) {
      SmallVector<double> values;
      for (int64_t i = 0; i < order; ++i)
        for (int64_t j = 0; j < order; ++j)
          values.push_back(at(i, j));
      add(emit.constant({order, order}, values));
    };
    int64_t sylvester = matrix.getSylvester();
    if (matrix.getBase() > 1)
      addMatrix(matrix.getBase(), [&](int64_t i, int64_t j) {
        return matrix.at(i * sylvester, j * sylvester);
      });
    // Sylvester's matrix in factors of at most 16: few passes over memory, few
    // multiplications in each.
    while (sylvester > 1) {
      int64_t order = std::min<int64_t>(sylvester, 16);
      addMatrix(order, [&](int64_t i, int64_t j) { return matrix.at(i, j); });
      sylvester /= order;
    }
  }

  /// Signs and normalization: the diagonal factor of the matrix.
  static Value scale(Emitter &emit, RotateOp op, Value x) {
    RankedTensorType type = op.getInput().getType();
    int64_t order = op.getBlock(), size = type.getDimSize(op.getDims().front());
    AffineMap identity = emit.b.getMultiDimIdentityMap(type.getRank());
    Value root = math::SqrtOp::create(emit.b, emit.loc,
                                      emit.number(static_cast<double>(order)));
    if (!op.getSeed())
      return emit.pointwise(
          x, identity, emit.type,
          [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
            return arith::DivFOp::create(b, loc, args[0], root);
          });
    std::vector<int8_t> signs = getRandomSigns(*op.getSeed(), order);
    SmallVector<double> values;
    for (int64_t i = 0; i < size; ++i)
      values.push_back(signs[i % order]);
    AffineMap maps[] = {identity, emit.project(type.getRank(), op.getDims())};
    return emit.pointwise(
        {x, emit.constant({size}, values)}, maps, emit.type,
        [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
          Value signedX = arith::MulFOp::create(b, loc, args[0], args[1]);
          return arith::DivFOp::create(b, loc, signedX, root);
        });
  }
};

struct AffineConversion : public OpRewritePattern<AffineOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(AffineOp op,
                                PatternRewriter &rewriter) const override {
    Emitter emit(rewriter, op);
    RankedTensorType type = op.getInput().getType();
    int64_t rank = type.getRank(), dim = op.getDims().front();
    Value x = emit.cast(op.getInput(), emit.type);
    Value matrix = op.getInverse() ? op.getInverseMatrix() : op.getMatrix();
    int64_t order = cast<RankedTensorType>(matrix.getType()).getDimSize(0);
    // One offset for every block: a row of the channels as [blocks, order].
    auto offset = [&](Value x) -> Value {
      if (!op.getOffset())
        return x;
      int64_t size = type.getDimSize(dim);
      Value init = tensor::EmptyOp::create(
          rewriter, op.getLoc(), ArrayRef<int64_t>{size / order, order},
          cast<RankedTensorType>(op.getOffset().getType()).getElementType());
      Value repeated =
          linalg::BroadcastOp::create(rewriter, op.getLoc(), op.getOffset(),
                                      init, ArrayRef<int64_t>{0})
              ->getResult(0);
      repeated = tensor::CollapseShapeOp::create(
          rewriter, op.getLoc(), repeated,
          ArrayRef<ReassociationIndices>{{0, 1}});
      AffineMap maps[] = {rewriter.getMultiDimIdentityMap(rank),
                          emit.project(rank, {dim})};
      return emit.pointwise(
          {x, repeated}, maps, emit.type,
          [&](OpBuilder &b, Location loc, ValueRange args) -> Value {
            if (op.getInverse())
              return arith::SubFOp::create(b, loc, args[0], args[1]);
            return arith::AddFOp::create(b, loc, args[0], args[1]);
          });
    };
    if (op.getInverse())
      x = offset(x);
    x = emit.multiply(x, dim, {{emit.cast(matrix, emit.type), order, false}});
    if (!op.getInverse())
      x = offset(x);
    rewriter.replaceOp(op, emit.cast(x, type.getElementType()));
    return success();
  }
};

} // namespace

void quant_llm::populateTransformsToLinalgPatterns(
    RewritePatternSet &patterns) {
  patterns.add<VectorConversion<ScaleChannelsOp, arith::MulFOp, arith::DivFOp>,
               VectorConversion<ShiftChannelsOp, arith::AddFOp, arith::SubFOp>,
               PermuteConversion, RotateConversion, AffineConversion>(
      patterns.getContext());
}
