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
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Support/Rounding.h"

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
    {1, 8},       {9, 16},      {17, 24},     {25, 32},          {33, 48},
    {49, 64},     {65, 128},    {129, 256},   {257, 320},        {321, 384},
    {385, 512},   {513, 640},   {641, 768},   {769, 1024},       {1025, 1280},
    {1281, 1536}, {1537, 2048}, {2049, 3072}, {3073, INT64_MAX},
};
/// The most tokens of a tile of few_tokens, and of which it is considered in
/// several tiles; and from where on wgmma is, which makes 64 tokens or more at
/// a time.
constexpr int64_t mostFewTokens = 64, mostTiledTokens = 1024;
constexpr int64_t leastWgmmaTokens = 33;
/// The model of few_tokens was fitted up to 64 tokens in one tile. With more
/// tokens it says less than what was measured, by this factor on average (39
/// kernels of 13 shapes).
constexpr double tiledFewTokensFactor = 1.06;

/// The same for experts: the first ranges are for so few tokens that not every
/// expert has any; the others end at these numbers of tokens per expert, up to
/// which nearly all experts have one tile of 8, 16, 24, 32, 48 or 64 tokens.
constexpr int64_t fewRoutedTokens[] = {2, 8};
constexpr int64_t routedTokens[] = {1, 4, 9, 16, 22, 36, 49, 100, 200, 400};
constexpr int64_t fewTokensTiles[] = {8, 16, 24, 32, 48, 64};
/// The number of tokens that "many" stands for; with experts, for each.
constexpr int64_t manyTokens = 4096, manyRoutedTokens = 512;

/// Tiles of the wgmma family: rows, tokens, warpgroups along rows and k, and
/// the share of the tensor cores' time that the main loop uses. This and the
/// constants below are a fit to 874 measured kernels of 12 shapes
/// (docs/KernelConfig.md).
struct WgmmaTile {
  int64_t rows, tokens, warpsRows, warpsK;
  double efficiency;
};
constexpr WgmmaTile wgmmaTiles[] = {
    {256, 128, 2, 1, 0.868}, {256, 96, 2, 1, 0.807},  {256, 64, 2, 1, 0.608},
    {192, 160, 3, 1, 0.890}, {192, 128, 3, 1, 0.865}, {192, 96, 3, 1, 0.774},
    {192, 64, 3, 1, 0.576},  {128, 256, 2, 1, 0.851}, {128, 224, 2, 1, 0.850},
    {128, 192, 2, 1, 0.849}, {128, 160, 2, 1, 0.845}, {128, 128, 2, 1, 0.844},
    {128, 112, 2, 1, 0.800}, {128, 96, 2, 1, 0.758},  {128, 80, 2, 1, 0.689},
    {128, 64, 2, 1, 0.624},  {128, 128, 1, 2, 0.763}, {128, 96, 1, 2, 0.736},
    {128, 64, 1, 2, 0.568},  {64, 128, 1, 2, 0.692},  {64, 96, 1, 2, 0.616},
    {64, 64, 1, 2, 0.470},
};
constexpr int64_t wgmmaSplits[] = {1, 2, 3, 4, 6, 8, kStreamK};
/// Products that a multiprocessor makes in a cycle, and bytes that it gets from
/// memory when all of them read. Reading hides behind products as the norm with
/// this exponent, which is to say, badly.
constexpr double wgmmaProductsPerCycle = 2048;
constexpr double wgmmaBytesPerCycle = 20;
constexpr double wgmmaOverlapExponent = 1.5;
/// The fit is to int4, whose instructions to make weights of codes are in the
/// efficiencies. Formats with more of them take longer, by this many cycles of
/// a scheduler for each (10 formats of two shapes with tiles of 256 x 128:
/// docs/KernelConfig.md); the more tokens a tile has, the less it matters. With
/// up to 64 tokens, which are bound by memory, it was not measured.
constexpr double wgmmaFittedDecoding = 10.5, wgmmaDecodingCycles = 1.7;
constexpr double schedulers = 4;
/// Cycles of a launch until the first product; of a tile beside its main loop,
/// and if its sums meet; of the exchange of a cluster of as many sums as a tile
/// of 128 x 128 has.
constexpr double wgmmaStart = 3316;
constexpr double wgmmaTileOverhead = 2607, wgmmaMeeting = 1610;
/// The first of these where a CTA has only one tile, which was not measured.
constexpr double wgmmaLoneTileOverhead = 4000;
constexpr double wgmmaClusterMeeting = 7577;
/// Where tiles are dealt out by their units (a fit to 301 measured kernels of
/// 16 shapes): whatever is left or added; of a tile of 128 x 128, leaving it in
/// the workspace and adding it; how much longer the main loop takes. And what
/// such a kernel takes where there is nothing to deal out.
constexpr double wgmmaDealing = 2685;
constexpr double wgmmaLeaving = 921, wgmmaAdding = 1843;
constexpr double wgmmaDealtLoop = 1.04;
constexpr double wgmmaNotDealing = 900;
/// Dealing out is considered from so many tokens on: of fewer there was nothing
/// to fit to, and the others were better.
constexpr int64_t leastDealtTokens = 256;
/// The clock falls where most multiprocessors multiply for long: by this share
/// of what they are busy beyond one half, fully so at e^2 times the cycles.
constexpr double wgmmaPowerShare = 0.359, wgmmaPowerCycles = 60000;
constexpr double wgmmaCyclesPerMicrosecond = 1755;

/// What is tried for few tokens: what was measured and what lies in between.
/// Tiles of up to 14 strips (the 224 rows that a multiprocessor has of the
/// largest layers), one or two strips to a warp, 8 to 16 warps (fewer only
/// where there is too little to share out), of which each has at most 2 units
/// of a stage. All tokens of the range in one tile, or in two, four or more
/// where there are too few rows for all multiprocessors.
constexpr int64_t fewTokensStrips = 14;
constexpr int64_t fewTokensStripsPerWarp = 2;
constexpr int64_t fewTokensLeastWarps = 8;
constexpr int64_t fewTokensMostWarps = 16;
constexpr int64_t fewTokensUnitsPerWarp = 2;
constexpr int64_t fewTokensLeastStages = 2;
constexpr int64_t fewTokensMostStages = 6;
constexpr int64_t fewTokensSplits[] = {1, 2, 3, 4, 5, 6, 7, 8};
constexpr int64_t fewTokensTileCounts[] = {1, 2, 4, 8, 16, 32, 64};
constexpr int64_t fewTokensMostCTAs = 4;

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

std::string text(int64_t value) { return std::to_string(value); }

class Selector {
public:
  Selector(const KernelProblem &problem, const ChipLimits &chip)
      : problem(problem), chip(chip), alignedRows(2 * problem.k % 16 == 0) {}

  std::optional<Choice> choose(const TokenRange &range) {
    std::optional<Choice> choice;
    // Of an expert, if there are several.
    int64_t most = getLikelyTokens(range.max);
    if (most <= (problem.isGrouped() ? mostFewTokens : mostTiledTokens))
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

  /// As many stages as there is room for; false if there is not.
  bool fillStages(KernelConfig &config) const;
  /// Calls `visit` with every configuration worth a look.
  template <typename Visitor>
  void forEachFewTokens(KernelConfig config, Visitor visit) const;
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

bool Selector::fillStages(KernelConfig &config) const {
  for (config.stages = fewTokensMostStages;
       config.stages >= fewTokensLeastStages; --config.stages) {
    // Of which the driver takes one KiB.
    int64_t shared = (getSharedBytes(problem, config) + 1023) / 1024 + 1;
    if (shared * 1024 * config.ctasPerSM <= chip.sharedBytesPerSM)
      return true;
  }
  return false;
}

template <typename Visitor>
void Selector::forEachFewTokens(KernelConfig config, Visitor visit) const {
  int64_t units = ceilDiv(problem.k, kUnitColumns);
  // Experts with tokens, or tiles of all tokens.
  bool isTiled = !problem.isGrouped() && config.tokenTile < config.maxTokens;
  int64_t tokenTiles = problem.isGrouped()
                           ? getActiveExperts(config.maxTokens)
                           : ceilDiv(config.maxTokens, config.tokenTile);
  for (int64_t strips = 1; strips <= fewTokensStrips; ++strips) {
    config.rowTile = strips * kStripRows;
    int64_t tiles = tokenTiles * ceilDiv(problem.n, config.rowTile);
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
            // More CTAs are for multiprocessors that have nothing to do.
            if ((split > 1 || isTiled) &&
                tiles * split > 2 * chip.multiprocessors)
              break;
            // Beyond the measurements: a split did not pay where its CTAs share
            // multiprocessors.
            if (split > 1 && isTiled && config.maxTokens > mostFewTokens &&
                tiles * split > getClusterPlaces(chip, split))
              continue;
            config.split = split;
            // Where more CTAs are waiting, they fill each other's pauses.
            int64_t waiting =
                ceilDiv(tiles * split, getClusterPlaces(chip, split));
            for (config.ctasPerSM = std::min(waiting, fewTokensMostCTAs);
                 config.ctasPerSM >= 1; --config.ctasPerSM)
              if (fillStages(config))
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
  start.minTokens = range.min;
  start.maxTokens = range.max;

  // Both ends of the range matter, decoding one token as much as a batch.
  std::optional<KernelConfig> best;
  double bestTime = 0;
  auto consider = [&](int64_t tokenTile) {
    start.tokenTile = tokenTile;
    forEachFewTokens(start, [&](KernelConfig config) {
      double time = (estimate(config, range.min).total +
                     estimate(config, range.max).total) /
                    2;
      if ((best && time >= bestTime) || !fits(config))
        return;
      best = config;
      bestTime = time;
    });
  };
  if (problem.isGrouped()) {
    const int64_t *tile = std::begin(fewTokensTiles);
    while (tile + 1 != std::end(fewTokensTiles) &&
           *tile < getLikelyTokens(range.max))
      ++tile;
    consider(*tile);
  } else {
    for (int64_t count : fewTokensTileCounts)
      if (int64_t tile = ceilDiv(range.max, 8 * count) * 8;
          tile <= mostFewTokens && (count <= 4 || tile >= 16))
        consider(tile);
  }
  if (!best)
    return std::nullopt;
  FewTokensCost cost = estimate(*best, range.max);
  double total = cost.total;
  if (!problem.isGrouped() && range.max > mostFewTokens)
    total *= tiledFewTokensFactor;
  char time[32];
  std::snprintf(time, sizeof(time), "%.1f", total);
  std::string tiles =
      text(ceilDiv(problem.n, best->rowTile)) + " tiles of rows";
  if (!problem.isGrouped() && best->tokenTile < range.max)
    tiles += ", " + text(ceilDiv(range.max, best->tokenTile)) + " of tokens";
  if (best->split > 1)
    tiles += ", each on " + text(best->split) + " CTAs,";
  return Choice{*best,
                tiles + " on " + text(chip.multiprocessors) +
                    " multiprocessors, about " + time + " us at " +
                    text(range.max) + " tokens, bound by " + cost.bound,
                total};
}

//===----------------------------------------------------------------------===//
// Many tokens
//===----------------------------------------------------------------------===//

double Selector::getWgmmaCycles(const KernelConfig &config, double efficiency,
                                int64_t tokens) const {
  int64_t tiles = ceilDiv(problem.n, config.rowTile) *
                  getTokenTiles(tokens, config.tokenTile);
  bool streams = config.split == kStreamK;
  int64_t split = std::max<int64_t>(config.split, 1);
  int64_t places = getClusterPlaces(chip, split);
  int64_t waves = ceilDiv(tiles * split, places);
  int64_t units = ceilDiv(ceilDiv(problem.k, kUnitColumns), split);
  double rows = double(config.rowTile) * problem.numWeights;
  double area = rows * config.tokenTile;
  double decoding = 0;
  if (tokens > mostFewTokens)
    decoding =
        std::max(getDecodingInstructions(problem) - wgmmaFittedDecoding, 0.0) *
        wgmmaDecodingCycles / schedulers;
  double unit = area * kUnitColumns / (wgmmaProductsPerCycle * efficiency) +
                rows / kStripRows * kStepsPerUnit * decoding;
  double tile = unit * units;
  if (config.warpsK * split > 1)
    tile += wgmmaMeeting +
            (split > 1 ? area / (128 * 128) * wgmmaClusterMeeting : 0);
  else
    tile += problem.isGrouped() ? wgmmaLoneTileOverhead : wgmmaTileOverhead;
  double bytes = double(getActiveExperts(tokens)) * problem.n * problem.k *
                 problem.numWeights * problem.scheme.element.bits / 8;
  double reading = bytes / (wgmmaBytesPerCycle * chip.multiprocessors);
  double working = waves * tile;
  int64_t ctas = tiles * split;
  if (streams) {
    // The slowest is a CTA that ends a tile: it adds what the others have.
    ctas = std::min(places, tiles * getStreamShares(units));
    HostArithmetic host;
    StreamDeal<HostArithmetic, uint32_t> deal(
        host, uint32_t(tiles), uint32_t(ctas), 0, units, getMostDealt(units));
    if (deal.getDealt() > 0) {
      double shares = std::max(1.0, double(ctas) / deal.getDealt());
      working = wgmmaDealtLoop * unit * tiles * units / ctas +
                ceilDiv(tiles, ctas) * wgmmaTileOverhead + wgmmaDealing +
                area / (128 * 128) * (wgmmaLeaving + shares * wgmmaAdding);
    } else {
      working += wgmmaNotDealing;
    }
  }
  double body = std::pow(std::pow(working, wgmmaOverlapExponent) +
                             std::pow(reading, wgmmaOverlapExponent),
                         1 / wgmmaOverlapExponent);
  double busy = std::min(1.0, double(ctas) / places) * places /
                chip.multiprocessors * efficiency;
  double lasting = std::log(std::max(body / wgmmaPowerCycles, 1.0)) / 2;
  body *=
      1 + wgmmaPowerShare * std::max(busy - 0.5, 0.0) * std::min(lasting, 1.0);
  return wgmmaStart + body;
}

std::optional<Choice> Selector::chooseWgmma(const TokenRange &range) const {
  if (!chip.hasWgmma || !alignedRows)
    return std::nullopt;
  int64_t tokens = getTypicalTokens(range);
  std::optional<Choice> best;
  double bestCycles = 0;
  for (const WgmmaTile &tile : wgmmaTiles)
    for (int64_t split : wgmmaSplits) {
      if (split == kStreamK &&
          (tile.warpsK > 1 || problem.isGrouped() || tokens < leastDealtTokens))
        continue;
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
      int64_t tiles = ceilDiv(problem.n, config.rowTile) *
                      getTokenTiles(tokens, tile.tokens);
      std::string ctas = split == kStreamK
                             ? text(tiles) + " tiles dealt out to " +
                                   text(chip.multiprocessors) + " CTAs"
                             : text(tiles * split) + " CTAs of which " +
                                   text(getClusterPlaces(chip, split)) +
                                   " run at once";
      bestCycles = cycles;
      best = Choice{config,
                    ctas + ", about " + text(int64_t(cycles / 1000)) +
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
