//===- Options.cpp --------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Options.h"

#include "Epilogue.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Support/Json.h"
#include "quant-llm/Support/MappedFile.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>

using namespace quant_llm;
using namespace quant_llm::bench;
using nlohmann::json;

const char *bench::getUsage() {
  return R"(usage: quant-bench [options] [DIR...]

Verifies and times linear layers on an NVIDIA GPU. Needs its driver and nothing
else. A layer whose numbers are wrong is not timed. Launches of one may start
while the launch before ends ('us'), as they do in a model whose weights the
runtime holds; 'plain us' (us_plain in JSON) is the time where each starts when
the one before has ended, as those of cuBLAS and of the read limit do. 'faster'
and 'plainly' are how many times cuBLAS takes as long as the one and the other.

  DIR                 artifact of quant-llm-to-gpu: all its linears, or
  --linear NAME       this one
  --n N --k K --scheme TEXT [--act f16|bf16] [--experts E]
                      or a layer that is compiled for the occasion, with random
                      weights: --scheme 'int4, block = [1, 128], scale = f16';
                      with --experts E experts of N x K, to which tokens are
                      sent at random
      [--epilogue STEPS]
                      what is done with its sums, in this order: bias, residual
                      (added), silu, gelu, gelu_tanh, relu, scale:NUMBER; with
                      gate_silu (gate_...) first, a pair of weights, of which
                      one goes through the activation and is multiplied by the
                      other
  --cases FILE        or a JSON list of such cases: objects with artifact and
                      linear, or n, k, scheme, act, experts and epilogue; and m
                      (a list)
  --m LIST            numbers of tokens (default 1,16,64,256,1024,4096)

  --verify-only       compare the numbers, but time nothing
  --json FILE         write the results there, too
  --replays N         timed repetitions, at least 20 (default 30)
  --cublas FILE       library to compare with (default: libcublas of the system;
                      none for no comparison)
  --device N          GPU (default 0)
  --driver FILE       library of the CUDA driver
  --seed N            of the random input (default 1)

  --chip CHIP         to compile for (default sm_90a)
  --directory DIR     where to compile to (default: a temporary directory)
  --compile-only      do no more; the directory can be measured elsewhere
  --compiler FILE     quant-opt (default: beside this program, or in PATH)

  --help, --version
)";
}

static Result<int64_t> parseInteger(const std::string &name,
                                    const std::string &text, int64_t low,
                                    int64_t high) {
  int64_t value = 0;
  const char *end = text.data() + text.size();
  std::from_chars_result read = std::from_chars(text.data(), end, value);
  if (read.ec != std::errc() || read.ptr != end || value < low || value > high)
    return Status::error("expected " + name + " to be an integer from " +
                         std::to_string(low) + " to " + std::to_string(high) +
                         " but got '" + text + "'");
  return value;
}

static Result<std::vector<int64_t>> parseTokens(const std::string &text) {
  std::vector<int64_t> tokens;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    Result<int64_t> m = parseInteger(
        "an element of --m", text.substr(begin, end - begin), 1, INT32_MAX);
    if (!m.ok())
      return m.status();
    tokens.push_back(*m);
    begin = end + 1;
  }
  return tokens;
}

/// Of a weight.
static constexpr int64_t maxElements = int64_t(1) << 31;

/// Rejects a case that is neither an artifact nor a problem.
static Status verifyCase(const Case &given) {
  bool hasProblem = given.n != 0 || given.k != 0 || given.experts != 0 ||
                    !given.scheme.empty() || !given.epilogue.empty();
  if (!given.artifact.empty())
    return hasProblem ? Status::error("expected either an artifact or n, k and "
                                      "a scheme, but got both")
                      : Status::success();
  if (!given.linear.empty())
    return Status::error("expected an artifact that the linear '" +
                         given.linear + "' belongs to");
  if (given.n == 0 || given.k == 0 || given.scheme.empty())
    return Status::error("expected an artifact, or n, k and a scheme");
  // Kernels count bytes in 32 bits, and the random weights are made in f32.
  int64_t experts = std::max<int64_t>(given.experts, 1);
  if (given.n > maxElements / given.k ||
      experts > maxElements / (given.n * given.k))
    return Status::error(
        "expected a weight of at most " + std::to_string(maxElements) +
        " elements but got " +
        (given.experts ? std::to_string(given.experts) + " x " : "") +
        std::to_string(given.n) + " x " + std::to_string(given.k));
  Result<Scheme> scheme = parseScheme(given.scheme);
  Status status = scheme.ok()
                      ? verifyScheme(*scheme, experts * given.n, given.k)
                      : scheme.status();
  if (!status.ok())
    return status.withContext("scheme");
  if (given.activation != "f16" && given.activation != "bf16")
    return Status::error("expected f16 or bf16 as activation but got '" +
                         given.activation + "'");
  return parseEpilogue(given.epilogue).status();
}

/// One object of --cases.
static Result<Case> parseCase(const json &value,
                              const std::vector<int64_t> &tokens) {
  if (!value.is_object())
    return Status::error(std::string("expected an object but got ") +
                         value.type_name());
  Case made;
  made.tokens = tokens;
  const std::map<std::string, std::string *> texts = {
      {"artifact", &made.artifact},
      {"linear", &made.linear},
      {"scheme", &made.scheme},
      {"act", &made.activation},
      {"epilogue", &made.epilogue}};
  const std::map<std::string, int64_t *> integers = {
      {"n", &made.n}, {"k", &made.k}, {"experts", &made.experts}};
  auto toInteger = [](const std::string &name,
                      const json &field) -> Result<int64_t> {
    return parseInteger("'" + name + "'", field.dump(), 1, INT32_MAX);
  };
  for (const auto &[name, field] : value.items()) {
    if (auto text = texts.find(name); text != texts.end()) {
      if (!field.is_string())
        return Status::error("expected '" + name + "' to be text but got " +
                             field.type_name());
      *text->second = field.get<std::string>();
    } else if (auto integer = integers.find(name); integer != integers.end()) {
      Result<int64_t> number = toInteger(name, field);
      if (!number.ok())
        return number.status();
      *integer->second = *number;
    } else if (name == "m" && field.is_array() && !field.empty()) {
      made.tokens.clear();
      for (const json &element : field) {
        Result<int64_t> number = toInteger(name, element);
        if (!number.ok())
          return number.status();
        made.tokens.push_back(*number);
      }
    } else if (name == "m") {
      return Status::error("expected 'm' to be a list of numbers of tokens");
    } else {
      return Status::error("expected artifact, linear, n, k, scheme, act, "
                           "experts, epilogue or m but got '" +
                           name + "'");
    }
  }
  Status status = verifyCase(made);
  if (!status.ok())
    return status;
  return made;
}

static Status readCases(const std::string &path,
                        const std::vector<int64_t> &tokens,
                        std::vector<Case> &cases) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok())
    return file.status();
  Result<json> list = parseJson(std::string_view(
      reinterpret_cast<const char *>(file->data()), file->size()));
  if (!list.ok())
    return list.status().withContext(path);
  if (!list->is_array())
    return Status::error(path + ": expected a list of cases but got " +
                         list->type_name());
  for (size_t i = 0; i < list->size(); ++i) {
    Result<Case> made = parseCase((*list)[i], tokens);
    if (!made.ok())
      return made.status().withContext(path + ": case " + std::to_string(i));
    cases.push_back(made.take());
  }
  return Status::success();
}

/// That the results replace nothing that is read.
static Status verifyResults(const Options &options,
                            const std::string &casesFile) {
  std::optional<FileId> results = FileId::of(options.json);
  if (!results)
    return Status::success();
  bool isRead = FileId::of(casesFile) == results;
  for (const Case &each : options.cases) {
    std::error_code error; // a directory that is not there is said later
    if (!each.artifact.empty())
      for (const auto &file :
           std::filesystem::directory_iterator(each.artifact, error))
        isRead |= FileId::of(file.path().string()) == results;
  }
  return isRead ? Status::error("--json: '" + options.json +
                                "' is read in this run; choose another file")
                : Status::success();
}

Result<Options> bench::parseOptions(const std::vector<std::string> &arguments) {
  Options options;
  Case given;
  std::vector<std::string> artifacts;
  std::string tokens = "1,16,64,256,1024,4096", casesFile, n, k, experts,
              device, replays, seed;
  bool hasActivation = false;
  const std::map<std::string, std::string *> texts = {
      {"--linear", &given.linear},
      {"--scheme", &given.scheme},
      {"--act", &given.activation},
      {"--epilogue", &given.epilogue},
      {"--n", &n},
      {"--k", &k},
      {"--experts", &experts},
      {"--m", &tokens},
      {"--cases", &casesFile},
      {"--json", &options.json},
      {"--replays", &replays},
      {"--cublas", &options.cublas},
      {"--device", &device},
      {"--driver", &options.driver},
      {"--seed", &seed},
      {"--chip", &options.chip},
      {"--directory", &options.directory},
      {"--compiler", &options.compiler}};
  const std::map<std::string, bool *> flags = {
      {"--compile-only", &options.compileOnly},
      {"--verify-only", &options.verifyOnly},
      {"--help", &options.help},
      {"-h", &options.help},
      {"--version", &options.version}};
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (name.empty() || name[0] != '-') {
      artifacts.push_back(name);
      continue;
    }
    std::string value;
    size_t equals = name.find('=');
    bool hasValue = equals != std::string::npos;
    if (hasValue) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (auto flag = flags.find(name); flag != flags.end()) {
      if (hasValue)
        return Status::error("expected no value for " + name);
      *flag->second = true;
      continue;
    }
    auto text = texts.find(name);
    if (text == texts.end())
      return Status::error("unknown option '" + name + "'; see --help");
    if (!hasValue) {
      if (i + 1 == arguments.size())
        return Status::error("expected a value for " + name);
      value = arguments[++i];
    }
    hasActivation |= name == "--act";
    *text->second = value;
  }
  if (options.help || options.version)
    return options;

  struct Number {
    const char *name;
    const std::string &text;
    int64_t low;
    int64_t *value;
  };
  for (const Number &number :
       {Number{"--n", n, 1, &given.n}, Number{"--k", k, 1, &given.k},
        Number{"--experts", experts, 1, &given.experts},
        Number{"--device", device, 0, &options.device},
        Number{"--replays", replays, 20, &options.replays},
        Number{"--seed", seed, 0, &options.seed}}) {
    if (number.text.empty())
      continue;
    Result<int64_t> value =
        parseInteger(number.name, number.text, number.low, INT32_MAX);
    if (!value.ok())
      return value.status();
    *number.value = *value;
  }
  Result<std::vector<int64_t>> parsedTokens = parseTokens(tokens);
  if (!parsedTokens.ok())
    return parsedTokens.status();
  given.tokens = parsedTokens.take();
  if (!casesFile.empty()) {
    Status status = readCases(casesFile, given.tokens, options.cases);
    if (!status.ok())
      return status;
  }
  bool hasProblem = !n.empty() || !k.empty() || !given.scheme.empty();
  if (hasProblem || (artifacts.empty() && casesFile.empty()))
    artifacts.push_back("");
  else if (hasActivation || given.experts || !given.epilogue.empty())
    return Status::error(std::string("expected --n, --k and --scheme with --") +
                         (hasActivation   ? "act"
                          : given.experts ? "experts"
                                          : "epilogue"));
  for (const std::string &artifact : artifacts) {
    Case made = given;
    made.artifact = artifact;
    if (!artifact.empty()) {
      made.n = made.k = made.experts = 0;
      made.scheme.clear();
      made.epilogue.clear();
    } else if (artifacts.size() > 1) {
      made.linear.clear();
    }
    Status status = verifyCase(made);
    if (!status.ok())
      return status;
    options.cases.push_back(std::move(made));
  }
  if (options.compileOnly) {
    if (options.directory.empty())
      return Status::error("expected --directory with --compile-only");
    if (!options.json.empty())
      return Status::error("expected no --json with --compile-only, which "
                           "measures nothing; leave one of them out");
    for (const Case &each : options.cases)
      if (!each.artifact.empty())
        return Status::error("expected n, k and a scheme to compile but got "
                             "the artifact '" +
                             each.artifact + "'");
  }
  if (Status status = verifyResults(options, casesFile); !status.ok())
    return status;
  return options;
}
