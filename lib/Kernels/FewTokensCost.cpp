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
static constexpr double cyclesPerMicrosecond = 1700;
static constexpr double schedulers = 4;

/// Launch, first copy, last store.
static constexpr double launchTime = 1.896;
/// A further wave of CTAs.
static constexpr double waveTime = 0.443;
/// Bytes per microsecond of all multiprocessors.
static constexpr double memoryBandwidth = 3.01e6;
static constexpr double cacheBandwidth = 11.4e6;

/// The producer issues one copy after the other; those of X take longer the
/// more rows of 64 columns they have.
static constexpr double copyIssueTime = 0.0081;
static constexpr double tokenRowTime = 0.0001;
/// From the issue of a copy until its bytes are there.
static constexpr double copyLatency = 0.5;
/// How often the copies of the first stage delay the end.
static constexpr double firstStageShare = 5;

/// Cycles of a scheduler for a step of a strip beside the instructions that
/// dequantize, and for each tile of 8 tokens.
static constexpr double issuePerStep = 2.9;
static constexpr double issuePerTile = 5.77;
/// The same for a warp that is alone with its latencies.
static constexpr double latencyPerStep = -9.4;
static constexpr double latencyPerTile = 6.2;
/// The share of its last stage that nothing hides.
static constexpr double lastStageShare = 0.95;

/// Sums: leaving a fragment in shared memory, adding a part of it.
static constexpr double depositTime = 0.0363;
static constexpr double partTime = 0.0323;
/// The exchange of a cluster.
static constexpr double clusterTime = 0.414;

/// Parts overlap as the norm with this exponent: all but the largest.
static constexpr double overlapExponent = 3.42;

static double ceilDiv(double a, double b) { return std::ceil(a / b); }

/// Counted in the machine code of kernels of all element formats.
double quant_llm::getDecodingInstructions(const KernelProblem &problem) {
  const ElementFormat &element = problem.scheme.element;
  double count = hasPairTable(problem.scheme)    ? 19
                 : getTableBytes(problem.scheme) ? 25
                                                 : 17;
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
  if (addsRests(problem))
    count += 8;
  // Scales from global memory, for every step.
  ScaleMode mode = getScaleMode(problem);
  if (mode == ScaleMode::General || mode == ScaleMode::Column)
    count += 30;
  return count;
}

int64_t quant_llm::getFewTokensRegisters(const KernelProblem &problem,
                                         const KernelConfig &config) {
  int64_t tokenTiles = config.tokenTile / 8;
  int64_t strips =
      problem.numWeights * config.rowTile / kStripRows / config.warpsRows;
  // Sums (a single chain of products is cut into several), tokens of two steps,
  // codes and scales by strip, addresses.
  int64_t sums = 4 * std::max<int64_t>(strips * tokenTiles, 4);
  int64_t decoding = static_cast<int64_t>(
      std::max(0.0, getDecodingInstructions(problem) - 10.5));
  return sums + 4 * tokenTiles + 28 * strips + 20 + decoding;
}

int64_t quant_llm::getRegisterLimit(const ChipLimits &chip, int64_t threads,
                                    int64_t ctas) {
  // Each of the four parts of a multiprocessor holds as many warps of a CTA as
  // the fullest one; registers come in groups of 8 for a thread.
  constexpr int64_t granularity = 4 * kWarpLanes;
  int64_t held = (threads + granularity - 1) / granularity * granularity * ctas;
  return std::min<int64_t>(255, chip.registersPerSM / held / 8 * 8);
}

int64_t quant_llm::getResidentCTAs(const KernelProblem &problem,
                                   const KernelConfig &config,
                                   const ChipLimits &chip) {
  int64_t threads = kWarpLanes * (config.warpsRows * config.warpsK + 1);
  int64_t registers = getFewTokensRegisters(problem, config);
  // Shared memory is given out in KiB, one of which is the driver's.
  int64_t shared =
      (StageLayout(problem, config).total + 1023) / 1024 * 1024 + 1024;
  int64_t resident = std::min(
      {config.ctasPerSM, chip.sharedBytesPerSM / shared, 2048 / threads});
  while (resident > 1 && getRegisterLimit(chip, threads, resident) < registers)
    --resident;
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
  double places = static_cast<double>(getClusterPlaces(chip, config.split));
  double resident = getResidentCTAs(problem, config, chip);
  double perSM = ceilDiv(ctas, places);
  double waves = ceilDiv(ctas, places * resident);
  double atATime = std::min(resident, perSM);

  FewTokensCost cost;
  // Bytes.
  double perGroup = kStripRows * (getScaleBytes(scheme) + getZeroBytes(scheme));
  double weightBytes =
      weights * tiles * strips *
      (allUnits * 256 * scheme.element.bits + getNumGroups(problem) * perGroup);
  double tokenBytes = 2.0 * tokens * problem.k;
  cost.memory = (weightBytes + tokenBytes) / (memoryBandwidth * scaling);
  cost.cache = (weightBytes * tokenGrid + tiles * tokenBytes) /
               (cacheBandwidth * scaling);

  // Copies of a stage.
  double perStrip = 1;
  if (layout.groups)
    perStrip += scheme.zero == ZeroKind::None ? 1 : 2;
  double segments = 2 * units;
  double activationCopies = problem.k % 64 == 0 ? 1 : segments;
  double copyTime =
      (activationCopies + weights * strips * perStrip) * copyIssueTime +
      segments * rows * tokenRowTime;

  // Instructions of a CTA for a stage, and the time of a warp for it. Warps are
  // shared out to schedulers, some of which get one more.
  double fragment = getDecodingInstructions(problem);
  double steps = kStepsPerUnit * strips * weights;
  double warps = config.warpsRows * config.warpsK * atATime;
  double uneven = ceilDiv(warps, schedulers) * schedulers / warps;
  double issue = uneven * steps * units *
                 (issuePerStep + fragment + issuePerTile * tokenTiles) /
                 (schedulers * cyclesPerMicrosecond);
  double latency = steps / config.warpsRows * (units / config.warpsK) *
                   (latencyPerStep + fragment + latencyPerTile * tokenTiles) /
                   cyclesPerMicrosecond;
  cost.instructions = perSM * own * issue;
  double compute = std::max(latency, atATime * issue);

  // A CTA goes at the pace of its warps, of its copies, or of the ring.
  double pace = std::max(
      {compute, copyTime, (copyLatency + copyTime + compute) / config.stages});
  cost.chain = waves * own * pace;

  double parts = config.split > 1 ? config.split : config.warpsK;
  double ownFragments = static_cast<double>(layout.ownFragments) * weights;
  double warpsOfCTA = config.warpsRows * config.warpsK;
  cost.ends = firstStageShare * copyTime + lastStageShare * latency +
              depositTime * strips * weights / config.warpsRows * tokenTiles +
              partTime * ceilDiv(ownFragments, warpsOfCTA) * parts;
  cost.overhead = launchTime + waveTime * (waves - 1);
  if (config.split > 1)
    cost.overhead += clusterTime;

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
  overlap(cost.instructions, "instructions");
  overlap(cost.chain, "a CTA's own copies and warps");
  cost.total = cost.overhead + cost.ends + std::pow(sum, 1 / overlapExponent);
  return cost;
}
