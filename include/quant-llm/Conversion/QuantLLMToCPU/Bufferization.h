//===- Bufferization.h - Bufferization of our ops ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_QUANTLLMTOCPU_BUFFERIZATION_H
#define QUANT_LLM_CONVERSION_QUANTLLMTOCPU_BUFFERIZATION_H

namespace mlir {
class DialectRegistry;
} // namespace mlir

namespace quant_llm {

/// Attaches the bufferization of `quant_llm.dispatch`.
void registerCpuBufferization(mlir::DialectRegistry &registry);

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_QUANTLLMTOCPU_BUFFERIZATION_H
