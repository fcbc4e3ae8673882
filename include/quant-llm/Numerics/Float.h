//===- Float.h - Small floating-point types, exactly ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Conversions between binary32 and the narrow types of weights, scales and
// elements. Widening is exact. Narrowing rounds to nearest, ties to even, in
// one step. Sources: IEEE 754-2008 (f16), OCP 8-bit Floating Point
// Specification 1.0 (f8E4M3FN, f8E5M2), OCP Microscaling Formats
// Specification 1.0 (f6*, f4*, f8E8M0FNU).
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_FLOAT_H
#define QUANT_LLM_NUMERICS_FLOAT_H

#include "quant-llm/Numerics/Scheme.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

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

//===----------------------------------------------------------------------===//
// f16 and bf16
//===----------------------------------------------------------------------===//

/// IEEE conversions: overflow becomes infinity, NaN a quiet NaN of the same
/// sign.
float f16ToFloat(uint16_t bits);
uint16_t floatToF16(float value);
inline float bf16ToFloat(uint16_t bits) {
  return floatFromBits(static_cast<uint32_t>(bits) << 16);
}
uint16_t floatToBF16(float value);

/// Converts `count` little-endian numbers; the narrow side needs no alignment.
/// Same results as the scalar functions (NaN payloads aside).
void f16ToFloat(const void *from, float *to, size_t count);
void floatToF16(const float *from, void *to, size_t count);
void bf16ToFloat(const void *from, float *to, size_t count);
void floatToBF16(const float *from, void *to, size_t count);

//===----------------------------------------------------------------------===//
// Floating-point types of at most 8 bits
//===----------------------------------------------------------------------===//

/// A sign-magnitude format: sign, `exponentBits`, `mantissaBits`. An exponent
/// field of 0 is subnormal: value = (-1)^s * 2^(1-bias) * 0.m, else
/// (-1)^s * 2^(e-bias) * 1.m.
struct SmallFloat {
  const char *name;
  unsigned exponentBits;
  unsigned mantissaBits;
  int bias;
  /// Largest magnitude code that is a finite number. Codes above are infinity
  /// and NaN (E5M2) or NaN (E4M3FN); f4 and f6 have none.
  uint8_t maxCode;
  /// The code that NaN is encoded to: a NaN where the format has one, else 0.
  uint8_t nanCode;
  bool hasInfinity;

  unsigned bits() const { return 1 + exponentBits + mantissaBits; }
};

/// The format of one of the kinds F4E2M1FN .. F8E5M2; null for other kinds.
const SmallFloat *getSmallFloat(ElementKind kind);

/// Exact value of a code; bits above the format's width are ignored.
float decodeSmallFloat(const SmallFloat &format, uint8_t code);

/// Nearest code, ties to the even code, saturating: a magnitude above the
/// largest finite number, infinity included, becomes that number. The sign of
/// zero is kept. NaN becomes `format.nanCode`.
uint8_t encodeSmallFloat(const SmallFloat &format, float value);

/// f8E8M0FNU: 2^(code-127), 255 is NaN; no sign, no zero.
float e8m0ToFloat(uint8_t code);
/// Nearest power of two by value, clamped to [2^-127, 2^127]; a tie, 1.5 * 2^e,
/// goes up (its significand would be rounded to the even 2). Zero and negative
/// numbers become 2^-127, NaN becomes 255.
uint8_t floatToE8M0(float value);

//===----------------------------------------------------------------------===//
// Types of scales and zeros
//===----------------------------------------------------------------------===//

/// Bytes of one number.
unsigned floatTypeBytes(FloatType type);

/// Reads one little-endian number; `from` needs no alignment.
float loadFloat(FloatType type, const void *from);
/// Writes the nearest number, clamped to the finite numbers of the type (NaN
/// stays NaN). For F8E8M0FNU see floatToE8M0.
void storeFloat(FloatType type, float value, void *to);

/// Largest finite and smallest positive number of the type.
float maxFinite(FloatType type);
float minPositive(FloatType type);

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_FLOAT_H
