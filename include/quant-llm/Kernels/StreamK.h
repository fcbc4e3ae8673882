//===- StreamK.h - Tiles dealt out by their units -----------------*- C++
//-*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Where the tiles of a product do not fill the last wave of a persistent
// kernel, the units along k of some of its tiles are dealt out evenly, in one
// run for each CTA: those of the last wave, and of one full wave if there is
// any, so that runs are long. The other tiles are whole.
//
// A CTA begins with the end of its run. So what it has of a tile that it does
// not end is the first thing it leaves in the workspace, before it ever waits;
// and a CTA that ends a tile, which adds what others have of it, waits for CTAs
// before it only. Nobody waits in a circle, however few CTAs run at a time, if
// those before a CTA do. The order of the sum is that of the CTAs.
//
// This is written for any arithmetic of 32 bits: the host's for the model of
// the time and the tests, the builder's for the kernel.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_STREAMK_H
#define QUANT_LLM_KERNELS_STREAMK_H

#include <algorithm>
#include <cstdint>

namespace quant_llm {

/// KernelConfig::split of a kernel whose tiles are dealt out by units.
constexpr int64_t kStreamK = 0;

/// @{ A CTA has at least so many units of a tile, and a tile is shared by at
/// most about so many CTAs.
constexpr int64_t kLeastStreamUnits = 4;
constexpr int64_t kMostStreamShares = 8;
/// @}
/// CTAs that take part, and the bytes of their flags at the beginning of the
/// workspace, 4 for each of up to 4 warpgroups. They are zero before and after
/// every launch, at the same place in all kernels: one workspace serves them.
constexpr int64_t kMostStreamCTAs = 1024;
constexpr int64_t kStreamFlagBytes = kMostStreamCTAs * 16;

/// CTAs that share a tile of so many units where there are few tiles.
inline int64_t getStreamShares(int64_t units) {
  return std::clamp<int64_t>(units / kLeastStreamUnits, 1, kMostStreamShares);
}

/// Dealing out saves the empty part of the last wave and costs an exchange of
/// sums, which takes as long as so many units of the main loop.
constexpr int64_t kStreamExchangeUnits = 5;
/// How full the last wave may be, in 256ths, for that to pay.
inline int64_t getMostDealt(int64_t units) {
  return std::max<int64_t>(256 - 256 * kStreamExchangeUnits / units, 0);
}

/// What a CTA works on: parts of tiles, beginning with the last of its run, and
/// then whole tiles.
template <typename Arithmetic, typename Value>
class StreamDeal {
public:
  /// `units`: of a tile; tiles are dealt out if the last wave is less full than
  /// `most` 256ths. CTAs are at most getStreamShares(units) times the tiles.
  StreamDeal(Arithmetic &a, Value tiles, Value ctas, Value cta, int64_t units,
             int64_t most)
      : a(a), units(units), ctas(ctas) {
    Value full = a.div(tiles, ctas);
    Value rest = a.sub(tiles, a.mul(full, ctas));
    Value isDealt =
        a.both(a.less(a.i32(0), rest),
               a.less(a.mul(rest, a.i32(256)), a.mul(ctas, a.i32(most))));
    Value another = a.select(a.less(a.i32(0), full), ctas, a.i32(0));
    dealt = a.select(isDealt, a.add(rest, another), a.i32(0));

    Value all = a.mul(dealt, a.i32(units));
    each = a.div(all, ctas);
    more = a.sub(all, a.mul(each, ctas));
    Value begin = a.add(a.mul(cta, each), a.min(cta, more));
    Value end = a.add(
        begin, a.add(each, a.select(a.less(cta, more), a.i32(1), a.i32(0))));
    Value hasParts = a.less(begin, end);
    Value first = a.div(begin, a.i32(units));
    last =
        a.div(a.sub(end, a.select(hasParts, a.i32(1), a.i32(0))), a.i32(units));
    parts = a.select(hasParts, a.add(a.sub(last, first), a.i32(1)), a.i32(0));
    from = a.sub(begin, a.mul(first, a.i32(units)));
    to =
        a.select(hasParts, a.sub(end, a.mul(last, a.i32(units))), a.i32(units));

    firstWhole = a.add(dealt, cta);
    Value behind = a.add(a.sub(tiles, firstWhole), a.sub(ctas, a.i32(1)));
    count = a.add(parts, a.select(a.less(firstWhole, tiles),
                                  a.div(behind, ctas), a.i32(0)));
  }

  /// The number of parts and whole tiles.
  Value getCount() const { return count; }
  /// @{ Of the one at `index`: its tile, its first unit, and the one behind its
  /// last.
  Value getTile(Value index) const {
    return a.select(a.less(index, parts), a.sub(last, index),
                    a.add(firstWhole, a.mul(a.sub(index, parts), ctas)));
  }
  Value getFrom(Value index) const {
    return a.select(a.equal(a.add(index, a.i32(1)), parts), from, a.i32(0));
  }
  Value getTo(Value index) const {
    return a.select(a.equal(index, a.i32(0)), to, a.i32(units));
  }
  /// @}
  /// The CTA that has the first unit of a tile that is dealt out.
  Value getFirstCTA(Value tile) const {
    Value unit = a.mul(tile, a.i32(units));
    Value larger = a.add(each, a.i32(1));
    Value ofLarger = a.mul(more, larger);
    Value least = a.max(each, a.i32(1));
    return a.select(a.less(unit, ofLarger), a.div(unit, larger),
                    a.add(more, a.div(a.sub(unit, ofLarger), least)));
  }
  /// Tiles that are dealt out.
  Value getDealt() const { return dealt; }

private:
  Arithmetic &a;
  int64_t units;
  Value ctas;
  /// Units of a CTA, and how many CTAs have one more.
  Value each, more;
  Value dealt, parts, last, from, to, firstWhole, count;
};

/// The arithmetic of the host.
struct HostArithmetic {
  using Value = uint32_t;
  Value i32(int64_t value) const { return static_cast<Value>(value); }
  Value add(Value lhs, Value rhs) const { return lhs + rhs; }
  Value sub(Value lhs, Value rhs) const { return lhs - rhs; }
  Value mul(Value lhs, Value rhs) const { return lhs * rhs; }
  Value div(Value lhs, Value rhs) const { return lhs / rhs; }
  Value min(Value lhs, Value rhs) const { return std::min(lhs, rhs); }
  Value max(Value lhs, Value rhs) const { return std::max(lhs, rhs); }
  Value less(Value lhs, Value rhs) const { return lhs < rhs; }
  Value equal(Value lhs, Value rhs) const { return lhs == rhs; }
  Value both(Value lhs, Value rhs) const { return lhs && rhs; }
  Value select(Value condition, Value yes, Value no) const {
    return condition ? yes : no;
  }
};

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_STREAMK_H
