//===- FewTokensPlanTest.cpp - Protocol of the few-tokens kernels ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/FewTokensPlan.h"
#include "PipelineModel.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace quant_llm;

using Kind = PipelineAction::Kind;

namespace {

PipelineProgram makeProgram(int64_t stages, int64_t split) {
  KernelConfig config;
  config.family = KernelFamily::FewTokens;
  config.stages = stages;
  config.split = split;
  return planFewTokens(config);
}

/// Takes the first action of a kind out of a list.
void take(std::vector<PipelineAction> &actions, Kind kind) {
  auto it = std::find_if(
      actions.begin(), actions.end(),
      [&](const PipelineAction &action) { return action.kind == kind; });
  ASSERT_NE(it, actions.end());
  actions.erase(it);
}

/// Of two CTAs if split, with two consumers in each of them.
std::string faultOf(const PipelineProgram &program) {
  return explorePipeline(program, 2, {program.ctas == 1 ? 5u : 2u}).fault;
}

} // namespace

TEST(FewTokensProtocol, AllInterleavings) {
  for (int64_t stages : {2, 3, 4})
    for (unsigned units : {1, 2, 3, 4, 5, 9})
      for (unsigned consumers : {1, 2, 3}) {
        PipelineVerdict verdict =
            explorePipeline(makeProgram(stages, 1), consumers, {units});
        EXPECT_EQ(verdict.fault, "") << stages << " " << units;
        EXPECT_GT(verdict.states, 10u);
      }
}

// CTAs that share the columns have stages of their own, and some one more.
TEST(FewTokensProtocol, Exchange) {
  for (unsigned units : {1, 2, 3})
    for (unsigned more : {0, 1}) {
      PipelineVerdict verdict =
          explorePipeline(makeProgram(2, 2), 2, {units}, more);
      EXPECT_EQ(verdict.fault, "") << units << " " << more;
      EXPECT_GT(verdict.states, 1000u);
    }
  EXPECT_EQ(explorePipeline(makeProgram(2, 3), 1, {1}, 1).fault, "");
}

TEST(FewTokensFaults, Ring) {
  PipelineProgram program = makeProgram(2, 1);
  take(program.consumeUnit, Kind::Release);
  EXPECT_EQ(faultOf(program).find("nobody can go on"), 0u);

  program = makeProgram(2, 1);
  take(program.consumeUnit, Kind::WaitFull);
  EXPECT_EQ(faultOf(program), "work is done on a slot that is not held");

  // A slot is given back before it has been read.
  program = makeProgram(2, 1);
  std::swap(program.consumeUnit[1], program.consumeUnit[2]);
  EXPECT_EQ(faultOf(program), "work is done on a slot that is not held");

  program = makeProgram(2, 1);
  take(program.produceUnit, Kind::WaitEmpty);
  EXPECT_EQ(faultOf(program), "a slot is filled without waiting for it");
}

TEST(FewTokensFaults, Start) {
  PipelineProgram program = makeProgram(2, 1);
  take(program.consumeStart, Kind::AwaitReady);
  EXPECT_EQ(faultOf(program), "a barrier is used before it is made");

  program = makeProgram(2, 1);
  std::swap(program.produceStart[0], program.produceStart[1]);
  EXPECT_EQ(faultOf(program), "a barrier is used before it is made");

  program = makeProgram(2, 1);
  take(program.produceStart, Kind::TellReady);
  EXPECT_EQ(faultOf(program).find("nobody can go on"), 0u);
}

TEST(FewTokensFaults, End) {
  // Each of the two meetings, at which the other one is left.
  PipelineProgram program = makeProgram(2, 1);
  take(program.consumeTileEnd, Kind::Meet);
  EXPECT_EQ(faultOf(program), "sums replace a stage that is still needed");

  program = makeProgram(2, 1);
  program.consumeTileEnd.erase(program.consumeTileEnd.begin() + 2);
  EXPECT_EQ(faultOf(program), "sums are read before all of them are left");
}

TEST(FewTokensFaults, Cluster) {
  PipelineProgram program = makeProgram(2, 2);
  take(program.consumeTileEnd, Kind::WaitCluster);
  EXPECT_EQ(faultOf(program),
            "sums are sent to a CTA that has no barriers yet");

  // All threads arrive before the barriers are there.
  program = makeProgram(2, 2);
  for (auto *list : {&program.produceStart, &program.consumeStart})
    std::rotate(list->begin(), list->end() - 1, list->end());
  EXPECT_EQ(faultOf(program),
            "sums are sent to a CTA that has no barriers yet");

  program = makeProgram(2, 2);
  take(program.consumeTileEnd, Kind::AwaitSums);
  EXPECT_EQ(faultOf(program), "sums are read before they have come");

  // A CTA that does not wait for what is sent to it may end before.
  program = makeProgram(2, 2);
  take(program.consumeTileEnd, Kind::AwaitSums);
  take(program.consumeTileEnd, Kind::Finish);
  EXPECT_EQ(faultOf(program), "sums come to a CTA that has ended");

  // A thread that never arrives.
  program = makeProgram(2, 2);
  program.consumeStart.push_back({Kind::WaitCluster});
  std::swap(program.consumeStart[1], program.consumeStart[2]);
  EXPECT_EQ(faultOf(program).find("nobody can go on"), 0u);
}
