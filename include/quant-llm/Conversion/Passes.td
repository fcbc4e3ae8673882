//===- Passes.td - Conversions to and from quant_llm -------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_PASSES_TD
#define QUANT_LLM_CONVERSION_PASSES_TD

include "mlir/Pass/PassBase.td"

// In alphabetical order of the argument.

#endif // QUANT_LLM_CONVERSION_PASSES_TD
