//===- QuantLLM.h - The quant_llm dialect -----------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLM_H
#define QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLM_H

#include "mlir/Bytecode/BytecodeImplementation.h"
#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "quant-llm/Dialect/QuantLLM/IR/AttributeNames.h"
#include "quant-llm/Dialect/QuantLLM/IR/ChannelTransform.h"
#include "quant-llm/Kernels/KernelConfig.h"
#include "quant-llm/Numerics/Scheme.h"

#include <string>

namespace quant_llm {
class BlockOp;
class YieldOp;

/// A tensor that a weight or an activation consists of.
struct WeightComponent {
  /// In an archive, to be put after "<key>.".
  llvm::StringRef name;
  mlir::RankedTensorType type;
};

/// For the storage of attributes.
llvm::hash_code hash_value(const KernelConfig &config);
} // namespace quant_llm

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttrInterfaces.h.inc"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTransformInterfaces.h.inc"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMDialect.h.inc"

#define GET_ATTRDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMAttributes.h.inc"

#define GET_TYPEDEF_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMTypes.h.inc"

namespace quant_llm {

/// The shape [N, K] of the type of a weight, dense or quantized.
llvm::ArrayRef<int64_t> getWeightShape(mlir::Type type);

/// The dense tensor of a weight or an activation; a tensor is its own.
mlir::RankedTensorType getDenseType(mlir::Type type);

/// The components of a weight or an activation.
llvm::SmallVector<WeightComponent> getComponentsOf(mlir::Type type);

} // namespace quant_llm

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMOpInterfaces.h.inc"

#define GET_OP_CLASSES
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLMOps.h.inc"

namespace quant_llm {

/// The version of the dialect that this library writes into bytecode. Raised
/// when a change needs an upgrade on reading, or older libraries cannot read
/// what is new. 2: kernels of quant_llm.linear. 3: low-rank parts of schemes,
/// quantized activations, transforms of channels.
inline constexpr uint64_t kDialectVersion = 3;

/// The file that an archive names. A relative path is taken from `baseDir`
/// unless that is empty, else from the directory of the file that the op was
/// parsed from, else from the working directory.
std::string resolveArchivePath(ArchiveOp archive, llvm::StringRef baseDir = {});

/// The parameter that a value reads; null if it is not a get_parameter of a
/// known symbol. Tables of symbols may be given to save the search.
ParameterOp getParameterOf(mlir::Value value,
                           mlir::SymbolTableCollection *tables = nullptr);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLM_H
