//===- StageLayout.cpp - Shared memory of the mma.sync kernels ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/StageLayout.h"

#include "quant-llm/Kernels/ScaleMode.h"
#include "quant-llm/Support/Rounding.h"

#include <algorithm>

using namespace quant_llm;

StageLayout::StageLayout(const KernelProblem &problem,
                         const KernelConfig &config) {
  const Scheme &scheme = problem.scheme;
  strips = config.rowTile / kStripRows;
  units = config.stageK / kUnitColumns;

  // Scales of the other modes are read where they lie.
  groups = 0;
  if (getScaleMode(problem) == ScaleMode::Static) {
    int64_t block = scheme.blockK;
    if (getNumGroups(problem) == 1 || block % config.stageK == 0)
      groups = 1;
    else if (config.stageK % block == 0)
      groups = config.stageK / block;
    else
      groups = config.stageK / block + 2;
  }

  codesPerStrip = units * 256 * scheme.element.bits;
  scalesPerStrip = groups * kStripRows * getScaleBytes(scheme);
  zerosPerStrip = groups * kStripRows * getZeroBytes(scheme);

  codes = config.stageK / 64 * config.tokenTile * 128;
  scales = codes + strips * codesPerStrip;
  zeros = scales + strips * scalesPerStrip;
  perWeight = strips * (codesPerStrip + scalesPerStrip + zerosPerStrip);
  stage = roundUp(codes + problem.numWeights * perWeight, 1024);

  // A copy takes a thread some ten cycles, for which the activations of the
  // first stage wait.
  constexpr int64_t kMostEarlyCopies = 8;
  int64_t kinds = 1 + (scalesPerStrip != 0) + (zerosPerStrip != 0);
  earlyStages = std::clamp<int64_t>(kMostEarlyCopies /
                                        (kinds * strips * problem.numWeights),
                                    1, config.stages);

  // 512 bytes per fragment and weight.
  fragments = strips * (config.tokenTile / 8);
  ownFragments = (fragments + config.split - 1) / config.split;
  int64_t sums = fragments * config.warpsK * problem.numWeights * 512;
  barriers = roundUp(std::max(config.stages * stage, sums), 16);
  table = roundUp(barriers + 16 * config.stages + 8, 16);
  exchange = roundUp(table + getTableBytes(scheme), 16);
  total = exchange + (config.split == 1 ? 0
                                        : ownFragments * config.split *
                                              problem.numWeights * 512);
}
