//===- ContractionKernel.cpp - Batched matrix products of attention -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The same panels and register tiles as a linear kernel, with all sizes and
// strides dynamic: the right operand is copied or transposed into the panel.
// Few rows (decode) work on the operands where they are.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToCPU/KernelEmitter.h"

#include "KernelBuilder.h"
#include "SmallWork.h"

#include <functional>

using namespace mlir;

namespace quant_llm {

namespace {

/// Rows that share one panel of a task.
constexpr int64_t rowBlock = 128;
/// Depth of a panel: 128 KiB of 32 columns.
constexpr int64_t depthBlock = 1024;
/// At most this many rows are computed without a panel.
constexpr int64_t fewRows = 4;

class ContractionKernel {
public:
  ContractionKernel(KernelBuilder &b, const ContractionKernelSpec &spec)
      : b(b), spec(spec) {}

  LogicalResult classify();
  void emit(func::FuncOp function);

private:
  static bool uses(AffineMap map, unsigned dim) {
    return llvm::is_contained(map.getResults(),
                              getAffineDimExpr(dim, map.getContext()));
  }
  static bool endsWith(AffineMap map, unsigned dim) {
    return map.getNumResults() > 0 &&
           map.getResults().back() == getAffineDimExpr(dim, map.getContext());
  }
  static bool isContiguous(MemRefType type) {
    int64_t offset;
    SmallVector<int64_t> strides;
    return succeeded(type.getStridesAndOffset(strides, offset)) &&
           !strides.empty() && strides.back() == 1;
  }

  Values at(AffineMap map) {
    Values result;
    for (AffineExpr expr : map.getResults())
      result.push_back(position[cast<AffineDimExpr>(expr).getPosition()]);
    return result;
  }
  Values lhsAt(Value m, Value k) {
    position[mDim] = m;
    position[kDim] = k;
    return at(spec.lhsMap);
  }
  Values rhsAt(Value n, Value k) {
    position[nDim] = n;
    position[kDim] = k;
    return at(spec.rhsMap);
  }
  Values outAt(Value m, Value n) {
    position[mDim] = m;
    position[nDim] = n;
    return at(spec.outMap);
  }
  void forAll(ArrayRef<Value> counts, bool serialIfSmall,
              llvm::function_ref<void(ValueRange)> body);
  Value scaled(Value sum);
  void storeVector(Value sum, Value m, Value n, Value mask);
  void fillPanel(Value panel, Value n0, Value k0, Value k1);
  void emitPanels();
  void emitDots();
  void emitRows();

  KernelBuilder &b;
  const ContractionKernelSpec &spec;
  unsigned mDim = 0, nDim = 0, kDim = 0;
  /// The other dimensions, of which every point is an independent product.
  SmallVector<unsigned> outer;
  bool nLastInOut = false, nLastInRhs = false, kLastInRhs = false,
       kLastInLhs = false;
  Value lhs, rhs, out;
  Values size, position;
};

} // namespace

LogicalResult ContractionKernel::classify() {
  auto fail = [&](const Twine &message) {
    return emitError(b.getLoc()) << message;
  };
  AffineMap maps[] = {spec.lhsMap, spec.rhsMap, spec.outMap};
  MemRefType types[] = {spec.lhsType, spec.rhsType, spec.outType};
  for (auto [map, type] : llvm::zip(maps, types)) {
    if (!map || !type || !map.isProjectedPermutation() ||
        map.getNumDims() != spec.lhsMap.getNumDims() ||
        map.getNumResults() != unsigned(type.getRank()))
      return fail("expected one projected permutation per operand, with as "
                  "many results "
                  "as the operand has dimensions");
    Type element = type.getElementType();
    if (!element.isF32() && !element.isF16() && !element.isBF16())
      return fail("expected f32, f16 or bf16 operands but got ") << type;
    SmallVector<int64_t> strides;
    int64_t offset;
    if (failed(type.getStridesAndOffset(strides, offset)))
      return fail("expected a strided layout but got ") << type;
  }
  if (spec.vectorBits != 128 && spec.vectorBits != 256 &&
      spec.vectorBits != 512)
    return fail("expected a vector width of 128, 256 or 512 bits but got " +
                Twine(spec.vectorBits));
  SmallVector<unsigned> ms, ns, ks;
  for (unsigned dim = 0; dim < spec.lhsMap.getNumDims(); ++dim) {
    bool inLhs = uses(spec.lhsMap, dim), inRhs = uses(spec.rhsMap, dim),
         inOut = uses(spec.outMap, dim);
    if (inLhs && inRhs && inOut)
      outer.push_back(dim);
    else if (inLhs && inOut)
      ms.push_back(dim);
    else if (inRhs && inOut)
      ns.push_back(dim);
    else if (inLhs && inRhs)
      ks.push_back(dim);
    else
      return fail(
          "expected every dimension in two operands at least, but not so " +
          Twine("dimension ") + Twine(dim));
  }
  if (ms.empty() || ns.empty() || ks.size() != 1)
    return fail(
        "expected one reduction dimension, and at least one dimension of only "
        "lhs and out and one of only rhs and out");
  // The innermost of several; the rest are loops around the product.
  auto innermost = [&](SmallVector<unsigned> &dims) {
    unsigned best = dims.front();
    for (AffineExpr expr : spec.outMap.getResults()) {
      unsigned dim = cast<AffineDimExpr>(expr).getPosition();
      if (llvm::is_contained(dims, dim))
        best = dim;
    }
    for (unsigned dim : dims)
      if (dim != best)
        outer.push_back(dim);
    return best;
  };
  mDim = innermost(ms);
  nDim = innermost(ns);
  kDim = ks.front();
  nLastInOut = endsWith(spec.outMap, nDim) && isContiguous(spec.outType);
  nLastInRhs = endsWith(spec.rhsMap, nDim) && isContiguous(spec.rhsType);
  kLastInRhs = endsWith(spec.rhsMap, kDim) && isContiguous(spec.rhsType);
  kLastInLhs = endsWith(spec.lhsMap, kDim) && isContiguous(spec.lhsType);
  return success();
}

void ContractionKernel::forAll(ArrayRef<Value> counts, bool serialIfSmall,
                               llvm::function_ref<void(ValueRange)> body) {
  Values all;
  for (unsigned dim : outer)
    all.push_back(size[dim]);
  llvm::append_range(all, counts);
  auto at = [&](ValueRange ivs) {
    for (auto [dim, iv] : llvm::zip(outer, ivs))
      position[dim] = iv;
    body(ivs.drop_front(outer.size()));
  };
  if (!serialIfSmall) {
    b.parallel(all, at);
    return;
  }
  Value products = b.index(1);
  for (Value extent : size)
    products = b.mul(products, extent);
  b.when(
      b.less(products, b.index(kLeastParallelContraction)),
      [&] {
        Values ivs;
        std::function<void()> nest = [&] {
          if (ivs.size() == all.size())
            return at(ivs);
          b.loop(b.index(0), all[ivs.size()], 1, [&](Value iv) {
            ivs.push_back(iv);
            nest();
            ivs.pop_back();
          });
        };
        nest();
      },
      [&] { b.parallel(all, at); });
}

Value ContractionKernel::scaled(Value sum) {
  if (spec.scale == 1.0f)
    return sum;
  Value factor = isa<VectorType>(sum.getType()) ? b.floatVector(spec.scale)
                                                : b.floatScalar(spec.scale);
  return arith::MulFOp::create(b, sum, factor);
}

void ContractionKernel::storeVector(Value sum, Value m, Value n, Value mask) {
  Values indices = outAt(m, n);
  Value result = scaled(sum);
  if (spec.accumulate)
    result = arith::AddFOp::create(b, b.load(out, indices, mask), result);
  b.store(result, out, indices, mask);
}

/// panel[k - k0, j] = rhs[n0 + j, k] for all columns j of the panel.
void ContractionKernel::fillPanel(Value panel, Value n0, Value k0, Value k1) {
  int64_t lanes = b.lanes;
  Value n = size[nDim];
  if (nLastInRhs) {
    Values masks;
    for (int64_t j = 0; j < b.tileColumns(); j += lanes)
      masks.push_back(b.mask(b.sub(n, b.add(n0, j))));
    b.loop(k0, k1, 1, [&](Value k) {
      for (auto [j, mask] : llvm::enumerate(masks))
        b.store(b.load(rhs, rhsAt(b.add(n0, j * lanes), k), mask), panel,
                {b.sub(k, k0), b.index(j * lanes)});
    });
    return;
  }
  Value last = b.sub(n, b.index(1));
  Value columns = b.min(b.index(b.tileColumns()), b.sub(n, n0));
  if (kLastInRhs) {
    b.loop(b.index(0), columns, lanes, [&](Value column) {
      Values rows;
      for (int64_t i = 0; i < lanes; ++i)
        rows.push_back(b.min(b.add(b.add(n0, column), i), last));
      b.loop(k0, k1, lanes, [&](Value k) {
        Value mask = b.mask(b.sub(k1, k));
        Values parts;
        for (Value row : rows)
          parts.push_back(b.load(rhs, rhsAt(row, k), mask));
        for (auto [i, part] : llvm::enumerate(b.transpose(parts)))
          b.store(part, panel, {b.add(b.sub(k, k0), i), column});
      });
    });
    return;
  }
  b.loop(b.index(0), columns, 1, [&](Value column) {
    b.loop(k0, k1, 1, [&](Value k) {
      memref::StoreOp::create(b, b.loadScalar(rhs, rhsAt(b.add(n0, column), k)),
                              panel, ValueRange{b.sub(k, k0), column});
    });
  });
}

void ContractionKernel::emitPanels() {
  int64_t columns = b.tileColumns();
  Value m = size[mDim], n = size[nDim], k = size[kDim];
  forAll(
      {b.ceilDiv(m, rowBlock), b.ceilDiv(n, columns)}, false,
      [&](ValueRange ivs) {
        Value m0 = b.mul(ivs[0], rowBlock), n0 = b.mul(ivs[1], columns);
        Value rows = b.min(b.index(rowBlock), b.sub(m, m0));
        KernelBuilder::BufferShape shapes[] = {
            {{ShapedType::kDynamic, columns},
             {b.add(b.min(k, b.index(depthBlock)), b.lanes)}},
            {{rowBlock, columns}, {}}};
        b.withBuffers(shapes, [&](ArrayRef<Value> buffers) {
          Value panel = buffers[0], acc = buffers[1];
          // An empty sum is zero; the loop over k below would write nothing.
          Value zeroRows = arith::SelectOp::create(b, b.less(k, b.index(1)),
                                                   rows, b.index(0));
          b.loop(b.index(0), zeroRows, 1, [&](Value row) {
            b.loop(b.index(0), b.index(columns), 1, [&](Value column) {
              Value zero = arith::ConstantOp::create(b, b.getF32FloatAttr(0.0));
              memref::StoreOp::create(b, zero, acc, ValueRange{row, column});
            });
          });
          b.loop(b.index(0), k, depthBlock, [&](Value k0) {
            Value k1 = b.min(b.add(k0, depthBlock), k);
            fillPanel(panel, n0, k0, k1);
            b.tiles(
                rows, b.sub(k1, k0), panel,
                [&](Value row, Value depth) {
                  return b.loadScalar(lhs,
                                      lhsAt(b.add(m0, row), b.add(k0, depth)));
                },
                acc, /*inPlace=*/true, b.less(b.index(0), k0),
                [](Value, Value) {});
          });
          Value end = b.min(b.index(columns), b.sub(n, n0));
          b.loop(b.index(0), rows, 1, [&](Value row) {
            if (nLastInOut) {
              b.loop(b.index(0), end, b.lanes, [&](Value column) {
                storeVector(b.load(acc, {row, column}), b.add(m0, row),
                            b.add(n0, column), b.mask(b.sub(end, column)));
              });
              return;
            }
            b.loop(b.index(0), end, 1, [&](Value column) {
              Value sum = scaled(b.loadScalar(acc, {row, column}));
              Values indices = outAt(b.add(m0, row), b.add(n0, column));
              if (spec.accumulate)
                sum = arith::AddFOp::create(b, b.loadScalar(out, indices), sum);
              memref::StoreOp::create(
                  b, b.fromF32(sum, spec.outType.getElementType()), out,
                  indices);
            });
          });
        });
      });
}

/// Few rows, both operands contiguous along k: one dot product per element.
void ContractionKernel::emitDots() {
  constexpr int64_t block = 64;
  Value m = size[mDim], n = size[nDim], k = size[kDim];
  forAll({b.ceilDiv(n, block)}, true, [&](ValueRange ivs) {
    Value n0 = b.mul(ivs[0], block);
    Value n1 = b.min(b.add(n0, block), n);
    Value whole = b.roundDown(k, b.lanes);
    Value mask = b.mask(b.sub(k, whole));
    b.loop(n0, n1, 1, [&](Value column) {
      b.loop(b.index(0), m, 1, [&](Value row) {
        Values sum =
            b.loop(b.index(0), whole, b.lanes, b.zeroVector(),
                   [&](Value at, ValueRange carried) -> Values {
                     return {b.fma(b.load(lhs, lhsAt(row, at)),
                                   b.load(rhs, rhsAt(column, at)), carried[0])};
                   });
        sum[0] = b.fma(b.load(lhs, lhsAt(row, whole), mask),
                       b.load(rhs, rhsAt(column, whole), mask), sum[0]);
        Value total = scaled(
            vector::ReductionOp::create(b, vector::CombiningKind::ADD, sum[0],
                                        arith::FastMathFlags::reassoc));
        Values indices = outAt(row, column);
        if (spec.accumulate)
          total = arith::AddFOp::create(b, b.loadScalar(out, indices), total);
        memref::StoreOp::create(
            b, b.fromF32(total, spec.outType.getElementType()), out, indices);
      });
    });
  });
}

/// Few rows, rhs and out contiguous along n: rows of rhs are added up.
void ContractionKernel::emitRows() {
  constexpr int64_t vectors = 4;
  int64_t block = vectors * b.lanes;
  Value m = size[mDim], n = size[nDim], k = size[kDim];
  forAll({b.ceilDiv(n, block)}, true, [&](ValueRange ivs) {
    Values columns, masks;
    for (int64_t j = 0; j < vectors; ++j) {
      columns.push_back(b.add(b.mul(ivs[0], block), j * b.lanes));
      masks.push_back(b.mask(b.sub(n, columns.back())));
    }
    b.loop(b.index(0), m, 1, [&](Value row) {
      Values sums = b.loop(
          b.index(0), k, 1, Values(vectors, b.zeroVector()),
          [&](Value at, ValueRange carried) {
            Value x = b.splat(b.loadScalar(lhs, lhsAt(row, at)));
            Values next;
            for (int64_t j = 0; j < vectors; ++j)
              next.push_back(b.fma(
                  x, b.load(rhs, rhsAt(columns[j], at), masks[j]), carried[j]));
            return next;
          });
      for (int64_t j = 0; j < vectors; ++j)
        storeVector(sums[j], row, columns[j], masks[j]);
    });
  });
}

void ContractionKernel::emit(func::FuncOp function) {
  Block *entry = function.addEntryBlock();
  b.setInsertionPointToEnd(entry);
  lhs = entry->getArgument(0);
  rhs = entry->getArgument(1);
  out = entry->getArgument(2);
  size.resize(spec.lhsMap.getNumDims());
  position.resize(size.size());
  AffineMap maps[] = {spec.lhsMap, spec.rhsMap, spec.outMap};
  Value memrefs[] = {lhs, rhs, out};
  for (auto [map, memref] : llvm::zip(maps, memrefs))
    for (auto [i, expr] : llvm::enumerate(map.getResults())) {
      Value &dim = size[cast<AffineDimExpr>(expr).getPosition()];
      int64_t known = cast<MemRefType>(memref.getType()).getDimSize(i);
      if (known != ShapedType::kDynamic)
        dim = b.index(known);
      else if (!dim)
        dim = memref::DimOp::create(b, memref, i);
    }
  bool dots = kLastInLhs && kLastInRhs, rows = nLastInRhs && nLastInOut;
  if (dots || rows)
    b.when(
        b.less(b.index(fewRows), size[mDim]), [&] { emitPanels(); },
        [&] { dots ? emitDots() : emitRows(); });
  else
    emitPanels();
  func::ReturnOp::create(b);
}

FailureOr<func::FuncOp>
emitContractionKernel(OpBuilder &builder, Location loc, StringRef name,
                      const ContractionKernelSpec &spec) {
  KernelBuilder b(loc, builder, spec.vectorBits);
  ContractionKernel kernel(b, spec);
  if (failed(kernel.classify()))
    return failure();
  auto function = func::FuncOp::create(
      b, name,
      b.getFunctionType({spec.lhsType, spec.rhsType, spec.outType},
                        TypeRange()));
  kernel.emit(function);
  return function;
}

} // namespace quant_llm
