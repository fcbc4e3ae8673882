//===- Element.h - Element formats: codes and their values ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// An element format maps every code 0 .. 2^bits-1 to a value v(code) in
// binary32, and every real number to the code of the nearest value.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_ELEMENT_H
#define QUANT_LLM_NUMERICS_ELEMENT_H

#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

/// The format of a kind; `bits` is used for Int and UInt only (other kinds have
/// their own width; a Codebook is made with its table).
ElementFormat makeElement(ElementKind kind, unsigned bits = 0);
/// A codebook of 2^bits values.
ElementFormat makeCodebook(std::vector<float> table);

/// Errors: a width outside 1..8 or not that of the kind, a codebook whose table
/// does not have 2^bits entries or has one that is not finite, a table on
/// another kind.
Status verifyElement(const ElementFormat &format);

/// Inverse of the cumulative distribution function of N(0,1) for 0 < p < 1, to
/// a relative error of a few 1e-16: Halley's iteration on erfc.
double normalQuantile(double p);

/// The 16 values of nf4 (QLoRA, arXiv:2305.14314, asymmetric so that 0 is
/// exact), computed from normalQuantile: with p = 0.9677083, Q(linspace(p, 0.5,
/// 9)) without the last, -Q(linspace(p, 0.5, 8)) without the last, and 0,
/// ascending, divided by Q(p).
const std::vector<float> &nf4Table();

/// The codebook of 2^bits values (bits 1..6) with the least squared error for
/// N(0,1), divided by the largest one: each value is the mean of what lies
/// nearer to it than to the others (Lloyd, IEEE Trans. Inf. Theory 28(2), 1982;
/// Max, IRE Trans. Inf. Theory 6(1), 1960). Symmetric, without a value 0.
ElementFormat makeNormalCodebook(unsigned bits);

/// A verified element format with its table of values: what quantizers work on.
class Element {
public:
  static Result<Element> get(const ElementFormat &format);

  const ElementFormat &format() const { return desc; }
  ElementKind kind() const { return desc.kind; }
  unsigned bits() const { return desc.bits; }
  unsigned numCodes() const { return 1u << desc.bits; }

  /// v(code), for every code below numCodes(). Codes that encode() never
  /// returns still have a value: 0b10 of ternary is -2, f8E4M3FN and f8E5M2
  /// have NaN and infinity.
  float decode(unsigned code) const { return values[code]; }
  const std::vector<float> &table() const { return values; }

  /// True for the codes that encode() may return.
  bool isUsed(unsigned code) const;

  /// The code of the nearest value, saturating at both ends.
  /// Ties: integers by `rounding` (to even, or away from zero); floating-point
  /// formats to the even code; nf4 and codebooks to the smaller value (and
  /// among equal values to the smallest code). NaN: a NaN code if the format
  /// has one, else the code of encode(0).
  unsigned encode(float value, Rounding rounding = Rounding::HalfEven) const;

  /// Int, UInt or Ternary: codes are integers that a zero can be subtracted
  /// from.
  bool isInteger() const {
    return desc.kind == ElementKind::Int || desc.kind == ElementKind::UInt ||
           desc.kind == ElementKind::Ternary;
  }
  bool isSigned() const { return minimum < 0; }

  /// Smallest and largest value that encode() returns, and the largest
  /// magnitude.
  float minValue() const { return minimum; }
  float maxValue() const { return maximum; }
  float maxMagnitude() const { return -minimum > maximum ? -minimum : maximum; }

  /// floor(log2(maxValue())): the emax of OCP MX; only if maxValue() > 0.
  int maxExponent() const;

  /// True if a code has the value 0; zeroCode() is that code (encode(0)
  /// otherwise).
  bool hasZero() const { return values[zero] == 0.0f; }
  unsigned zeroCode() const { return zero; }

  /// For nf4 and codebooks: encode(x) is order()[number of thresholds below x].
  const std::vector<float> &thresholds() const { return limits; }
  const std::vector<uint8_t> &order() const { return sorted; }

private:
  ElementFormat desc;
  std::vector<float> values;
  std::vector<float> limits;
  std::vector<uint8_t> sorted;
  float minimum = 0.0f;
  float maximum = 0.0f;
  unsigned zero = 0;
};

//===----------------------------------------------------------------------===//
// Names, as in the scheme attribute
//===----------------------------------------------------------------------===//

/// "int4", "uint8", "ternary", "f4E2M1FN", "nf4", "codebook<2, [-1, 0, 0.5,
/// 1]>".
std::string elementName(const ElementFormat &format);
/// Inverse of elementName; spaces between tokens of a codebook are optional.
/// Also takes "normal1" .. "normal6", the codebooks of makeNormalCodebook.
Result<ElementFormat> parseElement(const std::string &text);

const char *floatTypeName(FloatType type);
Result<FloatType> parseFloatType(const std::string &text);
/// "absmax_full", "absmax", "minmax", "mse".
const char *scaleRuleName(ScaleRule rule);
Result<ScaleRule> parseScaleRule(const std::string &text);
/// "half_even", "half_away".
const char *roundingName(Rounding rounding);
Result<Rounding> parseRounding(const std::string &text);

/// The scheme as text, "int4, block = [1, 64], scale = f16, rule = absmax,
/// rounding = half_even", with ", zero = ..." if there is one; a recursive
/// scale is "scale = scheme<...>".
std::string schemeName(const Scheme &scheme);
/// Inverse of schemeName. Also takes the text of the attribute,
/// "#quant_llm.scheme<...>". Fields that are not named have their defaults (the
/// rule of a scheme with a zero is minmax). The fields are not checked against
/// each other: verifyScheme does that.
Result<Scheme> parseScheme(const std::string &text);

bool operator==(const ElementFormat &a, const ElementFormat &b);
bool operator==(const Scheme &a, const Scheme &b);
inline bool operator!=(const ElementFormat &a, const ElementFormat &b) {
  return !(a == b);
}
inline bool operator!=(const Scheme &a, const Scheme &b) { return !(a == b); }

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_ELEMENT_H
