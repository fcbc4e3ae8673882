//===- Compile.cpp --------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Compile.h"

#include "Epilogue.h"

#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Support/AtomicFile.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace quant_llm;
using namespace quant_llm::bench;

namespace fs = std::filesystem;

extern char **environ;

/// Keys of the weights: of a layer, or of a gated pair.
static std::vector<std::string> getWeightNames(const Epilogue &epilogue) {
  if (epilogue.isGated())
    return {"gate", "up"};
  return {"w"};
}

/// n * k random numbers under the scheme.
static Result<QuantizedMatrix> makeWeight(const Scheme &scheme, int64_t n,
                                          int64_t k, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(n * k));
  uint64_t state = seed * 2 + 1;
  for (float &value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    // The sum of two uniform numbers, of the size of a trained layer's.
    double sum = static_cast<double>(state >> 48) / 65536 +
                 static_cast<double>(state >> 32 & 0xffff) / 65536 - 1;
    value = static_cast<float>(0.05 * sum);
  }
  MatrixView matrix{values.data(), SourceType::F32, n, k};
  return quantize(matrix, scheme, "w", 0);
}

/// An archive with random weights of these names.
static Status writeWeights(const std::string &path, const Scheme &scheme,
                           const std::vector<std::string> &names, int64_t n,
                           int64_t k, uint64_t seed) {
  std::vector<ComponentInfo> components = getComponents(scheme, n, k);
  std::vector<TensorDeclaration> tensors;
  for (const std::string &name : names)
    for (const ComponentInfo &info : components)
      tensors.push_back({name + info.suffix,
                         info.isBytes ? DType::U8 : getDType(info.type),
                         {info.rows, info.columns}});
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(path, tensors);
  if (!writer.ok())
    return writer.status();
  for (size_t i = 0; i < names.size(); ++i) {
    Result<QuantizedMatrix> quantized =
        makeWeight(scheme, n, k, seed + 0x10000 * i);
    if (!quantized.ok())
      return quantized.status();
    for (size_t j = 0; j < components.size(); ++j) {
      const std::vector<uint8_t> &bytes = quantized->get(components[j].kind);
      Status status = writer->append(tensors[i * components.size() + j].name,
                                     bytes.data(), bytes.size());
      if (!status.ok())
        return status;
    }
  }
  return writer->finish();
}

/// The scheme as attribute. Nested ones have a longer name there than in
/// schemeName, and numbers of a codebook must not look like integers.
static std::string getSchemeAttribute(const Scheme &scheme) {
  std::string text = schemeName(scheme);
  if (scheme.scaleScheme) {
    std::string inner = "scheme<" + schemeName(*scheme.scaleScheme) + ">";
    text.replace(text.find(inner), inner.size(),
                 getSchemeAttribute(*scheme.scaleScheme));
  }
  if (scheme.element.kind == ElementKind::Codebook) {
    std::string element =
        "codebook<" + std::to_string(scheme.element.bits) + ", [";
    for (size_t i = 0; i < scheme.element.table.size(); ++i) {
      char number[32];
      std::snprintf(number, sizeof(number), "%s%.9e", i ? ", " : "",
                    static_cast<double>(scheme.element.table[i]));
      element += number;
    }
    text.replace(0, elementName(scheme.element).size(), element + "]>");
  }
  return "#quant_llm.scheme<" + text + ">";
}

static std::string getModule(const Case &given, const Scheme &scheme,
                             const Epilogue &epilogue) {
  std::string n = std::to_string(given.n), k = std::to_string(given.k);
  std::string rows =
      std::to_string(std::max<int64_t>(given.experts, 1) * given.n);
  std::string weight = "!quant_llm.weight<" + rows + "x" + k + "x" +
                       given.activation + ", #scheme>";
  std::string x = "tensor<?x" + k + "x" + given.activation + ">";
  std::string y = "tensor<?x" + n + "x" + given.activation + ">";
  std::string name = "linear_" + n + "_" + k, arguments, offsets;
  if (given.experts) {
    std::string type = "tensor<" + std::to_string(given.experts + 1) + "xi32>";
    name = "grouped_" + name;
    arguments = ", %offsets: " + type;
    offsets = " offsets(%offsets : " + type + ")";
  }
  std::string parameters, values, operands, types = x;
  for (const std::string &key : getWeightNames(epilogue)) {
    parameters +=
        "quant_llm.parameter @" + key + " from @weights : " + weight + "\n";
    values += "  %" + key + " = quant_llm.get_parameter @" + key + " : " +
              weight + "\n";
    operands += ", %" + key;
    types += ", " + weight;
  }
  std::string region, regionOperands, regionTypes;
  int numOperands = 0;
  for (const Epilogue::Step &step : epilogue.steps) {
    bool isBias = step.kind == Epilogue::Kind::Bias;
    if (!isBias && step.kind != Epilogue::Kind::Residual)
      continue;
    std::string comma = regionOperands.empty() ? "" : ", ";
    std::string operand = "%e" + std::to_string(numOperands++);
    std::string type =
        isBias ? "tensor<" + rows + "x" + given.activation + ">" : y;
    arguments += ", " + operand + ": " + type;
    regionOperands += comma + operand;
    regionTypes += comma + type;
  }
  if (!epilogue.steps.empty())
    region = " epilogue" +
             (regionOperands.empty()
                  ? ""
                  : "(" + regionOperands + " : " + regionTypes + ")") +
             " {\n" + getEpilogueBlock(epilogue, given.activation) + "  }";
  return "#scheme = " + getSchemeAttribute(scheme) +
         "\nquant_llm.archive @weights \"weights.safetensors\"\n" + parameters +
         "func.func @" + name + "(%x: " + x + arguments + ") -> " + y + " {\n" +
         values + "  %y = quant_llm." +
         (given.experts ? "grouped_linear" : "linear") + " %x" + operands +
         offsets + region + " : (" + types + ") -> " + y +
         "\n  return %y : " + y + "\n}\n";
}

/// quant-opt: as asked for, beside this program, or a name for PATH.
static std::string findCompiler(const Options &options) {
  if (!options.compiler.empty())
    return options.compiler;
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  fs::path sibling = self.parent_path() / "quant-opt";
  return !error && fs::exists(sibling, error) ? sibling.string() : "quant-opt";
}

/// The compiler that runs, if one does.
static std::atomic<pid_t> compiler;
/// A signal ends this program: nothing more is to be done or said.
static std::atomic<bool> ending;

void bench::stopCompiler(int signal) {
  ending = true;
  pid_t child = compiler;
  if (child == 0)
    return;
  ::kill(child, signal);
  siginfo_t info;
  (void)::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
}

Status bench::compileCase(const Case &given, const Options &options,
                          const std::string &directory) {
  Result<Scheme> scheme = parseScheme(given.scheme);
  if (!scheme.ok())
    return scheme.status();
  Result<Epilogue> epilogue = parseEpilogue(given.epilogue);
  if (!epilogue.ok())
    return epilogue.status();
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    return Status::error("cannot create '" + directory +
                         "': " + error.message());
  Status status = writeWeights(
      (fs::path(directory) / "weights.safetensors").string(), *scheme,
      getWeightNames(*epilogue), std::max<int64_t>(given.experts, 1) * given.n,
      given.k, static_cast<uint64_t>(options.seed));
  if (!status.ok())
    return status;
  std::string module = (fs::path(directory) / "model.mlir").string();
  std::string text = getModule(given, *scheme, *epilogue);
  status = writeFileAtomically(module, text.data(), text.size());
  if (!status.ok())
    return status;
  std::vector<std::string> command = {
      findCompiler(options),
      module,
      "--quant-llm-prepack=output=" +
          (fs::path(directory) / "packed.safetensors").string(),
      "--quant-llm-to-gpu=chip=" + options.chip + " output=" + directory,
      "-o",
      (fs::path(directory) / "compiled.mlir").string()};
  std::vector<char *> arguments;
  for (std::string &argument : command)
    arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  // Signals that this program blocks are not blocked there.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child;
  int code = ::posix_spawnp(&child, arguments[0], nullptr, &attributes,
                            arguments.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  if (code != 0)
    return Status::error("cannot run '" + command[0] +
                         "': " + std::strerror(code) + "; see --compiler");
  compiler = child;
  // Reaped below, so that its number remains its own until it is forgotten.
  siginfo_t info = {};
  while (::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) <
             0 &&
         errno == EINTR)
    ;
  // A terminal sends its signals to both programs; the thread that watches for
  // them here may be the last to hear of one.
  if (info.si_code == CLD_KILLED)
    for (int i = 0; i < 100 && !ending; ++i)
      ::usleep(10000);
  while (ending)
    ::pause();
  compiler = 0;
  int result = 0;
  while (::waitpid(child, &result, 0) < 0)
    if (errno != EINTR)
      return Status::error(std::string("cannot wait for the compiler: ") +
                           std::strerror(errno));
  if (!WIFEXITED(result) || WEXITSTATUS(result) != 0)
    return Status::error("'" + command[0] + "' could not compile '" + module +
                         "'; its messages are above");
  return Status::success();
}
