//===- FloatTest.cpp ------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Float.h"

#include "Kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace quant_llm;

/// Every available table of inner loops.
static std::vector<const Kernels *> getAllKernels() {
  std::vector<const Kernels *> all;
  for (const Kernels *kernels :
       {getBaselineKernels(), getAVX2Kernels(), getAVX512Kernels()})
    if (kernels)
      all.push_back(kernels);
  return all;
}

/// Numbers around every rounding boundary of a 16-bit type: each code, the
/// middle to the next one, and their neighbours.
template <typename Decode>
static std::vector<float> getBoundaries(Decode decode) {
  std::vector<float> values{INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f};
  for (unsigned code = 0; code < 0x7fff; ++code) {
    double a = decode(static_cast<uint16_t>(code));
    double b = decode(static_cast<uint16_t>(code + 1));
    if (!std::isfinite(a) || !std::isfinite(b))
      continue;
    auto middle = static_cast<float>((a + b) / 2);
    for (float value :
         {static_cast<float>(a), middle, std::nextafter(middle, -INFINITY),
          std::nextafter(middle, INFINITY)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  return values;
}

/// Nearest code, ties to even, from the definition.
template <typename Decode>
static unsigned findNearest(float value, Decode decode, unsigned infinity,
                            double overflow) {
  unsigned sign = std::signbit(value) ? 0x8000 : 0;
  double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= overflow)
    return sign | infinity;
  unsigned low = 0, high = infinity - 1;
  while (low < high) { // largest code not above
    unsigned middle = (low + high + 1) / 2;
    if (decode(static_cast<uint16_t>(middle)) <= magnitude)
      low = middle;
    else
      high = middle - 1;
  }
  double below = magnitude - decode(static_cast<uint16_t>(low));
  double above = low + 1 == infinity
                     ? overflow * 2
                     : decode(static_cast<uint16_t>(low + 1)) - magnitude;
  if (below > above || (below == above && (low & 1)))
    ++low;
  return sign | low;
}

TEST(FloatTest, HalfRoundsToNearestEven) {
  auto decode = [](uint16_t code) -> double { return f16ToFloat(code); };
  EXPECT_EQ(f16ToFloat(0x3c00), 1.0f);
  EXPECT_EQ(f16ToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(f16ToFloat(0x7bff), 65504.0f);
  for (float value : getBoundaries(decode))
    ASSERT_EQ(floatToF16(value), findNearest(value, decode, 0x7c00, 65520))
        << value;
}

TEST(FloatTest, BFloatRoundsToNearestEven) {
  auto decode = [](uint16_t code) -> double { return bf16ToFloat(code); };
  EXPECT_EQ(bf16ToFloat(0x3f80), 1.0f);
  double overflow = 0x1.ffp127; // middle of the largest number and 2^128
  for (float value : getBoundaries(decode))
    ASSERT_EQ(floatToBF16(value), findNearest(value, decode, 0x7f80, overflow))
        << value;
}

TEST(FloatTest, SixteenBitTypesRoundTrip) {
  for (unsigned code = 0; code <= 0xffff; ++code) {
    auto bits = static_cast<uint16_t>(code);
    if (std::isnan(f16ToFloat(bits)))
      EXPECT_TRUE(std::isnan(f16ToFloat(floatToF16(f16ToFloat(bits)))));
    else
      ASSERT_EQ(floatToF16(f16ToFloat(bits)), code);
    if (std::isnan(bf16ToFloat(bits)))
      EXPECT_TRUE(std::isnan(bf16ToFloat(floatToBF16(bf16ToFloat(bits)))));
    else
      ASSERT_EQ(floatToBF16(bf16ToFloat(bits)), code);
  }
}

TEST(FloatTest, BulkConversionsAgreeForEveryInstructionSet) {
  std::vector<uint16_t> codes(65536);
  for (unsigned code = 0; code <= 0xffff; ++code)
    codes[code] = static_cast<uint16_t>(code);
  const auto *bytes = reinterpret_cast<const uint8_t *>(codes.data());
  std::mt19937 random(5);
  std::vector<float> floats =
      getBoundaries([](uint16_t code) -> double { return f16ToFloat(code); });
  for (int i = 0; i < 100000; ++i)
    floats.push_back(floatFromBits(random()));
  for (const Kernels *kernels : getAllKernels()) {
    std::vector<float> values(codes.size());
    kernels->f16ToFloat(bytes, values.data(), values.size());
    for (size_t i = 0; i < codes.size(); ++i)
      ASSERT_EQ(floatBits(values[i]), floatBits(f16ToFloat(codes[i]))) << i;
    kernels->bf16ToFloat(bytes, values.data(), values.size());
    for (size_t i = 0; i < codes.size(); ++i)
      ASSERT_EQ(floatBits(values[i]), floatBits(bf16ToFloat(codes[i]))) << i;

    std::vector<uint16_t> narrow(floats.size());
    auto *to = reinterpret_cast<uint8_t *>(narrow.data());
    kernels->floatToF16(floats.data(), to, floats.size());
    for (size_t i = 0; i < floats.size(); ++i)
      ASSERT_EQ(narrow[i], floatToF16(floats[i])) << floats[i];
    kernels->floatToBF16(floats.data(), to, floats.size());
    for (size_t i = 0; i < floats.size(); ++i)
      ASSERT_EQ(narrow[i], floatToBF16(floats[i])) << floats[i];
  }
}

TEST(FloatTest, SmallFloatsSaturate) {
  struct {
    ElementKind kind;
    float largest;
  } const formats[] = {{ElementKind::F4E2M1FN, 6},
                       {ElementKind::F6E2M3FN, 7.5},
                       {ElementKind::F6E3M2FN, 28},
                       {ElementKind::F8E4M3FN, 448},
                       {ElementKind::F8E5M2, 57344}};
  for (auto [kind, largest] : formats) {
    const SmallFloat &format = *getSmallFloat(kind);
    for (float value : {largest, largest * 1.5f, 3e38f, INFINITY}) {
      EXPECT_EQ(decodeSmallFloat(format, encodeSmallFloat(format, value)),
                largest);
      EXPECT_EQ(decodeSmallFloat(format, encodeSmallFloat(format, -value)),
                -largest);
    }
    EXPECT_EQ(encodeSmallFloat(format, NAN), format.nanCode);
    EXPECT_EQ(encodeSmallFloat(format, 0.0f), 0);
    EXPECT_EQ(encodeSmallFloat(format, -0.0f), 1u << (format.bits() - 1));
  }
  EXPECT_EQ(getSmallFloat(ElementKind::Int), nullptr);
}

TEST(FloatTest, E8M0) {
  for (unsigned code = 0; code < 255; ++code)
    EXPECT_EQ(floatToE8M0(e8m0ToFloat(static_cast<uint8_t>(code))), code);
  EXPECT_TRUE(std::isnan(e8m0ToFloat(255)));
  EXPECT_EQ(floatToE8M0(NAN), 255);
  EXPECT_EQ(floatToE8M0(0.0f), 0);
  EXPECT_EQ(floatToE8M0(-1.0f), 0);
  EXPECT_EQ(floatToE8M0(INFINITY), 254);
  EXPECT_EQ(floatToE8M0(1.4f), 127);
  EXPECT_EQ(floatToE8M0(1.6f), 128);
  EXPECT_EQ(floatToE8M0(1.5f), 128); // ties go up
  EXPECT_EQ(floatToE8M0(3.0f), 129);
}

TEST(FloatTest, StoredFloatsStayFiniteAndPositive) {
  for (FloatType type : {FloatType::F16, FloatType::BF16, FloatType::F32,
                         FloatType::F8E8M0FNU, FloatType::F8E4M3FN}) {
    uint8_t bytes[4];
    storeFloat(type, 3.4e38f, bytes);
    if (type != FloatType::F32 && type != FloatType::BF16) {
      EXPECT_EQ(loadFloat(type, bytes), maxFinite(type));
    }
    EXPECT_TRUE(std::isfinite(loadFloat(type, bytes)));
    for (float value : {maxFinite(type), minPositive(type)}) {
      storeFloat(type, value, bytes);
      EXPECT_EQ(loadFloat(type, bytes), value);
    }
    // Nothing positive is smaller: half of it is stored as it or as 0.
    storeFloat(type, minPositive(type) / 2, bytes);
    EXPECT_TRUE(loadFloat(type, bytes) == 0.0f ||
                loadFloat(type, bytes) == minPositive(type));
  }
}
