//===- ExpandMath.cpp - What upstream's lowerings of math lack ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/MathForms.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"

namespace quant_llm {
#define GEN_PASS_DEF_EXPANDMATH
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;

/// The least width of an exponent: the code of upstream shifts it by one bit.
static constexpr unsigned kLeastExponentBits = 32;

/// `type` with another type of its elements, or that type if it is a number.
static Type withElement(Type type, Type element) {
  if (auto shaped = dyn_cast<ShapedType>(type))
    return shaped.clone(element);
  return element;
}

/// The integers with at least kLeastExponentBits, as signed ones.
static Value widenInteger(OpBuilder &builder, Location loc, Value value) {
  Type type = value.getType(), element = getElementTypeOrSelf(type);
  if (element.isIndex())
    return arith::IndexCastOp::create(
        builder, loc, withElement(type, builder.getI64Type()), value);
  if (element.getIntOrFloatBitWidth() >= kLeastExponentBits)
    return value;
  return arith::ExtSIOp::create(
      builder, loc,
      withElement(type, builder.getIntegerType(kLeastExponentBits)), value);
}

/// From f64 to f16 or bf16, rounded once: the f32 in between is rounded to odd,
/// that is, its last bit tells whether anything was lost.
static Value truncateOnce(OpBuilder &builder, Location loc, Value value,
                          Type type) {
  Type f32 = withElement(type, builder.getF32Type());
  Type i32 = withElement(type, builder.getI32Type());
  Value nearest = arith::TruncFOp::create(builder, loc, f32, value);
  Value back = arith::ExtFOp::create(builder, loc, value.getType(), nearest);
  auto isAway =
      arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OGT,
                            math::AbsFOp::create(builder, loc, back),
                            math::AbsFOp::create(builder, loc, value));
  auto isInexact = arith::CmpFOp::create(
      builder, loc, arith::CmpFPredicate::ONE, back, value);
  Value bits = arith::BitcastOp::create(builder, loc, i32, nearest);
  bits = arith::SubIOp::create(
      builder, loc, bits, arith::ExtUIOp::create(builder, loc, i32, isAway));
  bits = arith::OrIOp::create(
      builder, loc, bits, arith::ExtUIOp::create(builder, loc, i32, isInexact));
  Value odd = arith::BitcastOp::create(builder, loc, f32, bits);
  return arith::TruncFOp::create(builder, loc, type, odd);
}

/// The value of `op` by others; null if it stays.
static Value expand(OpBuilder &builder, Operation *op) {
  Location loc = op->getLoc();
  if (Value form = quant_llm::createMathForm(builder, op, op->getOperands()))
    return form;
  Type type = op->getResult(0).getType(), element = getElementTypeOrSelf(type);
  if (isa<arith::TruncFOp>(op)) {
    Value value = op->getOperand(0);
    if (!getElementTypeOrSelf(value.getType()).isF64() ||
        !(element.isF16() || element.isBF16()))
      return {};
    return truncateOnce(builder, loc, value, type);
  }
  if (isa<math::IPowIOp>(op)) {
    Value base = widenInteger(builder, loc, op->getOperand(0));
    if (base == op->getOperand(0))
      return {};
    Value power = math::IPowIOp::create(
        builder, loc, base, widenInteger(builder, loc, op->getOperand(1)));
    if (element.isIndex())
      return arith::IndexCastOp::create(builder, loc, type, power);
    return arith::TruncIOp::create(builder, loc, type, power);
  }
  auto power = dyn_cast<math::FPowIOp>(op);
  if (!power)
    return {};
  Value exponent = widenInteger(builder, loc, power.getRhs());
  Value base = power.getLhs();
  const bool isNarrow = element.isF16() || element.isBF16();
  if (isNarrow)
    base = arith::ExtFOp::create(builder, loc,
                                 withElement(type, builder.getF32Type()), base);
  if (isNarrow || element.isF32())
    base = arith::ExtFOp::create(builder, loc,
                                 withElement(type, builder.getF64Type()), base);
  if (base == power.getLhs() && exponent == power.getRhs())
    return {};
  Value result = math::FPowIOp::create(builder, loc, base, exponent,
                                       power.getFastmathAttr());
  if (isNarrow)
    return truncateOnce(builder, loc, result, type);
  if (result.getType() != type)
    return arith::TruncFOp::create(builder, loc, type, result);
  return result;
}

namespace {
struct ExpandMath : public quant_llm::impl::ExpandMathBase<ExpandMath> {
  using ExpandMathBase::ExpandMathBase;

  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      // Ops on tensors become ops on their numbers elsewhere.
      if (isa<math::ClampFOp, math::IsInfOp, math::IsNormalOp, math::IPowIOp,
              math::FPowIOp, arith::TruncFOp>(op) &&
          !isa<TensorType>(op->getResult(0).getType()))
        ops.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (Operation *op : ops) {
      rewriter.setInsertionPoint(op);
      if (Value value = expand(rewriter, op))
        rewriter.replaceOp(op, value);
    }
  }
};
} // namespace
