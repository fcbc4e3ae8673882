//===- Driver.cpp ---------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/Driver.h"

#include <cstdlib>

#include <dlfcn.h>

using namespace quant_llm;
using namespace quant_llm::cuda;

/// Tensor maps and launches with attributes.
static constexpr int oldestVersion = 12000;

static std::string versionText(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

CudaStatus Driver::load(const std::string &library,
                        std::shared_ptr<const Driver> &driver) {
  const char *variable = std::getenv("QUANT_LLM_CUDA_DRIVER");
  std::string name = !library.empty()        ? library
                     : variable && *variable ? std::string(variable)
                                             : "libcuda.so.1";
  void *handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *reason = ::dlerror();
    return {ErrorKind::Unavailable,
            "cannot load the CUDA driver '" + name +
                "': " + (reason ? reason : "unknown error") +
                "; install NVIDIA's driver, or run on a machine with a GPU"};
  }
  std::shared_ptr<Driver> loaded(new Driver);
  const char *missing = nullptr;
#define FUNCTION(member, symbol, parameters)                                   \
  loaded->member =                                                             \
      reinterpret_cast<int(*) parameters>(::dlsym(handle, #symbol));           \
  if (!loaded->member && !missing)                                             \
    missing = #symbol;
  QUANT_LLM_CUDA_FUNCTIONS(FUNCTION)
#undef FUNCTION
  loaded->functionGetParameter =
      reinterpret_cast<int (*)(Function, size_t, size_t *, size_t *)>(
          ::dlsym(handle, "cuFuncGetParamInfo"));
  // An old driver lacks functions: say how old it is, if it can tell.
  if (loaded->driverGetVersion &&
      loaded->driverGetVersion(&loaded->version) == 0 &&
      loaded->version < oldestVersion)
    return {ErrorKind::Unavailable,
            "expected a CUDA driver of version " + versionText(oldestVersion) +
                " or later but '" + name + "' has " +
                versionText(loaded->version) + "; update NVIDIA's driver"};
  if (missing)
    return {ErrorKind::Unavailable, "expected '" + name +
                                        "' to be the CUDA driver but it has no "
                                        "function " +
                                        missing};
  CudaStatus status = loaded->check(loaded->init(0), "cuInit");
  if (!status.ok())
    return {ErrorKind::Unavailable,
            "cannot use the CUDA driver '" + name + "': " + status.message()};
  driver = std::move(loaded);
  return {};
}

CudaStatus Driver::makeError(int code, const char *call) const {
  const char *name = nullptr;
  if (getErrorName(code, &name) != 0 || !name)
    name = "unknown error";
  ErrorKind kind =
      code == errorOutOfMemory ? ErrorKind::Memory : ErrorKind::Driver;
  return {kind, std::string(call) + " failed: " + name + " (" +
                    std::to_string(code) + ")"};
}

CudaStatus DeviceContext::create(std::shared_ptr<const Driver> driver,
                                 int ordinal,
                                 std::unique_ptr<DeviceContext> &result) {
  int count = 0;
  CudaStatus status =
      driver->check(driver->deviceGetCount(&count), "cuDeviceGetCount");
  if (!status.ok())
    return status;
  if (ordinal < 0 || ordinal >= count)
    return {ErrorKind::Unavailable,
            "expected a device below " + std::to_string(count) +
                " (the number of GPUs) but got " + std::to_string(ordinal)};
  std::unique_ptr<DeviceContext> made(new DeviceContext);
  status =
      driver->check(driver->deviceGet(&made->device, ordinal), "cuDeviceGet");
  if (!status.ok())
    return status;
  char name[256] = {};
  status =
      driver->check(driver->deviceGetName(name, sizeof(name) - 1, made->device),
                    "cuDeviceGetName");
  if (!status.ok())
    return status;
  made->name = name;
  const std::pair<DeviceAttribute, int *> attributes[] = {
      {DeviceAttribute::ComputeCapabilityMajor, &made->major},
      {DeviceAttribute::ComputeCapabilityMinor, &made->minor},
      {DeviceAttribute::Multiprocessors, &made->multiprocessors},
      {DeviceAttribute::MaxSharedBytesPerBlock, &made->maxSharedBytes},
      {DeviceAttribute::MaxThreadsPerBlock, &made->maxThreads},
      {DeviceAttribute::L2CacheBytes, &made->l2Bytes},
  };
  for (const auto &[attribute, value] : attributes) {
    status =
        driver->check(driver->deviceGetAttribute(
                          value, static_cast<int>(attribute), made->device),
                      "cuDeviceGetAttribute");
    if (!status.ok())
      return status;
  }
  status =
      driver->check(driver->primaryContextRetain(&made->context, made->device),
                    "cuDevicePrimaryCtxRetain");
  if (!status.ok())
    return status;
  made->driver = std::move(driver);
  result = std::move(made);
  return {};
}

DeviceContext::~DeviceContext() {
  // Nothing can be done about an error here.
  if (context)
    (void)driver->primaryContextRelease(device);
}

CurrentContext::CurrentContext(const DeviceContext &device)
    : driver(device.getDriver()) {
  Context current = nullptr;
  if (driver.contextGetCurrent(&current) == 0 && current == device.getContext())
    return;
  result =
      driver.check(driver.contextPush(device.getContext()), "cuCtxPushCurrent");
  pushed = result.ok();
}

CurrentContext::~CurrentContext() {
  Context popped;
  if (pushed)
    (void)driver.contextPop(&popped);
}
