//===- CAPI.cpp - The C interface of the CUDA runtime ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/CudaRuntime.h"
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Runtime/CUDA/Module.h"

#include <exception>
#include <new>

using namespace quant_llm;
using namespace quant_llm::cuda;

struct QuantLLMCudaArtifact {
  std::shared_ptr<const Artifact> artifact;
  /// Texts that the manifest has in another form.
  std::vector<std::string> schemes;
};

struct QuantLLMCudaModule {
  std::unique_ptr<Module> module;
};

static thread_local std::string lastError;

static QuantLLMCudaStatus toC(ErrorKind kind) {
  switch (kind) {
  case ErrorKind::Argument:
    return QUANT_LLM_CUDA_INVALID_ARGUMENT;
  case ErrorKind::Artifact:
    return QUANT_LLM_CUDA_INVALID_ARTIFACT;
  case ErrorKind::Unavailable:
    return QUANT_LLM_CUDA_UNAVAILABLE;
  case ErrorKind::Driver:
    return QUANT_LLM_CUDA_DRIVER_ERROR;
  case ErrorKind::Memory:
    return QUANT_LLM_CUDA_OUT_OF_MEMORY;
  }
  return QUANT_LLM_CUDA_INTERNAL_ERROR;
}

static QuantLLMCudaStatus report(QuantLLMCudaStatus status,
                                 const char *message) noexcept {
  try {
    lastError = message;
  } catch (...) {
    // Without memory for the message the status must do.
    lastError.clear();
  }
  return status;
}

/// Runs the body of a function. No exception may reach a C caller. Our own code
/// raises none, but the standard library does: about memory, which is nobody's
/// fault, and else about misuse, which is ours.
template <typename Body>
static QuantLLMCudaStatus runGuarded(Body body) {
  try {
    CudaStatus status = body();
    if (status.ok())
      return QUANT_LLM_CUDA_OK;
    return report(toC(status.kind), status.message().c_str());
  } catch (const std::bad_alloc &) {
    return report(QUANT_LLM_CUDA_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &exception) {
    return report(QUANT_LLM_CUDA_INTERNAL_ERROR, exception.what());
  } catch (...) {
    return report(QUANT_LLM_CUDA_INTERNAL_ERROR, "unknown exception");
  }
}

static CudaStatus checkNotNull(const void *pointer, const char *name) {
  if (pointer)
    return {};
  return {ErrorKind::Argument,
          std::string("expected '") + name + "' but got a null pointer"};
}

static CudaStatus checkIndex(const char *what, size_t index, size_t count) {
  if (index < count)
    return {};
  return {ErrorKind::Argument, std::string("expected ") + what + " below " +
                                   std::to_string(count) + " but got " +
                                   std::to_string(index)};
}

#define RETURN_IF_NULL(argument)                                               \
  if (CudaStatus given = checkNotNull(argument, #argument); !given.ok())       \
  return given

/// A linear of an artifact, for a function that describes it in `result`.
static CudaStatus findLinear(const QuantLLMCudaArtifact *artifact,
                             size_t linear, const void *result,
                             const LinearDescription *&found) {
  RETURN_IF_NULL(artifact);
  RETURN_IF_NULL(result);
  const Manifest &manifest = artifact->artifact->getManifest();
  CudaStatus status = checkIndex("a linear", linear, manifest.linears.size());
  if (status.ok())
    found = &manifest.linears[linear];
  return status;
}

const char *quantLLMCudaGetLastError(void) { return lastError.c_str(); }

const char *quantLLMCudaGetVersion(void) { return QUANT_LLM_VERSION; }

//===----------------------------------------------------------------------===//
// Artifacts
//===----------------------------------------------------------------------===//

QuantLLMCudaStatus quantLLMCudaArtifactOpen(const char *path,
                                            const char *archive,
                                            QuantLLMCudaArtifact **artifact) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(path);
    RETURN_IF_NULL(artifact);
    Artifact::Options options;
    if (archive)
      options.archive = archive;
    auto made = std::make_unique<QuantLLMCudaArtifact>();
    CudaStatus status = Artifact::open(path, options, made->artifact);
    if (!status.ok())
      return status;
    for (const LinearDescription &linear :
         made->artifact->getManifest().linears)
      made->schemes.push_back(schemeName(linear.scheme));
    *artifact = made.release();
    return {};
  });
}

void quantLLMCudaArtifactDestroy(QuantLLMCudaArtifact *artifact) {
  delete artifact;
}

const char *quantLLMCudaArtifactGetChip(const QuantLLMCudaArtifact *artifact) {
  return artifact ? artifact->artifact->getManifest().chip.c_str() : "";
}

uint64_t
quantLLMCudaArtifactGetWeightBytes(const QuantLLMCudaArtifact *artifact) {
  return artifact ? artifact->artifact->getWeightBytes() : 0;
}

size_t quantLLMCudaArtifactGetNumLinears(const QuantLLMCudaArtifact *artifact) {
  return artifact ? artifact->artifact->getManifest().linears.size() : 0;
}

QuantLLMCudaStatus
quantLLMCudaArtifactGetLinear(const QuantLLMCudaArtifact *artifact,
                              size_t linear, QuantLLMCudaLinear *result) {
  return runGuarded([&]() -> CudaStatus {
    const LinearDescription *found = nullptr;
    CudaStatus status = findLinear(artifact, linear, result, found);
    if (!status.ok())
      return status;
    const LinearDescription &from = *found;
    QuantLLMCudaLinear made = {};
    made.name = from.name.c_str();
    made.n = from.n;
    made.k = from.k;
    made.numWeights = from.weights.size();
    made.numEpilogueOperands = from.epilogue.size();
    made.numVariants = from.variants.size();
    made.scheme = artifact->schemes[linear].c_str();
    made.activation = getName(from.activation);
    made.output = getName(from.output);
    *result = made;
    return {};
  });
}

QuantLLMCudaStatus
quantLLMCudaArtifactGetGrouping(const QuantLLMCudaArtifact *artifact,
                                size_t linear, QuantLLMCudaGrouping *result) {
  return runGuarded([&]() -> CudaStatus {
    const LinearDescription *found = nullptr;
    CudaStatus status = findLinear(artifact, linear, result, found);
    if (!status.ok())
      return status;
    const LinearDescription &from = *found;
    *result = {};
    result->offsets = "";
    if (from.isGrouped()) {
      result->numExperts = from.experts;
      result->offsets = from.offsetBytes == 8 ? "i64" : "i32";
      result->offsetsBytes =
          static_cast<uint64_t>(from.experts + 1) * from.offsetBytes;
    }
    return {};
  });
}

QuantLLMCudaStatus
quantLLMCudaArtifactFindLinear(const QuantLLMCudaArtifact *artifact,
                               const char *name, size_t *linear) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(artifact);
    RETURN_IF_NULL(name);
    RETURN_IF_NULL(linear);
    const std::vector<LinearDescription> &linears =
        artifact->artifact->getManifest().linears;
    for (size_t i = 0; i < linears.size(); ++i)
      if (linears[i].name == name) {
        *linear = i;
        return {};
      }
    return {ErrorKind::Argument,
            std::string("expected the name of a linear of '") +
                artifact->artifact->getPath() + "' but got '" + name + "'"};
  });
}

QuantLLMCudaStatus
quantLLMCudaArtifactGetEpilogueOperand(const QuantLLMCudaArtifact *artifact,
                                       size_t linear, size_t operand,
                                       QuantLLMCudaEpilogueOperand *result) {
  return runGuarded([&]() -> CudaStatus {
    const LinearDescription *found = nullptr;
    CudaStatus status = findLinear(artifact, linear, result, found);
    if (status.ok())
      status = checkIndex("an operand", operand, found->epilogue.size());
    if (!status.ok())
      return status;
    const EpilogueOperand &from = found->epilogue[operand];
    *result = {getName(from.type), from.perElement};
    return {};
  });
}

QuantLLMCudaStatus
quantLLMCudaArtifactGetVariant(const QuantLLMCudaArtifact *artifact,
                               size_t linear, size_t variant,
                               QuantLLMCudaVariant *result) {
  return runGuarded([&]() -> CudaStatus {
    const LinearDescription *found = nullptr;
    CudaStatus status = findLinear(artifact, linear, result, found);
    if (status.ok())
      status = checkIndex("a variant", variant, found->variants.size());
    if (!status.ok())
      return status;
    const LinearVariant &from = found->variants[variant];
    *result = {
        from.minTokens, from.maxTokens,
        artifact->artifact->getManifest().kernels[from.kernel].name.c_str()};
    return {};
  });
}

//===----------------------------------------------------------------------===//
// Modules
//===----------------------------------------------------------------------===//

static Buffer toBuffer(const QuantLLMCudaBuffer &buffer) {
  return {reinterpret_cast<DevicePointer>(buffer.data), buffer.bytes};
}

QuantLLMCudaStatus
quantLLMCudaModuleCreate(const QuantLLMCudaArtifact *artifact,
                         const QuantLLMCudaModuleOptions *options,
                         QuantLLMCudaModule **module) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(artifact);
    RETURN_IF_NULL(module);
    Module::Options made;
    if (options) {
      made.device = options->device;
      if (options->driver)
        made.driver = options->driver;
      made.memory =
          toBuffer({options->weightMemory, options->weightMemoryBytes});
      made.withoutWeights = options->withoutWeights != 0;
    }
    auto result = std::make_unique<QuantLLMCudaModule>();
    CudaStatus status =
        Module::create(artifact->artifact, made, result->module);
    if (status.ok())
      *module = result.release();
    return status;
  });
}

void quantLLMCudaModuleDestroy(QuantLLMCudaModule *module) { delete module; }

const char *quantLLMCudaModuleGetDeviceName(const QuantLLMCudaModule *module) {
  return module ? module->module->getDevice().name.c_str() : "";
}

QuantLLMCudaStatus quantLLMCudaModulePlan(const QuantLLMCudaModule *module,
                                          size_t linear, int64_t m,
                                          QuantLLMCudaPlan *plan) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(module);
    RETURN_IF_NULL(plan);
    Plan from;
    CudaStatus status = module->module->plan(linear, m, from);
    if (!status.ok())
      return status;
    QuantLLMCudaPlan made = {};
    made.linear = from.linear;
    made.m = from.m;
    made.xBytes = from.xBytes;
    made.yBytes = from.yBytes;
    if (from.kernel) {
      made.kernel = from.kernel->name.c_str();
      for (unsigned i = 0; i < 3; ++i)
        made.grid[i] = from.geometry.grid[i];
      made.threads = static_cast<uint32_t>(from.kernel->threads);
      made.cluster = static_cast<uint32_t>(from.kernel->cluster);
      made.sharedBytes = static_cast<uint32_t>(from.kernel->sharedBytes);
      made.workspaceBytes = from.geometry.workspaceBytes;
    }
    *plan = made;
    return {};
  });
}

static CudaStatus launch(const Module &module, const QuantLLMCudaPlan &plan,
                         void *stream, const QuantLLMCudaOperands &operands,
                         const QuantLLMCudaLaunchOptions &options) {
  LaunchOperands made;
  made.x = toBuffer(operands.x);
  made.y = toBuffer(operands.y);
  if (options.offsets)
    made.offsets = toBuffer(*options.offsets);
  made.workspace = toBuffer(operands.workspace);
  Buffer epilogue[maxArguments];
  if (operands.epilogue && operands.numEpilogue <= maxArguments) {
    for (size_t i = 0; i < operands.numEpilogue; ++i)
      epilogue[i] = toBuffer(operands.epilogue[i]);
    made.epilogue = epilogue;
  }
  made.numEpilogue = operands.numEpilogue;
  if (!options.weights && options.numWeights != 0)
    return {ErrorKind::Argument, "expected 'weights' but got a null pointer"};
  if (options.weights && options.offsets)
    return {ErrorKind::Argument,
            "expected the weights of the module for a grouped linear"};
  WeightBuffers weights[2];
  for (size_t i = 0; options.weights && i < options.numWeights && i < 2; ++i) {
    const QuantLLMCudaWeight &weight = options.weights[i];
    weights[i] = {toBuffer(weight.packed), toBuffer(weight.packedScales),
                  toBuffer(weight.packedZeros), weight.outputScale};
  }
  made.weights = options.weights ? weights : nullptr;
  made.numWeights = options.numWeights;
  made.plain = options.plain != 0;
  made.constantWeights = options.constantWeights != 0;
  Plan chosen;
  chosen.linear = plan.linear;
  chosen.m = plan.m;
  return module.launch(chosen, stream, made);
}

QuantLLMCudaStatus
quantLLMCudaModuleLaunch(const QuantLLMCudaModule *module,
                         const QuantLLMCudaPlan *plan, void *stream,
                         const QuantLLMCudaOperands *operands) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(module);
    RETURN_IF_NULL(plan);
    RETURN_IF_NULL(operands);
    return launch(*module->module, *plan, stream, *operands, {});
  });
}

QuantLLMCudaStatus
quantLLMCudaModuleLaunchGrouped(const QuantLLMCudaModule *module,
                                const QuantLLMCudaPlan *plan, void *stream,
                                const QuantLLMCudaOperands *operands,
                                const QuantLLMCudaBuffer *offsets) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(module);
    RETURN_IF_NULL(plan);
    RETURN_IF_NULL(operands);
    RETURN_IF_NULL(offsets);
    QuantLLMCudaLaunchOptions options = {};
    options.offsets = offsets;
    return launch(*module->module, *plan, stream, *operands, options);
  });
}

QuantLLMCudaStatus
quantLLMCudaArtifactGetBytesOfWeight(const QuantLLMCudaArtifact *artifact,
                                     size_t linear,
                                     QuantLLMCudaWeightBytes *result) {
  return runGuarded([&]() -> CudaStatus {
    const LinearDescription *found = nullptr;
    CudaStatus status = findLinear(artifact, linear, result, found);
    if (!status.ok())
      return status;
    const PackedWeightBytes &bytes =
        artifact->artifact->getBytesOfWeight(linear);
    *result = {bytes.codes, bytes.scales, bytes.zeros};
    return {};
  });
}

QuantLLMCudaStatus quantLLMCudaModuleLaunchWithWeights(
    const QuantLLMCudaModule *module, const QuantLLMCudaPlan *plan,
    void *stream, const QuantLLMCudaOperands *operands,
    const QuantLLMCudaWeight *weights, size_t numWeights) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(module);
    RETURN_IF_NULL(plan);
    RETURN_IF_NULL(operands);
    RETURN_IF_NULL(weights);
    QuantLLMCudaLaunchOptions options = {};
    options.weights = weights;
    options.numWeights = numWeights;
    return launch(*module->module, *plan, stream, *operands, options);
  });
}

QuantLLMCudaStatus
quantLLMCudaModuleLaunchWithOptions(const QuantLLMCudaModule *module,
                                    const QuantLLMCudaPlan *plan, void *stream,
                                    const QuantLLMCudaOperands *operands,
                                    const QuantLLMCudaLaunchOptions *options) {
  return runGuarded([&]() -> CudaStatus {
    RETURN_IF_NULL(module);
    RETURN_IF_NULL(plan);
    RETURN_IF_NULL(operands);
    return launch(*module->module, *plan, stream, *operands,
                  options ? *options : QuantLLMCudaLaunchOptions{});
  });
}
