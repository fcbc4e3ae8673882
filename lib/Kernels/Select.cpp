//===- Select.cpp - The choice of kernels ---------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// All heuristics, and nothing else. They follow from measurements
// (docs/KernelConfig.md): weights of few tokens are memory-bound, so every
// multiprocessor should get the same number of rows, all at once, with enough
// copies in flight; many tokens are bound by matrix instructions, so the tile
// matters and how well tiles fill the waves. Whatever is tried here is verified
// before it is chosen: a preference that does not fit is passed over.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/ScaleMode.h"

#include <algorithm>
#include <optional>
#include <tuple>

using namespace quant_llm;

namespace {

struct TokenRange {
  int64_t min, max;
};

/// Kernels are chosen for each of these ranges; equal neighbours become one.
constexpr TokenRange tokenRanges[] = {
    {1, 8},     {9, 16},    {17, 32},    {33, 64},          {65, 128},
    {129, 256}, {257, 512}, {513, 1024}, {1025, INT64_MAX},
};
/// The number of tokens that "many" stands for.
constexpr int64_t manyTokens = 4096;

/// Tiles of the wgmma family: rows, tokens, consumer warpgroups, and the share
/// of the tensor cores' time that the main loop uses.
struct WgmmaTile {
  int64_t rows, tokens, warpgroups;
  double efficiency;
};
constexpr WgmmaTile wgmmaTiles[] = {
    {256, 128, 2, 0.99}, {128, 256, 2, 0.97}, {128, 192, 2, 0.95},
    {192, 128, 3, 0.93}, {128, 128, 2, 0.89}, {128, 64, 2, 0.62},
};
/// Products that a multiprocessor makes in a cycle, and cycles that a tile
/// takes beside its main loop (the start of the pipeline, the results).
constexpr double wgmmaProductsPerCycle = 2048;
constexpr double wgmmaTileOverhead = 3000;

/// Tiles of the multistage family: rows, and warps along rows and k.
struct MultistageTile {
  int64_t rows, warpsRows, warpsK;
};
constexpr MultistageTile multistageTiles[] = {
    {128, 8, 1}, {64, 4, 2}, {64, 4, 1}, {32, 2, 4}, {32, 2, 2},
    {32, 2, 1},  {16, 1, 8}, {16, 1, 4}, {16, 1, 2}, {16, 1, 1},
};
/// What a multiprocessor of Ampere does in a cycle at best (products), or when
/// all of them read (bytes), and how many warps it takes for that.
constexpr double mmaProductsPerCycle = 600;
constexpr double bytesPerCycle = 20;
constexpr int64_t warpsToHideLatency = 8;
constexpr double multistageTileOverhead = 3000;

struct Choice {
  KernelConfig config;
  std::string reason;
};

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
std::string text(int64_t value) { return std::to_string(value); }

class Selector {
public:
  Selector(const KernelProblem &problem, const ChipLimits &chip)
      : problem(problem), chip(chip), alignedRows(2 * problem.k % 16 == 0) {}

  std::optional<Choice> choose(const TokenRange &range) {
    std::optional<Choice> choice;
    if (range.max <= 64)
      choice = chooseFewTokens(range);
    if (!choice && range.min > 32)
      choice = chooseWgmma(range);
    if (!choice)
      choice = chooseMultistage(range);
    return choice;
  }

private:
  bool fits(const KernelConfig &config) const {
    return verifyKernel(problem, config, chip).ok();
  }

  /// The deepest ring of the largest stages that fits: stages of `largest`
  /// columns or less, but at least two to the row, and not fewer than three if
  /// possible. False if nothing fits.
  bool chooseStages(KernelConfig &config, int64_t largest) const;
  /// The same for two CTAs on a multiprocessor, which hide each other's waits,
  /// or else for one.
  bool chooseShared(KernelConfig &config, int64_t largest) const;

  std::optional<Choice> chooseFewTokens(const TokenRange &range) const;
  std::optional<Choice> chooseWgmma(const TokenRange &range) const;
  std::optional<Choice> chooseMultistage(const TokenRange &range) const;

  double getMultistageCycles(const KernelConfig &config, int64_t tokens) const;

  const KernelProblem &problem;
  const ChipLimits &chip;
  /// Rows of X can be copied 16 bytes at a time.
  bool alignedRows;
};

} // namespace

bool Selector::chooseStages(KernelConfig &config, int64_t largest) const {
  int64_t step = kUnitColumns * config.warpsK;
  int64_t half = std::max(step, problem.k / 2);
  for (int64_t least : {3, 2})
    for (int64_t stageK = 2048; stageK >= step; stageK /= 2) {
      if (stageK % step != 0 || stageK > half || stageK > largest)
        continue;
      config.stageK = stageK;
      for (config.stages = 4; config.stages >= least; --config.stages)
        if (fits(config))
          return true;
    }
  return false;
}

bool Selector::chooseShared(KernelConfig &config, int64_t largest) const {
  config.ctasPerSM = 2;
  if (chooseStages(config, largest) && config.stages >= 3)
    return true;
  config.ctasPerSM = 1;
  return chooseStages(config, largest);
}

//===----------------------------------------------------------------------===//
// Few tokens
//===----------------------------------------------------------------------===//

std::optional<Choice> Selector::chooseFewTokens(const TokenRange &range) const {
  if (!chip.hasBulkCopy || !alignedRows)
    return std::nullopt;
  KernelConfig config;
  config.family = KernelFamily::FewTokens;
  config.copy = ActivationCopy::Tensor;
  config.tokenTile = range.max;
  config.minTokens = range.min;
  config.maxTokens = range.max;
  bool veryFew = range.max <= 16;
  // One CTA for all rows of its multiprocessor pays only if X is large.
  int64_t mostStrips = veryFew ? 7 : 14;

  // Every multiprocessor should get the same rows in one wave: the fewest rows
  // per multiprocessor win, then the smaller tile (in several waves the larger
  // one, which reads X less often). Up to 16 tokens two CTAs
  // share a multiprocessor where each has few warps; with more tokens one CTA
  // should take all rows of its multiprocessor, because it reads X for all.
  using Rank = std::tuple<int, int64_t, int64_t>;
  std::optional<std::pair<Rank, KernelConfig>> best;
  for (int64_t strips = 1; strips <= mostStrips; ++strips) {
    config.rowTile = strips * kStripRows;
    config.warpsRows = strips;
    int64_t tiles = ceilDiv(problem.n, config.rowTile);
    int64_t perSM = ceilDiv(tiles, chip.multiprocessors);
    // A lone CTA on its multiprocessor needs more warps to hide latency.
    bool alone = tiles < chip.multiprocessors * 3 / 4;
    config.warpsK = strips == 1               ? (alone && veryFew ? 16 : 8)
                    : strips <= 3             ? 4
                    : strips == 4 && !veryFew ? 4
                                              : 2;
    while (config.warpsK > 1 && kUnitColumns * config.warpsK > problem.k)
      config.warpsK /= 2;
    bool mayShare = veryFew && config.warpsRows * config.warpsK <= 8;
    config.ctasPerSM = mayShare && perSM > 1 ? 2 : 1;
    int64_t largest = range.max <= 8 ? 2048 : range.max <= 16 ? 1024 : 512;
    if (!chooseStages(config, largest))
      continue;
    // Where no tile is small enough for one wave, 64 rows keep the copies of
    // the next CTA going while one finishes.
    bool oneWave = perSM <= config.ctasPerSM;
    bool preferred = oneWave || (range.max <= 8 && strips == 4);
    // Less than three stages do not keep the memory busy.
    bool shallow = config.stages < 3;
    Rank rank = {!preferred + shallow, perSM * config.rowTile,
                 oneWave ? strips : -strips};
    if (!best || rank < best->first)
      best = {rank, config};
  }
  if (!best)
    return std::nullopt;
  config = best->second;
  int64_t tiles = ceilDiv(problem.n, config.rowTile);
  return Choice{config,
                text(tiles) + " tiles of rows on " +
                    text(chip.multiprocessors) + " multiprocessors, at most " +
                    text(std::get<1>(best->first)) + " rows on one of them"};
}

//===----------------------------------------------------------------------===//
// Many tokens
//===----------------------------------------------------------------------===//

std::optional<Choice> Selector::chooseWgmma(const TokenRange &range) const {
  if (!chip.hasWgmma || !alignedRows)
    return std::nullopt;
  int64_t tokens = std::min(range.max, manyTokens);
  std::optional<Choice> best;
  double bestCycles = 0;
  for (const WgmmaTile &tile : wgmmaTiles) {
    KernelConfig config;
    config.family = KernelFamily::Wgmma;
    config.copy = ActivationCopy::Tensor;
    // Both weights of a gated pair share the sums of a warpgroup.
    config.rowTile = tile.rows / problem.numWeights;
    config.tokenTile = tile.tokens;
    config.stageK = 64;
    config.warpsRows = tile.warpgroups;
    config.minTokens = range.min;
    config.maxTokens = range.max;
    for (config.stages = 14; config.stages > 2 && !fits(config);)
      --config.stages;
    if (config.stages <= 2)
      continue;
    int64_t tiles =
        ceilDiv(problem.n, config.rowTile) * ceilDiv(tokens, tile.tokens);
    int64_t waves = ceilDiv(tiles, chip.multiprocessors);
    double cycles = waves * (double(tile.rows) * tile.tokens * problem.k /
                                 (wgmmaProductsPerCycle * tile.efficiency) +
                             wgmmaTileOverhead);
    if (best && cycles >= bestCycles)
      continue;
    bestCycles = cycles;
    best = Choice{config,
                  text(tiles) + " tiles in " + text(waves) + " waves of " +
                      text(chip.multiprocessors) + " multiprocessors, about " +
                      text(int64_t(cycles / 1000)) + " thousand cycles at " +
                      text(tokens) + " tokens"};
  }
  return best;
}

//===----------------------------------------------------------------------===//
// Every shape, every chip
//===----------------------------------------------------------------------===//

std::optional<Choice>
Selector::chooseMultistage(const TokenRange &range) const {
  KernelConfig config;
  config.family = KernelFamily::Multistage;
  config.copy = alignedRows ? ActivationCopy::Async16 : ActivationCopy::Element;
  config.minTokens = range.min;
  config.maxTokens = range.max;

  int64_t tokens = std::min(range.max, manyTokens);
  std::optional<KernelConfig> best;
  double bestCycles = 0;
  for (int64_t tokenTile : {8, 16, 32, 64, 128}) {
    if (tokenTile > range.max)
      break;
    // A grid has at most 65535 tiles of tokens.
    if (tokenTile < 64 && range.max > manyTokens)
      continue;
    config.tokenTile = tokenTile;
    for (const MultistageTile &tile : multistageTiles) {
      config.rowTile = tile.rows;
      config.warpsRows = tile.warpsRows;
      config.warpsK = tile.warpsK;
      if (tile.warpsK > 1 && kUnitColumns * tile.warpsK > problem.k)
        continue;
      if (!chooseShared(config, tokenTile <= 16 ? 1024 : 256))
        continue;
      double cycles = getMultistageCycles(config, tokens);
      if (best && cycles >= bestCycles)
        continue;
      best = config;
      bestCycles = cycles;
    }
  }
  if (!best)
    return std::nullopt;
  return Choice{*best, text(ceilDiv(problem.n, best->rowTile) *
                            ceilDiv(tokens, best->tokenTile)) +
                           " tiles on " + text(chip.multiprocessors) +
                           " multiprocessors, about " +
                           text(int64_t(bestCycles / 1000)) +
                           " thousand cycles at " + text(tokens) + " tokens"};
}

double Selector::getMultistageCycles(const KernelConfig &config,
                                     int64_t tokens) const {
  int64_t tiles =
      ceilDiv(problem.n, config.rowTile) * ceilDiv(tokens, config.tokenTile);
  // CTAs that share a multiprocessor share its time, too.
  int64_t perSM =
      std::min(config.ctasPerSM, ceilDiv(tiles, chip.multiprocessors));
  int64_t waves = ceilDiv(tiles, chip.multiprocessors * perSM);
  double rows = double(config.rowTile) * problem.numWeights;
  double products = rows * config.tokenTile / mmaProductsPerCycle;
  double bytes = rows * problem.scheme.element.bits / 8 + 2 * config.tokenTile;
  double perColumn = products + bytes / bytesPerCycle;
  int64_t warps = config.warpsRows * config.warpsK * perSM;
  double waiting = std::max(1.0, double(warpsToHideLatency) / warps);
  return waves *
         (perSM * perColumn * problem.k * waiting + multistageTileOverhead);
}

//===----------------------------------------------------------------------===//
// The whole choice
//===----------------------------------------------------------------------===//

/// True for configurations that differ only in their tokens.
static bool isSameKernel(const KernelConfig &a, const KernelConfig &b) {
  for (const ConfigField &field : getConfigFields())
    if (a.*field.member != b.*field.member)
      return false;
  return a.family == b.family && a.copy == b.copy;
}

std::vector<KernelConfig>
quant_llm::selectKernels(const KernelProblem &problem, const ChipLimits &chip,
                         std::vector<std::string> *reasons) {
  std::vector<Choice> choices;
  Selector selector(problem, chip);
  for (const TokenRange &range : tokenRanges) {
    std::optional<Choice> choice = selector.choose(range);
    // Whatever the tokens: the same things that cannot be built.
    if (!choice)
      return {};
    if (!choices.empty() && isSameKernel(choices.back().config, choice->config))
      choices.back().config.maxTokens = range.max;
    else
      choices.push_back(*choice);
  }
  std::vector<KernelConfig> configs;
  for (const Choice &choice : choices) {
    configs.push_back(choice.config);
    if (reasons)
      reasons->push_back(describe(choice.config) + ": " + choice.reason);
  }
  return configs;
}
