//===- StageLayout.h - Shared memory of the mma.sync kernels ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Where things lie in the shared memory of the families FewTokens and
// Multistage, in plain C++: the generator and the verifier of configurations
// must agree to the byte.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_STAGELAYOUT_H
#define QUANT_LLM_KERNELS_STAGELAYOUT_H

#include "quant-llm/Kernels/KernelSpec.h"

namespace quant_llm {

/// All sizes and offsets in bytes. A stage holds
///   X: [stageK / 64][tokenTile][128 bytes], swizzled,
///   then per weight: codes [strips][units][256 * bits],
///   scales [strips][groups][16], zeros [strips][groups][16].
struct StageLayout {
  StageLayout(const KernelProblem &problem, const KernelConfig &config);

  int64_t strips;
  int64_t units;
  /// Groups that a stage can touch; 0 if scales are not staged.
  int64_t groups;

  int64_t codesPerStrip;
  int64_t scalesPerStrip;
  int64_t zerosPerStrip;

  int64_t codes;
  int64_t scales;
  int64_t zeros;
  /// From one weight of a gated pair to the next.
  int64_t perWeight;
  int64_t stage;

  /// Stages whose weights a producer asks for before it waits for what writes
  /// the activations.
  int64_t earlyStages;

  /// Fragments of 16 rows and 8 tokens of the tile, and those of them that one
  /// CTA finishes.
  int64_t fragments;
  int64_t ownFragments;

  /// After the stages: full and empty barriers (8 bytes each) and one for sums
  /// from other CTAs, the table of a codebook, and with a split the sums of an
  /// own fragment from every CTA of the cluster. The sums of the warps reuse
  /// the stages at the end.
  int64_t barriers;
  int64_t table;
  int64_t exchange;
  int64_t total;
};

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_STAGELAYOUT_H
