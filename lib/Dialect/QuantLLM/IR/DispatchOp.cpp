//===- DispatchOp.cpp - Calls of generated kernels ------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Interfaces/FunctionInterfaces.h"

using namespace mlir;
using namespace quant_llm;

void DispatchOp::getEffects(
    SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>>
        &effects) {
  for (OpOperand &operand : getInputsMutable())
    if (isa<MemRefType>(operand.get().getType()))
      effects.emplace_back(MemoryEffects::Read::get(), &operand,
                           SideEffects::DefaultResource::get());
  for (OpOperand &operand : getOutputsMutable())
    if (isa<MemRefType>(operand.get().getType())) {
      effects.emplace_back(MemoryEffects::Read::get(), &operand,
                           SideEffects::DefaultResource::get());
      effects.emplace_back(MemoryEffects::Write::get(), &operand,
                           SideEffects::DefaultResource::get());
    }
}

LogicalResult DispatchOp::verify() {
  // QL-DISPATCH-C4
  size_t numTensors = 0;
  for (Value output : getOutputs())
    numTensors += isa<RankedTensorType>(output.getType());
  if (numTensors != 0 && numTensors != getOutputs().size())
    return emitOpError("expected outputs that are all tensors or all memrefs");
  if (getResults().size() != numTensors)
    return emitOpError("expected ")
           << numTensors << " results, one for each tensor in the outputs, but "
           << "got " << getResults().size();
  for (auto [index, result] : llvm::enumerate(getResults()))
    if (result.getType() != getOutputs()[index].getType())
      return emitOpError("expected result ")
             << index << " to have the type of its output, "
             << getOutputs()[index].getType() << ", but got "
             << result.getType();
  return success();
}

LogicalResult DispatchOp::verifySymbolUses(SymbolTableCollection &tables) {
  // QL-DISPATCH-C1. The interface rather than func.func, so that the dialect
  // does not depend on another one.
  auto kernel = tables.lookupNearestSymbolFrom<FunctionOpInterface>(
      *this, getKernelAttr());
  if (!kernel)
    return emitOpError("expected ")
           << getKernelAttr() << " to name a function, the kernel";
  if (kernel.getNumResults() != 0)
    return emitOpError("expected kernel ")
           << getKernelAttr() << " to return nothing but it returns "
           << kernel.getNumResults() << " values";
  // QL-DISPATCH-C2
  ArrayRef<Type> arguments = kernel.getArgumentTypes();
  size_t numOperands = getInputs().size() + getOutputs().size();
  if (arguments.size() != numOperands)
    return emitOpError("expected ")
           << arguments.size() << " operands, as many as kernel "
           << getKernelAttr() << " has arguments, but got " << numOperands;
  // QL-DISPATCH-C3
  size_t index = 0;
  auto check = [&](Type type) -> LogicalResult {
    Type argument = arguments[index++];
    bool matches = false;
    if (auto shaped = dyn_cast<ShapedType>(type)) {
      auto memref = dyn_cast<MemRefType>(argument);
      matches = memref && isa<RankedTensorType, MemRefType>(type) &&
                shaped.getElementType() == memref.getElementType() &&
                succeeded(verifyCompatibleShape(shaped.getShape(),
                                                memref.getShape()));
    } else {
      matches = type == argument;
    }
    if (matches)
      return success();
    return emitOpError("expected operand ")
           << index - 1 << " to fit the argument of kernel " << getKernelAttr()
           << " of type " << argument << " but got " << type;
  };
  for (Value input : getInputs())
    if (failed(check(input.getType())))
      return failure();
  for (Value output : getOutputs())
    if (failed(check(output.getType())))
      return failure();
  return success();
}
