//===- quant-run.cpp - Run a function of a module on tensors --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../CommandLine.h"
#include "../Diagnostics.h"

#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Runtime/CPU/CpuEngine.h"
#include "quant-llm/Runtime/CPU/Npy.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Parallel.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/raw_ostream.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <unistd.h>
#include <utility>

using namespace quant_llm;
namespace cl = llvm::cl;

namespace {

/// The options, made in main(): the shared LLVM brings global options of its
/// own, one of them called `threads`, which must be gone by then.
struct Options {
  cl::OptionCategory category{"Options of quant-run"};
  cl::opt<std::string> inputFile{cl::Positional, cl::desc("<module.mlir | ->"),
                                 cl::cat(category)};
  cl::opt<std::string> functionName{
      "function", cl::desc("Function to run; by default the only one"),
      cl::value_desc("name"), cl::cat(category)};
  cl::alias functionShort{"f", cl::desc("Alias of --function"),
                          cl::aliasopt(functionName)};
  cl::list<std::string> inputs{
      "input",
      cl::desc("One argument, in order: a .npy file, FILE.safetensors:KEY, a "
               "number for a scalar, or zeros:SHAPE such as zeros:2x3"),
      cl::value_desc("argument"), cl::cat(category)};
  cl::list<std::string> expected{
      "expect",
      cl::desc("Expected result, in order, given like --input; - skips one"),
      cl::value_desc("tensor"), cl::cat(category)};
  cl::opt<double> relativeTolerance{
      "rtol", cl::desc("Relative tolerance of --expect (default 1e-5)"),
      cl::init(1e-5), cl::cat(category)};
  cl::opt<double> absoluteTolerance{
      "atol", cl::desc("Absolute tolerance of --expect (default 1e-6)"),
      cl::init(1e-6), cl::cat(category)};
  cl::opt<double> frobeniusTolerance{
      "max-relative-error",
      cl::desc("Compare --expect by the relative Frobenius error instead"),
      cl::init(-1), cl::cat(category)};
  cl::list<std::string> outputs{
      "output",
      cl::desc("Where to write a result, in order: FILE.npy, or "
               "FILE.safetensors:NAME (the same file for several results, or "
               "others); - skips one. Instead, for all results: "
               "FILE.safetensors (names result0, result1, ...) or a directory "
               "(files 0.npy, 1.npy, ...)"),
      cl::value_desc("path"), cl::cat(category)};
  cl::opt<bool> print{"print", cl::desc("Print the results"),
                      cl::cat(category)};
  cl::opt<unsigned> repeat{
      "repeat",
      cl::desc("Measure this many runs and print min, median and max"),
      cl::init(0), cl::cat(category)};
  cl::opt<unsigned> warmup{"warmup",
                           cl::desc("Runs before measuring (default 1)"),
                           cl::init(1), cl::cat(category)};
  cl::opt<unsigned> threads{"threads",
                            cl::desc("Number of threads (default: all)"),
                            cl::init(0), cl::cat(category)};
  cl::opt<bool> reference{
      "reference", cl::desc("Use the exact reference lowering, which is slow"),
      cl::cat(category)};
  cl::opt<bool> profile{"profile",
                        cl::desc("Print the time of every kernel to stderr"),
                        cl::cat(category)};
  cl::opt<std::string> baseDirectory{
      "base-dir",
      cl::desc("Directory of archives with relative paths (default: that of "
               "the module)"),
      cl::value_desc("directory"), cl::cat(category)};
  cl::opt<bool> noCache{"no-cache",
                        cl::desc("Do not keep or use compiled objects"),
                        cl::cat(category)};
  cl::opt<std::string> cacheDirectory{
      "cache-dir",
      cl::desc("Directory of compiled objects (default "
               "$QUANT_LLM_CACHE_DIR or ~/.cache/quant-llm)"),
      cl::value_desc("directory"), cl::cat(category)};
  cl::opt<bool> verbose{"verbose", cl::desc("Print compile time and memory"),
                        cl::cat(category)};
  cl::extrahelp examples{R"(
EXAMPLES
  Run the only function of a module and print what it returns:
    quant-run model.mlir --input x.npy --print
  Compare with expected results (exit code 1 if they differ):
    quant-run model.mlir -f main --input x.npy --expect y.npy --rtol 1e-4
  Take inputs from one safetensors file and write two results to another:
    quant-run model.mlir --input in.safetensors:x --input in.safetensors:state \
      --output out.safetensors:y --output out.safetensors:state
  Time 20 runs on two threads:
    quant-run model.mlir -f forward --input tokens.npy --input zeros:30x3x512x64 \
      --input zeros:30x3x512x64 --input 0 --repeat 20 --threads 2

EXIT CODES
  0  success
  1  a result differs from the expected one
  2  wrong usage, unreadable or wrong input, failed compilation or run
)"};
};

Options *options = nullptr;

} // namespace

static int fail(const std::string &message) {
  llvm::errs() << "quant-run: error: " << message << "\n";
  return 2;
}

static bool endsWith(const std::string &text, const char *suffix) {
  size_t length = std::strlen(suffix);
  return text.size() >= length &&
         text.compare(text.size() - length, length, suffix) == 0;
}

/// `2x3` (or nothing, for rank 0) to extents.
static Result<std::vector<int64_t>> parseShape(const std::string &text) {
  std::vector<int64_t> shape;
  size_t position = 0;
  while (position < text.size()) {
    size_t end = text.find('x', position);
    if (end == std::string::npos)
      end = text.size();
    long long value = 0;
    if (llvm::StringRef(text).slice(position, end).getAsInteger(10, value) ||
        value < 0)
      return Status::error("expected a shape such as 2x3 but got '" + text +
                           "'");
    shape.push_back(value);
    position = end + 1;
  }
  return shape;
}

static Result<Tensor> makeScalar(const std::string &text, DType type) {
  auto wrong = [&](const char *kind) {
    return Status::error("expected " + std::string(kind) +
                         " for an argument "
                         "of type " +
                         std::string(elementTypeName(type)) + " but got '" +
                         text + "'");
  };
  Result<Tensor> tensor = Tensor::allocate(type, {});
  if (!tensor.ok())
    return tensor;
  const llvm::fltSemantics *semantics =
      type == DType::F64    ? &llvm::APFloat::IEEEdouble()
      : type == DType::F32  ? &llvm::APFloat::IEEEsingle()
      : type == DType::F16  ? &llvm::APFloat::IEEEhalf()
      : type == DType::BF16 ? &llvm::APFloat::BFloat()
                            : nullptr;
  if (semantics) {
    llvm::APFloat value(*semantics);
    auto read =
        value.convertFromString(text, llvm::APFloat::rmNearestTiesToEven);
    if (llvm::errorToBool(read.takeError()))
      return wrong("a number");
    // What is written as infinity is no overflow.
    if (*read & llvm::APFloat::opOverflow)
      return wrong("a number that fits");
    const uint64_t bits = value.bitcastToAPInt().getZExtValue();
    std::memcpy(tensor->data(), &bits, getByteWidth(type));
    return tensor;
  }
  unsigned bits = getBitWidth(type);
  switch (type) {
  case DType::Bool:
  case DType::I8:
  case DType::U8:
  case DType::I16:
  case DType::U16:
  case DType::I32:
  case DType::U32:
  case DType::I64:
  case DType::U64:
    break;
  default:
    return wrong("a file");
  }
  if (type == DType::Bool)
    bits = 1;
  long long value = 0;
  if (llvm::StringRef(text).getAsInteger(10, value))
    return wrong("an integer");
  // Either reading of the bits is fine, since MLIR's integers carry no sign.
  if (bits < 64 && (value < -(1ll << (bits - 1)) || value >= (1ll << bits)))
    return wrong("an integer that fits");
  std::memcpy(tensor->data(), &value, getByteWidth(type));
  return tensor;
}

/// FILE.safetensors:NAME as file and name.
static std::optional<std::pair<std::string, std::string>>
splitName(const std::string &text) {
  constexpr const char *separator = ".safetensors:";
  size_t position = text.find(separator);
  if (position == std::string::npos)
    return std::nullopt;
  size_t colon = position + std::strlen(separator) - 1;
  return std::pair(text.substr(0, colon), text.substr(colon + 1));
}

static Result<Tensor> readTensorFile(const std::string &text) {
  if (endsWith(text, ".npy"))
    return readNpy(text);
  if (auto parts = splitName(text)) {
    auto file = SafetensorsFile::open(parts->first);
    if (!file.ok())
      return file.status();
    const TensorView *view = file->find(parts->second);
    if (!view) {
      std::string known;
      for (const TensorView &tensor : file->tensors())
        known += (known.empty() ? "'" : ", '") + tensor.name + "'";
      return Status::error("'" + parts->first + "' has no tensor '" +
                           parts->second + "'; expected one of: " +
                           (known.empty() ? "(none)" : known.substr(0, 500)));
    }
    Result<Tensor> tensor = Tensor::allocate(view->dtype, view->shape);
    if (tensor.ok() && view->bytes != 0)
      std::memcpy(tensor->data(), view->data, view->bytes);
    return tensor;
  }
  return Status::error(
      "expected a .npy file, FILE.safetensors:KEY, a number or "
      "zeros:SHAPE but got '" +
      text + "'");
}

static Result<Tensor> makeInput(const std::string &text,
                                const ValueSignature &signature) {
  constexpr const char *zeros = "zeros:";
  if (text.rfind(zeros, 0) == 0) {
    Result<std::vector<int64_t>> shape =
        parseShape(text.substr(std::strlen(zeros)));
    if (!shape.ok())
      return shape.status();
    return Tensor::allocate(signature.dtype, *shape);
  }
  if (signature.isScalar && !endsWith(text, ".npy") && !splitName(text))
    return makeScalar(text, signature.dtype);
  return readTensorFile(text);
}

template <typename T>
static void printValues(const Tensor &tensor, const char *format) {
  const T *values = static_cast<const T *>(tensor.data());
  int64_t count = tensor.numElements();
  constexpr int64_t limit = 64;
  for (int64_t i = 0; i < std::min(count, limit); ++i) {
    char buffer[64];
    std::snprintf(buffer, sizeof(buffer), format, values[i]);
    llvm::outs() << (i ? ", " : "") << buffer;
  }
  if (count > limit)
    llvm::outs() << ", ...";
}

static void printTensor(size_t index, const Tensor &tensor) {
  llvm::outs() << "result " << index << ": " << tensor.describe() << " = ";
  switch (tensor.dtype()) {
  case DType::F32:
    printValues<float>(tensor, "%.9g");
    break;
  case DType::F64:
    printValues<double>(tensor, "%.17g");
    break;
  case DType::I64:
  case DType::U64:
    printValues<long>(tensor, "%ld");
    break;
  case DType::I32:
  case DType::U32:
    printValues<int>(tensor, "%d");
    break;
  case DType::I8:
    printValues<int8_t>(tensor, "%d");
    break;
  case DType::U8:
  case DType::Bool:
    printValues<uint8_t>(tensor, "%d");
    break;
  default:
    llvm::outs() << "(use --output)";
  }
  llvm::outs() << "\n";
}

static bool isDirectory(const std::string &path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

namespace {
/// Where a result goes.
struct Target {
  /// A .npy or .safetensors file; empty for nowhere.
  std::string path;
  /// The name in a .safetensors file.
  std::string name;
};
} // namespace

/// A key that is the same for all spellings of a path, also of a new file.
static std::string getIdentity(const std::string &path) {
  // What does not exist yet keeps its spelling unless it is absolute.
  std::error_code error;
  auto absolute = std::filesystem::absolute(path, error);
  if (error)
    return path;
  auto canonical = std::filesystem::weakly_canonical(absolute, error);
  return error ? absolute.lexically_normal().string() : canonical.string();
}

/// The targets of all results, as the options --output say.
static Result<std::vector<Target>> planOutputs(size_t numResults) {
  std::vector<Target> targets(numResults);
  const cl::list<std::string> &outputs = options->outputs;
  if (numResults != 0 && outputs.size() == 1) {
    const std::string &path = outputs[0];
    bool directory = isDirectory(path);
    if (!directory && endsWith(path, "/"))
      return Status::error("the directory '" + path + "' does not exist");
    if (directory || endsWith(path, ".safetensors")) {
      for (size_t i = 0; i < numResults; ++i) {
        std::string index = std::to_string(i);
        targets[i] = directory ? Target{path + "/" + index + ".npy", ""}
                               : Target{path, "result" + index};
      }
      return targets;
    }
  }
  if (outputs.size() > numResults)
    return Status::error("the function has " + std::to_string(numResults) +
                         " results but there are " +
                         std::to_string(outputs.size()) + " --output");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string &text = outputs[i];
    if (text == "-")
      continue;
    if (auto parts = splitName(text); parts && !parts->second.empty())
      targets[i] = {parts->first, parts->second};
    else if (endsWith(text, ".npy"))
      targets[i] = {text, ""};
    else
      return Status::error(
          "output " + std::to_string(i) +
          ": expected a .npy file, FILE.safetensors:NAME or -, or for all "
          "results FILE.safetensors or a directory, but got '" +
          text + "'");
  }
  return targets;
}

/// Checks that no target is the file of another or one that is read.
static Status checkTargets(const std::vector<Target> &targets,
                           const CpuEngine &engine) {
  // Every name in a file once; a .npy file has one without a name.
  std::set<std::pair<std::string, std::string>> taken;
  for (const Target &target : targets) {
    if (target.path.empty())
      continue;
    if (!taken.emplace(getIdentity(target.path), target.name).second)
      return Status::error(
          "expected different --output for different results but got '" +
          target.path + (target.name.empty() ? "" : ":" + target.name) +
          "' twice");
    if (engine.readsFile(target.path))
      return Status::error("'" + target.path +
                           "' holds parameters of the module; choose another "
                           "--output");
    std::optional<FileId> id = FileId::of(target.path);
    for (const auto *list : {&options->inputs, &options->expected})
      for (const std::string &text : *list)
        if (auto parts = splitName(text);
            id && FileId::of(parts ? parts->first : text) == id)
          return Status::error("'" + target.path +
                               "' is read by --input or --expect; choose "
                               "another --output");
  }
  return Status::success();
}

/// Writes results to one safetensors file; it appears when finish() is called.
static Result<SafetensorsWriter>
writeSafetensors(const std::string &path, const std::vector<Target> &targets,
                 const std::vector<Tensor> &results,
                 std::vector<size_t> indices) {
  // Wide elements first: all tensors are then aligned to their type.
  std::sort(indices.begin(), indices.end(), [&](size_t a, size_t b) {
    unsigned widthOfA = getByteWidth(results[a].dtype());
    unsigned widthOfB = getByteWidth(results[b].dtype());
    return widthOfA != widthOfB ? widthOfA > widthOfB : a < b;
  });
  std::vector<TensorDeclaration> declarations;
  for (size_t i : indices)
    declarations.push_back(
        {targets[i].name, results[i].dtype(), results[i].shape()});
  Result<SafetensorsWriter> writer =
      SafetensorsWriter::create(path, std::move(declarations));
  for (size_t i : indices) {
    if (!writer.ok())
      return writer;
    Status status = writer->append(targets[i].name, results[i].data(),
                                   static_cast<size_t>(results[i].numBytes()));
    if (!status.ok())
      return status;
  }
  return writer;
}

static Status writeResults(const std::vector<Target> &targets,
                           const std::vector<Tensor> &results) {
  std::map<std::string, std::vector<size_t>> files;
  for (size_t i = 0; i < results.size(); ++i)
    if (!targets[i].name.empty())
      files[getIdentity(targets[i].path)].push_back(i);
  std::vector<SafetensorsWriter> writers;
  for (auto &[identity, indices] : files) {
    std::string path = targets[indices.front()].path;
    Result<SafetensorsWriter> writer =
        writeSafetensors(path, targets, results, std::move(indices));
    if (!writer.ok())
      return writer.status();
    writers.push_back(writer.take());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    if (targets[i].path.empty() || !targets[i].name.empty())
      continue;
    if (Status status = writeNpy(targets[i].path, results[i]); !status.ok())
      return status;
  }
  for (SafetensorsWriter &writer : writers)
    if (Status status = writer.finish(); !status.ok())
      return status;
  return Status::success();
}

/// Prints the comparison; false if they differ too much.
static Result<bool> compareResult(size_t index, const Tensor &actual,
                                  const Tensor &wanted) {
  Result<TensorDifference> difference = compareTensors(
      actual, wanted, options->relativeTolerance, options->absoluteTolerance);
  if (!difference.ok())
    return difference.status().withContext("result " + std::to_string(index));
  bool equal =
      options->frobeniusTolerance >= 0
          ? difference->relativeFrobenius <= options->frobeniusTolerance
          : difference->mismatches == 0;
  char buffer[200];
  std::snprintf(buffer, sizeof(buffer),
                "result %zu: %s (relative Frobenius error %.3g, largest "
                "difference %.3g at %lld",
                index, equal ? "equal" : "DIFFERENT",
                difference->relativeFrobenius, difference->maxAbsolute,
                static_cast<long long>(difference->worst));
  llvm::outs() << buffer;
  // What was not asked for does not count.
  if (options->frobeniusTolerance < 0)
    llvm::outs() << ", " << difference->mismatches << " of "
                 << actual.numElements() << " outside tolerance";
  else
    llvm::outs() << llvm::format(", at most %.3g allowed",
                                 double(options->frobeniusTolerance));
  llvm::outs() << ")\n";
  return equal;
}

int main(int argc, char **argv) {
  reportLostOutput("quant-run", /*exitCode=*/2);
  llvm::InitLLVM init(argc, argv);
  installInterruptCleanup();
  llvm::SmallVector<cl::Option *> foreign;
  for (auto &entry : cl::getRegisteredOptions())
    if (entry.first != "help" && entry.first != "version")
      foreign.push_back(entry.second);
  for (cl::Option *option : foreign)
    option->removeArgument();
  Options parsed;
  options = &parsed;
  cl::HideUnrelatedOptions(parsed.category);
  cl::AddExtraVersionPrinter([](llvm::raw_ostream &os) {
    os << "quant-llm " QUANT_LLM_VERSION " on LLVM " LLVM_VERSION_STRING "\n";
  });
  // 1 means a difference.
  if (!readCommandLine(
          "quant-run", llvm::ArrayRef(argv, static_cast<size_t>(argc)),
          "Runs a function of an MLIR module on the CPU, times it and compares "
          "its results.\n"))
    return 2;
  if (!options->inputFile.getNumOccurrences())
    return fail("expected a module to run but got none; give its file, or - "
                "for standard input");
  if (options->threads == 0)
    if (Status setting = checkThreadSetting(); !setting.ok())
      return fail(setting.message());
  if (options->threads > kMostThreads)
    return fail("expected --threads of at most " +
                std::to_string(kMostThreads));
  if (!(options->relativeTolerance >= 0) || !(options->absoluteTolerance >= 0))
    return fail("expected --rtol and --atol of at least 0");
  if (options->frobeniusTolerance.getNumOccurrences() != 0 &&
      !(options->frobeniusTolerance >= 0))
    return fail("expected --max-relative-error of at least 0");

  CpuEngineOptions engineOptions;
  engineOptions.reference = options->reference;
  engineOptions.profile = options->profile;
  engineOptions.threads = static_cast<int>(options->threads);
  engineOptions.baseDirectory = options->baseDirectory;
  engineOptions.useCache = !options->noCache;
  engineOptions.cacheDirectory = options->cacheDirectory;
  auto loadModule = [&]() -> Result<std::unique_ptr<CpuEngine>> {
    if (options->inputFile != "-")
      return CpuEngine::fromFile(options->inputFile, engineOptions);
    std::string source;
    char buffer[1 << 16];
    for (ssize_t count; (count = read(0, buffer, sizeof(buffer))) > 0;)
      source.append(buffer, static_cast<size_t>(count));
    return CpuEngine::fromMemory(source, engineOptions, "<stdin>");
  };
  Result<std::unique_ptr<CpuEngine>> loaded = loadModule();
  if (!loaded.ok())
    return fail(loaded.message());
  CpuEngine &engine = **loaded;
  if (options->verbose)
    llvm::outs() << (engine.fromCache()
                         ? "compiled object from the cache\n"
                         : "compiled in " +
                               std::to_string(engine.compileSeconds()) +
                               " s\n");

  std::string name = options->functionName;
  if (name.empty()) {
    if (engine.functions().size() != 1)
      return fail("the module has " +
                  std::to_string(engine.functions().size()) +
                  " functions that can be called; choose one with --function");
    name = engine.functions().front().name;
  }
  const FunctionSignature *signature = engine.findFunction(name);
  if (!signature) {
    std::string known;
    for (const FunctionSignature &function : engine.functions())
      known += (known.empty() ? "" : ", ") + function.name;
    return fail("there is no function '" + name +
                "' that can be called; expected one of: " +
                (known.empty() ? "(none)" : known));
  }
  if (options->inputs.size() != signature->arguments.size()) {
    std::string types;
    for (const ValueSignature &argument : signature->arguments)
      types += (types.empty() ? "" : ", ") + argument.describe();
    return fail("function '" + name + "' expects " +
                std::to_string(signature->arguments.size()) + " --input (" +
                types + ") but got " + std::to_string(options->inputs.size()));
  }
  if (options->expected.size() > signature->results.size())
    return fail("function '" + name + "' has " +
                std::to_string(signature->results.size()) +
                " results but got " + std::to_string(options->expected.size()) +
                " --expect");
  Result<std::vector<Target>> targets = planOutputs(signature->results.size());
  if (!targets.ok())
    return fail(targets.message());
  if (Status status = checkTargets(*targets, engine); !status.ok())
    return fail(status.message());

  std::vector<Argument> arguments;
  for (size_t i = 0; i < options->inputs.size(); ++i) {
    Result<Tensor> tensor =
        makeInput(options->inputs[i], signature->arguments[i]);
    if (!tensor.ok())
      return fail("input " + std::to_string(i) + ": " + tensor.message());
    arguments.emplace_back(tensor.take());
  }
  std::vector<Tensor> wanted(options->expected.size());
  for (size_t i = 0; i < options->expected.size(); ++i) {
    if (options->expected[i] == "-")
      continue;
    Result<Tensor> tensor =
        makeInput(options->expected[i], signature->results[i]);
    if (!tensor.ok())
      return fail("expected result " + std::to_string(i) + ": " +
                  tensor.message());
    wanted[i] = tensor.take();
  }

  std::vector<Tensor> results;
  {
    Result<std::vector<Tensor>> returned = engine.invoke(name, arguments);
    if (!returned.ok())
      return fail(returned.message());
    results = returned.take();
  }
  if (options->repeat > 0) {
    // While measuring, arguments may be overwritten: copying them is not part
    // of the function.
    std::vector<Argument> measured;
    for (const Argument &argument : arguments) {
      Result<Tensor> copy = argument.tensor.clone();
      if (!copy.ok())
        return fail(copy.message());
      measured.emplace_back(copy.take(), /*inPlace=*/true);
    }
    std::vector<double> milliseconds;
    for (uint64_t i = 0; i < uint64_t(options->warmup) + options->repeat; ++i) {
      auto begin = std::chrono::steady_clock::now();
      Result<std::vector<Tensor>> returned = engine.invoke(name, measured);
      auto end = std::chrono::steady_clock::now();
      if (!returned.ok())
        return fail(returned.message());
      if (i >= options->warmup)
        milliseconds.push_back(
            std::chrono::duration<double, std::milli>(end - begin).count());
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    size_t count = milliseconds.size();
    double median =
        (milliseconds[(count - 1) / 2] + milliseconds[count / 2]) / 2;
    char buffer[200];
    std::snprintf(buffer, sizeof(buffer),
                  "time in ms of %zu runs: min %.4f, median %.4f, max %.4f\n",
                  count, milliseconds.front(), median, milliseconds.back());
    llvm::outs() << buffer;
  }
  if (options->print)
    for (size_t i = 0; i < results.size(); ++i)
      printTensor(i, results[i]);
  bool allEqual = true;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (options->expected[i] == "-")
      continue;
    Result<bool> equal = compareResult(i, results[i], wanted[i]);
    if (!equal.ok()) {
      llvm::outs().flush();
      llvm::errs() << "quant-run: " << equal.message() << "\n";
      allEqual = false;
      continue;
    }
    allEqual &= *equal;
  }
  if (!options->outputs.empty()) {
    Status written = writeResults(*targets, results);
    if (!written.ok())
      return fail(written.message());
  }
  if (options->verbose)
    llvm::outs() << "peak memory of temporaries and results: "
                 << getRuntimeMemoryUse().peak << " bytes\n";
  return allEqual ? 0 : 1;
}
