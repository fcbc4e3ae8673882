//===- Passes.td - From gpu.module to PTX ------------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_PASSES_TD
#define QUANT_LLM_TARGET_PASSES_TD

include "quant-llm/Dialect/QuantLLM/Utils/CheckedPass.td"

// In alphabetical order of the argument.

def ExpandGPUMath : CheckedPass<"quant-llm-expand-gpu-math"> {
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

def GPUToPTX : CheckedPass<"quant-llm-gpu-to-ptx", "::mlir::ModuleOp"> {
  let summary = "Compile every gpu.module to PTX or machine code";
  let description = [{
    A `gpu.module` holds kernels: functions `llvm.func` marked `nvvm.kernel` with bodies in
    llvm, nvvm, gpu, scf, cf, arith, math, index and vector. It becomes a `gpu.binary` with
    the PTX, or with `format=cubin` the machine code that ptxas makes of it. Every inline assembly
    is convergent, so that no barrier in one is duplicated. Calls of functions that are not in
    the module are errors.

    A remark (category `quant-llm-gpu-to-ptx`) gives registers, spilled bytes and shared memory of every
    kernel of a cubin; the table of kernels in the object has the same numbers and the attribute
    `quant_llm.launch` of the function. A kernel that spills is warned of.

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
    CheckedOption<"chip", "chip", "std::string", "\"\"",
           "Compile for this chip, sm_90a and the like, instead of the target of the "
           "gpu.module">,
    CheckedOption<"features", "features", "std::string", "\"\"",
           "Version of PTX, +ptx81 and the like; by default the oldest that has the "
           "instructions of the chip">,
    CheckedOption<"format", "format", "std::string", "\"ptx\"",
           "What the gpu.binary holds: ptx, cubin, or auto: cubin if ptxas is found">,
    CheckedOption<"ptxFile", "ptx-file", "std::string", "\"\"",
           "Also write the PTX to this file; needs exactly one gpu.module">,
    CheckedOption<"cubinFile", "cubin-file", "std::string", "\"\"",
           "Also write the machine code to this file; needs exactly one gpu.module">,
  ];
}

def LowerToNVVM : CheckedPass<"quant-llm-lower-to-nvvm", "::mlir::gpu::GPUModuleOp"> {
  let summary = "Lower gpu, cf, arith and index to llvm and nvvm";
  let description = [{
    The conversions to llvm and nvvm in one step, for a `gpu.module` only; a part of
    `quant-llm-gpu-to-ptx`. Upstream's passes do not fit: `convert-cf-to-llvm` takes whole modules with
    their host code, and `convert-gpu-to-nvvm` replaces functions that are instructions,
    such as fma, by calls of the device library.

    Example (`test/Target/PTX/lower-to-nvvm.mlir`).
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect",
  ];
}

def WriteGPUArtifact : CheckedPass<"quant-llm-write-gpu-artifact", "::mlir::ModuleOp"> {
  let summary = "Write the directory that the GPU runtime loads";
  let description = [{
    Writes the `gpu.binary` that `quant-llm-gpu-to-ptx` made of the kernels of linears to
    `kernels.cubin` or `kernels.ptx` in a directory, and `manifest.json`: the kernels with their launch
    descriptions, resources and hashes, and the linears with their weights and kernels
    (`docs/KernelConfig.md`). The manifest is written last; each file appears
    complete or not at all.

    The packed weights of a linear are parameters in the layout `#quant_llm.fragment_layout` in an
    archive below the directory; of others the manifest says that they are in `packed` under the same
    keys.

    Example (`test/Target/Artifact/write.mlir`).
  }];
  let options = [
    CheckedOption<"output", "output", "std::string", "\"\"",
           "The directory; it is made if it does not exist; required">,
    CheckedOption<"packed", "packed", "std::string", "\"packed.safetensors\"",
           "File of the packed weights, relative to the directory, of linears whose "
           "weights are not packed parameters">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
}

#endif // QUANT_LLM_TARGET_PASSES_TD
