//===- FragmentLayout.h - The order of codes in GPU kernels -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The packed layout of weights: one for all kernels, numbers of tokens and
// activation types. docs/Weights.md draws it. Codes lie in the order in which
// the lanes of a warp hold operand A of mma.m16n8k16 (a quarter of operand A of
// wgmma.m64k16), so that a kernel's loads are its fragments; rows and columns
// are padded to whole tiles, so that kernels have no tails of the weight.
//
// Words: a strip is 16 rows (n), a unit 128 columns (k), a step 16 columns. S =
// 4*ceil(N/64) strips and U = ceil(K/128) units cover the matrix; in a strip
// the units follow each other, each of 256*b bytes.
//
// A code of b bits is cut into planes of 4, 2 and 1 bits (b = 8: one of 8), the
// low bits first; the planes of a unit follow each other. In a plane of width w
// each of the 32 lanes has 2w words of 32 bits, read in vectors of V = min(4,
// 2w) words: word i of a lane lies at byte ((i/V)*32 + lane)*4V + 4*(i%V).
// Register r (0..3), half e (0, 1) of step j (0..7) of lane 4g+c is the element
//     row g + 8*(r&1), column 16j + 2c + e + 8*(r>>1)
// and is found in word i of the lane at the bits from p on, modulo 32:
//     w = 8:   i = 2j + (r>>1),  slot = r&1,            p = 3 + 8*slot + 16e
//     w <= 4:  i = j/(4/w),      slot = 4*(j%(4/w)) + r,
//              p = 7 - w + w*(slot^1) + 16e
// (A value at the bits from 7 on of a half is the f16 number value * 2^-17.)
//
// Stored codes are those of the scheme, except that intN and ternary are in
// offset binary: value + 2^(b-1). Padding has the code of value 0.
//
// Scales and integer zeros are expanded along N: [S, G, 16], G groups along K,
// row r of a strip at index 2*(r%8) + r/8 (a lane's two rows together), padding
// 0. Blocks of fewer than 16 columns over all rows have [128*U] instead, one
// for each column. Scales are divided by a power of two 2^t, the smallest that
// makes all magnitudes less than 2^-6, and float zeros by the same; a kernel
// multiplies its sums by the output scale 2^t.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_PACKING_FRAGMENTLAYOUT_H
#define QUANT_LLM_PACKING_FRAGMENTLAYOUT_H

#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <vector>

namespace quant_llm {

//===----------------------------------------------------------------------===//
// Fragments: positions inside a plane of a unit
//===----------------------------------------------------------------------===//

constexpr int64_t stripRows = 16;
constexpr int64_t unitColumns = 128;
constexpr int64_t stepColumns = 16;
/// Rows are padded to whole blocks of wgmma.m64k16.
constexpr int64_t paddedRows = 64;

/// Some bits of every code: `width` bits from bit `shift` of the code on, at
/// byte `offset` of a unit.
struct FragmentPlane {
  unsigned width;
  unsigned shift;
  int64_t offset;
};

/// The planes of codes of 1..8 bits, in their order in a unit.
std::vector<FragmentPlane> getFragmentPlanes(unsigned bits);

/// Words of 32 bits that a lane has in a plane, and that it reads at once.
constexpr unsigned getLaneWords(unsigned width) { return 2 * width; }
constexpr unsigned getVectorWords(unsigned width) { return width == 1 ? 2 : 4; }

/// First byte, in the plane of a unit, of a lane's word.
constexpr int64_t getWordOffset(unsigned width, unsigned lane, unsigned word) {
  unsigned vector = getVectorWords(width);
  return ((word / vector) * 32 + lane) * 4 * vector + 4 * (word % vector);
}

/// What a lane holds: half `half` of register `reg` of step `step`.
struct FragmentPosition {
  unsigned lane; ///< 0..31
  unsigned step; ///< 0..7
  unsigned reg;  ///< 0..3
  unsigned half; ///< 0, 1
};

/// From an element of a strip and unit, row 0..15 and column 0..127, and back.
constexpr FragmentPosition getFragmentPosition(unsigned row, unsigned column) {
  return {row % 8 * 4 + column % 8 / 2, column / 16,
          row / 8 + column % 16 / 8 * 2, column % 2};
}
constexpr unsigned getFragmentRow(FragmentPosition position) {
  return position.lane / 4 + 8 * (position.reg & 1);
}
constexpr unsigned getFragmentColumn(FragmentPosition position) {
  return 16 * position.step + 2 * (position.lane % 4) + position.half +
         8 * (position.reg >> 1);
}

/// The word of a lane and the lowest bit of the value in it; the value's bits
/// go on from there modulo 32.
struct WordPosition {
  unsigned word;
  unsigned bit;
};
constexpr WordPosition getWordPosition(unsigned width, unsigned step,
                                       unsigned reg, unsigned half) {
  if (width == 8)
    return {2 * step + (reg >> 1), (3 + 8 * (reg & 1) + 16 * half) % 32};
  unsigned steps = 4 / width;
  unsigned slot = 4 * (step % steps) + reg;
  return {step / steps, (7 - width + width * (slot ^ 1) + 16 * half) % 32};
}

/// Index of a strip's row in a group of 16 scales, and back.
constexpr int64_t getScaleSlot(int64_t row) { return row % 8 * 2 + row / 8; }
constexpr int64_t getScaleRow(int64_t slot) { return slot / 2 + slot % 2 * 8; }

//===----------------------------------------------------------------------===//
// The layout of a weight
//===----------------------------------------------------------------------===//

/// True if the only second-level scale of a recursive scheme becomes the output
/// scale, and the packed scales are the f8E4M3FN codes of the first level.
bool hasScalarSecondLevel(const Scheme &scheme);
/// Type of packed scales: that of the scheme; of recursive schemes f8E4M3FN if
/// hasScalarSecondLevel, else f32.
FloatType getPackedScaleType(const Scheme &scheme);
/// Type of packed float zeros: that of the scheme, but f16 for f8E4M3FN, which
/// has no room for the division.
FloatType getPackedZeroType(const Scheme &scheme);

enum class PackedComponentKind { Codes, Scales, Zeros, OutputScale };

struct PackedComponentInfo {
  PackedComponentKind kind;
  /// Appended to the weight's key in an archive: ".packed", ".packed_scales",
  /// ".packed_zeros", ".output_scale".
  const char *suffix;
  /// Bytes (codes and integer zeros) or a floating-point type.
  bool isBytes;
  FloatType type;
  /// Empty for the output scale, a scalar.
  std::vector<int64_t> shape;
  int64_t bytes;
};

/// The layout of a weight [n, k] under a scheme: its sizes, and the places of
/// its elements.
class FragmentLayout {
public:
  /// Errors: those of verifyScheme, blocks that the layout does not have, and
  /// components of 2^60 bytes and more.
  static Result<FragmentLayout> get(const Scheme &scheme, int64_t n, int64_t k);

  int64_t getN() const { return n; }
  int64_t getK() const { return k; }
  int64_t getNumStrips() const { return strips; }
  int64_t getNumUnits() const { return units; }
  unsigned getBits() const { return bits; }
  const std::vector<FragmentPlane> &getPlanes() const { return planes; }
  /// Bytes of the codes of a strip and unit.
  int64_t getUnitBytes() const { return 256 * static_cast<int64_t>(bits); }

  /// The stored code of a code of the scheme, and back: what both are xored
  /// with.
  unsigned getCodeFlip() const { return flip; }
  /// The stored code of padding, except in columns beyond K under an integer
  /// zero, where it is the zero of the row's last group.
  unsigned getPaddingCode() const { return paddingCode; }

  //===--------------------------------------------------------------------===//
  // Scales and zeros
  //===--------------------------------------------------------------------===//

  /// One scale for each column and all rows, [128*U], instead of [S, G, 16].
  bool hasColumnScales() const { return columnScales; }
  /// The blocks: blockK columns are a group, except the last.
  const BlockGrid &getGrid() const { return grid; }
  int64_t getNumGroups() const { return grid.gridK; }
  /// The group of a column; columns beyond K belong to the last one.
  int64_t getGroup(int64_t column) const {
    int64_t group = column / grid.blockK;
    return group < grid.gridK ? group : grid.gridK - 1;
  }
  /// See getPackedScaleType and hasScalarSecondLevel.
  FloatType getScaleType() const { return scaleType; }
  bool hasScalarSecondLevel() const { return scalarSecondLevel; }
  /// Scales and float zeros are divided by a power of two, the output scale.
  /// Never f8E4M3FN scales and the zeros beside them.
  bool isShifted() const { return scaleType != FloatType::F8E4M3FN; }
  ZeroKind getZeroKind() const { return zero; }
  /// See getPackedZeroType.
  FloatType getZeroType() const { return zeroType; }

  //===--------------------------------------------------------------------===//
  // Index maps
  //===--------------------------------------------------------------------===//

  /// A bit of the packed codes, and of the code of an element.
  struct PackedBit {
    int64_t byte;
    unsigned bit;
  };
  struct ElementBit {
    int64_t row;
    int64_t column;
    unsigned bit;
  };
  /// Where bit `bit` of the stored code of an element lies, and back; rows
  /// below 16*S and columns below 128*U, padding included.
  PackedBit getPackedBit(ElementBit element) const;
  ElementBit getElementBit(PackedBit packed) const;

  /// Index into packed scales (and zeros) of an element's scale. With column
  /// scales that of its column.
  int64_t getScaleIndex(int64_t row, int64_t column) const;
  /// What a packed scale belongs to: a row (0 with column scales) and a group
  /// (the column with column scales).
  struct ScaleCell {
    int64_t row;
    int64_t group;
  };
  ScaleCell getScaleCell(int64_t index) const;
  /// Packed scales, padding included.
  int64_t getNumScales() const {
    return columnScales ? units * unitColumns : strips * grid.gridK * stripRows;
  }

  /// Codes, Scales, Zeros if there are any, OutputScale.
  std::vector<PackedComponentInfo> getComponents() const;

private:
  FragmentLayout() = default;

  int64_t n = 0, k = 0;
  int64_t strips = 0, units = 0;
  unsigned bits = 0;
  std::vector<FragmentPlane> planes;
  unsigned flip = 0;
  unsigned paddingCode = 0;
  BlockGrid grid{};
  bool columnScales = false;
  bool scalarSecondLevel = false;
  FloatType scaleType = FloatType::F32;
  ZeroKind zero = ZeroKind::None;
  FloatType zeroType = FloatType::F32;
};

//===----------------------------------------------------------------------===//
// Packing
//===----------------------------------------------------------------------===//

/// A packed weight in buffers of others.
struct PackedView {
  QuantizedView::Buffer codes;
  QuantizedView::Buffer scales;
  QuantizedView::Buffer zeros;
  float outputScale = 1.0f;
};

/// A packed weight that owns its buffers.
struct PackedWeight {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;
  std::vector<uint8_t> zeros;
  float outputScale = 1.0f;
  /// Stored scales (of blocks, not of rows) and zeros that are not exactly
  /// those of the weight divided by the output scale, because they underflow.
  int64_t inexactScales = 0;
  int64_t inexactZeros = 0;

  PackedView view() const;
};

/// Packs a stored weight. `threads` as for parallelFor; the result does not
/// depend on it. Errors: those of verifyStorage and FragmentLayout::get, and
/// scales or zeros that are not finite or too large to be divided.
Result<PackedWeight> packWeight(const QuantizedView &view, const Scheme &scheme,
                                int threads);

/// The scheme of what unpackWeight returns: `scheme`, with scales of type f32
/// if packing dissolves its second level.
Scheme getUnpackedScheme(const Scheme &scheme);

/// The inverse of packWeight, for a weight [n, k] packed under `scheme`;
/// padding and the copies of scales along N are not looked at. Errors: those of
/// FragmentLayout::get, and buffers of the wrong size or with values that
/// packWeight does not write.
Result<QuantizedMatrix> unpackWeight(const PackedView &view,
                                     const Scheme &scheme, int64_t n, int64_t k,
                                     int threads);

/// Checks that unpackWeight gives the weight back: codes and integer zeros, and
/// scales and float zeros except as many as packWeight has counted as inexact.
Status verifyPackedWeight(const PackedWeight &packed, const QuantizedView &view,
                          const Scheme &scheme, int threads);

} // namespace quant_llm

#endif // QUANT_LLM_PACKING_FRAGMENTLAYOUT_H
