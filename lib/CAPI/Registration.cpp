//===- Registration.cpp - Dialects and passes behind the C API ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Apart from the rest because its headers are slow to compile.
//
//===----------------------------------------------------------------------===//

#include "Context.h"

#include "quant-llm/InitAllDialects.h"
#include "quant-llm/InitAllPasses.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"

#include <mutex>

void quant_llm::registerEveryDialect(mlir::DialectRegistry &registry) {
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
}

void quant_llm::registerEveryPass() {
  static std::once_flag once;
  std::call_once(once, [] {
    mlir::registerAllPasses();
    quant_llm::registerAllPasses();
  });
}
