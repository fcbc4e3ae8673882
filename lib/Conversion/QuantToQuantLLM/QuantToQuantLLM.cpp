//===- QuantToQuantLLM.cpp - Between the dialects quant and quant_llm -----===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the two dialects can say alike is a matrix of stored integers with
// scales, and perhaps zero points, that are known: quant has them as literals
// in the type, quant_llm as components. So
//
//   quant.dcast(quant.scast(storage))  <->  dequantize(assemble(codes, scales[,
//   zeros]))
//
// Everything else is refused with its reason.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Support/Status.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Quant/IR/Quant.h"
#include "mlir/Dialect/Quant/IR/QuantTypes.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Threading.h"

namespace quant_llm {
#define GEN_PASS_DEF_CONVERTQUANTTOQUANTLLM
#define GEN_PASS_DEF_CONVERTQUANTLLMTOQUANT
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

std::string toString(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << '\'' << type << '\'';
  return text;
}

/// The elements of a constant; nothing if it is not one, or not inline.
std::optional<DenseElementsAttr> getConstant(Value value) {
  DenseElementsAttr attr;
  if (!matchPattern(value, m_Constant(&attr)))
    return std::nullopt;
  return attr;
}

/// Reports an operation that cannot be converted: an error, or a remark if
/// such operations may stay.
LogicalResult refuse(Operation *op, StringRef pass, StringRef reason,
                     bool allow) {
  if (!allow)
    return op->emitOpError("cannot be converted: ") << reason;
  remark::missed(op->getLoc(),
                 remark::RemarkOpts::name("not-converted").category(pass))
      << remark::reason("{0}", reason.str());
  return success();
}

/// Turns what a checked constructor of an attribute or type reports into a
/// value.
class CaughtError {
public:
  explicit CaughtError(MLIRContext *context)
      : context(context), thread(llvm::get_threadid()),
        handler(context, [this](Diagnostic &diagnostic) {
          // Other threads may be reporting something of their own.
          if (llvm::get_threadid() != thread)
            return failure();
          message = diagnostic.str();
          return success();
        }) {}

  InFlightDiagnostic emit() {
    return mlir::emitError(UnknownLoc::get(context));
  }
  Status getStatus() const { return Status::error(message); }

private:
  MLIRContext *context;
  uint64_t thread;
  std::string message;
  ScopedDiagnosticHandler handler;
};

//===----------------------------------------------------------------------===//
// quant to quant_llm
//===----------------------------------------------------------------------===//

/// What a quant type says, as a weight and the constants of its components.
struct ConvertedType {
  WeightType weight;
  DenseElementsAttr scales;
  /// Null if every zero point is 0.
  DenseElementsAttr zeros;
  /// What turns stored bits into codes, by exclusive or: a signed type with
  /// zero points becomes an unsigned element, with codes and zeros moved by
  /// half the range.
  uint8_t flip = 0;
};

Result<ConvertedType> convertType(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!tensor || tensor.getRank() != 2 || !tensor.hasStaticShape() ||
      tensor.getNumElements() == 0)
    return Status::error("expected a matrix with static positive dimensions "
                         "but got " +
                         toString(type));
  auto quantized = dyn_cast<quant::QuantizedType>(tensor.getElementType());
  if (!quantized ||
      !isa<quant::UniformQuantizedType, quant::UniformQuantizedPerAxisType,
           quant::UniformQuantizedSubChannelType>(quantized))
    return Status::error("expected a uniform quantized type but got " +
                         toString(tensor.getElementType()));
  Type expressed = quantized.getExpressedType();
  if (!isa<Float16Type, BFloat16Type, Float32Type>(expressed))
    return Status::error("expected the expressed type to be f16, bf16 or f32 "
                         "but got " +
                         toString(expressed));
  unsigned bits = quantized.getStorageTypeIntegralWidth();
  if (bits > 8)
    return Status::error("expected storage of at most 8 bits but got " +
                         std::to_string(bits));

  int64_t n = tensor.getDimSize(0), k = tensor.getDimSize(1);
  Scheme scheme;
  scheme.element.kind =
      quantized.isSigned() ? ElementKind::Int : ElementKind::UInt;
  scheme.element.bits = bits;
  scheme.blockN = scheme.blockK = -1;
  SmallVector<double> scales;
  SmallVector<int64_t> zeros;
  SmallVector<int64_t> grid = {1, 1};
  if (auto perTensor = dyn_cast<quant::UniformQuantizedType>(quantized)) {
    scales.push_back(perTensor.getScale());
    zeros.push_back(perTensor.getZeroPoint());
  } else if (auto perAxis =
                 dyn_cast<quant::UniformQuantizedPerAxisType>(quantized)) {
    bool first = perAxis.getQuantizedDimension() == 0;
    (first ? scheme.blockN : scheme.blockK) = 1;
    scales.append(perAxis.getScales().begin(), perAxis.getScales().end());
    zeros.append(perAxis.getZeroPoints().begin(),
                 perAxis.getZeroPoints().end());
    grid[first ? 0 : 1] = scales.size();
  } else {
    auto subChannel = cast<quant::UniformQuantizedSubChannelType>(quantized);
    for (auto [dimension, size] : subChannel.getBlockSizeInfo())
      (dimension == 0 ? scheme.blockN : scheme.blockK) = size;
    grid.assign(subChannel.getScales().getType().getShape().begin(),
                subChannel.getScales().getType().getShape().end());
    for (APFloat scale : subChannel.getScales().getValues<APFloat>()) {
      bool losesInfo;
      scale.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                    &losesInfo);
      scales.push_back(scale.convertToDouble());
    }
    // Their type is that of the storage, which has no sign of its own; what the
    // parser of quant wraps has bits beyond the width set.
    for (APInt zero : subChannel.getZeroPoints().getValues<APInt>()) {
      uint64_t raw =
          *zero.getRawData() & llvm::maskTrailingOnes<uint64_t>(bits);
      zeros.push_back(quantized.isSigned() ? llvm::SignExtend64(raw, bits)
                                           : int64_t(raw));
    }
  }

  int64_t low = quantized.isSigned() ? llvm::minIntN(bits) : 0;
  int64_t high = quantized.isSigned() ? llvm::maxIntN(bits)
                                      : int64_t(llvm::maxUIntN(bits));
  for (int64_t zero : zeros)
    if (zero < low || zero > high)
      return Status::error("expected zero points within the storage, " +
                           std::to_string(low) + " to " + std::to_string(high) +
                           ", but got " + std::to_string(zero));
  bool hasZero = llvm::any_of(zeros, [](int64_t zero) { return zero != 0; });
  // The rule says how codes come about; these exist already. It is one that the
  // element permits.
  ConvertedType result;
  if (hasZero && quantized.isSigned()) {
    scheme.element.kind = ElementKind::UInt;
    result.flip = 1u << (bits - 1);
    for (int64_t &zero : zeros)
      zero -= low;
  }
  scheme.zero = hasZero ? ZeroKind::Integer : ZeroKind::None;
  scheme.rule = hasZero ? ScaleRule::MinMax : ScaleRule::AbsMax;
  if (!hasZero && quantized.isSigned() && bits == 1)
    scheme.rule = ScaleRule::AbsMaxFull;

  // As in the lowering of quant, a scale is a number of the expressed type.
  scheme.scaleType = isa<Float16Type>(expressed)    ? quant_llm::FloatType::F16
                     : isa<BFloat16Type>(expressed) ? quant_llm::FloatType::BF16
                                                    : quant_llm::FloatType::F32;
  SmallVector<APFloat> rounded;
  for (double scale : scales) {
    APFloat value(scale);
    bool losesInfo;
    value.convert(cast<mlir::FloatType>(expressed).getFloatSemantics(),
                  APFloat::rmNearestTiesToEven, &losesInfo);
    if (!value.isFiniteNonZero() || value.isNegative())
      return Status::error("expected positive finite scales in the expressed "
                           "type " +
                           toString(expressed) + " but got " +
                           std::to_string(scale));
    rounded.push_back(value);
  }

  MLIRContext *context = type.getContext();
  CaughtError error(context);
  auto emitError = [&] { return error.emit(); };
  SchemeAttr attr = SchemeAttr::fromNumericsChecked(emitError, context, scheme);
  if (attr)
    result.weight = WeightType::getChecked(emitError, ArrayRef<int64_t>{n, k},
                                           expressed, attr);
  if (!result.weight)
    return error.getStatus();
  auto expected = result.weight.getComponentTypes();
  if (ArrayRef<int64_t>(grid) != expected[1].getShape())
    return Status::error("expected one scale per block but got " +
                         std::to_string(scales.size()));
  result.scales = DenseElementsAttr::get(expected[1], rounded);
  if (hasZero) {
    SmallVector<int8_t> bytes;
    for (int64_t zero : zeros)
      bytes.push_back(static_cast<int8_t>(zero));
    result.zeros = DenseElementsAttr::get(expected[2], ArrayRef<int8_t>(bytes));
  }
  return result;
}

/// Codes of a constant matrix of integers, packed.
DenseElementsAttr packCodes(DenseElementsAttr storage, WeightType weight,
                            uint8_t flip) {
  RankedTensorType type = weight.getComponentTypes()[0];
  unsigned bits = weight.getScheme().getElement().getBits();
  int64_t n = weight.getN(), k = weight.getK(), rowBytes = type.getDimSize(1);
  SmallVector<uint8_t> row(k), packed(n * rowBytes);
  auto values = storage.getValues<APInt>();
  auto it = values.begin();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j, ++it)
      row[j] = (*it).getZExtValue() ^ flip;
    packRow(row.data(), k, bits, packed.data() + i * rowBytes);
  }
  return DenseElementsAttr::getFromRawBuffer(
      type,
      ArrayRef<char>(reinterpret_cast<char *>(packed.data()), packed.size()));
}

struct ConvertQuantToQuantLLM
    : public quant_llm::impl::ConvertQuantToQuantLLMBase<
          ConvertQuantToQuantLLM> {
  using ConvertQuantToQuantLLMBase::ConvertQuantToQuantLLMBase;

  Status convert(quant::DequantizeCastOp dcast) {
    auto scast = dcast.getInput().getDefiningOp<quant::StorageCastOp>();
    if (!scast)
      return Status::error("expected the operand to come from quant.scast; "
                           "scales of quant.qcast are not computed from the "
                           "values, quant_llm.quantize computes them");
    Result<ConvertedType> type = convertType(dcast.getInput().getType());
    if (!type.ok())
      return type.status();
    Location loc = dcast.getLoc();
    OpBuilder builder(dcast);
    Value codes = scast.getInput();
    std::optional<DenseElementsAttr> storage = getConstant(codes);
    bool isByte = type->weight.getScheme().getElement().getBits() == 8;
    if (!isByte && !storage)
      return Status::error("expected codes of less than 8 bits to be an "
                           "inline constant, which can be packed");
    if (!isByte || (type->flip && storage)) {
      codes = arith::ConstantOp::create(
          builder, loc, packCodes(*storage, type->weight, type->flip));
    } else if (type->flip) {
      auto flips = DenseElementsAttr::get(cast<ShapedType>(codes.getType()),
                                          APInt(8, type->flip));
      codes = arith::XOrIOp::create(
          builder, loc, codes, arith::ConstantOp::create(builder, loc, flips));
    }
    SmallVector<Value> components = {
        codes, arith::ConstantOp::create(builder, loc, type->scales)};
    if (type->zeros)
      components.push_back(
          arith::ConstantOp::create(builder, loc, type->zeros));
    Value weight = AssembleOp::create(builder, loc, type->weight, components);
    dcast.replaceAllUsesWith(
        DequantizeOp::create(builder, loc, weight).getResult());
    dcast.erase();
    if (scast->use_empty())
      scast.erase();
    return Status::success();
  }

  void runOnOperation() override {
    SmallVector<Operation *> casts;
    getOperation()->walk([&](Operation *op) {
      if (isa<quant::DequantizeCastOp, quant::QuantizeCastOp>(op))
        casts.push_back(op);
    });
    for (Operation *op : casts) {
      Status status = Status::error(
          "its scales are fixed by the type, those of quant_llm.quantize "
          "follow from the values");
      if (auto dcast = dyn_cast<quant::DequantizeCastOp>(op))
        status = convert(dcast);
      if (!status.ok() &&
          failed(refuse(op, getArgument(), status.message(), allowUnconverted)))
        signalPassFailure();
    }
  }
};

//===----------------------------------------------------------------------===//
// quant_llm to quant
//===----------------------------------------------------------------------===//

struct ConvertQuantLLMToQuant
    : public quant_llm::impl::ConvertQuantLLMToQuantBase<
          ConvertQuantLLMToQuant> {
  using ConvertQuantLLMToQuantBase::ConvertQuantLLMToQuantBase;

  /// The quant type of a weight whose scales and zeros are given.
  Result<Type> convertType(WeightType weight, DenseElementsAttr scales,
                           DenseElementsAttr zeros) {
    MLIRContext *context = weight.getContext();
    SchemeAttr scheme = weight.getScheme();
    ElementAttr element = scheme.getElement();
    unsigned bits = element.getBits();
    bool isSigned = element.getKind() == ElementKind::Int;
    auto expressed = cast<mlir::FloatType>(weight.getElementType());
    SmallVector<double> values;
    SmallVector<APFloat> typed;
    for (auto [index, scale] : llvm::enumerate(scales.getValues<APFloat>())) {
      APFloat value = scale;
      bool losesInfo;
      value.convert(expressed.getFloatSemantics(), APFloat::rmNearestTiesToEven,
                    &losesInfo);
      if (losesInfo)
        return Status::error("expected scales that the expressed type " +
                             toString(expressed) + " holds exactly");
      if (!value.isFiniteNonZero() || value.isNegative())
        return Status::error(
            "expected positive finite scales, which quant demands, but that "
            "of block [" +
            std::to_string(index / weight.getGridK()) + ", " +
            std::to_string(index % weight.getGridK()) + "] is not");
      typed.push_back(value);
      value.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                    &losesInfo);
      values.push_back(value.convertToDouble());
    }
    SmallVector<int64_t> zeroPoints(values.size(), 0);
    if (zeros)
      for (auto [zero, value] :
           llvm::zip_equal(zeroPoints, zeros.getValues<APInt>()))
        zero = isSigned ? value.getSExtValue() : value.getZExtValue();
    int64_t low = isSigned ? llvm::minIntN(bits) : 0;
    int64_t high =
        isSigned ? llvm::maxIntN(bits) : int64_t(llvm::maxUIntN(bits));
    for (int64_t zero : zeroPoints)
      if (zero < low || zero > high)
        return Status::error("expected zeros within the element, " +
                             std::to_string(low) + " to " +
                             std::to_string(high) + ", but got " +
                             std::to_string(zero));

    unsigned flags = isSigned ? quant::QuantizationFlags::Signed : 0;
    Type storage = IntegerType::get(context, bits);
    int64_t n = weight.getN(), k = weight.getK();
    int64_t blockN = scheme.getBlockN(), blockK = scheme.getBlockK();
    blockN = blockN == -1 ? n : std::min(blockN, n);
    blockK = blockK == -1 ? k : std::min(blockK, k);
    if (n % blockN != 0 || k % blockK != 0)
      return Status::error("expected the blocks to divide the matrix, which "
                           "quant demands, but [" +
                           std::to_string(blockN) + ", " +
                           std::to_string(blockK) + "] does not divide " +
                           std::to_string(n) + "x" + std::to_string(k));
    CaughtError error(context);
    auto emitError = [&] { return error.emit(); };
    Type result;
    if (values.size() == 1) {
      result = quant::UniformQuantizedType::getChecked(
          emitError, flags, storage, expressed, values[0], zeroPoints[0], low,
          high);
    } else if ((blockN == 1 && blockK == k) || (blockN == n && blockK == 1)) {
      int32_t dimension = blockN == 1 && blockK == k ? 0 : 1;
      result = quant::UniformQuantizedPerAxisType::getChecked(
          emitError, flags, storage, expressed, values, zeroPoints, dimension,
          low, high);
    } else {
      RankedTensorType grid = weight.getComponentTypes()[1];
      SmallVector<APInt> integers;
      for (int64_t zero : zeroPoints)
        integers.push_back(APInt(bits, zero, isSigned,
                                 /*implicitTrunc=*/true));
      result = quant::UniformQuantizedSubChannelType::getChecked(
          emitError, flags, storage, expressed,
          DenseElementsAttr::get(grid.clone(expressed), typed),
          DenseElementsAttr::get(grid.clone(storage), integers),
          ArrayRef<int32_t>{0, 1}, ArrayRef<int64_t>{blockN, blockK}, low,
          high);
    }
    if (!result)
      return error.getStatus();
    return result;
  }

  Status convert(DequantizeOp dequantize) {
    auto assemble = dequantize.getSource().getDefiningOp<AssembleOp>();
    if (!assemble)
      return Status::error("expected the weight to come from "
                           "quant_llm.assemble of constants");
    auto weight = dyn_cast<WeightType>(assemble.getResult().getType());
    if (!weight)
      return Status::error("expected a weight but got an activation");
    if (weight.getLayout())
      return Status::error("expected a weight in the canonical layout but got "
                           "one packed for kernels; convert before "
                           "quant-llm-prepack");
    SchemeAttr scheme = weight.getScheme();
    ElementAttr element = scheme.getElement();
    if (element.getKind() != ElementKind::Int &&
        element.getKind() != ElementKind::UInt)
      return Status::error("expected an integer element, which is all that "
                           "quant has");
    if (scheme.getScaleScheme())
      return Status::error("expected a type as the scale; quant has no scales "
                           "of scales");
    if (scheme.getZeroType())
      return Status::error("expected no zero or integers; quant has no float "
                           "zeros");
    auto components = assemble.getComponents();
    std::optional<DenseElementsAttr> scales = getConstant(components[1]);
    std::optional<DenseElementsAttr> zeros = DenseElementsAttr();
    if (scheme.hasZero())
      zeros = getConstant(components[2]);
    if (!scales || !zeros)
      return Status::error("expected scales and zeros to be inline constants, "
                           "as they are literals of a quant type");
    unsigned bits = element.getBits();
    std::optional<DenseElementsAttr> codes = getConstant(components[0]);
    if (bits != 8 && !codes)
      return Status::error("expected codes of less than 8 bits to be an "
                           "inline constant, which can be unpacked");
    Result<Type> type = convertType(weight, *scales, *zeros);
    if (!type.ok())
      return type.status();

    Location loc = dequantize.getLoc();
    OpBuilder builder(dequantize);
    Value storage = components[0];
    if (bits != 8) {
      int64_t n = weight.getN(), k = weight.getK();
      int64_t rowBytes = codes->getType().getDimSize(1);
      SmallVector<uint8_t> packed(rowBytes), row(k);
      SmallVector<APInt> values;
      auto it = codes->getValues<APInt>().begin();
      for (int64_t i = 0; i < n; ++i) {
        for (uint8_t &byte : packed)
          byte = (*it++).getZExtValue();
        unpackRow(packed.data(), k, bits, row.data());
        for (uint8_t code : row)
          values.push_back(APInt(bits, code));
      }
      auto storageType = RankedTensorType::get(weight.getShape(),
                                               builder.getIntegerType(bits));
      storage = arith::ConstantOp::create(
          builder, loc, DenseElementsAttr::get(storageType, values));
    }
    Value cast = quant::StorageCastOp::create(
        builder, loc, RankedTensorType::get(weight.getShape(), *type), storage);
    dequantize.replaceAllUsesWith(quant::DequantizeCastOp::create(
                                      builder, loc, weight.getDenseType(), cast)
                                      .getResult());
    dequantize.erase();
    if (assemble->use_empty())
      assemble.erase();
    return Status::success();
  }

  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      if (isa<DequantizeOp, QuantizeOp>(op) || isa<LinearOpInterface>(op))
        ops.push_back(op);
    });
    for (Operation *op : ops) {
      Status status = Status::success();
      if (auto dequantize = dyn_cast<DequantizeOp>(op))
        status = convert(dequantize);
      else if (isa<QuantizeOp>(op))
        status = Status::error("its scales follow from the values, those of a "
                               "quant type are literals");
      else if (llvm::any_of(cast<LinearOpInterface>(op).getWeights().getTypes(),
                            llvm::IsaPred<WeightType>))
        status =
            Status::error("it uses the unrounded values of a weight; quant "
                          "has no such product");
      if (!status.ok() &&
          failed(refuse(op, getArgument(), status.message(), allowUnconverted)))
        signalPassFailure();
    }
  }
};

} // namespace
