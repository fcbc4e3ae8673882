//===- KernelHarness.h - Random linear layers, compiled and run -*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Used by the tests and by the benchmark of the CPU kernels. The values of
// codes are computed here from the definitions of the formats, independently of
// what the kernels and the numerics library do.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_UNIT_CONVERSION_KERNELHARNESS_H
#define QUANT_LLM_TEST_UNIT_CONVERSION_KERNELHARNESS_H

#include "quant-llm/Conversion/QuantLLMToCPU/KernelEmitter.h"

#include "mlir/ExecutionEngine/ExecutionEngine.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace quant_llm::testing {

/// A memref argument of rank 1 to 6, as the C interface of MLIR passes it.
struct Buffer {
  Buffer(void *data, std::vector<int64_t> sizes,
         std::vector<int64_t> strides = {});
  std::vector<int64_t> words;
};

/// The function `kernel` of a module, compiled for this machine.
class Compiled {
public:
  /// Lowers `module` (destroyed by it) and compiles it. Returns null after
  /// printing the error.
  static std::unique_ptr<Compiled> create(mlir::ModuleOp module,
                                          unsigned optLevel, bool openMP);
  void run(const std::vector<Buffer *> &arguments);
  double seconds = 0;

private:
  std::unique_ptr<mlir::ExecutionEngine> engine;
  void (*function)(void **) = nullptr;
};

/// A context with all that kernels need.
std::unique_ptr<mlir::MLIRContext> makeContext();

/// How a random linear layer looks.
struct LayerConfig {
  int64_t n = 1, k = 1;
  /// Per weight: null dense type of "int4" and so on, or "f32", "f16", "bf16".
  std::vector<std::string> elements{"int4"};
  int64_t blockN = 1, blockK = -1;
  std::string scale = "f16";
  /// none, int, or a scale type.
  std::string zero = "none";
  std::string input = "f32", result = "f32";
  /// Adds a bias and a residual; with two weights silu(acc0) * acc1 before.
  bool epilogue = false;
  unsigned vectorBits = 0;
  int64_t fewTokens = 0, rowsPerPass = 0, tokensPerPass = 0, panelDepth = 0;
  int64_t prefetchBytes = 0;

  std::string toString() const;
};

/// A random layer, its kernel and its exact values.
class Layer {
public:
  /// `copies` weights in memory, for measurements out of cache.
  static std::unique_ptr<Layer> create(mlir::MLIRContext &context,
                                       const LayerConfig &config, unsigned seed,
                                       unsigned optLevel, bool openMP,
                                       int64_t copies = 1,
                                       bool printIR = false);
  /// y (result type, row stride ldy) of m rows of x (input type, row stride
  /// ldx).
  void run(int64_t m, void *x, int64_t ldx, void *y, int64_t ldy,
           int64_t copy = 0);
  /// Runs with random input and returns max |y - reference| / max |reference|,
  /// with the rounding of a narrow result type taken off.
  double check(int64_t m, unsigned seed);
  /// Runs with random input in which each row has one of infinity, minus
  /// infinity, NaN and both infinities, and returns the number of results that
  /// are not those of IEEE arithmetic on the weights (of a layer without
  /// epilogue).
  int64_t countWrongInfinities(int64_t m, unsigned seed);
  int64_t weightBytes() const;

  LayerConfig config;
  LinearKernelSpec spec;
  std::unique_ptr<Compiled> kernel;
  /// The weights as float64.
  std::vector<std::vector<double>> exact;

private:
  struct Stored {
    std::vector<uint8_t> data;
    std::vector<int64_t> shape;
  };
  std::vector<Stored> parameters;
  std::vector<std::vector<std::vector<uint8_t>>> extraCopies;
  std::vector<float> bias;
  std::vector<float> residual;
  std::unique_ptr<mlir::Block> epilogue;
};

} // namespace quant_llm::testing

#endif // QUANT_LLM_TEST_UNIT_CONVERSION_KERNELHARNESS_H
