//===- FakeDriver.h - A CUDA driver without a GPU ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A library with the symbols of the driver that we use. Device memory is that
// of the host. A kernel file is text of the form
//     \177ELF kernel:8,4 other:128,8,4 product:8,8,8,4,8,4@48,200,32
// with the sizes of each kernel's parameters. Kernels do nothing, except those
// with N, K and group size, which have the arguments x, packed0,
// packed_scales0, output_scale0, y and m and compute the product of int4
// weights with f16 scales and f16 activations. With epilogue0 before y, too, it
// is relu(product + epilogue0), an f16 number for each row; with packed1,
// packed_scales1 and output_scale1, relu(product 0) * product 1. Of PTX only
// the names of the kernels are read.
//
// Between two events there is 1 ms, or 0.75 if the last launch overlaps.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_FAKEDRIVER_H
#define QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_FAKEDRIVER_H

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct FakeLaunch {
  std::string kernel;
  unsigned grid[3];
  unsigned threads;
  unsigned sharedBytes;
  unsigned cluster;
  bool overlaps;
  void *stream;
  /// The bytes of every argument.
  std::vector<std::vector<uint8_t>> arguments;
};

struct FakeTensorMap {
  int type;
  uint64_t address;
  /// As many as the map has; the strides are of all but the first.
  std::vector<uint64_t> dims;
  std::vector<uint64_t> strides;
  std::vector<uint32_t> box;
  int swizzle;
};

/// What the driver does, and what it was asked to do.
struct FakeCuda {
  int version = 13000;
  int devices = 1;
  int major = 9;
  int minor = 0;
  int multiprocessors = 132;
  int maxThreads = 1024;
  int maxShared = 232448;
  /// What a function of this name returns instead of doing anything.
  std::map<std::string, int> failures;

  /// Whether calls are recorded.
  bool recording = true;
  std::mutex mutex;
  std::vector<std::string> calls;
  std::vector<FakeLaunch> launches;
  std::vector<FakeTensorMap> maps;
  std::map<uint64_t, std::vector<uint8_t>> allocations;
  std::map<std::string, std::map<int, int>> attributes;
  int contexts = 0;
  int modules = 0;
};

/// Symbol "fakeCudaGet": the state of the library.
using FakeCudaGet = FakeCuda *(*)();
/// Symbol "fakeCudaReset".
using FakeCudaReset = void (*)();
// Symbol "fakeCudaOverlaps", for Python: whether the last launch overlaps the
// one before it (0 or 1), or -1 if there was none.

#endif // QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_FAKEDRIVER_H
