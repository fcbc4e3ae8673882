//===- Driver.h - The CUDA driver, loaded at run time -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The functions of libcuda that we call, with the few types they need, so that
// neither building nor loading the library needs anything of CUDA.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CUDA_DRIVER_H
#define QUANT_LLM_RUNTIME_CUDA_DRIVER_H

#include "quant-llm/Support/Status.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace quant_llm {
namespace cuda {

/// What kind of error a message tells of.
enum class ErrorKind {
  Argument,    ///< the caller's argument is wrong
  Artifact,    ///< a file is wrong
  Unavailable, ///< no driver, no such device, or the artifact is for another
  Driver,      ///< a call of the driver failed
  Memory,      ///< memory ran out, on the host or the device
};

/// Success, or an error of a kind. Success needs no memory.
struct [[nodiscard]] CudaStatus : Status {
  CudaStatus() = default;
  CudaStatus(ErrorKind kind, Status status)
      : Status(std::move(status)), kind(kind) {}
  CudaStatus(ErrorKind kind, std::string message)
      : Status(Status::error(std::move(message))), kind(kind) {}

  ErrorKind kind = ErrorKind::Driver;
};

//===----------------------------------------------------------------------===//
// Types of the driver API
//===----------------------------------------------------------------------===//

using Device = int;
using Context = void *;
using ModuleHandle = void *;
using Function = void *;
using Stream = void *;
using Event = void *;
using Graph = void *;
using GraphExec = void *;
using DevicePointer = uint64_t;

constexpr int errorOutOfMemory = 2;

enum class DeviceAttribute : int {
  MaxThreadsPerBlock = 1,
  Multiprocessors = 16,
  L2CacheBytes = 38,
  ComputeCapabilityMajor = 75,
  ComputeCapabilityMinor = 76,
  MaxSharedBytesPerBlock = 97, // with the function's attribute set
};

enum class FunctionAttribute : int {
  MaxThreadsPerBlock = 0,
  LocalBytes = 3,
  Registers = 4,
  MaxDynamicSharedBytes = 8,
  NonPortableClusterSize = 14,
};

struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int programmaticSerialization;
  } value;
};
constexpr int launchAttributeCluster = 4;
constexpr int launchAttributeProgrammaticSerialization = 6;
static_assert(sizeof(LaunchAttribute) == 72, "the driver's layout");

struct LaunchConfig {
  unsigned gridX, gridY, gridZ;
  unsigned blockX, blockY, blockZ;
  unsigned sharedBytes;
  Stream stream;
  LaunchAttribute *attributes;
  unsigned numAttributes;
};
static_assert(sizeof(LaunchConfig) == 56, "the driver's layout");

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

enum class TensorMapType : int { F16 = 6, F32 = 7, BF16 = 9 };
enum class TensorMapSwizzle : int {
  None = 0,
  Bytes32 = 1,
  Bytes64 = 2,
  Bytes128 = 3
};
constexpr int tensorMapPromotion256 = 3;

//===----------------------------------------------------------------------===//
// Driver
//===----------------------------------------------------------------------===//

// name in this class, symbol, result and parameters
#define QUANT_LLM_CUDA_FUNCTIONS(FUNCTION)                                     \
  FUNCTION(init, cuInit, (unsigned flags))                                     \
  FUNCTION(driverGetVersion, cuDriverGetVersion, (int *version))               \
  FUNCTION(getErrorName, cuGetErrorName, (int error, const char **name))       \
  FUNCTION(deviceGetCount, cuDeviceGetCount, (int *count))                     \
  FUNCTION(deviceGet, cuDeviceGet, (Device * device, int ordinal))             \
  FUNCTION(deviceGetName, cuDeviceGetName,                                     \
           (char *name, int size, Device device))                              \
  FUNCTION(deviceGetAttribute, cuDeviceGetAttribute,                           \
           (int *value, int attribute, Device device))                         \
  FUNCTION(primaryContextRetain, cuDevicePrimaryCtxRetain,                     \
           (Context * context, Device device))                                 \
  FUNCTION(primaryContextRelease, cuDevicePrimaryCtxRelease_v2,                \
           (Device device))                                                    \
  FUNCTION(contextGetCurrent, cuCtxGetCurrent, (Context * context))            \
  FUNCTION(contextPush, cuCtxPushCurrent_v2, (Context context))                \
  FUNCTION(contextPop, cuCtxPopCurrent_v2, (Context * context))                \
  FUNCTION(contextSynchronize, cuCtxSynchronize, ())                           \
  FUNCTION(memAlloc, cuMemAlloc_v2, (DevicePointer * pointer, size_t bytes))   \
  FUNCTION(memFree, cuMemFree_v2, (DevicePointer pointer))                     \
  FUNCTION(copyToDevice, cuMemcpyHtoD_v2,                                      \
           (DevicePointer to, const void *from, size_t bytes))                 \
  FUNCTION(copyToHost, cuMemcpyDtoH_v2,                                        \
           (void *to, DevicePointer from, size_t bytes))                       \
  FUNCTION(                                                                    \
      copyOnDeviceAsync, cuMemcpyDtoDAsync_v2,                                 \
      (DevicePointer to, DevicePointer from, size_t bytes, Stream stream))     \
  FUNCTION(fillBytes, cuMemsetD8_v2,                                           \
           (DevicePointer to, unsigned char value, size_t bytes))              \
  FUNCTION(moduleLoad, cuModuleLoadDataEx,                                     \
           (ModuleHandle * module, const void *image, unsigned numOptions,     \
            int *options, void **values))                                      \
  FUNCTION(moduleUnload, cuModuleUnload, (ModuleHandle module))                \
  FUNCTION(moduleGetFunction, cuModuleGetFunction,                             \
           (Function * function, ModuleHandle module, const char *name))       \
  FUNCTION(functionGetAttribute, cuFuncGetAttribute,                           \
           (int *value, int attribute, Function function))                     \
  FUNCTION(functionSetAttribute, cuFuncSetAttribute,                           \
           (Function function, int attribute, int value))                      \
  FUNCTION(launchKernel, cuLaunchKernelEx,                                     \
           (const LaunchConfig *config, Function function, void **arguments,   \
            void **extra))                                                     \
  FUNCTION(tensorMapEncode, cuTensorMapEncodeTiled,                            \
           (TensorMap * map, int type, uint32_t rank, void *address,           \
            const uint64_t *dims, const uint64_t *strides,                     \
            const uint32_t *box, const uint32_t *steps, int interleave,        \
            int swizzle, int promotion, int fill))                             \
  FUNCTION(streamCreate, cuStreamCreate, (Stream * stream, unsigned flags))    \
  FUNCTION(streamDestroy, cuStreamDestroy_v2, (Stream stream))                 \
  FUNCTION(streamSynchronize, cuStreamSynchronize, (Stream stream))            \
  FUNCTION(streamBeginCapture, cuStreamBeginCapture_v2,                        \
           (Stream stream, int mode))                                          \
  FUNCTION(streamEndCapture, cuStreamEndCapture,                               \
           (Stream stream, Graph * graph))                                     \
  FUNCTION(graphInstantiate, cuGraphInstantiateWithFlags,                      \
           (GraphExec * exec, Graph graph, unsigned long long flags))          \
  FUNCTION(graphLaunch, cuGraphLaunch, (GraphExec exec, Stream stream))        \
  FUNCTION(graphExecDestroy, cuGraphExecDestroy, (GraphExec exec))             \
  FUNCTION(graphDestroy, cuGraphDestroy, (Graph graph))                        \
  FUNCTION(eventCreate, cuEventCreate, (Event * event, unsigned flags))        \
  FUNCTION(eventDestroy, cuEventDestroy_v2, (Event event))                     \
  FUNCTION(eventRecord, cuEventRecord, (Event event, Stream stream))           \
  FUNCTION(eventSynchronize, cuEventSynchronize, (Event event))                \
  FUNCTION(eventElapsed, cuEventElapsedTime,                                   \
           (float *milliseconds, Event begin, Event end))

/// The driver's functions. Never unloaded: other code of the process may use
/// the driver, too.
class Driver {
public:
  /// Loads and initializes the driver. `library` is a name for dlopen; if it is
  /// empty, that of the environment variable QUANT_LLM_CUDA_DRIVER, else
  /// "libcuda.so.1".
  static CudaStatus load(const std::string &library,
                         std::shared_ptr<const Driver> &driver);

  /// An error that names the call if `code` is not 0.
  CudaStatus check(int code, const char *call) const {
    return code == 0 ? CudaStatus() : makeError(code, call);
  }

  /// CUDA version of the driver: 13000 is 13.0.
  int version = 0;

  /// Whether launches that overlap the kernel before them can be captured in
  /// graphs.
  bool canOverlapLaunches() const { return version >= 12030; }

#define FUNCTION(member, symbol, parameters) int(*member) parameters = nullptr;
  QUANT_LLM_CUDA_FUNCTIONS(FUNCTION)
#undef FUNCTION
  /// cuFuncGetParamInfo of drivers since 12.4, else null.
  int (*functionGetParameter)(Function function, size_t index, size_t *offset,
                              size_t *size) = nullptr;

private:
  Driver() = default;
  CudaStatus makeError(int code, const char *call) const;
};

/// A device and its primary context, which PyTorch and the CUDA runtime use,
/// too. Kept alive by the object.
class DeviceContext {
public:
  static CudaStatus create(std::shared_ptr<const Driver> driver, int ordinal,
                           std::unique_ptr<DeviceContext> &result);
  ~DeviceContext();
  DeviceContext(const DeviceContext &) = delete;
  DeviceContext &operator=(const DeviceContext &) = delete;

  const Driver &getDriver() const { return *driver; }
  std::shared_ptr<const Driver> getSharedDriver() const { return driver; }
  Context getContext() const { return context; }

  std::string name;
  int major = 0;
  int minor = 0;
  int multiprocessors = 0;
  int maxSharedBytes = 0;
  int maxThreads = 0;
  int l2Bytes = 0;

private:
  DeviceContext() = default;

  std::shared_ptr<const Driver> driver;
  Device device = 0;
  Context context = nullptr;
};

/// Makes a context current in this thread for as long as the object lives. Does
/// nothing if it is already.
class CurrentContext {
public:
  explicit CurrentContext(const DeviceContext &device);
  ~CurrentContext();
  CurrentContext(const CurrentContext &) = delete;
  CurrentContext &operator=(const CurrentContext &) = delete;

  /// Whether the context is current now.
  const CudaStatus &status() const { return result; }

private:
  const Driver &driver;
  CudaStatus result;
  bool pushed = false;
};

} // namespace cuda
} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CUDA_DRIVER_H
