//===- QuantLLMDialect.cpp - Registration, aliases, bytecode version ------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace quant_llm;

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMDialect.cpp.inc"

namespace {

/// Schemes are long and few, so the printer names them once per module.
struct QuantLLMAsmInterface : public OpAsmDialectInterface {
  explicit QuantLLMAsmInterface(Dialect *dialect)
      : OpAsmDialectInterface(dialect) {}

  AliasResult getAlias(Attribute attr, raw_ostream &os) const override {
    if (!isa<SchemeAttr>(attr))
      return AliasResult::NoAlias;
    os << "scheme";
    return AliasResult::OverridableAlias;
  }
};

struct QuantLLMDialectVersion : public DialectVersion {
  explicit QuantLLMDialectVersion(uint64_t version) : version(version) {}
  uint64_t version;
};

struct QuantLLMBytecodeInterface : public BytecodeDialectInterface {
  explicit QuantLLMBytecodeInterface(Dialect *dialect)
      : BytecodeDialectInterface(dialect) {}

  void writeVersion(DialectBytecodeWriter &writer) const override {
    writer.writeVarInt(kDialectVersion);
  }

  std::unique_ptr<DialectVersion>
  readVersion(DialectBytecodeReader &reader) const override {
    uint64_t version;
    if (failed(reader.readVarInt(version)))
      return nullptr;
    if (version > kDialectVersion) {
      reader.emitError() << "expected version " << kDialectVersion
                         << " or older of dialect quant_llm but got " << version
                         << "; read it with a newer quant-llm";
      return nullptr;
    }
    return std::make_unique<QuantLLMDialectVersion>(version);
  }
};

} // namespace

/// What version 1 had of a linear comes first.
LogicalResult LinearOp::readProperties(DialectBytecodeReader &reader,
                                       OperationState &state) {
  auto &properties = state.getOrAddProperties<Properties>();
  if (failed(reader.readOptionalAttribute(properties.reason)) ||
      failed(reader.readOptionalAttribute(properties.scheme)) ||
      failed(reader.readSparseArray(
          MutableArrayRef(properties.operandSegmentSizes))))
    return failure();
  FailureOr<const DialectVersion *> version =
      reader.getDialectVersion<QuantLLMDialect>();
  if (failed(version) ||
      static_cast<const QuantLLMDialectVersion *>(*version)->version < 2)
    return success();
  return failure(
      failed(reader.readOptionalAttribute(properties.kernels)) ||
      failed(reader.readOptionalAttribute(properties.kernel_symbols)));
}

void LinearOp::writeProperties(DialectBytecodeWriter &writer) {
  Properties &properties = getProperties();
  writer.writeOptionalAttribute(properties.reason);
  writer.writeOptionalAttribute(properties.scheme);
  writer.writeSparseArray(ArrayRef(properties.operandSegmentSizes));
  writer.writeOptionalAttribute(properties.kernels);
  writer.writeOptionalAttribute(properties.kernel_symbols);
}

void QuantLLMDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttributes.cpp.inc"
      >();
  addTypes<
#define GET_TYPEDEF_LIST
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMOps.cpp.inc"
      >();
  addInterfaces<QuantLLMAsmInterface, QuantLLMBytecodeInterface>();
}

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttrInterfaces.cpp.inc"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTransformInterfaces.cpp.inc"

//===----------------------------------------------------------------------===//
// Discardable attributes
//===----------------------------------------------------------------------===//

/// QL-ATTR-C2, QL-ATTR-C3
static LogicalResult verifyFunctionAttribute(FunctionOpInterface function,
                                             NamedAttribute attribute) {
  StringRef name = attribute.getName();
  if (name == kKernelAttrName) {
    if (!isa<UnitAttr>(attribute.getValue()))
      return function.emitOpError("expected the attribute '")
             << name << "' to be a unit but got " << attribute.getValue();
    for (Type type : function.getArgumentTypes())
      if (isa<TensorType>(type))
        return function.emitOpError("expected a function with '")
               << name << "' to work on buffers but it has an argument of type "
               << type;
    return success();
  }
  auto numbers = dyn_cast<DenseI64ArrayAttr>(attribute.getValue());
  if (!numbers)
    return function.emitOpError("expected the attribute '")
           << name << "' to be an array of i64 but got "
           << attribute.getValue();
  int64_t numArguments = function.getNumArguments();
  auto verifyArgument = [&](int64_t number) -> LogicalResult {
    if (number < numArguments)
      return success();
    return function.emitOpError("expected numbers of arguments below ")
           << numArguments << " in '" << name << "' but got " << number;
  };
  ArrayRef<int64_t> values = numbers.asArrayRef();
  int64_t least = name == kResultAliasesAttrName ? -1 : 0;
  for (int64_t value : values)
    if (value < least)
      return function.emitOpError("expected numbers of at least ")
             << least << " in '" << name << "' but got " << value;
  if (name == kResultAliasesAttrName) {
    for (int64_t value : values)
      if (failed(verifyArgument(value)))
        return failure();
    return success();
  }
  if (values.size() < 2 || values.size() % 2 != 0)
    return function.emitOpError("expected the least work, a factor and pairs "
                                "of argument and dimension in '")
           << name << "' but got " << values.size() << " numbers";
  for (size_t i = 2; i < values.size(); i += 2)
    if (failed(verifyArgument(values[i])))
      return failure();
  return success();
}

/// QL-ATTR-C4
static LogicalResult verifyModuleAttribute(ModuleOp module,
                                           NamedAttribute attribute) {
  StringRef name = attribute.getName();
  auto list = dyn_cast<ArrayAttr>(attribute.getValue());
  if (name != kParametersAttrName) {
    if (list && llvm::all_of(list, llvm::IsaPred<StringAttr>))
      return success();
    return module.emitOpError("expected the attribute '")
           << name << "' to be an array of strings but got "
           << attribute.getValue();
  }
  auto isParameter = [](Attribute element) {
    auto entry = dyn_cast<DictionaryAttr>(element);
    if (!entry || !entry.getAs<StringAttr>("symbol") ||
        !entry.getAs<StringAttr>("archive") || !entry.getAs<StringAttr>("key"))
      return false;
    auto type = entry.getAs<TypeAttr>("type");
    auto memref = type ? dyn_cast<MemRefType>(type.getValue()) : MemRefType();
    return memref && memref.hasStaticShape();
  };
  if (list && llvm::all_of(list, isParameter))
    return success();
  return module.emitOpError("expected the attribute '")
         << name
         << "' to be an array of dictionaries with the strings symbol, archive "
            "and key and with the type of a static memref";
}

LogicalResult
QuantLLMDialect::verifyOperationAttribute(Operation *op,
                                          NamedAttribute attribute) {
  StringRef name = attribute.getName();
  if (llvm::is_contained(
          {kKernelAttrName, kParallelIfAttrName, kResultAliasesAttrName},
          name)) {
    // QL-ATTR-C1
    if (auto function = dyn_cast<FunctionOpInterface>(op))
      return verifyFunctionAttribute(function, attribute);
    return op->emitOpError("expected the attribute '")
           << name << "' on functions only";
  }
  if (llvm::is_contained(
          {kChecksAttrName, kProfiledKernelsAttrName, kParametersAttrName},
          name)) {
    // QL-ATTR-C1
    if (auto module = dyn_cast<ModuleOp>(op))
      return verifyModuleAttribute(module, attribute);
    return op->emitOpError("expected the attribute '")
           << name << "' on modules only";
  }
  return success();
}

#define GET_ATTRDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttributes.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTypes.cpp.inc"
