//===- InitAllPasses.h - Registration of all passes -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_INITALLPASSES_H
#define QUANT_LLM_INITALLPASSES_H

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Equivalence/Passes.h"
#include "quant-llm/Pipelines/Pipelines.h"
#include "quant-llm/Target/Passes.h"

namespace quant_llm {

/// Registers our passes and pipelines.
inline void registerAllPasses() {
  registerQuantLLMTransformsPasses();
  registerQuantLLMConversionPasses();
  registerQuantLLMTargetPasses();
  registerQuantLLMEquivalencePasses();
  registerQuantizationPipelines();
  registerRecipePipelines();
  registerCpuPipelines();
  registerGpuPipelines();
}

} // namespace quant_llm

#endif // QUANT_LLM_INITALLPASSES_H
