//===- GroupQuantizerTest.cpp ---------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/GroupQuantizer.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Metrics.h"
#include "quant-llm/Numerics/Packing.h"

#include "Kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace quant_llm;

TEST(GroupQuantizerTest, Int4ByHand) {
  const float weights[] = {7, -7, 3.5f, 1, 0, 14};
  Scheme scheme;
  scheme.blockK = 4;
  Result<QuantizedMatrix> stored =
      quantize({weights, SourceType::F32, 1, 6}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->scales, (std::vector<uint8_t>{0x00, 0x3c, 0x00, 0x40}));
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0x97, 0x14, 0x70}));
  float values[6];
  ASSERT_TRUE(dequantize(*stored, scheme, values, 1).ok());
  const float expected[] = {7, -7, 4, 1, 0, 14};
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(values[i], expected[i]);
}

//===----------------------------------------------------------------------===//
// Random matrices and schemes against the definition
//===----------------------------------------------------------------------===//

namespace {
/// A matrix with its own bytes, one byte off any alignment.
struct Source {
  std::vector<uint8_t> bytes;
  SourceType type;
  int64_t n, k;
  std::vector<float> values;

  Source(SourceType type, int64_t n, int64_t k, std::vector<float> wanted)
      : bytes(wanted.size() * sourceTypeBytes(type) + 1), type(type), n(n),
        k(k), values(std::move(wanted)) {
    uint8_t *to = bytes.data() + 1;
    if (type == SourceType::F32)
      std::memcpy(to, values.data(), values.size() * 4);
    else if (type == SourceType::F16)
      floatToF16(values.data(), to, values.size());
    else
      floatToBF16(values.data(), to, values.size());
    for (int64_t row = 0; row < n; ++row)
      loadRow(view(), row, 0, k, values.data() + row * k);
  }

  MatrixView view() const { return {bytes.data() + 1, type, n, k}; }
};
} // namespace

static Element get(const ElementFormat &format) {
  Result<Element> element = Element::get(format);
  EXPECT_TRUE(element.ok()) << element.message();
  return element.take();
}

/// What the block of an element holds, by the definition of Spec.md in float64.
static double getWantedScale(const Scheme &scheme, const Element &element,
                             const std::vector<float> &block) {
  if (scheme.rule == ScaleRule::Mse)
    return 1; // MseIsTheBestOfItsCandidates checks it
  double low = block[0], high = block[0], a = 0;
  for (float value : block) {
    low = std::min<double>(low, value);
    high = std::max<double>(high, value);
    a = std::max(a, std::fabs(static_cast<double>(value)));
  }
  if (scheme.zero == ZeroKind::Integer) {
    low = std::min(low, 0.0);
    high = std::max(high, 0.0);
  }
  bool powerOfTwo =
      !scheme.scaleScheme && scheme.scaleType == FloatType::F8E8M0FNU;
  if (scheme.rule == ScaleRule::AbsMaxFull ||
      scheme.rule == ScaleRule::MinMax) {
    double scale =
        scheme.rule == ScaleRule::AbsMaxFull
            ? a / std::exp2(element.bits() - 1.0)
            : (high - low) / (static_cast<double>(element.maxValue()) -
                              element.minValue());
    return powerOfTwo && scale > 0 ? std::exp2(std::ceil(std::log2(scale)))
                                   : scale;
  }
  if (powerOfTwo)
    return a == 0 ? 0
                  : std::exp2(std::floor(std::log2(a)) -
                              std::floor(std::log2(element.maxValue())));
  return a / element.maxValue();
}

static float store(FloatType type, double value) {
  uint8_t bytes[4];
  if (value > 0)
    value = std::max<double>(value, minPositive(type));
  storeFloat(type, static_cast<float>(value), bytes);
  return loadFloat(type, bytes);
}

/// Checks every scale, zero, code and value of a stored matrix.
static void check(const Source &source, const Scheme &scheme) {
  SCOPED_TRACE(schemeName(scheme) + " of " + std::to_string(source.n) + "x" +
               std::to_string(source.k));
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 2);
  ASSERT_TRUE(stored.ok()) << stored.message();
  int64_t bytes = 0;
  for (const ComponentInfo &component :
       getComponents(scheme, source.n, source.k)) {
    ASSERT_EQ(static_cast<int64_t>(stored->get(component.kind).size()),
              component.bytes);
    bytes += component.bytes;
  }
  EXPECT_EQ(bytes, getStoredBytes(scheme, source.n, source.k));
  std::vector<float> values(source.values.size());
  Status status = dequantize(*stored, scheme, values.data(), 3);
  ASSERT_TRUE(status.ok()) << status.message();

  Element element = get(scheme.element);
  BlockGrid grid = getBlockGrid(scheme, source.n, source.k);
  std::vector<float> scales(static_cast<size_t>(grid.gridN * grid.gridK));
  std::vector<float> wantedScales(scales.size());
  for (int64_t cell = 0; cell < grid.gridN * grid.gridK; ++cell) {
    std::vector<float> block;
    int64_t n0 = cell / grid.gridK * grid.blockN;
    int64_t k0 = cell % grid.gridK * grid.blockK;
    for (int64_t n = n0; n < std::min(n0 + grid.blockN, source.n); ++n)
      for (int64_t k = k0; k < std::min(k0 + grid.blockK, source.k); ++k)
        block.push_back(source.values[size_t(n * source.k + k)]);
    wantedScales[size_t(cell)] =
        static_cast<float>(getWantedScale(scheme, element, block));
    if (!scheme.scaleScheme)
      scales[size_t(cell)] = loadFloat(
          scheme.scaleType,
          stored->scales.data() + cell * floatTypeBytes(scheme.scaleType));
  }
  if (scheme.scaleScheme) {
    Result<QuantizedMatrix> inner =
        quantize({wantedScales.data(), SourceType::F32, grid.gridN, grid.gridK},
                 *scheme.scaleScheme, "s", 1);
    ASSERT_TRUE(inner.ok());
    if (scheme.rule != ScaleRule::Mse) {
      EXPECT_EQ(inner->codes, stored->scaleCodes);
      EXPECT_EQ(inner->scales, stored->scales);
    }
    inner->codes = stored->scaleCodes;
    inner->scales = stored->scales;
    ASSERT_TRUE(dequantize(*inner, *scheme.scaleScheme, scales.data(), 1).ok());
  } else if (scheme.rule != ScaleRule::Mse) {
    for (size_t cell = 0; cell < scales.size(); ++cell)
      ASSERT_EQ(scales[cell], store(scheme.scaleType, wantedScales[cell]));
  }

  int64_t rowBytes = packedRowBytes(source.k, element.bits());
  for (int64_t n = 0; n < source.n; ++n)
    for (int64_t k = 0; k < source.k; ++k) {
      size_t cell = size_t(n / grid.blockN * grid.gridK + k / grid.blockK);
      float s = scales[cell], z = 0;
      if (scheme.zero == ZeroKind::Integer)
        z = static_cast<float>(stored->zeros[cell]);
      else if (scheme.zero == ZeroKind::Float)
        z = loadFloat(scheme.zeroType,
                      stored->zeros.data() +
                          cell * floatTypeBytes(scheme.zeroType));
      float w = source.values[size_t(n * source.k + k)];
      float value = values[size_t(n * source.k + k)];
      unsigned code =
          packedCode(stored->codes.data() + n * rowBytes, k, element.bits());
      ASSERT_TRUE(element.isUsed(code));
      auto valueOf = [&](unsigned code) {
        float v = element.decode(code);
        if (scheme.zero == ZeroKind::Integer)
          return s * (v - z);
        return scheme.zero == ZeroKind::Float ? s * v + z : s * v;
      };
      ASSERT_EQ(value, valueOf(code));
      ASSERT_TRUE(std::isfinite(value));
      if (s == 0) {
        ASSERT_EQ(value, scheme.zero == ZeroKind::Float ? z : 0.0f);
        continue;
      }
      float x = scheme.zero == ZeroKind::Integer ? w / s + z
                : scheme.zero == ZeroKind::Float ? (w - z) / s
                                                 : w / s;
      ASSERT_EQ(code, element.encode(x, scheme.rounding)) << x;
      // And no other code is nearer, in float64 from the stored numbers.
      double slack = 1e-5 * std::fabs(static_cast<double>(s)) *
                         (1 + std::fabs(element.decode(code))) +
                     1e-6 * std::fabs(static_cast<double>(w));
      double error = std::fabs(static_cast<double>(value) - w);
      for (unsigned other = 0; other < element.numCodes(); ++other)
        if (element.isUsed(other)) {
          ASSERT_LE(error,
                    std::fabs(static_cast<double>(valueOf(other)) - w) + slack);
        }
    }
}

static std::vector<ElementFormat> getFormats() {
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
  formats.push_back(makeCodebook({0, 1, -1, 0.25f, 0.5f, -0.5f, -0.25f, 2}));
  formats.push_back(makeCodebook({1, -1}));
  std::vector<float> table(64);
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = std::sin(static_cast<float>(i * i));
  formats.push_back(makeCodebook(table));
  return formats;
}

TEST(GroupQuantizerTest, RandomSchemesAndShapes) {
  std::mt19937 random(17);
  auto pick = [&](auto list) { return list[random() % list.size()]; };
  std::vector<ElementFormat> formats = getFormats();
  std::normal_distribution<float> normal;
  int tested = 0;
  for (int attempt = 0; attempt < 3000; ++attempt) {
    Scheme scheme;
    scheme.element = pick(formats);
    scheme.blockN = pick(std::vector<int64_t>{1, 1, 1, 2, 3, 16, 70, -1});
    scheme.blockK = pick(std::vector<int64_t>{1, 2, 3, 16, 32, 64, 100, -1});
    scheme.scaleType = pick(
        std::vector<FloatType>{FloatType::F16, FloatType::BF16, FloatType::F32,
                               FloatType::F8E8M0FNU, FloatType::F8E4M3FN});
    scheme.zero = pick(std::vector<ZeroKind>{ZeroKind::None, ZeroKind::Integer,
                                             ZeroKind::Float});
    scheme.zeroType = pick(std::vector<FloatType>{
        FloatType::F16, FloatType::BF16, FloatType::F32, FloatType::F8E4M3FN});
    scheme.rule = pick(std::vector<ScaleRule>{
        ScaleRule::AbsMaxFull, ScaleRule::AbsMax, ScaleRule::MinMax,
        ScaleRule::AbsMax, ScaleRule::MinMax, ScaleRule::Mse});
    scheme.rounding = random() % 3 ? Rounding::HalfEven : Rounding::HalfAway;
    if (random() % 5 == 0) {
      auto inner = std::make_shared<Scheme>();
      inner->element = pick(formats);
      inner->blockN = pick(std::vector<int64_t>{1, 4, -1});
      inner->blockK = pick(std::vector<int64_t>{1, 8, -1});
      inner->scaleType = random() % 2 ? FloatType::F32 : FloatType::F16;
      scheme.scaleScheme = inner;
    }
    if (!verifyScheme(scheme).ok())
      continue;
    ++tested;
    int64_t n = 1 + static_cast<int64_t>(random() % 20);
    int64_t k = 1 + static_cast<int64_t>(random() % 150);
    std::vector<float> values(static_cast<size_t>(n * k));
    float offset = random() % 4 ? 0.0f : 3.0f;
    float spread = std::exp2(static_cast<float>(random() % 12) - 8.0f);
    bool coarse = random() % 3 == 0; // many exact ties
    for (float &value : values) {
      value = spread * (normal(random) + offset);
      if (coarse)
        value = std::nearbyint(value / spread * 2) * spread / 2;
      if (random() % 50 == 0)
        value = random() % 2 ? 0.0f : -0.0f;
    }
    SourceType type = pick(std::vector<SourceType>{
        SourceType::F32, SourceType::F16, SourceType::BF16});
    check(Source(type, n, k, values), scheme);
    if (HasFatalFailure())
      return;
  }
  EXPECT_GT(tested, 900);
}

TEST(GroupQuantizerTest, SameForAnyThreadCount) {
  std::mt19937 random(19);
  std::normal_distribution<float> normal;
  std::vector<float> values(size_t(131) * 257);
  for (float &value : values)
    value = normal(random);
  Source source(SourceType::F16, 131, 257, values);
  for (int64_t blockN : {1, 3, 128, -1})
    for (ScaleRule rule : {ScaleRule::AbsMax, ScaleRule::Mse})
      for (bool recursive : {false, true}) {
        Scheme scheme;
        scheme.blockN = blockN;
        scheme.blockK = 60;
        scheme.rule = rule;
        if (recursive) {
          auto inner = std::make_shared<Scheme>();
          inner->element = makeElement(ElementKind::F8E4M3FN);
          scheme.scaleScheme = inner;
        }
        Result<QuantizedMatrix> one = quantize(source.view(), scheme, "w", 1);
        ASSERT_TRUE(one.ok());
        for (int threads : {2, 3, 16, 500}) {
          Result<QuantizedMatrix> other =
              quantize(source.view(), scheme, "w", threads);
          ASSERT_TRUE(other.ok());
          EXPECT_EQ(one->codes, other->codes);
          EXPECT_EQ(one->scales, other->scales);
          EXPECT_EQ(one->scaleCodes, other->scaleCodes);
        }
      }
}

//===----------------------------------------------------------------------===//
// Rules
//===----------------------------------------------------------------------===//

static double getMse(const Source &source, const Scheme &scheme) {
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
  EXPECT_TRUE(stored.ok()) << stored.message();
  Result<ErrorMetrics> errors =
      computeErrors(source.view(), stored->view(), scheme, 1);
  EXPECT_TRUE(errors.ok());
  return errors->mse;
}

TEST(GroupQuantizerTest, RulesDifferByTheirDivisor) {
  Source source(SourceType::F32, 1, 2, {-8, 8});
  Scheme scheme;
  scheme.rule = ScaleRule::AbsMaxFull;
  Result<QuantizedMatrix> full = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(loadFloat(FloatType::F16, full->scales.data()), 1.0f);
  EXPECT_EQ(full->codes, std::vector<uint8_t>{0x78}); // +8 saturates to 7
  scheme.rule = ScaleRule::AbsMax;
  Result<QuantizedMatrix> absMax = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(absMax.ok());
  EXPECT_EQ(loadFloat(FloatType::F16, absMax->scales.data()),
            f16ToFloat(floatToF16(8.0f / 7)));
  EXPECT_EQ(absMax->codes, std::vector<uint8_t>{0x79});
}

TEST(GroupQuantizerTest, RoundingDecidesTies) {
  Source source(SourceType::F32, 1, 5, {7, 0.5f, 1.5f, -0.5f, -2.5f});
  Scheme scheme;
  Result<QuantizedMatrix> even = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(even.ok());
  EXPECT_EQ(even->codes, (std::vector<uint8_t>{0x07, 0x02, 0x0e}));
  scheme.rounding = Rounding::HalfAway;
  Result<QuantizedMatrix> away = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(away.ok());
  EXPECT_EQ(away->codes, (std::vector<uint8_t>{0x17, 0xf2, 0x0d}));
}

TEST(GroupQuantizerTest, IntegerZero) {
  Source source(SourceType::F32, 1, 4, {-5, 10, 0, 2.6f});
  Scheme scheme;
  scheme.element = makeElement(ElementKind::UInt, 4);
  scheme.zero = ZeroKind::Integer;
  scheme.rule = ScaleRule::MinMax;
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->zeros, std::vector<uint8_t>{5});
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0xf0, 0x85}));
  // A range without 0 is extended to it: the zero stays a code.
  Source positive(SourceType::F32, 1, 2, {5, 6});
  stored = quantize(positive.view(), scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->zeros, std::vector<uint8_t>{0});
  EXPECT_EQ(stored->codes, std::vector<uint8_t>{0xfd});
}

TEST(GroupQuantizerTest, FloatZeroUsesTheRangeAsItIs) {
  Source source(SourceType::F32, 1, 4, {100, 115, 107.4f, 108});
  Scheme scheme;
  scheme.element = makeElement(ElementKind::UInt, 4);
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(loadFloat(FloatType::F16, stored->zeros.data()), 100.0f);
  EXPECT_EQ(loadFloat(FloatType::F16, stored->scales.data()), 1.0f);
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0xf0, 0x87}));
}

TEST(GroupQuantizerTest, MicroscalingFacts) {
  // absmax 6: exponent floor(log2 6) - 2 = 0, code of 6; absmax 7 saturates
  // to 6.
  Scheme scheme;
  scheme.element = makeElement(ElementKind::F4E2M1FN);
  scheme.blockK = 32;
  scheme.scaleType = FloatType::F8E8M0FNU;
  for (float largest : {6.0f, 7.0f}) {
    Source source(SourceType::F32, 1, 3, {largest, -1.0f, 2.5f});
    Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
    ASSERT_TRUE(stored.ok());
    EXPECT_EQ(stored->scales, std::vector<uint8_t>{127});
    EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0xa7, 0x04}));
  }
  // MXINT8: exponent floor(log2 a) - 6.
  scheme.element = makeElement(ElementKind::Int, 8);
  Source source(SourceType::F32, 1, 1, {1.984375f});
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->scales, std::vector<uint8_t>{127 - 6});
  EXPECT_EQ(stored->codes, std::vector<uint8_t>{127});
  EXPECT_DOUBLE_EQ(getBitsPerWeight(scheme, 4, 64), 8.25);
}

TEST(GroupQuantizerTest, NVFP4IsARecursiveScheme) {
  Scheme scheme;
  scheme.element = makeElement(ElementKind::F4E2M1FN);
  scheme.blockK = 16;
  auto inner = std::make_shared<Scheme>();
  inner->element = makeElement(ElementKind::F8E4M3FN);
  inner->blockN = -1;
  inner->scaleType = FloatType::F32;
  scheme.scaleScheme = inner;
  std::mt19937 random(23);
  std::normal_distribution<float> normal;
  std::vector<float> values(8 * 64);
  for (float &value : values)
    value = normal(random);
  Source source(SourceType::F32, 8, 64, values);
  Result<QuantizedMatrix> stored = quantize(source.view(), scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  float largest = 0;
  for (float value : values)
    largest = std::max(largest, std::fabs(value));
  float tensorScale = loadFloat(FloatType::F32, stored->scales.data());
  EXPECT_NEAR(tensorScale, largest / (6 * 448), 1e-6 * tensorScale);
  EXPECT_EQ(stored->scaleCodes.size(), 32u);
  EXPECT_EQ(stored->scales.size(), 4u);
  EXPECT_DOUBLE_EQ(getBitsPerWeight(scheme, 8, 64), 4.5 + 32.0 / 512);
}

TEST(GroupQuantizerTest, MseIsTheBestOfItsCandidates) {
  std::mt19937 random(29);
  std::normal_distribution<float> normal;
  for (const char *name : {"int2", "int4", "nf4", "f4E2M1FN", "uint3"})
    for (bool zero : {false, true}) {
      Scheme scheme;
      scheme.element = *parseElement(name);
      if (scheme.element.kind == ElementKind::UInt && !zero)
        continue;
      scheme.blockK = 64;
      scheme.scaleType = FloatType::F32;
      std::vector<float> values(64);
      for (float &value : values)
        value = normal(random);
      values[5] = 6;
      Source source(SourceType::F32, 1, 64, values);
      Element element = get(scheme.element);
      // Brute force from the definition.
      double best = INFINITY;
      double low = *std::min_element(values.begin(), values.end()), high = 6;
      for (int clip = 0; clip <= 32; ++clip) {
        double ratio = (40 - clip) / 40.0, middle = (low + high) / 2;
        double span =
            static_cast<double>(element.maxValue()) - element.minValue();
        auto s = static_cast<float>(zero ? (high - low) * ratio / span
                                         : high * ratio / element.maxValue());
        float z = zero ? static_cast<float>(middle - (high - low) / 2 * ratio -
                                            static_cast<double>(s) *
                                                element.minValue())
                       : 0.0f;
        double error = 0;
        for (float w : values) {
          float v = element.decode(element.encode((w - z) / s));
          float value = zero ? s * v + z : s * v;
          error += (static_cast<double>(value) - w) *
                   (static_cast<double>(value) - w);
        }
        best = std::min(best, error / 64);
      }
      if (zero) {
        scheme.zero = ZeroKind::Float;
        scheme.zeroType = FloatType::F32;
      }
      scheme.rule = ScaleRule::Mse;
      double mse = getMse(source, scheme);
      EXPECT_NEAR(mse, best, 1e-12) << name;
      scheme.rule = zero ? ScaleRule::MinMax : ScaleRule::AbsMax;
      EXPECT_LE(mse, getMse(source, scheme));
      // Blocks of several rows find the same: the block twice.
      std::vector<float> twice = values;
      twice.insert(twice.end(), values.begin(), values.end());
      scheme.rule = ScaleRule::Mse;
      scheme.blockN = 2;
      EXPECT_NEAR(getMse(Source(SourceType::F32, 2, 64, twice), scheme), best,
                  1e-12);
    }
}

//===----------------------------------------------------------------------===//
// Extreme values
//===----------------------------------------------------------------------===//

static const FloatType allScaleTypes[] = {FloatType::F16, FloatType::BF16,
                                          FloatType::F32, FloatType::F8E8M0FNU,
                                          FloatType::F8E4M3FN};

/// Calls `test` for every element, zero and scale type that fit together.
template <typename Test>
static void forAllSchemes(Test test) {
  for (const ElementFormat &format : getFormats())
    for (ZeroKind zero : {ZeroKind::None, ZeroKind::Integer, ZeroKind::Float})
      for (ScaleRule rule : {ScaleRule::AbsMaxFull, ScaleRule::AbsMax,
                             ScaleRule::MinMax, ScaleRule::Mse})
        for (FloatType scaleType : allScaleTypes) {
          Scheme scheme;
          scheme.element = format;
          scheme.blockK = 4;
          scheme.zero = zero;
          scheme.rule = rule;
          scheme.scaleType = scaleType;
          scheme.zeroType = FloatType::F32;
          if (verifyScheme(scheme).ok())
            test(scheme);
        }
}

/// Quantizes, and checks that no scale and no value is infinite or NaN.
static std::vector<float> roundTrip(const std::vector<float> &values,
                                    const Scheme &scheme) {
  SCOPED_TRACE(schemeName(scheme));
  auto k = static_cast<int64_t>(values.size());
  Result<QuantizedMatrix> stored =
      quantize({values.data(), SourceType::F32, 1, k}, scheme, "w", 1);
  EXPECT_TRUE(stored.ok()) << stored.message();
  unsigned bytes = floatTypeBytes(scheme.scaleType);
  for (size_t i = 0; i < stored->scales.size(); i += bytes)
    EXPECT_TRUE(std::isfinite(loadFloat(scheme.scaleType, &stored->scales[i])));
  std::vector<float> result(values.size());
  Status status = dequantize(*stored, scheme, result.data(), 1);
  EXPECT_TRUE(status.ok()) << status.message();
  for (float value : result)
    EXPECT_TRUE(std::isfinite(value)) << value;
  return result;
}

TEST(GroupQuantizerTest, BlocksOfZerosStayZero) {
  forAllSchemes([](const Scheme &scheme) {
    // A block of zeros between others, of both signs.
    std::vector<float> values = {1, -2, 3, 4, 0, -0.0f, 0, 0, 5, 5, 5, -5};
    std::vector<float> result = roundTrip(values, scheme);
    for (size_t i = 4; i < 8; ++i)
      EXPECT_EQ(result[i], 0.0f) << schemeName(scheme);
  });
}

TEST(GroupQuantizerTest, ExtremeMagnitudesStayFinite) {
  forAllSchemes([](const Scheme &scheme) {
    for (float a : {3.4028234e38f, 1e38f, 7e4f, 1e-6f, 1e-30f, 1e-38f, 1e-45f})
      for (std::vector<float> values :
           {std::vector<float>{a, -a, a / 2, 0}, std::vector<float>{a, a, a, a},
            std::vector<float>{-a, -a / 3, -a / 2, -a},
            std::vector<float>{a}}) {
        std::vector<float> result = roundTrip(values, scheme);
        for (size_t i = 0; i < values.size(); ++i)
          if (scheme.element.kind == ElementKind::Int &&
              scheme.element.bits == 8 && scheme.scaleType == FloatType::F32 &&
              a > 1e-30f && a < 3e38f) {
            EXPECT_NEAR(result[i], values[i], a / 60);
          }
      }
  });
}

TEST(GroupQuantizerTest, SmallScalesAreClampedToTheSmallestPositiveOne) {
  // int4 in f16: 1e-7 / 7 is below half of 2^-24.
  Scheme scheme;
  const float weights[] = {1e-7f, -5e-8f, 0};
  Result<QuantizedMatrix> stored =
      quantize({weights, SourceType::F32, 1, 3}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->scales, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0xf2, 0x00}));
  // And large ones to the largest.
  const float huge[] = {1e38f, -1, 0};
  stored = quantize({huge, SourceType::F32, 1, 3}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->scales, (std::vector<uint8_t>{0xff, 0x7b}));
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0x07, 0x00}));
}

TEST(GroupQuantizerTest, BlocksOfOneElement) {
  std::mt19937 random(31);
  std::normal_distribution<float> normal;
  std::vector<float> values(3 * 7);
  for (float &value : values)
    value = normal(random);
  Scheme scheme;
  scheme.blockK = 1;
  scheme.scaleType = FloatType::F32;
  Source source(SourceType::F32, 3, 7, values);
  check(source, scheme);
  EXPECT_LT(getMse(source, scheme), 1e-12); // the code is 7 or -7
  scheme.blockK = -1;
  Source one(SourceType::BF16, 1, 1, {-3});
  check(one, scheme);
}

TEST(GroupQuantizerTest, NotFiniteWeightsAreNamed) {
  std::vector<float> values(size_t(9) * 33, 1.0f);
  values[4 * 33 + 8] = -INFINITY;
  values[4 * 33 + 20] = NAN;
  values[7 * 33] = NAN;
  for (SourceType type : {SourceType::F32, SourceType::F16, SourceType::BF16}) {
    Source source(type, 9, 33, values);
    for (int threads : {1, 2, 3, 9})
      for (int64_t blockN : {1, 2, -1})
        for (bool zero : {false, true}) {
          Scheme scheme;
          scheme.blockN = blockN;
          if (zero) {
            scheme.element = makeElement(ElementKind::UInt, 4);
            scheme.zero = ZeroKind::Integer;
            scheme.rule = ScaleRule::MinMax;
          }
          Result<QuantizedMatrix> stored =
              quantize(source.view(), scheme, "model.w", threads);
          ASSERT_FALSE(stored.ok());
          EXPECT_EQ(stored.message(),
                    "tensor 'model.w' has -inf at row 4, column 8; expected "
                    "finite weights");
        }
  }
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

static std::string getError(const Scheme &scheme, int64_t n = 4,
                            int64_t k = 4) {
  Status status = verifyScheme(scheme, n, k);
  EXPECT_FALSE(status.ok());
  return status.message();
}

TEST(GroupQuantizerTest, RulesOfSchemes) {
  Scheme valid;
  EXPECT_TRUE(verifyScheme(valid, 4, 4).ok());
  Scheme bad = valid;
  bad.element.bits = 9;
  EXPECT_EQ(getError(bad), "expected an element of 1 to 8 bits but got 9");
  for (int64_t block : {int64_t(0), int64_t(-2), INT64_MIN}) {
    bad = valid;
    bad.blockN = block;
    EXPECT_EQ(getError(bad),
              "expected block sizes of at least 1, or -1 for the "
              "whole dimension, but got [" +
                  std::to_string(block) + ", -1]");
    bad = valid;
    bad.blockK = block;
    EXPECT_FALSE(verifyScheme(bad).ok());
  }
  bad = valid;
  bad.rule = ScaleRule::AbsMaxFull;
  bad.element = makeElement(ElementKind::NF4);
  EXPECT_EQ(getError(bad), "expected an element intN with rule absmax_full but "
                           "got nf4; use absmax");
  bad.element = makeElement(ElementKind::Int, 4);
  bad.zero = ZeroKind::Integer;
  EXPECT_EQ(getError(bad),
            "expected no zero with rule absmax_full; use minmax or mse");
  bad.rule = ScaleRule::AbsMax;
  EXPECT_EQ(getError(bad),
            "expected no zero with rule absmax; use minmax or mse");
  bad = valid;
  bad.element = makeElement(ElementKind::Int, 1);
  EXPECT_EQ(getError(bad), "expected an element with a positive value for rule "
                           "absmax but got int1; use absmax_full");
  bad.rule = ScaleRule::Mse;
  EXPECT_FALSE(verifyScheme(bad).ok());
  bad = valid;
  bad.rule = ScaleRule::MinMax;
  EXPECT_EQ(getError(bad),
            "expected an integer or float zero with rule minmax; "
            "use absmax for a symmetric scheme");
  bad.zero = ZeroKind::Integer;
  bad.element = makeElement(ElementKind::F4E2M1FN);
  EXPECT_EQ(getError(bad), "expected an element uintN with an integer zero but "
                           "got f4E2M1FN; use a float zero");
  bad.element = makeElement(ElementKind::Int, 5);
  EXPECT_EQ(getError(bad), "expected an element uintN with an integer zero but "
                           "got int5; use uint5");
  bad.zero = ZeroKind::Float;
  bad.zeroType = FloatType::F8E8M0FNU;
  EXPECT_EQ(getError(bad), "expected a zero of type f16, bf16, f32 or f8E4M3FN "
                           "but got f8E8M0FNU, which has no sign and no 0");
  bad.zeroType = FloatType::F16;
  bad.element = makeCodebook({1, 1});
  EXPECT_EQ(getError(bad),
            "expected an element with two different values for a "
            "float zero but got codebook<1, [1, 1]>");
  bad = valid;
  bad.element = makeElement(ElementKind::NF4);
  bad.rounding = Rounding::HalfAway;
  EXPECT_EQ(getError(bad),
            "expected rounding half_even with element nf4, which has its own "
            "rule for ties; half_away is for integers");
  bad = valid;
  bad.element = makeCodebook({1, -1});
  bad.scaleType = FloatType::F8E8M0FNU;
  EXPECT_EQ(getError(bad),
            "expected a scale that can be 0 with element codebook<1, [1, -1]>, "
            "which has no value 0: a block of zeros could not be stored; use "
            "scale type f16, bf16 or f32");

  auto inner = std::make_shared<Scheme>();
  inner->zero = ZeroKind::Integer;
  inner->rule = ScaleRule::MinMax;
  bad = valid;
  bad.scaleScheme = inner;
  EXPECT_EQ(getError(bad), "expected a scale scheme without zero");
  inner = std::make_shared<Scheme>();
  inner->blockN = 0;
  bad.scaleScheme = inner;
  EXPECT_EQ(getError(bad),
            "scale scheme: expected block sizes of at least 1, or -1 for the "
            "whole dimension, but got [0, -1]");
  inner = std::make_shared<Scheme>();
  inner->scaleScheme = std::make_shared<Scheme>();
  bad.scaleScheme = inner;
  EXPECT_EQ(getError(bad),
            "expected a scale scheme with a floating-point scale but its scale "
            "is again a scheme; only one level is supported");

  for (auto [n, k] : {std::pair<int64_t, int64_t>{0, 4}, {4, 0}, {-1, 4}})
    EXPECT_EQ(
        getError(valid, n, k),
        "expected a matrix with at least one row and one column but got " +
            std::to_string(n) + "x" + std::to_string(k));
  EXPECT_FALSE(verifyScheme(valid, INT64_MAX, 2).ok());
  EXPECT_FALSE(verifyScheme(valid, int64_t(1) << 31, int64_t(1) << 31).ok());
  EXPECT_EQ(
      quantize({nullptr, SourceType::F32, 0, 0}, valid, "x", 1).message(),
      "tensor 'x': expected a matrix with at least one row and one column "
      "but got 0x0");
}

TEST(GroupQuantizerTest, StorageIsChecked) {
  const float weights[] = {1, 2, 3, 4};
  Scheme scheme;
  scheme.element = makeElement(ElementKind::UInt, 3);
  scheme.zero = ZeroKind::Integer;
  scheme.rule = ScaleRule::MinMax;
  Result<QuantizedMatrix> stored =
      quantize({weights, SourceType::F32, 2, 2}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  float values[4];
  QuantizedMatrix bad = *stored;
  bad.codes.pop_back();
  EXPECT_EQ(dequantize(bad, scheme, values, 1).message(),
            "expected 2 bytes in component 'codes' of a 2x2 weight but got 1");
  bad = *stored;
  bad.scales.push_back(0);
  EXPECT_EQ(dequantize(bad, scheme, values, 1).message(),
            "expected 4 bytes in component 'scales' of a 2x2 weight but got 5");
  bad = *stored;
  bad.zeros.clear();
  EXPECT_FALSE(dequantize(bad, scheme, values, 1).ok());
  bad = *stored;
  bad.zeros[1] = 8;
  EXPECT_EQ(dequantize(bad, scheme, values, 1).message(),
            "expected zeros between 0 and 7 but zero 1 is 8");
}

TEST(GroupQuantizerTest, Components) {
  Scheme scheme;
  scheme.blockK = 64;
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  auto inner = std::make_shared<Scheme>();
  inner->element = makeElement(ElementKind::UInt, 6);
  inner->blockN = 4;
  scheme.scaleScheme = inner;
  std::vector<ComponentInfo> components = getComponents(scheme, 10, 200);
  ASSERT_EQ(components.size(), 4u);
  const struct {
    const char *suffix;
    int64_t rows, columns, bytes;
  } expected[] = {{".codes", 10, 100, 1000},
                  {".scales.codes", 10, 3, 30}, // 4 codes of 6 bits
                  {".scales.scales", 3, 1, 6},
                  {".zeros", 10, 4, 80}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_STREQ(components[i].suffix, expected[i].suffix);
    EXPECT_EQ(components[i].rows, expected[i].rows);
    EXPECT_EQ(components[i].columns, expected[i].columns);
    EXPECT_EQ(components[i].bytes, expected[i].bytes);
  }
  EXPECT_DOUBLE_EQ(getBitsPerWeight(scheme, 10, 200), 8.0 * 1116 / 2000);
  Scheme plain;
  plain.blockK = 128;
  EXPECT_DOUBLE_EQ(getBitsPerWeight(plain, 4096, 4096), 4.125);

  // LoRC: 16 r (N + K) / (N K) bits more.
  plain.lowRank = 8;
  EXPECT_DOUBLE_EQ(getBitsPerWeight(plain, 4096, 4096), 4.125 + 0.0625);
  components = getComponents(plain, 10, 256);
  ASSERT_EQ(components.size(), 4u);
  EXPECT_STREQ(components[2].suffix, ".low_rank.a");
  EXPECT_EQ(components[2].rows, 10);
  EXPECT_EQ(components[2].columns, 8);
  EXPECT_STREQ(components[3].suffix, ".low_rank.b");
  EXPECT_EQ(components[3].rows, 8);
  EXPECT_EQ(components[3].bytes, 8 * 256 * 2);
  EXPECT_EQ(verifyScheme(plain, 7, 256).message(),
            "expected the rank of low_rank to be at most 7 for a 7x256 weight "
            "but got 8");
  plain.lowRank = -1;
  EXPECT_FALSE(verifyScheme(plain).ok());
}

//===----------------------------------------------------------------------===//
// Instruction sets
//===----------------------------------------------------------------------===//

TEST(KernelsTest, EncodersAgreeWithTheDefinition) {
  std::mt19937 random(37);
  const int64_t count = 5000;
  for (const Kernels *kernels :
       {getBaselineKernels(), getAVX2Kernels(), getAVX512Kernels()}) {
    if (!kernels)
      continue;
    for (const ElementFormat &format : getFormats()) {
      Element element = get(format);
      std::vector<float> row(count);
      for (size_t i = 0; i < row.size(); ++i) {
        if (i % 3 == 0) { // a tie or next to it
          unsigned a = random() % element.numCodes();
          unsigned b = random() % element.numCodes();
          if (!element.isUsed(a) || !element.isUsed(b))
            a = b = element.zeroCode();
          row[i] = (element.decode(a) + element.decode(b)) / 2;
          if (i % 9 == 0)
            row[i] = std::nextafter(row[i], i % 2 ? 1e9f : -1e9f);
        } else {
          row[i] = floatFromBits(random());
          if (!std::isfinite(row[i]))
            row[i] = i % 2 ? INFINITY : -INFINITY;
          else if (i % 3 == 1)
            row[i] = std::fmod(row[i], 600.0f);
        }
      }
      float scale = 1;
      RowParameters parameters{count, count, &scale, nullptr, nullptr};
      std::vector<uint8_t> codes(count);
      for (Rounding rounding : {Rounding::HalfEven, Rounding::HalfAway}) {
        if (element.isInteger())
          kernels->encodeInt(row.data(), parameters, element.minValue(),
                             element.maxValue(), rounding == Rounding::HalfAway,
                             static_cast<uint8_t>(element.numCodes() - 1),
                             codes.data());
        else if (const SmallFloat *small = getSmallFloat(format.kind))
          kernels->encodeSmallFloat(row.data(), parameters, small->exponentBits,
                                    small->mantissaBits, small->bias,
                                    element.maxValue(), 0, codes.data());
        else
          kernels->encodeTable(row.data(), parameters, element.bits(),
                               element.thresholds().data(),
                               element.order().data(), 0, codes.data());
        for (size_t i = 0; i < row.size(); ++i)
          ASSERT_EQ(codes[i], element.encode(row[i], rounding))
              << elementName(format) << " " << row[i];
      }
    }
  }
}

/// How kernels get the nearest value of an element.
static NearestValue getNearest(const Element &element, Rounding rounding,
                               std::vector<float> &sortedValues) {
  NearestValue nearest = {};
  nearest.low = element.minValue();
  nearest.high = element.maxValue();
  nearest.halfAway = rounding == Rounding::HalfAway;
  nearest.bits = element.bits();
  if (element.isInteger()) {
    nearest.kind = NearestValue::Integer;
  } else if (const SmallFloat *small = getSmallFloat(element.kind())) {
    nearest.kind = NearestValue::SmallFloat;
    nearest.mantissaBits = small->mantissaBits;
    nearest.bias = small->bias;
  } else {
    nearest.kind = NearestValue::Table;
    nearest.thresholds = element.thresholds().data();
    for (uint8_t code : element.order())
      sortedValues.push_back(element.decode(code));
    nearest.values = sortedValues.data();
  }
  return nearest;
}

TEST(KernelsTest, ErrorsOfCandidatesAgreeWithTheDefinition) {
  std::mt19937 random(43);
  std::normal_distribution<float> normal;
  const int64_t numRows = 3, stride = 700;
  std::vector<float> rows(numRows * stride);
  for (float &value : rows)
    value = normal(random);
  // A tail to clip; and zeros, so that ties between candidates occur.
  for (size_t i = 0; i < rows.size(); i += 97)
    rows[i] *= 5;
  std::fill(rows.begin(), rows.begin() + 20, 0.0f);

  for (const ElementFormat &format : getFormats()) {
    Element element = get(format);
    for (ZeroKind zero : {ZeroKind::None, ZeroKind::Integer, ZeroKind::Float}) {
      if (zero == ZeroKind::Integer && format.kind != ElementKind::UInt)
        continue;
      for (Rounding rounding : {Rounding::HalfEven, Rounding::HalfAway}) {
        if (rounding == Rounding::HalfAway && !element.isInteger())
          continue;
        std::vector<float> sortedValues;
        NearestValue nearest = getNearest(element, rounding, sortedValues);
        const int64_t numCandidates = 33;
        std::vector<float> scales, zeros;
        for (int64_t i = 0; i < numCandidates; ++i) {
          scales.push_back(0.2f * static_cast<float>(numCandidates - i) /
                           element.maxMagnitude());
          zeros.push_back(zero == ZeroKind::Integer
                              ? static_cast<float>(random() % 8)
                              : normal(random) / 4);
        }
        scales[7] = 0;
        scales[20] = scales[12], zeros[20] = zeros[12]; // a tie
        Candidates candidates{numCandidates, scales.data(),
                              zero == ZeroKind::Float ? zeros.data() : nullptr,
                              zero == ZeroKind::Integer ? zeros.data()
                                                        : nullptr};

        for (int64_t count : {1, 2, 15, 16, 33, 300, 600}) {
          // errors[row][candidate] by the definition.
          std::vector<std::vector<double>> errors;
          for (int64_t row = 0; row < numRows; ++row) {
            errors.emplace_back();
            for (int64_t c = 0; c < numCandidates; ++c) {
              float s = scales[c], z = zeros[c], floatZero = 0, intZero = 0;
              (zero == ZeroKind::Float ? floatZero : intZero) =
                  zero == ZeroKind::None ? 0.0f : z;
              double sums[8] = {};
              for (int64_t i = 0; i < count; ++i) {
                float w = rows[row * stride + i];
                float x = s == 0 ? intZero : (w - floatZero) / s + intZero;
                float v = element.decode(element.encode(x, rounding));
                float value = s * (v - intZero) + floatZero;
                double error = static_cast<double>(value) - w;
                sums[i % 8] += error * error;
              }
              double sum = 0;
              for (double part : sums)
                sum += part;
              errors.back().push_back(sum);
            }
          }
          for (const Kernels *kernels :
               {getBaselineKernels(), getAVX2Kernels(), getAVX512Kernels()}) {
            if (!kernels)
              continue;
            for (int64_t row = 0; row < numRows; ++row) {
              std::vector<double> found(numCandidates);
              kernels->squaredErrors(nearest, rows.data() + row * stride, count,
                                     candidates, found.data());
              ASSERT_EQ(found, errors[row])
                  << elementName(format) << " " << count;
            }
            for (int64_t used : {int64_t(1), numRows}) {
              std::vector<double> sums(numCandidates);
              for (int64_t row = 0; row < used; ++row)
                for (int64_t c = 0; c < numCandidates; ++c)
                  sums[c] += errors[row][c];
              for (int64_t hint : {0, 1, 17, 32})
                ASSERT_EQ(kernels->findBest(nearest, rows.data(), used, stride,
                                            count, candidates, hint),
                          std::min_element(sums.begin(), sums.end()) -
                              sums.begin())
                    << elementName(format) << " " << count << " " << hint;
            }
          }
        }
      }
    }
  }
}

TEST(KernelsTest, InstructionSetsAgree) {
  std::mt19937 random(41);
  std::normal_distribution<float> normal;
  const Kernels &baseline = *getBaselineKernels();
  for (const Kernels *kernels : {getAVX2Kernels(), getAVX512Kernels()}) {
    if (!kernels)
      continue;
    for (int64_t count : {1, 7, 64, 100, 577})
      for (int64_t blockK : {1, 3, 16, 64, 1000}) {
        std::vector<float> row(static_cast<size_t>(count));
        for (float &value : row)
          value = normal(random) * (random() % 9 ? 1.0f : 0.0f);
        auto blocks = static_cast<size_t>((count - 1) / blockK + 1);
        std::vector<float> a(blocks), b(blocks), c(blocks), d(blocks);
        EXPECT_EQ(baseline.absMax(row.data(), count, blockK, a.data()),
                  kernels->absMax(row.data(), count, blockK, b.data()));
        EXPECT_EQ(a, b);
        EXPECT_EQ(
            baseline.minMax(row.data(), count, blockK, a.data(), b.data()),
            kernels->minMax(row.data(), count, blockK, c.data(), d.data()));
        EXPECT_EQ(a, c);
        EXPECT_EQ(b, d);
        for (size_t i = 0; i < blocks; ++i) {
          c[i] = std::fabs(normal(random)) / 4 + 0.01f;
          d[i] = std::nearbyint(normal(random));
        }
        Element element = get(makeElement(ElementKind::Int, 4));
        std::vector<uint8_t> codesA(row.size()), codesB(row.size());
        std::vector<float> valuesA(row.size()), valuesB(row.size());
        for (auto [floats, ints] :
             {std::pair<const float *, const float *>{nullptr, nullptr},
              {d.data(), nullptr},
              {nullptr, d.data()}}) {
          RowParameters parameters{count, blockK, c.data(), floats, ints};
          baseline.encodeInt(row.data(), parameters, -8, 7, true, 15,
                             codesA.data());
          kernels->encodeInt(row.data(), parameters, -8, 7, true, 15,
                             codesB.data());
          EXPECT_EQ(codesA, codesB);
          baseline.decode(codesA.data(), parameters, element.table().data(),
                          valuesA.data());
          kernels->decode(codesA.data(), parameters, element.table().data(),
                          valuesB.data());
          EXPECT_EQ(valuesA, valuesB);
        }
        std::vector<uint8_t> packedA(row.size()), packedB(row.size());
        baseline.pack4(codesA.data(), count / 2, packedA.data());
        kernels->pack4(codesA.data(), count / 2, packedB.data());
        EXPECT_EQ(packedA, packedB);
        baseline.unpack4(packedA.data(), count / 2, codesA.data());
        kernels->unpack4(packedA.data(), count / 2, codesB.data());
        EXPECT_EQ(codesA, codesB);
      }
  }
}
