//===- MathForms.cpp - Ops of math as arithmetic --------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/MathForms.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;

Value quant_llm::createMathForm(OpBuilder &builder, Operation *op,
                                ValueRange operands) {
  Location loc = op->getLoc();
  if (isa<math::ClampFOp>(op)) {
    Value low =
        arith::MaximumFOp::create(builder, loc, operands[0], operands[1]);
    return arith::MinimumFOp::create(builder, loc, low, operands[2]);
  }
  if (!isa<math::IsInfOp, math::IsNormalOp>(op))
    return {};
  auto getSemantics = [](Value value) -> const llvm::fltSemantics & {
    return cast<FloatType>(getElementTypeOrSelf(value.getType()))
        .getFloatSemantics();
  };
  const llvm::fltSemantics &narrow = getSemantics(op->getOperand(0));
  if (!APFloat::semanticsHasInf(narrow))
    return {};
  Value magnitude = math::AbsFOp::create(builder, loc, operands[0]);
  auto compare = [&](arith::CmpFPredicate predicate, APFloat bound) -> Value {
    bool ignored;
    bound.convert(getSemantics(magnitude), APFloat::rmNearestTiesToEven,
                  &ignored);
    Type type = magnitude.getType();
    TypedAttr value = builder.getFloatAttr(
        cast<FloatType>(getElementTypeOrSelf(type)), bound);
    if (auto vector = dyn_cast<VectorType>(type))
      value = DenseElementsAttr::get(vector, Attribute(value));
    return arith::CmpFOp::create(
        builder, loc, predicate, magnitude,
        arith::ConstantOp::create(builder, loc, value));
  };
  APFloat infinity = APFloat::getInf(narrow);
  if (isa<math::IsInfOp>(op))
    return compare(arith::CmpFPredicate::OEQ, infinity);
  Value notSmall = compare(arith::CmpFPredicate::OGE,
                           APFloat::getSmallestNormalized(narrow));
  return arith::AndIOp::create(builder, loc, notSmall,
                               compare(arith::CmpFPredicate::OLT, infinity));
}
