//===- Passes.h - Passes on quant_llm ---------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_H
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_H

#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Pass/Pass.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Stage.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"
#include "quant-llm/Methods/Method.h"
#include "quant-llm/Numerics/Granularity.h"
#include "quant-llm/Numerics/Scheme.h"

namespace quant_llm {

#define GEN_PASS_DECL
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_H
