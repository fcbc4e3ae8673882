//===- Passes.h - Whether two modules compute the same ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_EQUIVALENCE_PASSES_H
#define QUANT_LLM_EQUIVALENCE_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

namespace quant_llm {

#define GEN_PASS_DECL
#include "quant-llm/Equivalence/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "quant-llm/Equivalence/Passes.h.inc"

/// Lowers a module to linalg and makes all floating-point arithmetic that of
/// f64; only parameters keep their type, and are widened when they are read.
/// Changes the module also on failure.
llvm::LogicalResult widenToF64(mlir::ModuleOp module);

} // namespace quant_llm

#endif // QUANT_LLM_EQUIVALENCE_PASSES_H
