//===- LowerToLLVM.h - From memref, scf and vector to LLVM ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_QUANTLLMTOCPU_LOWERTOLLVM_H
#define QUANT_LLM_CONVERSION_QUANTLLMTOCPU_LOWERTOLLVM_H

#include "mlir/IR/DialectRegistry.h"
#include "mlir/Pass/PassManager.h"

namespace quant_llm {

struct LowerToLLVMOptions {
  /// Run scf.parallel on the threads of OpenMP; serially otherwise.
  bool openMP = true;
  /// Replace exp, log, tanh and erf by polynomials that vectorize; otherwise
  /// they are calls of libm.
  bool approximateMath = true;
  /// Allocate through the functions `_mlir_memref_to_llvm_aligned_alloc` and
  /// `_mlir_memref_to_llvm_free`, which the runtime has; otherwise through
  /// malloc.
  bool useRuntimeAllocator = false;
};

/// Adds the passes that take a module of func, scf, affine, memref, vector,
/// arith, math, index, ub and cf to the LLVM (and OpenMP) dialect. The module
/// then translates to LLVM IR; with openMP the program needs libomp.
void buildLowerToLLVMPipeline(mlir::OpPassManager &pm,
                              const LowerToLLVMOptions &options = {});

/// Registers what a context needs to run the pipeline and to translate its
/// result to LLVM IR.
void registerLowerToLLVMDialects(mlir::DialectRegistry &registry);

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_QUANTLLMTOCPU_LOWERTOLLVM_H
