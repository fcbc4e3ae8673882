//===- QuantLLMDialect.cpp - Registration, aliases, bytecode version ------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
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

#define GET_ATTRDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttributes.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTypes.cpp.inc"
