//===- Verify.cpp - What kernels can be built -----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Everything that the generators rely on without looking again, and what the
// chip has to offer. docs/KernelConfig.md lists the rules.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/FewTokensCost.h"
#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/ScaleMode.h"
#include "quant-llm/Kernels/StageLayout.h"
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Kernels/WgmmaPlan.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Support/Rounding.h"

#include <algorithm>

using namespace quant_llm;

/// Offsets in bytes within a strip of 16 rows (of at most 8 bits a code) and
/// within a row of scales are signed numbers of 32 bits.
static constexpr int64_t maxExtent = int64_t(1) << 26;
static constexpr int64_t maxEpilogueOperands = 16;
static constexpr int64_t maxThreads = 1024;
/// The driver's share of the shared memory of every CTA.
static constexpr int64_t reservedSharedBytes = 1024;
/// Addresses, fragments and scales beside the sums: less has never been enough.
static constexpr int64_t registersBesideSums = 48;
/// The same of the family multistage, for which the tokens of 32 columns come
/// on top: 4 registers for every 8 tokens (measured: 184 to 192 in all for a
/// tile of 128 x 128 with 64 sums).
static constexpr int64_t multistageRegistersBesideSums = 64;
/// The same of the family wgmma where parts of tiles are kept track of and
/// codes are no integers (measured: 88 and 96 were not enough).
static constexpr int64_t streamRegistersBesideSums = 100;
/// Look-ups of a table that are on their way.
static constexpr int64_t tableRegisters = 16;
/// Where the tokens and rows of a tile's expert are (8 x 192 x 576, tiles of
/// 128 x 64 and two CTAs on a multiprocessor of sm_80: 3 spilled without).
static constexpr int64_t expertRegisters = 4;

static std::string text(int64_t value) { return std::to_string(value); }

static Status expected(const std::string &what, int64_t got) {
  return Status::error("expected " + what + " but got " + text(got));
}

static int64_t getThreads(const KernelConfig &config) {
  int64_t warps = config.warpsRows * config.warpsK;
  switch (config.family) {
  case KernelFamily::FewTokens:
    return kWarpLanes * (warps + 1);
  case KernelFamily::Wgmma:
    return 4 * kWarpLanes * (warps + 1);
  case KernelFamily::Multistage:
    break;
  }
  return kWarpLanes * warps;
}

int64_t quant_llm::getSharedBytes(const KernelProblem &problem,
                                  const KernelConfig &config) {
  if (config.family != KernelFamily::Wgmma)
    return StageLayout(problem, config).total;
  Result<WgmmaPlan> plan = planWgmma(problem, config);
  return plan.ok() ? plan->sharedBytes : 0;
}

static Status verifyProblem(const KernelProblem &problem) {
  if (problem.n < 1 || problem.n > maxExtent)
    return expected("1 to " + text(maxExtent) +
                        " rows of a weight (kernels count bytes in 32 bits)",
                    problem.n);
  if (problem.experts < 0 || problem.experts > maxExtent / problem.n)
    return expected("at most " + text(maxExtent / problem.n) + " experts of " +
                        text(problem.n) + " rows",
                    problem.experts);
  if (problem.k < 1 || problem.k > maxExtent)
    return expected("1 to " + text(maxExtent) +
                        " columns of a weight (kernels count bytes in 32 bits)",
                    problem.k);
  if (problem.activation == TensorType::F32)
    return Status::error("expected activations of f16 or bf16 but got f32");
  if (problem.numWeights < 1 || problem.numWeights > 2)
    return expected("one or two weights", problem.numWeights);
  int64_t operands = static_cast<int64_t>(problem.epilogue.size());
  if (operands > maxEpilogueOperands)
    return expected("at most " + text(maxEpilogueOperands) +
                        " operands of an epilogue",
                    operands);
  Result<FragmentLayout> layout =
      FragmentLayout::get(problem.scheme, problem.getRows(), problem.k);
  return layout.status();
}

Status quant_llm::verifyConfig(const KernelConfig &config) {
  // Bounds that keep all products of sizes far from overflow.
  for (const ConfigField &field : getConfigFields()) {
    int64_t value = config.*field.member;
    if (field.member == &KernelConfig::split && value == kStreamK)
      continue;
    if (value < 1 || value > 1 << 16)
      return expected(std::string(field.name) + " to be 1 to 65536", value);
  }
  if (config.minTokens < 1 || config.maxTokens < config.minTokens)
    return Status::error("expected tokens to be a range from 1 on but got [" +
                         text(config.minTokens) + ", " +
                         text(config.maxTokens) + "]");
  if (config.rowTile % kStripRows != 0)
    return expected("row_tile to be a multiple of 16", config.rowTile);
  if (config.tokenTile % 8 != 0)
    return expected("token_tile to be a multiple of 8", config.tokenTile);
  if (config.stageK % 64 != 0)
    return expected("stage_k to be a multiple of 64", config.stageK);
  if (int64_t threads = getThreads(config); threads > maxThreads)
    return expected("warps that give at most " + text(maxThreads) + " threads",
                    threads);
  return Status::success();
}

/// Families FewTokens and Multistage.
static Status verifyMma(const KernelProblem &problem,
                        const KernelConfig &config, const ChipLimits &chip) {
  if (config.stageK % kUnitColumns != 0)
    return expected("stage_k to be a multiple of 128 for the family " +
                        std::string(getName(config.family)),
                    config.stageK);
  if (config.rowTile / kStripRows % config.warpsRows != 0)
    return expected("warps_rows to divide the " +
                        text(config.rowTile / kStripRows) +
                        " strips of 16 rows of row_tile",
                    config.warpsRows);
  if (config.stageK / kUnitColumns % config.warpsK != 0)
    return expected("warps_k to divide the " +
                        text(config.stageK / kUnitColumns) +
                        " units of 128 columns of stage_k",
                    config.warpsK);
  if (config.stages < 2)
    return expected("at least 2 stages", config.stages);
  if (config.split == kStreamK)
    return Status::error(std::string("expected the family wgmma for split = ") +
                         kStreamKName + " but got " + getName(config.family));
  int64_t chunks = (problem.k + config.stageK - 1) / config.stageK;
  int64_t mostSplit = config.family == KernelFamily::FewTokens
                          ? std::min<int64_t>(chunks, 8)
                          : 1;
  if (config.split < 1 || config.split > mostSplit)
    return expected("split to be 1 to " + text(mostSplit) +
                        " (few_tokens: the CTAs of a cluster, at most 8, and "
                        "at most one per stage_k columns; else 1)",
                    config.split);
  if (config.family == KernelFamily::FewTokens) {
    if (!chip.hasBulkCopy)
      return Status::error("expected a chip with bulk copies (sm_90 or later) "
                           "for the family few_tokens but got " +
                           chip.name);
    if (config.copy != ActivationCopy::Tensor)
      return Status::error("expected copy = tensor for the family few_tokens "
                           "but got " +
                           std::string(getName(config.copy)));
    if (config.tokenTile > 256)
      return expected("token_tile to be at most 256, the size of a tensor copy",
                      config.tokenTile);
  } else if (config.copy != ActivationCopy::Async16 &&
             config.copy != ActivationCopy::Element) {
    return Status::error("expected copy = async16 or element for the family "
                         "multistage but got " +
                         std::string(getName(config.copy)));
  }

  int64_t tiles = problem.numWeights * config.rowTile / kStripRows /
                  config.warpsRows * config.tokenTile / 8;
  // A single chain of dependent products is cut into several.
  int64_t sums = 4 * (tiles <= 2 ? 4 : tiles);
  int64_t registers =
      getRegisterLimit(chip, getThreads(config), config.ctasPerSM);
  int64_t others =
      config.family == KernelFamily::Multistage
          ? multistageRegistersBesideSums + config.tokenTile / 2 +
                (getTableBytes(problem.scheme) ? tableRegisters : 0) +
                (problem.isGrouped() ? expertRegisters : 0)
          : getFewTokensRegisters(problem, config) - sums;
  if (sums + others > registers)
    return Status::error(
        "expected sums for " + text(registers) + " registers a thread (" +
        text(getThreads(config)) + " threads, " + text(config.ctasPerSM) +
        " CTAs per multiprocessor), of which " + text(others) +
        " are needed for other things, but row_tile, token_tile and warps_rows "
        "ask for " +
        text(sums));
  return Status::success();
}

static Status verifyWgmma(const KernelProblem &problem,
                          const KernelConfig &config, const ChipLimits &chip) {
  if (!chip.hasWgmma)
    return Status::error("expected sm_90a for the family wgmma but got " +
                         chip.name);
  // Blocks of 64 rows begin where an expert does.
  if (problem.isGrouped() && problem.n % 64 != 0)
    return expected("experts with a multiple of 64 rows for the family wgmma",
                    problem.n);
  Result<WgmmaPlan> plan = planWgmma(problem, config);
  if (!plan.ok())
    return plan.status();
  int64_t sums = plan->blocksPerConsumer * config.tokenTile / 2;
  int64_t registers = std::max(plan->launchRegisters, plan->consumerRegisters);
  ElementKind kind = problem.scheme.element.kind;
  bool isInteger = kind == ElementKind::Int || kind == ElementKind::UInt ||
                   kind == ElementKind::Ternary;
  int64_t others = registersBesideSums;
  if (plan->streams && !isInteger)
    others = streamRegistersBesideSums +
             (getTableBytes(problem.scheme) ? tableRegisters : 0);
  if (sums + others > registers)
    return Status::error("expected sums for " + text(registers) +
                         " registers a thread (" + text(plan->threads) +
                         " threads, " + text(config.ctasPerSM) +
                         " CTAs per multiprocessor), of which " + text(others) +
                         " are needed for other things, but row_tile, "
                         "token_tile and warps_rows ask for " +
                         text(sums));
  return Status::success();
}

Status quant_llm::verifyKernel(const KernelProblem &problem,
                               const KernelConfig &config,
                               const ChipLimits &chip) {
  if (Status status = verifyProblem(problem); !status.ok())
    return status;
  if (Status status = verifyConfig(config); !status.ok())
    return status;
  if (config.copy != ActivationCopy::Element && 2 * problem.k % 16 != 0)
    return Status::error("expected the family multistage with copy = element, "
                         "because rows of " +
                         text(problem.k) +
                         " columns do not begin at multiples of 16 bytes, but "
                         "got the family " +
                         std::string(getName(config.family)) +
                         " with copy = " + getName(config.copy));
  switch (config.family) {
  case KernelFamily::FewTokens:
  case KernelFamily::Multistage:
    if (Status status = verifyMma(problem, config, chip); !status.ok())
      return status;
    break;
  case KernelFamily::Wgmma:
    if (Status status = verifyWgmma(problem, config, chip); !status.ok())
      return status;
    break;
  }
  int64_t shared = getSharedBytes(problem, config);
  if (shared > chip.sharedBytesPerCTA)
    return Status::error("expected at most " + text(chip.sharedBytesPerCTA) +
                         " bytes of shared memory on " + chip.name +
                         " but the stages need " + text(shared));
  int64_t resident =
      config.ctasPerSM * (roundUp(shared, 1024) + reservedSharedBytes);
  if (resident > chip.sharedBytesPerSM)
    return Status::error("expected " + text(config.ctasPerSM) +
                         " CTAs to fit into the " +
                         text(chip.sharedBytesPerSM) +
                         " bytes of shared memory of a multiprocessor of " +
                         chip.name + " but they need " + text(resident));
  return Status::success();
}
