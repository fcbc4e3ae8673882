//===- quant-bench.cpp - Speed of linear layers on a GPU ------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// docs/GPURuntime.md describes the method.
//
//===----------------------------------------------------------------------===//

#include "../StandardOutput.h"
#include "Compile.h"
#include "Device.h"
#include "Options.h"
#include "Verify.h"

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Runtime/CUDA/Module.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Rounding.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

using namespace quant_llm;
using namespace quant_llm::bench;
using nlohmann::json;

static std::string format(const char *pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, value);
  return text;
}

/// Routings of the tokens to experts that a time is the mean of.
static constexpr int64_t numRoutings = 8;

namespace {

/// The state of a run: the GPU, its limits, and the results.
class Bench {
public:
  explicit Bench(const Options &options) : options(options) {}

  /// Whether all cases were verified and timed.
  bool run();
  const json &getResults() const { return results; }

private:
  Status runCase(const Case &given);
  Status runLinear(const cuda::Module &module, size_t linear, int64_t m);
  Status measure(const cuda::Module &module, const cuda::Plan &plan,
                 json &record);
  Status verify(const cuda::Module &module, const cuda::Plan &plan,
                const cuda::LaunchOperands &operands, const Input &input,
                double &relativeError);
  Status prepare(const cuda::Module &module);
  Status tryPrepare(const cuda::Module &module);
  void fail(const std::string &what, const std::string &message) {
    std::fprintf(stderr, "quant-bench: error: %s: %s\n", what.c_str(),
                 message.c_str());
    failed = true;
  }

  const Options &options;
  /// The first module keeps the context alive; the order of destruction
  /// matters: modules last.
  std::vector<std::unique_ptr<cuda::Module>> modules;
  std::unique_ptr<cuda::CurrentContext> current;
  std::unique_ptr<Timer> timer;
  std::unique_ptr<MachineLimits> limits;
  std::unique_ptr<Cublas> cublas;
  double copyRate = 0;
  std::unique_ptr<Reference> reference;
  json results = json::array();
  bool failed = false;
};

} // namespace

/// Creates what measures, once the first module has opened the device: all of
/// it or nothing.
Status Bench::prepare(const cuda::Module &module) {
  Status status = tryPrepare(module);
  if (!status.ok()) {
    cublas.reset();
    limits.reset();
    timer.reset();
    current.reset();
  }
  return status;
}

Status Bench::tryPrepare(const cuda::Module &module) {
  const cuda::DeviceContext &device = module.getDevice();
  current = std::make_unique<cuda::CurrentContext>(device);
  if (!current->status().ok())
    return current->status();
  Result<std::unique_ptr<Timer>> made = Timer::create(device, options.replays);
  if (!made.ok())
    return made.status();
  timer = made.take();
  if (options.verifyOnly)
    return Status::success();
  Result<std::unique_ptr<MachineLimits>> machine =
      MachineLimits::create(*timer);
  if (!machine.ok())
    return machine.status();
  limits = machine.take();
  Result<std::unique_ptr<Cublas>> library =
      Cublas::load(options.cublas, *timer);
  if (!library.ok())
    return library.status();
  cublas = library.take();
  Result<double> rate = limits->getCopyRate();
  if (!rate.ok())
    return rate.status();
  copyRate = *rate;
  int version = device.getDriver().version;
  std::printf("%s, %d multiprocessors, %d MB of L2, CUDA %d.%d; copies at %.0f "
              "GB/s; %s\n",
              device.name.c_str(), device.multiprocessors, device.l2Bytes >> 20,
              version / 1000, version % 1000 / 10, copyRate,
              cublas ? "cuBLAS found" : "no cuBLAS to compare with");
  std::puts("us: launches that may start while the one before ends. plain us: "
            "one starts when the one before has ended, like those of cuBLAS. "
            "faster: cublas us / us; plainly: cublas us / plain us.");
  std::printf("%-24s %13s %6s %9s %19s %9s %9s %7s %9s %7s %7s %8s %9s\n",
              "linear", "N x K", "M", "us", "[min, max]", "plain us", "read us",
              "x read", "cublas us", "faster", "plainly", "TFLOP/s", "error");
  return Status::success();
}

bool Bench::run() {
  for (const Case &given : options.cases) {
    if (Status status = runCase(given); !status.ok())
      fail(given.artifact, status.message());
    // The first module keeps the context of what measures.
    while (modules.size() > (timer ? 1 : 0))
      modules.pop_back();
  }
  return !failed;
}

Status Bench::runCase(const Case &given) {
  std::shared_ptr<const cuda::Artifact> artifact;
  cuda::CudaStatus status = cuda::Artifact::open(given.artifact, {}, artifact);
  if (!status.ok())
    return status;
  cuda::Module::Options moduleOptions;
  moduleOptions.device = static_cast<int>(options.device);
  moduleOptions.driver = options.driver;
  std::unique_ptr<cuda::Module> loaded;
  status = cuda::Module::create(artifact, moduleOptions, loaded);
  if (!status.ok())
    return status;
  const cuda::Module &module = *loaded;
  modules.push_back(std::move(loaded));
  if (!timer)
    if (Status prepared = prepare(module); !prepared.ok())
      return prepared;

  const std::vector<cuda::LinearDescription> &linears =
      artifact->getManifest().linears;
  bool found = false;
  for (size_t i = 0; i < linears.size(); ++i) {
    if (!given.linear.empty() && linears[i].name != given.linear)
      continue;
    found = true;
    Result<Reference> made = Reference::create(*artifact, i);
    if (!made.ok()) {
      fail(linears[i].name, made.message());
      continue;
    }
    reference = std::make_unique<Reference>(made.take());
    for (int64_t m : given.tokens) {
      Status result = runLinear(module, i, m);
      if (!result.ok())
        fail(linears[i].name + ", m = " + std::to_string(m), result.message());
    }
  }
  if (!found)
    return Status::error(given.linear.empty()
                             ? "expected linears in the manifest"
                             : "expected a linear '" + given.linear + "'");
  return Status::success();
}

Status Bench::runLinear(const cuda::Module &module, size_t linear, int64_t m) {
  const cuda::LinearDescription &description =
      module.getArtifact().getManifest().linears[linear];
  const cuda::DeviceContext &device = module.getDevice();
  cuda::Plan plan;
  if (cuda::CudaStatus status = module.plan(linear, m, plan); !status.ok())
    return status;
  int version = device.getDriver().version;
  char config[128];
  std::snprintf(config, sizeof(config),
                "grid %ux%u, %d threads, cluster %d, %d bytes shared",
                plan.geometry.grid[0], plan.geometry.grid[1],
                static_cast<int>(plan.kernel->threads),
                static_cast<int>(plan.kernel->cluster),
                static_cast<int>(plan.kernel->sharedBytes));
  json record = {{"artifact", module.getArtifact().getPath()},
                 {"linear", description.name},
                 {"n", description.n},
                 {"k", description.k},
                 {"scheme", schemeName(description.scheme)},
                 {"act", getName(description.activation)},
                 {"output", getName(description.output)},
                 {"m", m},
                 {"experts", description.experts},
                 {"kernel", plan.kernel->name},
                 {"config", config},
                 {"gpu", device.name},
                 {"driver", std::to_string(version / 1000) + "." +
                                std::to_string(version % 1000 / 10)}};
  if (!description.isGrouped())
    record.erase("experts");
  if (!reference->getFormula().isIdentity()) {
    record["epilogue"] = reference->getFormula().getSummary();
    record["weights"] = description.weights.size();
    record["cublas_computes"] = "products without the epilogue";
  }
  Status status = measure(module, plan, record);
  if (!status.ok())
    record["error"] = status.message();
  results.push_back(record);
  return status;
}

/// y is full of NaN before, and the same bits come out twice.
Status Bench::verify(const cuda::Module &module, const cuda::Plan &plan,
                     const cuda::LaunchOperands &operands, const Input &input,
                     double &relativeError) {
  const cuda::Driver &driver = timer->getDriver();
  std::vector<uint8_t> output(plan.yBytes), again(plan.yBytes);
  for (std::vector<uint8_t> *to : {&output, &again}) {
    const std::pair<const char *, std::function<int()>> steps[] = {
        {"cuMemsetD8",
         [&] { return driver.fillBytes(operands.y.data, 0xff, plan.yBytes); }},
        {"cuCtxSynchronize", [&] { return driver.contextSynchronize(); }}};
    for (const auto &[call, step] : steps)
      if (Status status = driver.check(step(), call); !status.ok())
        return status;
    Status status = module.launch(plan, timer->getStream(), operands);
    if (status.ok())
      status = driver.check(driver.streamSynchronize(timer->getStream()),
                            "cuStreamSynchronize");
    if (status.ok())
      status = driver.check(
          driver.copyToHost(to->data(), operands.y.data, plan.yBytes),
          "cuMemcpyDtoH");
    if (!status.ok())
      return status;
  }
  Status status = reference->compare(
      input, output, static_cast<uint64_t>(options.seed), relativeError);
  if (!status.ok())
    return status.withContext("wrong numbers, not timed");
  if (output != again)
    return Status::error("wrong numbers, not timed: two launches differ");
  return Status::success();
}

/// The numbers of tokens of the experts that have any, of each routing.
static std::vector<std::vector<int64_t>>
getTokensOfExperts(const std::vector<std::vector<int32_t>> &routings) {
  std::vector<std::vector<int64_t>> result;
  for (const std::vector<int32_t> &offsets : routings) {
    result.emplace_back();
    for (size_t i = 1; i < offsets.size(); ++i)
      if (offsets[i] > offsets[i - 1])
        result.back().push_back(offsets[i] - offsets[i - 1]);
  }
  return result;
}

Status Bench::measure(const cuda::Module &module, const cuda::Plan &plan,
                      json &record) {
  const cuda::LinearDescription &linear =
      module.getArtifact().getManifest().linears[plan.linear];
  const cuda::Driver &driver = timer->getDriver();
  DeviceMemory x, y, workspace, offsets;
  // Of experts: several routings, which launches take turns with.
  std::vector<std::vector<int32_t>> routings;
  for (int64_t i = 0; linear.isGrouped() && i < numRoutings; ++i)
    routings.push_back(routeTokens(linear.experts, plan.m,
                                   static_cast<uint64_t>(options.seed) +
                                       static_cast<uint64_t>(i)));
  Input input = reference->makeInput(
      plan.m, static_cast<uint64_t>(options.seed),
      routings.empty() ? std::vector<int32_t>() : routings[0]);
  std::vector<DeviceMemory> epilogue(input.operands.size());
  std::vector<cuda::Buffer> epilogueBuffers;
  uint64_t offsetsStride = (plan.offsetsBytes + 255) / 256 * 256;
  uint64_t workspaceBytes = plan.geometry.workspaceBytes;
  Status status = x.allocate(driver, plan.xBytes);
  if (status.ok())
    status = y.allocate(driver, plan.yBytes);
  if (status.ok())
    status = workspace.allocate(driver, workspaceBytes);
  if (status.ok())
    status = offsets.allocate(driver, offsetsStride * routings.size());
  for (size_t i = 0; i < routings.size() && status.ok(); ++i) {
    std::vector<int64_t> wide(routings[i].begin(), routings[i].end());
    bool isWide = linear.offsetBytes == 8;
    status = driver.check(
        driver.copyToDevice(offsets.get() + i * offsetsStride,
                            isWide ? static_cast<const void *>(wide.data())
                                   : routings[i].data(),
                            plan.offsetsBytes),
        "cuMemcpyHtoD");
  }
  if (status.ok())
    status =
        driver.check(driver.copyToDevice(x.get(), input.x.data(), plan.xBytes),
                     "cuMemcpyHtoD");
  for (size_t i = 0; i < epilogue.size() && status.ok(); ++i) {
    const std::vector<uint8_t> &bytes = input.operands[i];
    status = epilogue[i].allocate(driver, bytes.size());
    if (status.ok())
      status = driver.check(
          driver.copyToDevice(epilogue[i].get(), bytes.data(), bytes.size()),
          "cuMemcpyHtoD");
    epilogueBuffers.push_back({epilogue[i].get(), bytes.size()});
  }
  if (status.ok() && workspaceBytes > 0)
    status = driver.check(driver.fillBytes(workspace.get(), 0, workspaceBytes),
                          "cuMemsetD8");
  if (!status.ok())
    return status;
  cuda::LaunchOperands operands;
  operands.x = {x.get(), plan.xBytes};
  operands.y = {y.get(), plan.yBytes};
  operands.workspace = {workspace.get(), workspaceBytes};
  operands.epilogue = epilogueBuffers.data();
  operands.numEpilogue = epilogueBuffers.size();
  auto routeLaunch = [&](int64_t i) {
    size_t routing = static_cast<size_t>(i) % numRoutings;
    if (linear.isGrouped())
      operands.offsets = {offsets.get() + routing * offsetsStride,
                          plan.offsetsBytes};
  };
  routeLaunch(0);
  double relativeError = 0;
  status = verify(module, plan, operands, input, relativeError);
  record["rel_error"] = relativeError;
  if (!status.ok())
    return status;
  if (options.verifyOnly) {
    std::string epilogue = reference->getFormula().getSummary();
    if (!epilogue.empty())
      epilogue = " with its epilogue (" + epilogue + ")";
    std::printf("%s, m = %lld: verified%s, relative error %.2e\n",
                linear.name.c_str(), static_cast<long long>(plan.m),
                epilogue.c_str(), relativeError);
    return Status::success();
  }

  // The tensors of a linear lie together, unless it shares one.
  const std::vector<cuda::PackedWeightFiles> &weights =
      module.getArtifact().getWeights(plan.linear);
  uint64_t begin = UINT64_MAX, end = 0, bytes = 0;
  for (const cuda::PackedWeightFiles &files : weights)
    for (const cuda::PackedTensor *tensor :
         {&files.codes, &files.scales, &files.zeros}) {
      if (tensor->source.bytes == 0)
        continue;
      begin = std::min(begin, tensor->offset);
      end = std::max(end, tensor->offset + tensor->source.bytes);
      bytes += tensor->source.bytes;
    }
  const cuda::PackedTensor &first = weights[0].codes;
  uint64_t span = (end - begin + cuda::weightAlignment - 1) /
                  cuda::weightAlignment * cuda::weightAlignment;
  // Only experts with tokens are read, and multiplied by cuBLAS.
  std::vector<std::vector<int64_t>> products = {{plan.m}};
  if (linear.isGrouped()) {
    products = getTokensOfExperts(routings);
    double active = 0;
    for (const std::vector<int64_t> &launch : products)
      active += static_cast<double>(launch.size()) / numRoutings;
    record["active_experts"] = active;
    record["tokens_per_expert"] = static_cast<double>(plan.m) / active;
    bytes = static_cast<uint64_t>(static_cast<double>(bytes) * active /
                                  static_cast<double>(linear.experts));
  }
  // Of few experts out of many, copies of all of them would be too much.
  constexpr uint64_t mostCopied = uint64_t(16) << 30;
  int64_t copies =
      std::min(timer->getNumCopies(bytes),
               std::max<int64_t>(1, static_cast<int64_t>(mostCopied / span)));
  DeviceMemory rotating;
  status = rotating.allocate(driver, span * static_cast<uint64_t>(copies));
  for (int64_t i = 0; i < copies && status.ok(); ++i)
    status = driver.check(driver.copyOnDeviceAsync(
                              rotating.get() + static_cast<uint64_t>(i) * span,
                              module.getAddress(first) - first.offset + begin,
                              end - begin, timer->getStream()),
                          "cuMemcpyDtoDAsync");
  if (status.ok())
    status = driver.check(driver.streamSynchronize(timer->getStream()),
                          "cuStreamSynchronize");
  if (!status.ok())
    return status;
  // A layer reads its weights while the one before it ends. How long it takes
  // if it does not is told, too: cuBLAS does not.
  auto launch = [&](int64_t i) -> Status {
    uint64_t at = rotating.get() + static_cast<uint64_t>(i % copies) * span;
    routeLaunch(i);
    return module.launchWithWeights(plan, timer->getStream(), operands,
                                    at - begin);
  };
  int64_t launches = std::max<int64_t>(copies, 20);
  if (linear.isGrouped())
    launches = roundUp(launches, numRoutings);
  Result<Timing> timing = timer->time(launches, launch);
  if (!timing.ok())
    return timing.status();
  operands.plain = true;
  Result<Timing> plain = plan.kernel->dependentLaunch
                             ? timer->time(launches, launch)
                             : Result<Timing>(*timing);
  if (!plain.ok())
    return plain.status();
  rotating.reset();
  Result<double> limit = limits->getReadMicroseconds(bytes);
  if (!limit.ok())
    return limit.status();
  // Of a gated pair those of both products, which cuBLAS computes as one.
  int64_t rows = linear.n * static_cast<int64_t>(weights.size());
  double flops = 2.0 * static_cast<double>(plan.m) * static_cast<double>(rows) *
                 static_cast<double>(linear.k);
  double teraflops = flops / timing->median / 1e6;
  record["copy_gbps"] = copyRate;
  record["us"] = timing->median;
  record["us_min"] = timing->min;
  record["us_max"] = timing->max;
  record["us_plain"] = plain->median;
  record["bytes"] = bytes;
  record["read_limit_us"] = *limit;
  record["tflops"] = teraflops;
  record["cublas_us"] = nullptr;
  std::string dense = "-", faster = "-", plainly = "-";
  if (cublas) {
    Result<double> time =
        cublas->getMicroseconds(rows, linear.k, products, linear.activation);
    if (!time.ok())
      return time.status();
    record["cublas_us"] = *time;
    dense = format("%.2f", *time);
    faster = format("%.2f", *time / timing->median);
    plainly = format("%.2f", *time / plain->median);
  }
  std::string shape =
      (linear.isGrouped() ? std::to_string(linear.experts) + " x " : "") +
      (weights.size() > 1 ? std::to_string(weights.size()) + " x " : "") +
      std::to_string(linear.n) + " x " + std::to_string(linear.k);
  std::string range = "[" + format("%.2f", timing->min) + ", " +
                      format("%.2f", timing->max) + "]";
  std::printf("%-24s %13s %6lld %9.2f %19s %9.2f %9.2f %7.2f %9s %7s %7s %8.1f "
              "%9.2e\n",
              linear.name.c_str(), shape.c_str(),
              static_cast<long long>(plan.m), timing->median, range.c_str(),
              plain->median, *limit, timing->median / *limit, dense.c_str(),
              faster.c_str(), plainly.c_str(), teraflops, relativeError);
  std::fflush(stdout);
  return Status::success();
}

/// A directory that vanishes with the object or with the process that a signal
/// ends, made when it is first needed.
class ScratchDirectory {
public:
  ~ScratchDirectory() { remove(); }

  /// From here on a thread waits for the signals that end a program. Other
  /// threads are to be started later.
  void watchSignals() {
    sigset_t watched;
    ::sigemptyset(&watched);
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
      struct sigaction action;
      if (::sigaction(signal, nullptr, &action) == 0 &&
          action.sa_handler != SIG_IGN) // as SIGHUP under nohup
        ::sigaddset(&watched, signal);
    }
    ::pthread_sigmask(SIG_BLOCK, &watched, nullptr);
    std::thread([this, watched] {
      int signal = 0;
      if (::sigwait(&watched, &signal) != 0)
        return;
      stopCompiler(signal);
      remove();
      // What other handlers there are comes next.
      ::pthread_sigmask(SIG_UNBLOCK, &watched, nullptr);
      ::raise(signal);
    }).detach();
  }

  Result<std::string> get() {
    std::lock_guard<std::mutex> lock(mutex);
    if (path.empty()) {
      std::error_code error;
      std::string pattern =
          (std::filesystem::temp_directory_path(error) / "quant-bench-XXXXXX")
              .string();
      if (error || !::mkdtemp(pattern.data()))
        return Status::error("cannot create a temporary directory; see "
                             "--directory");
      path = pattern;
    }
    return path;
  }

private:
  void remove() {
    std::lock_guard<std::mutex> lock(mutex);
    std::error_code ignored;
    if (!path.empty())
      std::filesystem::remove_all(path, ignored);
  }

  std::mutex mutex;
  std::string path;
};

/// Turns every problem into an artifact.
static Status compileCases(Options &options, ScratchDirectory &scratch) {
  std::string base = options.directory;
  size_t count = 0;
  for (Case &given : options.cases) {
    if (!given.artifact.empty())
      continue;
    if (base.empty()) {
      Result<std::string> made = scratch.get();
      if (!made.ok())
        return made.status();
      base = *made;
    }
    // One case has the directory for itself.
    std::string directory =
        options.cases.size() == 1 ? base : base + "/" + std::to_string(count++);
    Status status = compileCase(given, options, directory);
    if (!status.ok())
      return status;
    given.artifact = directory;
  }
  return Status::success();
}

static int run(int argc, char **argv) {
  Result<Options> options =
      parseOptions(std::vector<std::string>(argv + 1, argv + argc));
  if (!options.ok()) {
    std::fprintf(stderr, "quant-bench: error: %s\n", options.message().c_str());
    return 2;
  }
  if (options->help) {
    std::fputs(getUsage(), stdout);
    return 0;
  }
  if (options->version) {
    std::puts("quant-bench " QUANT_LLM_VERSION);
    return 0;
  }
  installInterruptCleanup();
  // The sizes are the user's.
  std::set_new_handler([] {
    std::fputs("quant-bench: error: out of memory\n", stderr);
    std::_Exit(1);
  });
  auto fail = [](const Status &status) {
    std::fprintf(stderr, "quant-bench: error: %s\n", status.message().c_str());
    return 1;
  };
  // What cannot be written is not measured first.
  std::optional<AtomicFile> record;
  if (!options->json.empty()) {
    Result<AtomicFile> file = AtomicFile::create(options->json);
    if (!file.ok())
      return fail(file.status());
    record.emplace(file.take());
  }
  ScratchDirectory scratch;
  scratch.watchSignals();
  if (Status status = compileCases(*options, scratch); !status.ok())
    return fail(status);
  if (options->compileOnly)
    return 0;
  Bench bench(*options);
  bool passed = bench.run();
  if (record) {
    std::string text =
        bench.getResults().dump(1, ' ', false, json::error_handler_t::replace) +
        "\n";
    Status status = record->write(text.data(), text.size());
    if (status.ok())
      status = record->commit();
    if (!status.ok())
      return fail(status);
  }
  return passed ? 0 : 1;
}

int main(int argc, char **argv) {
  reserveStandardOutput();
  int status = run(argc, argv);
  if (std::fflush(stdout) == 0 && !std::ferror(stdout))
    return status;
  std::fprintf(stderr, "quant-bench: error: cannot write the output: %s\n",
               std::strerror(errno));
  return status ? status : 1;
}
