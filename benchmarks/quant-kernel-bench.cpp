//===- quant-kernel-bench.cpp - Check and time one CPU kernel -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// quant-kernel-bench n=576 k=576 elements=int4 block=1,64 m=1,512 threads=1,2
// quant-kernel-bench attention=64 groups=3,3 length=512 m=1,512
//   the two products of attention: head size, heads of the cache and queries
//   per head, rows of the cache. prints error, microseconds (best, in cache and
//   out of it), GFLOP/s and GB/s.
// As a shared library it serves benchmarks/kernels.py.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>

using namespace quant_llm::testing;

static std::vector<std::string> split(const std::string &text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');)
    parts.push_back(part);
  return parts;
}

namespace {
struct Options {
  LayerConfig config;
  std::vector<int64_t> tokens{1, 512}, threads{1, 2};
  int64_t check = 1, cold = 1, opt = 3, print = 0, omp = 1;
  double seconds = 0.5;
  int64_t attention = 0, length = 512;
  std::vector<int64_t> groups{3, 3};

  bool parse(const std::string &argument) {
    size_t equals = argument.find('=');
    if (equals == std::string::npos)
      return false;
    std::string key = argument.substr(0, equals),
                value = argument.substr(equals + 1);
    auto integers = [&] {
      std::vector<int64_t> list;
      for (const std::string &part : split(value))
        list.push_back(std::atoll(part.c_str()));
      return list;
    };
    int64_t number = std::atoll(value.c_str());
    if (key == "elements") {
      config.elements = split(value);
      return true;
    }
    if (key == "block" && integers().size() == 2) {
      config.blockN = integers()[0];
      config.blockK = integers()[1];
      return true;
    }
    if (key == "groups" && integers().size() == 2) {
      groups = integers();
      return true;
    }
    if (key == "m" || key == "threads") {
      (key == "m" ? tokens : threads) = integers();
      return true;
    }
    if (key == "seconds") {
      seconds = std::atof(value.c_str());
      return true;
    }
    std::pair<const char *, std::string *> strings[] = {
        {"scale", &config.scale},
        {"zero", &config.zero},
        {"input", &config.input},
        {"result", &config.result}};
    for (auto &[name, target] : strings)
      if (key == name) {
        *target = value;
        return true;
      }
    if (key == "epilogue") {
      config.epilogue = number;
      return true;
    }
    if (key == "bits") {
      config.vectorBits = number;
      return true;
    }
    std::pair<const char *, int64_t *> numbers[] = {
        {"n", &config.n},
        {"k", &config.k},
        {"few", &config.fewTokens},
        {"rows", &config.rowsPerPass},
        {"tpp", &config.tokensPerPass},
        {"depth", &config.panelDepth},
        {"prefetch", &config.prefetchBytes},
        {"attention", &attention},
        {"length", &length},
        {"check", &check},
        {"cold", &cold},
        {"opt", &opt},
        {"print", &print},
        {"omp", &omp}};
    for (auto &[name, target] : numbers)
      if (key == name) {
        *target = number;
        return true;
      }
    return false;
  }
};
} // namespace

/// Loads the library of the kernels' threads, or finds it loaded. PyTorch
/// brings another OpenMP, so a look-up by name alone would not do.
static void *openMP() {
  return dlopen(QUANT_LLM_OPENMP_LIBRARY, RTLD_NOW | RTLD_GLOBAL);
}

static void setThreads(int threads) {
  if (void *library = openMP())
    if (void *symbol = dlsym(library, "omp_set_num_threads"))
      reinterpret_cast<void (*)(int)>(symbol)(threads);
}

extern "C" {
/// A layer from the space-separated options, or null.
void *quantKernelCreate(const char *text) {
  static auto *context = makeContext().release();
  Options options;
  std::stringstream stream(text);
  for (std::string part; stream >> part;)
    if (!options.parse(part)) {
      std::fprintf(stderr, "unknown option %s\n", part.c_str());
      return nullptr;
    }
  openMP();
  return Layer::create(*context, options.config, 1, options.opt, options.omp,
                       options.cold)
      .release();
}
double quantKernelCheck(void *layer, int64_t m) {
  return static_cast<Layer *>(layer)->check(m, 2);
}
double quantKernelSeconds(void *layer) {
  return static_cast<Layer *>(layer)->kernel->seconds;
}
int64_t quantKernelBytes(void *layer) {
  return static_cast<Layer *>(layer)->weightBytes();
}
/// The weight as f32.
void quantKernelWeight(void *layer, float *out) {
  for (double value : static_cast<Layer *>(layer)->exact[0])
    *out++ = float(value);
}
void quantKernelRun(void *layer, int64_t m, float *x, float *y, int64_t copy) {
  auto *self = static_cast<Layer *>(layer);
  self->run(m, x, self->config.k, y, self->config.n, copy);
}
void quantKernelThreads(int threads) { setThreads(threads); }
void quantKernelDestroy(void *layer) { delete static_cast<Layer *>(layer); }
}

static double now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

static double best(double seconds, int64_t repeat,
                   llvm::function_ref<void()> run) {
  double least = 1e30;
  for (double end = now() + seconds; now() < end;) {
    double start = now();
    for (int64_t i = 0; i < repeat; ++i)
      run();
    least = std::min(least, (now() - start) / repeat);
  }
  return least;
}

/// Scores and values of attention: [h, r, m, k] x [h, n, k] and
/// [h, r, m, k] x [h, k, n].
static int timeAttention(mlir::MLIRContext &context, const Options &options) {
  using namespace mlir;
  for (bool scores : {true, false}) {
    quant_llm::ContractionKernelSpec spec;
    auto map = [&](llvm::ArrayRef<unsigned> dims) {
      return AffineMap::getMultiDimMapWithTargets(5, dims, &context);
    };
    auto type = [&](int64_t rank) {
      llvm::SmallVector<int64_t> strides(rank, ShapedType::kDynamic);
      strides.back() = 1;
      return MemRefType::get(
          llvm::SmallVector<int64_t>(rank, ShapedType::kDynamic),
          Float32Type::get(&context),
          StridedLayoutAttr::get(&context, ShapedType::kDynamic, strides));
    };
    spec.lhsMap = map({0, 1, 2, 4});
    spec.rhsMap = scores ? map({0, 3, 4}) : map({0, 4, 3});
    spec.outMap = map({0, 1, 2, 3});
    spec.lhsType = spec.outType = type(4);
    spec.rhsType = type(3);
    spec.vectorBits = options.config.vectorBits
                          ? options.config.vectorBits
                          : quant_llm::getHostVectorBits();
    Location loc = UnknownLoc::get(&context);
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
    auto function =
        quant_llm::emitContractionKernel(builder, loc, "kernel", spec);
    if (failed(function))
      return 1;
    (*function)->setAttr("llvm.emit_c_interface", builder.getUnitAttr());
    if (options.print)
      module->print(llvm::outs());
    auto kernel = Compiled::create(module.release(), options.opt, options.omp);
    if (!kernel)
      return 1;
    std::printf("%s: compiled in %.3f s\n", scores ? "scores" : "values",
                kernel->seconds);
    int64_t h = options.groups[0], r = options.groups[1];
    for (int64_t m : options.tokens) {
      int64_t k = scores ? options.attention : options.length;
      int64_t n = scores ? options.length : options.attention;
      std::vector<float> a(h * r * m * k, 0.5f), b(h * n * k, 0.5f),
          c(h * r * m * n);
      std::vector<int64_t> shape = scores ? std::vector<int64_t>{h, n, k}
                                          : std::vector<int64_t>{h, k, n};
      Buffer ba(a.data(), {h, r, m, k}), bb(b.data(), shape),
          bc(c.data(), {h, r, m, n});
      double flops = 2.0 * h * r * m * n * k;
      for (int64_t threads : options.threads) {
        setThreads(threads);
        double time =
            best(options.seconds, std::max<int64_t>(1, int64_t(2e7 / flops)),
                 [&] { kernel->run({&ba, &bb, &bc}); });
        std::printf("  M=%-4ld %ldT %9.2f us %7.1f GF/s\n", long(m),
                    long(threads), time * 1e6, flops / time / 1e9);
      }
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  Options options;
  for (int i = 1; i < argc; ++i)
    if (!options.parse(argv[i])) {
      std::fprintf(stderr, "unknown option %s\n", argv[i]);
      return 1;
    }
  openMP();
  auto context = makeContext();
  if (options.attention)
    return timeAttention(*context, options);
  const LayerConfig &config = options.config;
  // Enough copies of the weight to leave every cache.
  int64_t copies = 1;
  if (options.cold)
    copies = std::clamp<int64_t>((256 << 20) / (config.n * config.k), 2, 2000);
  auto layer = Layer::create(*context, config, 1, options.opt, options.omp,
                             copies, options.print);
  if (!layer)
    return 1;
  std::printf("%s: compiled in %.3f s\n", config.toString().c_str(),
              layer->kernel->seconds);
  for (int64_t m : options.tokens) {
    if (options.check)
      std::printf("  M=%-4ld error %.1e\n", long(m), layer->check(m, 2));
    std::vector<float> x(m * config.k, 0.5f), y(m * config.n);
    double flops = 2.0 * m * config.n * config.k * layer->spec.weights.size();
    double bytes = layer->weightBytes();
    for (int64_t threads : options.threads) {
      setThreads(threads);
      auto run = [&](int64_t copy) {
        layer->run(m, x.data(), config.k, y.data(), config.n, copy);
      };
      int64_t repeat = std::max<int64_t>(1, int64_t(2e7 / flops));
      double hot = best(options.seconds, repeat, [&] { run(0); });
      std::printf("  M=%-4ld %ldT hot %9.2f us %7.1f GF/s %6.1f GB/s", long(m),
                  long(threads), hot * 1e6, flops / hot / 1e9,
                  bytes / hot / 1e9);
      if (copies > 1 && m <= 16) {
        double cold = best(options.seconds, 1,
                           [&] {
                             for (int64_t copy = 0; copy < copies; ++copy)
                               run(copy);
                           }) /
                      copies;
        std::printf("  cold %9.2f us %6.1f GB/s", cold * 1e6,
                    bytes / cold / 1e9);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  return 0;
}
