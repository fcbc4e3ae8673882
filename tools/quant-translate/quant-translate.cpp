//===- quant-translate.cpp - From IR to the formats of a machine ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/InitAllDialects.h"
#include "quant-llm/Target/PTX.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Tools/mlir-translate/MlirTranslateMain.h"
#include "mlir/Tools/mlir-translate/Translation.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/PrettyStackTrace.h"

using namespace mlir;

static llvm::cl::opt<std::string>
    chip("chip",
         llvm::cl::desc("Compile for this chip, sm_90a and the like, instead "
                        "of the target of the gpu.module"));
static llvm::cl::opt<std::string>
    features("features", llvm::cl::desc("Version of PTX, +ptx81 and the like"));

/// Compiles the gpu.module of a module, which becomes a gpu.binary; prints the
/// object in that.
static LogicalResult compile(Operation *op, StringRef format,
                             raw_ostream &output) {
  PassManager pm(op->getContext(), op->getName().getStringRef());
  quant_llm::GPUToPTXOptions options;
  options.chip = chip;
  options.features = features;
  options.format = format.str();
  pm.addPass(quant_llm::createGPUToPTX(options));
  if (failed(pm.run(op)))
    return failure();
  SmallVector<gpu::BinaryOp> binaries;
  op->walk([&](gpu::BinaryOp binary) { binaries.push_back(binary); });
  if (binaries.size() != 1)
    return emitError(op->getLoc(), "expected exactly one gpu.module but got ")
           << binaries.size();
  auto object = cast<gpu::ObjectAttr>(binaries.front().getObjects()[0]);
  output << object.getObject().getValue();
  return success();
}

static void registerDialects(DialectRegistry &registry) {
  registerAllDialects(registry);
  registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
  quant_llm::registerPTXTranslation(registry);
}

int main(int argc, char **argv) {
  llvm::setBugReportMsg("please report this with the input, the command line "
                        "and the stack trace to the quant-llm issue tracker\n");
  llvm::cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });
  TranslateFromMLIRRegistration toPTX(
      "quant-llm-to-ptx", "Print the PTX of the gpu.module of the input",
      [](ModuleOp op, raw_ostream &output) {
        return compile(op, "ptx", output);
      },
      registerDialects);
  TranslateFromMLIRRegistration toCubin(
      "quant-llm-to-cubin",
      "Write the machine code of the gpu.module of the input (needs ptxas)",
      [](ModuleOp op, raw_ostream &output) {
        return compile(op, "cubin", output);
      },
      registerDialects);
  return failed(mlirTranslateMain(
      argc, argv, "translation of quant-llm modules to PTX and machine code"));
}
