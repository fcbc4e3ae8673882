//===- Manifest.h - What a directory of GPU kernels holds -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The file manifest.json that quant-llm-to-gpu writes beside its kernels
// (docs/GPURuntime.md), read without trust, and the launch geometry that
// follows from it.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CUDA_MANIFEST_H
#define QUANT_LLM_RUNTIME_CUDA_MANIFEST_H

#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {
namespace cuda {

/// Arguments of a kernel in one launch.
constexpr size_t maxArguments = 32;

enum class ArgumentKind {
  TensorMapX, ///< 128 bytes by value
  X,          ///< the others: pointers, except
  Y,
  Offsets, ///< of a grouped linear
  Workspace,
  Packed, ///< of weight `index`, as the two that follow
  PackedScales,
  PackedZeros,
  OutputScale, ///< f32
  Epilogue,    ///< operand `index`
  M,           ///< i32
};

struct KernelArgument {
  ArgumentKind kind = ArgumentKind::M;
  unsigned index = 0;
};

/// The name in a description: "packed0", "m".
std::string argumentName(const KernelArgument &argument);

/// The boxes of the tensor map of x: an array [m, K], or [K / boxK, m, boxK]
/// where one box has several segments of boxK columns. They have
/// min(boxTokens, m) tokens.
struct TensorMapForm {
  int64_t boxK = 64;
  int64_t boxTokens = 1;
  /// Bytes: 0, 32, 64, 128.
  int64_t swizzle = 128;
  /// 0: the array has no segments.
  int64_t boxSegments = 0;

  friend bool operator==(const TensorMapForm &a, const TensorMapForm &b) {
    return a.boxK == b.boxK && a.boxTokens == b.boxTokens &&
           a.swizzle == b.swizzle && a.boxSegments == b.boxSegments;
  }
};

/// How a kernel is launched: the dictionary `quant_llm.launch` of its function.
struct KernelDescription {
  std::string name;
  std::string file;
  std::string sha256;
  int64_t threads = 0;
  int64_t sharedBytes = 0;
  int64_t cluster = 1;
  int64_t tokenTile = 1;
  int64_t rowTile = 1;
  int64_t split = 1;
  bool persistent = false;
  /// Whether the kernel waits for those before it by itself.
  bool dependentLaunch = false;
  int64_t ctasPerSM = 1;
  int64_t workspaceBytes = 0;
  int64_t workspaceBytesPerTile = 0;
  int64_t workspaceBytesPerCTA = 0;
  int64_t workspaceBytesPerToken = 0;
  std::vector<KernelArgument> arguments;
  std::optional<TensorMapForm> tensorMap;
};

struct LinearVariant {
  int64_t minTokens = 1;
  int64_t maxTokens = 1;
  /// Index into Manifest::kernels.
  size_t kernel = 0;
};

/// y = epilogue(x * W^T): one or two weights of one shape and scheme. With
/// experts, tokens are sorted by expert, n are the outputs of one, and a weight
/// has the rows of all.
struct LinearDescription {
  std::string name;
  int64_t n = 0;
  int64_t k = 0;
  /// 0 for a linear; of a grouped linear, 1 included.
  int64_t experts = 0;
  /// Bytes of an offset: 4 or 8; 0 for a linear.
  int64_t offsetBytes = 0;
  Scheme scheme;
  TensorType activation = TensorType::F16;
  TensorType output = TensorType::F16;
  std::vector<std::string> weights;
  std::vector<EpilogueOperand> epilogue;
  /// What the epilogue computes, for those who check it: JSON as it is in the
  /// manifest, unread. Empty: the sum itself, or an older manifest does not
  /// say.
  std::string formula;
  /// File of the packed weights and their keys in it, one for each weight. No
  /// keys: whoever launches the linear brings the weights.
  std::string archive;
  std::vector<std::string> keys;
  std::vector<LinearVariant> variants;

  bool isGrouped() const { return experts > 0; }
  /// Rows of a weight.
  int64_t getRows() const { return isGrouped() ? n * experts : n; }
};

struct Manifest {
  /// "sm_90a".
  std::string chip;
  std::string producer;
  std::vector<KernelDescription> kernels;
  std::vector<LinearDescription> linears;
};

/// Reads a manifest. Everything is checked that does not need other files:
/// types, ranges, names that occur twice or not at all, arguments that the
/// linear does not have, file names that lead out of the directory.
Result<Manifest> parseManifest(std::string_view text);

/// Bytes of an element.
inline int64_t getByteWidth(TensorType type) {
  return type == TensorType::F32 ? 4 : 2;
}

struct LaunchGeometry {
  std::array<uint32_t, 3> grid = {1, 1, 1};
  uint64_t workspaceBytes = 0;
};

/// The grid of a kernel for `m` > 0 tokens on a device, of all of the `experts`
/// of a grouped linear (0 for a linear); an error if the device cannot launch
/// so many blocks.
Status getLaunchGeometry(const KernelDescription &kernel, int64_t n,
                         int64_t experts, int64_t m, int64_t multiprocessors,
                         LaunchGeometry &geometry);

} // namespace cuda
} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CUDA_MANIFEST_H
