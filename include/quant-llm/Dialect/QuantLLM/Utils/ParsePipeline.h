//===- ParsePipeline.h - Textual pipelines, with all errors -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What MLIR says of a pipeline that it cannot build is spread over several
// texts, of which those about values of its own passes' options go to standard
// error (docs/UpstreamIssues.md), and it takes anchors that do not exist. Here
// all of it becomes one message.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARSEPIPELINE_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARSEPIPELINE_H

#include "mlir/Pass/PassManager.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <string>

namespace quant_llm {

/// Runs `build`, which parses a pipeline and appends what MLIR says to the
/// string, with what is written to llvm::errs() meanwhile. No other thread may
/// write to that stream, which is not for several threads at a time in LLVM. If
/// that fails, `message` is what is wrong with the textual pipeline `text`
/// (empty if it is not known), in one sentence, without what only follows from
/// it.
llvm::LogicalResult
buildPipeline(llvm::StringRef text, std::string &message,
              llvm::function_ref<llvm::LogicalResult(std::string &)> build);

/// Appends the textual pipeline `text` to `pm`.
llvm::LogicalResult parsePipeline(llvm::StringRef text, mlir::OpPassManager &pm,
                                  std::string &message);

/// What is wrong with the operations that the passes of `pm` are to run on, of
/// which MLIR skips passes for those that do not exist; empty if nothing is.
std::string findUnknownAnchor(const mlir::OpPassManager &pm,
                              mlir::MLIRContext *context);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARSEPIPELINE_H
