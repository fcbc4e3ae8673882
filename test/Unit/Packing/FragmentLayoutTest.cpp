//===- FragmentLayoutTest.cpp ---------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Packing/FragmentLayout.h"

#include "quant-llm/Numerics/Element.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

using namespace quant_llm;

static Scheme makeScheme(unsigned bits, int64_t blockK = -1) {
  Scheme scheme;
  scheme.element = makeElement(ElementKind::UInt, bits);
  scheme.blockK = blockK;
  return scheme;
}

static FragmentLayout getLayout(const Scheme &scheme, int64_t n, int64_t k) {
  Result<FragmentLayout> layout = FragmentLayout::get(scheme, n, k);
  EXPECT_TRUE(layout.ok()) << layout.message();
  return layout.take();
}

TEST(FragmentLayoutTest, PlanesCoverTheCode) {
  for (unsigned bits = 1; bits <= 8; ++bits) {
    unsigned shift = 0;
    for (const FragmentPlane &plane : getFragmentPlanes(bits)) {
      EXPECT_EQ(plane.shift, shift);
      EXPECT_EQ(plane.offset, 256 * int64_t(shift));
      shift += plane.width;
    }
    EXPECT_EQ(shift, bits);
  }
  auto getWidths = [](unsigned bits) {
    std::vector<unsigned> widths;
    for (const FragmentPlane &plane : getFragmentPlanes(bits))
      widths.push_back(plane.width);
    return widths;
  };
  EXPECT_EQ(getWidths(3), (std::vector<unsigned>{2, 1}));
  EXPECT_EQ(getWidths(7), (std::vector<unsigned>{4, 2, 1}));
  EXPECT_EQ(getWidths(8), (std::vector<unsigned>{8}));
}

/// The layout once more, from a lane's point of view and with the numbers of
/// int4 that kernels rely on.
TEST(FragmentLayoutTest, NibblesByHand) {
  FragmentLayout layout = getLayout(makeScheme(4), 64, 256);
  const unsigned firstBits[] = {7, 3, 15, 11};
  for (int64_t strip : {0, 3})
    for (int64_t unit : {0, 1})
      for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned step = 0; step < 8; ++step)
          for (unsigned reg = 0; reg < 4; ++reg)
            for (unsigned half = 0; half < 2; ++half) {
              // A lane reads 16 bytes, four steps; then 512 bytes further on
              // the other four.
              int64_t word = (strip * 2 + unit) * 1024 + step / 4 * 512 +
                             lane * 16 + step % 4 * 4;
              int64_t row = 16 * strip + lane / 4 + 8 * (reg & 1);
              int64_t column = 128 * unit + 16 * step + 2 * (lane % 4) + half +
                               8 * (reg >> 1);
              for (unsigned i = 0; i < 4; ++i) {
                unsigned bit = (firstBits[reg] + 16 * half + i) % 32;
                FragmentLayout::PackedBit packed =
                    layout.getPackedBit({row, column, i});
                ASSERT_EQ(packed.byte, word + bit / 8);
                ASSERT_EQ(packed.bit, bit % 8);
              }
            }
}

TEST(FragmentLayoutTest, FragmentPositionsAreBijective) {
  std::vector<bool> seen(2048);
  for (unsigned row = 0; row < 16; ++row)
    for (unsigned column = 0; column < 128; ++column) {
      FragmentPosition at = getFragmentPosition(row, column);
      ASSERT_LT(at.lane, 32u);
      ASSERT_LT(at.step, 8u);
      ASSERT_LT(at.reg, 4u);
      ASSERT_LT(at.half, 2u);
      EXPECT_EQ(getFragmentRow(at), row);
      EXPECT_EQ(getFragmentColumn(at), column);
      size_t index = ((at.lane * 8 + at.step) * 4 + at.reg) * 2 + at.half;
      EXPECT_FALSE(seen[index]);
      seen[index] = true;
    }
}

TEST(FragmentLayoutTest, WordsOfALaneCoverThePlane) {
  for (unsigned width : {1u, 2u, 4u, 8u}) {
    std::vector<bool> seen(size_t(32) * getLaneWords(width));
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned word = 0; word < getLaneWords(width); ++word) {
        int64_t offset = getWordOffset(width, lane, word);
        ASSERT_EQ(offset % 4, 0);
        ASSERT_LT(offset, 256 * int64_t(width));
        EXPECT_FALSE(seen[size_t(offset / 4)]);
        seen[size_t(offset / 4)] = true;
        // A vector is aligned and contiguous.
        unsigned vector = getVectorWords(width);
        if (word % vector == 0) {
          EXPECT_EQ(offset % (4 * vector), 0);
        } else {
          EXPECT_EQ(offset, getWordOffset(width, lane, word - 1) + 4);
        }
      }
    // No two values of a lane share a bit, and they leave none.
    std::vector<uint32_t> words(getLaneWords(width), 0);
    for (unsigned step = 0; step < 8; ++step)
      for (unsigned reg = 0; reg < 4; ++reg)
        for (unsigned half = 0; half < 2; ++half) {
          WordPosition at = getWordPosition(width, step, reg, half);
          ASSERT_LT(at.word, words.size());
          for (unsigned i = 0; i < width; ++i) {
            uint32_t bit = 1u << ((at.bit + i) % 32);
            EXPECT_FALSE(words[at.word] & bit);
            words[at.word] |= bit;
          }
        }
    for (uint32_t word : words)
      EXPECT_EQ(word, UINT32_MAX);
  }
}

/// Every bit of every code of every (padded) element has a place of its own,
/// and no bit of the packed codes is left over.
TEST(FragmentLayoutTest, CodeBitsAreBijective) {
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (int64_t n : {1, 17, 64, 172})
      for (int64_t k : {1, 17, 64, 172, 576}) {
        FragmentLayout layout = getLayout(makeScheme(bits), n, k);
        int64_t bytes = layout.getComponents().front().bytes;
        std::vector<uint8_t> seen(size_t(bytes), 0);
        for (int64_t row = 0; row < 16 * layout.getNumStrips(); ++row)
          for (int64_t column = 0; column < 128 * layout.getNumUnits();
               ++column)
            for (unsigned bit = 0; bit < bits; ++bit) {
              FragmentLayout::PackedBit at =
                  layout.getPackedBit({row, column, bit});
              ASSERT_LT(at.byte, bytes);
              ASSERT_LT(at.bit, 8u);
              uint8_t mask = uint8_t(1u << at.bit);
              ASSERT_FALSE(seen[size_t(at.byte)] & mask);
              seen[size_t(at.byte)] |= mask;
              FragmentLayout::ElementBit back = layout.getElementBit(at);
              ASSERT_EQ(back.row, row);
              ASSERT_EQ(back.column, column);
              ASSERT_EQ(back.bit, bit);
            }
        EXPECT_TRUE(std::all_of(seen.begin(), seen.end(),
                                [](uint8_t byte) { return byte == 0xff; }));
      }
}

TEST(FragmentLayoutTest, CodeBitsOfLargeMatrices) {
  std::mt19937_64 random(1);
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (int64_t n : {1000, 4096, 11008})
      for (int64_t k : {1000, 7392, 28672}) {
        FragmentLayout layout = getLayout(makeScheme(bits), n, k);
        for (int i = 0; i < 2000; ++i) {
          FragmentLayout::ElementBit element{
              int64_t(random() % uint64_t(16 * layout.getNumStrips())),
              int64_t(random() % uint64_t(128 * layout.getNumUnits())),
              unsigned(random() % bits)};
          FragmentLayout::ElementBit back =
              layout.getElementBit(layout.getPackedBit(element));
          ASSERT_EQ(back.row, element.row);
          ASSERT_EQ(back.column, element.column);
          ASSERT_EQ(back.bit, element.bit);
        }
      }
}

TEST(FragmentLayoutTest, ScalesAreBijective) {
  for (int64_t n : {1, 17, 64, 172, 1000})
    for (int64_t k : {1, 17, 172, 576})
      for (int64_t blockK : {-1, 16, 24, 128}) {
        FragmentLayout layout = getLayout(makeScheme(4, blockK), n, k);
        std::vector<bool> seen(size_t(layout.getNumScales()));
        for (int64_t row = 0; row < 16 * layout.getNumStrips(); ++row)
          for (int64_t group = 0; group < layout.getNumGroups(); ++group) {
            int64_t column = group * layout.getGrid().blockK;
            EXPECT_EQ(layout.getGroup(column), group);
            int64_t index = layout.getScaleIndex(row, column);
            ASSERT_LT(index, layout.getNumScales());
            EXPECT_FALSE(seen[size_t(index)]);
            seen[size_t(index)] = true;
            FragmentLayout::ScaleCell cell = layout.getScaleCell(index);
            EXPECT_EQ(cell.row, row);
            EXPECT_EQ(cell.group, group);
          }
        EXPECT_TRUE(std::all_of(seen.begin(), seen.end(),
                                [](bool found) { return found; }));
        // A lane's two rows are neighbours.
        EXPECT_EQ(layout.getScaleIndex(8, 0), layout.getScaleIndex(0, 0) + 1);
        EXPECT_EQ(layout.getScaleIndex(15, 0), 15);
        // Padding belongs to the last group.
        EXPECT_EQ(layout.getGroup(128 * layout.getNumUnits() - 1),
                  layout.getNumGroups() - 1);
      }
}

TEST(FragmentLayoutTest, ColumnScales) {
  Scheme scheme = makeScheme(4, 1);
  scheme.blockN = -1;
  FragmentLayout layout = getLayout(scheme, 100, 200);
  EXPECT_TRUE(layout.hasColumnScales());
  EXPECT_EQ(layout.getNumScales(), 256);
  for (int64_t column = 0; column < 256; ++column) {
    EXPECT_EQ(layout.getScaleIndex(99, column), column);
    EXPECT_EQ(layout.getScaleCell(column).group, column);
  }
  // One group of few columns is nothing special.
  EXPECT_FALSE(getLayout(makeScheme(4, -1), 100, 3).hasColumnScales());
  // Nor are wide blocks over all rows.
  scheme.blockK = 16;
  EXPECT_FALSE(getLayout(scheme, 100, 200).hasColumnScales());
}

TEST(FragmentLayoutTest, Components) {
  Scheme scheme = makeScheme(5, 128);
  scheme.zero = ZeroKind::Integer;
  scheme.rule = ScaleRule::MinMax;
  FragmentLayout layout = getLayout(scheme, 65, 129);
  std::vector<PackedComponentInfo> components = layout.getComponents();
  ASSERT_EQ(components.size(), 4u);
  EXPECT_STREQ(components[0].suffix, ".packed");
  EXPECT_EQ(components[0].shape, (std::vector<int64_t>{8, 2, 1280}));
  EXPECT_EQ(components[0].bytes, 8 * 2 * 1280);
  EXPECT_STREQ(components[1].suffix, ".packed_scales");
  EXPECT_EQ(components[1].shape, (std::vector<int64_t>{8, 2, 16}));
  EXPECT_EQ(components[1].bytes, 8 * 2 * 16 * 2);
  EXPECT_STREQ(components[2].suffix, ".packed_zeros");
  EXPECT_TRUE(components[2].isBytes);
  EXPECT_EQ(components[2].bytes, 8 * 2 * 16);
  EXPECT_STREQ(components[3].suffix, ".output_scale");
  EXPECT_TRUE(components[3].shape.empty());

  scheme.zero = ZeroKind::Float;
  scheme.zeroType = FloatType::F8E4M3FN;
  EXPECT_EQ(getLayout(scheme, 65, 129).getComponents()[2].type, FloatType::F16);
  scheme.zero = ZeroKind::None;
  scheme.rule = ScaleRule::AbsMax;
  EXPECT_EQ(getLayout(scheme, 65, 129).getComponents().size(), 3u);
}

TEST(FragmentLayoutTest, SecondLevel) {
  auto inner = std::make_shared<Scheme>();
  inner->element = makeElement(ElementKind::F8E4M3FN);
  inner->blockN = inner->blockK = -1;
  inner->scaleType = FloatType::F32;
  Scheme scheme = makeScheme(4, 16);
  scheme.element = makeElement(ElementKind::F4E2M1FN);
  scheme.scaleScheme = inner;
  FragmentLayout layout = getLayout(scheme, 64, 64);
  EXPECT_TRUE(layout.hasScalarSecondLevel());
  EXPECT_FALSE(layout.isShifted());
  EXPECT_EQ(layout.getScaleType(), FloatType::F8E4M3FN);
  EXPECT_EQ(getUnpackedScheme(scheme), scheme);

  // Everything else is multiplied out.
  auto grouped = std::make_shared<Scheme>(*inner);
  grouped->blockN = 1;
  scheme.scaleScheme = grouped;
  layout = getLayout(scheme, 64, 64);
  EXPECT_FALSE(layout.hasScalarSecondLevel());
  EXPECT_TRUE(layout.isShifted());
  EXPECT_EQ(layout.getScaleType(), FloatType::F32);
  EXPECT_EQ(getUnpackedScheme(scheme).scaleType, FloatType::F32);
  EXPECT_FALSE(getUnpackedScheme(scheme).scaleScheme);

  scheme.scaleScheme = inner;
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  EXPECT_FALSE(getLayout(scheme, 64, 64).hasScalarSecondLevel());
}

TEST(FragmentLayoutTest, Refusals) {
  auto getMessage = [](const Scheme &scheme, int64_t n, int64_t k) {
    return FragmentLayout::get(scheme, n, k).message();
  };
  EXPECT_EQ(getMessage(makeScheme(4, 8), 2, 64),
            "expected blocks of at least 16 columns, or of all rows, but got "
            "block = [1, 8], which the packed layout does not have");
  // Sizes of the scheme are fine, those of the padded matrix are not.
  EXPECT_EQ(getMessage(makeScheme(8), 1, int64_t(1) << 58),
            "expected fewer than 2^60 bytes of a packed weight but got a "
            "matrix of 1x288230376151711744");
  EXPECT_NE(getMessage(makeScheme(8), 0, 1), "");
  EXPECT_NE(getMessage(makeScheme(9), 1, 1), "");
  EXPECT_NE(getMessage(makeScheme(8), INT64_MAX, INT64_MAX), "");
}
