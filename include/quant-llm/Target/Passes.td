//===- Passes.td - From gpu.module to PTX ------------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_PASSES_TD
#define QUANT_LLM_TARGET_PASSES_TD

include "mlir/Pass/PassBase.td"

// In alphabetical order of the argument.

def ExpandGPUMath : Pass<"quant-llm-expand-gpu-math"> {
  let summary = "Replace functions of math by arithmetic that GPUs have";
  let description = [{
    A GPU has no library of mathematical functions: every op of `math` on f16, bf16 or f32
    becomes arithmetic and the few ops that are instructions (square root, absolute
    value, roundings, fused multiply-add, ...). f16 and bf16 are computed in f32 and rounded once. The error
    in f32 is a few units in the last place, over the whole range and with infinities,
    NaN and signed zeros as in C. What cannot be replaced, such as functions
    of f64, is an error.

    Example (`test/Target/PTX/expand-gpu-math.mlir`).
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
  ];
}

def GPUToPTX : Pass<"quant-llm-gpu-to-ptx", "::mlir::ModuleOp"> {
  let summary = "Compile every gpu.module to PTX or machine code";
  let description = [{
    A `gpu.module` holds kernels: functions `llvm.func` marked `nvvm.kernel` with bodies in
    llvm, nvvm, gpu, scf, cf, arith, math, index and vector. It becomes a `gpu.binary` with
    the PTX, or with `format=cubin` the machine code that ptxas makes of it. Every inline assembly
    is convergent, so that no barrier in one is duplicated. Calls of functions that are not in
    the module are errors.

    A remark (category `quant-llm-gpu-to-ptx`) gives registers, spilled bytes and shared memory of every
    kernel of a cubin; the table of kernels in the object has the same numbers and the attribute
    `quant_llm.kernel` of the function.

    Example (`test/Target/PTX/gpu-to-ptx.mlir`):
    ```mlir
    gpu.module @kernels [#nvvm.target<chip = "sm_90a">] {
      llvm.func @copy(...) attributes {nvvm.kernel} { ... }
    }
    // becomes
    gpu.binary @kernels [#gpu.object<#nvvm.target<chip = "sm_90a", features = "+ptx81">, assembly = "...">]
    ```
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect",
    "::mlir::arith::ArithDialect", "::mlir::cf::ControlFlowDialect",
    "::mlir::gpu::GPUDialect", "::mlir::math::MathDialect",
    "::mlir::memref::MemRefDialect", "::mlir::vector::VectorDialect",
  ];
  let options = [
    Option<"chip", "chip", "std::string", "\"\"",
           "Compile for this chip, sm_90a and the like, instead of the target of the "
           "gpu.module">,
    Option<"features", "features", "std::string", "\"\"",
           "Version of PTX, +ptx81 and the like; by default the oldest that has the "
           "instructions of the chip">,
    Option<"format", "format", "std::string", "\"ptx\"",
           "What the gpu.binary holds: ptx or cubin">,
    Option<"ptxFile", "ptx-file", "std::string", "\"\"",
           "Also write the PTX to this file; needs exactly one gpu.module">,
    Option<"cubinFile", "cubin-file", "std::string", "\"\"",
           "Also write the machine code to this file; needs exactly one gpu.module">,
  ];
}

#endif // QUANT_LLM_TARGET_PASSES_TD
