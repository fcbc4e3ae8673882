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

/// How a value becomes the nearest one of an element, without its code.
struct NearestValue {
  enum Kind { Integer, SmallFloat, Table } kind;
  /// Integer: the range. SmallFloat: `high` is the largest value.
  float low, high;
  bool halfAway;
  unsigned mantissaBits;
  int bias;
  /// Table: 2^bits - 1 ascending thresholds, and 2^bits values; the value of x
  /// is that at the number of thresholds below x.
  unsigned bits;
  const float *thresholds;
  const float *values;
};

/// Scales and zeros that one block might get. Null pointers are zeros of 0; one
/// of the two is null.
struct Candidates {
  int64_t count;
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

  /// The squared error of `row`, encoded and decoded, under each candidate, in
  /// float64: eight sums, of the elements i % 8, then their sum in order.
  void (*squaredErrors)(const NearestValue &nearest, const float *row,
                        int64_t count, const Candidates &candidates,
                        double *errors);
  /// The first candidate with the smallest error of a block (the sum of the
  /// squaredErrors of its rows, in order); 0 if all are NaN. `rows` are
  /// `numRows` rows of `count` elements, `stride` apart. `hint` is where to
  /// look first: it changes the time, not the result.
  int64_t (*findBest)(const NearestValue &nearest, const float *rows,
                      int64_t numRows, int64_t stride, int64_t count,
                      const Candidates &candidates, int64_t hint);

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
