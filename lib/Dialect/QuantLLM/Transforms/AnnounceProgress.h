//===- AnnounceProgress.h - Progress of passes ------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_ANNOUNCEPROGRESS_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_ANNOUNCEPROGRESS_H

#include "quant-llm/Support/Progress.h"

#include "mlir/IR/Operation.h"

namespace quant_llm {

/// Announces the progress of a pass on `op`, which fails if the caller wants no
/// more of it.
inline llvm::LogicalResult announce(mlir::Operation *op,
                                    const Progress &progress) {
  Status status = announceProgress(progress);
  return status.ok() ? llvm::success() : op->emitError(status.message());
}

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_ANNOUNCEPROGRESS_H
