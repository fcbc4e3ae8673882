//===- Pipelines.h - Named pipelines and their options ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_PIPELINES_PIPELINES_H
#define QUANT_LLM_PIPELINES_PIPELINES_H

#include "mlir/Pass/PassOptions.h"

namespace mlir {
class DialectRegistry;
class OpPassManager;
} // namespace mlir

namespace quant_llm {

/// Options of `quant-llm-to-cpu`.
struct CpuPipelineOptions
    : public mlir::PassPipelineOptions<CpuPipelineOptions> {
  Option<bool> reference{
      *this, "reference",
      llvm::cl::desc("Use the exact reference lowering, not the fast kernels"),
      llvm::cl::init(false)};
  Option<bool> profile{
      *this, "profile",
      llvm::cl::desc("Measure the time of every kernel at run time"),
      llvm::cl::init(false)};
  Option<bool> parallel{
      *this, "parallel",
      llvm::cl::desc("Distribute large loops over threads with OpenMP"),
      llvm::cl::init(true)};
};

/// From functions on tensors in upstream dialects and `quant_llm` to functions
/// on buffers: kernels outlined, bufferized, memory management explicit. See
/// docs/Pipelines.md for the contract with the runtime.
void buildCpuBufferPipeline(mlir::OpPassManager &pm,
                            const CpuPipelineOptions &options);
/// From functions on buffers to the LLVM dialect.
void buildCpuLLVMPipeline(mlir::OpPassManager &pm,
                          const CpuPipelineOptions &options);
/// `quant-llm-to-cpu`: both, one after the other.
void buildCpuPipeline(mlir::OpPassManager &pm,
                      const CpuPipelineOptions &options);

/// Dialects, interface implementations and translations that a module on its
/// way through `quant-llm-to-cpu` needs.
void registerCpuPipelineDialects(mlir::DialectRegistry &registry);

/// Registers `quant-llm-to-cpu` for textual pipelines.
void registerCpuPipelines();

} // namespace quant_llm

#endif // QUANT_LLM_PIPELINES_PIPELINES_H
