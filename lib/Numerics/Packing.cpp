//===- Packing.cpp - Dense packing of codes of 1 to 8 bits ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Packing.h"

#include "Kernels.h"

#include <cstring>

using namespace quant_llm;

/// Eight codes make a whole number of bytes, whatever their width.
template <unsigned Bits>
static void packEights(const uint8_t *codes, int64_t eights, uint8_t *to) {
  for (int64_t i = 0; i < eights; ++i) {
    uint64_t word = 0;
    for (unsigned j = 0; j < 8; ++j)
      word |= static_cast<uint64_t>(codes[8 * i + j] & ((1u << Bits) - 1))
              << (j * Bits);
    for (unsigned j = 0; j < Bits; ++j)
      to[Bits * i + j] = static_cast<uint8_t>(word >> (8 * j));
  }
}

template <unsigned Bits>
static void unpackEights(const uint8_t *from, int64_t eights, uint8_t *codes) {
  for (int64_t i = 0; i < eights; ++i) {
    uint64_t word = 0;
    for (unsigned j = 0; j < Bits; ++j)
      word |= static_cast<uint64_t>(from[Bits * i + j]) << (8 * j);
    for (unsigned j = 0; j < 8; ++j)
      codes[8 * i + j] =
          static_cast<uint8_t>(word >> (j * Bits)) & ((1u << Bits) - 1);
  }
}

/// The codes behind the last whole eight, bit by bit.
static void packTail(const uint8_t *codes, int64_t count, unsigned bits,
                     uint8_t *to) {
  std::memset(to, 0, static_cast<size_t>(packedRowBytes(count, bits)));
  for (int64_t i = 0; i < count; ++i)
    for (unsigned j = 0; j < bits; ++j) {
      int64_t bit = i * bits + j;
      to[bit / 8] |= static_cast<uint8_t>(((codes[i] >> j) & 1) << (bit % 8));
    }
}

void quant_llm::packRow(const uint8_t *codes, int64_t count, unsigned bits,
                        uint8_t *to) {
  if (count == 0)
    return;
  int64_t eights = count / 8;
  switch (bits) {
  case 1:
    packEights<1>(codes, eights, to);
    break;
  case 2:
    packEights<2>(codes, eights, to);
    break;
  case 3:
    packEights<3>(codes, eights, to);
    break;
  case 4:
    getKernels().pack4(codes, eights * 4, to);
    break;
  case 5:
    packEights<5>(codes, eights, to);
    break;
  case 6:
    packEights<6>(codes, eights, to);
    break;
  case 7:
    packEights<7>(codes, eights, to);
    break;
  case 8:
    std::memcpy(to, codes, static_cast<size_t>(count));
    return;
  }
  packTail(codes + 8 * eights, count % 8, bits, to + eights * bits);
}

void quant_llm::unpackRow(const uint8_t *from, int64_t count, unsigned bits,
                          uint8_t *codes) {
  if (count == 0)
    return;
  int64_t eights = count / 8;
  switch (bits) {
  case 1:
    unpackEights<1>(from, eights, codes);
    break;
  case 2:
    unpackEights<2>(from, eights, codes);
    break;
  case 3:
    unpackEights<3>(from, eights, codes);
    break;
  case 4:
    getKernels().unpack4(from, eights * 4, codes);
    break;
  case 5:
    unpackEights<5>(from, eights, codes);
    break;
  case 6:
    unpackEights<6>(from, eights, codes);
    break;
  case 7:
    unpackEights<7>(from, eights, codes);
    break;
  case 8:
    std::memcpy(codes, from, static_cast<size_t>(count));
    return;
  }
  const uint8_t *tail = from + eights * bits;
  for (int64_t i = 8 * eights; i < count; ++i)
    codes[i] = static_cast<uint8_t>(packedCode(tail, i - 8 * eights, bits));
}
