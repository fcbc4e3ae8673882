//===- Passes.h - Conversions to and from quant_llm -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_PASSES_H
#define QUANT_LLM_CONVERSION_PASSES_H

#include "mlir/Pass/Pass.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

namespace quant_llm {

#define GEN_PASS_DECL
#include "quant-llm/Conversion/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "quant-llm/Conversion/Passes.h.inc"

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_PASSES_H
