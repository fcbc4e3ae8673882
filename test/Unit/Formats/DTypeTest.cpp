//===- DTypeTest.cpp ------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/DType.h"
#include "quant-llm/Formats/HalfFloat.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace quant_llm;

TEST(DTypeTest, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::U64); ++i) {
    DType dtype = static_cast<DType>(i);
    EXPECT_EQ(parseDType(getDTypeName(dtype)), dtype);
  }
  EXPECT_EQ(getDTypeName(DType::U64), "U64");
  EXPECT_EQ(getDTypeName(DType::F8E4M3), "F8_E4M3");
  EXPECT_EQ(parseDType("f32"), std::nullopt);
  EXPECT_EQ(parseDType(""), std::nullopt);
}

TEST(DTypeTest, Sizes) {
  EXPECT_EQ(getByteWidth(DType::F32), 4u);
  EXPECT_EQ(getByteWidth(DType::F4), 0u);
  EXPECT_EQ(getByteSize(DType::F16, {3, 5}), 30u);
  EXPECT_EQ(getByteSize(DType::F64, {}), 8u);
  EXPECT_EQ(getByteSize(DType::F32, {7, 0}), 0u);
  EXPECT_EQ(getByteSize(DType::F4, {3, 2}), 3u);
  EXPECT_EQ(getByteSize(DType::F4, {3}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::F6E2M3, {4}), 3u);
  EXPECT_EQ(getByteSize(DType::F32, {-1}), std::nullopt);
  int64_t big = int64_t(1) << 62;
  EXPECT_EQ(getByteSize(DType::U8, {big, 4}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::U8, {big, big, 0}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::F64, {big}), std::nullopt);
  EXPECT_EQ(shapeToString({2, 3}), "[2, 3]");
  EXPECT_EQ(shapeToString({}), "[]");
}

TEST(HalfFloatTest, WideningMatchesTheFormula) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    float value = f16ToFloat(static_cast<uint16_t>(bits));
    int sign = bits & 0x8000 ? -1 : 1;
    int exponent = (bits >> 10) & 31;
    int mantissa = bits & 1023;
    if (exponent == 31 && mantissa) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    double expected = exponent == 31 ? std::numeric_limits<double>::infinity()
                      : exponent == 0
                          ? std::ldexp(mantissa, -24)
                          : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(value, sign * expected) << bits;
    ASSERT_EQ(std::signbit(value), sign < 0) << bits;
    // And back.
    ASSERT_EQ(floatToF16(value), bits);
  }
}

TEST(HalfFloatTest, NarrowingRoundsToNearestEven) {
  // Around every midpoint of two neighbours, and at it.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    float low = f16ToFloat(static_cast<uint16_t>(bits));
    float high = f16ToFloat(static_cast<uint16_t>(bits + 1));
    float middle = low + (high - low) / 2; // exact
    ASSERT_EQ(floatToF16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(floatToF16(middle), bits + (bits & 1));
    ASSERT_EQ(floatToF16(std::nextafter(middle, high)), bits + 1);
    ASSERT_EQ(floatToF16(-middle), 0x8000 | (bits + (bits & 1)));
  }
  EXPECT_EQ(floatToF16(65519.996f), 0x7bff);
  EXPECT_EQ(floatToF16(65520.0f), 0x7c00);
  EXPECT_EQ(floatToF16(-1e30f), 0xfc00);
  EXPECT_EQ(floatToF16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(floatToF16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_TRUE(std::isnan(f16ToFloat(floatToF16(std::nanf("")))));
}

TEST(HalfFloatTest, BFloat16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    float value = bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(bf16ToFloat(floatToBf16(value))));
    else
      ASSERT_EQ(floatToBf16(value), bits);
  }
  EXPECT_EQ(floatToBf16(floatFromBits(0x3f808000)), 0x3f80); // tie to even
  EXPECT_EQ(floatToBf16(floatFromBits(0x3f818000)), 0x3f82);
  EXPECT_EQ(floatToBf16(floatFromBits(0x3f808001)), 0x3f81);
  EXPECT_EQ(floatToBf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16ToFloat(floatToBf16(floatFromBits(0x7f800001)))));
}
