//===- KernelSpec.h - What a GPU kernel computes and how --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The two halves of a kernel's description, in plain C++: the problem (what is
// computed) and the configuration (how). Selection maps the first to the
// second, verification rejects pairs that cannot be built, and the generator
// obeys both. Nothing else decides anything about a kernel.
//
// Words: a strip is 16 rows of the weight, a unit 128 columns (k), a step 16
// columns: strip x step is the operand A of one mma.m16n8k16.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_KERNELSPEC_H
#define QUANT_LLM_KERNELS_KERNELSPEC_H

#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

/// Floating-point types of activations and outputs.
enum class TensorType { F16, BF16, F32 };

/// An operand of the epilogue: one value per output row, or one per element of
/// the result.
struct EpilogueOperand {
  TensorType type = TensorType::F16;
  bool perElement = false;
};

/// y[m, n] = epilogue(sum_k x[m, k] * W_j[n, k]) for a static N and K and any
/// number m of tokens. The body of the epilogue is a region of IR and not part
/// of this structure.
struct KernelProblem {
  Scheme scheme;
  int64_t n = 0;
  int64_t k = 0;
  /// F16 or BF16: also what weights are rounded to before the product.
  TensorType activation = TensorType::F16;
  TensorType output = TensorType::F16;
  /// 1, or 2 for a gated pair.
  unsigned numWeights = 1;
  std::vector<EpilogueOperand> epilogue;
};

enum class KernelFamily {
  /// Up to 64 tokens, memory-bound: bulk copies into a ring of stages, one
  /// producer warp, mma.sync. sm_90 and later.
  FewTokens,
  /// cp.async into a ring of stages, mma.sync. sm_80 and later; every scheme
  /// and every shape.
  Multistage,
  /// Tensor copies, one producer warp, warpgroups that dequantize into operand
  /// A of wgmma. sm_90a.
  Wgmma,
  /// Dequantizes into scratch memory, then multiplies dense matrices.
  Scratch,
};

/// How the rows of X reach shared memory.
enum class ActivationCopy {
  /// Tensor copies of 64 k with the 128-byte swizzle; needs 2*K % 16 == 0.
  Tensor,
  /// One bulk copy per row into padded rows; needs 2*K % 16 == 0.
  Bulk,
  /// cp.async of 16 bytes; needs 2*K % 16 == 0.
  Async16,
  /// Loads and stores of single elements: every K.
  Element,
};

/// How a kernel is built. Sizes are in elements.
struct KernelConfig {
  KernelFamily family = KernelFamily::Multistage;
  /// Rows of W, tokens and columns of a stage that a CTA works on.
  int64_t rowTile = 64;
  int64_t tokenTile = 16;
  int64_t stageK = 128;
  /// Depth of the ring.
  int64_t stages = 4;
  /// Warps along the rows and along k (Wgmma: consumer warpgroups).
  int64_t warpsRows = 4;
  int64_t warpsK = 1;
  /// Kernels that share the k range of a tile: CTAs of one cluster.
  int64_t split = 1;
  /// CTAs that must fit on a multiprocessor.
  int64_t ctasPerSM = 1;
  ActivationCopy copy = ActivationCopy::Async16;
  /// The token counts the configuration is meant for, both included.
  int64_t minTokens = 1;
  int64_t maxTokens = INT64_MAX;
};

/// What a chip offers to a kernel.
struct ChipLimits {
  std::string name;
  /// 80, 86, 89, 90, 100, 120.
  int computeCapability = 0;
  int64_t sharedBytesPerCTA = 0;
  int64_t sharedBytesPerSM = 0;
  int64_t registersPerSM = 65536;
  int64_t multiprocessors = 0;
  bool hasBulkCopy = false;
  bool hasWgmma = false;
};

/// The limits of `chip` ("sm_80", "sm_90a", ...); an error lists those known.
Result<ChipLimits> getChipLimits(const std::string &chip);

/// Bytes of dynamic shared memory of a kernel.
int64_t getSharedBytes(const KernelProblem &problem,
                       const KernelConfig &config);

/// Rejects a configuration that makes no sense by itself, for any problem and
/// chip.
Status verifyConfig(const KernelConfig &config);

/// Rejects a configuration that the generator or the chip cannot hold; the
/// message says which limit, what it is, and what was asked for.
Status verifyKernel(const KernelProblem &problem, const KernelConfig &config,
                    const ChipLimits &chip);

/// Configurations that verifyKernel accepts and that together cover the token
/// counts from 1 on, in their order; none for a problem that has no kernel
/// (verifyKernel says why). `reasons`, if given, gets one line per
/// configuration.
std::vector<KernelConfig> selectKernels(const KernelProblem &problem,
                                        const ChipLimits &chip,
                                        std::vector<std::string> *reasons);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_KERNELSPEC_H
