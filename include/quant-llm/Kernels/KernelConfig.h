//===- KernelConfig.h - How a GPU kernel is built ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_KERNELCONFIG_H
#define QUANT_LLM_KERNELS_KERNELCONFIG_H

#include "quant-llm/Support/Status.h"

#include <cstdint>

namespace quant_llm {

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
};

/// How the rows of X reach shared memory.
enum class ActivationCopy {
  /// Tensor copies of 64 k with the 128-byte swizzle; needs 2*K % 16 == 0.
  Tensor,
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
  /// CTAs of a cluster that share a tile's k range; kStreamK: see StreamK.h.
  int64_t split = 1;
  /// CTAs that must fit on a multiprocessor. Of kernels whose launches overlap
  /// (FewTokens, Wgmma) also the most that may: the generator asks for so much
  /// shared memory that the chip has no room for one more.
  int64_t ctasPerSM = 1;
  ActivationCopy copy = ActivationCopy::Async16;
  /// The token counts the configuration is meant for, both included.
  int64_t minTokens = 1;
  int64_t maxTokens = INT64_MAX;
};

/// True for configurations that differ at most in their tokens.
bool isSameKernel(const KernelConfig &a, const KernelConfig &b);
bool operator==(const KernelConfig &a, const KernelConfig &b);

/// Rejects a configuration that makes no sense by itself, for any problem and
/// chip.
Status verifyConfig(const KernelConfig &config);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_KERNELCONFIG_H
