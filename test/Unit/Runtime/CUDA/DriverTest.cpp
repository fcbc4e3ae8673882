//===- DriverTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestArtifact.h"

#include "quant-llm/Runtime/CUDA/Driver.h"

using namespace quant_llm;
using namespace quant_llm::cuda;
using namespace quant_llm::test;

static CudaStatus load(const std::string &library) {
  std::shared_ptr<const Driver> driver;
  CudaStatus status = Driver::load(library, driver);
  EXPECT_EQ(status.ok(), driver != nullptr);
  return status;
}

TEST(CudaDriverTest, NoLibrary) {
  CudaStatus status = load("libno-such-driver.so.1");
  expectError(status, "cannot load the CUDA driver 'libno-such-driver.so.1'");
  expectError(status, "install NVIDIA's driver");
  EXPECT_EQ(status.kind, ErrorKind::Unavailable);
}

TEST(CudaDriverTest, NotADriver) {
  CudaStatus status = load("libm.so.6");
  expectError(status, "expected 'libm.so.6' to be the CUDA driver but it has "
                      "no function cuInit");
  EXPECT_EQ(status.kind, ErrorKind::Unavailable);
}

TEST(CudaDriverTest, Versions) {
  FakeCuda &fake = resetFakeCuda();
  fake.version = 11080;
  expectError(load(FAKE_CUDA_DRIVER),
              "expected a CUDA driver of version 12.0 or later");
  fake.version = 12000;
  EXPECT_TRUE(load(FAKE_CUDA_DRIVER).ok());
}

TEST(CudaDriverTest, FromTheEnvironment) {
  resetFakeCuda();
  ASSERT_EQ(::setenv("QUANT_LLM_CUDA_DRIVER", FAKE_CUDA_DRIVER, 1), 0);
  EXPECT_TRUE(load("").ok());
  EXPECT_FALSE(load("libno-such-driver.so.1").ok());
  ASSERT_EQ(::setenv("QUANT_LLM_CUDA_DRIVER", "libother-driver.so", 1), 0);
  expectError(load(""), "libother-driver.so");
  ::unsetenv("QUANT_LLM_CUDA_DRIVER");
}

TEST(CudaDriverTest, NoDevice) {
  FakeCuda &fake = resetFakeCuda();
  fake.failures["cuInit"] = 100;
  CudaStatus status = load(FAKE_CUDA_DRIVER);
  expectError(status, "cuInit failed: CUDA_ERROR_FAKE (100)");
  EXPECT_EQ(status.kind, ErrorKind::Unavailable);
}

TEST(CudaDriverTest, Devices) {
  FakeCuda &fake = resetFakeCuda();
  std::shared_ptr<const Driver> driver;
  ASSERT_TRUE(Driver::load(FAKE_CUDA_DRIVER, driver).ok());
  EXPECT_EQ(driver->version, 13000);
  std::unique_ptr<DeviceContext> device;
  for (int ordinal : {-1, 1, 7})
    expectError(DeviceContext::create(driver, ordinal, device),
                "expected a device below 1 (the number of GPUs) but got " +
                    std::to_string(ordinal));
  EXPECT_EQ(fake.contexts, 0);
  ASSERT_TRUE(DeviceContext::create(driver, 0, device).ok());
  EXPECT_EQ(device->name, "Fake GPU");
  EXPECT_EQ(device->major, 9);
  EXPECT_EQ(device->multiprocessors, 132);
  EXPECT_EQ(fake.contexts, 1);
  device.reset();
  EXPECT_EQ(fake.contexts, 0);
  for (const char *call :
       {"cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName",
        "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"}) {
    fake.failures = {{call, 999}};
    expectError(DeviceContext::create(driver, 0, device),
                std::string(call) + " failed: CUDA_ERROR_FAKE (999)");
    EXPECT_EQ(fake.contexts, 0);
  }
}

TEST(CudaDriverTest, CurrentContexts) {
  FakeCuda &fake = resetFakeCuda();
  std::shared_ptr<const Driver> driver;
  ASSERT_TRUE(Driver::load(FAKE_CUDA_DRIVER, driver).ok());
  std::unique_ptr<DeviceContext> device;
  ASSERT_TRUE(DeviceContext::create(driver, 0, device).ok());
  fake.calls.clear();
  {
    CurrentContext outer(*device);
    EXPECT_TRUE(outer.status().ok());
    CurrentContext inner(*device);
    EXPECT_TRUE(inner.status().ok());
  }
  EXPECT_EQ(fake.calls,
            (std::vector<std::string>{"cuCtxGetCurrent", "cuCtxPushCurrent",
                                      "cuCtxGetCurrent", "cuCtxPopCurrent"}));
  fake.failures["cuCtxPushCurrent"] = 201;
  CurrentContext failing(*device);
  expectError(failing.status(), "cuCtxPushCurrent failed");
}
