//===- InitAllDialects.h - Registration of all dialects ---------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_INITALLDIALECTS_H
#define QUANT_LLM_INITALLDIALECTS_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

namespace quant_llm {

/// Registers our dialects and the interfaces that we attach to others.
inline void registerAllDialects(mlir::DialectRegistry &registry) {
  registry.insert<QuantLLMDialect>();
}

} // namespace quant_llm

#endif // QUANT_LLM_INITALLDIALECTS_H
