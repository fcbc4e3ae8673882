//===- PTX.h - From gpu.module to PTX ---------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// In two steps: a pipeline brings the functions of a gpu.module to the dialects
// llvm and nvvm, a translation makes PTX text of them. The assembler
// (Assembler.h) makes machine code of that. All steps are deterministic and
// need neither a GPU nor, up to PTX, anything of CUDA.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_PTX_H
#define QUANT_LLM_TARGET_PTX_H

#include "quant-llm/Support/Status.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Pass/PassManager.h"

#include <string>

namespace quant_llm {

/// The target attribute of a chip ("sm_90a"). `features` is a version of PTX
/// ("+ptx81"); if it is empty, the oldest that has what the chip offers to
/// kernels. An error for chips that LLVM does not know.
Result<mlir::NVVM::NVVMTargetAttr> getNVVMTarget(mlir::MLIRContext *context,
                                                 llvm::StringRef chip,
                                                 llvm::StringRef features = {});

/// Adds the passes that lower the ops of a gpu.module (gpu, scf, cf, arith,
/// math, index, vector, llvm, nvvm) to llvm and nvvm. To be run on the
/// gpu.module.
void buildLowerToNVVMPipeline(mlir::OpPassManager &pm);

/// The PTX of a gpu.module of llvm and nvvm ops, for its (only) target. Errors
/// are diagnostics at the module.
mlir::FailureOr<std::string> translateToPTX(mlir::gpu::GPUModuleOp module);

/// Registers the dialects of kernels and the translations that translateToPTX
/// needs.
void registerPTXTranslation(mlir::DialectRegistry &registry);

} // namespace quant_llm

#endif // QUANT_LLM_TARGET_PTX_H
