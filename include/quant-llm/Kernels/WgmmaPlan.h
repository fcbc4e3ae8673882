//===- WgmmaPlan.h - Everything derived of a wgmma kernel -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What follows from a problem and a configuration of the wgmma family: roles
// of the warps, shared memory, registers, and the protocol of the pipeline.
// Verification and the emitter both read it, so they cannot disagree.
//
// A kernel has one producer warp (in a warpgroup of its own) and consumer
// warpgroups. Two rings feed the consumers: one of weights, a slot being a unit
// (128 k) of all strips of the tile with its scales and zeros, and one of
// activations, a slot being 64 k of all tokens of the tile.
//
// The columns of a tile may be shared: the CTAs of a cluster have one range of
// units each, and in a CTA the units of its range go to `parts` groups of
// consumers in turn, each with rings of its own. Such a kernel has one tile per
// cluster. At its end all sums meet in shared memory, where the rings were, and
// every warpgroup of the cluster adds up and stores a range of tokens.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_WGMMAPLAN_H
#define QUANT_LLM_KERNELS_WGMMAPLAN_H

#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/Pipeline.h"

namespace quant_llm {

struct WgmmaPlan {
  /// Indices into PipelineProgram::rings.
  static constexpr unsigned kWeights = 0;
  static constexpr unsigned kActivations = 1;
  /// Columns of a slot of activations, and steps in it.
  static constexpr int64_t kHalf = 64;
  static constexpr unsigned kHalfSteps = 4;

  /// @{ Shape of the problem: units along k; blocks of 64 rows of one weight;
  /// groups along k and how many of them start in a unit (1 if none or one),
  /// or how many units share one (1 if a unit has one or more).
  int64_t units = 0;
  int64_t rowBlocks = 0;
  int64_t groups = 1;
  int64_t groupsPerUnit = 1;
  int64_t unitsPerGroup = 1;
  /// @}

  /// @{ Tile: consumer warpgroups (part by part), parts of k in a CTA, CTAs
  /// along k, blocks of 64 rows in each warpgroup (of all weights), blocks of
  /// the CTA, tiles along the rows, tiles of tokens in a band of the tile walk.
  unsigned consumers = 0;
  unsigned parts = 1;
  int64_t split = 1;
  unsigned blocksPerConsumer = 0;
  unsigned blocks = 0;
  int64_t rowTiles = 0;
  int64_t bandTiles = 1;
  /// @}

  /// @{ Tiles are dealt out by their units (StreamK.h): where the last wave is
  /// less full than so many 256ths; bytes of a CTA's part of a tile.
  bool streams = false;
  int64_t mostDealt = 0;
  int64_t partBytes = 0;
  /// @}

  /// @{ Steps in a group of wgmma, fragment buffers of that many steps, and how
  /// many chunks dequantization is ahead of the products.
  unsigned chunkSteps = 0;
  unsigned buffers = 0;
  unsigned ahead = 0;
  /// @}

  /// @{ Scales and zeros in the main loop; scales of the whole row are applied
  /// to the sums.
  bool scalesInLoop = false;
  bool zerosInLoop = false;
  /// @}

  /// @{ Shared memory, in bytes. A weight slot has the packed strips, then
  /// their scales, then their zeros.
  int64_t activationSlotBytes = 0;
  int64_t packedStripBytes = 0;
  int64_t scaleStripBytes = 0;
  int64_t zeroStripBytes = 0;
  int64_t scalesOffset = 0;
  int64_t zerosOffset = 0;
  int64_t weightSlotBytes = 0;
  /// Staging of the results, per consumer: tokens of a pass and bytes. Sums
  /// that meet are staged over the rings.
  int64_t stagingTokens = 0;
  int64_t stagingBytes = 0;
  int64_t activationsAt = 0;
  int64_t stagingAt = 0;
  int64_t weightsAt = 0;
  int64_t barriersAt = 0;
  /// The table of a codebook.
  int64_t tableAt = 0;
  int64_t sharedBytes = 0;
  /// @}

  /// @{ Threads, and registers of a thread: at launch, then of producer and
  /// consumers (0: as at launch).
  int64_t threads = 0;
  int64_t launchRegisters = 0;
  int64_t producerRegisters = 0;
  int64_t consumerRegisters = 0;
  /// @}

  /// An operand of the epilogue has one value per element: the f32 sums of all
  /// weights are staged and finished when they are stored. Otherwise results
  /// are finished in registers and staged in their type.
  bool stagesSums = false;
  /// What is staged has 32 bits.
  bool stagesWords = false;

  /// Sums of several warpgroups meet.
  bool sumsMeet() const { return parts * split > 1; }
  unsigned consumersPerPart() const { return consumers / parts; }

  PipelineProgram program;
};

/// The plan, or why there is none for such a pair; chip limits are not looked
/// at.
Result<WgmmaPlan> planWgmma(const KernelProblem &problem,
                            const KernelConfig &config);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_WGMMAPLAN_H
