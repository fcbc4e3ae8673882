//===- quant-translate.cpp - From IR to the formats of a machine ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../Diagnostics.h"

#include "quant-llm/InitAllDialects.h"
#include "quant-llm/Support/Bytecode.h"
#include "quant-llm/Target/PTX.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Tools/mlir-translate/MlirTranslateMain.h"
#include "mlir/Tools/mlir-translate/Translation.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/SourceMgr.h"

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

/// Parses a module, after a look at it, and compiles it.
static LogicalResult translate(const std::shared_ptr<llvm::SourceMgr> &sources,
                               raw_ostream &output, MLIRContext *context,
                               StringRef format) {
  const llvm::MemoryBuffer *input =
      sources->getMemoryBuffer(sources->getMainFileID());
  quant_llm::Status status = quant_llm::checkSource(input->getBuffer());
  if (!status.ok()) {
    llvm::errs() << input->getBufferIdentifier()
                 << ": error: " << status.message() << "\n";
    return failure();
  }
  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
  quant_llm::registerPTXTranslation(registry);
  context->appendDialectRegistry(registry);
  OwningOpRef<ModuleOp> module = parseSourceFile<ModuleOp>(sources, context);
  return module ? compile(*module, format, output) : failure();
}

int main(int argc, char **argv) {
  llvm::setBugReportMsg("please report this with the input, the command line "
                        "and the stack trace to the quant-llm issue tracker\n");
  llvm::cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });
  TranslateRegistration toPTX(
      "quant-llm-to-ptx", "Print the PTX of the gpu.module of the input",
      [](const std::shared_ptr<llvm::SourceMgr> &sources, raw_ostream &output,
         MLIRContext *context) {
        return translate(sources, output, context, "ptx");
      });
  TranslateRegistration toCubin(
      "quant-llm-to-cubin",
      "Write the machine code of the gpu.module of the input (needs ptxas)",
      [](const std::shared_ptr<llvm::SourceMgr> &sources, raw_ostream &output,
         MLIRContext *context) {
        return translate(sources, output, context, "cubin");
      });
  SmallVector<char *> arguments = quant_llm::addDiagnosticDefaults(argc, argv);
  return failed(mlirTranslateMain(
      static_cast<int>(arguments.size()), arguments.data(),
      "translation of quant-llm modules to PTX and machine code"));
}
