//===- quant-opt.cpp - mlir-opt with the dialects and passes of quant-llm -===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToCPU/Bufferization.h"
#include "quant-llm/InitAllDialects.h"
#include "quant-llm/InitAllPasses.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/PrettyStackTrace.h"

int main(int argc, char **argv) {
  // Passes write archives; an interrupt must not leave parts of them.
  quant_llm::installInterruptCleanup();
  llvm::setBugReportMsg("please report this with the input, the command line "
                        "and the stack trace to the quant-llm issue tracker\n");
  llvm::cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });

  // A pass that writes a file leaves nothing behind when it is interrupted.
  quant_llm::installInterruptCleanup();

  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
  quant_llm::registerCpuBufferization(registry);
  mlir::registerAllPasses();
  quant_llm::registerAllPasses();
  return mlir::asMainReturnCode(mlir::MlirOptMain(
      argc, argv, "quant-llm modular optimizer driver\n", registry));
}
