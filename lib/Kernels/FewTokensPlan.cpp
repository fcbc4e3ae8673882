//===- FewTokensPlan.cpp - Protocol of the few-tokens kernels -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/FewTokensPlan.h"

using namespace quant_llm;

PipelineProgram quant_llm::planFewTokens(const KernelConfig &config) {
  using Kind = PipelineAction::Kind;
  PipelineProgram program;
  program.rings = {{"stages", static_cast<unsigned>(config.stages)}};
  program.ctas = static_cast<unsigned>(config.split);
  bool isSplit = config.split > 1;

  // Consumers begin with the first stage while the others are being filled.
  program.produceStart = {{Kind::Initialize}, {Kind::TellReady}};
  program.consumeStart = {{Kind::AwaitReady}};
  program.produceUnit = {{Kind::WaitEmpty}, {Kind::Fill}};
  program.consumeUnit = {{Kind::WaitFull}, {Kind::Work}, {Kind::Release}};
  program.consumeTileEnd = {{Kind::Meet}, {Kind::Deposit}, {Kind::Meet}};
  if (isSplit) {
    // Barriers of other CTAs are used only at the end: nobody waits before.
    program.produceStart.push_back({Kind::ArriveCluster});
    program.produceEnd.push_back({Kind::WaitCluster});
    program.consumeStart.push_back({Kind::ArriveCluster});
    for (Kind kind : {Kind::WaitCluster, Kind::Send, Kind::AwaitSums})
      program.consumeTileEnd.push_back({kind});
  }
  program.consumeTileEnd.push_back({Kind::Finish});
  return program;
}
