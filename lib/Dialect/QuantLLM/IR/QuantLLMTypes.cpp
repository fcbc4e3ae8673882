//===- QuantLLMTypes.cpp - The weight type --------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace quant_llm;

/// Number of blocks of the given size along a dimension; -1 is all of it.
static int64_t countBlocks(int64_t size, int64_t block) {
  return block == -1 ? 1 : llvm::divideCeil(size, block);
}

/// Codes, then scales, of a matrix [n, k] under a scheme.
static void appendComponents(int64_t n, int64_t k, SchemeAttr scheme,
                             SmallVectorImpl<RankedTensorType> &types) {
  MLIRContext *context = scheme.getContext();
  Type byte = IntegerType::get(context, 8);
  int64_t rowBytes =
      llvm::divideCeil(k * int64_t(scheme.getElement().getBits()), 8);
  types.push_back(RankedTensorType::get({n, rowBytes}, byte));
  int64_t gridN = countBlocks(n, scheme.getBlockN());
  int64_t gridK = countBlocks(k, scheme.getBlockK());
  if (SchemeAttr scales = scheme.getScaleScheme())
    appendComponents(gridN, gridK, scales, types);
  else
    types.push_back(
        RankedTensorType::get({gridN, gridK}, scheme.getScaleType()));
}

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
  int64_t product;
  if (llvm::MulOverflow(shape[0], shape[1], product) ||
      llvm::MulOverflow(product, int64_t(8), product))
    return emitError() << "expected a weight of less than 2^60 elements but "
                          "got the shape "
                       << shape[0] << "x" << shape[1];
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
  return getChecked([&] { return parser.emitError(loc); },
                    parser.getContext(), ArrayRef<int64_t>(shape), elementType,
                    scheme);
}

void WeightType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList(getShape());
  printer << 'x' << getElementType() << ", " << getScheme() << '>';
}

int64_t WeightType::getGridN() const {
  return countBlocks(getN(), getScheme().getBlockN());
}

int64_t WeightType::getGridK() const {
  return countBlocks(getK(), getScheme().getBlockK());
}

RankedTensorType WeightType::getDenseType() const {
  return RankedTensorType::get(getShape(), getElementType());
}

SmallVector<RankedTensorType> WeightType::getComponentTypes() const {
  SmallVector<RankedTensorType> types;
  SchemeAttr scheme = getScheme();
  appendComponents(getN(), getK(), scheme, types);
  if (scheme.hasZero()) {
    Type zero = scheme.getZeroType();
    if (!zero)
      zero = IntegerType::get(getContext(), 8);
    types.push_back(RankedTensorType::get({getGridN(), getGridK()}, zero));
  }
  return types;
}

SmallVector<StringRef> WeightType::getComponentNames() const {
  SmallVector<StringRef> names = {"codes"};
  if (getScheme().getScaleScheme())
    names.append({"scales.codes", "scales.scales"});
  else
    names.push_back("scales");
  if (getScheme().hasZero())
    names.push_back("zeros");
  return names;
}

int64_t WeightType::getStorageBytes() const {
  int64_t bytes = 0;
  for (RankedTensorType type : getComponentTypes())
    bytes += type.getNumElements() * (type.getElementTypeBitWidth() / 8);
  return bytes;
}
