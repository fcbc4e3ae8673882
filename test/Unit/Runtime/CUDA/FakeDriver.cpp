//===- FakeDriver.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeDriver.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Runtime/CUDA/Driver.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <sstream>

using namespace quant_llm::cuda;

namespace {

struct Kernel {
  std::string name;
  std::vector<size_t> parameters;
  /// N, K and the group size of a product, and perhaps the number of experts.
  std::vector<size_t> shape;
};
struct LoadedModule {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

std::unique_ptr<FakeCuda> state = std::make_unique<FakeCuda>();
int theContext;
thread_local std::vector<void *> contextStack;

std::vector<size_t> readNumbers(const std::string &text) {
  std::vector<size_t> numbers;
  std::istringstream pieces(text);
  for (std::string piece; std::getline(pieces, piece, ',');)
    numbers.push_back(std::stoul(piece));
  return numbers;
}

/// What a kernel with a shape computes.
void multiply(const Kernel &kernel, void **arguments) {
  using namespace quant_llm;
  Scheme scheme;
  scheme.element = {ElementKind::Int, 4, {}};
  scheme.blockK = static_cast<int64_t>(kernel.shape[2]);
  int64_t n = static_cast<int64_t>(kernel.shape[0]);
  int64_t k = static_cast<int64_t>(kernel.shape[1]);
  size_t isGrouped = kernel.shape.size() > 3;
  int64_t experts = isGrouped ? static_cast<int64_t>(kernel.shape[3]) : 1;
  FragmentLayout layout = FragmentLayout::get(scheme, experts * n, k).take();
  auto pointer = [&](size_t i) {
    return reinterpret_cast<uint8_t *>(*static_cast<uint64_t *>(arguments[i]));
  };
  const uint16_t *x = reinterpret_cast<uint16_t *>(pointer(0));
  size_t numWeights = 1 + (kernel.parameters.size() == 9);
  // Of experts the offsets come before the epilogue's operand and y.
  size_t next = 1 + 3 * numWeights + isGrouped;
  const uint16_t *bias = nullptr;
  if (next + 2 < kernel.parameters.size())
    bias = reinterpret_cast<uint16_t *>(pointer(next++));
  uint16_t *y = reinterpret_cast<uint16_t *>(pointer(next));
  int32_t one[] = {0, *static_cast<int32_t *>(arguments[next + 1])};
  const int32_t *offsets =
      isGrouped ? reinterpret_cast<int32_t *>(pointer(4)) : one;
  auto dequantize = [&](size_t weight, int64_t row) {
    const uint8_t *packed = pointer(1 + 3 * weight);
    const uint16_t *scales =
        reinterpret_cast<uint16_t *>(pointer(2 + 3 * weight));
    float outputScale = *static_cast<float *>(arguments[3 + 3 * weight]);
    std::vector<float> weights;
    for (int64_t column = 0; column < k; ++column) {
      int code = -8;
      for (unsigned bit = 0; bit < 4; ++bit) {
        auto at = layout.getPackedBit({row, column, bit});
        code += (packed[at.byte] >> at.bit & 1) << bit;
      }
      float scale = f16ToFloat(scales[layout.getScaleIndex(row, column)]);
      weights.push_back(static_cast<float>(code) * scale * outputScale);
    }
    return weights;
  };
  for (int64_t row = 0; row < experts * n; ++row) {
    std::vector<std::vector<float>> weights;
    for (size_t weight = 0; weight < numWeights; ++weight)
      weights.push_back(dequantize(weight, row));
    for (int64_t token = offsets[row / n]; token < offsets[row / n + 1];
         ++token) {
      float sums[2] = {};
      for (size_t weight = 0; weight < numWeights; ++weight)
        for (int64_t column = 0; column < k; ++column)
          sums[weight] +=
              f16ToFloat(x[token * k + column]) * weights[weight][column];
      if (bias)
        sums[0] = std::max(0.0f, sums[0] + f16ToFloat(bias[row]));
      if (numWeights == 2)
        sums[0] = std::max(0.0f, sums[0]) * sums[1];
      y[token * n + row % n] = floatToF16(sums[0]);
    }
  }
}

constexpr int invalidValue = 1;
constexpr int notFound = 500;

/// Records a call; what it has to return if it shall fail.
int enter(const char *name) {
  std::lock_guard<std::mutex> lock(state->mutex);
  if (state->recording)
    state->calls.push_back(name);
  // A driver that neither records nor fails does not allocate.
  if (state->failures.empty())
    return 0;
  auto it = state->failures.find(name);
  return it == state->failures.end() ? 0 : it->second;
}

} // namespace

#define ENTER(name)                                                            \
  if (int code = enter(name))                                                  \
  return code

#pragma GCC visibility push(default)
extern "C" {

FakeCuda *fakeCudaGet() { return state.get(); }
void fakeCudaReset() { state = std::make_unique<FakeCuda>(); }
int fakeCudaOverlaps() {
  std::lock_guard<std::mutex> lock(state->mutex);
  return state->launches.empty() ? -1 : state->launches.back().overlaps;
}

int cuInit(unsigned) { return enter("cuInit"); }

int cuDriverGetVersion(int *version) {
  ENTER("cuDriverGetVersion");
  *version = state->version;
  return 0;
}

int cuGetErrorName(int error, const char **name) {
  *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
  return 0;
}

int cuDeviceGetCount(int *count) {
  ENTER("cuDeviceGetCount");
  *count = state->devices;
  return 0;
}

int cuDeviceGet(int *device, int ordinal) {
  ENTER("cuDeviceGet");
  *device = ordinal;
  return 0;
}

int cuDeviceGetName(char *name, int size, int) {
  ENTER("cuDeviceGetName");
  std::strncpy(name, "Fake GPU", static_cast<size_t>(size));
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int) {
  ENTER("cuDeviceGetAttribute");
  switch (static_cast<DeviceAttribute>(attribute)) {
  case DeviceAttribute::MaxThreadsPerBlock:
    *value = 1024;
    return 0;
  case DeviceAttribute::Multiprocessors:
    *value = state->multiprocessors;
    return 0;
  case DeviceAttribute::L2CacheBytes:
    *value = 1 << 20;
    return 0;
  case DeviceAttribute::ComputeCapabilityMajor:
    *value = state->major;
    return 0;
  case DeviceAttribute::ComputeCapabilityMinor:
    *value = state->minor;
    return 0;
  case DeviceAttribute::MaxSharedBytesPerBlock:
    *value = state->maxShared;
    return 0;
  }
  return invalidValue;
}

int cuDevicePrimaryCtxRetain(void **context, int) {
  ENTER("cuDevicePrimaryCtxRetain");
  ++state->contexts;
  *context = &theContext;
  return 0;
}

int cuDevicePrimaryCtxRelease_v2(int) {
  --state->contexts;
  return enter("cuDevicePrimaryCtxRelease");
}

int cuCtxGetCurrent(void **context) {
  ENTER("cuCtxGetCurrent");
  *context = contextStack.empty() ? nullptr : contextStack.back();
  return 0;
}

int cuCtxPushCurrent_v2(void *context) {
  ENTER("cuCtxPushCurrent");
  contextStack.push_back(context);
  return 0;
}

int cuCtxPopCurrent_v2(void **context) {
  ENTER("cuCtxPopCurrent");
  if (contextStack.empty())
    return invalidValue;
  *context = contextStack.back();
  contextStack.pop_back();
  return 0;
}

int cuCtxSynchronize() { return enter("cuCtxSynchronize"); }

int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
  ENTER("cuMemAlloc");
  std::vector<uint8_t> memory(bytes + 256, 0xcd);
  *pointer = (reinterpret_cast<uint64_t>(memory.data()) + 255) / 256 * 256;
  state->allocations[*pointer] = std::move(memory);
  return 0;
}

int cuMemFree_v2(uint64_t pointer) {
  ENTER("cuMemFree");
  return state->allocations.erase(pointer) == 1 ? 0 : invalidValue;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  ENTER("cuMemcpyHtoD");
  std::memcpy(reinterpret_cast<void *>(to), from, bytes);
  return 0;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  ENTER("cuMemcpyDtoH");
  std::memcpy(to, reinterpret_cast<void *>(from), bytes);
  return 0;
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
  ENTER("cuMemcpyDtoDAsync");
  std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from),
               bytes);
  return 0;
}

int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) {
  ENTER("cuMemsetD8");
  std::memset(reinterpret_cast<void *>(to), value, bytes);
  return 0;
}

int cuModuleLoadDataEx(void **module, const void *image, unsigned, int *,
                       void **) {
  ENTER("cuModuleLoadDataEx");
  auto loaded = std::make_unique<LoadedModule>();
  auto add = [&](const std::string &name) -> Kernel & {
    auto &kernel = loaded->kernels[name];
    kernel = std::make_unique<Kernel>();
    kernel->name = name;
    return *kernel;
  };
  std::istringstream words(static_cast<const char *>(image));
  for (std::string word; words >> word;) {
    size_t colon = word.find(':'), at = word.find('@');
    if (word == ".entry" && words >> word) {
      add(word.substr(0, word.find('(')));
    } else if (colon < word.size() - 1 && word[colon + 1] >= '0' &&
               word[colon + 1] <= '9') {
      Kernel &kernel = add(word.substr(0, colon));
      kernel.parameters = readNumbers(word.substr(colon + 1, at - colon - 1));
      if (at != std::string::npos)
        kernel.shape = readNumbers(word.substr(at + 1));
    }
  }
  ++state->modules;
  *module = loaded.release();
  return 0;
}

int cuModuleUnload(void *module) {
  ENTER("cuModuleUnload");
  --state->modules;
  delete static_cast<LoadedModule *>(module);
  return 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER("cuModuleGetFunction");
  auto &kernels = static_cast<LoadedModule *>(module)->kernels;
  auto it = kernels.find(name);
  if (it == kernels.end())
    return notFound;
  *function = it->second.get();
  return 0;
}

int cuFuncGetAttribute(int *value, int attribute, void *) {
  ENTER("cuFuncGetAttribute");
  *value = attribute == static_cast<int>(FunctionAttribute::MaxThreadsPerBlock)
               ? state->maxThreads
               : 0;
  return 0;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
  ENTER("cuFuncSetAttribute");
  state->attributes[static_cast<Kernel *>(function)->name][attribute] = value;
  return 0;
}

int cuFuncGetParamInfo(void *function, size_t index, size_t *offset,
                       size_t *size) {
  const std::vector<size_t> &parameters =
      static_cast<Kernel *>(function)->parameters;
  if (index >= parameters.size())
    return invalidValue;
  *offset = 0;
  *size = parameters[index];
  return 0;
}

int cuLaunchKernelEx(const LaunchConfig *config, void *function,
                     void **arguments, void **) {
  ENTER("cuLaunchKernelEx");
  const Kernel &kernel = *static_cast<Kernel *>(function);
  if (!kernel.shape.empty())
    multiply(kernel, arguments);
  if (!state->recording)
    return 0;
  FakeLaunch launch;
  launch.kernel = kernel.name;
  launch.grid[0] = config->gridX;
  launch.grid[1] = config->gridY;
  launch.grid[2] = config->gridZ;
  launch.threads = config->blockX * config->blockY * config->blockZ;
  launch.sharedBytes = config->sharedBytes;
  launch.cluster = 1;
  launch.overlaps = false;
  for (unsigned i = 0; i < config->numAttributes; ++i) {
    const LaunchAttribute &attribute = config->attributes[i];
    if (attribute.id == launchAttributeCluster)
      launch.cluster = attribute.value.cluster.x;
    else if (attribute.id == launchAttributeProgrammaticSerialization)
      launch.overlaps = attribute.value.programmaticSerialization == 1;
    else
      return invalidValue;
  }
  launch.stream = config->stream;
  for (size_t i = 0; i < kernel.parameters.size(); ++i) {
    const uint8_t *bytes = static_cast<const uint8_t *>(arguments[i]);
    launch.arguments.emplace_back(bytes, bytes + kernel.parameters[i]);
  }
  std::lock_guard<std::mutex> lock(state->mutex);
  state->launches.push_back(std::move(launch));
  return 0;
}

int cuTensorMapEncodeTiled(TensorMap *map, int type, uint32_t rank,
                           void *address, const uint64_t *dims,
                           const uint64_t *strides, const uint32_t *box,
                           const uint32_t *, int, int swizzle, int, int) {
  ENTER("cuTensorMapEncodeTiled");
  if (rank < 2 || rank > 3 || reinterpret_cast<uintptr_t>(map) % 64 != 0)
    return invalidValue;
  std::memset(map, 0, 128);
  // Something that depends on what it was made for.
  uint64_t words[] = {reinterpret_cast<uint64_t>(address), dims[0], dims[1],
                      box[0], box[1]};
  std::memcpy(map, words, sizeof(words));
  std::lock_guard<std::mutex> lock(state->mutex);
  if (state->recording)
    state->maps.push_back({type,
                           reinterpret_cast<uint64_t>(address),
                           {dims, dims + rank},
                           {strides, strides + rank - 1},
                           {box, box + rank},
                           swizzle});
  return 0;
}

// What the benchmark needs beyond that does nothing.
int cuStreamCreate(void **stream, unsigned) {
  *stream = &theContext;
  return enter("cuStreamCreate");
}
int cuStreamDestroy_v2(void *) { return enter("cuStreamDestroy"); }
int cuStreamSynchronize(void *) { return enter("cuStreamSynchronize"); }
int cuStreamBeginCapture_v2(void *, int) {
  return enter("cuStreamBeginCapture");
}
int cuStreamEndCapture(void *, void **graph) {
  *graph = &theContext;
  return enter("cuStreamEndCapture");
}
int cuGraphInstantiateWithFlags(void **exec, void *, unsigned long long) {
  *exec = &theContext;
  return enter("cuGraphInstantiateWithFlags");
}
int cuGraphLaunch(void *, void *) { return enter("cuGraphLaunch"); }
int cuGraphExecDestroy(void *) { return enter("cuGraphExecDestroy"); }
int cuGraphDestroy(void *) { return enter("cuGraphDestroy"); }
int cuEventCreate(void **event, unsigned) {
  *event = &theContext;
  return enter("cuEventCreate");
}
int cuEventDestroy_v2(void *) { return enter("cuEventDestroy"); }
int cuEventRecord(void *, void *) { return enter("cuEventRecord"); }
int cuEventSynchronize(void *) { return enter("cuEventSynchronize"); }
int cuEventElapsedTime(float *milliseconds, void *, void *) {
  std::unique_lock<std::mutex> lock(state->mutex);
  bool overlaps = !state->launches.empty() && state->launches.back().overlaps;
  lock.unlock();
  *milliseconds = overlaps ? 0.75f : 1.0f;
  return enter("cuEventElapsedTime");
}

} // extern "C"
#pragma GCC visibility pop
