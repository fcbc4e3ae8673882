//===- numerics_benchmark.cpp - Throughput of the quantizers --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   numerics-benchmark [--threads T] [--rows N] [--columns K] [--repeat R]
//
// Prints, for each scheme, GB/s of f16 input that quantize() and dequantize()
// process, the best and the median of R runs. Divide by T for a figure per
// core.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Granularity.h"
#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Numerics/Metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>

using namespace quant_llm;

/// Processor seconds, of all threads, of the best and of the median run.
static std::pair<double, double> measure(int64_t repeat,
                                         const std::function<void()> &body) {
  body();
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeat; ++i) {
    std::clock_t start = std::clock();
    body();
    seconds.push_back(static_cast<double>(std::clock() - start) /
                      CLOCKS_PER_SEC);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds.front(), seconds[seconds.size() / 2]};
}

[[noreturn]] static void fail(const std::string &message) {
  std::fprintf(stderr, "numerics-benchmark: %s\n", message.c_str());
  std::exit(1);
}

int main(int argc, char **argv) {
  int64_t threads = 1, rows = 2048, columns = 4096, repeat = 7;
  const struct {
    const char *name;
    int64_t *value;
  } options[] = {{"--threads", &threads},
                 {"--rows", &rows},
                 {"--columns", &columns},
                 {"--repeat", &repeat}};
  for (int i = 1; i < argc; i += 2) {
    auto *option =
        std::find_if(std::begin(options), std::end(options),
                     [&](auto &o) { return !std::strcmp(o.name, argv[i]); });
    if (option == std::end(options) || i + 1 == argc ||
        (*option->value = std::atoll(argv[i + 1])) < 1)
      fail("expected [--threads T] [--rows N] [--columns K] [--repeat R] with "
           "positive numbers");
  }

  std::vector<float> values(static_cast<size_t>(rows * columns));
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (float &value : values)
    value = normal(random);
  std::vector<uint16_t> halves(values.size());
  floatToF16(values.data(), halves.data(), values.size());
  MatrixView matrix{halves.data(), SourceType::F16, rows, columns};
  double gigabytes = static_cast<double>(halves.size()) * 2e-9;

  std::printf("f16 %lldx%lld, %lld threads; GB/s of f16 input per core, best "
              "(median)\n",
              static_cast<long long>(rows), static_cast<long long>(columns),
              static_cast<long long>(threads));
  std::printf("%-52s %16s %16s\n", "scheme", "quantize", "dequantize");
  auto report = [&](const Scheme &scheme, int64_t runs) {
    QuantizedMatrix stored;
    auto quantized = measure(runs, [&] {
      Result<QuantizedMatrix> result =
          quantize(matrix, scheme, "w", static_cast<int>(threads));
      if (!result.ok())
        fail(result.message());
      stored = result.take();
    });
    auto dequantized = measure(runs, [&] {
      Status status =
          dequantize(stored, scheme, values.data(), static_cast<int>(threads));
      if (!status.ok())
        fail(status.message());
    });
    std::string name = schemeName(scheme);
    name = name.substr(0, name.find(", rounding"));
    if (size_t table = name.find(", ["); table < name.find('>'))
      name.replace(table, name.find('>') - table, ", [...]");
    std::printf("%-52s %7.3f (%6.3f) %7.3f (%6.3f)\n", name.c_str(),
                gigabytes / quantized.first, gigabytes / quantized.second,
                gigabytes / dequantized.first, gigabytes / dequantized.second);
  };

  for (const char *name : {"int4", "int8", "int3", "uint4", "nf4", "f4E2M1FN"})
    for (int64_t group :
         {int64_t(-1), int64_t(128), int64_t(64), int64_t(32)}) {
      Scheme scheme;
      scheme.element = *parseElement(name);
      scheme.blockK = group;
      if (scheme.element.kind == ElementKind::UInt) {
        scheme.zero = ZeroKind::Integer;
        scheme.rule = ScaleRule::MinMax;
      }
      report(scheme, repeat);
    }
  Scheme scheme;
  scheme.blockK = 64;
  scheme.rounding = Rounding::HalfAway;
  scheme.rule = ScaleRule::AbsMaxFull;
  report(scheme, repeat);
  scheme = Scheme();
  scheme.blockK = 64;
  scheme.element = *parseElement("uint4");
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  report(scheme, repeat);
  scheme = Scheme();
  scheme.blockN = 64;
  scheme.blockK = 64;
  report(scheme, repeat);
  // The search for a clip, by far the slowest: fewer runs.
  int64_t searches = std::min<int64_t>(repeat, 3);
  for (const char *name : {"int4", "int8", "int3", "uint4", "nf4", "f4E2M1FN",
                           "f6E2M3FN", "f8E4M3FN"})
    for (int64_t group : {int64_t(-1), int64_t(64)}) {
      scheme = Scheme();
      scheme.element = *parseElement(name);
      scheme.blockK = group;
      scheme.rule = ScaleRule::Mse;
      if (scheme.element.kind == ElementKind::UInt)
        scheme.zero = ZeroKind::Integer;
      report(scheme, searches);
    }
  // Tables that do not fit into a register, a float zero, blocks of many rows.
  std::vector<float> codebook;
  for (int i = 0; i < 64; ++i)
    codebook.push_back(std::sinh(0.1f * static_cast<float>(i - 32)));
  scheme.element = makeCodebook(codebook);
  report(scheme, searches);
  scheme.element = *parseElement("uint4");
  scheme.zero = ZeroKind::Float;
  report(scheme, searches);
  scheme = Scheme();
  scheme.blockN = scheme.blockK = 64;
  scheme.rule = ScaleRule::Mse;
  for (const char *name : {"int4", "nf4"}) {
    scheme.element = *parseElement(name);
    report(scheme, searches);
  }

  GranularityOptions granularity;
  granularity.alpha = 1.5; // all sizes
  auto chosen = measure(repeat, [&] {
    if (!chooseGranularity(matrix, granularity, "w", static_cast<int>(threads))
             .ok())
      fail("chooseGranularity failed");
  });
  std::printf("%-52s %7.3f (%6.3f)\n", "choose granularity, 5 sizes",
              gigabytes / chosen.first, gigabytes / chosen.second);
  return 0;
}
