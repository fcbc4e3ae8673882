//===- Rotation.h - Hadamard and other orthogonal matrices ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The matrices of `quant_llm.rotate`. A Hadamard matrix H of order n has
// entries 1 and -1 and H H^T = n I. Ours are Kronecker products of a matrix of
// small order, computed by a construction of Paley, and of Sylvester's matrix
// of a power of two, so that a vector is multiplied in n (m + log2(n/m))
// additions.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_ROTATION_H
#define QUANT_LLM_NUMERICS_ROTATION_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <vector>

namespace quant_llm {

/// H of order n = m * 2^k: H[a 2^k + b, c 2^k + d] = B[a, c]
/// (-1)^popcount(b&d). The base B is the first one that exists for k as large
/// as possible: of order 1; of order q + 1 for a prime power q = 3 mod 4
/// (Paley's first construction); of order 2 (q + 1) for a prime power q = 1 mod
/// 4 (his second).
class HadamardMatrix {
public:
  /// Orders of bases are at most this, orders at most 2^30.
  static constexpr int64_t maxBaseOrder = 1024;

  /// An error if no construction above gives the order; it names the largest
  /// order below it that divides it and exists.
  static Result<HadamardMatrix> get(int64_t order);
  static bool isSupported(int64_t order) { return getBaseOrder(order) != 0; }
  /// The largest supported order that divides `size`, a positive number.
  static int64_t getLargestDivisor(int64_t size);

  int64_t order() const { return baseOrder * sylvesterOrder; }
  int64_t getBase() const { return baseOrder; }
  int64_t getSylvester() const { return sylvesterOrder; }
  /// 1 or -1.
  int at(int64_t row, int64_t column) const;

  /// Replaces the vector x of order() elements, `stride` apart, by x H, or by
  /// x H^T.
  void multiply(double *x, int64_t stride, bool transposed) const;

private:
  HadamardMatrix() = default;
  /// 0 if the order is not supported.
  static int64_t getBaseOrder(int64_t order);

  int64_t baseOrder = 1;
  int64_t sylvesterOrder = 1;
  std::vector<int8_t> base; // row-major
};

/// The signs of a randomized Hadamard matrix: element i is -1 if bit i % 64 of
/// output i / 64 of SplitMix64 started with `seed` is set, else 1.
std::vector<int8_t> getRandomSigns(uint64_t seed, int64_t size);

/// A random orthogonal matrix [size, size], row-major: a matrix of normal
/// numbers from SplitMix64, its rows made orthonormal one after the other.
std::vector<double> getRandomOrthogonal(uint64_t seed, int64_t size);

/// How far A B is from the identity, for matrices [size, size]: the largest
/// element of |A B - I|. Beyond a size of 64 it is estimated, from the products
/// with eight random vectors.
double getIdentityError(const double *a, const double *b, int64_t size);

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_ROTATION_H
