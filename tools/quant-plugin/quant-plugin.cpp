//===- quant-plugin.cpp - Dialects and passes for mlir-opt ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// mlir-opt --load-dialect-plugin=libQuantLLMPlugin.so
//          --load-pass-plugin=libQuantLLMPlugin.so
//          --pass-pipeline='builtin.module(quant-llm-inline-blocks)'
//
// The library links the same libMLIR as mlir-opt, so there is one copy of every
// type identifier in the process.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/InitAllDialects.h"
#include "quant-llm/InitAllPasses.h"

#include "mlir/Tools/Plugins/DialectPlugin.h"
#include "mlir/Tools/Plugins/PassPlugin.h"

extern "C" LLVM_ATTRIBUTE_WEAK mlir::DialectPluginLibraryInfo
mlirGetDialectPluginInfo() {
  return {MLIR_PLUGIN_API_VERSION, "quant-llm", QUANT_LLM_VERSION,
          [](mlir::DialectRegistry *registry) {
            quant_llm::registerAllDialects(*registry);
          }};
}

extern "C" LLVM_ATTRIBUTE_WEAK mlir::PassPluginLibraryInfo
mlirGetPassPluginInfo() {
  return {MLIR_PLUGIN_API_VERSION, "quant-llm", QUANT_LLM_VERSION,
          [] { quant_llm::registerAllPasses(); }};
}
