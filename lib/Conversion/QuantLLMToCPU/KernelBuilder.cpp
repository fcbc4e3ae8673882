//===- KernelBuilder.cpp - Shared pieces of the CPU kernels ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelBuilder.h"

#include "mlir/IR/Matchers.h"

using namespace mlir;

namespace quant_llm {

static std::optional<int64_t> constant(Value value) {
  return getConstantIntValue(value);
}

Value KernelBuilder::index(int64_t value) {
  return arith::ConstantIndexOp::create(*this, value);
}

Value KernelBuilder::add(Value lhs, Value rhs) {
  auto a = constant(lhs), b = constant(rhs);
  if (a && b)
    return index(*a + *b);
  if (a && *a == 0)
    return rhs;
  if (b && *b == 0)
    return lhs;
  return arith::AddIOp::create(*this, lhs, rhs);
}

Value KernelBuilder::add(Value lhs, int64_t rhs) {
  return rhs == 0 ? lhs : add(lhs, index(rhs));
}

Value KernelBuilder::sub(Value lhs, Value rhs) {
  auto a = constant(lhs), b = constant(rhs);
  if (a && b)
    return index(*a - *b);
  if (b && *b == 0)
    return lhs;
  return arith::SubIOp::create(*this, lhs, rhs);
}

Value KernelBuilder::mul(Value lhs, Value rhs) {
  auto a = constant(lhs), b = constant(rhs);
  if (a && b)
    return index(*a * *b);
  if (a && *a == 1)
    return rhs;
  if (b && *b == 1)
    return lhs;
  return arith::MulIOp::create(*this, lhs, rhs);
}

Value KernelBuilder::mul(Value lhs, int64_t rhs) {
  return mul(lhs, index(rhs));
}

// Indices are never negative here, so the unsigned forms, which become shifts,
// are right.
Value KernelBuilder::div(Value lhs, int64_t rhs) {
  if (rhs == 1)
    return lhs;
  if (auto a = constant(lhs))
    return index(*a / rhs);
  return arith::DivUIOp::create(*this, lhs, index(rhs));
}

Value KernelBuilder::ceilDiv(Value lhs, int64_t rhs) {
  return div(add(lhs, rhs - 1), rhs);
}

Value KernelBuilder::min(Value lhs, Value rhs) {
  auto a = constant(lhs), b = constant(rhs);
  if (a && b)
    return index(std::min(*a, *b));
  return arith::MinSIOp::create(*this, lhs, rhs);
}

Value KernelBuilder::roundDown(Value lhs, int64_t rhs) {
  return mul(div(lhs, rhs), rhs);
}

Value KernelBuilder::less(Value lhs, Value rhs) {
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::slt, lhs, rhs);
}

Value KernelBuilder::equal(Value lhs, Value rhs) {
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::eq, lhs, rhs);
}

Value KernelBuilder::floatVector(float value) {
  return arith::ConstantOp::create(
      *this,
      DenseElementsAttr::get(vecF32(), getF32FloatAttr(value).getValue()));
}

Value KernelBuilder::floatScalar(float value) {
  return arith::ConstantOp::create(*this, getF32FloatAttr(value));
}

Value KernelBuilder::integer(Type type, uint64_t value) {
  unsigned width = getElementTypeOrSelf(type).getIntOrFloatBitWidth();
  APInt bits(width, value, /*isSigned=*/false, /*implicitTrunc=*/true);
  if (auto shaped = dyn_cast<VectorType>(type))
    return arith::ConstantOp::create(*this,
                                     DenseElementsAttr::get(shaped, bits));
  return arith::ConstantOp::create(*this, IntegerAttr::get(type, bits));
}

Value KernelBuilder::splat(Value scalar) {
  return vector::BroadcastOp::create(*this, vec(scalar.getType(), lanes),
                                     scalar);
}

static Type withElement(Type type, Type element) {
  if (auto vector = dyn_cast<VectorType>(type))
    return VectorType::get(vector.getShape(), element);
  return element;
}

Value KernelBuilder::toF32(Value value) {
  Type element = getElementTypeOrSelf(value.getType());
  if (element.isF32())
    return value;
  if (element.getIntOrFloatBitWidth() > 32)
    return arith::TruncFOp::create(
        *this, withElement(value.getType(), getF32Type()), value);
  return arith::ExtFOp::create(
      *this, withElement(value.getType(), getF32Type()), value);
}

Value KernelBuilder::fromF32(Value value, Type element) {
  if (getElementTypeOrSelf(value.getType()) == element)
    return value;
  if (element.getIntOrFloatBitWidth() > 32)
    return arith::ExtFOp::create(*this, withElement(value.getType(), element),
                                 value);
  return arith::TruncFOp::create(*this, withElement(value.getType(), element),
                                 value);
}

void KernelBuilder::loop(Value from, Value to, int64_t step, Body body) {
  auto op = scf::ForOp::create(*this, from, to, index(step));
  InsertionGuard guard(*this);
  setInsertionPoint(op.getBody()->getTerminator());
  body(op.getInductionVar());
}

Values KernelBuilder::loop(Value from, Value to, int64_t step, ValueRange init,
                           CarryBody body) {
  if (init.empty()) {
    loop(from, to, step, [&](Value iv) { (void)body(iv, ValueRange()); });
    return {};
  }
  auto op = scf::ForOp::create(*this, from, to, index(step), init);
  InsertionGuard guard(*this);
  setInsertionPointToEnd(op.getBody());
  Values next = body(op.getInductionVar(), op.getRegionIterArgs());
  scf::YieldOp::create(*this, next);
  return Values(op.getResults());
}

void KernelBuilder::parallel(ArrayRef<Value> counts,
                             llvm::function_ref<void(ValueRange)> body) {
  Values from(counts.size(), index(0)), step(counts.size(), index(1));
  auto op = scf::ParallelOp::create(*this, from, Values(counts), step);
  InsertionGuard guard(*this);
  setInsertionPoint(op.getBody()->getTerminator());
  body(op.getInductionVars());
}

void KernelBuilder::when(Value condition, llvm::function_ref<void()> then,
                         llvm::function_ref<void()> otherwise) {
  auto op = scf::IfOp::create(*this, condition, /*withElseRegion=*/!!otherwise);
  InsertionGuard guard(*this);
  setInsertionPoint(op.thenBlock()->getTerminator());
  then();
  if (otherwise) {
    setInsertionPoint(op.elseBlock()->getTerminator());
    otherwise();
  }
}

Values KernelBuilder::choose(Value condition, llvm::function_ref<Values()> then,
                             llvm::function_ref<Values()> otherwise) {
  // The result types are known only after the first branch was built.
  Block thenBlock, elseBlock;
  Values first, second;
  {
    InsertionGuard guard(*this);
    setInsertionPointToEnd(&thenBlock);
    first = then();
    scf::YieldOp::create(*this, first);
    setInsertionPointToEnd(&elseBlock);
    second = otherwise();
    scf::YieldOp::create(*this, second);
  }
  auto op = scf::IfOp::create(*this, ValueRange(first).getTypes(), condition,
                              /*addThenBlock=*/true, /*addElseBlock=*/true);
  op.thenBlock()->getOperations().splice(op.thenBlock()->end(),
                                         thenBlock.getOperations());
  op.elseBlock()->getOperations().splice(op.elseBlock()->end(),
                                         elseBlock.getOperations());
  return Values(op.getResults());
}

Value KernelBuilder::load(Value memref, ValueRange indices, Value mask) {
  VectorType type =
      vec(cast<MemRefType>(memref.getType()).getElementType(), lanes);
  if (!mask)
    return toF32(vector::LoadOp::create(*this, type, memref, indices));
  Value zero = arith::ConstantOp::create(*this, type, getZeroAttr(type));
  return toF32(
      vector::MaskedLoadOp::create(*this, type, memref, indices, mask, zero));
}

void KernelBuilder::store(Value vector, Value memref, ValueRange indices,
                          Value mask) {
  Value narrow =
      fromF32(vector, cast<MemRefType>(memref.getType()).getElementType());
  if (mask)
    vector::MaskedStoreOp::create(*this, memref, indices, mask, narrow);
  else
    vector::StoreOp::create(*this, narrow, memref, indices);
}

Value KernelBuilder::loadScalar(Value memref, ValueRange indices) {
  return toF32(memref::LoadOp::create(*this, memref, indices));
}

Value KernelBuilder::mask(Value count) {
  return vector::CreateMaskOp::create(*this, vec(getI1Type(), lanes),
                                      ValueRange{count});
}

Value KernelBuilder::allocate(ArrayRef<int64_t> shape, ValueRange sizes) {
  return memref::AllocOp::create(*this, MemRefType::get(shape, getF32Type()),
                                 sizes, getI64IntegerAttr(64));
}

void KernelBuilder::withBuffers(
    ArrayRef<BufferShape> shapes,
    llvm::function_ref<void(ArrayRef<Value>)> body) {
  if (shapes.empty())
    return body({});
  Values buffers;
  for (const BufferShape &buffer : shapes)
    buffers.push_back(allocate(buffer.shape, buffer.sizes));
  when(areAllocated(*this, getLoc(), buffers), [&] { body(buffers); });
  for (Value buffer : buffers)
    release(buffer);
}

Value areAllocated(OpBuilder &builder, Location loc, ValueRange buffers) {
  Value null = arith::ConstantIndexOp::create(builder, loc, 0);
  Value all;
  for (Value buffer : buffers) {
    Value address =
        memref::ExtractAlignedPointerAsIndexOp::create(builder, loc, buffer);
    Value one = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ne,
                                      address, null);
    all = all ? arith::AndIOp::create(builder, loc, all, one).getResult() : one;
  }
  return all;
}

Values KernelBuilder::transpose(ValueRange rows) {
  // Interleaving within 128-bit quarters, as x86 unpack instructions do, then a
  // transpose of the quarters: no shuffle needs an index register.
  int64_t quarters = lanes / 4;
  auto unpack = [&](Value a, Value b, int64_t size, bool high) {
    SmallVector<int64_t> mask;
    for (int64_t q = 0; q < quarters; ++q)
      for (int64_t i = 0; i < 2 / size; ++i)
        for (int64_t side = 0; side < 2; ++side)
          for (int64_t j = 0; j < size; ++j)
            mask.push_back(side * lanes + 4 * q + 2 * high + i * size + j);
    return shuffle(a, b, mask);
  };
  Values pairs, blocks;
  for (int64_t i = 0; i < lanes; i += 2) {
    pairs.push_back(unpack(rows[i], rows[i + 1], 1, false));
    pairs.push_back(unpack(rows[i], rows[i + 1], 1, true));
  }
  for (int64_t i = 0; i < lanes; i += 4)
    for (int64_t j = 0; j < 2; ++j) {
      blocks.push_back(unpack(pairs[i + j], pairs[i + 2 + j], 2, false));
      blocks.push_back(unpack(pairs[i + j], pairs[i + 2 + j], 2, true));
    }
  // Quarter q of blocks[4 * j + c] is column 4 * q + c of rows 4 * j .. 4 * j
  // + 3.
  auto takeQuarters = [&](Value a, Value b, int64_t first, int64_t stride) {
    SmallVector<int64_t> mask;
    for (int64_t side = 0; side < 2; ++side)
      for (int64_t q = first, i = 0; i < quarters / 2; ++i, q += stride)
        for (int64_t j = 0; j < 4; ++j)
          mask.push_back(side * lanes + 4 * q + j);
    return shuffle(a, b, mask);
  };
  Values columns(lanes);
  for (int64_t c = 0; c < 4; ++c) {
    if (quarters == 1) {
      columns[c] = blocks[c];
    } else if (quarters == 2) {
      for (int64_t q = 0; q < 2; ++q)
        columns[4 * q + c] = takeQuarters(blocks[c], blocks[4 + c], q, 1);
    } else {
      for (int64_t q = 0; q < 2; ++q) {
        // Quarters q and q + 2 of all four.
        Value left = takeQuarters(blocks[c], blocks[4 + c], q, 2);
        Value right = takeQuarters(blocks[8 + c], blocks[12 + c], q, 2);
        columns[4 * q + c] = takeQuarters(left, right, 0, 2);
        columns[4 * (q + 2) + c] = takeQuarters(left, right, 1, 2);
      }
    }
  }
  return columns;
}

void KernelBuilder::tile(int64_t rows, Value depth, Value panel,
                         llvm::function_ref<Value(int64_t, Value)> a, Value acc,
                         Value accRow, Value accumulate) {
  int64_t vectors = tileColumns() / lanes;
  auto zeros = [&] { return Values(rows * vectors, zeroVector()); };
  auto previous = [&] {
    Values values;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < vectors; ++j)
        values.push_back(load(acc, {add(accRow, i), index(j * lanes)}));
    return values;
  };
  Values init = accumulate ? choose(accumulate, previous, zeros) : zeros();
  Values sums =
      loop(index(0), depth, 1, init, [&](Value k, ValueRange carried) {
        Values next(carried), columns;
        for (int64_t j = 0; j < vectors; ++j)
          columns.push_back(load(panel, {k, index(j * lanes)}));
        for (int64_t i = 0; i < rows; ++i) {
          Value x = splat(a(i, k));
          for (int64_t j = 0; j < vectors; ++j) {
            Value &sum = next[i * vectors + j];
            sum = fma(x, columns[j], sum);
          }
        }
        return next;
      });
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < vectors; ++j)
      store(sums[i * vectors + j], acc, {add(accRow, i), index(j * lanes)});
}

void KernelBuilder::tiles(Value count, Value depth, Value panel,
                          llvm::function_ref<Value(Value, Value)> a, Value acc,
                          bool inPlace, Value accumulate,
                          llvm::function_ref<void(Value, Value)> done) {
  int64_t rows = tileRows();
  Value last = sub(count, index(1));
  loop(index(0), count, rows, [&](Value from) {
    auto emit = [&](int64_t height) {
      Values row;
      for (int64_t i = 0; i < height; ++i)
        row.push_back(min(add(from, i), last));
      tile(
          height, depth, panel,
          [&](int64_t i, Value k) { return a(row[i], k); }, acc,
          inPlace ? from : index(0), accumulate);
    };
    // Few rows are left over often (a prompt of any length): half a tile then.
    when(
        less(index(rows / 2), sub(count, from)), [&] { emit(rows); },
        [&] { emit(rows / 2); });
    done(from, min(add(from, rows), count));
  });
}

} // namespace quant_llm
