//===- quant-opt.cpp - mlir-opt with the dialects and passes of quant-llm -===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../Diagnostics.h"

#include "quant-llm/Conversion/QuantLLMToCPU/Bufferization.h"
#include "quant-llm/InitAllDialects.h"
#include "quant-llm/InitAllPasses.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Bytecode.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/ToolOutputFile.h"

#include <cstdio>

using namespace mlir;

/// MlirOptMain with a look at the input before MLIR reads it.
static LogicalResult run(int argc, char **argv, DialectRegistry &registry) {
  SmallVector<char *> arguments = quant_llm::addDiagnosticDefaults(argc, argv);
  auto [inputName, outputName] = registerAndParseCLIOptions(
      static_cast<int>(arguments.size()), arguments.data(),
      "quant-llm modular optimizer driver\n", registry);
  MlirOptMainConfig config = MlirOptMainConfig::createFromCLOptions();
  if (config.shouldShowDialects() || config.shouldListPasses())
    return MlirOptMain(argc, argv, inputName, outputName, registry);
  if (inputName == "-" &&
      llvm::sys::Process::FileDescriptorIsDisplayed(fileno(stdin)))
    llvm::errs() << "(reading from the terminal; end with ctrl-d)\n";
  auto fail = [&](const llvm::Twine &message) {
    llvm::errs() << message << "\n";
    return failure();
  };
  std::string message;
  auto input = openInputFile(inputName, &message);
  if (!input)
    return fail(message);
  quant_llm::Status status = quant_llm::checkSource(input->getBuffer());
  if (!status.ok())
    return fail(llvm::Twine(inputName) + ": error: " + status.message());
  // A pipe or device takes what comes. A file is replaced when there is
  // something to replace it with: it may be the input.
  if (outputName == "-" || (llvm::sys::fs::exists(outputName) &&
                            !llvm::sys::fs::is_regular_file(outputName))) {
    auto output = openOutputFile(outputName, &message);
    if (!output)
      return fail(message);
    if (failed(MlirOptMain(output->os(), std::move(input), registry, config)))
      return failure();
    output->keep();
    return success();
  }
  auto output = quant_llm::AtomicFile::create(outputName);
  if (!output.ok())
    return fail(output.message());
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (failed(MlirOptMain(stream, std::move(input), registry, config)))
    return failure();
  for (quant_llm::Status written :
       {output->write(text.data(), text.size()), output->commit()})
    if (!written.ok())
      return fail(written.message());
  return success();
}

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  llvm::setBugReportMsg("please report this with the input, the command line "
                        "and the stack trace to the quant-llm issue tracker\n");
  llvm::cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });

  // A pass that writes a file leaves nothing behind when it is interrupted.
  quant_llm::installInterruptCleanup();

  quant_llm::Status setting = quant_llm::checkThreadSetting();
  if (!setting.ok()) {
    llvm::errs() << "quant-opt: error: " << setting.message() << "\n";
    return EXIT_FAILURE;
  }

  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
  quant_llm::registerCpuBufferization(registry);
  registerAllPasses();
  quant_llm::registerAllPasses();
  return asMainReturnCode(run(argc, argv, registry));
}
