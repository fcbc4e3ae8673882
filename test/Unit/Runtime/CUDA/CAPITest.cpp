//===- CAPITest.cpp - The C interface of the CUDA runtime -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestArtifact.h"

#include "quant-llm-c/CudaRuntime.h"

#include <thread>

using namespace quant_llm::test;

namespace {

class CudaCAPITest : public testing::Test {
protected:
  CudaCAPITest() : fake(resetFakeCuda()) {
    options.driver = FAKE_CUDA_DRIVER;
    EXPECT_EQ(quantLLMCudaArtifactOpen(files.directory.path.c_str(), nullptr,
                                       &artifact),
              QUANT_LLM_CUDA_OK)
        << quantLLMCudaGetLastError();
  }
  ~CudaCAPITest() override {
    quantLLMCudaModuleDestroy(module);
    quantLLMCudaArtifactDestroy(artifact);
  }

  FakeCuda &fake;
  TestArtifact files;
  QuantLLMCudaArtifact *artifact = nullptr;
  QuantLLMCudaModule *module = nullptr;
  QuantLLMCudaModuleOptions options = {};
};

void expectFailure(QuantLLMCudaStatus status, QuantLLMCudaStatus expected,
                   const std::string &part) {
  EXPECT_EQ(status, expected);
  std::string message = quantLLMCudaGetLastError();
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

} // namespace

TEST_F(CudaCAPITest, Queries) {
  EXPECT_STREQ(quantLLMCudaGetVersion(), QUANT_LLM_VERSION);
  EXPECT_STREQ(quantLLMCudaArtifactGetChip(artifact), "sm_90a");
  EXPECT_GT(quantLLMCudaArtifactGetWeightBytes(artifact), 16384u);
  ASSERT_EQ(quantLLMCudaArtifactGetNumLinears(artifact), 3u);
  QuantLLMCudaLinear linear;
  ASSERT_EQ(quantLLMCudaArtifactGetLinear(artifact, 0, &linear),
            QUANT_LLM_CUDA_OK);
  EXPECT_STREQ(linear.name, "gate_up");
  EXPECT_EQ(linear.n, 48);
  EXPECT_EQ(linear.k, 200);
  EXPECT_EQ(linear.numWeights, 2u);
  EXPECT_EQ(linear.numEpilogueOperands, 2u);
  EXPECT_EQ(linear.numVariants, 2u);
  EXPECT_STREQ(linear.scheme, "int4, block = [1, 32], scale = f16, rule = "
                              "absmax, rounding = half_even");
  EXPECT_STREQ(linear.activation, "f16");
  EXPECT_STREQ(linear.output, "f16");
  size_t index = 99;
  ASSERT_EQ(quantLLMCudaArtifactFindLinear(artifact, "shared", &index),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(index, 2u);
  QuantLLMCudaEpilogueOperand operand;
  ASSERT_EQ(quantLLMCudaArtifactGetEpilogueOperand(artifact, 0, 1, &operand),
            QUANT_LLM_CUDA_OK);
  EXPECT_STREQ(operand.type, "f16");
  EXPECT_EQ(operand.perElement, 1);
  QuantLLMCudaVariant variant;
  ASSERT_EQ(quantLLMCudaArtifactGetVariant(artifact, 0, 1, &variant),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(variant.minTokens, 17);
  EXPECT_EQ(variant.maxTokens, 4096);
  EXPECT_STREQ(variant.kernel, "many");

  expectFailure(quantLLMCudaArtifactGetLinear(artifact, 3, &linear),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected a linear below 3 but got 3");
  expectFailure(quantLLMCudaArtifactFindLinear(artifact, "none", &index),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "but got 'none'");
  expectFailure(
      quantLLMCudaArtifactGetEpilogueOperand(artifact, 0, 2, &operand),
      QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected an operand below 2 but got 2");
  expectFailure(quantLLMCudaArtifactGetVariant(artifact, 3, 0, &variant),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected a linear below 3");
  expectFailure(quantLLMCudaArtifactGetVariant(artifact, 2, 1, &variant),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected a variant below 1");
  QuantLLMCudaWeightBytes bytes;
  ASSERT_EQ(quantLLMCudaArtifactGetBytesOfWeight(artifact, 0, &bytes),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(bytes.packed, 4u * 2 * 1024);
  EXPECT_EQ(bytes.packedScales, 4u * 7 * 16 * 2);
  EXPECT_EQ(bytes.packedZeros, 0u);
  expectFailure(quantLLMCudaArtifactGetBytesOfWeight(artifact, 3, &bytes),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected a linear below 3");
}

TEST_F(CudaCAPITest, NullPointers) {
  QuantLLMCudaArtifact *other = nullptr;
  expectFailure(quantLLMCudaArtifactOpen(nullptr, nullptr, &other),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'path' but got a null pointer");
  expectFailure(quantLLMCudaArtifactOpen("x", nullptr, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'artifact'");
  expectFailure(quantLLMCudaModuleCreate(nullptr, &options, &module),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'artifact'");
  expectFailure(quantLLMCudaModuleCreate(artifact, &options, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'module'");
  expectFailure(quantLLMCudaModulePlan(nullptr, 0, 1, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'module'");
  expectFailure(quantLLMCudaModuleLaunch(nullptr, nullptr, nullptr, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'module'");
  expectFailure(quantLLMCudaArtifactGetLinear(artifact, 0, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'result'");
  EXPECT_STREQ(quantLLMCudaArtifactGetChip(nullptr), "");
  EXPECT_EQ(quantLLMCudaArtifactGetNumLinears(nullptr), 0u);
  EXPECT_EQ(quantLLMCudaArtifactGetWeightBytes(nullptr), 0u);
  EXPECT_STREQ(quantLLMCudaModuleGetDeviceName(nullptr), "");
  quantLLMCudaArtifactDestroy(nullptr);
  quantLLMCudaModuleDestroy(nullptr);
}

TEST_F(CudaCAPITest, Experts) {
  QuantLLMCudaGrouping grouping = {1, nullptr, 1};
  ASSERT_EQ(quantLLMCudaArtifactGetGrouping(artifact, 2, &grouping),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(grouping.numExperts, 0);
  EXPECT_STREQ(grouping.offsets, "");
  EXPECT_EQ(grouping.offsetsBytes, 0u);
  expectFailure(quantLLMCudaArtifactGetGrouping(artifact, 3, &grouping),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected a linear below 3");
  expectFailure(quantLLMCudaArtifactGetGrouping(artifact, 0, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "'result'");

  TestArtifact experts;
  experts.makeExperts();
  experts.linear(2)["offsets"] = "i64";
  experts.write();
  quantLLMCudaArtifactDestroy(artifact);
  ASSERT_EQ(quantLLMCudaArtifactOpen(experts.directory.path.c_str(), nullptr,
                                     &artifact),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  ASSERT_EQ(quantLLMCudaArtifactGetGrouping(artifact, 2, &grouping),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(grouping.numExperts, 4);
  EXPECT_STREQ(grouping.offsets, "i64");
  EXPECT_EQ(grouping.offsetsBytes, 40u);
  ASSERT_EQ(quantLLMCudaModuleCreate(artifact, &options, &module),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  QuantLLMCudaPlan plan;
  ASSERT_EQ(quantLLMCudaModulePlan(module, 2, 5, &plan), QUANT_LLM_CUDA_OK);
  std::vector<uint8_t> memory(10000);
  uint8_t *base = memory.data();
  base += -reinterpret_cast<uintptr_t>(base) % 16;
  QuantLLMCudaBuffer bias = {base, 96}, offsets = {base + 104, 40};
  QuantLLMCudaOperands operands = {};
  operands.x = {base + 1600, 2000};
  operands.y = {base + 4000, 120};
  operands.epilogue = &bias;
  operands.numEpilogue = 1;
  ASSERT_EQ(quantLLMCudaModuleLaunchGrouped(module, &plan, nullptr, &operands,
                                            &offsets),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  EXPECT_EQ(fake.launches.size(), 1u);
  expectFailure(quantLLMCudaModuleLaunchGrouped(module, &plan, nullptr,
                                                &operands, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'offsets' but got a null pointer");
  expectFailure(quantLLMCudaModuleLaunch(module, &plan, nullptr, &operands),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'offsets' to have 40 bytes");
}

TEST_F(CudaCAPITest, KindsOfErrors) {
  QuantLLMCudaArtifact *other = nullptr;
  expectFailure(quantLLMCudaArtifactOpen("/nonexistent", nullptr, &other),
                QUANT_LLM_CUDA_INVALID_ARTIFACT, "cannot open");
  EXPECT_EQ(other, nullptr);
  options.driver = "libno-such-driver.so";
  expectFailure(quantLLMCudaModuleCreate(artifact, &options, &module),
                QUANT_LLM_CUDA_UNAVAILABLE, "libno-such-driver.so");
  options.driver = FAKE_CUDA_DRIVER;
  options.device = 4;
  expectFailure(quantLLMCudaModuleCreate(artifact, &options, &module),
                QUANT_LLM_CUDA_UNAVAILABLE, "expected a device below 1");
  options.device = 0;
  fake.failures["cuMemcpyHtoD"] = 700;
  expectFailure(quantLLMCudaModuleCreate(artifact, &options, &module),
                QUANT_LLM_CUDA_DRIVER_ERROR, "cuMemcpyHtoD failed");
  fake.failures = {{"cuMemAlloc", 2}};
  expectFailure(quantLLMCudaModuleCreate(artifact, &options, &module),
                QUANT_LLM_CUDA_OUT_OF_MEMORY, "cuMemAlloc failed");
  EXPECT_EQ(module, nullptr);
}

// Which launches may start while the kernel before them ends.
TEST_F(CudaCAPITest, LaunchesWithOptions) {
  TestArtifact overlapping;
  overlapping.kernel(3)["dependent_launch"] = 1;
  overlapping.write();
  quantLLMCudaArtifactDestroy(artifact);
  ASSERT_EQ(quantLLMCudaArtifactOpen(overlapping.directory.path.c_str(),
                                     nullptr, &artifact),
            QUANT_LLM_CUDA_OK);
  ASSERT_EQ(quantLLMCudaModuleCreate(artifact, &options, &module),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  QuantLLMCudaPlan plan;
  ASSERT_EQ(quantLLMCudaModulePlan(module, 2, 5, &plan), QUANT_LLM_CUDA_OK);
  std::vector<uint8_t> memory(30000);
  uint8_t *base = memory.data();
  base += -reinterpret_cast<uintptr_t>(base) % 16;
  QuantLLMCudaOperands operands = {};
  operands.x = {base, plan.xBytes};
  operands.y = {base + 4000, plan.yBytes};
  QuantLLMCudaWeight weight = {
      {base + 8000, 8192}, {base + 20000, 896}, {nullptr, 0}, 2};
  auto overlaps = [&](const QuantLLMCudaLaunchOptions *given) {
    size_t before = fake.launches.size();
    EXPECT_EQ(quantLLMCudaModuleLaunchWithOptions(module, &plan, nullptr,
                                                  &operands, given),
              QUANT_LLM_CUDA_OK)
        << quantLLMCudaGetLastError();
    EXPECT_EQ(fake.launches.size(), before + 1);
    return fake.launches.back().overlaps;
  };
  EXPECT_TRUE(overlaps(nullptr));
  QuantLLMCudaLaunchOptions launch = {};
  EXPECT_TRUE(overlaps(&launch));
  launch.plain = 1;
  EXPECT_FALSE(overlaps(&launch));
  launch = {};
  launch.weights = &weight;
  launch.numWeights = 1;
  EXPECT_FALSE(overlaps(&launch));
  void *given = weight.packed.data;
  EXPECT_EQ(std::memcmp(fake.launches.back().arguments[1].data(), &given,
                        sizeof(void *)),
            0);
  launch.constantWeights = 1;
  EXPECT_TRUE(overlaps(&launch));
  launch.plain = 1;
  EXPECT_FALSE(overlaps(&launch));

  launch.numWeights = 3;
  expectFailure(quantLLMCudaModuleLaunchWithOptions(module, &plan, nullptr,
                                                    &operands, &launch),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 1 weights but got 3");
  launch.weights = nullptr;
  expectFailure(quantLLMCudaModuleLaunchWithOptions(module, &plan, nullptr,
                                                    &operands, &launch),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'weights' but got a null pointer");
  QuantLLMCudaBuffer offsets = {base, 16};
  launch.weights = &weight;
  launch.offsets = &offsets;
  expectFailure(quantLLMCudaModuleLaunchWithOptions(module, &plan, nullptr,
                                                    &operands, &launch),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected the weights of the module for a grouped linear");
  expectFailure(quantLLMCudaModuleLaunchWithOptions(nullptr, &plan, nullptr,
                                                    &operands, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'module' but got a null pointer");
  expectFailure(quantLLMCudaModuleLaunchWithOptions(module, &plan, nullptr,
                                                    nullptr, nullptr),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'operands' but got a null pointer");
}

TEST_F(CudaCAPITest, ErrorsBelongToThreads) {
  QuantLLMCudaArtifact *other = nullptr;
  expectFailure(quantLLMCudaArtifactOpen("/nonexistent", nullptr, &other),
                QUANT_LLM_CUDA_INVALID_ARTIFACT, "/nonexistent");
  std::thread([] { EXPECT_STREQ(quantLLMCudaGetLastError(), ""); }).join();
}

TEST_F(CudaCAPITest, PlanAndLaunch) {
  ASSERT_EQ(quantLLMCudaModuleCreate(artifact, &options, &module),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  EXPECT_STREQ(quantLLMCudaModuleGetDeviceName(module), "Fake GPU");
  // A module outlives the handle that it was made from.
  quantLLMCudaArtifactDestroy(artifact);
  artifact = nullptr;
  QuantLLMCudaPlan plan;
  ASSERT_EQ(quantLLMCudaModulePlan(module, 0, 40, &plan), QUANT_LLM_CUDA_OK);
  EXPECT_STREQ(plan.kernel, "many");
  EXPECT_EQ(plan.linear, 0u);
  EXPECT_EQ(plan.m, 40);
  EXPECT_EQ(plan.grid[0], 3u);
  EXPECT_EQ(plan.threads, 160u);
  EXPECT_EQ(plan.cluster, 1u);
  EXPECT_EQ(plan.sharedBytes, 100000u);
  EXPECT_EQ(plan.xBytes, 16000u);
  EXPECT_EQ(plan.yBytes, 3840u);
  EXPECT_EQ(plan.workspaceBytes, 124u);
  std::vector<uint8_t> memory(200000);
  uint8_t *base = memory.data();
  base += -reinterpret_cast<uintptr_t>(base) % 16;
  QuantLLMCudaBuffer epilogue[] = {{base, 192}, {base + 192, 3840}};
  QuantLLMCudaOperands operands = {};
  operands.x = {base + 10000, 16000};
  operands.y = {base + 50000, 3840};
  operands.workspace = {base + 60000, 124};
  operands.epilogue = epilogue;
  operands.numEpilogue = 2;
  ASSERT_EQ(quantLLMCudaModuleLaunch(module, &plan, nullptr, &operands),
            QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  ASSERT_EQ(fake.launches.size(), 1u);
  EXPECT_EQ(fake.launches[0].kernel, "many");

  ASSERT_EQ(quantLLMCudaModulePlan(module, 0, 0, &plan), QUANT_LLM_CUDA_OK);
  EXPECT_EQ(plan.kernel, nullptr);
  ASSERT_EQ(quantLLMCudaModuleLaunch(module, &plan, nullptr, &operands),
            QUANT_LLM_CUDA_OK);
  EXPECT_EQ(fake.launches.size(), 1u);

  expectFailure(quantLLMCudaModulePlan(module, 0, 5000, &plan),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "but got 5000");
  // A plan that was not made here: judged by its linear and m alone.
  QuantLLMCudaPlan forged = {};
  forged.linear = 0;
  forged.m = 41;
  expectFailure(quantLLMCudaModuleLaunch(module, &forged, nullptr, &operands),
                QUANT_LLM_CUDA_INVALID_ARGUMENT, "expected 'x'");
  operands.numEpilogue = 1000;
  forged.m = 40;
  expectFailure(quantLLMCudaModuleLaunch(module, &forged, nullptr, &operands),
                QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 2 epilogue operands");
  operands.numEpilogue = 2;
  QuantLLMCudaWeight weights[] = {
      {{base + 100000, 8192}, {base + 110000, 896}, {nullptr, 0}, 2},
      {{base + 120000, 8192}, {base + 130000, 896}, {nullptr, 0}, 3}};
  auto launch = [&](const QuantLLMCudaWeight *given, size_t count) {
    return quantLLMCudaModuleLaunchWithWeights(module, &forged, nullptr,
                                               &operands, given, count);
  };
  ASSERT_EQ(launch(weights, 2), QUANT_LLM_CUDA_OK)
      << quantLLMCudaGetLastError();
  ASSERT_EQ(fake.launches.size(), 2u);
  uint8_t *second = base + 120000;
  EXPECT_EQ(std::memcmp(fake.launches[1].arguments[5].data(), &second,
                        sizeof(void *)),
            0);
  expectFailure(launch(weights, 1), QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 2 weights but got 1");
  expectFailure(launch(weights, 3), QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 2 weights but got 3");
  expectFailure(launch(nullptr, 0), QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'weights' but got a null pointer");
  weights[1].packedScales.bytes = 895;
  expectFailure(launch(weights, 2), QUANT_LLM_CUDA_INVALID_ARGUMENT,
                "expected 'packed_scales1' to have 896 bytes");
  fake.failures["cuLaunchKernelEx"] = 719;
  expectFailure(quantLLMCudaModuleLaunch(module, &forged, nullptr, &operands),
                QUANT_LLM_CUDA_DRIVER_ERROR, "cuLaunchKernelEx failed");
}
