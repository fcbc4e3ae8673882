//===- Module.cpp - Linear layers on a device -----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/Module.h"

#include "quant-llm/Target/Assembler.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

using namespace quant_llm;
using namespace quant_llm::cuda;

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

/// Whether code for `chip` ("sm_90a", "sm_80") runs on a device. Machine code
/// runs within one major version, code that uses features of one chip (a) or
/// family (f) only there.
static CudaStatus checkChip(const std::string &chip,
                            const DeviceContext &device, bool isText) {
  unsigned number = 0;
  char suffix = '\0', rest = '\0';
  int read = std::sscanf(chip.c_str(), "sm_%3u%c%c", &number, &suffix, &rest);
  bool known = (read == 1 || (read == 2 && (suffix == 'a' || suffix == 'f'))) &&
               number >= 10;
  if (!known)
    return {ErrorKind::Artifact,
            "expected a chip such as sm_90a but got '" + chip + "'"};
  int wanted = static_cast<int>(number);
  int has = device.major * 10 + device.minor;
  bool runs = suffix == 'a' ? has == wanted
              : suffix == 'f' || !isText
                  ? has / 10 == wanted / 10 && has >= wanted
                  : has >= wanted;
  if (runs)
    return {};
  return {ErrorKind::Unavailable,
          "expected a device of the chip " + chip + " but '" + device.name +
              "' is sm_" + std::to_string(has) +
              "; compile for it with quant-llm-to-gpu{chip=...}"};
}

static bool isMachineCode(const MappedFile &file) {
  return file.size() >= 4 && std::memcmp(file.data(), "\177ELF", 4) == 0;
}

/// Rejects PTX that the compiler in the driver is known to compile wrongly. The
/// driver tells the release of that compiler but not its build.
static Status checkCompiler(const Driver &driver, std::string_view ptx) {
  AssemblerVersion version;
  version.major = static_cast<unsigned>(driver.version) / 1000;
  version.minor = static_cast<unsigned>(driver.version) % 1000 / 10;
  Status status = checkKnownFaults(version, ptx);
  if (status.ok())
    return status;
  return Status::error(
      "expected machine code, because the compiler in the CUDA driver (" +
      std::to_string(version.major) + "." + std::to_string(version.minor) +
      ") is one of those that make wrong code of these kernels; compile with "
      "quant-llm-to-gpu{format=cubin} and ptxas 13.0.88 or 13.3, or update "
      "NVIDIA's driver to CUDA 13.3");
}

CudaStatus Module::create(std::shared_ptr<const Artifact> artifact,
                          const Options &options,
                          std::unique_ptr<Module> &result) {
  std::unique_ptr<Module> made(new Module);
  made->artifact = std::move(artifact);
  std::shared_ptr<const Driver> driver;
  CudaStatus status = Driver::load(options.driver, driver);
  if (status.ok())
    status =
        DeviceContext::create(std::move(driver), options.device, made->device);
  if (!status.ok())
    return status;
  CurrentContext current(*made->device);
  if (!current.status().ok())
    return current.status();
  status = made->loadKernels();
  if (status.ok() && !options.withoutWeights)
    status = made->loadWeights(options);
  if (!status.ok())
    return status;
  result = std::move(made);
  return {};
}

Module::~Module() {
  if (!device)
    return;
  CurrentContext current(*device);
  const Driver &driver = device->getDriver();
  // Errors here have nobody to hear of them.
  for (ModuleHandle module : modules)
    (void)driver.moduleUnload(module);
  if (ownsMemory)
    (void)driver.memFree(memory);
}

/// Rejects a kernel whose parameters are not those of its description.
static Status checkParameters(const Driver &driver, Function function,
                              const KernelDescription &kernel) {
  if (!driver.functionGetParameter)
    return Status::success();
  size_t offset, size;
  for (size_t i = 0; i < kernel.arguments.size(); ++i) {
    ArgumentKind kind = kernel.arguments[i].kind;
    size_t expected = kind == ArgumentKind::TensorMapX    ? sizeof(TensorMap)
                      : kind == ArgumentKind::OutputScale ? sizeof(float)
                      : kind == ArgumentKind::M ? sizeof(int32_t)
                                                : sizeof(DevicePointer);
    if (driver.functionGetParameter(function, i, &offset, &size) != 0)
      return Status::error("expected " +
                           std::to_string(kernel.arguments.size()) +
                           " parameters but it has " + std::to_string(i));
    if (size != expected)
      return Status::error("expected parameter " + std::to_string(i) + " ('" +
                           argumentName(kernel.arguments[i]) + "') to have " +
                           std::to_string(expected) + " bytes but it has " +
                           std::to_string(size));
  }
  if (driver.functionGetParameter(function, kernel.arguments.size(), &offset,
                                  &size) == 0)
    return Status::error("expected " + std::to_string(kernel.arguments.size()) +
                         " parameters but it has more");
  return Status::success();
}

CudaStatus Module::loadKernels() {
  const Driver &driver = device->getDriver();
  const Manifest &manifest = artifact->getManifest();
  std::vector<ModuleHandle> moduleOfFile(artifact->getNumKernelFiles());
  for (size_t i = 0; i < manifest.kernels.size(); ++i) {
    const KernelDescription &kernel = manifest.kernels[i];
    std::string where = "kernel '" + kernel.name + "'";
    auto fail = [&](const CudaStatus &status) {
      return CudaStatus(status.kind, status.withContext(where));
    };
    ModuleHandle &module = moduleOfFile[artifact->getKernelFileIndex(i)];
    if (!module) {
      const MappedFile &file = artifact->getKernelFile(i);
      CudaStatus status =
          checkChip(manifest.chip, *device, !isMachineCode(file));
      if (!status.ok())
        return fail(status);
      // PTX must end in a zero, which a mapped file does not.
      std::string image(reinterpret_cast<const char *>(file.data()),
                        file.size());
      if (!isMachineCode(file))
        if (Status usable = checkCompiler(driver, image); !usable.ok())
          return fail({ErrorKind::Unavailable, usable});
      char log[4096] = {};
      int names[] = {5, 6}; // CU_JIT_ERROR_LOG_BUFFER and its size in bytes
      void *values[] = {log, reinterpret_cast<void *>(sizeof(log) - 1)};
      int code = driver.moduleLoad(&module, image.c_str(), 2, names, values);
      status = driver.check(code, "cuModuleLoadDataEx");
      if (!status.ok())
        return {status.kind,
                Status::error(status.message() + (log[0] ? ": " : "") + log)
                    .withContext(where)};
      modules.push_back(module);
    }
    Function function = nullptr;
    CudaStatus status = driver.check(
        driver.moduleGetFunction(&function, module, kernel.name.c_str()),
        "cuModuleGetFunction");
    if (!status.ok())
      return fail({ErrorKind::Artifact, status});
    if (kernel.sharedBytes > device->maxSharedBytes)
      return fail({ErrorKind::Unavailable,
                   "expected at most " +
                       std::to_string(device->maxSharedBytes) +
                       " bytes of shared memory (" + device->name +
                       ") but got " + std::to_string(kernel.sharedBytes)});
    int threads = 0;
    status = driver.check(
        driver.functionGetAttribute(
            &threads, static_cast<int>(FunctionAttribute::MaxThreadsPerBlock),
            function),
        "cuFuncGetAttribute");
    if (status.ok() && kernel.threads > threads)
      return fail({ErrorKind::Artifact,
                   "expected at most " + std::to_string(threads) +
                       " threads but got " + std::to_string(kernel.threads)});
    Status parameters = checkParameters(driver, function, kernel);
    if (!parameters.ok())
      return fail({ErrorKind::Artifact, parameters});
    if (status.ok())
      status = driver.check(
          driver.functionSetAttribute(
              function,
              static_cast<int>(FunctionAttribute::MaxDynamicSharedBytes),
              static_cast<int>(kernel.sharedBytes)),
          "cuFuncSetAttribute");
    // Eight blocks are the largest cluster that every chip has.
    if (status.ok() && kernel.cluster > 8)
      status = driver.check(
          driver.functionSetAttribute(
              function,
              static_cast<int>(FunctionAttribute::NonPortableClusterSize), 1),
          "cuFuncSetAttribute");
    if (!status.ok())
      return fail(status);
    functions.push_back(function);
  }
  return {};
}

CudaStatus Module::loadWeights(const Options &options) {
  const Driver &driver = device->getDriver();
  uint64_t bytes = artifact->getWeightBytes();
  if (options.memory.data != 0) {
    if (options.memory.bytes < bytes)
      return {ErrorKind::Argument,
              "expected at least " + std::to_string(bytes) +
                  " bytes of memory for the weights but got " +
                  std::to_string(options.memory.bytes)};
    if (options.memory.data % weightAlignment != 0)
      return {ErrorKind::Argument,
              "expected memory for the weights aligned to " +
                  std::to_string(weightAlignment) + " bytes"};
    memory = options.memory.data;
  } else if (bytes > 0) {
    CudaStatus status =
        driver.check(driver.memAlloc(&memory, bytes), "cuMemAlloc");
    if (!status.ok())
      return {status.kind,
              status.withContext("cannot allocate " + std::to_string(bytes) +
                                 " bytes for the weights")};
    ownsMemory = true;
  }
  for (const PackedTensor &tensor : artifact->getTensors()) {
    if (tensor.source.bytes == 0)
      continue;
    CudaStatus status = driver.check(driver.copyToDevice(memory + tensor.offset,
                                                         tensor.source.data,
                                                         tensor.source.bytes),
                                     "cuMemcpyHtoD");
    if (!status.ok())
      return {status.kind,
              status.withContext("weight '" + tensor.source.name + "'")};
    artifact->getArchive(tensor.archive).release(tensor.source);
  }
  hasWeights = true;
  // A copy may return while its last bytes are on their way, and launches wait
  // for no weights.
  return driver.check(driver.streamSynchronize(nullptr), "cuStreamSynchronize");
}

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

CudaStatus Module::plan(size_t linear, int64_t m, Plan &plan) const {
  const Manifest &manifest = artifact->getManifest();
  if (linear >= manifest.linears.size())
    return {ErrorKind::Argument, "expected a linear below " +
                                     std::to_string(manifest.linears.size()) +
                                     " but got " + std::to_string(linear)};
  const LinearDescription &description = manifest.linears[linear];
  if (m < 0 || m > INT32_MAX)
    return {ErrorKind::Argument,
            "expected 0 to 2147483647 tokens but got " + std::to_string(m)};
  Plan made;
  made.linear = linear;
  made.m = m;
  // Both factors are below 2^31 and elements have at most 4 bytes.
  made.xBytes = static_cast<uint64_t>(m) * description.k *
                getByteWidth(description.activation);
  made.yBytes = static_cast<uint64_t>(m) * description.n *
                getByteWidth(description.output);
  if (description.isGrouped())
    made.offsetsBytes = static_cast<uint64_t>(description.experts + 1) *
                        description.offsetBytes;
  if (m > 0) {
    const LinearVariant *chosen = nullptr;
    for (const LinearVariant &variant : description.variants)
      if (!chosen && variant.minTokens <= m && m <= variant.maxTokens)
        chosen = &variant;
    if (!chosen) {
      std::string ranges;
      for (const LinearVariant &variant : description.variants)
        ranges += (ranges.empty() ? "" : ", ") +
                  std::to_string(variant.minTokens) + ".." +
                  std::to_string(variant.maxTokens);
      return {ErrorKind::Argument,
              "expected a number of tokens that linear '" + description.name +
                  "' has a kernel for (" + (ranges.empty() ? "none" : ranges) +
                  ") but got " + std::to_string(m)};
    }
    made.kernelIndex = chosen->kernel;
    made.kernel = &manifest.kernels[chosen->kernel];
    Status status =
        getLaunchGeometry(*made.kernel, description.n, description.experts, m,
                          device->multiprocessors, made.geometry);
    if (!status.ok())
      return {ErrorKind::Argument,
              status.withContext("linear '" + description.name + "'")};
  }
  plan = made;
  return {};
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

/// Rejects a buffer that is too small or not aligned. The name is put together
/// only for an error: a launch must not allocate.
static CudaStatus checkBuffer(const char *name, int index, const Buffer &buffer,
                              uint64_t bytes,
                              uint64_t alignment = bufferAlignment) {
  if (bytes == 0)
    return {};
  std::string message;
  if (buffer.data == 0)
    message = "a null pointer";
  else if (buffer.bytes < bytes)
    message = std::to_string(buffer.bytes) + " bytes";
  else if (buffer.data % alignment != 0)
    message =
        "an address that is not a multiple of " + std::to_string(alignment);
  else
    return {};
  return {ErrorKind::Argument,
          "expected '" + std::string(name) +
              (index < 0 ? "" : std::to_string(index)) + "' to have " +
              std::to_string(bytes) + " bytes, aligned to " +
              std::to_string(alignment) + ", but got " + message};
}

static bool overlaps(const Buffer &a, uint64_t aBytes, const Buffer &b,
                     uint64_t bBytes) {
  return aBytes > 0 && bBytes > 0 && a.data < b.data + bBytes &&
         b.data < a.data + aBytes;
}

CudaStatus Module::checkBuffers(const Plan &plan,
                                const LaunchOperands &operands) const {
  const LinearDescription &linear =
      artifact->getManifest().linears[plan.linear];
  if (operands.numEpilogue != linear.epilogue.size() ||
      (operands.numEpilogue > 0 && !operands.epilogue))
    return {ErrorKind::Argument,
            "expected " + std::to_string(linear.epilogue.size()) +
                " epilogue operands but got " +
                std::to_string(operands.epilogue ? operands.numEpilogue : 0)};
  if (!operands.weights &&
      (!hasWeights || artifact->getWeights(plan.linear).empty()))
    return {ErrorKind::Argument,
            "expected weights with the launch of linear '" + linear.name +
                "': the " + (hasWeights ? "artifact" : "module") +
                " has none of it"};
  if (operands.weights && operands.numWeights != linear.weights.size())
    return {ErrorKind::Argument,
            "expected " + std::to_string(linear.weights.size()) +
                " weights but got " + std::to_string(operands.numWeights)};
  uint64_t workspace = plan.geometry.workspaceBytes;
  CudaStatus status = checkBuffer("x", -1, operands.x, plan.xBytes);
  if (status.ok())
    status = checkBuffer("y", -1, operands.y, plan.yBytes);
  if (status.ok() && linear.isGrouped())
    status = checkBuffer("offsets", -1, operands.offsets, plan.offsetsBytes,
                         linear.offsetBytes);
  if (status.ok())
    status = checkBuffer("workspace", -1, operands.workspace, workspace);
  for (size_t i = 0; i < operands.numEpilogue && status.ok(); ++i) {
    const EpilogueOperand &operand = linear.epilogue[i];
    uint64_t bytes =
        static_cast<uint64_t>(operand.perElement ? linear.n * plan.m
                                                 : linear.getRows()) *
        getByteWidth(operand.type);
    status = checkBuffer("epilogue", static_cast<int>(i), operands.epilogue[i],
                         bytes);
  }
  const PackedWeightBytes &bytes = artifact->getBytesOfWeight(plan.linear);
  for (size_t i = 0; operands.weights && i < operands.numWeights; ++i) {
    const WeightBuffers &weight = operands.weights[i];
    int index = static_cast<int>(i);
    if (status.ok())
      status = checkBuffer("packed", index, weight.codes, bytes.codes);
    if (status.ok())
      status = checkBuffer("packed_scales", index, weight.scales, bytes.scales);
    if (status.ok())
      status = checkBuffer("packed_zeros", index, weight.zeros, bytes.zeros);
  }
  if (status.ok() &&
      (overlaps(operands.y, plan.yBytes, operands.x, plan.xBytes) ||
       overlaps(operands.y, plan.yBytes, operands.offsets, plan.offsetsBytes) ||
       overlaps(operands.y, plan.yBytes, operands.workspace, workspace) ||
       overlaps(operands.x, plan.xBytes, operands.workspace, workspace)))
    return {ErrorKind::Argument,
            "expected x, y, offsets and workspace to be different memory"};
  return status;
}

static TensorMapType getTensorMapType(TensorType type) {
  return type == TensorType::BF16  ? TensorMapType::BF16
         : type == TensorType::F32 ? TensorMapType::F32
                                   : TensorMapType::F16;
}

static TensorMapSwizzle getSwizzle(int64_t bytes) {
  return bytes == 128  ? TensorMapSwizzle::Bytes128
         : bytes == 64 ? TensorMapSwizzle::Bytes64
         : bytes == 32 ? TensorMapSwizzle::Bytes32
                       : TensorMapSwizzle::None;
}

CudaStatus Module::getTensorMap(const LinearDescription &linear,
                                const TensorMapForm &form, DevicePointer x,
                                int64_t m, TensorMap &map) const {
  uint64_t hash = (x >> 4) * 0x9e3779b97f4a7c15u ^
                  static_cast<uint64_t>(m) * 0xc2b2ae3d27d4eb4fu;
  CacheSet &set = cache[hash >> 32 & (cache.size() - 1)];
  std::lock_guard<std::mutex> lock(set.mutex);
  for (const CachedMap &entry : set.entries)
    if (entry.x == x && entry.m == m && entry.k == linear.k &&
        entry.type == linear.activation && entry.form == form) {
      map = entry.map;
      return {};
    }
  // The third dimension, if there is one, are the segments of a row.
  uint32_t rank = form.boxSegments ? 3 : 2;
  int64_t width = getByteWidth(linear.activation);
  const uint64_t dims[] = {
      static_cast<uint64_t>(form.boxSegments ? form.boxK : linear.k),
      static_cast<uint64_t>(m), static_cast<uint64_t>(linear.k / form.boxK)};
  const uint64_t strides[] = {static_cast<uint64_t>(linear.k * width),
                              static_cast<uint64_t>(form.boxK * width)};
  int64_t tokens = std::min(form.boxTokens, m);
  const uint32_t box[] = {static_cast<uint32_t>(form.boxK),
                          static_cast<uint32_t>(tokens),
                          static_cast<uint32_t>(form.boxSegments)};
  const uint32_t steps[] = {1, 1, 1};
  const Driver &driver = device->getDriver();
  CudaStatus status = driver.check(
      driver.tensorMapEncode(
          &map, static_cast<int>(getTensorMapType(linear.activation)), rank,
          reinterpret_cast<void *>(x), dims, strides, box, steps,
          /*interleave=*/0, static_cast<int>(getSwizzle(form.swizzle)),
          tensorMapPromotion256, /*fill=*/0),
      "cuTensorMapEncodeTiled");
  if (!status.ok())
    return status;
  CachedMap &entry = set.entries[set.next++ % set.entries.size()];
  entry.x = x;
  entry.m = m;
  entry.k = linear.k;
  entry.type = linear.activation;
  entry.form = form;
  entry.map = map;
  return {};
}

CudaStatus Module::launch(const Plan &plan, Stream stream,
                          const LaunchOperands &operands) const {
  return launchWithWeights(plan, stream, operands, memory);
}

CudaStatus Module::launchWithWeights(const Plan &given, Stream stream,
                                     const LaunchOperands &operands,
                                     DevicePointer weightMemory) const {
  // A plan may have come through the hands of a C program: only what it was
  // made for is believed.
  Plan plan;
  CudaStatus status = this->plan(given.linear, given.m, plan);
  if (!status.ok())
    return status;
  status = checkBuffers(plan, operands);
  if (!status.ok() || plan.m == 0)
    return status;
  const LinearDescription &linear =
      artifact->getManifest().linears[plan.linear];
  WeightBuffers weights[2];
  for (size_t i = 0; i < linear.weights.size(); ++i) {
    if (operands.weights) {
      weights[i] = operands.weights[i];
      continue;
    }
    const PackedWeightFiles &files = artifact->getWeights(plan.linear)[i];
    weights[i].codes.data = weightMemory + files.codes.offset;
    weights[i].scales.data = weightMemory + files.scales.offset;
    weights[i].zeros.data = weightMemory + files.zeros.offset;
    weights[i].outputScale = files.outputScale;
  }

  union Value {
    DevicePointer pointer;
    float number;
    int32_t integer;
  } values[maxArguments];
  TensorMap map;
  void *pointers[maxArguments];
  size_t count = 0;
  for (const KernelArgument &argument : plan.kernel->arguments) {
    Value &value = values[count];
    pointers[count++] = &value;
    switch (argument.kind) {
    case ArgumentKind::TensorMapX:
      status = getTensorMap(linear, *plan.kernel->tensorMap, operands.x.data,
                            plan.m, map);
      if (!status.ok())
        return status;
      pointers[count - 1] = &map;
      break;
    case ArgumentKind::X:
      value.pointer = operands.x.data;
      break;
    case ArgumentKind::Y:
      value.pointer = operands.y.data;
      break;
    case ArgumentKind::Offsets:
      value.pointer = operands.offsets.data;
      break;
    case ArgumentKind::Workspace:
      value.pointer = operands.workspace.data;
      break;
    case ArgumentKind::Packed:
      value.pointer = weights[argument.index].codes.data;
      break;
    case ArgumentKind::PackedScales:
      value.pointer = weights[argument.index].scales.data;
      break;
    case ArgumentKind::PackedZeros:
      value.pointer = weights[argument.index].zeros.data;
      break;
    case ArgumentKind::OutputScale:
      value.number = weights[argument.index].outputScale;
      break;
    case ArgumentKind::Epilogue:
      value.pointer = operands.epilogue[argument.index].data;
      break;
    case ArgumentKind::M:
      value.integer = static_cast<int32_t>(plan.m);
      break;
    }
  }

  LaunchAttribute attributes[2] = {};
  unsigned numAttributes = 0;
  if (plan.kernel->cluster > 1) {
    LaunchAttribute &attribute = attributes[numAttributes++];
    attribute.id = launchAttributeCluster;
    attribute.value.cluster = {static_cast<unsigned>(plan.kernel->cluster), 1,
                               1};
  }
  bool areWeightsConstant = !operands.weights || operands.constantWeights;
  if (plan.kernel->dependentLaunch && areWeightsConstant && !operands.plain &&
      device->getDriver().canOverlapLaunches()) {
    LaunchAttribute &attribute = attributes[numAttributes++];
    attribute.id = launchAttributeProgrammaticSerialization;
    attribute.value.programmaticSerialization = 1;
  }
  LaunchConfig config = {};
  config.gridX = plan.geometry.grid[0];
  config.gridY = plan.geometry.grid[1];
  config.gridZ = plan.geometry.grid[2];
  config.blockX = static_cast<unsigned>(plan.kernel->threads);
  config.blockY = config.blockZ = 1;
  config.sharedBytes = static_cast<unsigned>(plan.kernel->sharedBytes);
  config.stream = stream;
  config.attributes = attributes;
  config.numAttributes = numAttributes;
  CurrentContext current(*device);
  if (!current.status().ok())
    return current.status();
  const Driver &driver = device->getDriver();
  return driver.check(driver.launchKernel(&config, functions[plan.kernelIndex],
                                          pointers, nullptr),
                      "cuLaunchKernelEx");
}
