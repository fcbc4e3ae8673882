//===- WgmmaPlanTest.cpp - Plans of wgmma kernels, and their protocol -----===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/WgmmaPlan.h"
#include "PipelineModel.h"
#include "quant-llm/Kernels/StreamK.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace quant_llm;

using Kind = PipelineAction::Kind;

namespace {

KernelProblem makeProblem() {
  KernelProblem problem;
  problem.scheme.blockK = 128;
  problem.n = 1000;
  problem.k = 1000;
  return problem;
}

KernelConfig makeConfig(int64_t tokens, int64_t stages) {
  KernelConfig config;
  config.family = KernelFamily::Wgmma;
  config.rowTile = 128;
  config.tokenTile = tokens;
  config.stageK = 64;
  config.stages = stages;
  config.warpsRows = 2;
  config.copy = ActivationCopy::Tensor;
  return config;
}

PipelineProgram makeProgram(int64_t tokens, int64_t stages) {
  Result<WgmmaPlan> plan = planWgmma(makeProblem(), makeConfig(tokens, stages));
  EXPECT_TRUE(plan.ok()) << plan.message();
  return plan->program;
}

/// Takes the first action of a kind on a ring out of a list.
PipelineAction take(std::vector<PipelineAction> &actions, Kind kind,
                    unsigned ring) {
  for (auto it = actions.begin(); it != actions.end(); ++it)
    if (it->kind == kind && it->ring == ring) {
      PipelineAction action = *it;
      actions.erase(it);
      return action;
    }
  ADD_FAILURE() << "there is no such action";
  return {};
}

std::string faultOf(const PipelineProgram &program) {
  return explorePipeline(program, 2, {2, 1, 2}).fault;
}

bool isStuck(const PipelineProgram &program) {
  return faultOf(program).find("nobody can go on") == 0;
}

constexpr unsigned kRings[] = {WgmmaPlan::kWeights, WgmmaPlan::kActivations};

} // namespace

//===----------------------------------------------------------------------===//
// Protocol
//===----------------------------------------------------------------------===//

// Token tiles that lead to every choice of chunks, buffers and distance.
class ProtocolTest : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(ProtocolTest, AllInterleavings) {
  auto [tokens, stages] = GetParam();
  PipelineProgram program = makeProgram(tokens, stages);
  for (const std::vector<unsigned> &tiles :
       std::vector<std::vector<unsigned>>{{}, {1}, {3}, {1, 1, 1}, {2, 1, 3}})
    for (unsigned consumers : {1, 2}) {
      PipelineVerdict verdict = explorePipeline(program, consumers, tiles);
      EXPECT_EQ(verdict.fault, "");
      EXPECT_GT(verdict.states, 3u);
    }
}

INSTANTIATE_TEST_SUITE_P(Plans, ProtocolTest,
                         testing::Combine(testing::Values(64, 128, 256),
                                          testing::Values(3, 4, 5)));

TEST(Protocol, ThreeConsumers) {
  EXPECT_EQ(explorePipeline(makeProgram(128, 3), 3, {1, 2}).fault, "");
}

PipelineProgram makeMeetingProgram(int64_t tokens, int64_t stages,
                                   int64_t parts, int64_t split) {
  KernelConfig config = makeConfig(tokens, stages);
  config.warpsK = parts;
  config.split = split;
  Result<WgmmaPlan> plan = planWgmma(makeProblem(), config);
  EXPECT_TRUE(plan.ok()) << plan.message();
  return plan->program;
}

// Kernels whose columns are shared have one tile, of at least one unit per
// part.
TEST(Protocol, Meeting) {
  for (unsigned units : {1, 2, 3}) {
    PipelineProgram program = makeMeetingProgram(64, 3, 1, 2);
    EXPECT_EQ(explorePipeline(program, 2, {units}).fault, "") << units;
  }
  for (int64_t tokens : {64, 128})
    for (unsigned units : {2, 3, 4}) {
      PipelineProgram program = makeMeetingProgram(tokens, 3, 2, 1);
      PipelineVerdict verdict = explorePipeline(program, 1, {units});
      EXPECT_EQ(verdict.fault, "") << tokens << " " << units;
      EXPECT_GT(verdict.states, 100u);
    }
}

TEST(ProtocolFaults, MeetingTooEarly) {
  PipelineProgram program = makeMeetingProgram(64, 3, 2, 1);
  take(program.consumeTileEnd, Kind::Meet, 0);
  program.consumeTileEnd.insert(program.consumeTileEnd.begin(), {Kind::Meet});
  EXPECT_EQ(explorePipeline(program, 1, {3}).fault,
            "the rings are given away while a product reads them");

  program = makeMeetingProgram(64, 3, 2, 1);
  take(program.consumeTileEnd, Kind::Meet, 0);
  program.consumeStart.push_back({Kind::Meet});
  EXPECT_EQ(
      explorePipeline(program, 1, {3}).fault.find("the rings are given away"),
      0u);
}

TEST(ProtocolFaults, MissingRelease) {
  for (unsigned ring : kRings) {
    PipelineProgram program = makeProgram(256, 3);
    take(program.consumeUnit, Kind::Release, ring);
    EXPECT_TRUE(isStuck(program)) << ring;
  }
}

TEST(ProtocolFaults, MissingWait) {
  for (unsigned ring : kRings) {
    PipelineProgram program = makeProgram(256, 3);
    take(program.consumeUnit, Kind::WaitFull, ring);
    EXPECT_NE(faultOf(program), "") << ring;
    program = makeProgram(256, 3);
    take(program.produceUnit, Kind::WaitEmpty, ring);
    EXPECT_EQ(faultOf(program), "a slot is filled without waiting for it");
  }
}

TEST(ProtocolFaults, LateWait) {
  // The product starts before its activations are awaited.
  PipelineProgram program = makeProgram(256, 3);
  PipelineAction wait =
      take(program.consumeUnit, Kind::WaitFull, WgmmaPlan::kActivations);
  program.consumeUnit.insert(program.consumeUnit.begin() + 1, wait);
  EXPECT_EQ(faultOf(program), "a product reads a slot that is not held");
}

TEST(ProtocolFaults, EarlyRelease) {
  // Weights before the last chunk is prepared, activations before the products
  // that read them are complete.
  PipelineProgram program = makeProgram(256, 3);
  PipelineAction release =
      take(program.consumeUnit, Kind::Release, WgmmaPlan::kWeights);
  program.consumeUnit.insert(program.consumeUnit.begin() + 1, release);
  EXPECT_EQ(faultOf(program),
            "a chunk is prepared from a slot that is not held");

  program = makeProgram(256, 3);
  for (PipelineAction &action : program.consumeUnit)
    if (action.kind == Kind::WaitGroups)
      ++action.chunk;
  EXPECT_NE(faultOf(program), "");
}

TEST(ProtocolFaults, NobodyAnnouncesTheEnd) {
  PipelineProgram program = makeProgram(128, 3);
  program.produceEnd.clear();
  EXPECT_TRUE(isStuck(program));
}

TEST(ProtocolFaults, TooFewBuffers) {
  PipelineProgram program = makeProgram(128, 3);
  for (auto *list : {&program.consumeStart, &program.consumeUnit})
    for (PipelineAction &action : *list)
      action.buffer %= 2;
  EXPECT_EQ(faultOf(program),
            "fragments are replaced while a product reads them");
}

TEST(ProtocolFaults, TooFewSlots) {
  for (unsigned ring : kRings) {
    PipelineProgram program = makeProgram(128, 3);
    program.rings[ring].slots = 1;
    EXPECT_TRUE(isStuck(program)) << ring;
  }
}

TEST(ProtocolFaults, Order) {
  // All activations of a unit before its weights: the consumers hold the last
  // slots while they wait for the next unit of weights.
  PipelineProgram program = makeProgram(128, 3);
  std::rotate(program.produceUnit.begin(), program.produceUnit.begin() + 2,
              program.produceUnit.end());
  EXPECT_TRUE(isStuck(program));
}

// An arrival too many completes a phase early.
TEST(ProtocolFaults, WrongParity) {
  PipelineProgram program = makeProgram(256, 3);
  program.produceEnd.insert(program.produceEnd.begin(),
                            {Kind::Announce, WgmmaPlan::kActivations});
  EXPECT_NE(faultOf(program), "");
}

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

TEST(WgmmaPlan, Sizes) {
  Result<WgmmaPlan> plan = planWgmma(makeProblem(), makeConfig(256, 5));
  ASSERT_TRUE(plan.ok()) << plan.message();
  EXPECT_EQ(plan->units, 8);
  EXPECT_EQ(plan->rowBlocks, 16);
  EXPECT_EQ(plan->rowTiles, 8);
  EXPECT_EQ(plan->blocks, 2u);
  EXPECT_EQ(plan->threads, 384);
  EXPECT_EQ(plan->activationSlotBytes, 256 * 128);
  EXPECT_EQ(plan->packedStripBytes, 1024);
  EXPECT_EQ(plan->scaleStripBytes, 32);
  EXPECT_EQ(plan->weightSlotBytes, 8 * (1024 + 32));
  EXPECT_EQ(plan->program.rings[WgmmaPlan::kWeights].slots, 4u);
  EXPECT_EQ(plan->sharedBytes, 5 * 32768 + 2 * 8192 + 4 * 8448 + 16 * 9);
  EXPECT_LE(plan->sharedBytes, 232448);
}

TEST(WgmmaPlan, Groups) {
  auto planFor = [](int64_t block, ZeroKind zero) {
    KernelProblem problem = makeProblem();
    problem.scheme.blockK = block;
    problem.scheme.zero = zero;
    Result<WgmmaPlan> plan = planWgmma(problem, makeConfig(128, 4));
    EXPECT_TRUE(plan.ok()) << plan.message();
    return plan.take();
  };
  WgmmaPlan small = planFor(32, ZeroKind::Integer);
  EXPECT_EQ(small.groups, 32);
  EXPECT_EQ(small.groupsPerUnit, 4);
  EXPECT_EQ(small.scaleStripBytes, 4 * 32);
  EXPECT_EQ(small.zeroStripBytes, 4 * 16);
  WgmmaPlan large = planFor(256, ZeroKind::None);
  EXPECT_EQ(large.groups, 4);
  EXPECT_EQ(large.unitsPerGroup, 2);
  WgmmaPlan row = planFor(-1, ZeroKind::Integer);
  EXPECT_FALSE(row.scalesInLoop);
  EXPECT_TRUE(row.zerosInLoop);
  EXPECT_EQ(row.unitsPerGroup, row.units);
  // A float zero is not scaled: it cannot wait for the end of the row.
  EXPECT_TRUE(planFor(-1, ZeroKind::Float).scalesInLoop);
}

TEST(WgmmaPlan, Meeting) {
  KernelConfig config = makeConfig(64, 4);
  config.rowTile = 64;
  config.warpsRows = 1;
  config.warpsK = 2;
  config.split = 3;
  Result<WgmmaPlan> plan = planWgmma(makeProblem(), config);
  ASSERT_TRUE(plan.ok()) << plan.message();
  EXPECT_TRUE(plan->sumsMeet());
  EXPECT_EQ(plan->consumers, 2u);
  EXPECT_EQ(plan->consumersPerPart(), 1u);
  EXPECT_EQ(plan->program.parts, 2u);
  // All sums of a warpgroup, in f32, where the rings were; the barriers are
  // not there.
  EXPECT_EQ(plan->stagingBytes, 64 * 64 * 4);
  EXPECT_EQ(plan->stagingAt, 0);
  EXPECT_EQ(plan->weightsAt, 2 * 4 * 64 * 128);
  EXPECT_EQ(plan->barriersAt, plan->weightsAt + 2 * 3 * plan->weightSlotBytes);
  EXPECT_GE(plan->barriersAt, 2 * plan->stagingBytes);
  config.tokenTile = 256;
  config.stages = 3;
  config.warpsK = 1;
  plan = planWgmma(makeProblem(), config);
  ASSERT_TRUE(plan.ok()) << plan.message();
  EXPECT_GE(plan->barriersAt, plan->stagingBytes);
}

TEST(WgmmaPlan, StreamK) {
  KernelConfig config = makeConfig(64, 4);
  Result<WgmmaPlan> whole = planWgmma(makeProblem(), config);
  config.split = kStreamK;
  Result<WgmmaPlan> plan = planWgmma(makeProblem(), config);
  ASSERT_TRUE(plan.ok()) << plan.message();
  EXPECT_TRUE(plan->streams);
  EXPECT_FALSE(whole->streams);
  // The same memory and protocol; sums meet in the workspace, in f32.
  EXPECT_FALSE(plan->sumsMeet());
  EXPECT_EQ(plan->split, 1);
  EXPECT_EQ(plan->sharedBytes, whole->sharedBytes);
  EXPECT_EQ(plan->partBytes, 128 * 64 * 4);
  EXPECT_EQ(plan->mostDealt, getMostDealt(8));
}

TEST(WgmmaPlan, RegistersOfStreamKWithRaggedRows) {
  KernelProblem problem = makeProblem();
  KernelConfig config = makeConfig(128, 4);
  config.rowTile = 256;
  config.warpsRows = 2;
  auto expectRegisters = [&](int64_t n, int64_t producer, int64_t consumer) {
    problem.n = n;
    Result<WgmmaPlan> plan = planWgmma(problem, config);
    ASSERT_TRUE(plan.ok()) << plan.message();
    EXPECT_EQ(plan->producerRegisters, producer) << n;
    EXPECT_EQ(plan->consumerRegisters, consumer) << n;
  };
  expectRegisters(11008, 40, 232);
  expectRegisters(10944, 40, 232);
  config.split = kStreamK;
  expectRegisters(11008, 40, 232);
  expectRegisters(10944, 56, 224);
}

TEST(WgmmaPlan, Registers) {
  for (int64_t warpgroups : {1, 2, 3, 4})
    for (int64_t ctas : {1, 2, -1}) {
      KernelConfig config = makeConfig(64, 4);
      if (ctas < 0) {
        config.split = kStreamK;
        ctas = 1;
      }
      config.rowTile = 64 * warpgroups;
      config.warpsRows = warpgroups;
      config.ctasPerSM = ctas;
      Result<WgmmaPlan> plan = planWgmma(makeProblem(), config);
      ASSERT_TRUE(plan.ok()) << plan.message();
      EXPECT_LE(plan->launchRegisters * plan->threads * ctas, 65536);
      if (plan->consumerRegisters == 0)
        continue;
      // What all have after the exchange is what they got at launch.
      EXPECT_EQ(plan->consumerRegisters % 8, 0);
      EXPECT_LE(plan->producerRegisters + warpgroups * plan->consumerRegisters,
                (warpgroups + 1) * plan->launchRegisters);
      EXPECT_GT(plan->consumerRegisters, plan->launchRegisters);
      EXPECT_LT(plan->producerRegisters, plan->launchRegisters);
    }
}

TEST(WgmmaPlan, Refused) {
  auto message = [](auto change) {
    KernelProblem problem = makeProblem();
    KernelConfig config = makeConfig(128, 4);
    change(problem, config);
    return planWgmma(problem, config).message();
  };
  using Problem = KernelProblem;
  using Config = KernelConfig;
  EXPECT_EQ(message([](Problem &p, Config &) { p.k = 1002; }),
            "expected a multiple of 8 columns for the wgmma family "
            "but got 1002");
  EXPECT_EQ(message([](Problem &p, Config &) { p.scheme.blockK = 48; }),
            "expected groups of 16, 32, 64 or a multiple of 128 columns for "
            "the wgmma family but got 48");
  EXPECT_EQ(
      message([](Problem &p, Config &) { p.activation = TensorType::F32; }),
      "expected activations of f16 or bf16 for the wgmma family but got f32");
  EXPECT_EQ(message([](Problem &, Config &c) { c.tokenTile = 72; }),
            "expected a token tile that is a multiple of 16 up to 256 but got "
            "72");
  EXPECT_EQ(message([](Problem &, Config &c) { c.rowTile = 96; }),
            "expected a row tile that is a multiple of 64 but got 96");
  EXPECT_EQ(message([](Problem &, Config &c) { c.warpsRows = 3; }),
            "expected 1 to 4 consumer warpgroups that divide the 2 blocks of "
            "64 rows but got 3");
  EXPECT_EQ(message([](Problem &, Config &c) {
              c.tokenTile = 256;
              c.rowTile = 256;
            }),
            "expected at most 128 sums a thread (row blocks of a warpgroup "
            "times token tile / 2) but got 256");
  EXPECT_EQ(message([](Problem &, Config &c) { c.stages = 2; }),
            "expected 3 to 16 stages for the wgmma family but got 2");
  EXPECT_EQ(message([](Problem &, Config &c) { c.stageK = 128; }),
            "expected stages of 64 columns for the wgmma family but got 128");
  EXPECT_EQ(message([](Problem &, Config &c) { c.warpsK = 4; }),
            "expected at most 4 consumer warpgroups for the wgmma family but "
            "got 8");
  EXPECT_EQ(message([](Problem &, Config &c) { c.split = 9; }),
            "expected a cluster of 1 to 8 CTAs along k, or stream_k, for the "
            "wgmma family but got 9");
  EXPECT_EQ(message([](Problem &p, Config &c) {
              p.k = 256;
              c.warpsK = c.split = 2;
            }),
            "expected at least 4 units of 128 columns, one for each of the "
            "parts along k (warps_k times split), but got 2");
  EXPECT_EQ(
      message([](Problem &, Config &c) { c.copy = ActivationCopy::Async16; }),
      "expected copy = tensor for the wgmma family but got async16");
}
