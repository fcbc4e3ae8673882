//===- Kernels.h - Inner loops, compiled once per instruction set ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The loops over elements of Numerics. KernelsImpl.inc has them as plain loops
// that compilers vectorize; it is compiled for the baseline and, on x86-64, for
// AVX2 and AVX-512, and the best table for the running processor is chosen at
// run time. All tables give the same bits: no operation is reassociated or
// contracted.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_NUMERICS_KERNELS_H
#define QUANT_LLM_LIB_NUMERICS_KERNELS_H

// C headers only: an inline function of the standard library that was compiled
// for AVX-512 here could be the one that the linker keeps for everyone.
#include <stddef.h>
#include <stdint.h>

namespace quant_llm {

/// Scales and zeros of one row of blocks, one entry per block along K. The
/// value that is encoded is (w - floatZero)/scale + intZero. Null pointers are
/// zeros of 0.
struct RowParameters {
  int64_t count;  ///< elements of the row
  int64_t blockK; ///< elements per block, the last one may be shorter
  const float *scales;
  const float *floatZeros;
  const float *intZeros;
};

struct Kernels {
  void (*f16ToFloat)(const uint8_t *from, float *to, size_t count);
  void (*floatToF16)(const float *from, uint8_t *to, size_t count);
  void (*bf16ToFloat)(const uint8_t *from, float *to, size_t count);
  void (*floatToBF16)(const float *from, uint8_t *to, size_t count);

  /// max|w| of each block of a row. Returns the bits of the largest: infinity
  /// or above if any element is infinite or NaN.
  uint32_t (*absMax)(const float *row, int64_t count, int64_t blockK,
                     float *to);
  /// min and max of each block; returns the same.
  uint32_t (*minMax)(const float *row, int64_t count, int64_t blockK,
                     float *lows, float *highs);

  /// Encoders of a row to one code per byte; x = (w - floatZero)/scale +
  /// intZero. Blocks with scale 0 get the code of intZero, or `zeroCode`.
  void (*encodeInt)(const float *row, const RowParameters &parameters,
                    float low, float high, bool halfAway, uint8_t mask,
                    uint8_t *codes);
  void (*encodeSmallFloat)(const float *row, const RowParameters &parameters,
                           unsigned exponentBits, unsigned mantissaBits,
                           int bias, float largest, uint8_t zeroCode,
                           uint8_t *codes);
  /// `thresholds` has 2^bits - 1 ascending entries.
  void (*encodeTable)(const float *row, const RowParameters &parameters,
                      unsigned bits, const float *thresholds,
                      const uint8_t *order, uint8_t zeroCode, uint8_t *codes);

  /// scale * (table[code] - intZero), or scale * table[code] + floatZero.
  void (*decode)(const uint8_t *codes, const RowParameters &parameters,
                 const float *table, float *to);

  /// sum((a[i] - b[i])^2) in float64: eight sums, of i % 8, then their sum in
  /// order.
  double (*squaredError)(const float *a, const float *b, int64_t count);

  /// The squaredError of a row of one block with its encodeInt, decoded.
  double (*intError)(const float *row, const RowParameters &parameters,
                     float low, float high, bool halfAway);

  void (*pack4)(const uint8_t *codes, int64_t pairs, uint8_t *to);
  void (*unpack4)(const uint8_t *from, int64_t pairs, uint8_t *codes);
};

/// The table for this processor.
const Kernels &getKernels();

/// The tables, for tests; null where the processor or the build lacks it.
const Kernels *getBaselineKernels();
const Kernels *getAVX2Kernels();
const Kernels *getAVX512Kernels();

} // namespace quant_llm

#endif // QUANT_LLM_LIB_NUMERICS_KERNELS_H
