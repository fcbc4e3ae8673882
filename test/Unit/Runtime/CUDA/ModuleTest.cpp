//===- ModuleTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestArtifact.h"

#include "quant-llm/Runtime/CUDA/Module.h"

#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>
#include <thread>

using namespace quant_llm;
using namespace quant_llm::cuda;
using namespace quant_llm::test;

/// Allocations of all threads: a launch must make none.
static std::atomic<size_t> numAllocations{0};

void *operator new(size_t bytes) {
  ++numAllocations;
  if (void *memory = std::malloc(bytes ? bytes : 1))
    return memory;
  throw std::bad_alloc();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }

namespace {

CudaStatus openArtifact(const TestArtifact &files,
                        std::shared_ptr<const Artifact> &artifact,
                        const std::string &archive = {}) {
  return Artifact::open(files.directory.path, {archive}, artifact);
}

void expectOpenError(const TestArtifact &files, const std::string &part) {
  std::shared_ptr<const Artifact> artifact;
  CudaStatus status = openArtifact(files, artifact);
  expectError(status, part);
  EXPECT_EQ(status.kind, ErrorKind::Artifact);
  EXPECT_EQ(artifact, nullptr);
}

/// The test artifact on the fake device, with buffers for launches.
class CudaModuleTest : public testing::Test {
protected:
  CudaModuleTest() : fake(resetFakeCuda()), memory(1 << 20) {
    uint64_t address = reinterpret_cast<uint64_t>(memory.data());
    base = (address + 255) / 256 * 256;
  }

  CudaStatus load(Buffer weights = {}, bool withoutWeights = false) {
    std::shared_ptr<const Artifact> artifact;
    CudaStatus status = openArtifact(files, artifact);
    if (!status.ok())
      return status;
    Module::Options options;
    options.driver = FAKE_CUDA_DRIVER;
    options.memory = weights;
    options.withoutWeights = withoutWeights;
    status = Module::create(artifact, options, module);
    EXPECT_EQ(status.ok(), module != nullptr);
    return status;
  }

  /// After a failed load() nothing may be left of it.
  void expectLoadError(const std::string &part, ErrorKind kind) {
    CudaStatus status = load();
    expectError(status, part);
    EXPECT_EQ(status.kind, kind) << status.message();
    EXPECT_EQ(fake.contexts, 0);
    EXPECT_EQ(fake.modules, 0);
    EXPECT_TRUE(fake.allocations.empty());
  }

  Plan planOf(size_t linear, int64_t m) {
    Plan plan;
    CudaStatus status = module->plan(linear, m, plan);
    EXPECT_TRUE(status.ok()) << status.message();
    return plan;
  }

  /// Buffers of the right size, each at its own place.
  LaunchOperands operandsOf(const Plan &plan) {
    LaunchOperands operands;
    operands.x = {base, plan.xBytes};
    operands.y = {base + 0x40000, plan.yBytes};
    operands.workspace = {base + 0x80000, plan.geometry.workspaceBytes};
    if (plan.linear == 0) {
      epilogue[0] = {base + 0xa0000, 48 * 4};
      epilogue[1] = {base + 0xb0000, static_cast<uint64_t>(plan.m) * 48 * 2};
      operands.epilogue = epilogue;
      operands.numEpilogue = 2;
    }
    return operands;
  }

  void expectLaunchError(const Plan &plan, const LaunchOperands &operands,
                         const std::string &part) {
    fake.launches.clear();
    CudaStatus status = module->launch(plan, nullptr, operands);
    expectError(status, part);
    EXPECT_EQ(status.kind, ErrorKind::Argument);
    EXPECT_TRUE(fake.launches.empty());
  }

  FakeCuda &fake;
  TestArtifact files;
  std::unique_ptr<Module> module;
  std::vector<uint8_t> memory;
  uint64_t base;
  Buffer epilogue[2];
};

template <typename T>
T valueOf(const std::vector<uint8_t> &bytes) {
  T value = {};
  EXPECT_EQ(bytes.size(), sizeof(T));
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(T)));
  return value;
}

} // namespace

//===----------------------------------------------------------------------===//
// Artifacts
//===----------------------------------------------------------------------===//

TEST(CudaArtifactTest, OpensDirectoryAndManifest) {
  TestArtifact files;
  std::shared_ptr<const Artifact> artifact;
  ASSERT_TRUE(openArtifact(files, artifact).ok());
  EXPECT_EQ(artifact->getManifest().linears.size(), 3u);
  // The weight that two linears share counts once.
  EXPECT_EQ(artifact->getTensors().size(), 7u);
  ASSERT_TRUE(
      Artifact::open(files.directory / "manifest.json", {}, artifact).ok());
  EXPECT_EQ(artifact->getNumKernelFiles(), 1u);
  EXPECT_EQ(artifact->getWeights(0)[0].codes.offset,
            artifact->getWeights(2)[0].codes.offset);
  EXPECT_NE(artifact->getWeights(0)[0].codes.offset,
            artifact->getWeights(0)[1].codes.offset);
}

TEST(CudaArtifactTest, MissingFiles) {
  TestArtifact files;
  std::shared_ptr<const Artifact> artifact;
  expectError(Artifact::open(files.directory / "nothing", {}, artifact),
              "cannot open");
  expectError(Artifact::open(std::string("a\0b", 3), {}, artifact),
              "without zero bytes");
  std::filesystem::remove(files.directory / "kernels.cubin");
  expectOpenError(files, "cannot open 'kernels.cubin'");
  files.write();
  std::filesystem::remove(files.directory / "packed.safetensors");
  expectOpenError(files, "cannot open 'packed.safetensors'");
  files.write();
  std::filesystem::remove(files.directory / "manifest.json");
  expectOpenError(files, "cannot open");
}

TEST(CudaArtifactTest, WrongManifest) {
  TestArtifact files;
  files.manifest["schema"] = "other";
  files.write();
  expectOpenError(files, "manifest.json: expected a manifest of schema");
}

TEST(CudaArtifactTest, ChangedKernel) {
  TestArtifact files;
  files.kernelFile += " more:8";
  files.write();
  expectOpenError(files,
                  "the file and the manifest are not of one compilation");
}

TEST(CudaArtifactTest, LinksOutOfTheDirectory) {
  TestArtifact files;
  TempDir elsewhere;
  writeFile(elsewhere / "kernels.cubin", files.kernelFile);
  std::filesystem::remove(files.directory / "kernels.cubin");
  std::filesystem::create_symlink(elsewhere / "kernels.cubin",
                                  files.directory / "kernels.cubin");
  expectOpenError(files, "expected 'kernels.cubin' to lie below the manifest's "
                         "directory but it is a link to");
  // A cache that links everything into one directory of blobs.
  std::filesystem::rename(files.directory / "manifest.json",
                          elsewhere / "manifest.json");
  std::filesystem::create_symlink(elsewhere / "manifest.json",
                                  files.directory / "manifest.json");
  std::shared_ptr<const Artifact> artifact;
  CudaStatus status = openArtifact(files, artifact);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(CudaArtifactTest, ArchiveElsewhere) {
  TestArtifact files;
  TempDir elsewhere;
  std::filesystem::rename(files.directory / "packed.safetensors",
                          elsewhere / "other.safetensors");
  std::shared_ptr<const Artifact> artifact;
  EXPECT_FALSE(openArtifact(files, artifact).ok());
  EXPECT_TRUE(
      openArtifact(files, artifact, elsewhere / "other.safetensors").ok());
}

TEST(CudaArtifactTest, WrongWeights) {
  TestArtifact files;
  auto change = [&](const std::function<void(TestArtifact &)> &apply,
                    const std::string &part) {
    auto saved = files.tensors;
    apply(files);
    files.write();
    expectOpenError(files, part);
    files.tensors = saved;
  };
  change([](TestArtifact &t) { t.tensors.erase("gate.packed"); },
         "linear 'gate_up'");
  change([](TestArtifact &t) { t.tensors.erase("up.output_scale"); },
         "up.output_scale");
  change([](TestArtifact &t) { t.tensors["gate.packed"].shape = {4, 1, 2048}; },
         "expected 'gate.packed' to be [4, 2, 1024] of U8 but got [4, 1, 2048] "
         "of U8; pack the weights again");
  change(
      [](TestArtifact &t) {
        t.tensors["gate.packed_scales"].dtype = DType::BF16;
      },
      "expected 'gate.packed_scales' to be [4, 7, 16] of F16 but got");
  change(
      [](TestArtifact &t) {
        t.tensors["gate.output_scale"].bytes = le(0x7fc00000u);
      },
      "expected 'gate.output_scale' to be a finite number");
  change([](TestArtifact &t) { t.tensors.erase("zeros.packed_zeros"); },
         "zeros.packed_zeros");
}

TEST(CudaArtifactTest, SchemesWithoutLayout) {
  TestArtifact files;
  files.linear(0)["scheme"] = "int4, block = [1, 8], scale = f16";
  files.write();
  expectOpenError(files, "linear 'gate_up'");
}

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

TEST_F(CudaModuleTest, LoadsKernelsAndWeights) {
  CudaStatus status = load();
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(fake.modules, 1);
  EXPECT_EQ(fake.allocations.size(), 1u);
  const int sharedBytes =
      static_cast<int>(FunctionAttribute::MaxDynamicSharedBytes);
  EXPECT_EQ(fake.attributes["few"][sharedBytes], 100000);
  const Artifact &artifact = module->getArtifact();
  for (const PackedTensor &tensor : artifact.getTensors()) {
    EXPECT_EQ(tensor.offset % 256, 0u);
    EXPECT_EQ(std::memcmp(reinterpret_cast<void *>(module->getAddress(tensor)),
                          files.tensors[tensor.source.name].bytes.data(),
                          tensor.source.bytes),
              0)
        << tensor.source.name;
  }
  EXPECT_EQ(std::count(fake.calls.begin(), fake.calls.end(), "cuMemcpyHtoD"),
            7);
  module.reset();
  EXPECT_EQ(fake.contexts, 0);
  EXPECT_EQ(fake.modules, 0);
  EXPECT_TRUE(fake.allocations.empty());
}

TEST_F(CudaModuleTest, MemoryOfTheCaller) {
  std::shared_ptr<const Artifact> artifact;
  ASSERT_TRUE(openArtifact(files, artifact).ok());
  uint64_t bytes = artifact->getWeightBytes();
  ASSERT_LT(bytes, memory.size() - 512);
  expectError(load({base, bytes - 1}),
              "expected at least " + std::to_string(bytes) +
                  " bytes of memory for the weights but got " +
                  std::to_string(bytes - 1));
  expectError(load({base + 128, bytes}), "aligned to 256 bytes");
  CudaStatus status = load({base, bytes});
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(fake.allocations.empty());
  EXPECT_EQ(module->getAddress(module->getArtifact().getTensors()[0]), base);
}

TEST_F(CudaModuleTest, OtherDevices) {
  fake.minor = 5;
  expectLoadError("expected a device of the chip sm_90a but 'Fake GPU' is "
                  "sm_95; compile for it with quant-llm-to-gpu{chip=...}",
                  ErrorKind::Unavailable);
  struct Case {
    const char *chip;
    bool isText;
    int major, minor;
    bool runs;
  };
  for (const Case &test :
       {Case{"sm_80", false, 8, 0, true}, Case{"sm_80", false, 8, 9, true},
        Case{"sm_80", false, 9, 0, false}, Case{"sm_86", false, 8, 0, false},
        Case{"sm_80", true, 9, 0, true}, Case{"sm_90a", true, 10, 0, false},
        Case{"sm_100f", false, 10, 3, true},
        Case{"sm_100f", false, 12, 0, false},
        Case{"sm_120a", false, 12, 0, true}}) {
    files.kernelFile.replace(0, 4, test.isText ? "/PTX" : "\177ELF");
    files.manifest["chip"] = test.chip;
    for (size_t i = 0; i < 4; ++i)
      files.kernel(i)["sha256"] =
          sha256Hex(files.kernelFile.data(), files.kernelFile.size());
    files.write();
    fake.major = test.major;
    fake.minor = test.minor;
    CudaStatus status = load();
    EXPECT_EQ(status.ok(), test.runs) << test.chip << status.message();
    module.reset();
  }
  for (const char *chip :
       {"90", "sm_", "sm_90b", "sm_90aa", "sm_9", "gfx90a"}) {
    files.manifest["chip"] = chip;
    files.write();
    expectLoadError(std::string("expected a chip such as sm_90a but got '") +
                        chip + "'",
                    ErrorKind::Artifact);
  }
}

TEST_F(CudaModuleTest, CompilersInDriversThatAreKnownToBeWrong) {
  auto write = [&] {
    for (size_t i = 0; i < 4; ++i)
      files.kernel(i)["sha256"] =
          sha256Hex(files.kernelFile.data(), files.kernelFile.size());
    files.write();
  };
  files.kernelFile.replace(0, 4, "/PTX");
  std::string plain = files.kernelFile;
  files.kernelFile += " wgmma.mma_async";
  write();
  fake.version = 12080;
  expectLoadError("expected machine code, because the compiler in the CUDA "
                  "driver (12.8) is one of those that make wrong code of these "
                  "kernels; compile with quant-llm-to-gpu{format=cubin}",
                  ErrorKind::Unavailable);
  // The driver does not tell which build of 13.0 it has.
  fake.version = 13000;
  expectLoadError("driver (13.0)", ErrorKind::Unavailable);
  fake.version = 13030;
  EXPECT_TRUE(load().ok());
  module.reset();
  // Machine code does not meet that compiler, other kernels no fault of it.
  fake.version = 12080;
  files.kernelFile.replace(0, 4, "\177ELF");
  write();
  EXPECT_TRUE(load().ok());
  module.reset();
  files.kernelFile = plain;
  write();
  EXPECT_TRUE(load().ok());
}

TEST_F(CudaModuleTest, KernelsThatDoNotFit) {
  fake.maxShared = 99999;
  expectLoadError("kernel 'few': expected at most 99999 bytes of shared memory "
                  "(Fake GPU) but got 100000",
                  ErrorKind::Unavailable);
  fake.maxShared = 100000;
  fake.maxThreads = 159;
  expectLoadError("kernel 'few': expected at most 159 threads but got 160",
                  ErrorKind::Artifact);
  fake.maxThreads = 1024;
  auto changeKernels = [&](const char *from, const char *to) {
    std::string &text = files.kernelFile;
    text.replace(text.find(from), std::strlen(from), to);
    for (size_t i = 0; i < 4; ++i)
      files.kernel(i)["sha256"] = sha256Hex(text.data(), text.size());
    files.write();
  };
  changeKernels("zeros:8,8,8,8,4,8,4", "zeros:8,8,8,8,4,8");
  expectLoadError("kernel 'zeros': expected 7 parameters but it has 6",
                  ErrorKind::Artifact);
  changeKernels("zeros:8,8,8,8,4,8", "zeros:8,8,8,8,4,8,4,4");
  expectLoadError("kernel 'zeros': expected 7 parameters but it has more",
                  ErrorKind::Artifact);
  changeKernels("zeros:8,8,8,8,4,8,4,4", "zeros:8,8,8,8,8,8,4");
  expectLoadError("kernel 'zeros': expected parameter 4 ('output_scale0') to "
                  "have 4 bytes but it has 8",
                  ErrorKind::Artifact);
  changeKernels("zeros:", "other:");
  expectLoadError("kernel 'zeros': cuModuleGetFunction failed",
                  ErrorKind::Artifact);
}

TEST_F(CudaModuleTest, DriverErrors) {
  const std::pair<const char *, ErrorKind> cases[] = {
      {"cuCtxPushCurrent", ErrorKind::Driver},
      {"cuModuleLoadDataEx", ErrorKind::Driver},
      {"cuFuncGetAttribute", ErrorKind::Driver},
      {"cuFuncSetAttribute", ErrorKind::Driver},
      {"cuMemcpyHtoD", ErrorKind::Driver},
      {"cuStreamSynchronize", ErrorKind::Driver},
  };
  for (const auto &[call, kind] : cases) {
    fake.failures = {{call, 999}};
    expectLoadError(std::string(call) + " failed: CUDA_ERROR_FAKE (999)", kind);
  }
  fake.failures = {{"cuMemAlloc", 2}};
  expectLoadError("bytes for the weights: cuMemAlloc failed: "
                  "CUDA_ERROR_OUT_OF_MEMORY (2)",
                  ErrorKind::Memory);
}

TEST_F(CudaModuleTest, LargeClusters) {
  files.kernel(0)["cluster"] = 16;
  files.kernel(0)["split"] = 16;
  files.write();
  ASSERT_TRUE(load().ok());
  const int attribute =
      static_cast<int>(FunctionAttribute::NonPortableClusterSize);
  EXPECT_EQ(fake.attributes["few"][attribute], 1);
  EXPECT_EQ(fake.attributes["many"].count(attribute), 0u);
}

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

TEST_F(CudaModuleTest, Plans) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 16);
  EXPECT_EQ(plan.kernel->name, "few");
  EXPECT_EQ(plan.geometry.grid, (std::array<uint32_t, 3>{8, 1, 1}));
  EXPECT_EQ(plan.geometry.workspaceBytes, 0u);
  EXPECT_EQ(plan.xBytes, 16u * 200 * 2);
  EXPECT_EQ(plan.yBytes, 16u * 48 * 2);
  plan = planOf(0, 17);
  EXPECT_EQ(plan.kernel->name, "many");
  EXPECT_EQ(plan.geometry.workspaceBytes, 100u + 3 * 8);
  plan = planOf(1, 5);
  EXPECT_EQ(plan.yBytes, 5u * 17 * 4);
  plan = planOf(0, 0);
  EXPECT_EQ(plan.kernel, nullptr);
  EXPECT_EQ(plan.xBytes, 0u);

  expectError(module->plan(3, 1, plan), "expected a linear below 3 but got 3");
  expectError(module->plan(0, -1, plan),
              "expected 0 to 2147483647 tokens but got -1");
  expectError(module->plan(0, int64_t(1) << 31, plan), "expected 0 to");
  expectError(module->plan(0, 4097, plan),
              "expected a number of tokens that linear 'gate_up' has a kernel "
              "for (1..16, 17..4096) but got 4097");
  expectError(module->plan(1, 600000, plan), "linear 'zeros': expected a grid");
}

TEST_F(CudaModuleTest, LinearWithoutKernels) {
  files.linear(0)["variants"] = nlohmann::json::array();
  files.write();
  ASSERT_TRUE(load().ok());
  Plan plan;
  EXPECT_TRUE(module->plan(0, 0, plan).ok());
  expectError(module->plan(0, 1, plan), "has a kernel for (none)");
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

TEST_F(CudaModuleTest, ArgumentsAndGeometry) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 3);
  LaunchOperands operands = operandsOf(plan);
  int stream;
  CudaStatus status = module->launch(plan, &stream, operands);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(fake.launches.size(), 1u);
  const FakeLaunch &launch = fake.launches[0];
  EXPECT_EQ(launch.kernel, "few");
  EXPECT_EQ(launch.grid[0], 8u);
  EXPECT_EQ(launch.grid[1], 1u);
  EXPECT_EQ(launch.grid[2], 1u);
  EXPECT_EQ(launch.threads, 160u);
  EXPECT_EQ(launch.sharedBytes, 100000u);
  EXPECT_EQ(launch.cluster, 2u);
  EXPECT_EQ(launch.stream, &stream);
  ASSERT_EQ(launch.arguments.size(), 11u);
  const auto &weights = module->getArtifact().getWeights(0);
  auto pointer = [&](size_t i) {
    return valueOf<uint64_t>(launch.arguments[i]);
  };
  EXPECT_EQ(launch.arguments[0].size(), 128u);
  uint64_t mapped;
  std::memcpy(&mapped, launch.arguments[0].data(), 8);
  EXPECT_EQ(mapped, operands.x.data);
  EXPECT_EQ(pointer(1), module->getAddress(weights[0].codes));
  EXPECT_EQ(pointer(2), module->getAddress(weights[0].scales));
  EXPECT_EQ(valueOf<float>(launch.arguments[3]), weights[0].outputScale);
  EXPECT_EQ(pointer(4), module->getAddress(weights[1].codes));
  EXPECT_EQ(pointer(5), module->getAddress(weights[1].scales));
  EXPECT_EQ(valueOf<float>(launch.arguments[6]), weights[1].outputScale);
  EXPECT_EQ(pointer(7), operands.y.data);
  EXPECT_EQ(pointer(8), epilogue[0].data);
  EXPECT_EQ(pointer(9), epilogue[1].data);
  EXPECT_EQ(valueOf<int32_t>(launch.arguments[10]), 3);

  // The box has as many tokens as there are.
  ASSERT_EQ(fake.maps.size(), 1u);
  EXPECT_EQ(fake.maps[0].type, static_cast<int>(TensorMapType::F16));
  EXPECT_EQ(fake.maps[0].dims, (std::vector<uint64_t>{200, 3}));
  EXPECT_EQ(fake.maps[0].strides, (std::vector<uint64_t>{400}));
  EXPECT_EQ(fake.maps[0].box, (std::vector<uint32_t>{64, 3}));
  EXPECT_EQ(fake.maps[0].swizzle, static_cast<int>(TensorMapSwizzle::Bytes128));
}

// Rows of x as segments, several of which are in a box.
TEST_F(CudaModuleTest, BoxesOfSegments) {
  files.manifest["kernels"][0]["tensor_map_x"]["box_k"] = 40;
  files.manifest["kernels"][0]["tensor_map_x"]["box_segments"] = 2;
  files.write();
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 3);
  ASSERT_TRUE(module->launch(plan, nullptr, operandsOf(plan)).ok());
  EXPECT_EQ(fake.maps.at(0).dims, (std::vector<uint64_t>{40, 3, 5}));
  EXPECT_EQ(fake.maps.at(0).strides, (std::vector<uint64_t>{400, 80}));
  EXPECT_EQ(fake.maps.at(0).box, (std::vector<uint32_t>{40, 3, 2}));
}

TEST_F(CudaModuleTest, WorkspaceAndOtherBoxes) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 40);
  LaunchOperands operands = operandsOf(plan);
  ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
  const FakeLaunch &launch = fake.launches.at(0);
  EXPECT_EQ(launch.kernel, "many");
  EXPECT_EQ(launch.cluster, 1u);
  EXPECT_EQ(valueOf<uint64_t>(launch.arguments[1]), operands.x.data);
  EXPECT_EQ(valueOf<uint64_t>(launch.arguments[9]), operands.workspace.data);
  EXPECT_EQ(fake.maps.at(0).box, (std::vector<uint32_t>{32, 40}));
  EXPECT_EQ(fake.maps.at(0).swizzle,
            static_cast<int>(TensorMapSwizzle::Bytes64));
}

TEST_F(CudaModuleTest, Zeros) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(1, 9);
  ASSERT_TRUE(module->launch(plan, nullptr, operandsOf(plan)).ok());
  const FakeLaunch &launch = fake.launches.at(0);
  EXPECT_EQ(launch.grid[0], 1u);
  EXPECT_EQ(launch.grid[1], 2u);
  const PackedWeightFiles &weight = module->getArtifact().getWeights(1)[0];
  EXPECT_EQ(valueOf<uint64_t>(launch.arguments[3]),
            module->getAddress(weight.zeros));
  EXPECT_EQ(
      std::memcmp(reinterpret_cast<void *>(module->getAddress(weight.zeros)),
                  files.tensors["zeros.packed_zeros"].bytes.data(),
                  files.tensors["zeros.packed_zeros"].bytes.size()),
      0);
}

TEST_F(CudaModuleTest, WeightsElsewhere) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(2, 1);
  ASSERT_TRUE(
      module->launchWithWeights(plan, nullptr, operandsOf(plan), 0x700000)
          .ok());
  EXPECT_EQ(valueOf<uint64_t>(fake.launches.at(0).arguments[1]),
            0x700000 + module->getArtifact().getWeights(2)[0].codes.offset);
}

TEST_F(CudaModuleTest, WeightsOfTheCaller) {
  for (bool inArtifact : {true, false}) {
    if (!inArtifact) {
      for (size_t i = 0; i < 3; ++i)
        files.linear(i).erase("packed");
      files.write();
    }
    ASSERT_TRUE(load({}, /*withoutWeights=*/inArtifact).ok());
    EXPECT_TRUE(fake.allocations.empty());
    EXPECT_EQ(module->getArtifact().getWeights(0).empty(), !inArtifact);
    const PackedWeightBytes &bytes = module->getArtifact().getBytesOfWeight(1);
    EXPECT_EQ(bytes.codes, 4u * 256 * 3);
    EXPECT_EQ(bytes.scales, 4u * 4 * 16 * 2);
    EXPECT_EQ(bytes.zeros, 4u * 4 * 16);
    Plan plan = planOf(1, 9);
    LaunchOperands operands = operandsOf(plan);
    expectLaunchError(plan, operands,
                      inArtifact ? "the module has none of it"
                                 : "the artifact has none of it");
    WeightBuffers weight = {{base + 0x100000, bytes.codes},
                            {base + 0x110000, bytes.scales},
                            {base + 0x120000, bytes.zeros},
                            0.25f};
    operands.weights = &weight;
    operands.numWeights = 2;
    expectLaunchError(plan, operands, "expected 1 weights but got 2");
    operands.numWeights = 1;
    ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
    const FakeLaunch &launch = fake.launches.at(0);
    EXPECT_EQ(valueOf<uint64_t>(launch.arguments[1]), weight.codes.data);
    EXPECT_EQ(valueOf<uint64_t>(launch.arguments[2]), weight.scales.data);
    EXPECT_EQ(valueOf<uint64_t>(launch.arguments[3]), weight.zeros.data);
    EXPECT_EQ(valueOf<float>(launch.arguments[4]), 0.25f);
    weight.zeros.bytes -= 1;
    expectLaunchError(plan, operands, "expected 'packed_zeros0' to have");
    weight.zeros.bytes += 1;
    weight.scales.data += 8;
    expectLaunchError(plan, operands, "expected 'packed_scales0' to have");
    weight.scales.data -= 8;
    weight.codes.data = 0;
    expectLaunchError(plan, operands, "but got a null pointer");

    // Both weights of a gated pair.
    plan = planOf(0, 3);
    operands = operandsOf(plan);
    const PackedWeightBytes &pair = module->getArtifact().getBytesOfWeight(0);
    EXPECT_EQ(pair.zeros, 0u);
    WeightBuffers weights[] = {
        {{base + 0x100000, pair.codes}, {base + 0x110000, pair.scales}, {}, 2},
        {{base + 0x120000, pair.codes}, {base + 0x130000, pair.scales}, {}, 3}};
    operands.weights = weights;
    operands.numWeights = 2;
    ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
    EXPECT_EQ(valueOf<uint64_t>(fake.launches.at(0).arguments[4]),
              weights[1].codes.data);
    EXPECT_EQ(valueOf<float>(fake.launches.at(0).arguments[6]), 3.0f);
    module.reset();
  }
}

TEST_F(CudaModuleTest, NoTokens) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 0);
  LaunchOperands operands;
  epilogue[0] = {base, 48 * 4};
  operands.epilogue = epilogue;
  operands.numEpilogue = 2;
  fake.calls.clear();
  EXPECT_TRUE(module->launch(plan, nullptr, operands).ok());
  EXPECT_TRUE(fake.calls.empty());
}

TEST_F(CudaModuleTest, WrongBuffers) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 40);
  auto check = [&](const std::function<void(LaunchOperands &)> &change,
                   const std::string &part) {
    LaunchOperands operands = operandsOf(plan);
    change(operands);
    expectLaunchError(plan, operands, part);
  };
  check([](LaunchOperands &o) { o.x.data = 0; },
        "expected 'x' to have 16000 bytes, aligned to 16, but got a null "
        "pointer");
  check([](LaunchOperands &o) { o.x.bytes -= 1; }, "but got 15999 bytes");
  check([](LaunchOperands &o) { o.x.data += 8; },
        "but got an address that is not a multiple of 16");
  check([](LaunchOperands &o) { o.y.bytes = 0; },
        "expected 'y' to have 3840 bytes");
  check([](LaunchOperands &o) { o.y.data += 2; }, "'y'");
  check([](LaunchOperands &o) { o.workspace = {}; },
        "expected 'workspace' to have 124 bytes");
  check([](LaunchOperands &o) { o.workspace.bytes = 123; }, "'workspace'");
  check([&](LaunchOperands &) { epilogue[0].bytes = 191; },
        "expected 'epilogue0' to have 192 bytes");
  check([&](LaunchOperands &) { epilogue[1].bytes = 3839; },
        "expected 'epilogue1' to have 3840 bytes");
  check([](LaunchOperands &o) { o.numEpilogue = 1; },
        "expected 2 epilogue operands but got 1");
  check([](LaunchOperands &o) { o.epilogue = nullptr; },
        "expected 2 epilogue operands but got 0");
  check([](LaunchOperands &o) { o.y.data = o.x.data + 15984; },
        "expected x, y, offsets and workspace to be different memory");
  check([](LaunchOperands &o) { o.workspace.data = o.y.data; },
        "different memory");
  // Touching is no overlap.
  LaunchOperands operands = operandsOf(plan);
  operands.y.data = operands.x.data + 16000;
  EXPECT_TRUE(module->launch(plan, nullptr, operands).ok());
  // A plan of nobody.
  plan.linear = 17;
  expectLaunchError(plan, operandsOf(plan), "expected a linear below 3");
}

TEST_F(CudaModuleTest, Experts) {
  files.makeExperts();
  files.write();
  CudaStatus status = load();
  ASSERT_TRUE(status.ok()) << status.message();
  Plan plan = planOf(2, 20);
  EXPECT_EQ(plan.xBytes, 20u * 200 * 2);
  EXPECT_EQ(plan.yBytes, 20u * 12 * 2);
  EXPECT_EQ(plan.offsetsBytes, 20u);
  // Two tokens more than two tiles of 8, over four experts.
  EXPECT_EQ(plan.geometry.grid, (std::array<uint32_t, 3>{1, 6, 1}));
  LaunchOperands operands = operandsOf(plan);
  operands.offsets = {base + 0x90004, 20};
  // One value for every row of the weight.
  epilogue[0] = {base + 0xa0000, 48 * 2};
  operands.epilogue = epilogue;
  operands.numEpilogue = 1;
  status = module->launch(plan, nullptr, operands);
  ASSERT_TRUE(status.ok()) << status.message();
  const FakeLaunch &launch = fake.launches.at(0);
  EXPECT_EQ(valueOf<uint64_t>(launch.arguments[4]), operands.offsets.data);
  EXPECT_EQ(valueOf<int32_t>(launch.arguments[7]), 20);

  auto check = [&](const std::function<void(LaunchOperands &)> &change,
                   const std::string &part) {
    LaunchOperands changed = operands;
    change(changed);
    expectLaunchError(plan, changed, part);
  };
  check([](LaunchOperands &o) { o.offsets = {}; },
        "expected 'offsets' to have 20 bytes, aligned to 4, but got a null "
        "pointer");
  check([](LaunchOperands &o) { o.offsets.bytes = 19; }, "but got 19 bytes");
  check([](LaunchOperands &o) { o.offsets.data += 2; },
        "an address that is not a multiple of 4");
  check([](LaunchOperands &o) { o.offsets.data = o.y.data + 16; },
        "different memory");
  check(
      [&](LaunchOperands &o) {
        epilogue[0].bytes = 95;
        o.epilogue = epilogue;
      },
      "expected 'epilogue0' to have 96 bytes");
}

TEST_F(CudaModuleTest, DriverErrorsOfLaunches) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 3);
  for (const char *call :
       {"cuTensorMapEncodeTiled", "cuCtxPushCurrent", "cuLaunchKernelEx"}) {
    fake.failures = {{call, 719}};
    CudaStatus status = module->launch(plan, nullptr, operandsOf(plan));
    expectError(status, std::string(call) + " failed: CUDA_ERROR_FAKE (719)");
    EXPECT_EQ(status.kind, ErrorKind::Driver);
  }
  fake.failures.clear();
  EXPECT_TRUE(module->launch(plan, nullptr, operandsOf(plan)).ok());
}

TEST_F(CudaModuleTest, LaunchesThatOverlap) {
  files.kernel(0)["dependent_launch"] = 1;
  files.write();
  ASSERT_TRUE(load().ok());
  auto launch = [&](int64_t m, auto change) {
    Plan plan = planOf(0, m);
    LaunchOperands operands = operandsOf(plan);
    change(operands);
    CudaStatus status = module->launch(plan, nullptr, operands);
    EXPECT_TRUE(status.ok()) << status.message();
    return fake.launches.back();
  };
  auto nothing = [](LaunchOperands &) {};
  FakeLaunch overlapping = launch(3, nothing);
  EXPECT_TRUE(overlapping.overlaps);
  EXPECT_EQ(overlapping.cluster, 2u);
  EXPECT_FALSE(launch(3, [](LaunchOperands &o) { o.plain = true; }).overlaps);
  // What the manifest does not say is not so.
  EXPECT_FALSE(launch(40, nothing).overlaps);
  // The kernel before may be what writes the weights of the caller.
  WeightBuffers weights[2];
  const auto &files = module->getArtifact().getWeights(0);
  for (size_t i = 0; i < 2; ++i) {
    weights[i].codes = {module->getAddress(files[i].codes),
                        files[i].codes.source.bytes};
    weights[i].scales = {module->getAddress(files[i].scales),
                         files[i].scales.source.bytes};
  }
  FakeLaunch own = launch(3, [&](LaunchOperands &operands) {
    operands.weights = weights;
    operands.numWeights = 2;
  });
  EXPECT_FALSE(own.overlaps);
  EXPECT_EQ(own.arguments[1], overlapping.arguments[1]);
  // Unless the caller says that nobody does; asked to, it starts plainly.
  for (bool plain : {false, true}) {
    FakeLaunch constant = launch(3, [&](LaunchOperands &operands) {
      operands.weights = weights;
      operands.numWeights = 2;
      operands.constantWeights = true;
      operands.plain = plain;
    });
    EXPECT_EQ(constant.overlaps, !plain);
    EXPECT_EQ(constant.arguments[1], overlapping.arguments[1]);
  }
}

TEST_F(CudaModuleTest, DriversThatCannotCaptureOverlap) {
  files.kernel(0)["dependent_launch"] = 1;
  files.write();
  fake.version = 12020;
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 3);
  ASSERT_TRUE(module->launch(plan, nullptr, operandsOf(plan)).ok());
  EXPECT_FALSE(fake.launches.back().overlaps);
}

// What a captured launch may do: nothing but launch.
TEST_F(CudaModuleTest, LaunchesOnlyLaunch) {
  ASSERT_TRUE(load().ok());
  Plan plan = planOf(0, 3);
  LaunchOperands operands = operandsOf(plan);
  ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
  fake.calls.clear();
  ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
  EXPECT_EQ(fake.calls,
            (std::vector<std::string>{"cuCtxGetCurrent", "cuCtxPushCurrent",
                                      "cuLaunchKernelEx", "cuCtxPopCurrent"}));
  CurrentContext current(module->getDevice());
  fake.calls.clear();
  ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
  EXPECT_EQ(fake.calls,
            (std::vector<std::string>{"cuCtxGetCurrent", "cuLaunchKernelEx"}));
}

TEST_F(CudaModuleTest, LaunchesDoNotAllocate) {
  ASSERT_TRUE(load().ok());
  Plan few = planOf(0, 3), many = planOf(0, 40);
  LaunchOperands fewOperands = operandsOf(few);
  Buffer fewEpilogue[] = {epilogue[0], epilogue[1]};
  fewOperands.epilogue = fewEpilogue;
  LaunchOperands manyOperands = operandsOf(many);
  fake.recording = false;
  size_t before = numAllocations;
  CudaStatus first = module->launch(few, nullptr, fewOperands);
  CudaStatus second = module->launch(many, nullptr, manyOperands);
  CudaStatus third = module->launch(few, nullptr, fewOperands);
  size_t made = numAllocations - before;
  EXPECT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_EQ(made, 0u);
}

TEST_F(CudaModuleTest, TensorMapsAreKept) {
  ASSERT_TRUE(load().ok());
  auto launch = [&](int64_t m, uint64_t offset) {
    Plan plan = planOf(0, m);
    LaunchOperands operands = operandsOf(plan);
    operands.x.data += offset;
    ASSERT_TRUE(module->launch(plan, nullptr, operands).ok());
    const FakeLaunch &last = fake.launches.back();
    uint64_t words[5];
    std::memcpy(words, last.arguments[0].data(), sizeof(words));
    EXPECT_EQ(words[0], operands.x.data);
    EXPECT_EQ(words[2], static_cast<uint64_t>(m));
  };
  launch(3, 0);
  launch(3, 0);
  EXPECT_EQ(fake.maps.size(), 1u);
  launch(4, 0);
  launch(3, 16);
  launch(20, 0);
  EXPECT_EQ(fake.maps.size(), 4u);
  launch(3, 0);
  launch(4, 0);
  launch(3, 16);
  launch(20, 0);
  EXPECT_EQ(fake.maps.size(), 4u);
  // Far more than are kept: every launch still gets its own.
  for (int round = 0; round < 2; ++round)
    for (uint64_t i = 0; i < 600; ++i)
      launch(1 + static_cast<int64_t>(i % 16), 16 * i);
}

TEST_F(CudaModuleTest, Threads) {
  ASSERT_TRUE(load().ok());
  fake.calls.reserve(1 << 20);
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        Plan plan;
        LaunchOperands operands;
        if (!module->plan(0, 1 + (t * 31 + i) % 60, plan).ok()) {
          ++failed;
          continue;
        }
        Buffer own[] = {{base + 0xa0000, 48 * 4},
                        {base + 0xb0000, 48 * 2 * 60}};
        operands.x = {base + 16 * (i % 5), plan.xBytes};
        operands.y = {base + 0x40000, plan.yBytes};
        operands.workspace = {base + 0x80000, plan.geometry.workspaceBytes};
        operands.epilogue = own;
        operands.numEpilogue = 2;
        if (!module->launch(plan, nullptr, operands).ok())
          ++failed;
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(failed, 0);
  ASSERT_EQ(fake.launches.size(), 4000u);
  for (const FakeLaunch &launch : fake.launches) {
    uint64_t words[3];
    std::memcpy(words, launch.arguments[0].data(), sizeof(words));
    EXPECT_EQ(static_cast<int64_t>(words[2]),
              valueOf<int32_t>(launch.arguments.back()));
  }
}
