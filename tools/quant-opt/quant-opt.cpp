//===- quant-opt.cpp - mlir-opt with the dialects and passes of quant-llm -===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../CommandLine.h"
#include "../Diagnostics.h"
#include "../OutputText.h"

#include "quant-llm/Conversion/QuantLLMToCPU/Bufferization.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"
#include "quant-llm/InitAllDialects.h"
#include "quant-llm/InitAllPasses.h"
#include "quant-llm/Parser/ParseSafely.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Bytecode.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Support/ToolUtilities.h"
#include "mlir/Tools/ParseUtilities.h"
#include "mlir/Tools/Plugins/DialectPlugin.h"
#include "mlir/Tools/Plugins/PassPlugin.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/raw_ostream.h"

#include <cstdio>

using namespace mlir;

/// Reports what has no location, where MLIR would say `<unknown>:0: error`:
/// errors about options of passes as what is wrong with the command line, all
/// else, such as what is wrong with ops that lost their locations, as what is
/// wrong with the input.
static LogicalResult reportUnlocated(Diagnostic &diagnostic, StringRef input) {
  if (!isa<UnknownLoc>(diagnostic.getLocation()))
    return failure();
  StringRef place = quant_llm::isOptionError(diagnostic) ? "quant-opt"
                    : input == "-"                       ? "<stdin>"
                                                         : input;
  auto report = [place](const Diagnostic &part) {
    static constexpr const char *severities[] = {"note", "warning", "error",
                                                 "remark"};
    llvm::errs() << place << ": "
                 << severities[static_cast<unsigned>(part.getSeverity())]
                 << ": ";
    if (!isa<UnknownLoc>(part.getLocation()))
      llvm::errs() << part.getLocation() << ": ";
    llvm::errs() << part << "\n";
  };
  report(diagnostic);
  for (const Diagnostic &note : diagnostic.getNotes())
    report(note);
  return success();
}

/// The values of an option in the command line, in order.
static SmallVector<StringRef> findValues(ArrayRef<char *> arguments,
                                         StringRef option) {
  SmallVector<StringRef> values;
  for (size_t i = 1; i < arguments.size(); ++i) {
    StringRef argument = arguments[i];
    if (argument == "--")
      break;
    if (!argument.consume_front("-"))
      continue;
    argument.consume_front("-");
    if (!argument.consume_front(option))
      continue;
    if (argument.consume_front("="))
      values.push_back(argument);
    else if (argument.empty() && i + 1 < arguments.size())
      values.push_back(arguments[++i]);
  }
  return values;
}

/// What is wrong with the options of a pass that is asked for by its name,
/// where MLIR does not say which; empty if nothing is.
static std::string findRefusedPass(ArrayRef<char *> arguments) {
  for (StringRef argument : arguments.drop_front()) {
    auto [name, options] = argument.ltrim('-').split('=');
    if (!argument.starts_with("-") || options.empty() ||
        (!PassInfo::lookup(name) && !PassPipelineInfo::lookup(name)))
      continue;
    OpPassManager pm(ModuleOp::getOperationName(),
                     OpPassManager::Nesting::Implicit);
    std::string message;
    if (failed(quant_llm::parsePipeline((name + "{" + options + "}").str(), pm,
                                        message)))
      return message;
  }
  return "";
}

/// Adds the passes that the command line asks for, for the module in `input`.
static LogicalResult addPasses(PassManager &pm, const MlirOptMainConfig &config,
                               ArrayRef<char *> arguments, StringRef input) {
  // Tests look at locations.
  if (!config.shouldVerifyDiagnostics())
    pm.getContext()->getDiagEngine().registerHandler(
        [input](Diagnostic &diagnostic) {
          return reportUnlocated(diagnostic, input);
        });
  SmallVector<StringRef> pipelines = findValues(arguments, "pass-pipeline");
  StringRef pipeline = pipelines.empty() ? StringRef() : pipelines.back();
  std::string message;
  LogicalResult built =
      quant_llm::buildPipeline(pipeline, message, [&](std::string &errors) {
        ScopedDiagnosticHandler handler(
            pm.getContext(),
            [&](Diagnostic &diagnostic) { errors += diagnostic.str() + "\n"; });
        return config.setupPassPipeline(pm);
      });
  if (succeeded(built)) {
    message = quant_llm::findUnknownAnchor(pm, pm.getContext());
    if (message.empty())
      return success();
  } else if (std::string named = findRefusedPass(arguments); !named.empty()) {
    message = named;
  }
  llvm::errs() << "quant-opt: error: "
               << (message.empty() ? "the passes and options of the command "
                                     "line are wrong"
                                   : message)
               << "; 'quant-opt --help' lists all\n";
  return failure();
}

/// Whether MLIR's parser survives the input, as MlirOptMain will give it; what
/// it has to say is said then.
static quant_llm::Status checkParses(const llvm::MemoryBuffer &input,
                                     const DialectRegistry &registry,
                                     const MlirOptMainConfig &config) {
  quant_llm::Status status = quant_llm::Status::success();
  auto parsePiece = [&](std::unique_ptr<llvm::MemoryBuffer> piece,
                        raw_ostream &) {
    // The pieces behind one that fails come all the same.
    if (!status.ok())
      return failure();
    // One thread, because only its faults are caught.
    MLIRContext context(registry, MLIRContext::Threading::DISABLED);
    context.allowUnregisteredDialects(config.shouldAllowUnregisteredDialects());
    ScopedDiagnosticHandler silent(&context,
                                   [](Diagnostic &) { return success(); });
    StringRef source = piece->getBuffer();
    // Parsing twice takes time.
    if (!quant_llm::mayFaultParser(source)) {
      status = quant_llm::checkSource(source);
      return success(status.ok());
    }
    auto sources = std::make_shared<llvm::SourceMgr>();
    sources->AddNewSourceBuffer(std::move(piece), llvm::SMLoc());
    status = quant_llm::parseSafely(source, [&] {
      (void)parseSourceFileForTool(
          sources, ParserConfig(&context, config.shouldVerifyOnParsing()),
          !config.shouldUseExplicitModule());
    });
    return success(status.ok());
  };
  llvm::raw_null_ostream ignored;
  (void)splitAndProcessBuffer(
      llvm::MemoryBuffer::getMemBuffer(input.getMemBufferRef(),
                                       /*RequiresNullTerminator=*/false),
      parsePiece, ignored, config.inputSplitMarker());
  return status;
}

/// Whether there are the plugins without which MLIR goes on after a message.
static quant_llm::Status checkPlugins(ArrayRef<char *> arguments) {
  auto check = [&](StringRef option, auto load) {
    for (StringRef file : findValues(arguments, option))
      if (auto plugin = load(file.str()); !plugin)
        return quant_llm::Status::error(
            ("--" + option + ": " + llvm::toString(plugin.takeError()) +
             "; expected a plugin of MLIR " LLVM_VERSION_STRING)
                .str());
    return quant_llm::Status::success();
  };
  quant_llm::Status status = check("load-dialect-plugin", DialectPlugin::load);
  return status.ok() ? check("load-pass-plugin", PassPlugin::load) : status;
}

/// Whether the log of --log-actions-to can be written, without which MLIR goes
/// on after a message. Nothing is written yet.
static quant_llm::Status checkLog(StringRef log, StringRef input) {
  namespace fs = llvm::sys::fs;
  auto fail = [&](const llvm::Twine &message) {
    return quant_llm::Status::error(("--log-actions-to: " + message).str());
  };
  if (log.empty() || log == "-")
    return quant_llm::Status::success();
  bool isThere = fs::exists(log);
  if (isThere && input != "-" && fs::equivalent(log, input))
    return fail("expected a file for the log but got the input, '" + log +
                "'; choose another name");
  int file;
  if (std::error_code error =
          fs::openFileForWrite(log, file, fs::CD_OpenAlways, fs::OF_Append))
    return fail("cannot write '" + log + "': " + error.message());
  (void)llvm::sys::Process::SafelyCloseFileDescriptor(file);
  if (!isThere)
    (void)fs::remove(log);
  return quant_llm::Status::success();
}

/// MlirOptMain with a look at the input before MLIR reads it.
static LogicalResult run(int argc, char **argv, DialectRegistry &registry) {
  auto fail = [&](const llvm::Twine &message) {
    llvm::errs() << "quant-opt: error: " << message << "\n";
    return failure();
  };
  SmallVector<char *> arguments = quant_llm::addDiagnosticDefaults(argc, argv);
  if (quant_llm::Status status = checkPlugins(arguments); !status.ok())
    return fail(status.message());
  std::string header =
      registerCLIOptions("quant-llm modular optimizer driver\n", registry);
  llvm::cl::opt<std::string> inputName(llvm::cl::Positional,
                                       llvm::cl::desc("<input file>"),
                                       llvm::cl::init("-"));
  llvm::cl::opt<std::string> outputName("o", llvm::cl::desc("Output file"),
                                        llvm::cl::value_desc("file"),
                                        llvm::cl::init("-"));
  if (!quant_llm::readCommandLine("quant-opt", arguments, header))
    return failure();
  MlirOptMainConfig config = MlirOptMainConfig::createFromCLOptions();
  if (config.shouldShowDialects() || config.shouldListPasses())
    return MlirOptMain(argc, argv, inputName, outputName, registry);
  if (inputName == "-" &&
      llvm::sys::Process::FileDescriptorIsDisplayed(fileno(stdin)))
    llvm::errs() << "(reading from the terminal; end with ctrl-d)\n";
  std::string message;
  auto input = openInputFile(inputName, &message);
  if (!input)
    return fail(message);
  quant_llm::Status log =
      checkLog(config.getDebugConfig().getLogActionsTo(), inputName);
  if (!log.ok())
    return fail(log.message());
  quant_llm::Status status = checkParses(*input, registry, config);
  if (!status.ok()) {
    llvm::errs() << inputName << ": error: " << status.message() << "\n";
    return failure();
  }
  MlirOptMainConfig given = config;
  config.setPassPipelineSetupFn(
      [&, input = StringRef(inputName)](PassManager &pm) {
        return addPasses(pm, given, arguments, input);
      });
  std::string text;
  llvm::raw_string_ostream stream(text);
  // Files that passes write are no use without the module. With
  // --mlir-pass-pipeline-crash-reproducer the passes run on another thread.
  quant_llm::FileTransaction files(quant_llm::FileTransaction::Scope::Process);
  auto output = quant_llm::OutputText::open(outputName, "model.mlir");
  if (!output.ok())
    return fail(output.message());
  LogicalResult result =
      MlirOptMain(stream, std::move(input), registry, config);
  // What was printed before the failure is for those who look.
  if (failed(result) && !output->isStream())
    return failure();
  if (quant_llm::Status written = output->write(text); !written.ok())
    return fail(written.message());
  if (failed(result))
    return failure();
  if (quant_llm::Status kept = files.commit(); !kept.ok())
    return fail(kept.message());
  return success();
}

int main(int argc, char **argv) {
  quant_llm::reportLostOutput("quant-opt");
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
