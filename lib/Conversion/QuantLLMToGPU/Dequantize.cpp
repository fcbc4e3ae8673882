//===- Dequantize.cpp - From packed words to operand A --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Dequantize.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "llvm/ADT/STLExtras.h"

#include <cmath>

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Packed codes
//===----------------------------------------------------------------------===//

Value PackedUnit::word(const FragmentPlane &plane, unsigned index) {
  unsigned perVector = getVectorWords(plane.width);
  unsigned vector = index / perVector;
  Values &words = vectors[{plane.width, vector}];
  if (words.empty()) {
    int64_t offset =
        plane.offset + getWordOffset(plane.width, 0, vector * perVector);
    Value at = b.add(b.add(address, b.mul(lane, 4 * perVector)), offset);
    Value loaded = b.loadShared(
        VectorType::get({int64_t(perVector)}, b.i32Type()), at, 4 * perVector);
    for (unsigned i = 0; i != perVector; ++i)
      words.push_back(b.extract(loaded, i));
  }
  return words[index % perVector];
}

Value PackedUnit::gather(unsigned step, unsigned r, unsigned low,
                         unsigned count, unsigned position) {
  Value gathered;
  for (const FragmentPlane &plane : getFragmentPlanes(bits)) {
    unsigned from = std::max(low, plane.shift);
    unsigned to = std::min(low + count, plane.shift + plane.width);
    if (from >= to)
      continue;
    auto [index, bit] = getWordPosition(plane.width, step, r, /*half=*/0);
    unsigned target = position + from - low;
    unsigned rotation = (bit + from - plane.shift + 32 - target) % 32;
    Value &turned = rotated[{plane.width, index, rotation}];
    if (!turned)
      turned = b.rotateRight(word(plane, index), rotation);
    uint32_t mask = ((1u << (to - from)) - 1) << target;
    Value part = b.bitAnd(turned, mask << 16 | mask);
    gathered = gathered ? b.bitOr(gathered, part) : part;
  }
  return gathered;
}

//===----------------------------------------------------------------------===//
// Formats
//===----------------------------------------------------------------------===//

Dequantizer::Dequantizer(PTXBuilder &b, const KernelProblem &problem,
                         StringRef name)
    : b(b), problem(problem), isBF16(problem.activation == TensorType::BF16),
      scaleMode(getScaleMode(problem)), tableName((name + "_table").str()) {
  element = isBF16 ? Type(b.getBF16Type()) : Type(b.getF16Type());
  if (!isTable())
    return;
  table = problem.scheme.element.kind == ElementKind::NF4
              ? nf4Table()
              : problem.scheme.element.table;
  // Magnitudes below 2, so that no product leaves the range of f16.
  float largest = 0;
  for (float value : table)
    largest = std::max(largest, std::fabs(value));
  tableExponent = largest > 0 ? std::ilogb(largest) : 0;
  SmallVector<APFloat> values;
  for (float value : table) {
    APFloat scaled(std::ldexp(value, -tableExponent));
    bool losesInfo;
    scaled.convert(cast<mlir::FloatType>(element).getFloatSemantics(),
                   APFloat::rmNearestTiesToEven, &losesInfo);
    values.push_back(scaled);
  }
  Operation *module =
      b.getInsertionBlock()->getParentOp()->getParentOfType<gpu::GPUModuleOp>();
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&module->getRegion(0).front());
  LLVM::GlobalOp::create(
      b, LLVM::LLVMArrayType::get(element, values.size()),
      /*isConstant=*/true, LLVM::Linkage::Internal, tableName,
      DenseElementsAttr::get(
          RankedTensorType::get({int64_t(values.size())}, element), values),
      /*alignment=*/16, kGlobalSpace);
}

bool Dequantizer::isInteger() const {
  ElementKind kind = problem.scheme.element.kind;
  return kind == ElementKind::Int || kind == ElementKind::UInt ||
         kind == ElementKind::Ternary;
}

bool Dequantizer::isTable() const {
  ElementKind kind = problem.scheme.element.kind;
  return kind == ElementKind::NF4 || kind == ElementKind::Codebook;
}

bool Dequantizer::isCentered() const {
  return problem.scheme.element.kind == ElementKind::UInt && hasFloatZero() &&
         (roundsScales(problem) || roundsZeros(problem));
}

double Dequantizer::bias() const {
  return problem.scheme.element.kind == ElementKind::UInt && !isCentered()
             ? 0
             : std::ldexp(1.0, problem.scheme.element.bits - 1);
}

unsigned Dequantizer::position(unsigned r) const {
  unsigned bits = problem.scheme.element.bits;
  // Single planes are used where they lie; of others the parts are put
  // together so that they end at or below bit 10.
  if (bits == 8 || bits > 4)
    return 3;
  if (bits == 3)
    return 7;
  return 7 - bits * (r & 1);
}

std::vector<unsigned> Dequantizer::positions() const {
  if (!isInteger())
    return {0};
  unsigned even = position(0), odd = position(1);
  return even == odd ? std::vector<unsigned>{even}
                     : std::vector<unsigned>{even, odd};
}

int Dequantizer::exponent(unsigned position) const {
  if (isInteger())
    return (isBF16 ? 136 : 24) - int(position);
  if (isTable())
    return 0;
  return (isBF16 ? 127 : 15) - getSmallFloat(problem.scheme.element.kind)->bias;
}

int Dequantizer::scaleExponent() const {
  if (getPackedScaleType(problem.scheme) != quant_llm::FloatType::F8E4M3FN ||
      scaleMode == ScaleMode::Channel)
    return 0;
  // The largest scale is 448. Integers are multiplied by it and up to 2^21 at
  // once, or are exact first.
  if (isInteger())
    return hasTwoSteps() ? 2 : 14;
  // No more than what keeps the factor of a float (2^exponent(0) times the
  // scale) and its product with the largest value finite: small weights must
  // not vanish before they do in the activation type.
  int product = 0;
  if (problem.scheme.element.kind == ElementKind::F8E4M3FN)
    product = 2; // 448 * 448 / 4
  if (problem.scheme.element.kind == ElementKind::F8E5M2)
    product = 9; // 57344 * 448 / 512
  return std::max(exponent(0) - (isBF16 ? 112 : 0) - 7, product);
}

bool Dequantizer::hasTwoSteps() const {
  if (!isInteger())
    return false;
  // A float zero must not be divided by what the product in one step would take
  // for scales that are not small.
  return hasIntegerZero() || addsRests(problem) ||
         (hasFloatZero() &&
          (bias() != 0 || getPackedScaleType(problem.scheme) ==
                              quant_llm::FloatType::F8E4M3FN));
}

float Dequantizer::outputFactor() const {
  int unit = scaleMode == ScaleMode::Channel ? unitExponent() : 0;
  return std::ldexp(1.0f, unit + scaleExponent() + tableExponent);
}

//===----------------------------------------------------------------------===//
// Tables
//===----------------------------------------------------------------------===//

void Dequantizer::fillTable(Value address, Value thread, int64_t threads) {
  if (!isTable())
    return;
  PTXBuilder::Scope scope(b, "table");
  Value source =
      LLVM::AddressOfOp::create(b, b.pointer(kGlobalSpace), tableName);
  auto entryAt = [&](Value index) {
    return b.load(b.getI16Type(), b.offsetPointer(source, b.mul(index, 2)), 2);
  };
  int64_t size = table.size();
  if (!looksUpPairs()) {
    tableAddress = address;
    b.loop(thread, b.i32(size), b.i32(threads), [&](Value index) {
      b.storeShared(entryAt(index), b.add(address, b.mul(index, 2)), 2);
    });
    return;
  }
  // Four copies of a pair at a time.
  constexpr int64_t storesPerPair = kWarpLanes / 4;
  b.loop(thread, b.i32(size * size * storesPerPair), b.i32(threads),
         [&](Value index) {
           Value pair = b.div(index, storesPerPair);
           auto wide = [&](Value entry) {
             return Value(
                 arith::ExtUIOp::create(b, b.i32Type(), entryAt(entry)));
           };
           Value low = wide(b.bitAnd(pair, size - 1));
           Value high = wide(b.div(pair, size));
           Value both = b.bitOr(low, b.shiftLeft(high, 16));
           b.storeShared(b.vectorOf({both, both, both, both}),
                         b.add(address, b.mul(index, 16)), 16);
         });
  tableAddress = b.add(address, b.mul(b.bitAnd(thread, kWarpLanes - 1), 4));
}

Value Dequantizer::tableLookup(PackedUnit &unit, unsigned step, unsigned r) {
  unsigned bits = problem.scheme.element.bits;
  if (looksUpPairs()) {
    // A code at bit 7 is as many entries of 32 words; the code of the high half
    // counts for as many codes of the low half as there are.
    Value codes = unit.gather(step, r, 0, bits, /*position=*/7);
    Value address = b.dotHalves(codes, 1, 1 << bits, tableAddress);
    return b.bitcast(b.loadShared(b.i32Type(), address, 4), b.pair(element));
  }
  // Codes at bit 1 are byte offsets.
  Value offsets = unit.gather(step, r, 0, bits, /*position=*/1);
  auto entry = [&](Value offset) {
    Value loaded = b.loadShared(b.getI16Type(), b.add(tableAddress, offset), 2);
    return Value(arith::ExtUIOp::create(b, b.i32Type(), loaded));
  };
  Value low = entry(b.bitAnd(offsets, 0xffff));
  Value high = entry(b.shiftRight(offsets, 16));
  return b.bitcast(b.bitOr(low, b.shiftLeft(high, 16)), b.pair(element));
}

//===----------------------------------------------------------------------===//
// Scales
//===----------------------------------------------------------------------===//

Dequantizer::FloatPair Dequantizer::loadTwo(Value pointer,
                                            quant_llm::FloatType type) {
  auto fromVector = [&](Type elementType, unsigned align) -> FloatPair {
    Value both = b.load(b.pair(elementType), pointer, align);
    return {b.toF32(b.extract(both, 0)), b.toF32(b.extract(both, 1))};
  };
  switch (type) {
  case quant_llm::FloatType::F16:
    return fromVector(b.getF16Type(), 4);
  case quant_llm::FloatType::BF16:
    return fromVector(b.getBF16Type(), 4);
  case quant_llm::FloatType::F32:
    return fromVector(b.getF32Type(), 8);
  default:
    break;
  }
  Value both = arith::ExtUIOp::create(b, b.i32Type(),
                                      b.load(b.getI16Type(), pointer, 2));
  return {decodeByte(b.bitAnd(both, 0xff), type),
          decodeByte(b.shiftRight(both, 8), type)};
}

Value Dequantizer::decodeByte(Value byte, quant_llm::FloatType type) {
  if (type == quant_llm::FloatType::F8E8M0FNU) {
    // 2^(code - 127): the code is the exponent field; 0 is the subnormal
    // 2^-127.
    Value bits = b.max(b.shiftLeft(byte, 23), b.i32(1 << 22));
    return b.bitcast(bits, b.f32Type());
  }
  // f8E4M3FN in the place of exponent and mantissa of f32 is the number times
  // 2^-120.
  Value magnitude = b.shiftLeft(b.bitAnd(byte, 0x7f), 20);
  Value sign = b.shiftLeft(b.bitAnd(byte, 0x80), 24);
  return b.mulF(b.bitcast(b.bitOr(magnitude, sign), b.f32Type()),
                b.f32(std::ldexp(1.0f, 120)));
}

Dequantizer::FloatPair Dequantizer::loadTwoZeros(Value pointer) {
  if (hasFloatZero())
    return loadTwo(pointer, getPackedZeroType(problem.scheme));
  Value both = arith::ExtUIOp::create(b, b.i32Type(),
                                      b.load(b.getI16Type(), pointer, 2));
  auto toFloat = [&](Value integer) {
    return Value(arith::UIToFPOp::create(b, b.f32Type(), integer));
  };
  return {toFloat(b.bitAnd(both, 0xff)), toFloat(b.shiftRight(both, 8))};
}

Value Dequantizer::at(Value base, Value offset) {
  return base.getType().isInteger(32) ? b.sharedPointer(b.add(base, offset))
                                      : b.offsetPointer(base, offset);
}

/// Of two values, which may be one.
template <typename Function>
static std::pair<Value, Value> forBoth(std::pair<Value, Value> values,
                                       Function function) {
  Value first = function(values.first);
  return {first,
          values.second == values.first ? first : function(values.second)};
}

Dequantizer::FloatPair Dequantizer::scaled(FloatPair values, double factor) {
  return forBoth(values, [&](Value value) {
    // The factors of bf16 are beyond the range of f32; the products are not.
    if (constexpr double large = 0x1p100; factor > large)
      return b.mulF(b.mulF(value, b.f32(large)), b.f32(factor / large));
    return factor == 1 ? value : b.mulF(value, b.f32(factor));
  });
}

Value Dequantizer::restOf(FloatPair values) {
  return pack(forBoth(values, [&](Value value) {
    Value rounded = b.toF32(b.fromF32(value, element));
    return b.fma(rounded, b.f32(-1.0f), value);
  }));
}

Value Dequantizer::multiply(Value pairs, double factor) {
  return factor == 1 ? pairs : b.mulF(pairs, b.pairConstant(element, factor));
}

void Dequantizer::fill(ScaleRegisters &registers, unsigned half,
                       FloatPair scales, FloatPair zeros) {
  double shift = std::ldexp(1.0, -scaleExponent());
  if (isCentered())
    zeros = {b.fma(scales.first, b.f32(bias()), zeros.first),
             b.fma(scales.second, b.f32(bias()), zeros.second)};
  if (hasTwoSteps()) {
    // The unit values are exact; the scale rounds once.
    FloatPair factors = scaled(scales, std::ldexp(shift, unitExponent()));
    registers.factor[half][0] = pack(factors);
    if (addsRests(problem))
      registers.factorRest[half] = restOf(factors);
  } else {
    std::vector<unsigned> all = positions();
    FloatPair factors =
        scaled(scales, std::ldexp(shift, exponent(all.front())));
    Value first = pack(factors);
    if (addsRests(problem))
      registers.factorRest[half] = restOf(factors);
    for (unsigned position : all)
      registers.factor[half][position] = multiply(
          first, std::ldexp(1.0, exponent(position) - exponent(all.front())));
    if (isInteger() && !hasFloatZero() && bias() != 0)
      registers.addend[half] =
          multiply(first, -std::ldexp(bias(), -exponent(all.front())));
  }
  if (hasIntegerZero())
    registers.addend[half] =
        scaledPair(zeros, -std::ldexp(1.0, -unitExponent()));
  else if (hasFloatZero()) {
    FloatPair addends = scaled(zeros, std::ldexp(shift, -tableExponent));
    registers.addend[half] = pack(addends);
    if (addsRests(problem))
      registers.addendRest[half] = restOf(addends);
  }
}

ScaleRegisters Dequantizer::channelRegisters(Value zeros, Value lane) {
  ScaleRegisters registers;
  if (hasIntegerZero()) {
    FloatPair rows = loadTwoZeros(
        at(zeros, b.mul(b.div(lane, 4), 2 * getZeroBytes(problem.scheme))));
    registers.addend[0] =
        scaledPair({rows.first, rows.first}, -std::ldexp(1.0, -unitExponent()));
    registers.addend[1] = scaledPair({rows.second, rows.second},
                                     -std::ldexp(1.0, -unitExponent()));
  }
  return registers;
}

ScaleRegisters Dequantizer::groupRegisters(Value scales, Value zeros,
                                           Value lane) {
  // Rows g and g + 8 are neighbours.
  Value group = b.div(lane, 4);
  FloatPair rows =
      loadTwo(at(scales, b.mul(group, 2 * getScaleBytes(problem.scheme))),
              getPackedScaleType(problem.scheme));
  FloatPair zeroRows;
  if (zeros)
    zeroRows =
        loadTwoZeros(at(zeros, b.mul(group, 2 * getZeroBytes(problem.scheme))));
  ScaleRegisters registers;
  fill(registers, 0, {rows.first, rows.first},
       {zeroRows.first, zeroRows.first});
  fill(registers, 1, {rows.second, rows.second},
       {zeroRows.second, zeroRows.second});
  return registers;
}

ScaleRegisters Dequantizer::columnRegisters(Value scales, Value zeros,
                                            Value lane) {
  ScaleRegisters registers;
  Value column = b.mul(b.bitAnd(lane, 3), 2);
  for (unsigned half : {0u, 1u}) {
    Value first = b.add(column, 8 * half);
    FloatPair columns =
        loadTwo(at(scales, b.mul(first, getScaleBytes(problem.scheme))),
                getPackedScaleType(problem.scheme));
    FloatPair zeroColumns;
    if (zeros)
      zeroColumns =
          loadTwoZeros(at(zeros, b.mul(first, getZeroBytes(problem.scheme))));
    fill(registers, half, columns, zeroColumns);
  }
  return registers;
}

Value Dequantizer::channelScale(Value scales, Value row) {
  // Row r of a strip is number 2*(r % 8) + r/8.
  Value inStrip = b.rem(row, kStripRows);
  Value index = b.add(b.sub(row, inStrip),
                      b.add(b.mul(b.bitAnd(inStrip, 7), 2), b.div(inStrip, 8)));
  quant_llm::FloatType type = getPackedScaleType(problem.scheme);
  int64_t bytes = getScaleBytes(problem.scheme);
  Value pointer = at(scales, b.mul(index, bytes));
  if (bytes == 1)
    return decodeByte(arith::ExtUIOp::create(b, b.i32Type(),
                                             b.load(b.getI8Type(), pointer, 1)),
                      type);
  Type stored = type == quant_llm::FloatType::F16    ? Type(b.getF16Type())
                : type == quant_llm::FloatType::BF16 ? Type(b.getBF16Type())
                                                     : Type(b.getF32Type());
  return b.toF32(b.load(stored, pointer, bytes));
}

//===----------------------------------------------------------------------===//
// Fragments
//===----------------------------------------------------------------------===//

Value Dequantizer::rawValue(PackedUnit &unit, unsigned step, unsigned r) {
  const ElementFormat &format = problem.scheme.element;
  if (isTable())
    return tableLookup(unit, step, r);
  Value bits;
  if (isInteger()) {
    bits = unit.gather(step, r, 0, format.bits, position(r) - (isBF16 ? 3 : 0));
  } else {
    // Magnitude and sign in the places that f16 (bf16) has for them: the
    // number times a power of two, subnormals included.
    const SmallFloat &small = *getSmallFloat(format.kind);
    Value magnitude = unit.gather(step, r, 0, format.bits - 1,
                                  (isBF16 ? 7 : 10) - small.mantissaBits);
    Value sign = unit.gather(step, r, format.bits - 1, 1, 15);
    bits = b.bitOr(magnitude, sign);
  }
  return b.bitcast(bits, b.pair(element));
}

Value Dequantizer::applyScale(Value raw, unsigned position,
                              const ScaleRegisters &registers, unsigned half) {
  const auto &factors = registers.factor[half];
  Value addend = registers.addend[half];
  auto unitConstant = [&]() {
    return b.pairConstant(element, -std::ldexp(bias(), -unitExponent()));
  };
  auto toUnit = [&](Value addend) {
    Value factor = b.pairConstant(
        element, std::ldexp(1.0, exponent(position) - unitExponent()));
    return addend ? b.fma(raw, factor, addend) : b.mulF(raw, factor);
  };
  // Mode Channel.
  if (factors.empty()) {
    if (!isInteger())
      return multiply(raw, std::ldexp(1.0, exponent(position)));
    if (!addend && bias() != 0)
      addend = unitConstant();
    return toUnit(addend);
  }
  auto scale = [&](Value value, Value factor, Value addend) {
    Value product =
        addend ? b.fma(value, factor, addend) : b.mulF(value, factor);
    Value rest = registers.factorRest[half];
    if (!rest)
      return product;
    // A rest of the zero comes when the product is rounded: it would vanish in
    // a sum with the zero.
    if (Value zeroRest = registers.addendRest[half])
      return b.addF(product, b.fma(value, rest, zeroRest));
    return b.fma(value, factor, b.mulF(value, rest));
  };
  // Exact unit values first.
  if (auto it = factors.find(0); isInteger() && it != factors.end()) {
    if (hasIntegerZero())
      return scale(toUnit(addend), it->second, Value());
    return scale(toUnit(bias() != 0 ? unitConstant() : Value()), it->second,
                 addend);
  }
  return scale(raw, factors.at(isInteger() ? position : 0), addend);
}

Values Dequantizer::fragment(PackedUnit &unit, unsigned step,
                             const ScaleRegisters &registers) {
  PTXBuilder::Scope scope(b, "dequantize");
  Values result;
  for (unsigned r = 0; r != 4; ++r) {
    unsigned half = scaleMode == ScaleMode::Column ? r >> 1 : r & 1;
    Value scaled =
        applyScale(rawValue(unit, step, r), position(r), registers, half);
    result.push_back(b.bitcast(scaled, b.i32Type()));
  }
  return result;
}

Values Dequantizer::fragment(PackedUnit &unit, unsigned step,
                             const ScaleRegisters &before,
                             const ScaleRegisters &after, Value boundary,
                             Value lane) {
  PTXBuilder::Scope scope(b, "dequantize");
  Values result;
  Value column = b.mul(b.bitAnd(lane, 3), 2);
  for (unsigned r = 0; r != 4; ++r) {
    Value raw = rawValue(unit, step, r);
    auto scaled = [&](const ScaleRegisters &registers) {
      return b.bitcast(applyScale(raw, position(r), registers, r & 1),
                       b.i32Type());
    };
    Value first = b.add(column, 8 * (r >> 1));
    auto mask = [&](Value at, int64_t bits) {
      return b.select(b.less(at, boundary), b.i32(bits), b.i32(0));
    };
    Value keep = b.bitOr(mask(first, 0xffff),
                         mask(b.add(first, 1), int64_t(0xffff) << 16));
    Value old = b.bitAnd(scaled(before), keep);
    Value fresh = b.bitAnd(scaled(after), b.bitXor(keep, b.i32(-1)));
    result.push_back(b.bitOr(old, fresh));
  }
  return result;
}
