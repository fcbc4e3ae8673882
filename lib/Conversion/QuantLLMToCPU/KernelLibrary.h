//===- KernelLibrary.h - The kernels of a module ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A model of thirty equal layers needs each kernel once. Kernels are found by a
// text that determines their code: a description, or the code itself.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELLIBRARY_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELLIBRARY_H

#include "quant-llm/Dialect/QuantLLM/IR/AttributeNames.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/SymbolTable.h"

#include "llvm/ADT/StringMap.h"

namespace quant_llm {

class KernelLibrary {
public:
  explicit KernelLibrary(mlir::ModuleOp module);

  /// The kernel stored under `key`, or null.
  mlir::FlatSymbolRefAttr lookup(llvm::StringRef key) const;

  /// A name that no symbol has, beginning with `hint`.
  std::string makeName(llvm::StringRef hint);

  /// Makes another symbol of the module known.
  void add(mlir::Operation *symbol) { symbols.insert(symbol); }

  /// Stores a kernel that was emitted into the module under `key`.
  mlir::FlatSymbolRefAttr insert(llvm::StringRef key,
                                 mlir::func::FuncOp kernel);

  /// Stores a kernel under its own code, or erases it if there is an equal one.
  mlir::FlatSymbolRefAttr insertOrReuse(mlir::func::FuncOp kernel);

private:
  mlir::SymbolTable symbols;
  llvm::StringMap<mlir::FlatSymbolRefAttr> kernels;
};

/// The declaration of a function that the runtime defines, added to the module
/// if need be. Fails with a diagnostic if its name belongs to something else.
mlir::FailureOr<mlir::func::FuncOp> getRuntimeFunction(mlir::ModuleOp module,
                                                       llvm::StringRef name,
                                                       mlir::FunctionType type);

/// A readable name for the kernel of an op: the last part of its location's
/// name.
std::string getKernelHint(mlir::Location loc, llvm::StringRef otherwise);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELLIBRARY_H
