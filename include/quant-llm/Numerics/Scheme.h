//===- Scheme.h - What stored weight bits mean ------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The MLIR-free form of the scheme attribute (#quant_llm.scheme): orthogonal
// fields that together give every stored bit a value. docs/Spec.md has the
// formulas.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_SCHEME_H
#define QUANT_LLM_NUMERICS_SCHEME_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace quant_llm {

/// The grid a code is an index into.
enum class ElementKind {
  Int,      ///< two's complement, bits 1..8: -2^(b-1) .. 2^(b-1)-1
  UInt,     ///< bits 1..8: 0 .. 2^b-1
  Ternary,  ///< 2 bits, two's complement; -1, 0, 1 (code 0b10 is not used)
  F4E2M1FN, ///< OCP MX v1.0
  F6E2M3FN,
  F6E3M2FN,
  F8E4M3FN,
  F8E5M2,
  NF4,      ///< the 16 normal quantiles of QLoRA (arXiv:2305.14314)
  Codebook, ///< any 2^bits finite values, bits 1..8
};

/// An element format: its kind, its width, and the values of a codebook.
struct ElementFormat {
  ElementKind kind = ElementKind::Int;
  unsigned bits = 4;
  /// 2^bits values, for Codebook only.
  std::vector<float> table;
};

/// Floating-point types of scales and float zeros.
enum class FloatType { F16, BF16, F32, F8E8M0FNU, F8E4M3FN };

/// How a scale is computed from the values of its block.
enum class ScaleRule {
  AbsMaxFull, ///< max|w| / 2^(b-1); signed integers only (FasterTransformer)
  AbsMax,     ///< max|w| / largest value of the element (2^(b-1)-1 for intN)
  MinMax,     ///< (max-min) / (2^b-1); unsigned integers with a zero
  Mse,        ///< the clip of the rule above that minimizes the squared error
};

enum class Rounding { HalfEven, HalfAway };

/// What is stored beside the scale.
enum class ZeroKind {
  None,    ///< w = s * v(q)
  Integer, ///< w = s * (v(q) - z), z an unsigned integer code
  Float,   ///< w = s * v(q) + z, z of type Scheme::zeroType
};

/// A quantization scheme of a matrix [N, K] (N outputs, K inputs).
struct Scheme {
  ElementFormat element;
  /// Elements per scale along N and along K; -1 is the whole dimension. The
  /// last block of a dimension may be smaller.
  int64_t blockN = 1;
  int64_t blockK = -1;
  FloatType scaleType = FloatType::F16;
  /// If set, the matrix of scales is itself stored under this scheme, and
  /// scaleType is not used.
  std::shared_ptr<const Scheme> scaleScheme;
  ZeroKind zero = ZeroKind::None;
  /// Type of a Float zero.
  FloatType zeroType = FloatType::F16;
  ScaleRule rule = ScaleRule::AbsMax;
  Rounding rounding = Rounding::HalfEven;
  /// The product A B of matrices [N, lowRank] and [lowRank, K] of type
  /// lowRankType (F16, BF16 or F32) is added to the values; 0 is no product.
  int64_t lowRank = 0;
  FloatType lowRankType = FloatType::F16;
};

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_SCHEME_H
