//===- CpuPipeline.cpp - The pipeline quant-llm-to-cpu --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Pipelines.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/LowerToLLVM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/SCF/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;

void quant_llm::buildCpuBufferPipeline(OpPassManager &pm,
                                       const CpuPipelineOptions &options) {
  pm.addPass(createInlineBlocks());
  if (!options.reference) {
    pm.addPass(createConvertLinalgToQuantLLM());
    pm.addPass(createFuseEpilogues());
  }
  pm.addPass(createDecomposeWeights());
  pm.addPass(createInsertChecks());
  if (options.reference)
    pm.addPass(createConvertQuantLLMToLinalg());
  else
    pm.addPass(createConvertQuantLLMToCPU());
  // `dequantize` ops, if any, and arithmetic on whole tensors.
  pm.addPass(createConvertQuantLLMToLinalg());
  pm.addPass(createConvertElementwiseToLinalgPass());
  pm.addPass(createFuseElementwise());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  OutlineKernelsOptions outline;
  outline.parallel = options.parallel;
  outline.fastMath = !options.reference;
  pm.addPass(createOutlineKernels(outline));
  pm.addPass(createBufferize());
  LowerDispatchOptions dispatch;
  dispatch.profile = options.profile;
  pm.addPass(createLowerDispatch(dispatch));
}

void quant_llm::buildCpuLLVMPipeline(OpPassManager &pm,
                                     const CpuPipelineOptions &options) {
  // What could not be outlined.
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToLoopsPass());
  pm.addPass(createForallToParallelLoopPass());
  LowerToLLVMOptions lower;
  lower.openMP = options.parallel;
  lower.approximateMath = !options.reference;
  lower.useRuntimeAllocator = true;
  buildLowerToLLVMPipeline(pm, lower);
}

void quant_llm::buildCpuPipeline(OpPassManager &pm,
                                 const CpuPipelineOptions &options) {
  buildCpuBufferPipeline(pm, options);
  buildCpuLLVMPipeline(pm, options);
}

void quant_llm::registerCpuPipelines() {
  CheckedPipelineRegistration<CpuPipelineOptions>(
      "quant-llm-to-cpu",
      "Lower functions on tensors to the LLVM dialect for the CPU runtime",
      buildCpuPipeline);
}
