//===- FewTokensCost.cpp - Time of a few-tokens kernel --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The constants come from a least-squares fit of this very model to 285
// measurements of int4 kernels (group 128, f16) on one H100 with 132
// multiprocessors: docs/FewTokensCost.md. Counts (bytes, copies, instructions)
// come from the configuration, never from a table of shapes.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/FewTokensCost.h"

#include "quant-llm/Kernels/ScaleMode.h"
#include "quant-llm/Kernels/StageLayout.h"

#include <algorithm>
#include <cmath>

using namespace quant_llm;

/// The chip of the measurements. Other chips are taken to have the same
/// bandwidth per multiprocessor.
static constexpr double measuredMultiprocessors = 132;
/// CTAs of clusters of three or more that it ran at a time.
static constexpr double measuredClusterCTAs = 120;
static constexpr double cyclesPerMicrosecond = 1700;
static constexpr double schedulers = 4;

/// Launch, first copy, last store.
static constexpr double launchTime = 1.63;
/// Bytes per microsecond of all multiprocessors.
static constexpr double memoryBandwidth = 3.29e6;
static constexpr double cacheBandwidth = 6.63e6;
/// X comes slower from the cache where many tiles read few columns of it at the
/// same time: its bytes count (tiles at a time / units of 128 columns) to this
/// power. Below the ratio given here nothing was measured.
static constexpr double sharingExponent = 0.388;
static constexpr double leastSharing = 0.25;

/// The producer warp issues one copy after the other: 64 columns of X (more the
/// more tokens there are), or a strip's codes, scales or zeros.
static constexpr double activationCopyTime = 0.0271;
static constexpr double tokenRowTime = 0.00089;
static constexpr double stripCopyTime = 0.0402;
/// The same for the copies of all CTAs of a multiprocessor.
static constexpr double sharedCopyTime = 0.0217;
/// From the issue of a copy until its bytes are there.
static constexpr double copyLatency = 1.30;

/// Cycles of a scheduler for a step of a strip beside the instructions that
/// dequantize, and for each tile of 8 tokens.
static constexpr double issuePerStep = 7.0;
static constexpr double issuePerTile = 5.15;
/// The same for a warp that is alone with its latencies.
static constexpr double latencyPerStep = 19.5;
static constexpr double latencyPerTile = 6.27;

/// A further wave of CTAs. The exchange of a cluster: in any case, for each of
/// the CTAs of a multiprocessor, and for each CTA of a cluster beyond two.
static constexpr double waveTime = 0.30;
static constexpr double clusterTime = 0.70;
static constexpr double clusterCTATime = 0.07;
static constexpr double clusterSizeTime = 0.10;

/// Parts overlap as the norm with this exponent: all but the largest.
static constexpr double overlapExponent = 4.34;

static double ceilDiv(double a, double b) { return std::ceil(a / b); }

/// Instructions for the fragment of operand A of a step, counted in the machine
/// code of kernels of all element formats.
static double getFragmentInstructions(const KernelProblem &problem) {
  const ElementFormat &element = problem.scheme.element;
  double count = getTableBytes(problem.scheme) ? 25 : 17;
  if (element.kind == ElementKind::Int || element.kind == ElementKind::UInt ||
      element.kind == ElementKind::Ternary) {
    // Codes of 3, 5, 6 and 7 bits are put together from several planes.
    static constexpr double byBits[] = {11, 11, 13.5, 10.5, 17, 18, 14, 11};
    count = byBits[std::clamp(element.bits, 1u, 8u) - 1];
    // bf16 has no room for a byte: its halves are converted apart.
    if (element.bits == 8 && problem.activation == TensorType::BF16)
      count = 14.5;
  }
  if (problem.scheme.zero != ZeroKind::None)
    count += 3.5;
  // Scales from global memory, for every step.
  ScaleMode mode = getScaleMode(problem);
  if (mode == ScaleMode::General || mode == ScaleMode::Column)
    count += 30;
  return count;
}

int64_t quant_llm::getResidentCTAs(const KernelProblem &problem,
                                   const KernelConfig &config,
                                   const ChipLimits &chip) {
  int64_t threads = kWarpLanes * (config.warpsRows * config.warpsK + 1);
  int64_t tokenTiles = config.tokenTile / 8;
  int64_t tiles = problem.numWeights * config.rowTile / kStripRows /
                  config.warpsRows * tokenTiles;
  // Sums, operands of two steps, and what was left in all kernels measured.
  int64_t registers = 4 * std::max<int64_t>(tiles, 4) + 4 * tokenTiles + 52;
  registers = std::min<int64_t>(
      255,
      std::min(registers, chip.registersPerSM / (threads * config.ctasPerSM)));
  // Shared memory is given out in KiB, one of which is the driver's.
  int64_t shared =
      (StageLayout(problem, config).total + 1023) / 1024 * 1024 + 1024;
  int64_t resident =
      std::min({chip.sharedBytesPerSM / shared, 2048 / threads,
                chip.registersPerSM / ((registers + 7) / 8 * 8 * threads)});
  return std::max<int64_t>(resident, 1);
}

FewTokensCost quant_llm::estimateFewTokens(const KernelProblem &problem,
                                           const KernelConfig &config,
                                           const ChipLimits &chip,
                                           int64_t tokens) {
  const Scheme &scheme = problem.scheme;
  StageLayout layout(problem, config);
  double weights = problem.numWeights;
  double strips = layout.strips, units = layout.units;
  double allUnits = ceilDiv(problem.k, kUnitColumns);
  double chunks = ceilDiv(allUnits, units);
  // Chunks of the busiest CTA of a tile.
  double own = ceilDiv(chunks, config.split);

  double tiles = ceilDiv(ceilDiv(problem.n, kStripRows), strips);
  double tokenTiles = config.tokenTile / 8;
  double tokenGrid = ceilDiv(tokens, config.tokenTile);
  double rows = std::min(tokens, config.tokenTile);
  double ctas = tiles * config.split * tokenGrid;

  double scaling = chip.multiprocessors / measuredMultiprocessors;
  double places =
      config.split <= 2 ? chip.multiprocessors : measuredClusterCTAs * scaling;
  double resident = getResidentCTAs(problem, config, chip);
  double perSM = ceilDiv(ctas, places);
  double waves = ceilDiv(ctas, places * resident);

  FewTokensCost cost;
  // Bytes.
  double perGroup = kStripRows * (getScaleBytes(scheme) + getZeroBytes(scheme));
  double weightBytes =
      weights * tiles * strips *
      (allUnits * 256 * scheme.element.bits + getNumGroups(problem) * perGroup);
  double tokenBytes = 2.0 * tokens * problem.k;
  double atATime = std::min(ctas, places * resident) / config.split / allUnits;
  double sharing = std::pow(std::max(atATime, leastSharing), sharingExponent);
  cost.memory = (weightBytes + tokenBytes) / (memoryBandwidth * scaling);
  cost.cache = (weightBytes * tokenGrid + tiles * tokenBytes * sharing) /
               (cacheBandwidth * scaling);

  // Copies.
  double perStrip = 1;
  if (layout.groups)
    perStrip += scheme.zero == ZeroKind::None ? 1 : 2;
  double stripCopies = weights * strips * perStrip;
  double segments = 2 * units;
  cost.copies = perSM * own * (segments + stripCopies) * sharedCopyTime;
  double copyTime = segments * (activationCopyTime + rows * tokenRowTime) +
                    stripCopies * stripCopyTime;

  // Instructions of a CTA for a stage, and the time of a warp for it.
  double fragment = getFragmentInstructions(problem);
  double steps = kStepsPerUnit * strips * weights;
  double issue = steps * units *
                 (issuePerStep + fragment + issuePerTile * tokenTiles) /
                 (schedulers * cyclesPerMicrosecond);
  double latency = steps / config.warpsRows * (units / config.warpsK) *
                   (latencyPerStep + fragment + latencyPerTile * tokenTiles) /
                   cyclesPerMicrosecond;
  cost.instructions = perSM * own * issue;
  double compute = std::max(latency, std::min(resident, perSM) * issue);

  // A CTA computes after its first copies have all been issued, at best as fast
  // as copies are issued, or as a ring of stages comes round.
  double first = std::min<double>(config.stages, own) * copyTime;
  double chain =
      std::max({first + own * compute, own * copyTime + copyLatency + compute,
                own * (copyLatency + compute) / config.stages});
  cost.chain = waves * chain;

  cost.overhead = launchTime + waveTime * (waves - 1);
  if (config.split > 1)
    cost.overhead += clusterTime + clusterCTATime * perSM +
                     clusterSizeTime * (config.split - 2);

  double sum = 0, largest = 0;
  auto overlap = [&](double part, const char *name) {
    sum += std::pow(part, overlapExponent);
    if (part <= largest)
      return;
    largest = part;
    cost.bound = name;
  };
  overlap(cost.memory, "memory");
  overlap(cost.cache, "cache");
  overlap(cost.copies, "copies");
  overlap(cost.instructions, "instructions");
  overlap(cost.chain, "a CTA's own copies and warps");
  cost.total = cost.overhead + std::pow(sum, 1 / overlapExponent);
  return cost;
}
