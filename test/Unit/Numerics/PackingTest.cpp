//===- PackingTest.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Packing.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

using namespace quant_llm;

TEST(PackingTest, BitOrderIsLittleEndian) {
  // Codes 1, 2, 3 of 3 bits: bits 100 010 110, least significant first.
  const uint8_t codes[] = {1, 2, 3};
  uint8_t packed[2] = {0xff, 0xff};
  packRow(codes, 3, 3, packed);
  EXPECT_EQ(packed[0], 0b11010001);
  EXPECT_EQ(packed[1], 0b00000000);

  const uint8_t nibbles[] = {0xa, 0x5, 0xf};
  packRow(nibbles, 3, 4, packed);
  EXPECT_EQ(packed[0], 0x5a);
  EXPECT_EQ(packed[1], 0x0f);
}

TEST(PackingTest, RoundTripOfEveryWidthAndLength) {
  std::mt19937 random(1);
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (int64_t count = 0; count <= 70; ++count) {
      std::vector<uint8_t> codes(static_cast<size_t>(count));
      for (uint8_t &code : codes)
        code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
      auto bytes = static_cast<size_t>(packedRowBytes(count, bits));
      // A guard byte behind both buffers.
      std::vector<uint8_t> packed(bytes + 1, 0xee);
      packRow(codes.data(), count, bits, packed.data());
      EXPECT_EQ(packed[bytes], 0xee);
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(packedCode(packed.data(), i, bits), codes[size_t(i)]);
        // The definition, bit by bit.
        for (unsigned j = 0; j < bits; ++j) {
          auto bit = size_t(i) * bits + j;
          ASSERT_EQ((packed[bit / 8] >> (bit % 8)) & 1,
                    (codes[size_t(i)] >> j) & 1);
        }
      }
      for (size_t bit = size_t(count) * bits; bit < bytes * 8; ++bit)
        ASSERT_EQ((packed[bit / 8] >> (bit % 8)) & 1, 0);
      std::vector<uint8_t> unpacked(codes.size() + 1, 0xee);
      unpackRow(packed.data(), count, bits, unpacked.data());
      EXPECT_EQ(unpacked.back(), 0xee);
      unpacked.pop_back();
      EXPECT_EQ(unpacked, codes);
    }
}

TEST(PackingTest, HighBitsOfCodesAreIgnored) {
  for (unsigned bits = 1; bits <= 7; ++bits) {
    std::vector<uint8_t> clean(21), dirty(21);
    for (size_t i = 0; i < clean.size(); ++i) {
      clean[i] = static_cast<uint8_t>(i & ((1u << bits) - 1));
      dirty[i] = static_cast<uint8_t>(clean[i] | (0xffu << bits));
    }
    std::vector<uint8_t> a(21), b(21);
    packRow(clean.data(), 21, bits, a.data());
    packRow(dirty.data(), 21, bits, b.data());
    EXPECT_EQ(a, b);
  }
}
