//===- StreamKTest.cpp - Tiles dealt out by their units -------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/StreamK.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {

using Deal = StreamDeal<HostArithmetic, uint32_t>;

struct Part {
  uint32_t tile, from, to;
};

/// What every CTA works on, in its order.
struct Work {
  std::vector<std::vector<Part>> ofCTA;
  std::vector<Deal> deals;
  uint32_t units;
};

HostArithmetic host;

Work dealOut(uint32_t tiles, uint32_t ctas, uint32_t units, int64_t most) {
  Work work;
  work.units = units;
  for (uint32_t cta = 0; cta < ctas; ++cta) {
    Deal &deal =
        work.deals.emplace_back(host, tiles, ctas, cta, int64_t(units), most);
    std::vector<Part> &parts = work.ofCTA.emplace_back();
    for (uint32_t index = 0; index < deal.getCount(); ++index)
      parts.push_back(
          {deal.getTile(index), deal.getFrom(index), deal.getTo(index)});
  }
  return work;
}

/// Why results would be wrong or never come, or nothing.
std::string faultOf(const Work &work, uint32_t tiles) {
  std::vector<std::vector<int>> done(tiles, std::vector<int>(work.units));
  // The CTA that leaves its part of a tile, by tile and unit.
  for (uint32_t cta = 0; cta < work.ofCTA.size(); ++cta) {
    const std::vector<Part> &parts = work.ofCTA[cta];
    for (size_t index = 0; index < parts.size(); ++index) {
      const Part &part = parts[index];
      if (part.tile >= tiles || part.from >= part.to || part.to > work.units)
        return "a part is no part";
      for (uint32_t unit = part.from; unit < part.to; ++unit)
        ++done[part.tile][unit];
      // One part fits into the workspace of a CTA, and nobody may wait before
      // it has been left there.
      if (part.to < work.units && index != 0)
        return "a part is left that is not the first";
      if (part.to < work.units || part.from == 0)
        continue;
      // Who ends a tile finds the other parts where it looks for them: all of
      // them together, in order, from CTAs before it.
      uint32_t next = 0;
      for (uint32_t other = work.deals[cta].getFirstCTA(part.tile); other < cta;
           ++other) {
        if (work.ofCTA[other].empty())
          return "there is nobody to wait for";
        const Part &first = work.ofCTA[other].front();
        if (first.tile != part.tile || first.from != next ||
            first.to == work.units)
          return "a part is not where it is looked for";
        next = first.to;
      }
      if (next != part.from)
        return "parts are missing";
    }
  }
  for (const std::vector<int> &units : done)
    for (int count : units)
      if (count != 1)
        return "a unit is done " + std::to_string(count) + " times";
  return "";
}

uint32_t unitsOf(const std::vector<Part> &parts) {
  uint32_t units = 0;
  for (const Part &part : parts)
    units += part.to - part.from;
  return units;
}

} // namespace

// Every small case, and sizes of real ones.
TEST(StreamKTest, EveryUnitOnce) {
  std::vector<uint32_t> allTiles, allUnits = {1, 2, 3, 4, 5, 7, 8, 9, 16, 33};
  for (uint32_t tiles = 1; tiles <= 40; ++tiles)
    allTiles.push_back(tiles);
  for (uint32_t units : allUnits)
    for (uint32_t tiles : allTiles)
      for (uint32_t multiprocessors = 1; multiprocessors <= 17;
           ++multiprocessors)
        for (int64_t most : {int64_t(0), getMostDealt(units), int64_t(256)}) {
          uint32_t ctas = std::min<uint32_t>(multiprocessors,
                                             tiles * getStreamShares(units));
          Work work = dealOut(tiles, ctas, units, most);
          ASSERT_EQ(faultOf(work, tiles), "")
              << tiles << " tiles of " << units << " units, " << ctas
              << " CTAs, dealt out below " << most;
        }
  for (uint32_t tiles :
       {1, 17, 40, 80, 131, 132, 133, 140, 200, 263, 264, 1000})
    for (uint32_t units : {8, 32, 64, 224}) {
      uint32_t ctas = std::min<uint32_t>(132, tiles * getStreamShares(units));
      EXPECT_EQ(
          faultOf(dealOut(tiles, ctas, units, getMostDealt(units)), tiles), "")
          << tiles << " tiles of " << units << " units";
    }
}

// A wrong deal is found.
TEST(StreamKTest, FaultsAreFound) {
  Work good = dealOut(5, 4, 8, 256);
  ASSERT_EQ(faultOf(good, 5), "");
  for (size_t cta = 0; cta < good.ofCTA.size(); ++cta) {
    Work missing = good;
    ++missing.ofCTA[cta].back().from;
    EXPECT_NE(faultOf(missing, 5), "") << cta;
    // In the order of the tiles, the part that is left comes last.
    Work ordered = good;
    std::reverse(ordered.ofCTA[cta].begin(), ordered.ofCTA[cta].end());
    EXPECT_EQ(faultOf(ordered, 5), cta + 1 < good.ofCTA.size()
                                       ? "a part is left that is not the first"
                                       : "")
        << cta;
  }
}

// 80 tiles on 132 CTAs: all have the same to do, but for one unit.
TEST(StreamKTest, EvenShares) {
  for (uint32_t tiles : {80, 150, 300}) {
    Work work = dealOut(tiles, 132, 64, getMostDealt(64));
    uint32_t least = UINT32_MAX, largest = 0;
    for (const std::vector<Part> &parts : work.ofCTA) {
      least = std::min(least, unitsOf(parts));
      largest = std::max(largest, unitsOf(parts));
    }
    EXPECT_LE(largest - least, 1u) << tiles;
  }
}

// Tiles that fill their last wave, or nearly, stay whole.
TEST(StreamKTest, FullWavesStayWhole) {
  for (uint32_t tiles : {132, 264, 131, 263}) {
    Work work =
        dealOut(tiles, std::min<uint32_t>(tiles, 132), 64, getMostDealt(64));
    for (const std::vector<Part> &parts : work.ofCTA)
      for (const Part &part : parts)
        EXPECT_EQ(part.to - part.from, 64u);
  }
}

// Few tiles are shared, but not by everybody.
TEST(StreamKTest, Shares) {
  EXPECT_EQ(getStreamShares(1), 1);
  EXPECT_EQ(getStreamShares(8), 2);
  EXPECT_EQ(getStreamShares(224), 8);
  EXPECT_EQ(getMostDealt(1), 0);
  EXPECT_LT(getMostDealt(8), getMostDealt(64));
}
