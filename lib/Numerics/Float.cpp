//===- Float.cpp - Small floating-point types, exactly --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Float.h"

#include "Kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// f16 and bf16
//===----------------------------------------------------------------------===//

float quant_llm::f16ToFloat(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  uint32_t exponent = (bits >> 10) & 0x1f;
  uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0x1f) // Infinity, NaN; a signaling NaN becomes quiet.
    return floatFromBits(sign | 0x7f800000 | mantissa << 13 |
                         (mantissa ? 0x00400000 : 0));
  if (exponent != 0)
    return floatFromBits(sign | (exponent + 112) << 23 | mantissa << 13);
  float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return floatFromBits(sign | floatBits(magnitude));
}

uint16_t quant_llm::floatToF16(float value) {
  uint32_t bits = floatBits(value);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));
  if (magnitude >= 0x477ff000) // 65520 and above round to infinity.
    return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14: a multiple of 2^-24. Adding 0.5 makes 2^-24 the last bit of
    // the sum, which the addition rounds to nearest even.
    float sum = floatFromBits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (floatBits(sum) - 0x3f000000));
  }
  uint32_t odd = (magnitude >> 13) & 1;
  uint32_t rounded = magnitude + 0xfff + odd - (112u << 23);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

uint16_t quant_llm::floatToBF16(float value) {
  uint32_t bits = floatBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void quant_llm::f16ToFloat(const void *from, float *to, size_t count) {
  getKernels().f16ToFloat(static_cast<const uint8_t *>(from), to, count);
}

void quant_llm::floatToF16(const float *from, void *to, size_t count) {
  getKernels().floatToF16(from, static_cast<uint8_t *>(to), count);
}

void quant_llm::bf16ToFloat(const void *from, float *to, size_t count) {
  getKernels().bf16ToFloat(static_cast<const uint8_t *>(from), to, count);
}

void quant_llm::floatToBF16(const float *from, void *to, size_t count) {
  getKernels().floatToBF16(from, static_cast<uint8_t *>(to), count);
}

//===----------------------------------------------------------------------===//
// Floating-point types of at most 8 bits
//===----------------------------------------------------------------------===//

const SmallFloat *quant_llm::getSmallFloat(ElementKind kind) {
  // name, exponent bits, mantissa bits, bias, max code, nan code, infinity
  static const SmallFloat f4E2M1FN{"f4E2M1FN", 2, 1, 1, 0x07, 0x00, false};
  static const SmallFloat f6E2M3FN{"f6E2M3FN", 2, 3, 1, 0x1f, 0x00, false};
  static const SmallFloat f6E3M2FN{"f6E3M2FN", 3, 2, 3, 0x1f, 0x00, false};
  static const SmallFloat f8E4M3FN{"f8E4M3FN", 4, 3, 7, 0x7e, 0x7f, false};
  static const SmallFloat f8E5M2{"f8E5M2", 5, 2, 15, 0x7b, 0x7e, true};
  switch (kind) {
  case ElementKind::F4E2M1FN:
    return &f4E2M1FN;
  case ElementKind::F6E2M3FN:
    return &f6E2M3FN;
  case ElementKind::F6E3M2FN:
    return &f6E3M2FN;
  case ElementKind::F8E4M3FN:
    return &f8E4M3FN;
  case ElementKind::F8E5M2:
    return &f8E5M2;
  default:
    return nullptr;
  }
}

float quant_llm::decodeSmallFloat(const SmallFloat &format, uint8_t code) {
  unsigned signBit = format.exponentBits + format.mantissaBits;
  unsigned magnitude = code & ((1u << signBit) - 1);
  unsigned exponent = magnitude >> format.mantissaBits;
  unsigned mantissa = magnitude & ((1u << format.mantissaBits) - 1);
  bool negative = (code >> signBit) & 1;
  float value;
  if (magnitude > format.maxCode)
    value = format.hasInfinity && magnitude == format.maxCode + 1u
                ? std::numeric_limits<float>::infinity()
                : std::numeric_limits<float>::quiet_NaN();
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(mantissa),
                       1 - format.bias - static_cast<int>(format.mantissaBits));
  else
    value =
        std::ldexp(static_cast<float>(mantissa + (1u << format.mantissaBits)),
                   static_cast<int>(exponent) - format.bias -
                       static_cast<int>(format.mantissaBits));
  return std::copysign(value, negative ? -1.0f : 1.0f);
}

uint8_t quant_llm::encodeSmallFloat(const SmallFloat &format, float value) {
  if (std::isnan(value))
    return format.nanCode;
  float largest = decodeSmallFloat(format, format.maxCode);
  float magnitude = std::min(std::fabs(value), largest);
  // The exponent of the number's binade, at least that of the smallest normal
  // one.
  int smallest = 1 - format.bias;
  int exponent =
      magnitude == 0.0f ? smallest : std::max(std::ilogb(magnitude), smallest);
  // In units of the last mantissa bit; exact, then rounded to nearest even.
  double units = std::ldexp(static_cast<double>(magnitude),
                            static_cast<int>(format.mantissaBits) - exponent);
  double floor = std::floor(units);
  double rest = units - floor;
  auto whole = static_cast<unsigned>(floor);
  if (rest > 0.5 || (rest == 0.5 && (whole & 1)))
    ++whole;
  // `whole` has the implicit bit unless the number is subnormal, whose exponent
  // field of 0 means the same as 1. A carry moves on to the next exponent.
  unsigned code = whole + (static_cast<unsigned>(exponent - smallest)
                           << format.mantissaBits);
  unsigned signBit = format.exponentBits + format.mantissaBits;
  return static_cast<uint8_t>(code | (std::signbit(value) ? 1u << signBit : 0));
}

float quant_llm::e8m0ToFloat(uint8_t code) {
  if (code == 255)
    return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, static_cast<int>(code) - 127);
}

uint8_t quant_llm::floatToE8M0(float value) {
  if (std::isnan(value))
    return 255;
  if (!(value > 0.0f))
    return 0;
  if (std::isinf(value))
    return 254;
  int exponent = std::ilogb(value);
  double fraction = std::ldexp(static_cast<double>(value), -exponent); // [1, 2)
  int code = exponent + 127;
  if (fraction >= 1.5)
    ++code;
  return static_cast<uint8_t>(std::max(0, std::min(254, code)));
}

//===----------------------------------------------------------------------===//
// Types of scales and zeros
//===----------------------------------------------------------------------===//

unsigned quant_llm::floatTypeBytes(FloatType type) {
  switch (type) {
  case FloatType::F16:
  case FloatType::BF16:
    return 2;
  case FloatType::F32:
    return 4;
  case FloatType::F8E8M0FNU:
  case FloatType::F8E4M3FN:
    return 1;
  }
  return 0;
}

float quant_llm::loadFloat(FloatType type, const void *from) {
  uint8_t byte;
  uint16_t half;
  float value;
  switch (type) {
  case FloatType::F16:
    std::memcpy(&half, from, sizeof(half));
    return f16ToFloat(half);
  case FloatType::BF16:
    std::memcpy(&half, from, sizeof(half));
    return bf16ToFloat(half);
  case FloatType::F32:
    std::memcpy(&value, from, sizeof(value));
    return value;
  case FloatType::F8E8M0FNU:
    std::memcpy(&byte, from, sizeof(byte));
    return e8m0ToFloat(byte);
  case FloatType::F8E4M3FN:
    std::memcpy(&byte, from, sizeof(byte));
    return decodeSmallFloat(*getSmallFloat(ElementKind::F8E4M3FN), byte);
  }
  return 0.0f;
}

void quant_llm::storeFloat(FloatType type, float value, void *to) {
  if (!std::isnan(value))
    value = std::max(-maxFinite(type), std::min(maxFinite(type), value));
  uint8_t byte = 0;
  uint16_t half = 0;
  switch (type) {
  case FloatType::F16:
    half = floatToF16(value);
    break;
  case FloatType::BF16:
    half = floatToBF16(value);
    break;
  case FloatType::F32:
    std::memcpy(to, &value, sizeof(value));
    return;
  case FloatType::F8E8M0FNU:
    byte = floatToE8M0(value);
    break;
  case FloatType::F8E4M3FN:
    byte = encodeSmallFloat(*getSmallFloat(ElementKind::F8E4M3FN), value);
    break;
  }
  if (floatTypeBytes(type) == 2)
    std::memcpy(to, &half, sizeof(half));
  else
    std::memcpy(to, &byte, sizeof(byte));
}

float quant_llm::maxFinite(FloatType type) {
  switch (type) {
  case FloatType::F16:
    return 65504.0f;
  case FloatType::BF16:
    return 0x1.fep127f;
  case FloatType::F32:
    return std::numeric_limits<float>::max();
  case FloatType::F8E8M0FNU:
    return 0x1p127f;
  case FloatType::F8E4M3FN:
    return 448.0f;
  }
  return 0.0f;
}

float quant_llm::minPositive(FloatType type) {
  switch (type) {
  case FloatType::F16:
    return 0x1p-24f;
  case FloatType::BF16:
    return 0x1p-133f;
  case FloatType::F32:
    return std::numeric_limits<float>::denorm_min();
  case FloatType::F8E8M0FNU:
    return 0x1p-127f;
  case FloatType::F8E4M3FN:
    return 0x1p-9f;
  }
  return 0.0f;
}
