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
                                 SchemeAttr scheme) {
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
  // QL-WEIGHT-C3
  Status status = verifyScheme(scheme.toNumerics(), shape[0], shape[1]);
  if (!status.ok())
    return emitError() << status.message();
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
      parser.parseAttribute(scheme) || parser.parseGreater())
    return {};
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    ArrayRef<int64_t>(shape), elementType, scheme);
}

void WeightType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList(getShape());
  printer << 'x' << getElementType() << ", " << getScheme() << '>';
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

SmallVector<RankedTensorType> WeightType::getComponentTypes() const {
  SchemeAttr scheme = getScheme();
  Type byte = IntegerType::get(getContext(), 8);
  SmallVector<RankedTensorType> types;
  for (const ComponentInfo &info :
       getComponents(scheme.toNumerics(), getN(), getK())) {
    Type element = byte;
    if (info.kind == ComponentKind::Scales)
      element = scheme.getScaleType();
    else if (info.kind == ComponentKind::ScaleScales)
      element = scheme.getScaleScheme().getScaleType();
    else if (info.kind == ComponentKind::Zeros && scheme.getZeroType())
      element = scheme.getZeroType();
    types.push_back(RankedTensorType::get({info.rows, info.columns}, element));
  }
  return types;
}

SmallVector<StringRef> WeightType::getComponentNames() const {
  SmallVector<StringRef> names;
  for (const ComponentInfo &info :
       getComponents(getScheme().toNumerics(), getN(), getK()))
    names.push_back(StringRef(info.suffix).drop_front());
  return names;
}

int64_t WeightType::getStorageBytes() const {
  return getStoredBytes(getScheme().toNumerics(), getN(), getK());
}
