//===- WgmmaPlan.cpp - Everything derived of a wgmma kernel ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/WgmmaPlan.h"

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/ScaleMode.h"
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Support/Rounding.h"

#include <algorithm>

using namespace quant_llm;

using Action = PipelineAction;
using Kind = PipelineAction::Kind;

static std::string text(int64_t value) { return std::to_string(value); }

/// The groups along k, and whether the main loop can follow them.
static Status planGroups(WgmmaPlan &plan, const KernelProblem &problem) {
  ScaleMode mode = getScaleMode(problem);
  int64_t block = problem.scheme.blockK;
  if (mode != ScaleMode::Channel && mode != ScaleMode::Static)
    return Status::error("expected groups of 16, 32, 64 or a multiple of 128 "
                         "columns for the wgmma family but got " +
                         text(block));
  plan.units = ceilDiv(problem.k, kUnitColumns);
  plan.rowBlocks = ceilDiv(problem.n, 64);
  plan.groups = getNumGroups(problem);
  if (plan.groups == 1) {
    plan.unitsPerGroup = plan.units;
  } else {
    plan.groupsPerUnit = std::max<int64_t>(1, kUnitColumns / block);
    plan.unitsPerGroup = std::max<int64_t>(1, block / kUnitColumns);
  }
  plan.zerosInLoop = problem.scheme.zero != ZeroKind::None;
  plan.scalesInLoop = mode == ScaleMode::Static;
  return Status();
}

static Status planTile(WgmmaPlan &plan, const KernelProblem &problem,
                       const KernelConfig &config) {
  int64_t tokens = config.tokenTile, rows = config.rowTile;
  if (tokens < 16 || tokens > 256 || tokens % 16 != 0)
    return Status::error("expected a token tile that is a multiple of 16 up "
                         "to 256 but got " +
                         text(tokens));
  if (rows < 64 || rows % 64 != 0)
    return Status::error("expected a row tile that is a multiple of 64 but "
                         "got " +
                         text(rows));
  int64_t blocks = rows / 64 * problem.numWeights;
  if (config.warpsRows < 1 || config.warpsRows > 4 ||
      rows / 64 % config.warpsRows != 0)
    return Status::error(
        "expected 1 to 4 consumer warpgroups that divide the " +
        text(rows / 64) + " blocks of 64 rows but got " +
        text(config.warpsRows));
  plan.streams = config.split == kStreamK;
  if (config.warpsK < 1 || config.split > 8)
    return Status::error("expected a cluster of 1 to 8 CTAs along k, or "
                         "stream_k, for the wgmma family but got " +
                         text(config.split));
  if (plan.streams && config.warpsK > 1)
    return Status::error("expected warps_k = 1 with split = stream_k but got " +
                         text(config.warpsK));
  if (plan.streams && problem.isGrouped())
    return Status::error("expected no split = stream_k for experts, whose "
                         "tiles are found on the device");
  if (int64_t parts = config.warpsK * config.split; plan.units < parts)
    return Status::error("expected at least " + text(parts) +
                         " units of 128 columns, one for each of the parts "
                         "along k (warps_k times split), but got " +
                         text(plan.units));
  if (config.warpsRows * config.warpsK > 4)
    return Status::error("expected at most 4 consumer warpgroups for the wgmma "
                         "family but got " +
                         text(config.warpsRows * config.warpsK));
  if (config.stageK != WgmmaPlan::kHalf)
    return Status::error("expected stages of 64 columns for the wgmma family "
                         "but got " +
                         text(config.stageK));
  // Two activation slots may be in use while a third is awaited.
  if (config.stages < 3 || config.stages > 16)
    return Status::error("expected 3 to 16 stages for the wgmma family but "
                         "got " +
                         text(config.stages));
  plan.consumers = config.warpsRows * config.warpsK;
  plan.parts = config.warpsK;
  plan.split = std::max<int64_t>(config.split, 1);
  plan.blocks = blocks;
  plan.blocksPerConsumer = blocks / config.warpsRows;
  plan.rowTiles = ceilDiv(problem.n, rows);
  plan.bandTiles = std::max<int64_t>(1, 1024 / tokens);

  int64_t sums = plan.blocksPerConsumer * tokens / 2;
  if (plan.streams) {
    plan.partBytes = plan.blocks * tokens * 64 * 4;
    plan.mostDealt = getMostDealt(plan.units);
  }
  if (sums > 128)
    return Status::error("expected at most 128 sums a thread (row blocks of a "
                         "warpgroup times token tile / 2) but got " +
                         text(sums));
  // Wide tiles hide the conversion behind two chunks; narrow ones need it
  // further ahead, in shorter chunks.
  if (sums > 64 || plan.blocksPerConsumer > 1) {
    plan.chunkSteps = 2, plan.buffers = 2, plan.ahead = 1;
  } else if (sums > 40) {
    plan.chunkSteps = 2, plan.buffers = 4, plan.ahead = 2;
  } else {
    plan.chunkSteps = 4, plan.buffers = 2, plan.ahead = 1;
  }
  return Status();
}

static void planMemory(WgmmaPlan &plan, const KernelProblem &problem,
                       const KernelConfig &config) {
  const Scheme &scheme = problem.scheme;
  int64_t strips = plan.blocks * 4;
  plan.activationSlotBytes = config.tokenTile * WgmmaPlan::kHalf * 2;
  plan.packedStripBytes = 256 * int64_t(scheme.element.bits);
  int64_t perUnit = kStripRows * plan.groupsPerUnit;
  if (plan.scalesInLoop)
    plan.scaleStripBytes = perUnit * getScaleBytes(scheme);
  if (plan.zerosInLoop)
    plan.zeroStripBytes = perUnit * getZeroBytes(scheme);
  plan.scalesOffset = strips * plan.packedStripBytes;
  plan.zerosOffset = plan.scalesOffset + strips * plan.scaleStripBytes;
  plan.weightSlotBytes =
      roundUp(plan.zerosOffset + strips * plan.zeroStripBytes, 128);

  plan.stagesSums = plan.sumsMeet();
  for (const EpilogueOperand &operand : problem.epilogue)
    plan.stagesSums |= operand.perElement;
  plan.stagesWords = plan.stagesSums || problem.output == TensorType::F32;
  // 64 rows of 16 bits, or of 32 bits for as many values.
  plan.stagingTokens =
      std::min<int64_t>(config.tokenTile, plan.stagesWords ? 32 : 64);
  plan.stagingBytes = plan.stagingTokens * 64 * (plan.stagesWords ? 4 : 2) *
                      (plan.stagesSums ? problem.numWeights : 1);
  if (plan.sumsMeet()) {
    plan.stagingTokens = config.tokenTile;
    plan.stagingBytes = plan.stagingTokens * 64 * 4 * plan.blocksPerConsumer;
  }

  int64_t weightSlots =
      plan.parts * plan.program.rings[WgmmaPlan::kWeights].slots;
  int64_t activationSlots =
      plan.parts * plan.program.rings[WgmmaPlan::kActivations].slots;
  // Slots of activations are multiples of 1024 bytes, as the swizzle wants.
  plan.activationsAt = 0;
  int64_t allStaging = plan.consumers * plan.stagingBytes;
  int64_t activationsEnd =
      plan.activationsAt + activationSlots * plan.activationSlotBytes;
  plan.stagingAt = plan.sumsMeet() ? 0 : activationsEnd;
  plan.weightsAt = activationsEnd + (plan.sumsMeet() ? 0 : allStaging);
  plan.barriersAt =
      std::max(plan.weightsAt + weightSlots * plan.weightSlotBytes,
               plan.stagingAt + allStaging);
  plan.tableAt = plan.barriersAt + 16 * (weightSlots + activationSlots);
  plan.sharedBytes = plan.tableAt + getTableBytes(scheme);
}

/// Registers come in multiples of 8 for all threads at launch; afterwards the
/// warpgroups exchange them.
static void planRegisters(WgmmaPlan &plan, const KernelProblem &problem,
                          const KernelConfig &config) {
  constexpr int64_t registersPerSM = 65536, granule = 8, most = 255;
  int64_t groups = plan.consumers + 1;
  plan.threads = 128 * groups;
  int64_t fitting =
      registersPerSM / (config.ctasPerSM * plan.threads) / granule * granule;
  plan.launchRegisters = std::min(fitting, most);
  // With parts of tiles to keep track of, and a last tile that has not all
  // blocks of rows, the thread that copies spilled with 40 (10944 x 4096, tiles
  // of 256 x 128).
  bool isRagged = problem.n % config.rowTile != 0;
  int64_t producer = plan.streams && isRagged ? 56 : 40;
  int64_t consumer =
      (fitting * groups - producer) / plan.consumers / granule * granule;
  if (fitting > most || consumer <= plan.launchRegisters)
    return;
  plan.consumerRegisters = std::min<int64_t>(consumer, 240);
  // What rounding leaves is the producer's, too.
  plan.producerRegisters =
      (fitting * groups - plan.consumers * consumer) / granule * granule;
}

/// The protocol. The consumer is always `ahead` chunks further with weights
/// than with products, also over the end of a tile; after the last tile it
/// prepares chunks of a unit that the producer announces but does not fill.
static void planProgram(WgmmaPlan &plan, const KernelConfig &config) {
  constexpr unsigned weights = WgmmaPlan::kWeights,
                     activations = WgmmaPlan::kActivations;
  PipelineProgram &program = plan.program;
  unsigned activationSlots = config.stages;
  // As many columns as the activations, and the unit in use.
  unsigned weightSlots = (activationSlots + 1) / 2 + 1;
  program.rings = {{"weights", weightSlots}, {"activations", activationSlots}};
  program.parts = plan.parts;
  program.buffers = plan.buffers;

  program.produceUnit = {
      {Kind::WaitEmpty, weights},     {Kind::Fill, weights},
      {Kind::WaitEmpty, activations}, {Kind::Fill, activations},
      {Kind::WaitEmpty, activations}, {Kind::Fill, activations}};
  program.produceEnd = {{Kind::WaitEmpty, weights}, {Kind::Announce, weights}};

  unsigned chunks = unsigned(kStepsPerUnit) / plan.chunkSteps;
  unsigned chunksPerHalf = WgmmaPlan::kHalfSteps / plan.chunkSteps;
  unsigned inFlight = plan.buffers - plan.ahead;
  auto prepare = [&](std::vector<Action> &list, unsigned chunk) {
    if (chunk % chunks == 0)
      list.push_back({Kind::WaitFull, weights});
    list.push_back(
        {Kind::Prepare, weights, chunk % chunks, chunk % plan.buffers});
  };
  for (unsigned chunk = 0; chunk < plan.ahead; ++chunk)
    prepare(program.consumeStart, chunk);

  std::vector<Action> &unit = program.consumeUnit;
  for (unsigned chunk = 0; chunk < chunks; ++chunk) {
    if (chunk % chunksPerHalf == 0)
      unit.push_back({Kind::WaitFull, activations});
    unit.push_back({Kind::Multiply, activations, chunk, chunk % plan.buffers});
    // The last products of a unit have started: all of its words are operands.
    if (chunk + 1 == chunks)
      unit.push_back({Kind::Release, weights});
    unit.push_back({Kind::WaitGroups, 0, inFlight});
    // That completed chunk - inFlight, perhaps one of the unit before.
    if ((chunk + chunks + 1 - inFlight) % chunksPerHalf == 0)
      unit.push_back({Kind::Release, activations, 0, 0,
                      /*notInFirstUnit=*/chunk < inFlight});
    prepare(unit, chunk + plan.ahead);
  }
  std::vector<Action> &end = program.consumeTileEnd;
  end.push_back({Kind::WaitGroups, 0, 0});
  for (unsigned left = 0; left < inFlight; ++left)
    if ((chunks - left) % chunksPerHalf == 0)
      end.push_back({Kind::Release, activations});
  if (plan.sumsMeet())
    end.push_back({Kind::Meet});
}

Result<WgmmaPlan> quant_llm::planWgmma(const KernelProblem &problem,
                                       const KernelConfig &config) {
  WgmmaPlan plan;
  if (problem.activation == TensorType::F32)
    return Status::error("expected activations of f16 or bf16 for the wgmma "
                         "family but got f32");
  // A tensor copy wants rows of a multiple of 16 bytes.
  if (problem.k % 8 != 0)
    return Status::error("expected a multiple of 8 columns for the wgmma "
                         "family but got " +
                         text(problem.k));
  if (config.copy != ActivationCopy::Tensor)
    return Status::error("expected copy = tensor for the wgmma family but "
                         "got " +
                         std::string(getName(config.copy)));
  if (Status status = planGroups(plan, problem); !status.ok())
    return status;
  if (Status status = planTile(plan, problem, config); !status.ok())
    return status;
  planProgram(plan, config);
  planMemory(plan, problem, config);
  planRegisters(plan, problem, config);
  return plan;
}
