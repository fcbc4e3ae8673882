//===- GpuPipeline.cpp - The pipeline quant-llm-to-gpu --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Pipelines.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;

void quant_llm::buildGpuPipeline(OpPassManager &pm,
                                 const GpuPipelineOptions &options) {
  pm.addPass(createInlineBlocks());
  pm.addPass(createConvertLinalgToQuantLLM());
  pm.addPass(createFuseEpilogues());
  SelectKernelsOptions select;
  select.chip = options.chip;
  select.tuningFile = options.tuningFile;
  pm.addPass(createSelectKernels(select));
  ConvertQuantLLMToGPUOptions convert;
  convert.chip = options.chip;
  pm.addPass(createConvertQuantLLMToGPU(convert));
  GPUToPTXOptions compile;
  compile.format = options.format;
  pm.addPass(createGPUToPTX(compile));
  WriteGPUArtifactOptions write;
  write.output = options.output;
  write.packed = options.packed;
  write.baseDir = options.baseDir;
  pm.addPass(createWriteGPUArtifact(write));
}

void quant_llm::registerGpuPipelines() {
  CheckedPipelineRegistration<GpuPipelineOptions>(
      "quant-llm-to-gpu",
      "Compile the GPU kernels of linears and write what the GPU runtime loads",
      buildGpuPipeline);
}
