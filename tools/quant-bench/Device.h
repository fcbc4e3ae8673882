//===- Device.h - Timing on a GPU -------------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_DEVICE_H
#define QUANT_LLM_TOOLS_QUANTBENCH_DEVICE_H

#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Runtime/CUDA/Driver.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace quant_llm::bench {

/// Device memory, freed with the object.
class DeviceMemory {
public:
  DeviceMemory() = default;
  ~DeviceMemory() { reset(); }
  DeviceMemory(const DeviceMemory &) = delete;
  DeviceMemory &operator=(const DeviceMemory &) = delete;

  Status allocate(const cuda::Driver &driver, uint64_t bytes);
  void reset();

  cuda::DevicePointer get() const { return pointer; }

private:
  const cuda::Driver *driver = nullptr;
  cuda::DevicePointer pointer = 0;
};

/// Microseconds of one launch.
struct Timing {
  double median = 0;
  double min = 0;
  double max = 0;
};

/// Runs and times work on one stream of a device.
class Timer {
public:
  static Result<std::unique_ptr<Timer>>
  create(const cuda::DeviceContext &device, int64_t replays);
  ~Timer();
  Timer(const Timer &) = delete;
  Timer &operator=(const Timer &) = delete;

  const cuda::DeviceContext &getDevice() const { return device; }
  const cuda::Driver &getDriver() const { return device.getDriver(); }
  cuda::Stream getStream() const { return stream; }

  /// Time of one of `count` launches that are captured in one graph: over some
  /// replays, or `replays` if given.
  Result<Timing> time(int64_t count,
                      const std::function<Status(int64_t)> &launch,
                      int64_t replays = 0);

  /// How many copies of so many bytes exceed four times the L2 cache.
  int64_t getNumCopies(uint64_t bytes) const;

private:
  Timer(const cuda::DeviceContext &device, int64_t replays)
      : device(device), replays(replays) {}

  const cuda::DeviceContext &device;
  int64_t replays;
  cuda::Stream stream = nullptr;
  cuda::Event begin = nullptr, end = nullptr;
};

/// What the machine can do at best: time to read some bytes once (the best of
/// twelve launch shapes of a kernel that does nothing else), and the rate of
/// copies.
class MachineLimits {
public:
  static Result<std::unique_ptr<MachineLimits>> create(Timer &timer);
  ~MachineLimits();

  Result<double> getReadMicroseconds(uint64_t bytes);
  /// GB/s of a copy on the device, bytes read and written.
  Result<double> getCopyRate();

private:
  explicit MachineLimits(Timer &timer) : timer(timer) {}

  Timer &timer;
  cuda::ModuleHandle module = nullptr;
  std::map<int, cuda::Function> functions;
  std::map<uint64_t, double> known;
};

/// Matrix products by a cuBLAS that is found at run time.
class Cublas {
public:
  /// Null if `library` is "none", or if it is empty and there is none; an error
  /// if a library that was asked for cannot be used.
  static Result<std::unique_ptr<Cublas>> load(const std::string &library,
                                              Timer &timer);
  ~Cublas();

  /// y [m, n] = x [m, k] * w [n, k]^T with w of some random numbers: one after
  /// the other for all of some m, each with a weight of its own. Launches take
  /// turns with the lists.
  Result<double>
  getMicroseconds(int64_t n, int64_t k,
                  const std::vector<std::vector<int64_t>> &tokens,
                  TensorType type);

private:
  explicit Cublas(Timer &timer) : timer(timer) {}

  Timer &timer;
  void *handle = nullptr;
  int (*destroy)(void *) = nullptr;
  int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int,
              int, const void *, int, int, const void *, void *, int, int, int,
              int) = nullptr;
  DeviceMemory workspace;
};

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_DEVICE_H
