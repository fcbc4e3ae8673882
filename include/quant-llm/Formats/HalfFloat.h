//===- HalfFloat.h - Conversion of 16-bit floats ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Exact conversions between the 16-bit floating-point types of files and float;
// narrowing rounds to the nearest value, ties to even, and overflows to
// infinity. NaN stays NaN (quiet, with its sign).
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_HALFFLOAT_H
#define QUANT_LLM_FORMATS_HALFFLOAT_H

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quant_llm {

inline uint32_t floatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float floatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float bf16ToFloat(uint16_t bits) {
  return floatFromBits(uint32_t(bits) << 16);
}

inline uint16_t floatToBf16(float value) {
  uint32_t bits = floatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>(bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float f16ToFloat(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) { // infinity or NaN
    uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
    return floatFromBits(sign | 0x7f800000u | quiet |
                         ((magnitude & 0x3ffu) << 13));
  }
  if (magnitude < 0x0400u) { // zero or subnormal: a multiple of 2^-24
    float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    return floatFromBits(sign | floatBits(value));
  }
  return floatFromBits(sign | ((magnitude << 13) + 0x38000000u));
}

inline uint16_t floatToF16(float value) {
  uint32_t bits = floatBits(value);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) // NaN
    return static_cast<uint16_t>(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
  if (bits >= 0x477ff000u) // at least 65520, half way to 2^16
    return sign | 0x7c00u;
  if (bits < 0x38800000u) {
    // Subnormal in f16: adding 0.5 makes the adder of the processor round to a
    // multiple of 2^-24, the unit of the last place there.
    float rounded = floatFromBits(bits) + 0.5f;
    return sign | static_cast<uint16_t>(floatBits(rounded) - 0x3f000000u);
  }
  bits += 0xfffu + ((bits >> 13) & 1u);
  return sign | static_cast<uint16_t>((bits - 0x38000000u) >> 13);
}

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_HALFFLOAT_H
