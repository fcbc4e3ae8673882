//===- Dequantize.h - From packed words to operand A ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What a lane does between a packed weight in shared memory (docs/Weights.md)
// and the four registers of operand A of one m16n8k16 (or of its warp's quarter
// of a wgmma m64): one piece of code for every element format, kind of zero and
// type of scale, used by every kernel family.
//
// A fragment has four registers of two 16-bit elements. Register r of lane
// 4g+c holds row g + 8*(r & 1), columns 2c + 8*(r >> 1) and the next.
//
// Integer codes need no conversion: a code at bit p of an f16 (p + bits <= 11)
// is the number code * 2^(p-24), because subnormals and the first binade share
// their spacing; at bit p - 3 of a bf16 it is code * 2^(p-136). One fused
// multiply-add with the scale times the inverse power gives the weight, rounded
// once.
//
// Values of a codebook are looked up in shared memory. Of up to 16 values there
// is a table of all pairs: one look-up yields a register. Every lane has a copy
// of its own, all in one bank, so that no two lanes wait for each other.
//
// Scales and zeros that the activation type cannot hold (f32 in any, f16 in
// bf16) are rounded, each alike for all weights of its block. Two things keep
// the error of the product near that of weights that are rounded one by one.
// Unsigned codes with a float zero are taken from the middle of their range on,
// the zero from there, so that no large terms cancel. And where a weight has so
// few blocks that these errors need not even out, scales and zeros are sums of
// two numbers.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_DEQUANTIZE_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_DEQUANTIZE_H

#include "PTXBuilder.h"
#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Kernels/ScaleMode.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include "llvm/ADT/DenseMap.h"

#include <map>

namespace quant_llm {

/// The words of one strip and unit, loaded from shared memory when first used.
class PackedUnit {
public:
  /// `address`: of the strip's unit; `lane`: 0..31.
  PackedUnit(PTXBuilder &b, unsigned bits, mlir::Value address,
             mlir::Value lane)
      : b(b), bits(bits), address(address), lane(lane) {}

  /// Bits [low, low+count) of the codes of register r of a step, placed at bit
  /// `position` of each half of a word; the other bits are zero.
  mlir::Value gather(unsigned step, unsigned r, unsigned low, unsigned count,
                     unsigned position);

private:
  using Value = mlir::Value;
  Value word(const FragmentPlane &plane, unsigned index);

  PTXBuilder &b;
  unsigned bits;
  Value address;
  Value lane;
  std::map<std::pair<unsigned, unsigned>, Values> vectors;
  std::map<std::tuple<unsigned, unsigned, unsigned>, Value> rotated;
};

/// The scales and zeros that the registers of a fragment need, as pairs. The
/// first index is the row half (r & 1), or the column half (r >> 1) in mode
/// Column. Absent ones are null.
struct ScaleRegisters {
  /// By the bit position of gathered codes.
  std::map<unsigned, mlir::Value> factor[2];
  mlir::Value addend[2];
  /// What rounding took from both, where that is added.
  mlir::Value factorRest[2], addendRest[2];
};

class Dequantizer {
public:
  /// `name` is that of the kernel; a table of the format becomes a constant of
  /// its module.
  Dequantizer(PTXBuilder &b, const KernelProblem &problem,
              llvm::StringRef name);

  ScaleMode mode() const { return scaleMode; }

  /// Fills the table at `address` (of getTableBytes) with `threads` threads, of
  /// which this is `thread`; a barrier must follow.
  void fillTable(mlir::Value address, mlir::Value thread, int64_t threads);

  /// @{ Registers. `scales` and `zeros` are pointers, or addresses of shared
  /// memory, of the 16 scales (zeros) of a group and strip; `zeros` is null
  /// without zeros.
  /// Mode Channel, and a strip of any mode before its first group.
  ScaleRegisters channelRegisters(mlir::Value zeros, mlir::Value lane);
  /// Modes Static and General.
  ScaleRegisters groupRegisters(mlir::Value scales, mlir::Value zeros,
                                mlir::Value lane);
  /// Mode Column: pointers are to those of the first column of a step.
  ScaleRegisters columnRegisters(mlir::Value scales, mlir::Value zeros,
                                 mlir::Value lane);
  /// @}

  /// The scale of one row in f32, for the sums of mode Channel. `scales` are
  /// those of the whole weight.
  mlir::Value channelScale(mlir::Value scales, mlir::Value row);

  /// The four registers of operand A (i32) for a step.
  Values fragment(PackedUnit &unit, unsigned step,
                  const ScaleRegisters &registers);
  /// The same where the columns of the step from `boundary` (i32) on have the
  /// scales `after`.
  Values fragment(PackedUnit &unit, unsigned step, const ScaleRegisters &before,
                  const ScaleRegisters &after, mlir::Value boundary,
                  mlir::Value lane);

  /// Sums must be multiplied by this power of two (beside the weight's own
  /// output scale): what was taken out of scales or tables to stay in range.
  float outputFactor() const;

private:
  using Value = mlir::Value;
  using FloatPair = std::pair<Value, Value>;

  bool isInteger() const;
  bool isTable() const;
  bool hasFloatZero() const { return problem.scheme.zero == ZeroKind::Float; }
  bool hasIntegerZero() const {
    return problem.scheme.zero == ZeroKind::Integer;
  }
  /// Whether unsigned codes count from the middle of their range, and the float
  /// zero is the value there.
  bool isCentered() const;
  /// What is subtracted from a stored integer code to give its value (of a
  /// centered one: the value from the middle of the range on).
  double bias() const;
  /// The lowest bit of the integer codes of a register when gathered.
  unsigned position(unsigned r) const;
  std::vector<unsigned> positions() const;
  /// log2 of value / (what rawValue yields), at a bit position.
  int exponent(unsigned position) const;
  /// log2 of value / (what unitValue yields).
  int unitExponent() const { return isInteger() ? 6 : 0; }
  /// Whether a code becomes its exact value before the scale is applied.
  bool hasTwoSteps() const;
  /// log2 of what scales are divided by to stay in range.
  int scaleExponent() const;
  /// Register r of a step: values (before zero and scale) times a power of two.
  Value rawValue(PackedUnit &unit, unsigned step, unsigned r);
  /// Whether the table has all pairs of values, in one bank for each lane, and
  /// not single values.
  bool looksUpPairs() const { return hasPairTable(problem.scheme); }
  Value tableLookup(PackedUnit &unit, unsigned step, unsigned r);
  /// A register from its raw value.
  Value applyScale(Value raw, unsigned position,
                   const ScaleRegisters &registers, unsigned half);

  /// f32 of two neighbours in memory.
  FloatPair loadTwo(Value pointer, quant_llm::FloatType type);
  /// A pointer `offset` bytes after `base`, a pointer or an address of shared
  /// memory.
  Value at(Value base, Value offset);
  FloatPair loadTwoZeros(Value pointer);
  /// f32 of a scale of one byte (i32).
  Value decodeByte(Value byte, quant_llm::FloatType type);
  /// Registers of one half from f32 scales and zeros of its two elements.
  void fill(ScaleRegisters &registers, unsigned half, FloatPair scales,
            FloatPair zeros);
  FloatPair scaled(FloatPair values, double factor);
  Value pack(FloatPair values) {
    return b.packPair(element, values.first, values.second);
  }
  Value scaledPair(FloatPair values, double factor) {
    return pack(scaled(values, factor));
  }
  /// What rounding to the activation type takes from values.
  Value restOf(FloatPair values);
  Value multiply(Value pairs, double factor);

  PTXBuilder &b;
  const KernelProblem &problem;
  mlir::Type element;
  bool isBF16;
  ScaleMode scaleMode;
  Value tableAddress;
  std::string tableName;
  std::vector<float> table;
  int tableExponent = 0;
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_DEQUANTIZE_H
