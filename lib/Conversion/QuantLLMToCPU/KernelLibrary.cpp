//===- KernelLibrary.cpp - The kernels of a module ------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLibrary.h"

#include "mlir/IR/Builders.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace quant_llm;

KernelLibrary::KernelLibrary(ModuleOp module) : symbols(module) {}

FlatSymbolRefAttr KernelLibrary::lookup(StringRef key) const {
  return kernels.lookup(key);
}

std::string KernelLibrary::makeName(StringRef hint) {
  std::string name = hint.str();
  for (unsigned suffix = 0; symbols.lookup(name); ++suffix)
    name = (hint + "_" + Twine(suffix)).str();
  return name;
}

FlatSymbolRefAttr KernelLibrary::insert(StringRef key, func::FuncOp kernel) {
  MLIRContext *context = kernel.getContext();
  kernel.setPrivate();
  kernel->setAttr(kKernelAttrName, UnitAttr::get(context));
  // Called from one place with few arguments: inlining would only lengthen
  // the caller.
  kernel->setAttr(
      "passthrough",
      ArrayAttr::get(context, {StringAttr::get(context, "noinline")}));
  if (!symbols.lookup(kernel.getName()))
    symbols.insert(kernel);
  auto symbol = FlatSymbolRefAttr::get(kernel);
  kernels.try_emplace(key, symbol);
  return symbol;
}

FlatSymbolRefAttr KernelLibrary::insertOrReuse(func::FuncOp kernel) {
  std::string name = kernel.getName().str();
  kernel.setName("kernel");
  std::string code;
  llvm::raw_string_ostream stream(code);
  kernel->print(stream, OpPrintingFlags().useLocalScope());
  kernel.setName(name);
  if (FlatSymbolRefAttr known = lookup(code)) {
    kernel.erase();
    return known;
  }
  return insert(code, kernel);
}

FailureOr<func::FuncOp> quant_llm::getRuntimeFunction(ModuleOp module,
                                                      StringRef name,
                                                      FunctionType type) {
  if (Operation *symbol = module.lookupSymbol(name)) {
    auto function = dyn_cast<func::FuncOp>(symbol);
    if (function && function.isExternal() && function.getFunctionType() == type)
      return function;
    return symbol->emitError("expected no symbol '")
           << name << "' of another kind: it is a function of the runtime";
  }
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  auto function = func::FuncOp::create(builder, module.getLoc(), name, type);
  function.setPrivate();
  return function;
}

std::string quant_llm::getKernelHint(Location loc, StringRef otherwise) {
  StringRef name;
  loc->walk([&](Location part) {
    if (auto named = dyn_cast<NameLoc>(part))
      name = named.getName().getValue();
    return name.empty() ? WalkResult::advance() : WalkResult::interrupt();
  });
  name = name.rsplit('.').second.empty() ? name : name.rsplit('.').second;
  std::string hint;
  for (char c : name)
    hint += llvm::isAlnum(c) ? c : '_';
  return hint.empty() ? otherwise.str() : hint + "_" + otherwise.str();
}
