//===- Select.cpp - The choice of kernels ---------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// All heuristics, and nothing else. They follow from measurements
// (docs/KernelConfig.md): for few tokens a model of the time compares all
// configurations (FewTokensCost); many tokens are bound by matrix instructions,
// so the tile matters and how well tiles fill the waves. Whatever is tried here
// is verified before it is chosen: a preference that does not fit is passed
// over.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/FewTokensCost.h"
#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/ScaleMode.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

using namespace quant_llm;

namespace {

struct TokenRange {
  int64_t min, max;
};

/// Kernels are chosen for each of these ranges; equal neighbours become one.
constexpr TokenRange tokenRanges[] = {
    {1, 8},     {9, 16},     {17, 24},     {25, 32},     {33, 48},
    {49, 64},   {65, 128},   {129, 256},   {257, 384},   {385, 512},
    {513, 768}, {769, 1024}, {1025, 1536}, {1537, 2048}, {2049, INT64_MAX},
};
/// The most tokens for which few_tokens is considered, and from where on wgmma
/// is: it makes 64 tokens or more at a time.
constexpr int64_t mostFewTokens = 64;
constexpr int64_t leastWgmmaTokens = 33;

/// The same for experts: the first ranges are for so few tokens that not every
/// expert has any; the others end at these numbers of tokens per expert, up to
/// which nearly all experts have one tile of 8, 16, 24, 32, 48 or 64 tokens.
constexpr int64_t fewRoutedTokens[] = {2, 8};
constexpr int64_t routedTokens[] = {1, 4, 9, 16, 22, 36, 49, 100, 200, 400};
constexpr int64_t fewTokensTiles[] = {8, 16, 24, 32, 48, 64};
/// The number of tokens that "many" stands for; with experts, for each.
constexpr int64_t manyTokens = 4096, manyRoutedTokens = 512;

/// Tiles of the wgmma family: rows, tokens, warpgroups along rows and k, and
/// the share of the tensor cores' time that the main loop uses.
struct WgmmaTile {
  int64_t rows, tokens, warpsRows, warpsK;
  double efficiency;
};
constexpr WgmmaTile wgmmaTiles[] = {
    {256, 128, 2, 1, 0.905}, {128, 256, 2, 1, 0.90}, {192, 128, 3, 1, 0.88},
    {128, 192, 2, 1, 0.88},  {128, 160, 2, 1, 0.86}, {128, 128, 2, 1, 0.84},
    {128, 128, 1, 2, 0.80},  {64, 128, 1, 2, 0.74},  {128, 96, 2, 1, 0.70},
    {128, 80, 2, 1, 0.60},   {64, 96, 1, 2, 0.58},   {128, 64, 2, 1, 0.50},
    {128, 64, 1, 2, 0.48},   {64, 64, 1, 2, 0.45},
};
constexpr int64_t wgmmaSplits[] = {1, 2, 3, 4, 6, 8};
/// Products that a multiprocessor makes in a cycle, and bytes that it gets from
/// memory when all of them read.
constexpr double wgmmaProductsPerCycle = 2048;
constexpr double wgmmaBytesPerCycle = 12;
/// Cycles of a launch until the first product; of a tile beside its main loop
/// (results, and the start of the pipeline if a CTA has only one tile); of the
/// exchange of as many sums as a tile of 128 x 128 has, in a CTA and, in
/// addition, in a cluster.
constexpr double wgmmaStart = 4500;
constexpr double wgmmaTileOverhead = 3000, wgmmaLoneTileOverhead = 4000;
constexpr double wgmmaMeeting = 1500, wgmmaClusterMeeting = 2500;
/// For comparison with the model of few tokens: the clock of the H100 that the
/// model was fitted on, which is lower under load.
constexpr double wgmmaCyclesPerMicrosecond = 1755;

/// What is tried for few tokens: what was measured and what lies in between.
/// Tiles of up to 14 strips (the 224 rows that a multiprocessor has of the
/// largest layers), one or two strips to a warp, 8 to 16 warps (fewer only
/// where there is too little to share out), of which each has at most 2 units
/// of a stage. 2 stages only if nothing has room for more.
constexpr int64_t fewTokensStrips = 14;
constexpr int64_t fewTokensStripsPerWarp = 2;
constexpr int64_t fewTokensLeastWarps = 8;
constexpr int64_t fewTokensMostWarps = 16;
constexpr int64_t fewTokensUnitsPerWarp = 2;
constexpr int64_t fewTokensLeastStages = 3;
constexpr int64_t fewTokensMostStages = 4;
constexpr int64_t fewTokensSplits[] = {1, 2, 3, 4, 6, 8};

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
  /// Where families are compared.
  double microseconds = 0;
};

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
std::string text(int64_t value) { return std::to_string(value); }

class Selector {
public:
  Selector(const KernelProblem &problem, const ChipLimits &chip)
      : problem(problem), chip(chip), alignedRows(2 * problem.k % 16 == 0) {}

  std::optional<Choice> choose(const TokenRange &range) {
    std::optional<Choice> choice;
    // Of an expert, if there are several.
    int64_t most = getLikelyTokens(range.max);
    if (most <= mostFewTokens)
      choice = chooseFewTokens(range);
    if (getLikelyTokens(range.min) >= leastWgmmaTokens ||
        (problem.isGrouped() && most >= leastWgmmaTokens)) {
      std::optional<Choice> wgmma = chooseWgmma(range);
      if (wgmma && (!choice || wgmma->microseconds < choice->microseconds))
        choice = wgmma;
    }
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

  /// Calls `visit` with every configuration worth a look; with
  /// `leastStages` or more.
  template <typename Visitor>
  void forEachFewTokens(KernelConfig config, int64_t leastStages,
                        Visitor visit) const;
  std::optional<Choice> chooseFewTokens(const TokenRange &range) const;
  std::optional<Choice> chooseWgmma(const TokenRange &range) const;
  std::optional<Choice> chooseMultistage(const TokenRange &range) const;

  /// @{ Tokens are routed as if each expert were as likely as any other.
  /// Experts that have some of `tokens`; how many one of these has, on average,
  /// and rarely more than; tiles of `tile` tokens of all of them. Without
  /// experts all tokens are of one.
  int64_t getActiveExperts(int64_t tokens) const;
  int64_t getMeanTokens(int64_t tokens) const;
  int64_t getLikelyTokens(int64_t tokens) const;
  int64_t getTokenTiles(int64_t tokens, int64_t tile) const;
  /// @}

  /// The number of tokens that a range stands for.
  int64_t getTypicalTokens(const TokenRange &range) const {
    return std::min(range.max, problem.isGrouped()
                                   ? manyRoutedTokens * problem.experts
                                   : manyTokens);
  }

  FewTokensCost estimate(const KernelConfig &config, int64_t tokens) const;

  /// CTAs that run at once, one per multiprocessor, in clusters of `cluster`.
  int64_t getResident(int64_t cluster) const;
  double getWgmmaCycles(const KernelConfig &config, double efficiency,
                        int64_t tokens) const;
  double getMultistageCycles(const KernelConfig &config, int64_t tokens) const;

  const KernelProblem &problem;
  const ChipLimits &chip;
  /// Rows of X can be copied 16 bytes at a time.
  bool alignedRows;
};

} // namespace

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

int64_t Selector::getActiveExperts(int64_t tokens) const {
  if (!problem.isGrouped())
    return 1;
  double experts = double(problem.experts);
  double idle = std::pow(1 - 1 / experts, double(tokens));
  return std::max<int64_t>(1, std::llround(experts * (1 - idle)));
}

int64_t Selector::getMeanTokens(int64_t tokens) const {
  return ceilDiv(tokens, getActiveExperts(tokens));
}

/// Two standard deviations above the mean.
int64_t Selector::getLikelyTokens(int64_t tokens) const {
  if (!problem.isGrouped() || problem.experts == 1)
    return tokens;
  double experts = double(problem.experts), mean = double(tokens) / experts;
  return int64_t(std::ceil(mean + 2 * std::sqrt(mean * (1 - 1 / experts))));
}

int64_t Selector::getTokenTiles(int64_t tokens, int64_t tile) const {
  if (!problem.isGrouped() || problem.experts == 1)
    return ceilDiv(tokens, tile);
  // The last tile of an expert is half full, unless one holds all of them.
  int64_t active = getActiveExperts(tokens);
  return getLikelyTokens(tokens) <= tile
             ? active
             : active +
                   ceilDiv(std::max<int64_t>(0, tokens - active * tile / 2),
                           tile);
}

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

/// Of experts those with tokens count, as if they were one weight.
FewTokensCost Selector::estimate(const KernelConfig &config,
                                 int64_t tokens) const {
  if (!problem.isGrouped())
    return estimateFewTokens(problem, config, chip, tokens);
  KernelProblem active = problem;
  active.experts = 0;
  active.n = getActiveExperts(tokens) * ceilDiv(problem.n, config.rowTile) *
             config.rowTile;
  return estimateFewTokens(active, config, chip, getMeanTokens(tokens));
}

template <typename Visitor>
void Selector::forEachFewTokens(KernelConfig config, int64_t leastStages,
                                Visitor visit) const {
  int64_t units = ceilDiv(problem.k, kUnitColumns);
  int64_t experts = getActiveExperts(config.maxTokens);
  for (int64_t strips = 1; strips <= fewTokensStrips; ++strips) {
    config.rowTile = strips * kStripRows;
    int64_t tiles = experts * ceilDiv(problem.n, config.rowTile);
    for (int64_t perWarp = 1; perWarp <= fewTokensStripsPerWarp; ++perWarp) {
      if (strips % perWarp != 0)
        continue;
      config.warpsRows = strips / perWarp;
      int64_t leastWarps =
          std::min(fewTokensLeastWarps, config.warpsRows * units / 2);
      for (config.warpsK = 1; config.warpsK <= units; config.warpsK *= 2) {
        int64_t warps = config.warpsRows * config.warpsK;
        if (warps < leastWarps || warps > fewTokensMostWarps)
          continue;
        for (int64_t own = 1; own <= fewTokensUnitsPerWarp; ++own) {
          int64_t perStage = own * config.warpsK;
          if (perStage > units)
            break;
          config.stageK = perStage * kUnitColumns;
          for (int64_t split : fewTokensSplits) {
            // A split is for multiprocessors that have nothing to do.
            if (split > 1 && tiles * split > 2 * chip.multiprocessors)
              break;
            config.split = split;
            // Where a second CTA is waiting, it fills the pauses of the first.
            config.ctasPerSM = tiles * split > chip.multiprocessors ? 2 : 1;
            for (config.stages = fewTokensMostStages;
                 config.stages >= leastStages; --config.stages)
              visit(config);
          }
        }
      }
    }
  }
}

std::optional<Choice> Selector::chooseFewTokens(const TokenRange &range) const {
  if (!chip.hasBulkCopy || !alignedRows)
    return std::nullopt;
  KernelConfig start;
  start.family = KernelFamily::FewTokens;
  start.copy = ActivationCopy::Tensor;
  start.tokenTile = range.max;
  if (problem.isGrouped())
    for (int64_t tile : fewTokensTiles) {
      start.tokenTile = tile;
      if (tile >= getLikelyTokens(range.max))
        break;
    }
  start.minTokens = range.min;
  start.maxTokens = range.max;

  // Both ends of the range matter, decoding one token as much as a batch.
  std::optional<KernelConfig> best;
  double bestTime = 0;
  for (int64_t least : {fewTokensLeastStages, int64_t(2)}) {
    if (best)
      break;
    forEachFewTokens(start, least, [&](KernelConfig config) {
      double time = (estimate(config, range.min).total +
                     estimate(config, range.max).total) /
                    2;
      if (best && time >= bestTime)
        return;
      if (!fits(config))
        config.ctasPerSM = 1;
      if (!fits(config))
        return;
      best = config;
      bestTime = time;
    });
  }
  if (!best)
    return std::nullopt;
  FewTokensCost cost = estimate(*best, range.max);
  char time[32];
  std::snprintf(time, sizeof(time), "%.1f", cost.total);
  std::string tiles =
      text(ceilDiv(problem.n, best->rowTile)) + " tiles of rows";
  if (best->split > 1)
    tiles += ", each on " + text(best->split) + " CTAs,";
  return Choice{*best,
                tiles + " on " + text(chip.multiprocessors) +
                    " multiprocessors, about " + time + " us at " +
                    text(range.max) + " tokens, bound by " + cost.bound,
                cost.total};
}

//===----------------------------------------------------------------------===//
// Many tokens
//===----------------------------------------------------------------------===//

/// Clusters of more than two do not use all multiprocessors: a cluster stays in
/// one group of the chip, of which most have 16 to 18 multiprocessors.
int64_t Selector::getResident(int64_t cluster) const {
  if (cluster <= 2)
    return chip.multiprocessors / cluster * cluster;
  int64_t ofGroup = 16 / cluster;
  return std::max<int64_t>(1, ofGroup * chip.multiprocessors * 10 / 176) *
         cluster;
}

double Selector::getWgmmaCycles(const KernelConfig &config, double efficiency,
                                int64_t tokens) const {
  int64_t tiles = ceilDiv(problem.n, config.rowTile) *
                  getTokenTiles(tokens, config.tokenTile);
  int64_t waves = ceilDiv(tiles * config.split, getResident(config.split));
  int64_t units = ceilDiv(ceilDiv(problem.k, kUnitColumns), config.split);
  double rows = double(config.rowTile) * problem.numWeights;
  double area = rows * config.tokenTile;
  double tile =
      area * units * kUnitColumns / (wgmmaProductsPerCycle * efficiency);
  if (config.warpsK * config.split > 1)
    tile += wgmmaLoneTileOverhead +
            area / (128 * 128) *
                (wgmmaMeeting + (config.split > 1 ? wgmmaClusterMeeting : 0));
  else
    tile += problem.isGrouped() ? wgmmaLoneTileOverhead : wgmmaTileOverhead;
  double bytes = double(getActiveExperts(tokens)) * problem.n * problem.k *
                 problem.numWeights * problem.scheme.element.bits / 8;
  double reading = bytes / (wgmmaBytesPerCycle * chip.multiprocessors);
  return wgmmaStart + std::max(waves * tile, reading);
}

std::optional<Choice> Selector::chooseWgmma(const TokenRange &range) const {
  if (!chip.hasWgmma || !alignedRows)
    return std::nullopt;
  int64_t tokens = getTypicalTokens(range);
  std::optional<Choice> best;
  double bestCycles = 0;
  for (const WgmmaTile &tile : wgmmaTiles)
    for (int64_t split : wgmmaSplits) {
      KernelConfig config;
      config.family = KernelFamily::Wgmma;
      config.copy = ActivationCopy::Tensor;
      // Both weights of a gated pair share the sums of a warpgroup.
      config.rowTile = tile.rows / problem.numWeights;
      config.tokenTile = tile.tokens;
      config.stageK = 64;
      config.warpsRows = tile.warpsRows;
      config.warpsK = tile.warpsK;
      config.split = split;
      config.minTokens = range.min;
      config.maxTokens = range.max;
      double cycles = getWgmmaCycles(config, tile.efficiency, tokens);
      if (best && cycles >= bestCycles)
        continue;
      for (config.stages = 14; config.stages > 2 && !fits(config);)
        --config.stages;
      if (config.stages <= 2)
        continue;
      int64_t ctas = ceilDiv(problem.n, config.rowTile) *
                     getTokenTiles(tokens, tile.tokens) * split;
      bestCycles = cycles;
      best = Choice{config,
                    text(ctas) + " CTAs of which " + text(getResident(split)) +
                        " run at once, about " + text(int64_t(cycles / 1000)) +
                        " thousand cycles at " + text(tokens) + " tokens",
                    cycles / wgmmaCyclesPerMicrosecond};
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

  int64_t tokens = getTypicalTokens(range);
  std::optional<KernelConfig> best;
  double bestCycles = 0;
  for (int64_t tokenTile : {8, 16, 32, 64, 128}) {
    // The last one holds all tokens of the range.
    if (tokenTile > 8 && tokenTile / 2 >= getLikelyTokens(range.max))
      break;
    // A grid has at most 65535 tiles of tokens.
    if (tokenTile < 64 && range.max > tokens)
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
  return Choice{*best,
                text(ceilDiv(problem.n, best->rowTile) *
                     getTokenTiles(tokens, best->tokenTile)) +
                    " tiles on " + text(chip.multiprocessors) +
                    " multiprocessors, about " +
                    text(int64_t(bestCycles / 1000)) + " thousand cycles at " +
                    text(tokens) + " tokens",
                0};
}

double Selector::getMultistageCycles(const KernelConfig &config,
                                     int64_t tokens) const {
  int64_t tiles = ceilDiv(problem.n, config.rowTile) *
                  getTokenTiles(tokens, config.tokenTile);
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

/// The ranges that kernels are chosen for.
static std::vector<TokenRange> getTokenRanges(const KernelProblem &problem) {
  if (!problem.isGrouped())
    return {std::begin(tokenRanges), std::end(tokenRanges)};
  std::vector<int64_t> ends(std::begin(fewRoutedTokens),
                            std::end(fewRoutedTokens));
  for (int64_t tokens : routedTokens)
    ends.push_back(tokens * problem.experts);
  ends.push_back(INT64_MAX);
  std::sort(ends.begin(), ends.end());
  std::vector<TokenRange> ranges;
  int64_t next = 1;
  for (int64_t end : ends)
    if (end >= next) {
      ranges.push_back({next, end});
      next = end == INT64_MAX ? end : end + 1;
    }
  return ranges;
}

std::vector<KernelConfig>
quant_llm::selectKernels(const KernelProblem &problem, const ChipLimits &chip,
                         std::vector<std::string> *reasons) {
  std::vector<Choice> choices;
  Selector selector(problem, chip);
  for (const TokenRange &range : getTokenRanges(problem)) {
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
