//===- TransformOps.cpp - Equivalence transforms --------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Numerics/Rotation.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Verification
//===----------------------------------------------------------------------===//

/// The elements of a constant; nothing if it is none.
static std::optional<SmallVector<double>> getConstant(Value value) {
  DenseFPElementsAttr attr;
  if (!value || !matchPattern(value, m_Constant(&attr)))
    return std::nullopt;
  if (attr.getElementType().isF64())
    return llvm::to_vector(attr.getValues<double>());
  SmallVector<double> elements;
  elements.reserve(attr.getNumElements());
  for (APFloat element : attr.getValues<APFloat>()) {
    bool losesInfo;
    element.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                    &losesInfo);
    elements.push_back(element.convertToDouble());
  }
  return elements;
}

/// How far a matrix of this element type may be from its exact value.
double quant_llm::getIdentityTolerance(Value matrix) {
  switch (getElementTypeOrSelf(matrix.getType()).getIntOrFloatBitWidth()) {
  case 64:
    return 1e-9;
  case 32:
    return 1e-4;
  default:
    return 0.05;
  }
}

static RankedTensorType getTensorType(Value value) {
  return cast<RankedTensorType>(value.getType());
}

/// QL-TRANSFORM-C1
static LogicalResult verifyDims(Operation *op, Value input,
                                ArrayRef<int64_t> dims) {
  RankedTensorType type = getTensorType(input);
  if (dims.empty())
    return op->emitOpError("expected at least one dimension in 'dims'");
  int64_t previous = -1;
  for (int64_t dim : dims) {
    if (dim <= previous || dim >= type.getRank())
      return op->emitOpError("expected 'dims' to be increasing dimensions of ")
             << type << " but got [" << dims << "]";
    previous = dim;
    if (type.isDynamicDim(dim) || type.getDimSize(dim) < 1)
      return op->emitOpError("expected dimension ")
             << dim << " of " << type << " to have a static positive size";
  }
  return success();
}

/// The data of a scale or a shift.
static LogicalResult verifyVector(Operation *op, Value input,
                                  ArrayRef<int64_t> dims, Value data,
                                  StringRef name, bool allowZero) {
  if (failed(verifyDims(op, input, dims)))
    return failure();
  SmallVector<int64_t> shape;
  for (int64_t dim : dims)
    shape.push_back(getTensorType(input).getDimSize(dim));
  if (getTensorType(data).getShape() != ArrayRef(shape))
    return op->emitOpError("expected ")
           << name << " of the shape of the input along 'dims', [" << shape
           << "], but got " << data.getType();
  if (std::optional<SmallVector<double>> values = getConstant(data))
    for (auto [index, value] : llvm::enumerate(*values))
      if (!std::isfinite(value) || (value == 0 && !allowZero))
        return op->emitOpError("expected ")
               << name << " that are finite" << (allowZero ? "" : " and not 0")
               << " but element " << index << " is "
               << llvm::formatv("{0}", value).str();
  return success();
}

static LogicalResult verifyOneDim(Operation *op, Value input,
                                  ArrayRef<int64_t> dims) {
  if (failed(verifyDims(op, input, dims)))
    return failure();
  if (dims.size() != 1)
    return op->emitOpError("expected one dimension in 'dims' but got [")
           << dims << "]";
  return success();
}

static LogicalResult verifyBlock(Operation *op, Value input, int64_t dim,
                                 int64_t block) {
  int64_t size = getTensorType(input).getDimSize(dim);
  if (size % block != 0)
    return op->emitOpError("expected the order ")
           << block << " to divide the size of dimension " << dim << ", "
           << size;
  return success();
}

static LogicalResult verifySquare(Operation *op, Value matrix) {
  if (getTensorType(matrix).getDimSize(0) !=
      getTensorType(matrix).getDimSize(1))
    return op->emitOpError("expected a square matrix but got ")
           << matrix.getType();
  return success();
}

LogicalResult ScaleChannelsOp::verify() {
  return verifyVector(*this, getInput(), getDims(), getScale(), "scales",
                      /*allowZero=*/false);
}

LogicalResult ShiftChannelsOp::verify() {
  return verifyVector(*this, getInput(), getDims(), getOffset(), "offsets",
                      /*allowZero=*/true);
}

LogicalResult PermuteChannelsOp::verify() {
  if (failed(verifyOneDim(*this, getInput(), getDims())))
    return failure();
  int64_t size = getInput().getType().getDimSize(getDims().front());
  if (getTensorType(getPermutation()).getDimSize(0) != size)
    return emitOpError("expected a permutation of ")
           << size << " channels but got " << getPermutation().getType();
  if (!llvm::isIntN(getPermutation().getType().getElementTypeBitWidth(),
                    size - 1))
    return emitOpError("expected integers that hold ")
           << size - 1 << " but got " << getPermutation().getType();
  DenseIntElementsAttr attr;
  if (!matchPattern(getPermutation(), m_Constant(&attr)))
    return success();
  llvm::BitVector seen(size);
  for (APInt index : attr.getValues<APInt>()) {
    int64_t value = index.getSExtValue();
    if (value < 0 || value >= size || seen.test(value))
      return emitOpError("expected a permutation that holds every number from "
                         "0 to ")
             << size - 1 << " once but "
             << (value < 0 || value >= size ? "it holds " : "it repeats ")
             << value;
    seen.set(value);
  }
  return success();
}

int64_t RotateOp::getBlock() {
  if (getHadamard())
    return static_cast<int64_t>(*getHadamard());
  int64_t block = 1;
  for (Value matrix : getMatrices())
    block *= getTensorType(matrix).getDimSize(0);
  return block;
}

LogicalResult RotateOp::verify() {
  if (failed(verifyOneDim(*this, getInput(), getDims())))
    return failure();
  // QL-ROTATE-C2
  if (getHadamard().has_value() != getMatrices().empty() ||
      getMatrices().size() > 2)
    return emitOpError("expected either 'hadamard' with an order, or 'by' with "
                       "one or two matrices");
  // QL-ROTATE-C4
  if (getSeed() && !getHadamard())
    return emitOpError("expected 'seed' only with 'hadamard'");
  if (getHadamard()) {
    // QL-ROTATE-C3; only an error is quick to get.
    if (!HadamardMatrix::isSupported(getBlock()))
      return emitOpError(HadamardMatrix::get(getBlock()).message());
  }
  for (Value matrix : getMatrices()) {
    if (failed(verifySquare(*this, matrix)))
      return failure();
    std::optional<SmallVector<double>> values = getConstant(matrix);
    if (!values)
      continue;
    // QL-ROTATE-C7
    int64_t n = getTensorType(matrix).getDimSize(0);
    SmallVector<double> transposed(n * n);
    for (int64_t i = 0; i < n * n; ++i)
      transposed[i % n * n + i / n] = (*values)[i];
    double error = getIdentityError(values->data(), transposed.data(), n);
    if (error > getIdentityTolerance(matrix))
      return emitOpError("expected an orthogonal matrix but R R^T differs from "
                         "the identity by ")
             << llvm::formatv("{0:e2}", error).str();
  }
  return verifyBlock(*this, getInput(), getDims().front(), getBlock());
}

LogicalResult AffineOp::verify() {
  if (failed(verifyOneDim(*this, getInput(), getDims())) ||
      failed(verifySquare(*this, getMatrix())))
    return failure();
  if (getMatrix().getType() != getInverseMatrix().getType())
    return emitOpError("expected matrix and inverse of one type but got ")
           << getMatrix().getType() << " and " << getInverseMatrix().getType();
  int64_t n = getTensorType(getMatrix()).getDimSize(0);
  if (failed(verifyBlock(*this, getInput(), getDims().front(), n)))
    return failure();
  if (getOffset() && getTensorType(getOffset()).getShape() != ArrayRef{n})
    return emitOpError("expected an offset of ")
           << n << " elements but got " << getOffset().getType();
  // QL-AFFINE-C6
  if (std::optional<SmallVector<double>> offset =
          getOffset() ? getConstant(getOffset()) : std::nullopt)
    for (double value : *offset)
      if (!std::isfinite(value))
        return emitOpError("expected finite offsets but got ") << value;
  std::optional<SmallVector<double>> a = getConstant(getMatrix());
  std::optional<SmallVector<double>> b = getConstant(getInverseMatrix());
  if (a && b) {
    double error = getIdentityError(a->data(), b->data(), n);
    if (error > getIdentityTolerance(getMatrix()))
      return emitOpError("expected matrices that are inverses of each other "
                         "but their product differs from the identity by ")
             << llvm::formatv("{0:e2}", error).str();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Folding
//===----------------------------------------------------------------------===//

/// The input of the transform before, if the two cancel.
static Value foldPair(ChannelTransformOpInterface op) {
  auto before = op.getInput().getDefiningOp<ChannelTransformOpInterface>();
  if (before && op.getTransform().isInverseOf(before.getTransform()))
    return before.getInput();
  return {};
}

/// Whether all elements are a constant `number`.
static bool isAll(Value value, double number) {
  std::optional<SmallVector<double>> elements = getConstant(value);
  return elements &&
         llvm::all_of(*elements, [&](double x) { return x == number; });
}

OpFoldResult ScaleChannelsOp::fold(FoldAdaptor) {
  return isAll(getScale(), 1) ? Value(getInput()) : foldPair(*this);
}

OpFoldResult ShiftChannelsOp::fold(FoldAdaptor) {
  return isAll(getOffset(), 0) ? Value(getInput()) : foldPair(*this);
}

OpFoldResult PermuteChannelsOp::fold(FoldAdaptor) {
  DenseIntElementsAttr attr;
  if (matchPattern(getPermutation(), m_Constant(&attr)) &&
      llvm::all_of(llvm::enumerate(attr.getValues<APInt>()), [](auto pair) {
        return pair.value().getSExtValue() ==
               static_cast<int64_t>(pair.index());
      }))
    return getInput();
  return foldPair(*this);
}

OpFoldResult RotateOp::fold(FoldAdaptor) { return foldPair(*this); }

OpFoldResult AffineOp::fold(FoldAdaptor) { return foldPair(*this); }

namespace {

/// scale(scale(x, a), b) -> scale(x, a * b), and with inverses a / b.
struct MergeScales : public OpRewritePattern<ScaleChannelsOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(ScaleChannelsOp op,
                                PatternRewriter &rewriter) const override {
    auto before = op.getInput().getDefiningOp<ScaleChannelsOp>();
    if (!before || before.getDims() != op.getDims())
      return rewriter.notifyMatchFailure(op, "no scales to merge with");
    // The product is computed in the type of one, so it must hold the other.
    Value first = before.getScale(), second = op.getScale();
    if (first.getType() != second.getType() ||
        getElementTypeOrSelf(first.getType()).getIntOrFloatBitWidth() < 32)
      return rewriter.notifyMatchFailure(op, "a product would be rounded");
    ChannelTransform product;
    product.inverse = before.getInverse() != op.getInverse();
    llvm::append_range(product.dims,
                       llvm::seq<int64_t>(0, getTensorType(first).getRank()));
    product.data.push_back(second);
    Value merged = product.apply(rewriter, op.getLoc(), first);
    rewriter.replaceOpWithNewOp<ScaleChannelsOp>(op, before.getInput(), merged,
                                                 op.getDimsAttr(),
                                                 before.getInverseAttr());
    return success();
  }
};

} // namespace

void ScaleChannelsOp::getCanonicalizationPatterns(RewritePatternSet &patterns,
                                                  MLIRContext *context) {
  patterns.add<MergeScales>(context);
}

//===----------------------------------------------------------------------===//
// Transforms as values
//===----------------------------------------------------------------------===//

ChannelTransform ScaleChannelsOp::getTransform() {
  ChannelTransform t;
  t.kind = TransformKind::Scale;
  t.inverse = getInverse();
  t.dims.assign(getDims().begin(), getDims().end());
  t.data.push_back(getScale());
  return t;
}

ChannelTransform ShiftChannelsOp::getTransform() {
  ChannelTransform t;
  t.kind = TransformKind::Shift;
  t.inverse = getInverse();
  t.dims.assign(getDims().begin(), getDims().end());
  t.data.push_back(getOffset());
  return t;
}

ChannelTransform PermuteChannelsOp::getTransform() {
  ChannelTransform t;
  t.kind = TransformKind::Permute;
  t.inverse = getInverse();
  t.dims.assign(getDims().begin(), getDims().end());
  t.data.push_back(getPermutation());
  return t;
}

ChannelTransform RotateOp::getTransform() {
  ChannelTransform t;
  t.kind = TransformKind::Rotate;
  t.inverse = getInverse();
  t.dims.assign(getDims().begin(), getDims().end());
  t.data.assign(getMatrices().begin(), getMatrices().end());
  if (getHadamard())
    t.hadamard = static_cast<int64_t>(*getHadamard());
  if (getSeed())
    t.seed = static_cast<int64_t>(*getSeed());
  return t;
}

ChannelTransform AffineOp::getTransform() {
  ChannelTransform t;
  t.kind = TransformKind::Affine;
  t.inverse = getInverse();
  t.dims.assign(getDims().begin(), getDims().end());
  t.data.assign({getMatrix(), getInverseMatrix()});
  if (getOffset())
    t.data.push_back(getOffset());
  return t;
}

std::optional<ChannelTransform> ChannelTransform::of(Operation *op) {
  if (auto transform = dyn_cast_or_null<ChannelTransformOpInterface>(op))
    return transform.getTransform();
  return std::nullopt;
}

Value ChannelTransform::apply(OpBuilder &builder, Location loc,
                              Value input) const {
  Type type = input.getType();
  auto dimsAttr = builder.getDenseI64ArrayAttr(dims);
  UnitAttr inverseAttr = inverse ? builder.getUnitAttr() : UnitAttr();
  switch (kind) {
  case TransformKind::Scale:
    return ScaleChannelsOp::create(builder, loc, type, input, data[0], dimsAttr,
                                   inverseAttr);
  case TransformKind::Shift:
    return ShiftChannelsOp::create(builder, loc, type, input, data[0], dimsAttr,
                                   inverseAttr);
  case TransformKind::Permute:
    return PermuteChannelsOp::create(builder, loc, type, input, data[0],
                                     dimsAttr, inverseAttr);
  case TransformKind::Rotate:
    return RotateOp::create(
        builder, loc, type, input, data, dimsAttr,
        hadamard ? builder.getI64IntegerAttr(hadamard) : IntegerAttr(),
        seed ? builder.getI64IntegerAttr(*seed) : IntegerAttr(), inverseAttr);
  case TransformKind::Affine:
    return AffineOp::create(builder, loc, type, input, data[0], data[1],
                            data.size() > 2 ? data[2] : Value(), dimsAttr,
                            inverseAttr);
  }
  llvm_unreachable("every kind has its op");
}

ChannelTransform ChannelTransform::getInverse() const {
  ChannelTransform result = *this;
  result.inverse = !inverse;
  return result;
}

ChannelTransform ChannelTransform::on(ArrayRef<int64_t> newDims) const {
  ChannelTransform result = *this;
  result.dims.assign(newDims.begin(), newDims.end());
  return result;
}

bool ChannelTransform::isLinear() const {
  return kind != TransformKind::Shift &&
         !(kind == TransformKind::Affine && data.size() > 2);
}

bool ChannelTransform::isOrthogonal() const {
  return kind == TransformKind::Permute || kind == TransformKind::Rotate;
}

int64_t ChannelTransform::getBlock() const {
  if (hadamard)
    return hadamard;
  if (kind == TransformKind::Affine)
    return getTensorType(data[0]).getDimSize(0);
  int64_t block = 1;
  if (kind == TransformKind::Rotate)
    for (Value matrix : data)
      block *= getTensorType(matrix).getDimSize(0);
  return block;
}

bool quant_llm::isSameData(Value a, Value b) {
  if (a == b)
    return true;
  auto getA = a.getDefiningOp<GetParameterOp>();
  auto getB = b.getDefiningOp<GetParameterOp>();
  if (getA && getB)
    return getA.getParameterAttr() == getB.getParameterAttr();
  // Equal attributes have equal types.
  Attribute constantA, constantB;
  return matchPattern(a, m_Constant(&constantA)) &&
         matchPattern(b, m_Constant(&constantB)) && constantA == constantB;
}

bool ChannelTransform::operator==(const ChannelTransform &other) const {
  return kind == other.kind && inverse == other.inverse && dims == other.dims &&
         hadamard == other.hadamard && seed == other.seed &&
         data.size() == other.data.size() &&
         llvm::all_of(llvm::zip_equal(data, other.data), [](auto pair) {
           return isSameData(std::get<0>(pair), std::get<1>(pair));
         });
}

std::string ChannelTransform::describe() const {
  static const char *const names[] = {"scale_channels", "shift_channels",
                                      "permute_channels", "rotate", "affine"};
  std::string text = names[static_cast<int>(kind)];
  if (inverse)
    text += " inverse";
  if (hadamard)
    text += " hadamard " + std::to_string(hadamard);
  else if (int64_t block = getBlock(); block > 1)
    text += " order " + std::to_string(block);
  return text;
}
