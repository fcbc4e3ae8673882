//===- QuantLLMTypes.cpp - The weight type --------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
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
