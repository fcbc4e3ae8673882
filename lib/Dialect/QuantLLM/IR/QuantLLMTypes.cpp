//===- QuantLLMTypes.cpp - The types of weights and activations -----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"

using namespace mlir;
using namespace quant_llm;

LogicalResult WeightType::verify(function_ref<InFlightDiagnostic()> emitError,
                                 ArrayRef<int64_t> shape, Type elementType,
                                 SchemeAttr scheme,
                                 WeightLayoutAttrInterface layout) {
  if (!scheme)
    return emitError() << "expected a scheme";
  // QL-WEIGHT-C1
  if (shape.size() != 2)
    return emitError() << "expected a weight of 2 dimensions but got "
                       << shape.size();
  for (int64_t size : shape)
    if (size < 1)
      return emitError()
             << "expected static positive dimensions of a weight but got "
             << size;
  // QL-WEIGHT-C2
  if (!isa_and_present<Float16Type, BFloat16Type, Float32Type>(elementType))
    return emitError()
           << "expected the expressed type to be f16, bf16 or f32 but got "
           << elementType;
  // QL-WEIGHT-C3, C6
  Status status = verifyScheme(scheme.toNumerics(), shape[0], shape[1]);
  if (!status.ok())
    return emitError() << status.message();
  // QL-WEIGHT-C5
  if (layout)
    return layout.verifyWeight(emitError, scheme.toNumerics(), shape[0],
                               shape[1]);
  return success();
}

Type WeightType::parse(AsmParser &parser) {
  SMLoc loc = parser.getCurrentLocation();
  SmallVector<int64_t> shape;
  Type elementType;
  SchemeAttr scheme;
  if (parser.parseLess() ||
      parser.parseDimensionList(shape, /*allowDynamic=*/false) ||
      parser.parseType(elementType) || parser.parseComma() ||
      parser.parseAttribute(scheme))
    return {};
  WeightLayoutAttrInterface layout;
  if (succeeded(parser.parseOptionalComma())) {
    SMLoc layoutLoc = parser.getCurrentLocation();
    Attribute attribute;
    if (parser.parseAttribute(attribute))
      return {};
    // QL-WEIGHT-C4
    layout = dyn_cast<WeightLayoutAttrInterface>(attribute);
    if (!layout) {
      parser.emitError(layoutLoc, "expected the layout of a weight such as "
                                  "#quant_llm.fragment_layout but got ")
          << attribute;
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    ArrayRef<int64_t>(shape), elementType, scheme, layout);
}

void WeightType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList(getShape());
  printer << 'x' << getElementType() << ", " << getScheme();
  if (getLayout())
    printer << ", " << getLayout();
  printer << '>';
}

int64_t WeightType::getGridN() const {
  return getBlockGrid(getScheme().toNumerics(), getN(), getK()).gridN;
}

int64_t WeightType::getGridK() const {
  return getBlockGrid(getScheme().toNumerics(), getN(), getK()).gridK;
}

RankedTensorType WeightType::getDenseType() const {
  return RankedTensorType::get(getShape(), getElementType());
}

SmallVector<WeightComponent> WeightType::getComponents() const {
  SchemeAttr scheme = getScheme();
  if (WeightLayoutAttrInterface layout = getLayout())
    return layout.getComponents(scheme.toNumerics(), getN(), getK());
  Type byte = IntegerType::get(getContext(), 8);
  SmallVector<WeightComponent> components;
  for (const ComponentInfo &info :
       quant_llm::getComponents(scheme.toNumerics(), getN(), getK())) {
    Type element = byte;
    if (info.kind == ComponentKind::Scales)
      element = scheme.getScaleType();
    else if (info.kind == ComponentKind::ScaleScales)
      element = scheme.getScaleScheme().getScaleType();
    else if (info.kind == ComponentKind::Zeros && scheme.getZeroType())
      element = scheme.getZeroType();
    else if (info.kind == ComponentKind::LowRankA ||
             info.kind == ComponentKind::LowRankB)
      element = scheme.getLowRankType();
    components.push_back(
        {StringRef(info.suffix).drop_front(),
         RankedTensorType::get({info.rows, info.columns}, element)});
  }
  return components;
}

SmallVector<RankedTensorType> WeightType::getComponentTypes() const {
  return llvm::map_to_vector(
      getComponents(),
      [](const WeightComponent &component) { return component.type; });
}

SmallVector<StringRef> WeightType::getComponentNames() const {
  return llvm::map_to_vector(
      getComponents(),
      [](const WeightComponent &component) { return component.name; });
}

int64_t WeightType::getStorageBytes() const {
  int64_t bytes = 0;
  for (RankedTensorType type : getComponentTypes())
    bytes += type.getNumElements() * type.getElementTypeBitWidth() / 8;
  return bytes;
}

//===----------------------------------------------------------------------===//
// ActivationType
//===----------------------------------------------------------------------===//

LogicalResult
ActivationType::verify(function_ref<InFlightDiagnostic()> emitError,
                       ArrayRef<int64_t> shape, Type elementType,
                       SchemeAttr schemeAttr) {
  if (!schemeAttr)
    return emitError() << "expected a scheme";
  // QL-ACTIVATION-C1
  if (shape.empty() || ShapedType::isDynamic(shape.back()) || shape.back() < 1)
    return emitError() << "expected the last dimension of an activation, its "
                          "channels, to be static and positive";
  for (int64_t size : shape)
    if (size < 0 && !ShapedType::isDynamic(size))
      return emitError() << "expected dimensions that are not negative but got "
                         << size;
  // QL-ACTIVATION-C2
  if (!isa_and_present<Float16Type, BFloat16Type, Float32Type>(elementType))
    return emitError()
           << "expected the expressed type to be f16, bf16 or f32 but got "
           << elementType;
  // QL-ACTIVATION-C3
  const Scheme scheme = schemeAttr.toNumerics();
  if (scheme.blockN != 1 && scheme.blockN != -1)
    return emitError() << "expected the block of an activation to have 1 row, "
                          "a token, or -1, all of them, but got "
                       << scheme.blockN;
  Type scaleType = schemeAttr.getScaleType();
  if (!isa_and_present<Float16Type, BFloat16Type, Float32Type>(scaleType))
    return emitError() << "expected the scales of an activation to be f16, "
                          "bf16 or f32 but got "
                       << schemeAttr.getScale();
  // QL-ACTIVATION-C4
  bool isInteger = scheme.element.kind == ElementKind::Int ||
                   scheme.element.kind == ElementKind::UInt;
  if (isInteger ? scheme.element.bits < 2 : !getSmallFloat(scheme.element.kind))
    return emitError() << "expected the element of an activation to be an "
                          "integer of at least 2 bits or a float but got "
                       << schemeAttr.getElement();
  // QL-ACTIVATION-C5
  if (scheme.zero == ZeroKind::Float)
    return emitError() << "expected the zero of an activation to be int, or "
                          "none, but got "
                       << schemeAttr.getZeroType();
  if (scheme.lowRank != 0)
    return emitError() << "expected an activation without a low-rank part";
  // QL-ACTIVATION-C6
  if (scheme.rule == ScaleRule::Mse)
    return emitError() << "expected the rule of an activation to be absmax, "
                          "absmax_full or minmax but got mse, which searches";
  if (scheme.rounding != Rounding::HalfEven)
    return emitError() << "expected the rounding of an activation to be "
                          "half_even but got half_away";
  return success();
}

Type ActivationType::parse(AsmParser &parser) {
  SMLoc loc = parser.getCurrentLocation();
  SmallVector<int64_t> shape;
  Type elementType;
  SchemeAttr scheme;
  if (parser.parseLess() || parser.parseDimensionList(shape) ||
      parser.parseType(elementType) || parser.parseComma() ||
      parser.parseAttribute(scheme) || parser.parseGreater())
    return {};
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    ArrayRef<int64_t>(shape), elementType, scheme);
}

void ActivationType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList(getShape());
  printer << 'x' << getElementType() << ", " << getScheme() << '>';
}

int64_t ActivationType::getGroup() const {
  int64_t group = getScheme().getBlockK();
  return group < 0 ? getK() : std::min(group, getK());
}

int64_t ActivationType::getNumGroups() const {
  return (getK() + getGroup() - 1) / getGroup();
}

RankedTensorType ActivationType::getDenseType() const {
  return RankedTensorType::get(getShape(), getElementType());
}

SmallVector<WeightComponent> ActivationType::getComponents() const {
  Type byte = IntegerType::get(getContext(), 8);
  SmallVector<int64_t> grid;
  if (isPerToken())
    llvm::append_range(grid, getShape().drop_back());
  if (isGrouped())
    grid.push_back(getNumGroups());
  SmallVector<WeightComponent> components{
      {"codes", RankedTensorType::get(getShape(), byte)},
      {"scales", RankedTensorType::get(grid, getScheme().getScaleType())}};
  if (getScheme().hasZero())
    components.push_back({"zeros", RankedTensorType::get(grid, byte)});
  return components;
}

//===----------------------------------------------------------------------===//
// Both
//===----------------------------------------------------------------------===//

RankedTensorType quant_llm::getDenseType(Type type) {
  if (auto weight = dyn_cast<WeightType>(type))
    return weight.getDenseType();
  if (auto activation = dyn_cast<ActivationType>(type))
    return activation.getDenseType();
  return cast<RankedTensorType>(type);
}

SmallVector<WeightComponent> quant_llm::getComponentsOf(Type type) {
  if (auto activation = dyn_cast<ActivationType>(type))
    return activation.getComponents();
  return cast<WeightType>(type).getComponents();
}
