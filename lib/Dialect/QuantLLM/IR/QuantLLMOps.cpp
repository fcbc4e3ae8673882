//===- QuantLLMOps.cpp - Operations: syntax, verifiers, folders -----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Kernels/Tuning.h"

#include "quant-llm/Support/Path.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Path.h"

using namespace mlir;
using namespace quant_llm;

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMOpInterfaces.cpp.inc"

#define GET_OP_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMOps.cpp.inc"

//===----------------------------------------------------------------------===//
// Archives and parameters
//===----------------------------------------------------------------------===//

/// The file that a location comes from; empty if it has none.
static StringRef getFileOf(Location loc) {
  if (auto file = dyn_cast<FileLineColRange>(loc))
    return file.getFilename().getValue();
  if (auto name = dyn_cast<NameLoc>(loc))
    return getFileOf(name.getChildLoc());
  if (auto call = dyn_cast<CallSiteLoc>(loc))
    return getFileOf(call.getCallee());
  if (auto opaque = dyn_cast<OpaqueLoc>(loc))
    return getFileOf(opaque.getFallbackLocation());
  if (auto fused = dyn_cast<FusedLoc>(loc))
    for (Location part : fused.getLocations())
      if (StringRef file = getFileOf(part); !file.empty())
        return file;
  return {};
}

std::string quant_llm::resolveArchivePath(ArchiveOp archive,
                                          StringRef baseDir) {
  StringRef path = archive.getPath();
  if (llvm::sys::path::is_absolute(path))
    return path.str();
  StringRef directory = baseDir;
  if (directory.empty()) {
    StringRef file = getFileOf(archive.getLoc());
    // "-" and "<stdin>" are how tools name the standard input.
    if (file != "-" && file != "<stdin>")
      directory = llvm::sys::path::parent_path(file);
  }
  return resolvePath(directory, path);
}

ParameterOp quant_llm::getParameterOf(Value value,
                                      SymbolTableCollection *tables) {
  auto get = value.getDefiningOp<GetParameterOp>();
  if (!get)
    return nullptr;
  if (tables)
    return tables->lookupNearestSymbolFrom<ParameterOp>(get,
                                                        get.getParameterAttr());
  return SymbolTable::lookupNearestSymbolFrom<ParameterOp>(
      get, get.getParameterAttr());
}

LogicalResult ArchiveOp::verify() {
  // QL-ARCHIVE-C1
  if (getPath().empty())
    return emitOpError("expected the path of a file but got an empty string");
  if (getPath().contains('\0'))
    return emitOpError("expected a path without zero bytes");
  return success();
}

LogicalResult ParameterOp::verify() {
  // QL-PARAMETER-C4
  if (getArchiveKey().empty())
    return emitOpError("expected a key but got an empty string");
  // QL-PARAMETER-C2
  Type type = getType();
  if (isa<WeightType>(type))
    return success();
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!tensor || !tensor.hasStaticShape() || tensor.getEncoding())
    return emitOpError("expected the type to be a weight or a ranked tensor "
                       "with static shape and no encoding but got ")
           << type;
  Type element = tensor.getElementType();
  if (!isa<Float16Type, BFloat16Type, Float32Type, Float64Type,
           Float8E4M3FNType, Float8E5M2Type, Float8E8M0FNUType>(element) &&
      !element.isSignlessInteger(8) && !element.isSignlessInteger(16) &&
      !element.isSignlessInteger(32) && !element.isSignlessInteger(64))
    return emitOpError("expected an element type that archives hold (f16, "
                       "bf16, f32, f64, f8E4M3FN, f8E5M2, f8E8M0FNU, i8, i16, "
                       "i32, i64) but got ")
           << element;
  // QL-PARAMETER-C3
  int64_t bytes = element.getIntOrFloatBitWidth() / 8;
  for (int64_t size : tensor.getShape())
    if (llvm::MulOverflow(bytes, size, bytes))
      return emitOpError("expected less than 2^63 bytes but got the type ")
             << type;
  return success();
}

LogicalResult
ParameterOp::verifySymbolUses(SymbolTableCollection &symbolTable) {
  // QL-PARAMETER-C1
  Operation *target =
      symbolTable.lookupNearestSymbolFrom(*this, getArchiveAttr());
  if (!target)
    return emitOpError("expected ")
           << getArchiveAttr() << " to name an archive but found no symbol";
  if (!isa<ArchiveOp>(target)) {
    auto diag = emitOpError("expected ")
                << getArchiveAttr() << " to name an archive";
    diag.attachNote(target->getLoc()) << "it names this operation";
    return diag;
  }
  return success();
}

LogicalResult
GetParameterOp::verifySymbolUses(SymbolTableCollection &symbolTable) {
  // QL-GET-PARAMETER-C1
  Operation *target =
      symbolTable.lookupNearestSymbolFrom(*this, getParameterAttr());
  if (!target)
    return emitOpError("expected ")
           << getParameterAttr() << " to name a parameter but found no symbol";
  auto parameter = dyn_cast<ParameterOp>(target);
  if (!parameter) {
    auto diag = emitOpError("expected ")
                << getParameterAttr() << " to name a parameter";
    diag.attachNote(target->getLoc()) << "it names this operation";
    return diag;
  }
  // QL-GET-PARAMETER-C2
  if (parameter.getType() != getResult().getType()) {
    auto diag = emitOpError("expected the type of the parameter, ")
                << parameter.getType() << ", but got " << getResult().getType();
    diag.attachNote(parameter.getLoc()) << "the parameter is declared here";
    return diag;
  }
  return success();
}

void GetParameterOp::getAsmResultNames(OpAsmSetValueNameFn setNameFn) {
  setNameFn(getResult(), getParameter());
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// What a weight or an activation is made of has its shape and expressed type.
template <typename OpTy>
static LogicalResult verifyQuantized(OpTy op) {
  auto source = cast<RankedTensorType>(op.getSource().getType());
  auto result = op.getResult().getType();
  if (source.getShape() != result.getShape())
    return op.emitOpError("expected operand and result of equal shape but got ")
           << source << " and " << result.getDenseType();
  if (source.getElementType() != result.getElementType())
    return op.emitOpError("expected the operand's element type to be the "
                          "expressed type ")
           << result.getElementType() << " but got " << source.getElementType();
  return success();
}

LogicalResult QuantizeOp::verify() {
  WeightType result = getResult().getType();
  // QL-QUANTIZE-C1, C2
  if (failed(verifyQuantized(*this)))
    return failure();
  // QL-QUANTIZE-C3
  if (result.getScheme().getLowRank() != 0)
    return emitOpError("expected a scheme without low_rank; quantize to ")
           << result.getScheme().withoutLowRank()
           << " or let quant-llm-quantize do it with the option low-rank";
  return success();
}

LogicalResult DequantizeOp::inferReturnTypes(MLIRContext *,
                                             std::optional<Location> location,
                                             Adaptor adaptor,
                                             SmallVectorImpl<Type> &types) {
  Type source = adaptor.getSource().getType();
  if (!isa<WeightType, ActivationType>(source))
    return emitOptionalError(location, "expected a weight or an activation");
  types.push_back(getDenseType(source));
  return success();
}

LogicalResult AssembleOp::verify() {
  SmallVector<WeightComponent> expected =
      getComponentsOf(getResult().getType());
  // QL-ASSEMBLE-C1
  if (expected.size() != getComponents().size())
    return emitOpError("expected ") << expected.size() << " components but got "
                                    << getComponents().size();
  // QL-ASSEMBLE-C2
  for (auto [component, operand] : llvm::zip_equal(expected, getComponents()))
    if (operand.getType() != component.type)
      return emitOpError("expected the component '")
             << component.name << "' to be " << component.type << " but got "
             << operand.getType();
  return success();
}

/// Whether a value has an extent that is known only at run time, which may then
/// disagree with that of another value.
static bool hasDynamicExtent(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && !type.hasStaticShape();
}

/// What is undefined where extents disagree must stay behind the branches that
/// it is in.
static Speculation::Speculatability speculatableUnless(bool mayDisagree) {
  return mayDisagree ? Speculation::NotSpeculatable : Speculation::Speculatable;
}

Speculation::Speculatability AssembleOp::getSpeculatability() {
  return speculatableUnless(llvm::count_if(getComponents(), hasDynamicExtent) >
                            1);
}

OpFoldResult AssembleOp::fold(FoldAdaptor) {
  // assemble(components(w)) -> w
  if (getComponents().empty())
    return {};
  auto components = getComponents().front().getDefiningOp<ComponentsOp>();
  if (components && components.getSource().getType() == getResult().getType() &&
      llvm::equal(components.getResults(), getComponents()))
    return components.getSource();
  return {};
}

LogicalResult ComponentsOp::inferReturnTypes(MLIRContext *,
                                             std::optional<Location> location,
                                             Adaptor adaptor,
                                             SmallVectorImpl<Type> &types) {
  Type source = adaptor.getSource().getType();
  if (!isa<WeightType, ActivationType>(source))
    return emitOptionalError(location, "expected a weight or an activation");
  for (const WeightComponent &component : getComponentsOf(source))
    types.push_back(component.type);
  return success();
}

LogicalResult ComponentsOp::fold(FoldAdaptor,
                                 SmallVectorImpl<OpFoldResult> &results) {
  // components(assemble(c...)) -> c...
  auto assemble = getSource().getDefiningOp<AssembleOp>();
  if (!assemble)
    return failure();
  llvm::append_range(results, assemble.getComponents());
  return success();
}

void ComponentsOp::getAsmResultNames(OpAsmSetValueNameFn setNameFn) {
  Type source = getSource().getType();
  if (!isa<WeightType, ActivationType>(source))
    return;
  for (auto [component, result] :
       llvm::zip(getComponentsOf(source), getResults()))
    setNameFn(result, component.name);
}

//===----------------------------------------------------------------------===//
// QuantizeActivationOp
//===----------------------------------------------------------------------===//

LogicalResult QuantizeActivationOp::verify() {
  ActivationType result = getResult().getType();
  // QL-QUANTIZE-ACTIVATION-C1, C2
  if (failed(verifyQuantized(*this)))
    return failure();
  // QL-QUANTIZE-ACTIVATION-C3
  if (isStatic()) {
    SmallVector<WeightComponent> components = result.getComponents();
    auto expected = ArrayRef(components).drop_front();
    if (getGiven().size() != expected.size())
      return emitOpError("expected ")
             << expected.size() << " given components, "
             << (expected.size() == 1 ? "scales" : "scales and zeros")
             << ", but got " << getGiven().size();
    for (auto [component, operand] : llvm::zip_equal(expected, getGiven()))
      if (operand.getType() != component.type)
        return emitOpError("expected the given ")
               << component.name << " to be " << component.type << " but got "
               << operand.getType();
  }
  // QL-QUANTIZE-ACTIVATION-C4
  if (std::optional<APFloat> clip = getClip()) {
    if (isStatic())
      return emitOpError("expected no clip beside given scales");
    float ratio = clip->convertToFloat();
    if (!(ratio > 0 && ratio <= 1))
      return emitOpError(
                 "expected a clip of more than 0 and at most 1 but got ")
             << ratio;
  }
  return success();
}

Speculation::Speculatability QuantizeActivationOp::getSpeculatability() {
  return speculatableUnless(llvm::any_of(getGiven(), hasDynamicExtent));
}

namespace {

/// A clip of the whole range is none.
struct DropWholeClip : public OpRewritePattern<QuantizeActivationOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(QuantizeActivationOp op,
                                PatternRewriter &rewriter) const override {
    std::optional<APFloat> clip = op.getClip();
    if (!clip || !clip->isExactlyValue(1.0))
      return rewriter.notifyMatchFailure(op, "no clip, or one that clips");
    rewriter.modifyOpInPlace(op, [&] { op.removeClipAttr(); });
    return success();
  }
};

} // namespace

void QuantizeActivationOp::getCanonicalizationPatterns(
    RewritePatternSet &results, MLIRContext *context) {
  results.add<DropWholeClip>(context);
}

//===----------------------------------------------------------------------===//
// LinearOp and GroupedLinearOp
//===----------------------------------------------------------------------===//

ArrayRef<int64_t> quant_llm::getWeightShape(Type type) {
  if (auto weight = dyn_cast<WeightType>(type))
    return weight.getShape();
  return cast<RankedTensorType>(type).getShape();
}

/// Adds the region of the epilogue, which `body` fills unless it is null.
static void
buildEpilogue(OpBuilder &builder, OperationState &state, size_t numWeights,
              ValueRange epilogueOperands,
              function_ref<void(OpBuilder &, Location, ValueRange)> body) {
  Region *region = state.addRegion();
  if (!body)
    return;
  OpBuilder::InsertionGuard guard(builder);
  SmallVector<Type> types(numWeights, builder.getF32Type());
  for (Type type : epilogueOperands.getTypes())
    types.push_back(cast<RankedTensorType>(type).getElementType());
  SmallVector<Location> locs(types.size(), state.location);
  Block *block = builder.createBlock(region, region->end(), types, locs);
  body(builder, state.location, block->getArguments());
}

void LinearOp::build(OpBuilder &builder, OperationState &state, Type result,
                     Value input, ValueRange weights, SchemeAttr scheme,
                     StringAttr reason) {
  build(builder, state, result, input, weights, ValueRange(), nullptr, scheme,
        reason);
}

void LinearOp::build(OpBuilder &builder, OperationState &state, Type result,
                     Value input, ValueRange weights,
                     ValueRange epilogueOperands,
                     function_ref<void(OpBuilder &, Location, ValueRange)> body,
                     SchemeAttr scheme, StringAttr reason) {
  state.addOperands(input);
  state.addOperands(weights);
  state.addOperands(epilogueOperands);
  state.addTypes(result);
  Properties &properties = state.getOrAddProperties<Properties>();
  properties.operandSegmentSizes = {
      1, static_cast<int32_t>(weights.size()),
      static_cast<int32_t>(epilogueOperands.size())};
  properties.scheme = scheme;
  properties.reason = reason;
  buildEpilogue(builder, state, weights.size(), epilogueOperands, body);
}

void GroupedLinearOp::build(
    OpBuilder &builder, OperationState &state, Type result, Value input,
    ValueRange weights, Value offsets, ValueRange epilogueOperands,
    function_ref<void(OpBuilder &, Location, ValueRange)> body,
    SchemeAttr scheme, StringAttr reason) {
  state.addOperands(input);
  state.addOperands(weights);
  state.addOperands(offsets);
  state.addOperands(epilogueOperands);
  state.addTypes(result);
  Properties &properties = state.getOrAddProperties<Properties>();
  properties.operandSegmentSizes = {
      1, static_cast<int32_t>(weights.size()), 1,
      static_cast<int32_t>(epilogueOperands.size())};
  properties.scheme = scheme;
  properties.reason = reason;
  buildEpilogue(builder, state, weights.size(), epilogueOperands, body);
}

template <typename OpTy>
static ParseResult parseLinear(OpAsmParser &parser, OperationState &result) {
  constexpr bool isGrouped = std::is_same_v<OpTy, GroupedLinearOp>;
  SmallVector<OpAsmParser::UnresolvedOperand> operands, epilogueOperands;
  SmallVector<Type> epilogueTypes;
  SMLoc operandsLoc = parser.getCurrentLocation();
  if (parser.parseOperandList(operands))
    return failure();
  if (operands.size() < 2)
    return parser.emitError(operandsLoc,
                            "expected an input and one or two weights");

  OpAsmParser::UnresolvedOperand offsets;
  Type offsetsType;
  if (isGrouped && (parser.parseKeyword("offsets") || parser.parseLParen() ||
                    parser.parseOperand(offsets) ||
                    parser.parseColonType(offsetsType) || parser.parseRParen()))
    return failure();

  SMLoc attributesLoc = parser.getCurrentLocation();
  if (parser.parseOptionalAttrDict(result.attributes) ||
      failed(OpTy::verifyInherentAttrs(result.name, result.attributes, [&]() {
        return parser.emitError(attributesLoc)
               << "'" << result.name.getStringRef() << "' op ";
      })))
    return failure();

  Region *epilogue = result.addRegion();
  SMLoc epilogueLoc = parser.getCurrentLocation();
  if (succeeded(parser.parseOptionalKeyword("epilogue"))) {
    if (succeeded(parser.parseOptionalLParen())) {
      epilogueLoc = parser.getCurrentLocation();
      if (parser.parseOperandList(epilogueOperands) ||
          parser.parseColonTypeList(epilogueTypes) || parser.parseRParen())
        return failure();
    }
    if (parser.parseRegion(*epilogue))
      return failure();
  }

  SMLoc typeLoc = parser.getCurrentLocation();
  FunctionType type;
  if (parser.parseColonType(type))
    return failure();
  if (type.getNumInputs() != operands.size() || type.getNumResults() != 1)
    return parser.emitError(typeLoc, "expected ")
           << operands.size() << " operand types and one result type but got "
           << type.getNumInputs() << " and " << type.getNumResults();
  result.addTypes(type.getResults());
  auto &properties = result.getOrAddProperties<typename OpTy::Properties>();
  int32_t numWeights = static_cast<int32_t>(operands.size() - 1);
  int32_t numEpilogue = static_cast<int32_t>(epilogueOperands.size());
  if (parser.resolveOperands(operands, type.getInputs(), operandsLoc,
                             result.operands))
    return failure();
  if constexpr (isGrouped) {
    properties.operandSegmentSizes = {1, numWeights, 1, numEpilogue};
    if (parser.resolveOperand(offsets, offsetsType, result.operands))
      return failure();
  } else {
    properties.operandSegmentSizes = {1, numWeights, numEpilogue};
  }
  return parser.resolveOperands(epilogueOperands, epilogueTypes, epilogueLoc,
                                result.operands);
}

ParseResult LinearOp::parse(OpAsmParser &parser, OperationState &result) {
  return parseLinear<LinearOp>(parser, result);
}

ParseResult GroupedLinearOp::parse(OpAsmParser &parser,
                                   OperationState &result) {
  return parseLinear<GroupedLinearOp>(parser, result);
}

/// `offsets` is null in an op without.
static void printLinear(OpAsmPrinter &printer, LinearOpInterface op,
                        Value offsets, StringRef segmentSizes) {
  printer << ' ' << op.getInput() << ", " << op.getWeights();
  if (offsets)
    printer << " offsets(" << offsets << " : " << offsets.getType() << ')';
  printer.printOptionalAttrDict(op->getAttrs(), {segmentSizes});
  if (op.hasEpilogue()) {
    printer << " epilogue";
    if (!op.getEpilogueOperands().empty())
      printer << '(' << op.getEpilogueOperands() << " : "
              << op.getEpilogueOperands().getTypes() << ')';
    printer << ' ';
    printer.printRegion(op.getEpilogue());
  }
  printer << " : (" << op.getInput().getType();
  for (Type type : op.getWeights().getTypes())
    printer << ", " << type;
  printer << ") -> " << op.getResult().getType();
}

void LinearOp::print(OpAsmPrinter &printer) {
  printLinear(printer, *this, Value(), getOperandSegmentSizeAttr());
}

void GroupedLinearOp::print(OpAsmPrinter &printer) {
  printLinear(printer, *this, getOffsets(), getOperandSegmentSizeAttr());
}

/// One or two weights, of the same shape.
static LogicalResult verifyWeights(LinearOpInterface op) {
  if (op.getWeights().empty() || op.getWeights().size() > 2)
    return op->emitOpError("expected one or two weights but got ")
           << op.getWeights().size();
  ArrayRef<int64_t> shape = getWeightShape(op.getWeights().front().getType());
  for (Type type : op.getWeights().getTypes())
    if (getWeightShape(type) != shape)
      return op->emitOpError("expected weights of the same shape but got ")
             << op.getWeights().front().getType() << " and " << type;
  return success();
}

/// The last dimension of the input is that of the weights, and the result has
/// N in the place of it.
static LogicalResult verifyInputAndResult(LinearOpInterface op) {
  RankedTensorType inputType = op.getInputType();
  if (inputType.getRank() == 0 || inputType.getShape().back() != op.getK())
    return op->emitOpError("expected the last dimension of the input to be ")
           << op.getK() << ", the inputs of the weight, but got " << inputType;
  auto resultType = cast<RankedTensorType>(op.getResult().getType());
  SmallVector<int64_t> expected(inputType.getShape());
  expected.back() = op.getN();
  if (resultType.getShape() != ArrayRef<int64_t>(expected))
    return op->emitOpError("expected the result to have the shape ")
           << RankedTensorType::get(expected, resultType.getElementType())
           << " but got " << resultType;
  return success();
}

/// There is an epilogue where one is needed, and its operands have one value
/// per row of the weights (`rowName`) or the shape of the result.
static LogicalResult verifyEpilogueOperands(LinearOpInterface op,
                                            StringRef rowName) {
  if (!op.hasEpilogue()) {
    if (op.getWeights().size() == 2)
      return op->emitOpError(
          "expected an epilogue that combines the two weights");
    if (!op.getEpilogueOperands().empty())
      return op->emitOpError("expected an epilogue that uses its operands");
  }
  int64_t rows = getWeightShape(op.getWeights().front().getType())[0];
  auto resultType = cast<RankedTensorType>(op.getResult().getType());
  for (auto [index, operand] : llvm::enumerate(op.getEpilogueOperands())) {
    auto type = cast<RankedTensorType>(operand.getType());
    bool perRow = type.getRank() == 1 && type.getDimSize(0) == rows;
    if (!perRow && type.getShape() != resultType.getShape())
      return op->emitOpError("expected operand ")
             << index << " of the epilogue to have one value per " << rowName
             << " (" << rows << ") or the shape of the result, " << resultType
             << ", but got " << type;
  }
  return success();
}

/// A quantized weight has the scheme of the op, a dense one can have it.
static LogicalResult verifyChosenScheme(LinearOpInterface op) {
  SchemeAttr scheme = op.getSchemeAttr();
  if (!scheme)
    return success();
  for (Type type : op.getWeights().getTypes()) {
    if (auto weight = dyn_cast<WeightType>(type);
        weight && weight.getScheme() != scheme)
      return op->emitOpError("expected a quantized weight to have the scheme ")
             << scheme << " of the op but got " << weight.getScheme();
    ArrayRef<int64_t> shape = getWeightShape(type);
    if (int64_t most = *llvm::min_element(shape); scheme.getLowRank() > most)
      return op->emitOpError("expected a rank of low_rank of at most ")
             << most << " for a weight of " << shape[0] << " x " << shape[1]
             << " but got " << scheme.getLowRank();
  }
  return success();
}

/// Kernels cover the token counts.
static LogicalResult verifyKernels(LinearOpInterface op) {
  if (!op.getKernelsAttr())
    return success();
  SmallVector<KernelConfig> kernels = op.getKernelConfigs();
  Status covered = verifyCoverage({kernels.begin(), kernels.end()});
  if (!covered.ok())
    return op->emitOpError("has wrong kernels: ") << covered.message();
  return success();
}

/// There is a symbol for each of the kernels.
static LogicalResult verifyKernelSymbols(LinearOpInterface op) {
  ArrayAttr symbols = op.getKernelSymbolsAttr();
  size_t kernels = op.getKernelsAttr() ? op.getKernelsAttr().size() : 0;
  if (symbols && symbols.size() != kernels)
    return op->emitOpError("expected a symbol for each of ")
           << kernels << " kernels but got " << symbols.size();
  return success();
}

Speculation::Speculatability LinearOp::getSpeculatability() {
  return speculatableUnless(
      llvm::any_of(getEpilogueOperands(), hasDynamicExtent));
}

Speculation::Speculatability GroupedLinearOp::getSpeculatability() {
  return speculatableUnless(
      llvm::any_of(getEpilogueOperands(), hasDynamicExtent));
}

LogicalResult LinearOp::verify() {
  // The generic form can say anything about the segments of operands.
  if (getODSOperandIndexAndLength(0).second != 1)
    return emitOpError("expected one input");
  // QL-LINEAR-C1, QL-LINEAR-C2
  if (failed(verifyWeights(*this)))
    return failure();
  // QL-LINEAR-C3, QL-LINEAR-C4
  if (failed(verifyInputAndResult(*this)))
    return failure();
  // QL-LINEAR-C5, QL-LINEAR-C6
  if (failed(verifyEpilogueOperands(*this, "output")))
    return failure();
  // QL-LINEAR-C10
  if (failed(verifyChosenScheme(*this)))
    return failure();
  // QL-LINEAR-C11, QL-LINEAR-C12
  if (failed(verifyKernels(*this)))
    return failure();
  return verifyKernelSymbols(*this);
}

LogicalResult GroupedLinearOp::verify() {
  // The generic form can say anything about the segments of operands.
  if (getODSOperandIndexAndLength(0).second != 1 ||
      getODSOperandIndexAndLength(2).second != 1)
    return emitOpError("expected one input and one tensor of offsets");
  // QL-GROUPED-LINEAR-C1, QL-GROUPED-LINEAR-C2
  if (failed(verifyWeights(*this)))
    return failure();
  // QL-GROUPED-LINEAR-C3
  Type weight = getWeights().front().getType();
  if (getWeightShape(weight)[0] % getNumExperts() != 0)
    return emitOpError("expected the rows of a weight to be those of ")
           << getNumExperts() << " experts, one less than the offsets, but got "
           << weight;
  // QL-GROUPED-LINEAR-C4
  RankedTensorType input = getDenseType(getInput().getType());
  if (input.getRank() != 2)
    return emitOpError("expected an input of two dimensions but got ") << input;
  // QL-GROUPED-LINEAR-C4, QL-GROUPED-LINEAR-C5
  if (failed(verifyInputAndResult(*this)))
    return failure();
  // QL-GROUPED-LINEAR-C6, QL-GROUPED-LINEAR-C7
  if (failed(verifyEpilogueOperands(*this, "row of the weight")))
    return failure();
  // QL-GROUPED-LINEAR-C11
  if (failed(verifyChosenScheme(*this)))
    return failure();
  // QL-GROUPED-LINEAR-C12, QL-GROUPED-LINEAR-C13
  if (failed(verifyKernels(*this)))
    return failure();
  return verifyKernelSymbols(*this);
}

/// Checks the arguments, the operations and the end of an epilogue.
static LogicalResult verifyEpilogue(LinearOpInterface op) {
  if (!op.hasEpilogue())
    return success();
  Block &block = op.getEpilogue().front();
  // The arguments.
  SmallVector<Type> expected(op.getWeights().size(),
                             Float32Type::get(op->getContext()));
  for (Type type : op.getEpilogueOperands().getTypes())
    expected.push_back(cast<RankedTensorType>(type).getElementType());
  if (!llvm::equal(block.getArgumentTypes(), expected))
    return op->emitOpError("expected the arguments of the epilogue to be (")
           << expected << ") but got (" << block.getArgumentTypes() << ")";
  // The end.
  auto yield = block.empty() ? YieldOp() : dyn_cast<YieldOp>(block.back());
  Type element = getElementTypeOrSelf(op.getResult().getType());
  if (!yield)
    return op->emitOpError("expected the epilogue to end with quant_llm.yield");
  if (yield.getValues().size() != 1 ||
      yield.getValues().front().getType() != element) {
    auto diag =
        op->emitOpError("expected the epilogue to yield one value of type ")
        << element;
    diag.attachNote(yield.getLoc())
        << "it yields (" << yield.getValues().getTypes() << ")";
    return diag;
  }
  // The operations.
  for (Operation &inner : block.without_terminator()) {
    StringRef dialect = inner.getName().getDialectNamespace();
    auto isScalar = [](Type type) { return type.isIntOrIndexOrFloat(); };
    if ((dialect != "arith" && dialect != "math") ||
        inner.getNumRegions() != 0 ||
        !llvm::all_of(inner.getOperandTypes(), isScalar) ||
        !llvm::all_of(inner.getResultTypes(), isScalar) || !isPure(&inner)) {
      auto diag =
          op->emitOpError("expected the epilogue to hold only pure scalar "
                          "operations of arith and math but got '")
          << inner.getName() << "'";
      diag.attachNote(inner.getLoc()) << "the operation is here";
      return diag;
    }
  }
  return success();
}

// QL-LINEAR-C7, QL-LINEAR-C8, QL-LINEAR-C9
LogicalResult LinearOp::verifyRegions() { return verifyEpilogue(*this); }

// QL-GROUPED-LINEAR-C8, QL-GROUPED-LINEAR-C9, QL-GROUPED-LINEAR-C10
LogicalResult GroupedLinearOp::verifyRegions() { return verifyEpilogue(*this); }

namespace {

/// Drops operands of the epilogue whose argument has no use.
template <typename OpTy>
struct DropUnusedEpilogueOperands : public OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;

  LogicalResult matchAndRewrite(OpTy op,
                                PatternRewriter &rewriter) const override {
    if (!op.hasEpilogue() || op.getKernelSymbols())
      return rewriter.notifyMatchFailure(op, "no epilogue, or one in a kernel");
    Block &block = op.getEpilogue().front();
    unsigned numWeights = op.getWeights().size();
    unsigned numOperands = op.getEpilogueOperands().size();
    llvm::BitVector unused(block.getNumArguments());
    SmallVector<Value> kept;
    for (unsigned i = 0; i < numOperands; ++i) {
      if (block.getArgument(numWeights + i).use_empty())
        unused.set(numWeights + i);
      else
        kept.push_back(op.getEpilogueOperands()[i]);
    }
    if (unused.none())
      return rewriter.notifyMatchFailure(op, "every operand is used");
    rewriter.modifyOpInPlace(op, [&] {
      op.getEpilogueOperandsMutable().assign(kept);
      block.eraseArguments(unused);
    });
    return success();
  }
};

/// Drops an epilogue that yields the accumulator as it would be without one.
template <typename OpTy>
struct DropIdentityEpilogue : public OpRewritePattern<OpTy> {
  using OpRewritePattern<OpTy>::OpRewritePattern;

  LogicalResult matchAndRewrite(OpTy op,
                                PatternRewriter &rewriter) const override {
    if (!op.hasEpilogue() || op.getWeights().size() != 1 ||
        !op.getEpilogueOperands().empty() || op.getKernelSymbols())
      return rewriter.notifyMatchFailure(op, "not an epilogue of one argument, "
                                             "or one in a kernel");
    Block &block = op.getEpilogue().front();
    Value value = cast<YieldOp>(block.getTerminator()).getValues().front();
    // Rounding half to even is what a linear without epilogue does.
    auto trunc = value.getDefiningOp<arith::TruncFOp>();
    if (trunc &&
        (!trunc.getRoundingmode() ||
         *trunc.getRoundingmode() == arith::RoundingMode::to_nearest_even))
      value = trunc.getIn();
    if (value != block.getArgument(0))
      return rewriter.notifyMatchFailure(op, "the epilogue computes something");
    rewriter.modifyOpInPlace(op, [&] { rewriter.eraseBlock(&block); });
    return success();
  }
};

} // namespace

void LinearOp::getCanonicalizationPatterns(RewritePatternSet &results,
                                           MLIRContext *context) {
  results.add<DropUnusedEpilogueOperands<LinearOp>,
              DropIdentityEpilogue<LinearOp>>(context);
}

void GroupedLinearOp::getCanonicalizationPatterns(RewritePatternSet &results,
                                                  MLIRContext *context) {
  results.add<DropUnusedEpilogueOperands<GroupedLinearOp>,
              DropIdentityEpilogue<GroupedLinearOp>>(context);
}

//===----------------------------------------------------------------------===//
// Regions
//===----------------------------------------------------------------------===//

/// Control enters the region once and leaves with the yielded values.
static void getOnceSuccessors(Operation *op, RegionBranchPoint point,
                              SmallVectorImpl<RegionSuccessor> &regions) {
  if (point.isParent())
    regions.push_back(RegionSuccessor(&op->getRegion(0)));
  else
    regions.push_back(RegionSuccessor(op, op->getResults()));
}

void BlockOp::getSuccessorRegions(RegionBranchPoint point,
                                  SmallVectorImpl<RegionSuccessor> &regions) {
  getOnceSuccessors(*this, point, regions);
}

void CrossBlockOp::getSuccessorRegions(
    RegionBranchPoint point, SmallVectorImpl<RegionSuccessor> &regions) {
  getOnceSuccessors(*this, point, regions);
}

/// Checks that a region's single block ends with a yield (other terminators of
/// upstream, such as llvm.unreachable, may stand anywhere).
static LogicalResult verifyEndsWithYield(Operation *op) {
  Block &block = op->getRegion(0).front();
  if (block.empty() || !isa<YieldOp>(block.back()))
    return op->emitOpError("expected the region to end with quant_llm.yield");
  return success();
}

// QL-BLOCK-C3
LogicalResult BlockOp::verifyRegions() { return verifyEndsWithYield(*this); }

YieldOp BlockOp::getYield() {
  return cast<YieldOp>(getBody().front().getTerminator());
}

YieldOp CrossBlockOp::getYield() {
  return cast<YieldOp>(getBody().front().getTerminator());
}

LogicalResult CrossBlockOp::verify() {
  // QL-CROSS-BLOCK-C2
  if (getOverlap() >= getWindow())
    return emitOpError("expected the overlap to be less than the window of ")
           << getWindow() << " blocks but got " << getOverlap();
  return success();
}

LogicalResult CrossBlockOp::verifyRegions() {
  // QL-CROSS-BLOCK-C6
  if (failed(verifyEndsWithYield(*this)))
    return failure();
  // QL-CROSS-BLOCK-C3
  Block &block = getBody().front();
  for (Operation &op : block.without_terminator()) {
    if (!isa<BlockOp>(op)) {
      auto diag = emitOpError("expected only quant_llm.block operations but "
                              "got '")
                  << op.getName() << "'";
      diag.attachNote(op.getLoc()) << "the operation is here";
      return diag;
    }
  }
  SmallVector<BlockOp> blocks = getBlocks();
  if (blocks.empty())
    return emitOpError("expected at least one quant_llm.block");
  // QL-CROSS-BLOCK-C4
  for (size_t i = 1; i < blocks.size(); ++i) {
    // Differences of non-negative numbers do not overflow.
    if (int64_t(blocks[i].getIndex()) - int64_t(blocks[i - 1].getIndex()) !=
        1) {
      auto diag = emitOpError("expected consecutive indices of the blocks but "
                              "got ")
                  << blocks[i].getIndex() << " after "
                  << blocks[i - 1].getIndex();
      diag.attachNote(blocks[i].getLoc()) << "the block is here";
      return diag;
    }
  }
  return success();
}

SmallVector<BlockOp> CrossBlockOp::getBlocks() {
  return llvm::to_vector(getBody().front().getOps<BlockOp>());
}

SmallVector<std::pair<int64_t, int64_t>> CrossBlockOp::getWindows() {
  int64_t count = getBlocks().size();
  int64_t window = std::min<int64_t>(getWindow(), count);
  int64_t stride = int64_t(getWindow()) - int64_t(getOverlap());
  SmallVector<std::pair<int64_t, int64_t>> windows;
  for (int64_t first = 0;; first += stride) {
    first = std::min(first, count - window);
    windows.emplace_back(first, first + window - 1);
    if (first + window == count)
      return windows;
  }
}
