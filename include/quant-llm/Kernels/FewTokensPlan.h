//===- FewTokensPlan.h - Protocol of the few-tokens kernels -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the agents of a few-tokens kernel do, in which order: one producer
// thread, and warps as consumers. A unit of the program is a stage of the ring.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_FEWTOKENSPLAN_H
#define QUANT_LLM_KERNELS_FEWTOKENSPLAN_H

#include "quant-llm/Kernels/KernelConfig.h"
#include "quant-llm/Kernels/Pipeline.h"

namespace quant_llm {

/// The program of a configuration of the family FewTokens.
PipelineProgram planFewTokens(const KernelConfig &config);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_FEWTOKENSPLAN_H
