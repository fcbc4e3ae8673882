//===- Grid.h - Stored scales and zeros as numbers --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Methods that choose codes other than the nearest ones, or scales and zeros
// other than those of a rule, need the grid of each block: the values that its
// codes stand for, as they will be read back.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_GRID_H
#define QUANT_LLM_METHODS_GRID_H

#include "quant-llm/Numerics/GroupQuantizer.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace quant_llm {

/// Scales and zeros of every block of a weight [n, k], and the codes under
/// them.
class Grid {
public:
  /// Reads the parameters of a stored weight. Errors: those of verifyStorage.
  static Result<Grid> get(const QuantizedView &view, const Scheme &scheme);

  const BlockGrid &blocks() const { return shape; }
  const Element &getElement() const { return element; }

  /// The value of a code in the block of (row, column), binary32 operations as
  /// in docs/Spec.md section 3.
  float decode(int64_t row, int64_t column, unsigned code) const {
    return decodeIn(getCell(row, column), code);
  }

  /// A code and its value.
  struct Rounded {
    uint8_t code;
    float value;
  };
  /// The nearest code to `weight` in the block of (row, column).
  Rounded round(int64_t row, int64_t column, float weight) const {
    return roundIn(getCell(row, column), weight);
  }
  /// The same in a block by its number.
  Rounded roundIn(int64_t cell, float weight) const {
    auto index = static_cast<size_t>(cell);
    float scale = scales[index], zero = zeros[index];
    unsigned code;
    if (scale == 0.0f)
      code = zeroKind == ZeroKind::Integer ? static_cast<unsigned>(zero)
                                           : element.zeroCode();
    else if (zeroKind == ZeroKind::Float)
      code = element.encode((weight - zero) / scale, rounding);
    else
      code = element.encode(weight / scale + zero, rounding);
    return {static_cast<uint8_t>(code), decodeIn(cell, code)};
  }
  /// The same for a whole row [k], faster, with the codes of quantize(): a -0
  /// may have that of -0, where round() gives that of 0. `values` may be null.
  void roundRow(int64_t row, int64_t k, const float *weights, uint8_t *codes,
                float *values) const {
    auto first = static_cast<size_t>(getCell(row, 0));
    quant_llm::roundRow(element, rounding, zeroKind, weights, k, shape.blockK,
                        scales.data() + first, zeros.data() + first, codes,
                        values);
  }
  float decodeIn(int64_t cell, unsigned code) const {
    auto index = static_cast<size_t>(cell);
    float value = element.decode(code);
    return zeroKind == ZeroKind::Float ? scales[index] * value + zeros[index]
                                       : scales[index] * (value - zeros[index]);
  }

  /// The number of the block of (row, column): rowBlock * gridK + columnBlock.
  int64_t getCell(int64_t row, int64_t column) const {
    return row / shape.blockN * shape.gridK + column / shape.blockK;
  }

  /// Replaces the parameters of a block.
  void set(int64_t cell, float scale, float zero) {
    scales[static_cast<size_t>(cell)] = scale;
    zeros[static_cast<size_t>(cell)] = zero;
  }
  float getScale(int64_t cell) const {
    return scales[static_cast<size_t>(cell)];
  }
  float getZero(int64_t cell) const { return zeros[static_cast<size_t>(cell)]; }

private:
  explicit Grid(Element element) : element(std::move(element)) {}

  Element element;
  BlockGrid shape = {};
  ZeroKind zeroKind = ZeroKind::None;
  Rounding rounding = Rounding::HalfEven;
  std::vector<float> scales, zeros;
};

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_GRID_H
