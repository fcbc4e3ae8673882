//===- PackWeightTest.cpp -------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {

using Random = std::mt19937_64;

int64_t pick(Random &random, const std::vector<int64_t> &values) {
  return values[random() % values.size()];
}

/// Random codes, scales and zeros: every code and any magnitude of scale, with
/// which packing must be exact.
QuantizedMatrix makeMatrix(const Scheme &scheme, int64_t n, int64_t k,
                           Random &random, int scaleExponents = 6) {
  QuantizedMatrix matrix;
  matrix.n = n;
  matrix.k = k;
  int base = int(random() % 8) - 6;
  auto fillFloats = [&](FloatType type, std::vector<uint8_t> &bytes) {
    unsigned width = floatTypeBytes(type);
    for (size_t i = 0; i + width <= bytes.size(); i += width) {
      // Three significant bits are exact in every type but f8E8M0FNU.
      float value = std::ldexp(float(4 + random() % 4) / 4,
                               base + int(random() % uint64_t(scaleExponents)));
      if (type != FloatType::F8E8M0FNU && random() % 50 == 0)
        value = 0;
      if (type != FloatType::F8E8M0FNU && random() % 10 == 0)
        value = -value;
      storeFloat(type, value, bytes.data() + i);
    }
  };
  auto fillCodes = [&](std::vector<uint8_t> &bytes, int64_t rows,
                       int64_t columns, const ElementFormat &format) {
    unsigned bits = format.bits;
    std::vector<uint8_t> codes(static_cast<size_t>(columns));
    for (int64_t row = 0; row < rows; ++row) {
      for (uint8_t &code : codes) {
        code = uint8_t(random() & ((1u << bits) - 1));
        // NaN is no scale.
        if (format.kind == ElementKind::F8E4M3FN && (code & 0x7f) == 0x7f)
          code = 0;
      }
      packRow(codes.data(), columns, bits,
              bytes.data() + row * packedRowBytes(columns, bits));
    }
  };
  BlockGrid grid = getBlockGrid(scheme, n, k);
  for (const ComponentInfo &info : getComponents(scheme, n, k)) {
    std::vector<uint8_t> bytes(static_cast<size_t>(info.bytes));
    switch (info.kind) {
    case ComponentKind::Codes:
      fillCodes(bytes, n, k, scheme.element);
      matrix.codes = bytes;
      break;
    case ComponentKind::ScaleCodes:
      fillCodes(bytes, grid.gridN, grid.gridK, scheme.scaleScheme->element);
      matrix.scaleCodes = bytes;
      break;
    case ComponentKind::Scales:
    case ComponentKind::ScaleScales:
      fillFloats(info.type, bytes);
      matrix.scales = bytes;
      break;
    case ComponentKind::Zeros:
      if (info.isBytes) {
        for (uint8_t &zero : bytes)
          zero = uint8_t(random() & ((1u << scheme.element.bits) - 1));
      } else {
        fillFloats(info.type, bytes);
      }
      matrix.zeros = bytes;
      break;
    case ComponentKind::LowRankA:
    case ComponentKind::LowRankB:
      ADD_FAILURE() << "no layout has low-rank parts";
      break;
    }
  }
  return matrix;
}

ElementFormat pickElement(Random &random) {
  switch (random() % 9) {
  case 0:
  case 1:
    return makeElement(ElementKind::Int, 1 + unsigned(random() % 8));
  case 2:
  case 3:
    return makeElement(ElementKind::UInt, 1 + unsigned(random() % 8));
  case 4:
    return makeElement(ElementKind::Ternary);
  case 5:
    return makeElement(ElementKind::NF4);
  case 6: {
    std::vector<float> table(size_t(1) << (1 + random() % 8));
    for (float &value : table)
      value = float(int(random() % 1000) - 500) / 64;
    table.front() = -1;
    return makeCodebook(table);
  }
  default:
    const ElementKind floats[] = {ElementKind::F4E2M1FN, ElementKind::F6E2M3FN,
                                  ElementKind::F6E3M2FN, ElementKind::F8E4M3FN,
                                  ElementKind::F8E5M2};
    return makeElement(floats[random() % 5]);
  }
}

FloatType pickType(Random &random) {
  const FloatType types[] = {FloatType::F16, FloatType::BF16, FloatType::F32,
                             FloatType::F8E4M3FN, FloatType::F8E8M0FNU};
  return types[random() % 5];
}

/// A scheme that is legal and that can be packed.
Scheme pickScheme(Random &random, int64_t n, int64_t k) {
  while (true) {
    Scheme scheme;
    scheme.element = pickElement(random);
    scheme.blockN = pick(random, {1, 1, 1, 2, 3, 16, 100, -1});
    scheme.blockK = pick(random, {16, 24, 32, 64, 100, 128, -1, 1, 3});
    scheme.scaleType = pickType(random);
    switch (random() % 4) {
    case 0:
      scheme.zero = ZeroKind::Integer;
      break;
    case 1:
      scheme.zero = ZeroKind::Float;
      scheme.zeroType = pickType(random);
      break;
    default:
      break;
    }
    scheme.rule =
        scheme.zero == ZeroKind::None ? ScaleRule::AbsMax : ScaleRule::MinMax;
    if (random() % 4 == 0) {
      Scheme inner;
      inner.element = random() % 2 ? makeElement(ElementKind::F8E4M3FN)
                                   : makeElement(ElementKind::UInt, 6);
      inner.blockN = pick(random, {-1, -1, 1, 4});
      inner.blockK = pick(random, {-1, -1, 8});
      inner.scaleType = pickType(random);
      scheme.scaleScheme = std::make_shared<const Scheme>(inner);
    }
    if (FragmentLayout::get(scheme, n, k).ok())
      return scheme;
  }
}

/// Packs and unpacks, and compares everything with the index maps and the
/// matrix.
void checkPacking(const QuantizedMatrix &matrix, const Scheme &scheme) {
  SCOPED_TRACE(schemeName(scheme) + " of " + std::to_string(matrix.n) + "x" +
               std::to_string(matrix.k));
  Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok()) << packed.message();
  Result<FragmentLayout> layout =
      FragmentLayout::get(scheme, matrix.n, matrix.k);
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(packed->inexactScales, 0);
  ASSERT_EQ(packed->inexactZeros, 0);

  // Sizes.
  for (const PackedComponentInfo &info : layout->getComponents()) {
    if (info.kind == PackedComponentKind::Codes) {
      ASSERT_EQ(int64_t(packed->codes.size()), info.bytes);
    } else if (info.kind == PackedComponentKind::Scales) {
      ASSERT_EQ(int64_t(packed->scales.size()), info.bytes);
    } else if (info.kind == PackedComponentKind::Zeros) {
      ASSERT_EQ(int64_t(packed->zeros.size()), info.bytes);
    }
  }

  // Codes, bit by bit.
  Result<Element> element = Element::get(scheme.element);
  ASSERT_TRUE(element.ok());
  BlockGrid grid = getBlockGrid(scheme, matrix.n, matrix.k);
  bool isSigned = scheme.element.kind == ElementKind::Int ||
                  scheme.element.kind == ElementKind::Ternary;
  unsigned bits = element->bits();
  int64_t rowBytes = packedRowBytes(matrix.k, bits);
  for (int64_t row = 0; row < 16 * layout->getNumStrips(); ++row)
    for (int64_t column = 0; column < 128 * layout->getNumUnits(); ++column) {
      unsigned stored = 0;
      for (unsigned bit = 0; bit < bits; ++bit) {
        FragmentLayout::PackedBit at = layout->getPackedBit({row, column, bit});
        stored |= ((packed->codes[size_t(at.byte)] >> at.bit) & 1u) << bit;
      }
      if (row < matrix.n && column < matrix.k) {
        unsigned code =
            packedCode(matrix.codes.data() + row * rowBytes, column, bits);
        if (isSigned) {
          // Offset binary.
          ASSERT_EQ(float(stored) - float(1u << (bits - 1)),
                    element->decode(code));
        } else {
          ASSERT_EQ(stored, code);
        }
        continue;
      }
      // Padding is zero, if the format has one.
      if (scheme.zero == ZeroKind::Integer && row < matrix.n &&
          !layout->hasColumnScales()) {
        ASSERT_EQ(stored, matrix.zeros[size_t(row / grid.blockN * grid.gridK +
                                              grid.gridK - 1)]);
      } else if (isSigned) {
        ASSERT_EQ(stored, 1u << (bits - 1));
      } else if (element->hasZero()) {
        ASSERT_EQ(element->decode(stored), 0.0f);
      } else {
        ASSERT_EQ(stored, 0u);
      }
    }

  // Scales: what they multiply with is the value of the scheme.
  std::vector<float> scales(static_cast<size_t>(grid.gridN * grid.gridK));
  if (scheme.scaleScheme) {
    QuantizedMatrix inner;
    inner.n = grid.gridN;
    inner.k = grid.gridK;
    inner.codes = matrix.scaleCodes;
    inner.scales = matrix.scales;
    ASSERT_TRUE(dequantize(inner, *scheme.scaleScheme, scales.data(), 1).ok());
  } else {
    for (size_t i = 0; i < scales.size(); ++i)
      scales[i] =
          loadFloat(scheme.scaleType, matrix.scales.data() +
                                          i * floatTypeBytes(scheme.scaleType));
  }
  float largest = 0;
  for (int64_t index = 0; index < layout->getNumScales(); ++index) {
    FragmentLayout::ScaleCell cell = layout->getScaleCell(index);
    FloatType type = layout->getScaleType();
    float stored =
        loadFloat(type, packed->scales.data() + index * floatTypeBytes(type));
    bool padding = cell.row >= matrix.n;
    int64_t group = cell.group;
    if (layout->hasColumnScales()) {
      padding = cell.group >= matrix.k;
      group = cell.group / grid.blockK;
    }
    if (padding) {
      ASSERT_EQ(stored,
                type == FloatType::F8E8M0FNU ? std::ldexp(1.0f, -127) : 0.0f);
    } else {
      ASSERT_EQ(stored * packed->outputScale,
                scales[size_t(cell.row / grid.blockN * grid.gridK + group)]);
    }
    largest = std::max(largest, std::fabs(stored));
    if (scheme.zero == ZeroKind::None)
      continue;
    if (scheme.zero == ZeroKind::Integer) {
      ASSERT_EQ(packed->zeros[size_t(index)],
                padding ? 0
                        : matrix.zeros[size_t(
                              cell.row / grid.blockN * grid.gridK + group)]);
      continue;
    }
    type = layout->getZeroType();
    stored =
        loadFloat(type, packed->zeros.data() + index * floatTypeBytes(type));
    float zero =
        padding ? 0.0f
                : loadFloat(scheme.zeroType,
                            matrix.zeros.data() +
                                (cell.row / grid.blockN * grid.gridK + group) *
                                    floatTypeBytes(scheme.zeroType));
    ASSERT_EQ(stored * packed->outputScale, zero);
  }
  if (layout->isShifted() && largest > 0) {
    EXPECT_LT(largest, std::ldexp(1.0f, -6));
    if (scheme.zero != ZeroKind::Float) {
      EXPECT_GE(largest, std::ldexp(1.0f, -7));
    }
  }

  // Back.
  Result<QuantizedMatrix> unpacked =
      unpackWeight(packed->view(), scheme, matrix.n, matrix.k, 1);
  ASSERT_TRUE(unpacked.ok()) << unpacked.message();
  EXPECT_EQ(unpacked->codes, matrix.codes);
  EXPECT_EQ(unpacked->zeros, matrix.zeros);
  Scheme unpackedScheme = getUnpackedScheme(scheme);
  if (unpackedScheme == scheme) {
    EXPECT_EQ(unpacked->scales, matrix.scales);
    EXPECT_EQ(unpacked->scaleCodes, matrix.scaleCodes);
  }
  auto size = static_cast<size_t>(matrix.n * matrix.k);
  std::vector<float> before(size), after(size);
  ASSERT_TRUE(dequantize(matrix, scheme, before.data(), 1).ok());
  ASSERT_TRUE(dequantize(*unpacked, unpackedScheme, after.data(), 1).ok());
  EXPECT_EQ(std::memcmp(before.data(), after.data(), 4 * size), 0);

  // Any number of threads.
  for (int threads : {2, 3, 7}) {
    Result<PackedWeight> again = packWeight(matrix.view(), scheme, threads);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->codes, packed->codes);
    EXPECT_EQ(again->scales, packed->scales);
    EXPECT_EQ(again->zeros, packed->zeros);
    EXPECT_EQ(again->outputScale, packed->outputScale);
    Result<QuantizedMatrix> back =
        unpackWeight(packed->view(), scheme, matrix.n, matrix.k, threads);
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->codes, matrix.codes);
    EXPECT_EQ(back->scales, unpacked->scales);
    EXPECT_EQ(back->zeros, matrix.zeros);
  }
}

Scheme makeInt4(int64_t blockK = 128, FloatType scale = FloatType::F16) {
  Scheme scheme;
  scheme.element = makeElement(ElementKind::Int, 4);
  scheme.blockK = blockK;
  scheme.scaleType = scale;
  return scheme;
}

QuantizedMatrix makeInt4Matrix(const std::vector<float> &scales,
                               const Scheme &scheme) {
  QuantizedMatrix matrix;
  matrix.n = int64_t(scales.size());
  matrix.k = 32;
  matrix.codes.resize(scales.size() * 16);
  unsigned bytes = floatTypeBytes(scheme.scaleType);
  matrix.scales.resize(scales.size() * bytes);
  for (size_t i = 0; i < scales.size(); ++i)
    storeFloat(scheme.scaleType, scales[i], matrix.scales.data() + i * bytes);
  return matrix;
}

} // namespace

TEST(PackWeightTest, EveryWidth) {
  Random random(1);
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (bool isSigned : {true, false})
      for (int64_t n : {1, 17, 64, 172})
        for (int64_t k : {1, 17, 64, 172, 576, 1100}) {
          Scheme scheme = makeInt4(n == 17 ? 128 : -1);
          scheme.element = makeElement(
              isSigned ? ElementKind::Int : ElementKind::UInt, bits);
          scheme.rule = isSigned ? ScaleRule::AbsMaxFull : ScaleRule::AbsMax;
          checkPacking(makeMatrix(scheme, n, k, random), scheme);
          if (HasFatalFailure())
            return;
        }
}

TEST(PackWeightTest, RandomSchemes) {
  Random random(2);
  for (int i = 0; i < 300; ++i) {
    int64_t n = pick(random, {1, 2, 16, 17, 33, 64, 100});
    int64_t k = pick(random, {1, 15, 17, 64, 172, 300, 576});
    Scheme scheme = pickScheme(random, n, k);
    checkPacking(makeMatrix(scheme, n, k, random), scheme);
    if (HasFailure())
      return;
  }
}

TEST(PackWeightTest, QuantizedWeights) {
  Random random(3);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> weights(64 * 576);
  for (float &weight : weights)
    weight = normal(random);
  MatrixView view{weights.data(), SourceType::F32, 64, 576};
  for (FloatType type : {FloatType::F16, FloatType::BF16, FloatType::F32,
                         FloatType::F8E8M0FNU}) {
    Scheme scheme = makeInt4(128, type);
    Result<QuantizedMatrix> matrix = quantize(view, scheme, "w", 1);
    ASSERT_TRUE(matrix.ok()) << matrix.message();
    checkPacking(*matrix, scheme);
  }
}

TEST(PackWeightTest, PowerOfTwo) {
  auto getOutputScale = [](const std::vector<float> &scales, FloatType type) {
    Scheme scheme = makeInt4(128, type);
    Result<PackedWeight> packed =
        packWeight(makeInt4Matrix(scales, scheme).view(), scheme, 1);
    EXPECT_TRUE(packed.ok()) << packed.message();
    return packed->outputScale;
  };
  auto powerOfTwo = [](int exponent) { return std::ldexp(1.0f, exponent); };
  EXPECT_EQ(getOutputScale({1.0f}, FloatType::F16), powerOfTwo(7));
  EXPECT_EQ(getOutputScale({0.99f, 0.25f}, FloatType::F16), powerOfTwo(6));
  EXPECT_EQ(getOutputScale({-0.99f, 0.25f}, FloatType::F16), powerOfTwo(6));
  EXPECT_EQ(getOutputScale({powerOfTwo(-6)}, FloatType::BF16), powerOfTwo(1));
  EXPECT_EQ(getOutputScale({powerOfTwo(-7)}, FloatType::F32), powerOfTwo(0));
  EXPECT_EQ(getOutputScale({powerOfTwo(-24)}, FloatType::F16), powerOfTwo(-17));
  EXPECT_EQ(getOutputScale({0.0f, 0.0f}, FloatType::F16), 1.0f);
  EXPECT_EQ(getOutputScale({100.0f}, FloatType::F8E4M3FN), 1.0f);
  // As far as the output scale itself is a normal number.
  EXPECT_EQ(getOutputScale({powerOfTwo(-140)}, FloatType::F32),
            powerOfTwo(-126));
  EXPECT_EQ(getOutputScale({powerOfTwo(120)}, FloatType::F8E8M0FNU),
            powerOfTwo(127));
}

TEST(PackWeightTest, ZerosStayFinite) {
  Scheme scheme = makeInt4();
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  QuantizedMatrix matrix = makeInt4Matrix({std::ldexp(1.0f, -20)}, scheme);
  matrix.zeros.resize(2);
  storeFloat(FloatType::F16, 60000.0f, matrix.zeros.data());
  checkPacking(matrix, scheme);
  Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok());
  // Not 2^-13, with which the zero would be infinite.
  EXPECT_EQ(packed->outputScale, 1.0f);

  // Nor when it is stored in a type of a larger range: kernels that have
  // activations of f16 add it in f16. Not even without any scale.
  scheme.zeroType = FloatType::F32;
  matrix.zeros.resize(4);
  storeFloat(FloatType::F32, std::ldexp(1.0f, 40), matrix.zeros.data());
  packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok()) << packed.message();
  EXPECT_EQ(packed->outputScale, std::ldexp(1.0f, 25));
  storeFloat(FloatType::F16, 0.0f, matrix.scales.data());
  checkPacking(matrix, scheme);
  packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok()) << packed.message();
  EXPECT_EQ(packed->outputScale, std::ldexp(1.0f, 25));
}

TEST(PackWeightTest, SmallFloatScalesOfF8E5M2) {
  // The largest products would be infinite in f16, the smallest would vanish
  // if all were divided by enough for the largest: scales are shifted.
  Scheme scheme = makeInt4();
  scheme.element = makeElement(ElementKind::F8E5M2);
  scheme.scaleType = FloatType::F8E4M3FN;
  EXPECT_EQ(getPackedScaleType(scheme), FloatType::F16);
  for (float scale : {448.0f, 1.75f, std::ldexp(1.0f, -9)}) {
    QuantizedMatrix matrix;
    matrix.n = matrix.k = 1;
    matrix.codes = {0x3c};
    matrix.scales.resize(1);
    storeFloat(FloatType::F8E4M3FN, scale, matrix.scales.data());
    checkPacking(matrix, scheme);
    Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
    ASSERT_TRUE(packed.ok()) << packed.message();
    EXPECT_EQ(packed->inexactScales, 0);
    EXPECT_EQ(packed->outputScale, std::ldexp(1.0f, std::ilogb(scale) + 7));
  }
}

TEST(PackWeightTest, UnderflowIsCounted) {
  Scheme scheme = makeInt4();
  // 2^-17 more than f16 has below the largest.
  QuantizedMatrix matrix =
      makeInt4Matrix({1.0f, std::ldexp(1.5f, -18), std::ldexp(1.0f, -17),
                      std::ldexp(1.25f, -17), 0.0f},
                     scheme);
  Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 2);
  ASSERT_TRUE(packed.ok()) << packed.message();
  EXPECT_EQ(packed->inexactScales, 2);
  EXPECT_EQ(packed->inexactZeros, 0);
  // Blocks count once, however many rows they have.
  Scheme tall = scheme;
  tall.blockN = 20;
  matrix.n = 100;
  matrix.codes.resize(100 * 16);
  packed = packWeight(matrix.view(), tall, 3);
  ASSERT_TRUE(packed.ok()) << packed.message();
  EXPECT_EQ(packed->inexactScales, 2);

  Scheme e8m0 = makeInt4(128, FloatType::F8E8M0FNU);
  packed = packWeight(
      makeInt4Matrix({1.0f, std::ldexp(1.0f, -121), std::ldexp(1.0f, -120)},
                     e8m0)
          .view(),
      e8m0, 1);
  ASSERT_TRUE(packed.ok()) << packed.message();
  EXPECT_EQ(packed->inexactScales, 1);
}

TEST(PackWeightTest, NotFinite) {
  float inf = std::numeric_limits<float>::infinity();
  float nan = std::numeric_limits<float>::quiet_NaN();
  auto getMessage = [](std::vector<float> scales) {
    Scheme scheme = makeInt4(128, FloatType::F32);
    QuantizedMatrix matrix = makeInt4Matrix(scales, scheme);
    // storeFloat has clamped infinity.
    std::memcpy(matrix.scales.data(), scales.data(), matrix.scales.size());
    return packWeight(matrix.view(), scheme, 2).message();
  };
  EXPECT_EQ(getMessage({1, inf}),
            "expected finite scales but got inf in block (1, 0)");
  EXPECT_EQ(getMessage({1, 2, -inf, nan}),
            "expected finite scales but got -inf in block (2, 0)");
  EXPECT_EQ(getMessage({nan}),
            "expected finite scales but got nan in block (0, 0)");
  EXPECT_EQ(getMessage({std::ldexp(1.0f, 121)}),
            "expected scales below 2^121 but got one of at least 2^121");

  Scheme scheme = makeInt4();
  scheme.zero = ZeroKind::Float;
  scheme.rule = ScaleRule::MinMax;
  QuantizedMatrix matrix = makeInt4Matrix({1}, scheme);
  matrix.zeros = {0x00, 0x7c};
  EXPECT_EQ(packWeight(matrix.view(), scheme, 1).message(),
            "expected finite zeros but got inf in block (0, 0)");

  auto inner = std::make_shared<Scheme>();
  inner->element = makeElement(ElementKind::F8E4M3FN);
  inner->blockN = inner->blockK = -1;
  inner->scaleType = FloatType::F32;
  scheme = makeInt4();
  scheme.scaleScheme = inner;
  matrix.zeros.clear();
  matrix.scaleCodes = {0x7f};
  matrix.scales.assign(4, 0);
  EXPECT_EQ(packWeight(matrix.view(), scheme, 1).message(),
            "expected finite scales but got nan in block (0, 0)");
  matrix.scaleCodes = {0x38};
  std::memcpy(matrix.scales.data(), &inf, 4);
  EXPECT_EQ(packWeight(matrix.view(), scheme, 1).message(),
            "expected a finite scale of the scales but got inf");
}

TEST(PackWeightTest, WrongBuffers) {
  Random random(4);
  Scheme scheme = makeInt4();
  scheme.element = makeElement(ElementKind::UInt, 4);
  scheme.zero = ZeroKind::Integer;
  scheme.rule = ScaleRule::MinMax;
  QuantizedMatrix matrix = makeMatrix(scheme, 20, 200, random);
  QuantizedMatrix damaged = matrix;
  damaged.codes.pop_back();
  EXPECT_EQ(packWeight(damaged.view(), scheme, 1).message(),
            "expected 2000 bytes in component 'codes' of a 20x200 weight but "
            "got 1999");
  damaged = matrix;
  damaged.zeros[3] = 16;
  EXPECT_EQ(packWeight(damaged.view(), scheme, 1).message(),
            "expected zeros between 0 and 15 but zero 3 is 16");

  Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok());
  auto getMessage = [&](PackedView view) {
    return unpackWeight(view, scheme, 20, 200, 1).message();
  };
  EXPECT_EQ(getMessage(packed->view()), "");
  PackedView view = packed->view();
  view.codes.size -= 1;
  EXPECT_EQ(getMessage(view), "expected 8192 bytes in component 'packed' of a "
                              "20x200 weight but got 8191");
  view = packed->view();
  view.scales.size += 1;
  EXPECT_EQ(getMessage(view), "expected 256 bytes in component 'packed_scales' "
                              "of a 20x200 weight but got 257");
  view = packed->view();
  view.zeros.size = 0;
  EXPECT_EQ(getMessage(view), "expected 128 bytes in component 'packed_zeros' "
                              "of a 20x200 weight but got 0");
  for (float scale : {3.0f, 0.0f, -1.0f, 1.0f / 0.0f, std::nanf("")}) {
    view = packed->view();
    view.outputScale = scale;
    EXPECT_EQ(getMessage(view).substr(0, 60),
              "expected a power of two in component 'output_scale' but got ");
  }
  packed->zeros[0] = 200;
  EXPECT_EQ(getMessage(packed->view()),
            "expected zeros between 0 and 15 but zero 0 is 200");

  scheme.blockK = 4;
  EXPECT_EQ(getMessage(packed->view()).substr(0, 39),
            "expected blocks of at least 16 columns,");
}

TEST(PackWeightTest, VerificationFindsEveryDamage) {
  Random random(5);
  for (int i = 0; i < 60; ++i) {
    int64_t n = pick(random, {1, 17, 33});
    int64_t k = pick(random, {1, 17, 172});
    Scheme scheme = pickScheme(random, n, k);
    SCOPED_TRACE(schemeName(scheme) + " of " + std::to_string(n) + "x" +
                 std::to_string(k));
    QuantizedMatrix matrix = makeMatrix(scheme, n, k, random);
    // Padding bits of rows may have any value.
    unsigned used = unsigned(k * scheme.element.bits % 8);
    if (used != 0)
      for (int64_t row = 0; row < n; ++row)
        matrix.codes[size_t((row + 1) * packedRowBytes(k, scheme.element.bits) -
                            1)] |= uint8_t(0xff << used);
    Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
    ASSERT_TRUE(packed.ok()) << packed.message();
    auto getMessage = [&](const PackedWeight &weight) {
      return verifyPackedWeight(weight, matrix.view(), scheme, 2).message();
    };
    ASSERT_EQ(getMessage(*packed), "");

    Result<FragmentLayout> layout = FragmentLayout::get(scheme, n, k);
    int64_t row = int64_t(random() % uint64_t(n)),
            column = int64_t(random() % uint64_t(k));
    PackedWeight damaged = *packed;
    FragmentLayout::PackedBit at = layout->getPackedBit({row, column, 0});
    damaged.codes[size_t(at.byte)] ^= uint8_t(1u << at.bit);
    EXPECT_EQ(getMessage(damaged), "the codes of row " + std::to_string(row) +
                                       " differ after unpacking");
    // The block's first row is what is read back.
    int64_t index = layout->getScaleIndex(
        row / layout->getGrid().blockN * layout->getGrid().blockN, column);
    if (layout->hasColumnScales())
      index = column / layout->getGrid().blockK * layout->getGrid().blockK;
    damaged = *packed;
    // The exponent of every type is in its last byte.
    damaged.scales[size_t((index + 1) * floatTypeBytes(layout->getScaleType()) -
                          1)] ^= 0x08;
    EXPECT_EQ(getMessage(damaged),
              "expected 0 scales to differ after unpacking but got 1");
    if (scheme.zero == ZeroKind::Integer) {
      damaged = *packed;
      damaged.zeros[size_t(index)] ^= 1;
      EXPECT_EQ(getMessage(damaged),
                "expected 0 zeros to differ after unpacking but got 1");
    }
  }
}

TEST(PackWeightTest, VerificationKnowsUnderflow) {
  Scheme scheme = makeInt4();
  QuantizedMatrix matrix =
      makeInt4Matrix({1.0f, std::ldexp(1.25f, -17)}, scheme);
  Result<PackedWeight> packed = packWeight(matrix.view(), scheme, 1);
  ASSERT_TRUE(packed.ok());
  ASSERT_EQ(packed->inexactScales, 1);
  EXPECT_EQ(verifyPackedWeight(*packed, matrix.view(), scheme, 1).message(),
            "");
  packed->inexactScales = 0;
  EXPECT_EQ(verifyPackedWeight(*packed, matrix.view(), scheme, 1).message(),
            "expected 0 scales to differ after unpacking but got 1");
}
