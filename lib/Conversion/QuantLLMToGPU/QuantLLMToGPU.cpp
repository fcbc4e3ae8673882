//===- QuantLLMToGPU.cpp - The pass convert-quant-llm-to-gpu --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Kernels.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/KernelProblem.h"
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Target/PTX.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"

namespace quant_llm {
#define GEN_PASS_DEF_CONVERTQUANTLLMTOGPU
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kModuleName = "quant_llm_kernels";

namespace {

struct ConvertQuantLLMToGPUPass
    : public quant_llm::impl::ConvertQuantLLMToGPUBase<
          ConvertQuantLLMToGPUPass> {
  using ConvertQuantLLMToGPUBase::ConvertQuantLLMToGPUBase;

  void runOnOperation() override;

private:
  /// A kernel that has been generated, and the epilogue in it (null for none).
  struct Generated {
    FlatSymbolRefAttr name;
    Region *epilogue;
  };

  LogicalResult convert(LinearOpInterface op, const ChipLimits &limits,
                        NVVM::NVVMTargetAttr target);
  FlatSymbolRefAttr findOrGenerate(LinearOpInterface op,
                                   const KernelProblem &problem,
                                   const KernelConfig &config,
                                   const ChipLimits &limits);

  gpu::GPUModuleOp kernels;
  /// By everything that decides about a kernel but the epilogue's body.
  llvm::StringMap<SmallVector<Generated>> generated;
};

} // namespace

/// Everything that decides about a kernel but the body of the epilogue.
static std::string getKey(const KernelProblem &problem,
                          const KernelConfig &config) {
  std::string key;
  llvm::raw_string_ostream os(key);
  os << schemeName(problem.scheme) << ' ' << problem.n << 'x' << problem.k
     << ' ' << getName(problem.activation) << ' ' << getName(problem.output)
     << ' ' << problem.numWeights << ' ' << problem.experts
     << (problem.wideOffsets ? " i64" : "");
  for (const EpilogueOperand &operand : problem.epilogue)
    os << ' ' << getName(operand.type) << (operand.perElement ? "[]" : "");
  os << ' ' << describe(config);
  return key;
}

/// linear_4096x4096_int4_few_tokens_16x8, with experts grouped_linear_8x...
static std::string getKernelName(const KernelProblem &problem,
                                 const KernelConfig &config) {
  std::string name;
  llvm::raw_string_ostream os(name);
  if (problem.isGrouped())
    os << "grouped_";
  os << (problem.numWeights == 2 ? "gated_" : "linear_");
  if (problem.isGrouped())
    os << problem.experts << 'x';
  os << problem.n << 'x' << problem.k << '_';
  // Elements such as codebook<4, [...]> would not be a name.
  std::string element = elementName(problem.scheme.element);
  os << StringRef(element).take_while([](char c) { return llvm::isAlnum(c); })
     << '_' << getName(config.family) << '_' << config.rowTile << 'x'
     << config.tokenTile;
  return name;
}

FlatSymbolRefAttr ConvertQuantLLMToGPUPass::findOrGenerate(
    LinearOpInterface op, const KernelProblem &problem,
    const KernelConfig &config, const ChipLimits &limits) {
  Region *epilogue = op.hasEpilogue() ? &op.getEpilogue() : nullptr;
  SmallVector<Generated> &alike = generated[getKey(problem, config)];
  for (const Generated &kernel : alike)
    if (bool(kernel.epilogue) == bool(epilogue) &&
        (!epilogue ||
         OperationEquivalence::isRegionEquivalentTo(
             kernel.epilogue, epilogue, OperationEquivalence::IgnoreLocations)))
      return kernel.name;

  std::string base = getKernelName(problem, config), name = base;
  for (unsigned i = 1; kernels.lookupSymbol(name); ++i)
    name = base + "_" + std::to_string(i);
  emitKernel(kernels, name, problem, config, limits, epilogue);
  ++numKernels;
  auto symbol = FlatSymbolRefAttr::get(&getContext(), name);
  alike.push_back({symbol, epilogue});
  return symbol;
}

LogicalResult ConvertQuantLLMToGPUPass::convert(LinearOpInterface op,
                                                const ChipLimits &limits,
                                                NVVM::NVVMTargetAttr target) {
  if (op.getKernelSymbolsAttr())
    return op.emitOpError("has kernels already; expected the pass to run once");
  FailureOr<KernelProblem> problem = getProblemOfKernels(op);
  if (failed(problem) || failed(verifyKernels(op, *problem, limits)))
    return failure();

  if (!kernels) {
    OpBuilder b = OpBuilder::atBlockBegin(getOperation().getBody());
    kernels = gpu::GPUModuleOp::create(b, op.getLoc(), kModuleName,
                                       b.getArrayAttr({target}));
    SymbolTable(getOperation()).insert(kernels);
  }
  SmallVector<Attribute> symbols;
  for (const KernelConfig &config : op.getKernelConfigs())
    symbols.push_back(
        SymbolRefAttr::get(&getContext(), kernels.getName(),
                           {findOrGenerate(op, *problem, config, limits)}));
  op.setKernelSymbolsAttr(ArrayAttr::get(&getContext(), symbols));
  ++numLinears;
  return success();
}

void ConvertQuantLLMToGPUPass::runOnOperation() {
  kernels = nullptr;
  generated.clear();
  Result<ChipLimits> limits = getChipLimits(chip);
  Result<NVVM::NVVMTargetAttr> target =
      limits.ok() ? getNVVMTarget(&getContext(), chip)
                  : Result<NVVM::NVVMTargetAttr>(limits.status());
  if (!target.ok()) {
    emitOptionError("chip", target.message());
    return signalPassFailure();
  }
  WalkResult result = getOperation().walk([&](LinearOpInterface op) {
    if (!op.getKernelsAttr())
      return WalkResult::advance();
    return WalkResult(convert(op, *limits, *target));
  });
  if (result.wasInterrupted())
    signalPassFailure();
}
