//===- quant-import.cpp - From a checkpoint to MLIR
//-------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../CommandLine.h"
#include "../Diagnostics.h"
#include "../NamedValueParser.h"

#include "quant-llm/Import/Import.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>

using namespace quant_llm;
namespace cl = llvm::cl;

static cl::OptionCategory category("quant-import options");

static cl::opt<std::string> input(cl::Positional,
                                  cl::desc("<model directory or GGUF file>"),
                                  cl::cat(category));

static cl::opt<std::string> output(
    "o",
    cl::desc("the module to write, ending in .mlir; - for standard output"),
    cl::value_desc("file"), cl::cat(category));

static cl::opt<bool>
    inspect("inspect",
            cl::desc("print the configuration and the tensors, write nothing"),
            cl::cat(category));

static cl::opt<StorageType, /*ExternalStorage=*/false,
               quant_llm::NamedValueParser<StorageType>>
    blockType("dequantize-to",
              cl::desc("type for the quantized tensors of a GGUF file"),
              cl::values(clEnumValN(StorageType::F16, "f16",
                                    "half precision (default)"),
                         clEnumValN(StorageType::F32, "f32",
                                    "single precision: exact, twice "
                                    "the size")),
              cl::init(StorageType::F16), cl::cat(category));

static const char *const overview =
    "Imports a model of the Llama family (llama, mistral, qwen2, qwen3) to "
    "MLIR.\n"
    "\n"
    "The result is one function that serves prefill and decode with a KV "
    "cache, in\n"
    "upstream dialects only; weights stay outside of the IR.";

static const char *const examples =
    "EXAMPLES:\n"
    "\n"
    "  A Hugging Face model directory (config.json and safetensors):\n"
    "    quant-import path/to/model -o model.mlir\n"
    "\n"
    "  A GGUF file; writes out/model.mlir, out/model.safetensors and "
    "out/config.json:\n"
    "    quant-import model.Q4_1.gguf -o out/model.mlir\n"
    "\n"
    "  What is in a model:\n"
    "    quant-import --inspect path/to/model\n"
    "\n"
    "EXIT STATUS: 0 if all went well, 1 otherwise, with a message on standard "
    "error\n"
    "and no file written.\n";

static int fail(const std::string &message) {
  llvm::errs() << "quant-import: error: " << message << "\n";
  return 1;
}

namespace {
/// A line with percentage and remaining time, on terminals only.
class ProgressLine {
public:
  void operator()(uint64_t done, uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (done < total && now - last < std::chrono::milliseconds(100))
      return;
    last = now;
    const double seconds = std::chrono::duration<double>(now - start).count();
    const double remaining = done ? seconds * (total - done) / done : 0;
    llvm::errs() << llvm::format(
        "\rconverting weights: %3.0f%% of %.0f MB, %.0f s left ",
        total ? 100.0 * done / total : 100.0, total / 1e6, remaining);
    shown = true;
  }
  ~ProgressLine() {
    if (shown)
      llvm::errs() << "\r\033[K";
  }

private:
  std::chrono::steady_clock::time_point start =
      std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last = start;
  bool shown = false;
};
} // namespace

int main(int argc, char **argv) {
  reportLostOutput("quant-import");
  llvm::InitLLVM init(argc, argv);
  installInterruptCleanup();
  cl::HideUnrelatedOptions(category);
  cl::extrahelp moreHelp(examples);
  if (!readCommandLine("quant-import",
                       llvm::ArrayRef(argv, static_cast<size_t>(argc)),
                       overview))
    return 1;

  if (Status setting = checkThreadSetting(); !setting.ok())
    return fail(setting.message());
  if (input.empty())
    return fail(
        "expected a model directory or a GGUF file; see quant-import --help");
  if (blockType.getNumOccurrences() && llvm::sys::fs::is_directory(input))
    return fail(
        "--dequantize-to: only GGUF files have quantized tensors, but '" +
        input + "' is a directory; leave the option out");
  if (inspect) {
    if (!output.empty())
      return fail("--inspect writes nothing; leave out -o");
    Result<Checkpoint> checkpoint = openCheckpoint(input, blockType);
    if (!checkpoint.ok())
      return fail(checkpoint.message());
    for (const std::string &warning : checkpoint->warnings)
      llvm::errs() << "quant-import: warning: " << warning << "\n";
    llvm::outs() << describeCheckpoint(*checkpoint);
    return 0;
  }
  if (output.empty())
    return fail("expected an output file; give one with -o model.mlir");

  ImportOptions options;
  options.blockType = blockType;
  options.warn = [](const std::string &message) {
    llvm::errs() << "quant-import: warning: " << message << "\n";
  };
  std::optional<ProgressLine> line;
  if (llvm::sys::Process::StandardErrIsDisplayed()) {
    line.emplace();
    options.progress = [&](uint64_t done, uint64_t total) {
      (*line)(done, total);
      return Status::success();
    };
  }
  mlir::MLIRContext context;
  context.printOpOnDiagnostic(false);
  const Status status = importModel(context, input, output, options);
  line.reset();
  return status.ok() ? 0 : fail(status.message());
}
