//===- Context.h - An MLIR context that collects diagnostics ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CAPI_CONTEXT_H
#define QUANT_LLM_LIB_CAPI_CONTEXT_H

#include "Internal.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"

#include <memory>

namespace llvm {
class ThreadPoolInterface;
} // namespace llvm

namespace mlir {
class OpPassManager;
class PassManager;
} // namespace mlir

namespace quant_llm {

class FileTransaction;

/// The dialects that modules of the project are written in.
void registerEveryDialect(mlir::DialectRegistry &registry);
/// The passes and pipelines that a textual pipeline may name; only the first
/// call does something.
void registerEveryPass();

/// An MLIR context with all dialects of the project, whose diagnostics go into
/// a list and, remarks and warnings, to the handler of the caller. Its threads
/// work in the FileTransaction of the thread that gives them work.
class CollectingContext {
public:
  explicit CollectingContext(const QuantLLMHandlers &handlers);
  ~CollectingContext();

  mlir::MLIRContext *get() { return &context; }

  /// Parses and verifies a module in text or bytecode.
  mlir::OwningOpRef<mlir::ModuleOp> parse(const char *source, size_t size,
                                          const char *name);
  /// Runs a pass manager with progress announced to the caller.
  mlir::LogicalResult run(mlir::PassManager &pm, mlir::ModuleOp module);
  /// Lets files appear, unless the caller wants no more of them.
  Status commit(FileTransaction &files) const;
  /// An error if the caller wants no more of the work.
  Status checkStop() const;
  /// Lets the passes of a pipeline for modules look at their options; none is
  /// run.
  mlir::LogicalResult initialize(mlir::OpPassManager pipeline);
  /// The module as text or bytecode, into a new buffer.
  Outcome print(mlir::ModuleOp module, bool bytecode, QuantLLMBuffer **buffer);

  /// The failure of what was attempted; its message is the first error that was
  /// collected with the notes that belong to it, or `fallback`.
  Outcome failure(const std::string &fallback);

private:
  bool shouldStop() const;

  std::unique_ptr<llvm::ThreadPoolInterface> threads; // outlives the context
  mlir::MLIRContext context;
  QuantLLMHandlers handlers;
  std::vector<StoredDiagnostic> diagnostics;
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CAPI_CONTEXT_H
