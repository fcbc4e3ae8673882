//===- Kernels.h - The GPU kernel generator ---------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELS_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELS_H

#include "quant-llm/Kernels/KernelSpec.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

namespace quant_llm {

/// Emits the kernel of a problem under a configuration that verifyKernel
/// accepted for `chip` into `module`: a function of the llvm dialect named
/// `name` with the attribute `quant_llm.launch`, the dictionary from which the
/// host launches it (docs/KernelConfig.md). `epilogue`, if not null, is the
/// region of a quant_llm.linear with the operands that `problem` lists.
mlir::LLVM::LLVMFuncOp
emitKernel(mlir::gpu::GPUModuleOp module, llvm::StringRef name,
           const KernelProblem &problem, const KernelConfig &config,
           const ChipLimits &chip, mlir::Region *epilogue);

/// Families FewTokens and Multistage.
mlir::LLVM::LLVMFuncOp
emitMmaKernel(mlir::gpu::GPUModuleOp module, llvm::StringRef name,
              const KernelProblem &problem, const KernelConfig &config,
              const ChipLimits &chip, mlir::Region *epilogue);

/// Family Wgmma.
mlir::LLVM::LLVMFuncOp
emitWgmmaKernel(mlir::gpu::GPUModuleOp module, llvm::StringRef name,
                const KernelProblem &problem, const KernelConfig &config,
                const ChipLimits &chip, mlir::Region *epilogue);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELS_H
