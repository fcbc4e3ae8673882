//===- Kernels.cpp - The GPU kernel generator -----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Kernels.h"

#include "llvm/Support/ErrorHandling.h"

using namespace mlir;
using namespace quant_llm;

LLVM::LLVMFuncOp quant_llm::emitKernel(gpu::GPUModuleOp module, StringRef name,
                                       const KernelProblem &problem,
                                       const KernelConfig &config,
                                       const ChipLimits &chip,
                                       Region *epilogue) {
  switch (config.family) {
  case KernelFamily::FewTokens:
  case KernelFamily::Multistage:
    return emitMmaKernel(module, name, problem, config, chip, epilogue);
  case KernelFamily::Wgmma:
    return emitWgmmaKernel(module, name, problem, config, chip, epilogue);
  }
  llvm_unreachable("verifyKernel accepts no other family");
}
