//===- Passes.h - From gpu.module to PTX ------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_PASSES_H
#define QUANT_LLM_TARGET_PASSES_H

#include "mlir/Pass/Pass.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

namespace quant_llm {

#define GEN_PASS_DECL
#include "quant-llm/Target/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "quant-llm/Target/Passes.h.inc"

} // namespace quant_llm

#endif // QUANT_LLM_TARGET_PASSES_H
