//===- Module.h - Packed linear layers on a GPU -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// An artifact is what quant-llm-to-gpu writes: manifest, kernels, and the
// archive of packed weights. Opening it needs no GPU. A module is an artifact
// on a device: kernels loaded, weights copied once. docs/GPURuntime.md
// describes both; include/quant-llm-c/CudaRuntime.h is the interface for other
// programs.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CUDA_MODULE_H
#define QUANT_LLM_RUNTIME_CUDA_MODULE_H

#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Runtime/CUDA/Driver.h"
#include "quant-llm/Runtime/CUDA/Manifest.h"
#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Status.h"

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace quant_llm {
namespace cuda {

/// Alignment of the device buffers of a launch.
constexpr uint64_t bufferAlignment = 16;
/// Alignment of weights on the device.
constexpr uint64_t weightAlignment = 256;

/// A component of a packed weight: bytes of the archive, and where they go in
/// the device memory of the weights.
struct PackedTensor {
  TensorInfo source;
  size_t archive = 0;
  uint64_t offset = 0;
};

struct PackedWeightFiles {
  PackedTensor codes;
  PackedTensor scales;
  /// Without data if the scheme has none.
  PackedTensor zeros;
  float outputScale = 1.0f;
};

/// Bytes of the components of each weight of a linear; 0 for zeros if the
/// scheme has none.
struct PackedWeightBytes {
  uint64_t codes = 0;
  uint64_t scales = 0;
  uint64_t zeros = 0;
};

/// A directory with a manifest, everything in it checked; nothing of CUDA.
class Artifact {
public:
  struct Options {
    /// Path of the archive of packed weights instead of those that the manifest
    /// names.
    std::string archive;
  };

  /// `path` is the directory or its manifest.json.
  static CudaStatus open(const std::string &path, const Options &options,
                         std::shared_ptr<const Artifact> &result);

  const std::string &getPath() const { return path; }
  const Manifest &getManifest() const { return manifest; }
  /// The bytes of a kernel's file.
  const MappedFile &getKernelFile(size_t kernel) const {
    return files[fileOfKernel[kernel]];
  }
  size_t getKernelFileIndex(size_t kernel) const {
    return fileOfKernel[kernel];
  }
  size_t getNumKernelFiles() const { return files.size(); }
  /// The weights of a linear; none if they are not part of the artifact.
  const std::vector<PackedWeightFiles> &getWeights(size_t linear) const {
    return weights[linear];
  }
  const PackedWeightBytes &getBytesOfWeight(size_t linear) const {
    return bytesOfWeight[linear];
  }
  /// All packed tensors, each once, at their offsets.
  const std::vector<PackedTensor> &getTensors() const { return tensors; }
  const Archive &getArchive(size_t index) const { return *archives[index]; }
  /// Device memory of all weights.
  uint64_t getWeightBytes() const { return weightBytes; }

private:
  Artifact() = default;
  CudaStatus loadKernels(const std::string &directory);
  CudaStatus loadWeights(const std::string &directory, const Options &options);
  Result<PackedTensor> findTensor(size_t archive, const std::string &key,
                                  const PackedComponentInfo &info);

  std::string path;
  Manifest manifest;
  std::vector<MappedFile> files;
  std::vector<size_t> fileOfKernel;
  std::vector<std::unique_ptr<Archive>> archives;
  std::vector<std::vector<PackedWeightFiles>> weights;
  std::vector<PackedWeightBytes> bytesOfWeight;
  std::vector<PackedTensor> tensors;
  std::map<std::pair<size_t, std::string>, size_t> tensorIndex;
  uint64_t weightBytes = 0;
};

/// What runs for a number of tokens.
struct Plan {
  size_t linear = 0;
  int64_t m = 0;
  /// Index into the manifest; none for m = 0.
  const KernelDescription *kernel = nullptr;
  size_t kernelIndex = 0;
  LaunchGeometry geometry;
  uint64_t xBytes = 0;
  uint64_t yBytes = 0;
  /// Of a grouped linear, for any m.
  uint64_t offsetsBytes = 0;
};

/// Device memory of the caller.
struct Buffer {
  DevicePointer data = 0;
  uint64_t bytes = 0;
};

/// A packed weight in device memory of the caller.
struct WeightBuffers {
  Buffer codes;
  Buffer scales;
  Buffer zeros;
  float outputScale = 1.0f;
};

struct LaunchOperands {
  Buffer x;
  Buffer y;
  /// Of a grouped linear: where the tokens of each expert begin, and the end.
  Buffer offsets;
  Buffer workspace;
  const Buffer *epilogue = nullptr;
  size_t numEpilogue = 0;
  /// Instead of the weights of the module; null for those.
  const WeightBuffers *weights = nullptr;
  size_t numWeights = 0;
  /// Starts when the kernel before it in the stream has ended, even if the
  /// kernel could overlap that one.
  bool plain = false;
  /// Promises that `weights` are as constant as those of a module: what writes
  /// them has ended when this is launched, or there is a kernel between the two
  /// in the stream that is launched plainly.
  bool constantWeights = false;
};

class Module {
public:
  struct Options {
    int device = 0;
    /// See Driver::load.
    std::string driver;
    /// Device memory for the weights, of at least Artifact::getWeightBytes()
    /// and aligned to weightAlignment; allocated if `data` is 0. Nobody else
    /// may write it as long as the module lives: launches read it before they
    /// wait for earlier kernels.
    Buffer memory;
    /// Only kernels: every launch brings its weights.
    bool withoutWeights = false;
  };

  static CudaStatus create(std::shared_ptr<const Artifact> artifact,
                           const Options &options,
                           std::unique_ptr<Module> &result);
  /// No launch may be running.
  ~Module();
  Module(const Module &) = delete;
  Module &operator=(const Module &) = delete;

  const Artifact &getArtifact() const { return *artifact; }
  const DeviceContext &getDevice() const { return *device; }

  /// Chooses the kernel for `m` tokens.
  CudaStatus plan(size_t linear, int64_t m, Plan &plan) const;

  /// Launches what plan() chooses for (plan.linear, plan.m) on a stream of the
  /// device's primary context. Neither allocates nor waits nor copies.
  ///
  /// With the weights of the module a kernel may start, and read them, while
  /// the kernel before it in the stream still runs; it touches no other memory
  /// before that one has ended. Weights that a launch brings may be what that
  /// kernel writes, so then it starts afterwards, unless they are constant by
  /// the caller's word.
  CudaStatus launch(const Plan &plan, Stream stream,
                    const LaunchOperands &operands) const;

  /// The device address of a weight's tensors, for tools that launch with other
  /// copies of them.
  DevicePointer getAddress(const PackedTensor &tensor) const {
    return memory + tensor.offset;
  }

  /// As launch(), with the weights of the module copied as a whole to
  /// `weights`: a copy that has ended, and is as constant as they are.
  CudaStatus launchWithWeights(const Plan &plan, Stream stream,
                               const LaunchOperands &operands,
                               DevicePointer weights) const;

private:
  Module() = default;
  CudaStatus loadKernels();
  CudaStatus loadWeights(const Options &options);
  CudaStatus checkBuffers(const Plan &plan,
                          const LaunchOperands &operands) const;
  CudaStatus getTensorMap(const LinearDescription &linear,
                          const TensorMapForm &form, DevicePointer x, int64_t m,
                          TensorMap &map) const;

  /// Tensor maps of recent launches. Of fixed size: a launch must not allocate.
  struct CachedMap {
    DevicePointer x = 0;
    int64_t m = 0, k = 0;
    TensorType type = TensorType::F16;
    TensorMapForm form;
    TensorMap map;
  };
  struct CacheSet {
    std::mutex mutex;
    std::array<CachedMap, 4> entries;
    unsigned next = 0;
  };

  std::shared_ptr<const Artifact> artifact;
  std::unique_ptr<DeviceContext> device;
  std::vector<ModuleHandle> modules;
  std::vector<Function> functions;
  DevicePointer memory = 0;
  bool ownsMemory = false;
  bool hasWeights = false;
  mutable std::array<CacheSet, 64> cache;
};

} // namespace cuda
} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CUDA_MODULE_H
