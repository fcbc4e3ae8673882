//===- KernelProblem.cpp - What a linear asks of a GPU kernel -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/KernelProblem.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace quant_llm;

/// The op's verifier allows no other element types.
static quant_llm::TensorType getTensorType(Type type) {
  Type element = getElementTypeOrSelf(type);
  if (element.isF16())
    return quant_llm::TensorType::F16;
  if (element.isBF16())
    return quant_llm::TensorType::BF16;
  return quant_llm::TensorType::F32;
}

/// A type in the epilogue that code for GPUs cannot have; null if there is
/// none.
static Type findForeignType(LinearOpInterface op) {
  auto isForeign = [](Type type) {
    if (auto integer = dyn_cast<IntegerType>(type))
      return integer.getWidth() > 64;
    return !type.isIndex() && !type.isF16() && !type.isBF16() &&
           !type.isF32() && !type.isF64();
  };
  if (!op.hasEpilogue())
    return Type();
  for (Operation &inner : op.getEpilogue().front().without_terminator())
    for (Type type : inner.getResultTypes())
      if (isForeign(type))
        return type;
  return Type();
}

Result<KernelProblem> quant_llm::getKernelProblem(LinearOpInterface op) {
  if (!op.isQuantized())
    return Status::error("expected quantized weights but got dense ones");
  if (isa<ActivationType>(op.getInput().getType()))
    return Status::error("expected an input of floats but got a quantized "
                         "activation, for which there are no GPU kernels");
  auto first = cast<WeightType>(op.getWeights().front().getType());
  for (Type type : op.getWeights().getTypes())
    if (cast<WeightType>(type).getScheme() != first.getScheme())
      return Status::error("expected weights under one scheme");

  if (Type type = findForeignType(op)) {
    std::string name;
    llvm::raw_string_ostream(name) << type;
    return Status::error("expected an epilogue of f16, bf16, f32, f64, index "
                         "and integers of at most 64 bits but got '" +
                         name + "'");
  }

  KernelProblem problem;
  problem.scheme = first.getScheme().toNumerics();
  problem.n = op.getN();
  problem.k = op.getK();
  if (auto grouped = dyn_cast<GroupedLinearOp>(op.getOperation())) {
    problem.experts = grouped.getNumExperts();
    problem.wideOffsets =
        grouped.getOffsets().getType().getElementType().isInteger(64);
  }
  problem.activation = getTensorType(op.getInputType());
  problem.output = getTensorType(op.getResult().getType());
  problem.numWeights = op.getWeights().size();
  for (Type type : op.getEpilogueOperands().getTypes()) {
    EpilogueOperand operand;
    operand.type = getTensorType(type);
    // An operand of rank 1 has one value per output, unless so has the result
    // of a single token.
    operand.perElement = cast<RankedTensorType>(type).getRank() != 1;
    problem.epilogue.push_back(operand);
  }
  return problem;
}

std::string quant_llm::explainMissingKernels(LinearOpInterface op,
                                             const ChipLimits &chip) {
  if (op.getKernelsAttr())
    return "its kernels are not built; run convert-quant-llm-to-gpu and "
           "quant-llm-gpu-to-ptx before";
  Result<KernelProblem> problem = getKernelProblem(op);
  if (!problem.ok())
    return problem.message();
  if (!selectKernels(*problem, chip, /*reasons=*/nullptr).empty())
    return "its kernels are not chosen; run quant-llm-select-kernels, "
           "convert-quant-llm-to-gpu and quant-llm-gpu-to-ptx before";
  Status status = verifyKernel(*problem, KernelConfig(), chip);
  return status.ok() ? "no family of kernels can compute it" : status.message();
}

FailureOr<KernelProblem> quant_llm::getProblemOfKernels(LinearOpInterface op) {
  Result<KernelProblem> problem = getKernelProblem(op);
  if (!problem.ok())
    return op.emitOpError("has kernels but ") << problem.message();
  return *problem;
}

LogicalResult quant_llm::verifyKernels(LinearOpInterface op,
                                       const KernelProblem &problem,
                                       const ChipLimits &chip) {
  for (auto [index, config] : llvm::enumerate(op.getKernelConfigs()))
    if (Status status = verifyKernel(problem, config, chip); !status.ok())
      return op.emitOpError("kernel ")
             << index << " cannot be built: " << status.message();
  return success();
}
