//===- quant-translate.cpp - From IR to the formats of a machine ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../CommandLine.h"
#include "../Diagnostics.h"
#include "../NamedValueParser.h"
#include "../OutputText.h"

#include "quant-llm/InitAllDialects.h"
#include "quant-llm/Parser/ParseSafely.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Target/PTX.h"
#include "quant-llm/Target/Passes.h"
#include "quant-llm/Target/Torch.h"

#include "mlir/IR/AsmState.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Support/ToolUtilities.h"
#include "mlir/Tools/mlir-translate/Translation.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/SourceMgr.h"

using namespace mlir;

static llvm::cl::opt<std::string> inputName(llvm::cl::Positional,
                                            llvm::cl::desc("<input file>"),
                                            llvm::cl::init("-"));
static llvm::cl::opt<std::string>
    outputName("o", llvm::cl::desc("The file to write; - for standard output"),
               llvm::cl::value_desc("file"), llvm::cl::init("-"));
static llvm::cl::opt<bool>
    splitInput("split-input-file",
               llvm::cl::desc("Translate the pieces of the input between lines "
                              "'// -----' one by one"));
static llvm::cl::opt<bool>
    allowUnregistered("allow-unregistered-dialect",
                      llvm::cl::desc("Take ops of dialects that are unknown"));
static llvm::cl::opt<bool> verifyDiagnostics(
    "verify-diagnostics",
    llvm::cl::desc("Check that the errors are those that the input expects"));

static llvm::cl::opt<std::string>
    chip("chip",
         llvm::cl::desc("Compile for this chip, sm_90a and the like, instead "
                        "of the target of the gpu.module"));
static llvm::cl::opt<std::string>
    features("features", llvm::cl::desc("Version of PTX, +ptx81 and the like"));

static llvm::cl::opt<std::string>
    function("function", llvm::cl::desc("Translate this function to PyTorch; "
                                        "by default the only one"));
static llvm::cl::opt<std::string>
    blocks("blocks",
           llvm::cl::desc("Translate these blocks of the function to PyTorch: "
                          "the index of one (3), or of the first and the last "
                          "(2-4)"));
static llvm::cl::opt<quant_llm::TorchOptions::Part, /*ExternalStorage=*/false,
                     quant_llm::NamedValueParser<quant_llm::TorchOptions::Part>>
    part("part",
         llvm::cl::desc("Translate this part of the function to PyTorch:"),
         llvm::cl::values(clEnumValN(quant_llm::TorchOptions::Part::Whole,
                                     "whole", "all of it (default)"),
                          clEnumValN(quant_llm::TorchOptions::Part::Front,
                                     "front", "what is in front of the blocks"),
                          clEnumValN(quant_llm::TorchOptions::Part::Back,
                                     "back", "what is behind the blocks")),
         llvm::cl::init(quant_llm::TorchOptions::Part::Whole));
static llvm::cl::opt<bool>
    tap("tap", llvm::cl::desc("Let the inputs of linears pass through a "
                              "function `tap(weight, input)` of the caller"));

/// Prints a function or a part of it as Python.
static LogicalResult printTorch(ModuleOp module, raw_ostream &output) {
  quant_llm::TorchOptions options;
  options.function = function;
  options.tap = tap;
  options.part = part;
  if (blocks.getNumOccurrences() != 0) {
    auto [first, last] = StringRef(blocks).split('-');
    if (last.empty() && !StringRef(blocks).contains('-'))
      last = first;
    if (first.getAsInteger(10, options.firstBlock) ||
        last.getAsInteger(10, options.lastBlock) || options.firstBlock < 0)
      return emitError(module.getLoc(), "expected --blocks to be an index or "
                                        "two with a '-' between but got '")
             << blocks << "'; leave it out for the whole function";
    if (part != quant_llm::TorchOptions::Part::Whole)
      return emitError(module.getLoc(),
                       "expected either --blocks or --part but got both");
    options.part = quant_llm::TorchOptions::Part::Blocks;
  }
  FailureOr<quant_llm::TorchSource> source =
      quant_llm::translateToTorch(module, options);
  if (failed(source))
    return failure();
  // In front of no blocks is the whole function, for callers that go through
  // the parts of any function; who asks for it here expects blocks.
  if (part == quant_llm::TorchOptions::Part::Front && source->blocks.empty())
    return emitError(module.getLoc(),
                     "expected a function with blocks for --part=front but it "
                     "has none; run quant-llm-form-blocks, or leave out --part "
                     "for the whole function");
  output << source->text;
  return success();
}

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

/// Parses a module, after a look at it, and hands it to `use`.
static LogicalResult
translate(const std::shared_ptr<llvm::SourceMgr> &sources, MLIRContext *context,
          llvm::function_ref<LogicalResult(ModuleOp)> use) {
  const llvm::MemoryBuffer *input =
      sources->getMemoryBuffer(sources->getMainFileID());
  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  quant_llm::registerAllDialects(registry);
  quant_llm::registerPTXTranslation(registry);
  context->appendDialectRegistry(registry);
  OwningOpRef<ModuleOp> module;
  quant_llm::Status status = quant_llm::parseSafely(input->getBuffer(), [&] {
    module = parseSourceFile<ModuleOp>(sources, context);
  });
  if (!status.ok())
    llvm::errs() << input->getBufferIdentifier()
                 << ": error: " << status.message() << "\n";
  return module ? use(*module) : failure();
}

/// The translation `requested` of the input, which goes to the file of -o when
/// all of it is there.
static LogicalResult run(const Translation *requested) {
  auto fail = [](const Twine &message) {
    llvm::errs() << "quant-translate: error: " << message << "\n";
    return failure();
  };
  if (!requested)
    return fail("expected a translation, such as --quant-llm-to-ptx, "
                "--quant-llm-to-cubin or --mlir-to-torch");
  std::string message, text;
  std::unique_ptr<llvm::MemoryBuffer> input =
      openInputFile(inputName, &message);
  if (!input)
    return fail(message);
  quant_llm::Result<quant_llm::OutputText> output =
      quant_llm::OutputText::open(outputName, "kernels.ptx");
  if (!output.ok())
    return fail(output.message());
  auto translatePiece = [&](std::unique_ptr<llvm::MemoryBuffer> piece,
                            raw_ostream &stream) {
    auto sources = std::make_shared<llvm::SourceMgr>();
    sources->AddNewSourceBuffer(std::move(piece), llvm::SMLoc());
    MLIRContext context;
    context.allowUnregisteredDialects(allowUnregistered);
    if (verifyDiagnostics) {
      SourceMgrDiagnosticVerifierHandler handler(*sources, &context);
      (void)(*requested)(sources, stream, &context);
      return handler.verify();
    }
    SourceMgrDiagnosticHandler handler(*sources, &context);
    return (*requested)(sources, stream, &context);
  };
  llvm::raw_string_ostream stream(text);
  if (failed(splitAndProcessBuffer(std::move(input), translatePiece, stream,
                                   splitInput ? kDefaultSplitMarker : "",
                                   splitInput ? kDefaultSplitMarker : "")))
    return failure();
  if (quant_llm::Status written = output->write(text); !written.ok())
    return fail(written.message());
  return success();
}

int main(int argc, char **argv) {
  quant_llm::reportLostOutput("quant-translate");
  llvm::InitLLVM init(argc, argv);
  llvm::setBugReportMsg("please report this with the input, the command line "
                        "and the stack trace to the quant-llm issue tracker\n");
  llvm::cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });
  TranslateRegistration toPTX(
      "quant-llm-to-ptx", "Print the PTX of the gpu.module of the input",
      [](const std::shared_ptr<llvm::SourceMgr> &sources, raw_ostream &output,
         MLIRContext *context) {
        return translate(sources, context, [&](ModuleOp op) {
          return compile(op, "ptx", output);
        });
      });
  TranslateRegistration toCubin(
      "quant-llm-to-cubin",
      "Write the machine code of the gpu.module of the input (needs ptxas)",
      [](const std::shared_ptr<llvm::SourceMgr> &sources, raw_ostream &output,
         MLIRContext *context) {
        return translate(sources, context, [&](ModuleOp op) {
          return compile(op, "cubin", output);
        });
      });
  TranslateRegistration toTorch(
      "mlir-to-torch",
      "Print a function, or some of its blocks, as a function of PyTorch",
      [](const std::shared_ptr<llvm::SourceMgr> &sources, raw_ostream &output,
         MLIRContext *context) {
        return translate(sources, context,
                         [&](ModuleOp op) { return printTorch(op, output); });
      });
  llvm::cl::opt<const Translation *, /*ExternalStorage=*/false,
                TranslationParser>
      requested("", llvm::cl::desc("Translation to perform"));
  registerAsmPrinterCLOptions();
  registerMLIRContextCLOptions();
  registerTranslationCLOptions();
  SmallVector<char *> arguments = quant_llm::addDiagnosticDefaults(argc, argv);
  if (!quant_llm::readCommandLine("quant-translate", arguments,
                                  "translation of quant-llm modules to PTX, "
                                  "machine code and PyTorch source\n"))
    return EXIT_FAILURE;
  // A file that is not complete is removed when the tool is interrupted.
  quant_llm::installInterruptCleanup();
  return failed(run(requested));
}
