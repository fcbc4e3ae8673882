//===- MathForms.h - Ops of math as arithmetic -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_MATHFORMS_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_MATHFORMS_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/Operation.h"

namespace quant_llm {

/// The value of a math.clampf, isinf or isnormal by ops of arith and math.absf;
/// null for other ops, and where the type has no infinity. `operands` are those
/// of `op`, which may have been converted to a wider type: what is normal is
/// that of the type of `op`. They are numbers or vectors of a fixed size.
mlir::Value createMathForm(mlir::OpBuilder &builder, mlir::Operation *op,
                           mlir::ValueRange operands);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_MATHFORMS_H
