//===- InsertChecks.cpp - Shapes that must agree at run time --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Ops on tensors of dynamic shape are undefined if the shapes do not fit
// together, which in compiled code means reading memory of others. What a
// caller can get wrong must be an error instead. Extents are traced to where
// they come from, so that what agrees by construction needs no check.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <set>
#include <tuple>

namespace quant_llm {
#define GEN_PASS_DEF_INSERTCHECKS
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr llvm::StringLiteral kFailFunction = "__quant_llm_fail_check";

namespace {

struct InsertChecks : public quant_llm::impl::InsertChecksBase<InsertChecks> {
  using InsertChecksBase::InsertChecksBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<Operation *> ops;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk<WalkOrder::PreOrder>([&](Operation *op) {
        if (isa<linalg::LinalgOp, LinearOp>(op)) {
          ops.push_back(op);
          return WalkResult::skip();
        }
        if (isa<tensor::ExtractSliceOp, tensor::InsertSliceOp, tensor::CastOp,
                tensor::ExtractOp, tensor::InsertOp, tensor::ExpandShapeOp>(op))
          ops.push_back(op);
        return WalkResult::advance();
      });
    for (Operation *op : ops)
      check(op);
    if (messages.empty())
      return;
    OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
    func::FuncOp::create(builder, module.getLoc(), kFailFunction,
                         builder.getFunctionType({builder.getI64Type()}, {}))
        .setPrivate();
    module->setAttr("quant_llm.checks", builder.getArrayAttr(messages));
  }

private:
  void check(Operation *op) {
    OpBuilder builder(op);
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op)) {
      if (linalgOp.hasPureTensorSemantics())
        checkLoops(builder, linalgOp);
    } else if (auto linear = dyn_cast<LinearOp>(op)) {
      checkLinear(builder, linear);
    } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      checkSlice(builder, op, slice.getSource(), slice.getMixedOffsets(),
                 slice.getMixedSizes(), slice.getMixedStrides());
    } else if (auto insert = dyn_cast<tensor::InsertSliceOp>(op)) {
      checkSlice(builder, op, insert.getDest(), insert.getMixedOffsets(),
                 insert.getMixedSizes(), insert.getMixedStrides());
      llvm::SmallBitVector dropped = insert.getDroppedDims();
      unsigned position = 0;
      for (auto [index, size] : llvm::enumerate(insert.getMixedSizes()))
        if (!dropped[index])
          requireEqual(builder, op, "an inserted slice",
                       getExtent(insert.getSource(), position++), size);
    } else if (auto cast = dyn_cast<tensor::CastOp>(op)) {
      auto to = dyn_cast<RankedTensorType>(cast.getType());
      if (to && isa<RankedTensorType>(cast.getSource().getType()))
        for (int64_t i = 0; i < to.getRank(); ++i)
          if (!to.isDynamicDim(i))
            requireEqual(builder, op, "a cast", getExtent(cast.getSource(), i),
                         builder.getIndexAttr(to.getDimSize(i)));
    } else if (auto extract = dyn_cast<tensor::ExtractOp>(op)) {
      for (auto [i, index] : llvm::enumerate(extract.getIndices()))
        requireInside(builder, op, index, builder.getIndexAttr(1),
                      getExtent(extract.getTensor(), i));
    } else if (auto insert = dyn_cast<tensor::InsertOp>(op)) {
      for (auto [i, index] : llvm::enumerate(insert.getIndices()))
        requireInside(builder, op, index, builder.getIndexAttr(1),
                      getExtent(insert.getDest(), i));
    } else if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
      SmallVector<OpFoldResult> shape = expand.getMixedOutputShape();
      for (auto [i, group] :
           llvm::enumerate(expand.getReassociationIndices())) {
        OpFoldResult product = shape[group.front()];
        for (int64_t j : ArrayRef<int64_t>(group).drop_front())
          product = multiply(builder, op->getLoc(), product, shape[j]);
        requireEqual(builder, op, "an expanded shape",
                     getExtent(expand.getSrc(), i), product);
      }
    }
  }

  /// Operands that a loop runs over must have the same extent there.
  void checkLoops(OpBuilder &builder, linalg::LinalgOp op) {
    for (unsigned loop = 0; loop < op.getNumLoops(); ++loop) {
      std::optional<OpFoldResult> first;
      for (OpOperand &operand : op->getOpOperands()) {
        if (!isa<RankedTensorType>(operand.get().getType()))
          continue;
        AffineMap map = op.getMatchingIndexingMap(&operand);
        for (auto [position, expr] : llvm::enumerate(map.getResults())) {
          if (expr != getAffineDimExpr(loop, op->getContext()))
            continue;
          OpFoldResult extent = getExtent(operand.get(), position);
          if (first)
            requireEqual(builder, op, op->getName().getStringRef(), *first,
                         extent);
          else
            first = extent;
        }
      }
    }
  }

  void checkLinear(OpBuilder &builder, LinearOp op) {
    auto type = cast<RankedTensorType>(op.getResult().getType());
    for (Value operand : op.getEpilogueOperands())
      if (cast<RankedTensorType>(operand.getType()).getRank() == type.getRank())
        for (int64_t i = 0; i + 1 < type.getRank(); ++i)
          requireEqual(builder, op, "quant_llm.linear",
                       getExtent(op.getInput(), i), getExtent(operand, i));
  }

  void checkSlice(OpBuilder &builder, Operation *op, Value whole,
                  ArrayRef<OpFoldResult> offsets, ArrayRef<OpFoldResult> sizes,
                  ArrayRef<OpFoldResult> strides) {
    for (auto [i, offset] : llvm::enumerate(offsets)) {
      // Other strides would need more arithmetic, and front ends do not use
      // any.
      if (!isConstantIntValue(strides[i], 1))
        continue;
      requireInside(builder, op, offset, sizes[i], getExtent(whole, i));
    }
  }

  //===--------------------------------------------------------------------===//
  // Extents
  //===--------------------------------------------------------------------===//

  OpFoldResult multiply(OpBuilder &builder, Location loc, OpFoldResult a,
                        OpFoldResult b) {
    std::optional<int64_t> x = getConstantIntValue(a),
                           y = getConstantIntValue(b);
    if (x && y)
      return builder.getIndexAttr(*x * *y);
    if (x == 1)
      return b;
    if (y == 1)
      return a;
    return arith::MulIOp::create(
               builder, loc, getValueOrCreateConstantIndexOp(builder, loc, a),
               getValueOrCreateConstantIndexOp(builder, loc, b))
        .getResult();
  }

  /// The extent that a `tensor.dim` reads, or `extent` itself.
  OpFoldResult resolve(OpFoldResult extent) {
    if (auto value = dyn_cast<Value>(extent))
      if (auto dim = value.getDefiningOp<tensor::DimOp>())
        if (std::optional<int64_t> index = dim.getConstantIndex())
          if (auto type = dyn_cast<RankedTensorType>(dim.getSource().getType());
              type && *index >= 0 && *index < type.getRank())
            return getExtent(dim.getSource(), *index);
    return extent;
  }

  /// The extent of a dimension, as a value of whatever determines it.
  OpFoldResult getExtent(Value tensor, unsigned dim) {
    auto type = cast<RankedTensorType>(tensor.getType());
    OpBuilder builder(tensor.getContext());
    if (!type.isDynamicDim(dim))
      return builder.getIndexAttr(type.getDimSize(dim));
    if (auto empty = tensor.getDefiningOp<tensor::EmptyOp>())
      return resolve(empty.getMixedSizes()[dim]);
    if (auto op = tensor.getDefiningOp<DestinationStyleOpInterface>())
      return getExtent(op.getTiedOpOperand(cast<OpResult>(tensor))->get(), dim);
    if (auto insert = tensor.getDefiningOp<tensor::InsertSliceOp>())
      return getExtent(insert.getDest(), dim);
    if (auto insert = tensor.getDefiningOp<tensor::InsertOp>())
      return getExtent(insert.getDest(), dim);
    if (auto linear = tensor.getDefiningOp<LinearOp>())
      return getExtent(linear.getInput(), dim);
    if (auto expand = tensor.getDefiningOp<tensor::ExpandShapeOp>())
      return resolve(expand.getMixedOutputShape()[dim]);
    if (auto slice = tensor.getDefiningOp<tensor::ExtractSliceOp>()) {
      llvm::SmallBitVector dropped = slice.getDroppedDims();
      for (auto [i, size] : llvm::enumerate(slice.getMixedSizes()))
        if (!dropped[i] && dim-- == 0)
          return resolve(size);
    }
    OpFoldResult &known = extents[{tensor, dim}];
    if (!known.isNull())
      return known;
    builder.setInsertionPointAfterValue(tensor);
    OpFoldResult extent;
    if (auto collapse = tensor.getDefiningOp<tensor::CollapseShapeOp>()) {
      ReassociationIndices group = collapse.getReassociationIndices()[dim];
      extent = getExtent(collapse.getSrc(), group.front());
      for (int64_t i : ArrayRef<int64_t>(group).drop_front())
        extent = multiply(builder, tensor.getLoc(), extent,
                          getExtent(collapse.getSrc(), i));
    } else {
      extent = tensor::DimOp::create(builder, tensor.getLoc(), tensor, dim)
                   .getResult();
    }
    // Not `known`: the calls above may have grown the table.
    extents[{tensor, dim}] = extent;
    return extent;
  }

  //===--------------------------------------------------------------------===//
  // Checks
  //===--------------------------------------------------------------------===//

  void requireEqual(OpBuilder &builder, Operation *op, StringRef what,
                    OpFoldResult a, OpFoldResult b) {
    if (a == b)
      return;
    std::optional<int64_t> x = getConstantIntValue(a),
                           y = getConstantIntValue(b);
    if (x && y && *x == *y)
      return;
    if (!done.insert({op->getBlock(), a.getOpaqueValue(), b.getOpaqueValue()})
             .second)
      return;
    Location loc = op->getLoc();
    Value wrong =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ne,
                              getValueOrCreateConstantIndexOp(builder, loc, a),
                              getValueOrCreateConstantIndexOp(builder, loc, b));
    fail(builder, loc, wrong,
         "shapes do not fit together: expected equal extents in " + what);
  }

  /// offset >= 0, size >= 0, offset + size <= extent.
  void requireInside(OpBuilder &builder, Operation *op, OpFoldResult offset,
                     OpFoldResult size, OpFoldResult extent) {
    std::optional<int64_t> o = getConstantIntValue(offset),
                           s = getConstantIntValue(size),
                           e = getConstantIntValue(extent);
    if ((o && s && e && *o >= 0 && *s >= 0 && *o + *s <= *e) ||
        (o == 0 && size == extent))
      return;
    Location loc = op->getLoc();
    auto value = [&](OpFoldResult v) {
      return getValueOrCreateConstantIndexOp(builder, loc, v);
    };
    auto requireNotNegative = [&](OpFoldResult v,
                                  std::optional<int64_t> known) {
      if ((known && *known >= 0) ||
          !done.insert({op->getBlock(), v.getOpaqueValue(), nullptr}).second)
        return;
      Value wrong = arith::CmpIOp::create(
          builder, loc, arith::CmpIPredicate::slt, value(v),
          arith::ConstantIndexOp::create(builder, loc, 0));
      fail(builder, loc, wrong,
           "expected offsets and sizes of slices that are not negative");
    };
    requireNotNegative(offset, o);
    requireNotNegative(size, s);
    // Without offset + size, which could overflow.
    Value room = o == 0 ? value(extent)
                        : arith::SubIOp::create(builder, loc, value(extent),
                                                value(offset))
                              .getResult();
    if (!done.insert({op->getBlock(), nullptr,
                      llvm::hash_combine(offset.getOpaqueValue(),
                                         size.getOpaqueValue(),
                                         extent.getOpaqueValue())})
             .second)
      return;
    Value wrong = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt,
                                        room, value(size));
    fail(builder, loc, wrong,
         "out of bounds: expected a slice or index inside its tensor");
  }

  void fail(OpBuilder &builder, Location loc, Value wrong,
            const Twine &message) {
    std::string text;
    if (auto file = loc->findInstanceOf<FileLineColLoc>())
      text = (file.getFilename().getValue() + ":" + Twine(file.getLine()) +
              ":" + Twine(file.getColumn()) + ": ")
                 .str();
    text += message.str();
    Value number = arith::ConstantIntOp::create(
        builder, loc, static_cast<int64_t>(messages.size()), /*width=*/64);
    messages.push_back(builder.getStringAttr(text));
    scf::IfOp::create(builder, loc, wrong,
                      [&](OpBuilder &nested, Location loc) {
                        func::CallOp::create(nested, loc, kFailFunction,
                                             TypeRange{}, ValueRange{number});
                        scf::YieldOp::create(nested, loc);
                      });
  }

  struct Key {
    Block *block;
    const void *a;
    size_t b;
    Key(Block *block, const void *a, const void *b)
        : block(block), a(a), b(reinterpret_cast<size_t>(b)) {}
    Key(Block *block, const void *a, llvm::hash_code b)
        : block(block), a(a), b(b) {}
    bool operator<(const Key &other) const {
      return std::tie(block, a, b) < std::tie(other.block, other.a, other.b);
    }
  };

  DenseMap<std::pair<Value, unsigned>, OpFoldResult> extents;
  /// What has been checked; only looked up.
  std::set<Key> done;
  SmallVector<Attribute> messages;
};

} // namespace
