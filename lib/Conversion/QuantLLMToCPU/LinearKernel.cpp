//===- LinearKernel.cpp - Linear layers with dense or quantized weights ---===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A kernel of floats has two paths and chooses by the number of tokens.
//
// Panels (many tokens): every thread takes columns of the result, unpacks the
// weights of these columns and a block of K into an f32 panel that stays in its
// cache, and multiplies the whole of x with it in register tiles.
//
// Streaming (few tokens): memory is the limit, so codes are read once and
// unpacked in registers along K; x is laid out once per call in the order in
// which a byte gives up its codes. The codes of a group are multiplied as they
// are, and the scale and the zero are applied to the sum:
//   sum_k x_k s (v_k - z) = s (sum_k x_k v_k - z sum_k x_k)
// An infinite x_k would make NaN of the right side whatever v_k - z is, so
// calls with such an x take the panels, which multiply with the weights
// themselves.
//
// Integers (a quantized input): both operands are contiguous along K, so sums
// of products of 16-bit integers are kept in vectors of 32-bit ones along K for
// a tile of rows and tokens; scales are applied to the exact sums of runs of K.
//
// All apply the epilogue to vectors of the result when they store it.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToCPU/KernelEmitter.h"

#include "KernelBuilder.h"
#include "SmallWork.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Support/Rounding.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "llvm/ADT/SetVector.h"
#include "llvm/TargetParser/Host.h"

#include <algorithm>
#include <cmath>
#include <functional>

using namespace mlir;

namespace quant_llm {

unsigned getHostVectorBits() {
  return getVectorBits(llvm::sys::getHostCPUFeatures());
}

unsigned getVectorBits(const llvm::StringMap<bool> &features) {
  if (features.lookup("avx512f"))
    return 512;
  if (features.lookup("avx2") || features.lookup("avx"))
    return 256;
  return 128;
}

//===----------------------------------------------------------------------===//
// Formats
//===----------------------------------------------------------------------===//

static Type floatStorageType(MLIRContext *context, FloatType type) {
  switch (type) {
  case FloatType::F16:
    return Float16Type::get(context);
  case FloatType::BF16:
    return BFloat16Type::get(context);
  case FloatType::F32:
    return Float32Type::get(context);
  case FloatType::F8E8M0FNU:
  case FloatType::F8E4M3FN:
    return IntegerType::get(context, 8);
  }
  return {};
}

namespace {
/// The small floating-point elements, all of which are f16 values after moving
/// their bits and multiplying with a power of two.
struct SmallFloat {
  int64_t mantissa;
  int64_t bias;
};
} // namespace

static std::optional<SmallFloat> getSmallFloat(ElementKind kind) {
  switch (kind) {
  case ElementKind::F4E2M1FN:
    return SmallFloat{1, 1};
  case ElementKind::F6E2M3FN:
    return SmallFloat{3, 1};
  case ElementKind::F6E3M2FN:
    return SmallFloat{2, 3};
  case ElementKind::F8E4M3FN:
    return SmallFloat{3, 7};
  case ElementKind::F8E5M2:
    return SmallFloat{2, 15};
  default:
    return std::nullopt;
  }
}

static bool isTable(ElementKind kind) {
  return kind == ElementKind::NF4 || kind == ElementKind::Codebook;
}

static bool isSigned(ElementKind kind) {
  return kind == ElementKind::Int || kind == ElementKind::Ternary;
}

static bool isInteger(ElementKind kind) {
  return isSigned(kind) || kind == ElementKind::UInt;
}

//===----------------------------------------------------------------------===//
// Reading weights
//===----------------------------------------------------------------------===//

namespace {

/// Emits the reading of one weight.
class Weight {
public:
  Weight(KernelBuilder &b, const LinearKernelSpec &spec,
         const KernelWeight &weight)
      : b(b), n(spec.n), k(spec.k), weight(weight), scheme(weight.scheme) {
    if (isQuantized()) {
      // Kept in range here, so that verify() has an object to look at.
      bits = std::clamp(scheme.element.bits, 1u, 8u);
      blockN = std::max<int64_t>(
          scheme.blockN < 0 ? n : std::min(scheme.blockN, n), 1);
      blockK = std::max<int64_t>(
          scheme.blockK < 0 ? k : std::min(scheme.blockK, k), 1);
      groups = ceilDiv(k, blockK);
      if ((isInteger(kind()) || inRegister()) && 8 % bits == 0)
        phases = 8 / bits;
      // Blocks that end inside of the bytes of one vector take the natural
      // order of codes, or cannot be streamed.
      if (groups > 1 && blockK % (phases * b.lanes) != 0)
        phases = 1;
    } else {
      blockN = n;
      blockK = k;
    }
  }

  bool isQuantized() const { return !weight.denseType; }
  ElementKind kind() const { return scheme.element.kind; }
  /// The values are looked up in a table; in one register with AVX-512.
  bool hasTable() const {
    return isTable(kind()) ||
           (kind() == ElementKind::F4E2M1FN && b.lanes == 16);
  }
  /// Integers of all phases but the last are looked up too: a permutation of a
  /// register replaces mask and conversion, and uses other units of the core
  /// than the conversion of the last phase.
  bool mixesTable() const {
    return isInteger(kind()) && phases > 1 && b.lanes == 16;
  }
  bool inRegister() const { return hasTable() && b.lanes == 16 && bits <= 4; }
  bool hasZero() const {
    return isQuantized() && scheme.zero != ZeroKind::None;
  }
  bool canStream() const { return groups == 1 || blockK % b.lanes == 0; }
  /// Codes that streaming reads at once.
  int64_t chunk() const { return phases * b.lanes; }
  int64_t bytes(int64_t codes) const { return ceilDiv(codes * bits, 8); }

  SmallVector<Type> types();
  void bind(ValueRange arguments);

  /// v(q) of the codes [k0, k0 + count) of a row, as f32, in order; lanes from
  /// `count` on have any finite value. k0 is a multiple of the lanes.
  Value read(Value row, Value k0, int64_t count);
  /// The same for one chunk, split: vector p has the codes with
  /// k % phases == p. The true values are `factor()` times these.
  Values readChunk(Value row, Value k0, int64_t count);
  float factor() const { return streamFactor; }
  /// In all phases but the last, readChunk() gives v(q) + offset(): signed
  /// codes are read as unsigned ones with the sign bit inverted, which saves a
  /// shift.
  int64_t offset() const {
    return phases > 1 && isSigned(kind()) && !mixesTable() ? 1 << (bits - 1)
                                                           : 0;
  }
  void prefetch(Value row, Value k0, int64_t ahead);
  /// The codes [k0, k0 + count) of a row, as i16; of 2 * lanes, those from
  /// `count` on have any value. The bits of k0 codes are whole bytes.
  Value readIntegers(Value row, Value k0, int64_t count);

  /// The scale and the zero of a row and group as f32. `row` < n.
  Value scale(Value row, Value group) { return decode(scales, row, group); }
  Value zero(Value row, Value group) { return decode(zeros, row, group); }
  /// An integer zero as i16.
  Value integerZero(Value row, Value group) {
    Value stored =
        memref::LoadOp::create(b, zeros, ValueRange{b.div(row, blockN), group});
    return arith::ExtUIOp::create(b, b.getI16Type(), stored);
  }
  /// Scales that need no decoding, and no zeros.
  bool hasPlainScales() const {
    return !hasZero() &&
           (scheme.scaleScheme || scheme.scaleType == FloatType::F32);
  }
  /// What multiplies the sum of x for this zero.
  Value negatedZero(Value zero) {
    if (scheme.zero != ZeroKind::Integer)
      return zero;
    return arith::NegFOp::create(b, zero);
  }
  /// Writes the scales (and zeros) of the rows [row0, row1) as f32 to buffers
  /// [row - row0, group]; zeros as negatedZero().
  void decodeRows(Value row0, Value row1, Value scaleBuffer, Value zeroBuffer);

  KernelBuilder &b;
  const int64_t n, k;
  int64_t blockN = 1, blockK = 1, groups = 1;
  int64_t phases = 1;
  const KernelWeight &weight;
  const Scheme &scheme;

private:
  Value decode(Value memref, Value row, Value group);
  Value decode(Value stored, FloatType type, bool isInteger);
  Value lookUp(Value indices);
  Value loadSome(Value row, Value byte, int64_t valid);
  Value loadBytes(Value row, Value byte, int64_t valid, int64_t size);
  Value readNatural(Value row, Value k0, int64_t count, float &factor);

  int64_t bits = 0;
  float streamFactor = 1.0f;
  Value codes, scales, zeros, dense, table;
};

} // namespace

SmallVector<Type> Weight::types() {
  if (!isQuantized())
    return {MemRefType::get({n, k}, weight.denseType)};
  int64_t rows = ceilDiv(n, blockN);
  MLIRContext *context = b.getContext();
  Type scale = scheme.scaleScheme ? Type(b.getF32Type())
                                  : floatStorageType(context, scheme.scaleType);
  SmallVector<Type> result{MemRefType::get({n, bytes(k)}, b.getI8Type()),
                           MemRefType::get({rows, groups}, scale)};
  if (scheme.zero == ZeroKind::Integer)
    result.push_back(MemRefType::get({rows, groups}, b.getI8Type()));
  else if (scheme.zero == ZeroKind::Float)
    result.push_back(MemRefType::get(
        {rows, groups}, floatStorageType(context, scheme.zeroType)));
  return result;
}

void Weight::bind(ValueRange arguments) {
  if (!isQuantized()) {
    dense = arguments[0];
    return;
  }
  codes = arguments[0];
  scales = arguments[1];
  if (hasZero())
    zeros = arguments[2];
  std::optional<SmallFloat> format = getSmallFloat(kind());
  if (format && !hasTable())
    streamFactor = std::ldexp(1.0f, 15 - format->bias);
  if (hasTable() || mixesTable()) {
    // A table on the stack is a constant to LLVM and needs no symbol.
    Result<Element> element = Element::get(scheme.element);
    assert(element.ok() && "verified before");
    const std::vector<float> &values = element->table();
    int64_t size = std::max<int64_t>(values.size(), b.lanes);
    table = memref::AllocaOp::create(b, MemRefType::get({size}, b.getF32Type()),
                                     b.getI64IntegerAttr(64));
    for (int64_t i = 0; i < size; i += b.lanes) {
      SmallVector<float> part;
      for (int64_t j = i; j < i + b.lanes; ++j)
        part.push_back(values[j % values.size()]);
      Value vector = arith::ConstantOp::create(
          b, DenseElementsAttr::get(b.vecF32(), ArrayRef<float>(part)));
      vector::StoreOp::create(b, vector, table, ValueRange{b.index(i)});
    }
  }
}

/// At least `valid` bytes, those after them undefined.
Value Weight::loadSome(Value row, Value byte, int64_t valid) {
  Type i8 = b.getI8Type();
  // A mask instead of pieces, where the instruction set has one for bytes.
  if (b.lanes == 16 && valid < 16 && !llvm::isPowerOf2_64(valid)) {
    VectorType type = b.vec(i8, 16);
    Value mask = vector::CreateMaskOp::create(b, b.vec(b.getI1Type(), 16),
                                              ValueRange{b.index(valid)});
    return vector::MaskedLoadOp::create(b, type, codes, ValueRange{row, byte},
                                        mask, b.integer(type, 0));
  }
  return vector::LoadOp::create(b, b.vec(i8, valid), codes,
                                ValueRange{row, byte});
}

Value Weight::loadBytes(Value row, Value byte, int64_t valid, int64_t size) {
  Value loaded = loadSome(row, byte, valid);
  int64_t have = cast<VectorType>(loaded.getType()).getNumElements();
  if (have == size)
    return loaded;
  SmallVector<int64_t> mask;
  for (int64_t i = 0; i < size; ++i)
    mask.push_back(i < have ? i : 0);
  return b.shuffle(loaded, loaded, mask);
}

Value Weight::readNatural(Value row, Value k0, int64_t count, float &factor) {
  factor = 1.0f;
  int64_t lanes = b.lanes;
  if (!isQuantized()) {
    if (count == lanes)
      return b.load(dense, {row, k0});
    // Only the last columns of a row come here.
    return b.load(dense, {row, k0}, b.mask(b.index(count)));
  }
  ElementKind kind = scheme.element.kind;
  VectorType i16 = b.vec(b.getI16Type(), lanes),
             i32 = b.vec(b.getI32Type(), lanes);
  Value byte = b.div(b.mul(k0, bits), 8);
  int64_t valid = bytes(count);

  // The 16 bits from the byte in which the code of each lane begins.
  Value wide;
  if (bits == 8) {
    wide = loadBytes(row, byte, valid, lanes);
    if (isInteger(kind)) {
      Value extended = isSigned(kind)
                           ? Value(arith::ExtSIOp::create(b, i32, wide))
                           : Value(arith::ExtUIOp::create(b, i32, wide));
      return arith::SIToFPOp::create(b, b.vecF32(), extended);
    }
    wide = arith::ExtUIOp::create(b, i16, wide);
  } else {
    SmallVector<int64_t> bytesOfLane, shifts;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      int64_t first = std::min(lane * bits / 8, valid - 1);
      bytesOfLane.push_back(first);
      bytesOfLane.push_back(std::min(first + 1, valid - 1));
      shifts.push_back(lane * bits % 8);
    }
    Value loaded = loadSome(row, byte, valid);
    Value pairs = b.shuffle(loaded, loaded, bytesOfLane);
    wide = vector::BitCastOp::create(b, i16, pairs);
    bool left = isSigned(kind);
    SmallVector<Attribute> amounts;
    for (int64_t shift : shifts)
      amounts.push_back(b.getI16IntegerAttr(left ? 16 - bits - shift : shift));
    Value amount =
        arith::ConstantOp::create(b, DenseElementsAttr::get(i16, amounts));
    if (left) {
      wide = arith::ShLIOp::create(b, wide, amount);
      wide = arith::ShRSIOp::create(b, wide, b.integer(i16, 16 - bits));
    } else {
      wide = arith::ShRUIOp::create(b, wide, amount);
      wide = arith::AndIOp::create(b, wide, b.integer(i16, (1 << bits) - 1));
    }
  }
  if (isInteger(kind)) {
    Value extended = isSigned(kind)
                         ? Value(arith::ExtSIOp::create(b, i32, wide))
                         : Value(arith::ExtUIOp::create(b, i32, wide));
    return arith::SIToFPOp::create(b, b.vecF32(), extended);
  }
  if (hasTable())
    return lookUp(arith::ExtUIOp::create(b, i32, wide));
  std::optional<SmallFloat> format = getSmallFloat(kind);
  factor = std::ldexp(1.0f, 15 - format->bias);
  Value sign = arith::ShLIOp::create(
      b, arith::AndIOp::create(b, wide, b.integer(i16, 1 << (bits - 1))),
      b.integer(i16, 16 - bits));
  Value magnitude =
      arith::AndIOp::create(b, wide, b.integer(i16, (1 << (bits - 1)) - 1));
  Value moved = arith::ShLIOp::create(b, magnitude,
                                      b.integer(i16, 10 - format->mantissa));
  if (kind == ElementKind::F8E4M3FN) {
    // The one NaN of the format; f16 would read it as 480.
    Value isNaN = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, magnitude,
                                        b.integer(i16, 0x7f));
    moved = arith::SelectOp::create(b, isNaN, b.integer(i16, 0x7e00), moved);
  }
  Value half = vector::BitCastOp::create(b, b.vec(b.getF16Type(), lanes),
                                         arith::OrIOp::create(b, sign, moved));
  return b.toF32(half);
}

/// The table entries of a vector of indices.
Value Weight::lookUp(Value indices) {
  int64_t lanes = b.lanes,
          entries = cast<MemRefType>(table.getType()).getDimSize(0);
  if (lanes != 16) {
    Value all = b.integer(b.vec(b.getI1Type(), lanes), 1);
    return vector::GatherOp::create(b, b.vecF32(), table,
                                    ValueRange{b.index(0)}, indices, all,
                                    b.zeroVector());
  }
  // With AVX-512 a permutation of registers does what a gather does with
  // sixteen loads; upstream vector ops cannot say it. It takes the low bits of
  // an index; the higher ones choose among registers.
  Values parts;
  for (int64_t i = 0; i < std::max<int64_t>(entries, lanes); i += lanes)
    parts.push_back(
        vector::LoadOp::create(b, b.vecF32(), table, ValueRange{b.index(i)}));
  Values found;
  for (size_t i = 0; i < parts.size(); i += 2) {
    bool two = i + 1 < parts.size();
    auto call = LLVM::CallIntrinsicOp::create(
        b, b.vecF32(),
        b.getStringAttr(two ? "llvm.x86.avx512.vpermi2var.ps.512"
                            : "llvm.x86.avx512.permvar.sf.512"),
        two ? ValueRange{parts[i], indices, parts[i + 1]}
            : ValueRange{parts[i], indices});
    found.push_back(call.getResult(0));
  }
  for (uint64_t bit = 2 * lanes; found.size() > 1; bit *= 2) {
    Type type = indices.getType();
    Value isHigh = arith::CmpIOp::create(
        b, arith::CmpIPredicate::ne,
        arith::AndIOp::create(b, indices, b.integer(type, bit)),
        b.integer(type, 0));
    Values next;
    for (size_t i = 0; i < found.size(); i += 2)
      next.push_back(
          arith::SelectOp::create(b, isHigh, found[i + 1], found[i]));
    found = next;
  }
  return found.back();
}

Value Weight::read(Value row, Value k0, int64_t count) {
  float factor;
  Value value = readNatural(row, k0, count, factor);
  if (factor == 1.0f)
    return value;
  return arith::MulFOp::create(b, value, b.floatVector(factor));
}

Values Weight::readChunk(Value row, Value k0, int64_t count) {
  float factor;
  if (phases == 1)
    return {readNatural(row, k0, count, factor)};
  // Byte i of the chunk has the codes of lane i.
  VectorType i32 = b.vec(b.getI32Type(), b.lanes);
  Value loaded =
      loadBytes(row, b.div(b.mul(k0, bits), 8), bytes(count), b.lanes);
  bool isSignedCode = isSigned(kind());
  Value wide = isSignedCode ? Value(arith::ExtSIOp::create(b, i32, loaded))
                            : Value(arith::ExtUIOp::create(b, i32, loaded));
  Values result;
  for (int64_t p = 0; p < phases; ++p) {
    Value code = wide;
    bool isLast = p + 1 == phases;
    if (p > 0) {
      Value shift = b.integer(i32, p * bits);
      code = isLast && isSignedCode
                 ? Value(arith::ShRSIOp::create(b, code, shift))
                 : Value(arith::ShRUIOp::create(b, code, shift));
    }
    if (hasTable() || (mixesTable() && !isLast)) {
      // A permutation looks at the low bits only, and the table repeats.
      result.push_back(lookUp(code));
      continue;
    }
    if (!isLast) {
      if (isSignedCode)
        code = arith::XOrIOp::create(b, code, b.integer(i32, offset()));
      code = arith::AndIOp::create(b, code, b.integer(i32, (1 << bits) - 1));
    }
    result.push_back(arith::SIToFPOp::create(b, b.vecF32(), code));
  }
  return result;
}

Value Weight::readIntegers(Value row, Value k0, int64_t count) {
  const int64_t size = 2 * b.lanes;
  VectorType i16 = b.vec(b.getI16Type(), size);
  if (bits == 8) {
    Value loaded = loadBytes(row, k0, count, size);
    if (isSigned(kind()))
      return arith::ExtSIOp::create(b, i16, loaded);
    return arith::ExtUIOp::create(b, i16, loaded);
  }
  // Four bits: the low ones of a byte first.
  Value loaded = loadBytes(row, b.div(k0, 2), bytes(count), size / 2);
  Value low = arith::AndIOp::create(b, loaded, b.integer(loaded.getType(), 15));
  Value high =
      arith::ShRUIOp::create(b, loaded, b.integer(loaded.getType(), 4));
  SmallVector<int64_t> mask;
  for (int64_t i = 0; i < size / 2; ++i)
    mask.append({i, i + size / 2});
  Value codes = arith::ExtUIOp::create(b, i16, b.shuffle(low, high, mask));
  if (!isSigned(kind()))
    return codes;
  codes = arith::XOrIOp::create(b, codes, b.integer(i16, 8));
  return arith::SubIOp::create(b, codes, b.integer(i16, 8));
}

void Weight::prefetch(Value row, Value k0, int64_t ahead) {
  Value memref = isQuantized() ? codes : dense;
  int64_t size =
      isQuantized() ? 1 : weight.denseType.getIntOrFloatBitWidth() / 8;
  Value column = isQuantized() ? b.div(b.mul(k0, bits), 8) : k0;
  memref::PrefetchOp::create(
      b, memref, ValueRange{row, b.add(column, ahead / size)},
      /*isWrite=*/false, /*localityHint=*/3, /*isDataCache=*/true);
}

/// An f32 (or a vector of them) from a stored scale or zero.
Value Weight::decode(Value stored, FloatType type, bool isInteger) {
  Type stype = stored.getType();
  if (isa<mlir::FloatType>(getElementTypeOrSelf(stype)))
    return b.toF32(stored);
  auto typed = [&](Type element) -> Type {
    return isa<VectorType>(stype) ? Type(b.vec(element, b.lanes)) : element;
  };
  Type i16 = typed(b.getI16Type()), i32 = typed(b.getI32Type());
  if (isInteger)
    return arith::SIToFPOp::create(b, typed(b.getF32Type()),
                                   arith::ExtUIOp::create(b, i32, stored));
  auto equals = [&](Value value, uint64_t pattern) {
    return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, value,
                                 b.integer(value.getType(), pattern));
  };
  if (type == FloatType::F8E8M0FNU) {
    Value code = arith::ExtUIOp::create(b, i32, stored);
    Value pattern = arith::ShLIOp::create(b, code, b.integer(i32, 23));
    // 2^-127 is subnormal in f32, and 255 is NaN.
    pattern = arith::SelectOp::create(b, equals(code, 0),
                                      b.integer(i32, 0x400000), pattern);
    pattern = arith::SelectOp::create(b, equals(code, 255),
                                      b.integer(i32, 0x7fc00000), pattern);
    return arith::BitcastOp::create(b, typed(b.getF32Type()), pattern);
  }
  Value code = arith::ExtUIOp::create(b, i16, stored);
  Value magnitude = arith::AndIOp::create(b, code, b.integer(i16, 0x7f));
  Value moved = arith::ShLIOp::create(b, magnitude, b.integer(i16, 7));
  moved = arith::SelectOp::create(b, equals(magnitude, 0x7f),
                                  b.integer(i16, 0x7e00), moved);
  Value sign = arith::ShLIOp::create(
      b, arith::AndIOp::create(b, code, b.integer(i16, 0x80)),
      b.integer(i16, 8));
  Value half = b.toF32(arith::BitcastOp::create(
      b, typed(b.getF16Type()), arith::OrIOp::create(b, sign, moved)));
  Value factor =
      isa<VectorType>(stype) ? b.floatVector(256.0f) : b.floatScalar(256.0f);
  return arith::MulFOp::create(b, half, factor);
}

Value Weight::decode(Value memref, Value row, Value group) {
  Value stored =
      memref::LoadOp::create(b, memref, ValueRange{b.div(row, blockN), group});
  bool isZero = memref == zeros;
  return decode(stored, isZero ? scheme.zeroType : scheme.scaleType,
                isZero && scheme.zero == ZeroKind::Integer);
}

void Weight::decodeRows(Value row0, Value row1, Value scaleBuffer,
                        Value zeroBuffer) {
  bool isInteger = scheme.zero == ZeroKind::Integer;
  if (blockN != 1) {
    b.loop(row0, row1, 1, [&](Value row) {
      b.loop(b.index(0), b.index(groups), 1, [&](Value group) {
        Values at{b.sub(row, row0), group};
        memref::StoreOp::create(b, scale(row, group), scaleBuffer, at);
        if (zeroBuffer)
          memref::StoreOp::create(b, negatedZero(zero(row, group)), zeroBuffer,
                                  at);
      });
    });
    return;
  }
  // The rows are one piece of memory, and so are those of the buffer.
  auto flat = [&](Value memref) -> Value {
    auto type = cast<MemRefType>(memref.getType());
    SmallVector<ReassociationIndices> all{{0, 1}};
    return memref::CollapseShapeOp::create(
        b, MemRefType::get({type.getNumElements()}, type.getElementType()),
        memref, all);
  };
  Value first = b.mul(row0, groups), count = b.mul(b.sub(row1, row0), groups);
  auto piece = [&](Value stored, Value buffer, FloatType type, bool isZero) {
    Value from = flat(stored), to = flat(buffer);
    VectorType vector =
        b.vec(cast<MemRefType>(from.getType()).getElementType(), b.lanes);
    auto convert = [&](Value i, Value mask) {
      Value at = b.add(first, i);
      Value loaded = mask ? Value(vector::MaskedLoadOp::create(
                                b, vector, from, at, mask,
                                arith::ConstantOp::create(
                                    b, vector, b.getZeroAttr(vector))))
                          : Value(vector::LoadOp::create(b, vector, from, at));
      Value value = decode(loaded, type, isZero && isInteger);
      if (isZero)
        value = negatedZero(value);
      b.store(value, to, i, mask);
    };
    Value whole = b.roundDown(count, b.lanes);
    b.loop(b.index(0), whole, b.lanes, [&](Value i) { convert(i, nullptr); });
    b.when(b.less(whole, count),
           [&] { convert(whole, b.mask(b.sub(count, whole))); });
  };
  piece(scales, scaleBuffer, scheme.scaleType, false);
  if (zeroBuffer)
    piece(zeros, zeroBuffer, scheme.zeroType, true);
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

namespace {

class LinearKernel {
public:
  LinearKernel(KernelBuilder &b, const LinearKernelSpec &spec)
      : b(b), spec(spec) {
    for (const KernelWeight &weight : spec.weights)
      weights.emplace_back(b, spec, weight);
  }

  SmallVector<Type> types();
  LogicalResult verify();
  void emit(func::FuncOp function);

private:
  // Streaming.
  void emitStreaming();
  void emitStreamingRows(int64_t tokens);
  void layOutTokens();
  Value isFinite();
  Values streamGroup(Weight &weight, ArrayRef<Value> rows,
                     ArrayRef<Value> tokens, Value group, Value chunk0,
                     int64_t chunks, int64_t tail, ValueRange sums);
  Values getRows(Value row0, int64_t rowCount);
  Values getTokens(Value token0, int64_t tokenCount);
  void emitStreamingBlock(size_t index, Value row0, int64_t rowCount,
                          Value token0, int64_t tokenCount);

  // Integers.
  void emitIntegers();
  void emitIntegerBlock(size_t index, Value row0, int64_t rowCount,
                        Value token0, int64_t tokenCount);
  Values multiplyRun(Weight &weight, ArrayRef<Value> rows,
                     ArrayRef<Value> tokenRows, Value k0, int64_t length,
                     Value group);
  Value addProducts(Value sum, Value lhs, Value rhs);

  // Panels.
  void emitPanels();
  void emitPanel(Value n0, int64_t depth, Value input, ArrayRef<Value> buffers);
  void fillPanel(Weight &weight, Value panel, Value row0, Value column0,
                 Value k0, Value k1, Value scaleBuffer, Value zeroBuffer);
  void fillScales(Weight &weight, Value row0, Value k0, Value k1,
                  Value scaleBuffer, Value zeroBuffer);

  /// Stores the vector of results at [m, n0 ...] from f32 sums.
  void finish(ArrayRef<Value> sums, Value m, Value n0);

  KernelBuilder &b;
  const LinearKernelSpec &spec;
  SmallVector<Weight, 2> weights;
  Value x, y, count;
  // The scales of a quantized input.
  Value inputScales;
  Values operands;
  // Of the streaming path, per weight: x in the order of the codes, two kinds
  // of sums of x per group, and the results before the epilogue.
  Values tokens, tokenSums, tokenBases, results;
  // Of one task: its first row, and scales and zeros of its rows as f32.
  Value taskRow;
  Values scaleBuffers, zeroBuffers;
};

} // namespace

SmallVector<Type> LinearKernel::types() {
  auto activation = [&](int64_t columns, Type element) {
    int64_t dynamic = ShapedType::kDynamic;
    return MemRefType::get(
        {dynamic, columns}, element,
        StridedLayoutAttr::get(b.getContext(), dynamic, {dynamic, 1}));
  };
  SmallVector<Type> result{activation(spec.k, spec.inputType)};
  if (spec.inputGroup > 0)
    result.push_back(
        activation(ceilDiv(spec.k, spec.inputGroup), b.getF32Type()));
  for (Weight &weight : weights)
    llvm::append_range(result, weight.types());
  for (const KernelEpilogueOperand &operand : spec.operands)
    result.push_back(operand.perChannel
                         ? MemRefType::get({spec.n}, operand.elementType)
                         : activation(spec.n, operand.elementType));
  result.push_back(activation(spec.n, spec.resultType));
  return result;
}

LogicalResult LinearKernel::verify() {
  auto fail = [&](const Twine &message) {
    return emitError(b.getLoc()) << message;
  };
  auto isFloat = [](Type type) {
    return type && (type.isF32() || type.isF16() || type.isBF16());
  };
  if (spec.n < 1 || spec.k < 1)
    return fail("expected a kernel of at least one row and column but got " +
                Twine(spec.n) + "x" + Twine(spec.k));
  if (spec.weights.empty() || spec.weights.size() > 2)
    return fail("expected one or two weights but got " +
                Twine(spec.weights.size()));
  const bool isInteger = spec.inputGroup > 0;
  if (isInteger && !(spec.inputType && spec.inputType.isInteger(16)))
    return fail("expected i16 as the type of a quantized input");
  if ((!isInteger && !isFloat(spec.inputType)) || !isFloat(spec.resultType))
    return fail("expected f32, f16 or bf16 as the types of input and result");
  if (spec.vectorBits != 128 && spec.vectorBits != 256 &&
      spec.vectorBits != 512)
    return fail("expected a vector width of 128, 256 or 512 bits but got " +
                Twine(spec.vectorBits));
  for (const KernelWeight &weight : spec.weights) {
    if (weight.denseType) {
      if (!isFloat(weight.denseType))
        return fail("expected f32, f16 or bf16 as the type of a dense weight");
      continue;
    }
    const Scheme &scheme = weight.scheme;
    if (scheme.element.bits < 1 || scheme.element.bits > 8)
      return fail("expected codes of 1 to 8 bits but got " +
                  Twine(scheme.element.bits));
    for (int64_t block : {scheme.blockN, scheme.blockK})
      if (block < 1 && block != -1)
        return fail("expected a positive block or -1 but got " + Twine(block));
    if (Status status = verifyElement(scheme.element); !status.ok())
      return fail(status.message());
  }
  for (const KernelWeight &weight : spec.weights)
    if (isInteger &&
        !canMultiplyIntegers(weight, spec.k, spec.inputGroup, /*largest=*/1))
      return fail("expected weights that can be multiplied as integers");
  if (!spec.epilogue) {
    if (spec.weights.size() != 1 || !spec.operands.empty())
      return fail("expected an epilogue with two weights or extra operands");
    return success();
  }
  if (spec.epilogue->getNumArguments() !=
          spec.weights.size() + spec.operands.size() ||
      !spec.epilogue->mightHaveTerminator() ||
      spec.epilogue->back().getNumOperands() != 1)
    return fail(
        "expected an epilogue of one argument per weight and operand, and "
        "one result");
  for (Operation &op : spec.epilogue->without_terminator()) {
    bool pointwise = op.hasTrait<OpTrait::ConstantLike>() ||
                     OpTrait::hasElementwiseMappableTraits(&op);
    if (!pointwise || op.getNumRegions() != 0)
      return op.emitError()
             << "expected a pointwise op in the epilogue but got '"
             << op.getName() << "'";
    for (Value operand : op.getOperands())
      if (operand.getParentBlock() != spec.epilogue)
        return op.emitError()
               << "expected an epilogue that uses only its own values";
  }
  return success();
}

void LinearKernel::emit(func::FuncOp function) {
  Block *entry = function.addEntryBlock();
  b.setInsertionPointToEnd(entry);
  ArrayRef<BlockArgument> arguments = entry->getArguments();
  x = arguments.front();
  y = arguments.back();
  arguments = arguments.drop_front();
  if (spec.inputGroup > 0)
    inputScales = arguments.consume_front();
  for (Weight &weight : weights) {
    size_t size = weight.types().size();
    weight.bind(Values(arguments.take_front(size)));
    arguments = arguments.drop_front(size);
  }
  operands.assign(arguments.begin(), arguments.drop_back().end());
  count = memref::DimOp::create(b, x, 0);
  if (inputScales) {
    emitIntegers();
    func::ReturnOp::create(b);
    return;
  }

  // Infinities cancel where sums of x are subtracted from each other.
  bool subtracts = false;
  for (Weight &weight : weights)
    subtracts |= weight.hasZero() || weight.offset() != 0;

  // Measured crossings; with long rows, the tokens leave the first-level cache.
  int64_t fewTokens = spec.fewTokens ? spec.fewTokens : spec.k <= 2048 ? 12 : 8;
  for (Weight &weight : weights)
    if (!weight.canStream())
      fewTokens = -1;
  if (fewTokens < 0) {
    emitPanels();
  } else {
    Value few = b.less(count, b.index(fewTokens + 1));
    if (subtracts)
      few = b.choose(
          few, [&] { return Values{isFinite()}; },
          [&] { return Values{few}; })[0];
    b.when(few, [&] { emitStreaming(); }, [&] { emitPanels(); });
  }
  func::ReturnOp::create(b);
}

/// True (i1) if no element of x is infinite or NaN.
Value LinearKernel::isFinite() {
  // A product with zero is NaN for these and zero for all others.
  int64_t whole = spec.k / b.lanes * b.lanes;
  auto addProduct = [&](Value m, Value k, Value sum, Value mask) {
    return b.fma(b.load(x, {m, k}, mask), b.zeroVector(), sum);
  };
  Values sum = b.loop(
      b.index(0), count, 1, b.zeroVector(), [&](Value m, ValueRange outer) {
        Values next = b.loop(b.index(0), b.index(whole), b.lanes, outer,
                             [&](Value k, ValueRange inner) -> Values {
                               return {addProduct(m, k, inner[0], Value())};
                             });
        if (whole < spec.k)
          next[0] = addProduct(m, b.index(whole), next[0],
                               b.mask(b.index(spec.k - whole)));
        return next;
      });
  Value total =
      vector::ReductionOp::create(b, vector::CombiningKind::ADD, sum[0]);
  return arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, total,
                               b.floatScalar(0.0f));
}

void LinearKernel::finish(ArrayRef<Value> sums, Value m, Value n0) {
  Value mask;
  if (spec.n % b.lanes != 0)
    mask = b.mask(b.sub(b.index(spec.n), n0));
  Value result = sums[0];
  if (spec.epilogue) {
    IRMapping map;
    for (auto [argument, sum] : llvm::zip(spec.epilogue->getArguments(), sums))
      map.map(argument, sum);
    for (auto [i, operand] : llvm::enumerate(spec.operands)) {
      Values at = operand.perChannel ? Values{n0} : Values{m, n0};
      VectorType type = b.vec(operand.elementType, b.lanes);
      Value loaded;
      if (mask)
        loaded = vector::MaskedLoadOp::create(
            b, type, operands[i], at, mask,
            arith::ConstantOp::create(b, type, b.getZeroAttr(type)));
      else
        loaded = vector::LoadOp::create(b, type, operands[i], at);
      map.map(spec.epilogue->getArgument(sums.size() + i), loaded);
    }
    for (Operation &op : spec.epilogue->without_terminator()) {
      if (op.hasTrait<OpTrait::ConstantLike>()) {
        Operation *scalar = b.clone(op);
        map.map(op.getResult(0), b.splat(scalar->getResult(0)));
        continue;
      }
      OperationState state(b.getLoc(), op.getName());
      for (Value operand : op.getOperands())
        state.addOperands(map.lookup(operand));
      for (Type type : op.getResultTypes())
        state.addTypes(b.vec(type, b.lanes));
      state.addAttributes(op.getAttrs());
      Operation *wide = b.create(state);
      map.map(op.getResults(), wide->getResults());
    }
    result = map.lookup(spec.epilogue->back().getOperand(0));
    if (result.getType() != b.vec(spec.resultType, b.lanes))
      result = b.toF32(result);
  }
  b.store(result, y, {m, n0}, mask);
}

//===----------------------------------------------------------------------===//
// Streaming
//===----------------------------------------------------------------------===//

void LinearKernel::layOutTokens() {
  for (auto [i, weight] : llvm::enumerate(weights)) {
    // The second weight of a pair mostly has the layout of the first.
    bool reuse = i == 1 && weight.phases == weights[0].phases &&
                 weight.factor() == weights[0].factor();
    int64_t chunk = weight.chunk(), phases = weight.phases;
    int64_t padded = roundUp(spec.k, chunk);
    if (reuse) {
      tokens.push_back(tokens[0]);
    } else {
      Value buffer = b.allocate({ShapedType::kDynamic, padded}, count);
      tokens.push_back(buffer);
      auto layOut = [&](Value m, Value k0, int64_t size) {
        Values parts;
        for (int64_t p = 0; p < phases; ++p) {
          int64_t valid = std::clamp<int64_t>(size - p * b.lanes, 0, b.lanes);
          if (valid == 0) {
            parts.push_back(b.zeroVector());
            continue;
          }
          Value mask = valid < b.lanes ? b.mask(b.index(valid)) : Value();
          Value part = b.load(x, {m, b.add(k0, p * b.lanes)}, mask);
          if (weight.factor() != 1.0f)
            part =
                arith::MulFOp::create(b, part, b.floatVector(weight.factor()));
          parts.push_back(part);
        }
        // Split even from odd elements until each vector is one phase.
        std::function<Values(Values)> split = [&](Values list) -> Values {
          if (list.size() == 1)
            return list;
          SmallVector<int64_t> evenMask, oddMask;
          for (int64_t lane = 0; lane < b.lanes; ++lane) {
            evenMask.push_back(2 * lane);
            oddMask.push_back(2 * lane + 1);
          }
          Values even, odd, result;
          for (size_t j = 0; j < list.size(); j += 2) {
            even.push_back(b.shuffle(list[j], list[j + 1], evenMask));
            odd.push_back(b.shuffle(list[j], list[j + 1], oddMask));
          }
          even = split(even);
          odd = split(odd);
          for (size_t j = 0; j < even.size(); ++j) {
            result.push_back(even[j]);
            result.push_back(odd[j]);
          }
          return result;
        };
        for (auto [p, part] : llvm::enumerate(split(parts)))
          b.store(part, buffer, {m, b.add(k0, p * b.lanes)});
      };
      int64_t whole = spec.k / chunk * chunk;
      b.loop(b.index(0), count, 1, [&](Value m) {
        b.loop(b.index(0), b.index(whole), chunk,
               [&](Value k0) { layOut(m, k0, chunk); });
        if (whole < spec.k)
          layOut(m, b.index(whole), spec.k - whole);
      });
    }
    // Sums of x over the lanes of each group: all for a zero, and what the
    // offset of the codes adds, negated.
    tokenSums.push_back(nullptr);
    tokenBases.push_back(nullptr);
    Value buffer = tokens.back();
    auto sumUp = [&, &weight = weight](int64_t usedPhases, float factor) {
      Value sums =
          b.allocate({ShapedType::kDynamic, weight.groups * b.lanes}, count);
      int64_t perGroup = weight.groups == 1 ? padded : weight.blockK;
      b.loop(b.index(0), count, 1, [&](Value m) {
        b.loop(b.index(0), b.index(weight.groups), 1, [&](Value group) {
          Value from = b.mul(group, perGroup);
          Value to = b.min(b.add(from, perGroup), b.index(padded));
          Values sum = b.loop(
              from, to, chunk, b.zeroVector(),
              [&](Value at, ValueRange carried) -> Values {
                Value next = carried[0];
                for (int64_t p = 0; p < usedPhases; ++p)
                  next = arith::AddFOp::create(
                      b, next, b.load(buffer, {m, b.add(at, p * b.lanes)}));
                return {next};
              });
          if (factor != 1.0f)
            sum[0] = arith::MulFOp::create(b, sum[0], b.floatVector(factor));
          b.store(sum[0], sums, {m, b.mul(group, b.lanes)});
        });
      });
      return sums;
    };
    // Small floats have x times their factor in the buffer.
    if (weight.hasZero())
      tokenSums.back() = sumUp(phases, 1.0f / weight.factor());
    if (weight.offset())
      tokenBases.back() = sumUp(phases - 1, -weight.offset());
  }
}

/// Adds a group of `rows` to `sums` (rows x tokens vectors, to be added up over
/// lanes at the end): `chunks` whole chunks from chunk0 and `tail` codes.
Values LinearKernel::streamGroup(Weight &weight, ArrayRef<Value> rows,
                                 ArrayRef<Value> tokenRows, Value group,
                                 Value chunk0, int64_t chunks, int64_t tail,
                                 ValueRange sums) {
  size_t at = &weight - weights.data();
  int64_t phases = weight.phases, chunk = weight.chunk();
  size_t cells = rows.size() * tokenRows.size();
  int64_t ahead = spec.prefetchBytes ? spec.prefetchBytes : 2048;
  int64_t chunkBytes =
      weight.isQuantized()
          ? chunk * int64_t(weight.scheme.element.bits) / 8
          : chunk * weight.weight.denseType.getIntOrFloatBitWidth() / 8;
  // A long loop needs independent chains of additions: one per phase.
  bool isLong = chunks * phases > 8;
  int64_t chains = isLong ? std::max<int64_t>(phases, 2) : 1;

  auto step = [&](Value k0, int64_t size, ValueRange partial, int64_t unrolled,
                  bool fetch) {
    Values next(partial);
    Values xs;
    for (Value m : tokenRows)
      for (int64_t p = 0; p < phases; ++p)
        xs.push_back(b.load(tokens[at], {m, b.add(k0, p * b.lanes)}));
    for (auto [r, row] : llvm::enumerate(rows)) {
      Values parts = weight.readChunk(row, k0, size);
      if (fetch && ahead > 0)
        weight.prefetch(row, k0, ahead);
      for (size_t m = 0; m < tokenRows.size(); ++m)
        for (int64_t p = 0; p < phases; ++p) {
          Value &sum = next[(r * tokenRows.size() + m) * chains +
                            (unrolled * phases + p) % chains];
          Value xp = xs[m * phases + p];
          sum = sum ? b.fma(parts[p], xp, sum)
                    : Value(arith::MulFOp::create(b, parts[p], xp));
        }
    }
    return next;
  };

  Value k0 = b.mul(chunk0, chunk);
  Values partial(cells * chains, isLong ? b.zeroVector() : Value());
  if (weight.offset())
    for (size_t cell = 0; cell < cells; ++cell)
      partial[cell * chains] =
          b.load(tokenBases[at],
                 {tokenRows[cell % tokenRows.size()], b.mul(group, b.lanes)});
  if (isLong) {
    // About one prefetch per cache line.
    int64_t unroll = std::max<int64_t>(
        std::clamp<int64_t>(64 / chunkBytes, 1, 2), chains / phases);
    int64_t whole = chunks / unroll * unroll;
    partial = b.loop(b.index(0), b.index(whole), unroll, partial,
                     [&](Value c, ValueRange carried) {
                       Values next(carried);
                       for (int64_t u = 0; u < unroll; ++u)
                         next = step(b.add(k0, b.mul(b.add(c, u), chunk)),
                                     chunk, next, u, u * chunkBytes % 64 == 0);
                       return next;
                     });
    for (int64_t c = whole; c < chunks; ++c)
      partial = step(b.add(k0, c * chunk), chunk, partial, c, false);
  } else {
    for (int64_t c = 0; c < chunks; ++c)
      partial = step(b.add(k0, c * chunk), chunk, partial, c,
                     c * chunkBytes % 64 == 0);
  }
  if (tail > 0)
    partial = step(b.add(k0, chunks * chunk), tail, partial, chunks, false);

  Values xSums;
  if (weight.hasZero())
    for (Value token : tokenRows)
      xSums.push_back(b.load(tokenSums[at], {token, b.mul(group, b.lanes)}));
  Values result(sums);
  for (auto [r, row] : llvm::enumerate(rows)) {
    Value scale, zero;
    if (scaleBuffers[at]) {
      Values in{b.sub(row, taskRow), group};
      scale = b.splat(memref::LoadOp::create(b, scaleBuffers[at], in));
      if (weight.hasZero())
        zero = b.splat(memref::LoadOp::create(b, zeroBuffers[at], in));
    } else if (weight.isQuantized()) {
      scale = b.splat(weight.scale(row, group));
      if (weight.hasZero())
        zero = b.splat(weight.negatedZero(weight.zero(row, group)));
    }
    for (size_t m = 0; m < tokenRows.size(); ++m) {
      size_t cell = r * tokenRows.size() + m;
      Value sum = partial[cell * chains];
      for (int64_t chain = 1; chain < chains; ++chain)
        sum = arith::AddFOp::create(b, sum, partial[cell * chains + chain]);
      if (!scale) {
        result[cell] = arith::AddFOp::create(b, result[cell], sum);
        continue;
      }
      if (zero && weight.scheme.zero == ZeroKind::Integer)
        sum = b.fma(zero, xSums[m], sum);
      result[cell] = b.fma(scale, sum, result[cell]);
      if (zero && weight.scheme.zero == ZeroKind::Float)
        result[cell] = b.fma(zero, xSums[m], result[cell]);
    }
  }
  return result;
}

/// The rows of a block; those past the end are the last one.
Values LinearKernel::getRows(Value row0, int64_t rowCount) {
  Values rows;
  for (int64_t r = 0; r < rowCount; ++r) {
    Value row = b.add(row0, r);
    rows.push_back(spec.n % rowCount == 0 ? row
                                          : b.min(row, b.index(spec.n - 1)));
  }
  return rows;
}

/// The same for tokens.
Values LinearKernel::getTokens(Value token0, int64_t tokenCount) {
  Values tokens;
  Value last = b.sub(count, b.index(1));
  for (int64_t m = 0; m < tokenCount; ++m)
    tokens.push_back(m == 0 ? token0 : b.min(b.add(token0, m), last));
  return tokens;
}

void LinearKernel::emitStreamingBlock(size_t at, Value row0, int64_t rowCount,
                                      Value token0, int64_t tokenCount) {
  Weight &weight = weights[at];
  Values rows = getRows(row0, rowCount);
  Values tokenRows = getTokens(token0, tokenCount);

  int64_t chunk = weight.chunk();
  int64_t perGroup =
      weight.groups == 1 ? spec.k / chunk : weight.blockK / chunk;
  int64_t wholeGroups = spec.k / weight.blockK;
  int64_t rest = spec.k - wholeGroups * weight.blockK;
  Values sums(rowCount * tokenCount, b.zeroVector());
  if (weight.groups == 1) {
    sums = streamGroup(weight, rows, tokenRows, b.index(0), b.index(0),
                       perGroup, spec.k % chunk, sums);
  } else {
    sums = b.loop(b.index(0), b.index(wholeGroups), 1, sums,
                  [&](Value group, ValueRange carried) {
                    return streamGroup(weight, rows, tokenRows, group,
                                       b.mul(group, perGroup), perGroup, 0,
                                       carried);
                  });
    if (rest > 0)
      sums = streamGroup(weight, rows, tokenRows, b.index(wholeGroups),
                         b.index(wholeGroups * perGroup), rest / chunk,
                         rest % chunk, sums);
  }
  for (int64_t r = 0; r < rowCount; ++r)
    for (int64_t m = 0; m < tokenCount; ++m) {
      Value sum = vector::ReductionOp::create(b, vector::CombiningKind::ADD,
                                              sums[r * tokenCount + m],
                                              arith::FastMathFlags::reassoc);
      memref::StoreOp::create(b, sum, results[at],
                              ValueRange{tokenRows[m], b.add(row0, r)});
    }
}

void LinearKernel::emitStreamingRows(int64_t tokenCount) {
  // More rows share more loads of x, as long as the sums stay in registers.
  int64_t rowCount = spec.rowsPerPass  ? spec.rowsPerPass
                     : tokenCount == 1 ? 4
                                       : 2;
  // Tasks of whole vectors of the result.
  int64_t block = roundUp(std::clamp<int64_t>(spec.n / 32, 1, 64),
                          std::max<int64_t>(b.lanes, rowCount));
  auto task = [&](Value index) {
    Value from = b.mul(index, block);
    Value to = b.min(b.add(from, block), b.index(spec.n));
    taskRow = from;
    SmallVector<KernelBuilder::BufferShape> shapes;
    for (Weight &weight : weights)
      if (weight.groups > 1 && !weight.hasPlainScales())
        shapes.append(weight.hasZero() ? 2 : 1,
                      KernelBuilder::BufferShape{{block, weight.groups}, {}});
    b.withBuffers(shapes, [&](ArrayRef<Value> buffers) {
      scaleBuffers.assign(weights.size(), Value());
      zeroBuffers.assign(weights.size(), Value());
      for (auto [at, weight] : llvm::enumerate(weights)) {
        if (weight.groups > 1 && !weight.hasPlainScales()) {
          scaleBuffers[at] = buffers.consume_front();
          if (weight.hasZero())
            zeroBuffers[at] = buffers.consume_front();
          weight.decodeRows(from, to, scaleBuffers[at], zeroBuffers[at]);
        }
        b.loop(from, to, rowCount, [&](Value row) {
          if (tokenCount == 1)
            emitStreamingBlock(at, row, rowCount, b.index(0), 1);
          else
            b.loop(b.index(0), count, tokenCount, [&](Value token) {
              emitStreamingBlock(at, row, rowCount, token, tokenCount);
            });
        });
      }
      b.loop(b.index(0), tokenCount == 1 ? b.index(1) : count, 1, [&](Value m) {
        b.loop(from, to, b.lanes, [&](Value n0) {
          Values sums;
          for (Value result : results)
            sums.push_back(b.load(result, {m, n0}));
          finish(sums, m, n0);
        });
      });
    });
  };
  int64_t tasks = ceilDiv(spec.n, block);
  bool isSmall = tokenCount == 1 && spec.n * spec.k * int64_t(weights.size()) <
                                        kLeastParallelLinear;
  if (tasks == 1)
    task(b.index(0));
  else if (isSmall)
    b.loop(b.index(0), b.index(tasks), 1, task);
  else
    b.parallel({b.index(tasks)}, [&](ValueRange ivs) { task(ivs[0]); });
}

void LinearKernel::emitStreaming() {
  layOutTokens();
  for (size_t at = 0; at < weights.size(); ++at)
    results.push_back(
        b.allocate({ShapedType::kDynamic, roundUp(spec.n, b.lanes)}, count));
  int64_t tokenCount = spec.tokensPerPass ? spec.tokensPerPass : 4;
  b.when(
      b.equal(count, b.index(1)), [&] { emitStreamingRows(1); },
      [&] { emitStreamingRows(tokenCount); });
  llvm::SmallSetVector<Value, 8> buffers;
  for (const Values &list : {tokens, tokenSums, tokenBases, results})
    for (Value buffer : list)
      if (buffer)
        buffers.insert(buffer);
  for (Value buffer : buffers)
    b.release(buffer);
}

//===----------------------------------------------------------------------===//
// Integers
//===----------------------------------------------------------------------===//

/// Elements of K over which neither the input nor the weight changes its scale.
static int64_t getRun(int64_t k, int64_t inputGroup, int64_t weightGroup) {
  return std::min({k, inputGroup, weightGroup});
}

bool canMultiplyIntegers(const KernelWeight &weight, int64_t k,
                         int64_t inputGroup, int64_t largest) {
  const Scheme &scheme = weight.scheme;
  if (weight.denseType || scheme.zero == ZeroKind::Float ||
      (scheme.element.kind != ElementKind::Int &&
       scheme.element.kind != ElementKind::UInt) ||
      (scheme.element.bits != 4 && scheme.element.bits != 8))
    return false;
  const int64_t weightGroup =
      scheme.blockK < 0 ? k : std::min(scheme.blockK, k);
  const int64_t group = std::min(inputGroup, k);
  const int64_t run = getRun(k, group, weightGroup);
  // Runs are counted, and begin at whole bytes.
  if ((group < k && group % run != 0) ||
      (weightGroup < k && weightGroup % run != 0) ||
      (run < k && run * scheme.element.bits % 8 != 0))
    return false;
  // A zero is any byte.
  const unsigned bits = scheme.zero == ZeroKind::None ? scheme.element.bits : 8;
  return largest * run < (int64_t(1) << 31) >> bits;
}

/// sum[i] + lhs[2i] * rhs[2i] + lhs[2i+1] * rhs[2i+1]
Value LinearKernel::addProducts(Value sum, Value lhs, Value rhs) {
  VectorType i32 = b.vec(b.getI32Type(), b.lanes);
  if (spec.hasPairProducts) {
    auto call = LLVM::CallIntrinsicOp::create(
        b, i32,
        b.getStringAttr(b.lanes == 16 ? "llvm.x86.avx512.pmaddw.d.512"
                                      : "llvm.x86.avx2.pmadd.wd"),
        ValueRange{lhs, rhs});
    return arith::AddIOp::create(b, sum, call.getResult(0));
  }
  VectorType wide = b.vec(b.getI32Type(), 2 * b.lanes);
  Value product = arith::MulIOp::create(b, arith::ExtSIOp::create(b, wide, lhs),
                                        arith::ExtSIOp::create(b, wide, rhs));
  SmallVector<int64_t> even, odd;
  for (int64_t i = 0; i < b.lanes; ++i) {
    even.push_back(2 * i);
    odd.push_back(2 * i + 1);
  }
  sum = arith::AddIOp::create(b, sum, b.shuffle(product, product, even));
  return arith::AddIOp::create(b, sum, b.shuffle(product, product, odd));
}

/// The sums of products of codes, rows x tokens vectors to be added up over
/// lanes, over `length` elements from k0 on.
Values LinearKernel::multiplyRun(Weight &weight, ArrayRef<Value> rows,
                                 ArrayRef<Value> tokenRows, Value k0,
                                 int64_t length, Value group) {
  const int64_t size = 2 * b.lanes;
  VectorType i16 = b.vec(b.getI16Type(), size);
  Values zeros;
  if (weight.hasZero())
    for (Value row : rows)
      zeros.push_back(
          vector::BroadcastOp::create(b, i16, weight.integerZero(row, group)));
  auto step = [&](Value k, int64_t valid, ValueRange sums) {
    Values next(sums), xs;
    Value mask;
    if (valid < size)
      mask = vector::CreateMaskOp::create(b, b.vec(b.getI1Type(), size),
                                          ValueRange{b.index(valid)});
    for (Value m : tokenRows)
      xs.push_back(
          mask ? Value(vector::MaskedLoadOp::create(b, i16, x, ValueRange{m, k},
                                                    mask, b.integer(i16, 0)))
               : Value(vector::LoadOp::create(b, i16, x, ValueRange{m, k})));
    for (auto [r, row] : llvm::enumerate(rows)) {
      Value codes = weight.readIntegers(row, k, valid);
      if (weight.hasZero())
        codes = arith::SubIOp::create(b, codes, zeros[r]);
      for (size_t m = 0; m < tokenRows.size(); ++m) {
        Value &sum = next[r * tokenRows.size() + m];
        sum = addProducts(sum, codes, xs[m]);
      }
    }
    return next;
  };
  Values sums(rows.size() * tokenRows.size(),
              b.integer(b.vec(b.getI32Type(), b.lanes), 0));
  const int64_t whole = length / size * size;
  if (whole > 0)
    sums = b.loop(b.index(0), b.index(whole), size, sums,
                  [&](Value k, ValueRange carried) {
                    return step(b.add(k0, k), size, carried);
                  });
  if (whole < length)
    sums = step(b.add(k0, whole), length - whole, sums);
  return sums;
}

void LinearKernel::emitIntegerBlock(size_t at, Value row0, int64_t rowCount,
                                    Value token0, int64_t tokenCount) {
  Weight &weight = weights[at];
  Values rows = getRows(row0, rowCount);
  Values tokenRows = getTokens(token0, tokenCount);

  const int64_t inputGroup = std::min(spec.inputGroup, spec.k);
  const int64_t run = getRun(spec.k, inputGroup, weight.blockK);
  auto scaleOf = [&](size_t cell, Value k0) -> Value {
    Value row = rows[cell / tokenRows.size()];
    Value token = tokenRows[cell % tokenRows.size()];
    Value ofInput = memref::LoadOp::create(
        b, inputScales, ValueRange{token, b.div(k0, inputGroup)});
    return arith::MulFOp::create(b, ofInput,
                                 weight.scale(row, b.div(k0, weight.blockK)));
  };
  auto storeSum = [&](size_t cell, Value sum) {
    memref::StoreOp::create(b, sum, results[at],
                            ValueRange{tokenRows[cell % tokenRows.size()],
                                       b.add(row0, cell / tokenRows.size())});
  };
  if (run == spec.k) {
    Value k0 = b.index(0);
    Values sums = multiplyRun(weight, rows, tokenRows, k0, run, k0);
    for (auto [cell, sum] : llvm::enumerate(sums)) {
      Value total =
          vector::ReductionOp::create(b, vector::CombiningKind::ADD, sum);
      total = arith::SIToFPOp::create(b, b.getF32Type(), total);
      storeSum(cell, arith::MulFOp::create(b, scaleOf(cell, k0), total));
    }
    return;
  }
  auto addRun = [&](Value k0, int64_t length, ValueRange carried) {
    Values sums = multiplyRun(weight, rows, tokenRows, k0, length,
                              b.div(k0, weight.blockK));
    for (auto [cell, sum] : llvm::enumerate(sums))
      sum = b.fma(b.splat(scaleOf(cell, k0)),
                  arith::SIToFPOp::create(b, b.vecF32(), sum), carried[cell]);
    return sums;
  };
  const int64_t whole = spec.k / run * run;
  Values totals(rowCount * tokenCount, b.zeroVector());
  totals = b.loop(
      b.index(0), b.index(whole), run, totals,
      [&](Value k0, ValueRange carried) { return addRun(k0, run, carried); });
  if (whole < spec.k)
    totals = addRun(b.index(whole), spec.k - whole, totals);
  for (auto [cell, total] : llvm::enumerate(totals))
    storeSum(cell,
             vector::ReductionOp::create(b, vector::CombiningKind::ADD, total,
                                         arith::FastMathFlags::reassoc));
}

void LinearKernel::emitIntegers() {
  for (size_t at = 0; at < weights.size(); ++at)
    results.push_back(
        b.allocate({ShapedType::kDynamic, roundUp(spec.n, b.lanes)}, count));
  // Sums of a tile, and what they are made of, stay in registers.
  const int64_t rowCount = 4, tokenCount = b.lanes == 16 ? 4 : 2;
  // Tokens whose codes stay in the first-level cache over all rows of a task.
  const int64_t tokenBlock =
      roundUp(std::clamp<int64_t>(16384 / spec.k, 1, 64), tokenCount);
  const int64_t block =
      roundUp(std::clamp<int64_t>(spec.n / 32, 1, 64), b.lanes);
  auto task = [&](Value index) {
    Value from = b.mul(index, block);
    Value to = b.min(b.add(from, block), b.index(spec.n));
    for (size_t at = 0; at < weights.size(); ++at)
      b.loop(b.index(0), count, tokenBlock, [&](Value first) {
        Value end = b.min(b.add(first, tokenBlock), count);
        b.loop(from, to, rowCount, [&](Value row) {
          b.when(
              b.equal(count, b.index(1)),
              [&] { emitIntegerBlock(at, row, rowCount, b.index(0), 1); },
              [&] {
                b.loop(first, end, tokenCount, [&](Value token) {
                  emitIntegerBlock(at, row, rowCount, token, tokenCount);
                });
              });
        });
      });
    b.loop(b.index(0), count, 1, [&](Value m) {
      b.loop(from, to, b.lanes, [&](Value n0) {
        Values sums;
        for (Value result : results)
          sums.push_back(b.load(result, {m, n0}));
        finish(sums, m, n0);
      });
    });
  };
  b.parallel({b.index(ceilDiv(spec.n, block))},
             [&](ValueRange ivs) { task(ivs[0]); });
  for (Value result : results)
    b.release(result);
}

//===----------------------------------------------------------------------===//
// Panels
//===----------------------------------------------------------------------===//

void LinearKernel::fillScales(Weight &weight, Value row0, Value k0, Value k1,
                              Value scaleBuffer, Value zeroBuffer) {
  int64_t columns = cast<MemRefType>(scaleBuffer.getType()).getDimSize(1);
  Value first = b.div(k0, weight.blockK);
  Value end = b.add(b.div(b.sub(k1, b.index(1)), weight.blockK), 1);
  b.loop(b.index(0), b.index(columns), 1, [&](Value column) {
    Value row = b.min(b.add(row0, column), b.index(spec.n - 1));
    b.loop(first, end, 1, [&](Value group) {
      Values at{b.sub(group, first), column};
      memref::StoreOp::create(b, weight.scale(row, group), scaleBuffer, at);
      if (zeroBuffer)
        memref::StoreOp::create(b, weight.zero(row, group), zeroBuffer, at);
    });
  });
}

/// panel[k - k0, column0 + i] = W[row0 + i, k] for i < lanes and k0 <= k < k1.
/// Columns row0 .. of the scale buffers belong to column 0.
void LinearKernel::fillPanel(Weight &weight, Value panel, Value row0,
                             Value column0, Value k0, Value k1,
                             Value scaleBuffer, Value zeroBuffer) {
  int64_t lanes = b.lanes;
  // `row0` and the columns of the buffers count from the first row of the
  // panel.
  Values rows;
  for (int64_t i = 0; i < lanes; ++i) {
    Value row = b.add(row0, i);
    rows.push_back(spec.n % lanes == 0 ? row : b.min(row, b.index(spec.n - 1)));
  }
  Value firstGroup = b.div(k0, weight.blockK);
  int64_t panelColumn = &weight - weights.data();
  panelColumn *= b.tileColumns() / int64_t(weights.size());
  auto block = [&](Value k, int64_t size) {
    Values parts;
    for (Value row : rows)
      parts.push_back(weight.read(row, k, size));
    parts = b.transpose(parts);
    bool oneGroup = weight.groups == 1 || weight.blockK % lanes == 0;
    Value scale, zero;
    for (int64_t i = 0; i < size; ++i) {
      Value value = parts[i];
      if (weight.isQuantized()) {
        if (i == 0 || !oneGroup) {
          Value group = b.sub(b.div(b.add(k, i), weight.blockK), firstGroup);
          scale = b.load(scaleBuffer, {group, column0});
          if (zeroBuffer)
            zero = b.load(zeroBuffer, {group, column0});
        }
        if (zero && weight.scheme.zero == ZeroKind::Integer)
          value = arith::SubFOp::create(b, value, zero);
        value = zero && weight.scheme.zero == ZeroKind::Float
                    ? b.fma(value, scale, zero)
                    : Value(arith::MulFOp::create(b, value, scale));
      }
      b.store(value, panel,
              {b.add(b.sub(k, k0), i), b.add(column0, panelColumn)});
    }
  };
  int64_t tail = spec.k % lanes;
  Value whole = tail ? b.min(k1, b.index(spec.k - tail)) : k1;
  b.loop(k0, whole, lanes, [&](Value k) { block(k, lanes); });
  if (tail)
    b.when(b.equal(k1, b.index(spec.k)),
           [&] { block(b.index(spec.k - tail), tail); });
}

void LinearKernel::emitPanels() {
  int64_t columns = b.tileColumns();
  int64_t perWeight = columns / int64_t(weights.size());
  // A panel of about 128 KiB stays in the second-level cache; blocks of equal
  // depth, a multiple of the lanes.
  int64_t most = spec.panelDepth ? spec.panelDepth : 32768 / columns;
  int64_t depthBlocks = ceilDiv(spec.k, roundUp(most, b.lanes));
  int64_t depth =
      std::min(spec.k, roundUp(ceilDiv(spec.k, depthBlocks), b.lanes));
  bool split = depth < spec.k;

  // Other input types are widened once, not in every tile.
  Value input = x;
  if (!spec.inputType.isF32()) {
    int64_t whole = spec.k / b.lanes * b.lanes;
    input = b.allocate({ShapedType::kDynamic, spec.k}, count);
    b.parallel({count}, [&](ValueRange m) {
      b.loop(b.index(0), b.index(whole), b.lanes,
             [&](Value k) { b.store(b.load(x, {m[0], k}), input, {m[0], k}); });
      if (whole < spec.k) {
        Value mask = b.mask(b.index(spec.k - whole));
        b.store(b.load(x, {m[0], b.index(whole)}, mask), input,
                {m[0], b.index(whole)}, mask);
      }
    });
  }

  b.parallel({b.index(ceilDiv(spec.n, perWeight))}, [&](ValueRange ivs) {
    Value n0 = b.mul(ivs[0], perWeight);
    SmallVector<KernelBuilder::BufferShape> shapes{{{depth, columns}, {}}};
    if (split)
      shapes.push_back({{ShapedType::kDynamic, columns},
                        {b.mul(b.ceilDiv(count, b.tileRows()), b.tileRows())}});
    else
      shapes.push_back({{b.tileRows(), columns}, {}});
    for (Weight &weight : weights) {
      int64_t groups =
          std::min(weight.groups, ceilDiv(depth, weight.blockK) + 1);
      if (weight.isQuantized())
        shapes.append(weight.hasZero() ? 2 : 1,
                      KernelBuilder::BufferShape{{groups, perWeight}, {}});
    }
    b.withBuffers(shapes, [&](ArrayRef<Value> buffers) {
      emitPanel(n0, depth, input, buffers);
    });
  });
  if (input != x)
    b.release(input);
}

/// The columns of the result from n0 on, `depth` of K at a time. `buffers` are
/// the panel, the sums, and scales and zeros of each weight that has them.
void LinearKernel::emitPanel(Value n0, int64_t depth, Value input,
                             ArrayRef<Value> buffers) {
  int64_t columns = b.tileColumns();
  int64_t perWeight = columns / int64_t(weights.size());
  bool split = depth < spec.k;
  Value panel = buffers.consume_front(), acc = buffers.consume_front();
  Values scaleBuffers, zeroBuffers;
  for (Weight &weight : weights) {
    scaleBuffers.push_back(weight.isQuantized() ? buffers.consume_front()
                                                : Value());
    zeroBuffers.push_back(weight.hasZero() ? buffers.consume_front() : Value());
  }

  auto store = [&](Value m, Value accRow) {
    b.loop(b.index(0), b.min(b.index(perWeight), b.sub(b.index(spec.n), n0)),
           b.lanes, [&](Value column) {
             Values sums;
             for (size_t at = 0; at < weights.size(); ++at)
               sums.push_back(
                   b.load(acc, {accRow, b.add(column, at * perWeight)}));
             finish(sums, m, b.add(n0, column));
           });
  };
  auto depthBlock = [&](Value k0) {
    Value k1 = b.min(b.add(k0, depth), b.index(spec.k));
    for (auto [at, weight] : llvm::enumerate(weights)) {
      if (weight.isQuantized())
        fillScales(weight, n0, k0, k1, scaleBuffers[at], zeroBuffers[at]);
      // Columns past the end stay undefined; they are never stored.
      Value end = b.min(b.index(perWeight), b.sub(b.index(spec.n), n0));
      b.loop(b.index(0), end, b.lanes, [&](Value column) {
        fillPanel(weight, panel, b.add(n0, column), column, k0, k1,
                  scaleBuffers[at], zeroBuffers[at]);
      });
    }
    b.tiles(
        count, b.sub(k1, k0), panel,
        [&](Value row, Value k) {
          return memref::LoadOp::create(b, input,
                                        ValueRange{row, b.add(k0, k)});
        },
        acc, split, split ? b.less(b.index(0), k0) : Value(),
        [&](Value from, Value to) {
          if (!split)
            b.loop(from, to, 1, [&](Value m) { store(m, b.sub(m, from)); });
        });
  };
  if (split) {
    b.loop(b.index(0), b.index(spec.k), depth, depthBlock);
    b.loop(b.index(0), count, 1, [&](Value m) { store(m, m); });
  } else {
    depthBlock(b.index(0));
  }
}

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

SmallVector<Type> getLinearKernelTypes(MLIRContext *context,
                                       const LinearKernelSpec &spec) {
  OpBuilder builder(context);
  KernelBuilder b(UnknownLoc::get(context), builder, spec.vectorBits);
  return LinearKernel(b, spec).types();
}

FailureOr<func::FuncOp> emitLinearKernel(OpBuilder &builder, Location loc,
                                         StringRef name,
                                         const LinearKernelSpec &spec) {
  KernelBuilder b(loc, builder, spec.vectorBits);
  LinearKernel kernel(b, spec);
  if (failed(kernel.verify()))
    return failure();
  auto function = func::FuncOp::create(
      b, name, b.getFunctionType(kernel.types(), TypeRange()));
  kernel.emit(function);
  return function;
}

} // namespace quant_llm
