//===- ElementTest.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"

#include "quant-llm/Numerics/Float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace quant_llm;

static Element get(const ElementFormat &format) {
  Result<Element> element = Element::get(format);
  EXPECT_TRUE(element.ok()) << element.message();
  return element.take();
}

static std::vector<ElementFormat> getAllFormats() {
  std::vector<ElementFormat> formats;
  for (unsigned bits = 1; bits <= 8; ++bits) {
    formats.push_back(makeElement(ElementKind::Int, bits));
    formats.push_back(makeElement(ElementKind::UInt, bits));
  }
  for (ElementKind kind :
       {ElementKind::Ternary, ElementKind::F4E2M1FN, ElementKind::F6E2M3FN,
        ElementKind::F6E3M2FN, ElementKind::F8E4M3FN, ElementKind::F8E5M2,
        ElementKind::NF4})
    formats.push_back(makeElement(kind));
  formats.push_back(makeCodebook({0.5f, -1.0f}));
  formats.push_back(makeCodebook({0, 3, -1.5f, 3, 7, 0, -2, 0.25f}));
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (unsigned bits : {5u, 8u}) {
    std::vector<float> table(size_t(1) << bits);
    for (float &value : table)
      value = normal(random);
    formats.push_back(makeCodebook(table));
  }
  return formats;
}

TEST(ElementTest, NamesRoundTrip) {
  for (const ElementFormat &format : getAllFormats()) {
    Result<ElementFormat> parsed = parseElement(elementName(format));
    ASSERT_TRUE(parsed.ok()) << parsed.message();
    EXPECT_TRUE(*parsed == format) << elementName(format);
  }
  EXPECT_EQ(elementName(makeCodebook({-1, 0, 0.1f, 1})),
            "codebook<2, [-1, 0, 0.1, 1]>");
}

TEST(ElementTest, BadNames) {
  for (const char *text :
       {"", "int", "int0", "int9", "int04", "uint-1", "Int4", "f8", "codebook",
        "codebook<", "codebook<1>", "codebook<1, [1]>", "codebook<1, [1, 2]",
        "codebook<1, [1, nan]>", "codebook<1, [1, 1e99]>", "codebook<9, []>",
        "codebook<99999999999999999999, [1]>", "codebook<1, [1, 2]> "})
    EXPECT_FALSE(parseElement(text).ok()) << text;
  EXPECT_EQ(parseElement("codebook<2, [1, 2, 3]>").message(),
            "expected 4 values in a codebook of 2 bits but got 3");
}

TEST(ElementTest, InvalidFormats) {
  EXPECT_EQ(verifyElement(makeElement(ElementKind::Int, 0)).message(),
            "expected an element of 1 to 8 bits but got 0");
  EXPECT_EQ(verifyElement(makeElement(ElementKind::UInt, 9)).message(),
            "expected an element of 1 to 8 bits but got 9");
  ElementFormat wide = makeElement(ElementKind::NF4);
  wide.bits = 5;
  EXPECT_EQ(verifyElement(wide).message(),
            "expected 4 bits for element nf4 but got 5");
  ElementFormat table = makeElement(ElementKind::Int, 1);
  table.table = {0, 1};
  EXPECT_EQ(verifyElement(table).message(),
            "expected no table on element int1; only codebooks have one");
  EXPECT_EQ(verifyElement(makeCodebook({1, 2, 3})).message(),
            "expected 4 values in a codebook of 2 bits but got 3");
  EXPECT_EQ(verifyElement(makeCodebook({1, INFINITY})).message(),
            "expected finite values in a codebook but value 1 is infinite");
  EXPECT_FALSE(verifyElement(makeCodebook({})).ok());
  EXPECT_FALSE(verifyElement(makeCodebook(std::vector<float>(512))).ok());
}

TEST(ElementTest, IntegerValues) {
  Element int4 = get(makeElement(ElementKind::Int, 4));
  EXPECT_EQ(int4.decode(0), 0);
  EXPECT_EQ(int4.decode(7), 7);
  EXPECT_EQ(int4.decode(8), -8);
  EXPECT_EQ(int4.decode(15), -1);
  EXPECT_EQ(int4.maxExponent(), 2);
  Element int1 = get(makeElement(ElementKind::Int, 1));
  EXPECT_EQ(int1.minValue(), -1);
  EXPECT_EQ(int1.maxValue(), 0);
  Element uint8 = get(makeElement(ElementKind::UInt, 8));
  EXPECT_EQ(uint8.maxValue(), 255);
  Element ternary = get(makeElement(ElementKind::Ternary));
  EXPECT_EQ(ternary.minValue(), -1);
  EXPECT_FALSE(ternary.isUsed(2));
  EXPECT_EQ(ternary.encode(-100), 3u);
}

TEST(ElementTest, IntegerTies) {
  Element int8 = get(makeElement(ElementKind::Int, 8));
  auto round = [&](float value, Rounding rounding) {
    return int8.decode(int8.encode(value, rounding));
  };
  for (int i = -120; i < 120; ++i) {
    float tie = static_cast<float>(i) + 0.5f;
    EXPECT_EQ(round(tie, Rounding::HalfEven), std::nearbyint(tie));
    EXPECT_EQ(round(tie, Rounding::HalfAway), std::round(tie));
    // Neighbours are no ties.
    for (Rounding rounding : {Rounding::HalfEven, Rounding::HalfAway}) {
      EXPECT_EQ(round(std::nextafter(tie, -1000.0f), rounding), i);
      EXPECT_EQ(round(std::nextafter(tie, 1000.0f), rounding), i + 1);
    }
  }
}

TEST(ElementTest, TableTiesGoToTheSmallerValue) {
  Element book = get(makeCodebook({4, 0, -2, 0}));
  EXPECT_EQ(book.encode(2), 1u);
  EXPECT_EQ(book.encode(std::nextafter(2.0f, 3.0f)), 0u);
  EXPECT_EQ(book.encode(-1), 2u);
  EXPECT_EQ(book.encode(0), 1u); // of equal values the smallest code
  EXPECT_FALSE(book.isUsed(3));
  EXPECT_EQ(book.encode(NAN), 1u);
  EXPECT_EQ(book.encode(INFINITY), 0u);
  EXPECT_EQ(book.encode(-INFINITY), 2u);
}

TEST(ElementTest, EveryUsedCodeIsAFixedPoint) {
  for (const ElementFormat &format : getAllFormats()) {
    Element element = get(format);
    for (unsigned code = 0; code < element.numCodes(); ++code)
      if (element.isUsed(code)) {
        EXPECT_EQ(element.encode(element.decode(code)), code)
            << elementName(format);
      }
  }
}

TEST(ElementTest, EncodeIsNearest) {
  std::mt19937 random(11);
  for (const ElementFormat &format : getAllFormats()) {
    Element element = get(format);
    std::uniform_real_distribution<float> uniform(
        element.minValue() * 1.2f - 1, element.maxValue() * 1.2f + 1);
    for (int i = 0; i < 3000; ++i) {
      float value = uniform(random);
      if (i % 2)
        value *= 0.01f;
      unsigned code = element.encode(value);
      ASSERT_TRUE(element.isUsed(code));
      double distance =
          std::fabs(static_cast<double>(element.decode(code)) - value);
      for (unsigned other = 0; other < element.numCodes(); ++other)
        if (element.isUsed(other)) {
          ASSERT_LE(
              distance,
              std::fabs(static_cast<double>(element.decode(other)) - value))
              << elementName(format) << " " << value;
        }
    }
  }
}

TEST(ElementTest, NormalQuantileInvertsTheDistribution) {
  for (double x = -8; x <= 3; x += 0.0625) {
    double p = 0.5 * std::erfc(-x * M_SQRT1_2);
    // An error of one ulp of p moves x by 1e-16 * p / density.
    double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
    EXPECT_NEAR(normalQuantile(p), x, 4e-16 * (p / density + std::fabs(x)));
  }
  EXPECT_EQ(normalQuantile(0.5), 0.0);
  // 0.975 quantile, from tables.
  EXPECT_NEAR(normalQuantile(0.975), 1.959963984540054, 1e-14);
}

TEST(ElementTest, NF4Values) {
  // methods.md 2.43, recomputed there from the formula, to six digits.
  const double known[] = {-1.0,      -0.696193, -0.525073, -0.394917,
                          -0.284441, -0.184773, -0.091050, 0.0,
                          0.079580,  0.160930,  0.246112,  0.337915,
                          0.440710,  0.562617,  0.722957,  1.0};
  Element nf4 = get(makeElement(ElementKind::NF4));
  for (unsigned code = 0; code < 16; ++code)
    EXPECT_NEAR(nf4.decode(code), known[code], 1e-6);
  EXPECT_EQ(nf4.decode(0), -1.0f);
  EXPECT_EQ(nf4.decode(7), 0.0f);
  EXPECT_EQ(nf4.zeroCode(), 7u);
}

TEST(ElementTest, NormalCodebooks) {
  // Max, 1960, table I: the outputs of the best quantizers of N(0,1).
  const std::vector<std::vector<double>> known = {
      {0.7980},
      {0.4528, 1.510},
      {0.2451, 0.7560, 1.344, 2.152},
      {0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733}};
  for (unsigned bits = 1; bits <= 4; ++bits) {
    std::vector<float> table = makeNormalCodebook(bits).table;
    const std::vector<double> &half = known[bits - 1];
    ASSERT_EQ(table.size(), size_t(1) << bits);
    for (size_t i = 0; i < half.size(); ++i) {
      EXPECT_NEAR(table[half.size() + i], half[i] / half.back(), 6e-4)
          << bits << " bits, value " << i;
      EXPECT_EQ(table[half.size() - 1 - i], -table[half.size() + i]);
    }
  }
  for (unsigned bits = 1; bits <= 6; ++bits) {
    std::string name = "normal" + std::to_string(bits);
    Result<ElementFormat> parsed = parseElement(name);
    ASSERT_TRUE(parsed.ok()) << parsed.message();
    EXPECT_TRUE(*parsed == makeNormalCodebook(bits));
    EXPECT_EQ(parsed->bits, bits);
    EXPECT_TRUE(verifyElement(*parsed).ok());
    // Ascending; it prints as what it is.
    EXPECT_TRUE(std::is_sorted(parsed->table.begin(), parsed->table.end()));
    Result<ElementFormat> printed = parseElement(elementName(*parsed));
    ASSERT_TRUE(printed.ok()) << printed.message();
    EXPECT_TRUE(*printed == *parsed);
  }
  for (const char *bad : {"normal", "normal0", "normal7", "normal12"})
    EXPECT_FALSE(parseElement(bad).ok()) << bad;
}

TEST(ElementTest, OtherNames) {
  for (ScaleRule rule : {ScaleRule::AbsMaxFull, ScaleRule::AbsMax,
                         ScaleRule::MinMax, ScaleRule::Mse})
    EXPECT_EQ(*parseScaleRule(scaleRuleName(rule)), rule);
  EXPECT_EQ(parseRounding("up").message(),
            "expected a rounding (half_even, half_away) but got 'up'");
  EXPECT_EQ(*parseFloatType("f8E8M0FNU"), FloatType::F8E8M0FNU);
  EXPECT_FALSE(parseFloatType("f64").ok());
}

TEST(ElementTest, SchemeNames) {
  Scheme scheme;
  scheme.blockK = 64;
  EXPECT_EQ(schemeName(scheme), "int4, block = [1, 64], scale = f16, rule = "
                                "absmax, rounding = half_even");
  auto inner = std::make_shared<Scheme>();
  inner->element = makeElement(ElementKind::F8E4M3FN);
  inner->blockN = -1;
  inner->scaleType = FloatType::F32;
  scheme.scaleScheme = inner;
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::Mse;
  EXPECT_EQ(schemeName(scheme),
            "int4, block = [1, 64], scale = scheme<f8E4M3FN, block = [-1, -1], "
            "scale = f32, rule = absmax, rounding = half_even>, zero = f16, "
            "rule = mse, rounding = half_even");
  Scheme copy = scheme;
  copy.scaleScheme = std::make_shared<Scheme>(*inner);
  EXPECT_TRUE(copy == scheme);
  copy.scaleScheme = nullptr;
  EXPECT_TRUE(copy != scheme);
}

TEST(ElementTest, SchemesFromText) {
  for (const char *text :
       {"int4, block = [1, 64], scale = f16, rule = absmax, rounding = "
        "half_even",
        "uint3, block = [-1, 1], scale = f8E8M0FNU, zero = int, rule = mse, "
        "rounding = half_away",
        "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = "
        "f32, rule = absmax, rounding = half_even>, zero = bf16, rule = "
        "minmax, "
        "rounding = half_even",
        "codebook<1, [-1, 2.5]>, block = [1, -1], scale = bf16, rule = absmax, "
        "rounding = half_even"}) {
    Result<Scheme> scheme = parseScheme(text);
    ASSERT_TRUE(scheme.ok()) << scheme.message();
    EXPECT_EQ(schemeName(*scheme), text);
  }
  Result<Scheme> attribute = parseScheme(
      " #quant_llm.scheme<f4E2M1FN, block=[1,16], scale = "
      "#quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32>> ");
  ASSERT_TRUE(attribute.ok()) << attribute.message();
  EXPECT_EQ(schemeName(*attribute),
            "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, "
            "-1], scale = f32, rule = absmax, rounding = half_even>, rule = "
            "absmax, rounding = half_even");
  EXPECT_EQ(parseScheme("uint4, zero = int")->rule, ScaleRule::MinMax);
}

TEST(ElementTest, SchemesFromWrongText) {
  const char *inner = "int8, scale = scheme<int8, scale = scheme<int8, scale = "
                      "scheme<int8>>>";
  const std::pair<const char *, const char *> cases[] = {
      {"", "expected an element"},
      {"int9", "expected an element"},
      {"int4, block = [1]", "expected a block such as [1, 64] but got '[1]'"},
      {"int4, block = [1, x]", "expected a block"},
      {"int4, block = [1, 99999999999999999999]", "expected a block"},
      {"int4, block", "expected a block"},
      {"int4, scale = f64", "f64"},
      {"int4, scale", "expected"},
      {"int4, zero = 3", "3"},
      {"int4, rule = best", "best"},
      {"int4, rounding = up", "up"},
      {"int4, colour = red", "expected block, scale, zero, rule or rounding "
                             "but got 'colour'"},
      {"int4,", "but got ''"},
      {">>, <", "expected an element"},
      {inner, "expected at most two levels of scales"},
  };
  for (const auto &[text, message] : cases) {
    Result<Scheme> scheme = parseScheme(text);
    ASSERT_FALSE(scheme.ok()) << text;
    EXPECT_NE(scheme.message().find(message), std::string::npos)
        << text << ": " << scheme.message();
  }
}
