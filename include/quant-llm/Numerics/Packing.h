//===- Packing.h - Dense packing of codes of 1 to 8 bits --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The canonical storage of codes: a row of K codes of b bits is a bit string,
// least significant bit first; code k is bits [k*b, (k+1)*b), bit i of the
// string is bit i%8 of byte i/8; the row is padded with zero bits to a whole
// byte.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_PACKING_H
#define QUANT_LLM_NUMERICS_PACKING_H

#include <cstdint>

namespace quant_llm {

/// Bytes of a packed row of `count` codes: ceil(count * bits / 8). `bits`
/// is 1..8 and count at most 2^59.
inline int64_t packedRowBytes(int64_t count, unsigned bits) {
  return (count * static_cast<int64_t>(bits) + 7) / 8;
}

/// Packs the low `bits` bits of `count` bytes into packedRowBytes(count, bits)
/// bytes. The buffers must not overlap.
void packRow(const uint8_t *codes, int64_t count, unsigned bits, uint8_t *to);

/// Inverse of packRow: one code per byte, high bits zero.
void unpackRow(const uint8_t *from, int64_t count, unsigned bits,
               uint8_t *codes);

/// Code `index` of a packed row.
inline unsigned packedCode(const uint8_t *row, int64_t index, unsigned bits) {
  int64_t bit = index * static_cast<int64_t>(bits);
  unsigned shift = static_cast<unsigned>(bit % 8);
  unsigned word = row[bit / 8];
  if (shift + bits > 8)
    word |= static_cast<unsigned>(row[bit / 8 + 1]) << 8;
  return (word >> shift) & ((1u << bits) - 1);
}

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_PACKING_H
