//===- UncheckedOps.h - What quant-llm-insert-checks refuses ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_UNCHECKEDOPS_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_UNCHECKEDOPS_H

#include "mlir/IR/BuiltinOps.h"

namespace quant_llm {

/// Fails with a diagnostic at an op that can read or write memory of others, or
/// has undefined values, in a way that no check in front of it could find.
llvm::LogicalResult refuseUncheckedOps(mlir::ModuleOp module);

/// Fails with a diagnostic if functions call themselves, or each other very
/// deep: the stack is finite.
llvm::LogicalResult refuseRecursion(mlir::ModuleOp module);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_UNCHECKEDOPS_H
