//===- ExpandGPUMath.cpp - Functions of math as arithmetic ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The functions of activations (exp, tanh, erf, ...) are computed in f32, with
// the usual reductions of the argument and polynomials. All others are rare in
// epilogues and computed in f64, where simple formulas are accurate enough to
// need no care about the last digits of f32. Nothing depends on a chip: the
// same operations give the same bits on every processor, which is how
// test/Target/PTX/gpu_math.py measures the errors.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/MathForms.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>

namespace quant_llm {
#define GEN_PASS_DEF_EXPANDGPUMATH
#include "quant-llm/Target/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

/// Builds arithmetic on one floating-point type, f32 or f64.
class Builder {
public:
  Builder(OpBuilder &b, Location loc, FloatType type)
      : b(b), loc(loc), type(type), isDouble(type.isF64()),
        integer(b.getIntegerType(isDouble ? 64 : 32)) {}

  Value constant(double value) {
    return arith::ConstantOp::create(b, loc, b.getFloatAttr(type, value));
  }
  Value infinity() { return constant(HUGE_VAL); }
  Value nan() { return constant(std::nan("")); }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value div(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y); }
  Value fma(Value x, Value y, Value z) {
    return math::FmaOp::create(b, loc, x, y, z);
  }
  Value neg(Value x) { return arith::NegFOp::create(b, loc, x); }
  Value abs(Value x) { return math::AbsFOp::create(b, loc, x); }
  Value sqrt(Value x) { return math::SqrtOp::create(b, loc, x); }
  Value copySign(Value x, Value sign) {
    return math::CopySignOp::create(b, loc, x, sign);
  }
  Value greater(Value x, Value y) {
    return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OGT, x, y);
  }
  Value equal(Value x, Value y) {
    return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, x, y);
  }
  Value both(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value select(Value condition, Value x, Value y) {
    return arith::SelectOp::create(b, loc, condition, x, y);
  }
  /// Between two bounds; NaN stays.
  Value clamp(Value x, double low, double high) {
    x = select(greater(constant(low), x), constant(low), x);
    return select(greater(x, constant(high)), constant(high), x);
  }
  /// The polynomial with these coefficients, that of x^0 first.
  Value polynomial(Value x, ArrayRef<double> coefficients) {
    Value sum = constant(coefficients.back());
    for (double coefficient : llvm::reverse(coefficients.drop_back()))
      sum = fma(sum, x, constant(coefficient));
    return sum;
  }

  /// @{ The bits of a number.
  Value bits(int64_t value) {
    return arith::ConstantOp::create(b, loc, b.getIntegerAttr(integer, value));
  }
  Value toBits(Value x) { return arith::BitcastOp::create(b, loc, integer, x); }
  Value fromBits(Value x) { return arith::BitcastOp::create(b, loc, type, x); }
  Value addBits(Value x, Value y) {
    return arith::AddIOp::create(b, loc, x, y);
  }
  Value subBits(Value x, Value y) {
    return arith::SubIOp::create(b, loc, x, y);
  }
  Value andBits(Value x, int64_t mask) {
    return arith::AndIOp::create(b, loc, x, bits(mask));
  }
  Value shiftRight(Value x, int64_t count) {
    return arith::ShRSIOp::create(b, loc, x, bits(count));
  }
  /// 2^n for an integer n in the range of exponents.
  Value powerOfTwo(Value n) {
    Value biased = addBits(n, bits(isDouble ? 1023 : 127));
    return fromBits(
        arith::ShLIOp::create(b, loc, biased, bits(isDouble ? 52 : 23)));
  }
  /// The integer next to x * factor, as a number and in integer bits; x must be
  /// less than 2^21 (f32) or 2^50 (f64).
  std::pair<Value, Value> nearestInteger(Value x, double factor) {
    // At this magnitude the last bit of the significand is worth 1.
    double magic = isDouble ? 0x1.8p52 : 0x1.8p23;
    Value shifted = fma(x, constant(factor), constant(magic));
    Value n = subBits(toBits(shifted), toBits(constant(magic)));
    return {sub(shifted, constant(magic)), n};
  }
  /// @}

  Value isNegativeInteger(Value x) {
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, bits(0));
  }
  Value isZeroInteger(Value x) {
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, bits(0));
  }

  //===--------------------------------------------------------------------===//
  // f32
  //===--------------------------------------------------------------------===//

  /// exp(r) - 1 for |r| <= log(2) / 2.
  Value expm1Reduced(Value r) {
    Value p = polynomial(r, {0.5, 0.1666666716337204, 0.04166635498404503,
                             0.008333273231983185, 0.0013941002544015646,
                             0.00019913971482310444});
    return fma(mul(r, r), p, r);
  }
  /// x = n log(2) + r; returns r and n.
  std::pair<Value, Value> reduceExp(Value x) {
    auto [number, n] = nearestInteger(x, 1.4426950408889634);
    Value r = fma(number, constant(-0x1.62e4p-1), x);
    return {fma(number, constant(-0x1.7f7d1cp-20), r), n};
  }
  /// (1 + p) * 2^n, also where 2^n is not a number but the product is.
  Value scaleExp(Value p, Value n) {
    Value half = shiftRight(n, 1);
    Value scaled = mul(add(p, constant(1)), powerOfTwo(half));
    return mul(scaled, powerOfTwo(subBits(n, half)));
  }
  Value exp(Value x) {
    auto [r, n] = reduceExp(clamp(x, -104, 89));
    return scaleExp(expm1Reduced(r), n);
  }
  Value exp2(Value x) {
    x = clamp(x, -151, 129);
    auto [number, n] = nearestInteger(x, 1);
    Value r = mul(sub(x, number), constant(0.6931471805599453));
    return scaleExp(expm1Reduced(r), n);
  }
  Value expm1(Value x) {
    // exp(x) - 1 = 2 * (2^(n-1) p + 2^(n-1) - 1/2), which overflows last.
    auto [r, n] = reduceExp(clamp(x, -20, 89));
    Value scale = powerOfTwo(subBits(n, bits(1)));
    Value halved = fma(scale, expm1Reduced(r), sub(scale, constant(0.5)));
    // The sign of a zero.
    return copySign(mul(halved, constant(2)), x);
  }
  Value tanh(Value x) {
    Value t = expm1(clamp(mul(abs(x), constant(2)), 0, 20));
    return copySign(div(t, add(t, constant(2))), x);
  }
  Value log(Value x) {
    // Numbers below the normal ones are scaled up.
    Value isSmall = greater(constant(0x1p-126), x);
    Value scaled = select(isSmall, mul(x, constant(0x1p23)), x);
    // x = m * 2^n with m from sqrt(1/2) to sqrt(2).
    Value i = subBits(toBits(scaled), bits(0x3f3504f3));
    Value n = shiftRight(i, 23);
    Value m = fromBits(addBits(andBits(i, 0x7fffff), bits(0x3f3504f3)));
    Value number = arith::SIToFPOp::create(b, loc, type, n);
    number = sub(number, select(isSmall, constant(23), constant(0)));
    Value f = sub(m, constant(1));
    Value p = polynomial(
        f, {-0.5, 0.3333331048488617, -0.24999986588954926, 0.20002223551273346,
            -0.16669243574142456, 0.14218704402446747, -0.12384512275457382,
            0.11872895061969757, -0.11788792908191681, 0.0691414475440979});
    Value low = fma(number, constant(0x1.7f7d1cp-20), mul(mul(f, f), p));
    Value result = fma(number, constant(0x1.62e4p-1), add(f, low));
    return fixLog(x, result);
  }
  /// The logarithm of what is no positive number.
  Value fixLog(Value x, Value result) {
    result = select(equal(x, infinity()), x, result);
    result = select(greater(x, constant(0)), result, nan());
    return select(equal(x, constant(0)), neg(infinity()), result);
  }
  Value erf(Value x) {
    Value a = clamp(abs(x), 0, 4);
    Value p =
        polynomial(mul(a, a), {0.12837916612625122, -0.3761262595653534,
                               0.11283600330352783, -0.026854444295167923,
                               0.005189535208046436, -0.0008020841632969677,
                               7.88912147982046e-05});
    Value small = fma(a, p, a);
    // log(erfc(a)) on [1, 4].
    Value q = polynomial(a, {0.00012529309606179595, -1.1292037963867188,
                             -0.6341961026191711, -0.10696148872375488,
                             0.023836500942707062, -0.0033602649345993996,
                             0.00010175806528422982, 6.434202805394307e-05,
                             -1.245286603079876e-05, 7.845258664929133e-07});
    Value large = sub(constant(1), exp(q));
    return copySign(select(greater(a, constant(1)), large, small), x);
  }

  //===--------------------------------------------------------------------===//
  // f64, for arguments and results of f32
  //===--------------------------------------------------------------------===//

  /// exp(x) - 1 and 1.
  Value exp64(Value x, bool minusOne) {
    x = clamp(x, -700, 700);
    auto [number, n] = nearestInteger(x, 1.4426950408889634);
    Value r = fma(number, constant(-0x1.62e42fefa39efp-1), x);
    r = fma(number, constant(-0x1.abc9e3b39803fp-56), r);
    double factorial = 1;
    SmallVector<double> coefficients;
    for (int i = 2; i <= 13; ++i)
      coefficients.push_back(1 / (factorial *= i));
    Value p = fma(mul(r, r), polynomial(r, coefficients), r);
    Value scale = powerOfTwo(n);
    return fma(scale, p, minusOne ? sub(scale, constant(1)) : scale);
  }
  Value log64(Value x) {
    Value i = subBits(toBits(x), bits(0x3fe6a09e667f3bcd));
    Value number = arith::SIToFPOp::create(b, loc, type, shiftRight(i, 52));
    Value m = fromBits(
        addBits(andBits(i, 0xfffffffffffff), bits(0x3fe6a09e667f3bcd)));
    // log(m) = 2 atanh(s)
    Value s = div(sub(m, constant(1)), add(m, constant(1)));
    SmallVector<double> coefficients;
    for (int i = 1; i <= 21; i += 2)
      coefficients.push_back(2.0 / i);
    Value p = mul(s, polynomial(mul(s, s), coefficients));
    return fixLog(x, fma(number, constant(0.6931471805599453), p));
  }
  /// log(1 + x)
  Value log1p64(Value x) {
    Value u = add(x, constant(1));
    Value d = sub(u, constant(1));
    // What was lost in u is made up for by the quotient.
    Value result = mul(log64(u), div(x, d));
    result = select(equal(d, constant(0)), x, result);
    return select(equal(x, infinity()), x, result);
  }
  Value atan64(Value x) {
    Value a = abs(x);
    Value inverted = greater(a, constant(1));
    a = select(inverted, div(constant(1), a), a);
    // atan(a) = pi/4 + atan((a - 1) / (a + 1))
    Value shifted = greater(a, constant(0.41421356237309503));
    Value v = select(shifted, div(sub(a, constant(1)), add(a, constant(1))), a);
    SmallVector<double> coefficients;
    for (int i = 0; i <= 13; ++i)
      coefficients.push_back((i % 2 ? -1.0 : 1.0) / (2 * i + 1));
    Value p = mul(v, polynomial(mul(v, v), coefficients));
    p = select(shifted, add(p, constant(0.7853981633974483)), p);
    p = select(inverted, sub(constant(1.5707963267948966), p), p);
    return copySign(p, x);
  }
  Value atan2of64(Value y, Value x) {
    Value a = abs(y), c = abs(x);
    Value ratio = div(a, c);
    ratio = select(both(equal(a, constant(0)), equal(c, constant(0))),
                   constant(0), ratio);
    ratio = select(both(equal(a, infinity()), equal(c, infinity())),
                   constant(1), ratio);
    Value angle = atan64(ratio);
    Value isLeft = greater(constant(0), copySign(constant(1), x));
    angle = select(isLeft, sub(constant(3.141592653589793), angle), angle);
    return copySign(angle, y);
  }
  /// Sine and cosine; NaN above 2^50, where f32 knows no angles any more.
  std::pair<Value, Value> sinCos64(Value x) {
    auto [number, n] = nearestInteger(x, 0.6366197723675814);
    Value r = fma(number, constant(-0x1.921fb54442d18p0), x);
    r = fma(number, constant(-0x1.1a62633145c07p-54), r);
    Value square = mul(r, r);
    SmallVector<double> sine, cosine;
    double factorial = 1;
    for (int i = 0; i <= 15; ++i) {
      factorial *= std::max(i, 1);
      (i % 2 ? sine : cosine).push_back((i / 2 % 2 ? -1 : 1) / factorial);
    }
    Value s = mul(r, polynomial(square, sine));
    Value c = polynomial(square, cosine);
    // Which quarter of the circle: cos is sin a quarter ahead.
    auto pick = [&](Value quarter) {
      Value isOdd = arith::XOrIOp::create(
          b, loc, isZeroInteger(andBits(quarter, 1)),
          arith::ConstantOp::create(b, loc, b.getBoolAttr(true)));
      Value value = select(isOdd, c, s);
      return select(isZeroInteger(andBits(quarter, 2)), value, neg(value));
    };
    Value known = greater(constant(0x1p50), abs(x));
    Value sin = select(equal(x, constant(0)), x, pick(n));
    return {select(known, sin, nan()),
            select(known, pick(addBits(n, bits(1))), nan())};
  }
  Value erfc64(Value x) {
    Value a = clamp(abs(x), 0, 11);
    Value t = div(sub(a, constant(2)), add(a, constant(2)));
    // erfc(a) exp(a^2) (1 + 2a)
    Value p = polynomial(t, {1.2769783815525284,      -0.09276382658578074,
                             -0.16603039761521543,    0.16405128003533148,
                             -0.05422000099242283,    -0.00803401512177127,
                             0.008722653869556347,    0.0012713393537175134,
                             -0.001456813982652951,   -0.0004543429601231074,
                             0.0002063690325456807,   0.00015104749774650722,
                             -1.5254210602329641e-06, -3.645506756559708e-05,
                             -1.3434324878412069e-05, 3.820581999430739e-06,
                             5.126677472249536e-06,   1.2520971217572893e-06,
                             -6.792340753279614e-07,  -5.280648668656891e-07,
                             -1.0779598768169901e-07});
    Value scale =
        div(exp64(neg(mul(a, a)), false), fma(a, constant(2), constant(1)));
    Value right = mul(p, scale);
    return select(greater(constant(0), x), sub(constant(2), right), right);
  }
  /// As pow() of C.
  Value pow64(Value x, Value y) {
    Value magnitude = exp64(mul(y, log64(abs(x))), /*minusOne=*/false);
    // An infinite power of 1, and what exp64 clamps.
    magnitude = select(equal(abs(x), constant(1)),
                       select(equal(y, y), constant(1), y), magnitude);
    Value whole = math::TruncOp::create(b, loc, y);
    Value isInteger = equal(whole, y);
    Value half = mul(y, constant(0.5));
    Value isEven = equal(math::TruncOp::create(b, loc, half), half);
    // Roots of negative numbers; their odd powers are negative. Infinite
    // numbers are even integers.
    Value isNegative = greater(constant(0), x);
    Value rooted = select(isInteger, magnitude,
                          select(equal(abs(x), infinity()), magnitude, nan()));
    Value result = select(isNegative, rooted, magnitude);
    Value signedBase = copySign(constant(1), x);
    Value isOdd =
        select(isEven, constant(1), select(isInteger, signedBase, constant(1)));
    result = mul(result, isOdd);
    result = select(equal(x, constant(1)), x, result);
    return select(equal(y, constant(0)), constant(1), result);
  }

private:
  OpBuilder &b;
  Location loc;
  FloatType type;
  bool isDouble;
  Type integer;
};

struct ExpandGPUMathPass
    : public quant_llm::impl::ExpandGPUMathBase<ExpandGPUMathPass> {
  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      if (isa<math::MathDialect>(op->getDialect()))
        ops.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (Operation *op : ops) {
      rewriter.setInsertionPoint(op);
      if (failed(expand(op, rewriter)))
        return signalPassFailure();
    }
  }

private:
  LogicalResult expand(Operation *op, IRRewriter &rewriter);
  /// Results of an op on f32; none if it is not one of the functions here.
  SmallVector<Value> compute(Operation *op, ValueRange operands,
                             OpBuilder &builder);
};

} // namespace

/// Ops of which every GPU has an instruction, or a short sequence in LLVM, for
/// every type.
static bool isNativeForAll(Operation *op) {
  return isa<math::AbsFOp, math::AbsIOp, math::CopySignOp,
             math::CountLeadingZerosOp, math::CountTrailingZerosOp,
             math::CtPopOp, math::FmaOp>(op);
}

/// Ops of which there is one for f32 and f64.
static bool isNative(Operation *op) {
  return isNativeForAll(op) ||
         isa<math::CeilOp, math::FloorOp, math::IsFiniteOp, math::IsNaNOp,
             math::RoundEvenOp, math::RoundOp, math::RsqrtOp, math::SqrtOp,
             math::TruncOp>(op);
}

SmallVector<Value> ExpandGPUMathPass::compute(Operation *op,
                                              ValueRange operands,
                                              OpBuilder &builder) {
  if (Value form = createMathForm(builder, op, operands))
    return {form};
  Location loc = op->getLoc();
  Builder f(builder, loc, builder.getF32Type());
  Builder d(builder, loc, builder.getF64Type());
  auto wide = [&](unsigned index) -> Value {
    Value operand = operands[index];
    if (isa<IntegerType>(operand.getType()))
      return arith::SIToFPOp::create(builder, loc, builder.getF64Type(),
                                     operand);
    return arith::ExtFOp::create(builder, loc, builder.getF64Type(), operand);
  };
  auto narrow = [&](Value value) -> Value {
    return arith::TruncFOp::create(builder, loc, builder.getF32Type(), value);
  };
  auto one = [&] { return d.constant(1); };
  Value x = operands.front();
  if (isa<math::SincosOp>(op)) {
    auto [sine, cosine] = d.sinCos64(wide(0));
    return {narrow(sine), narrow(cosine)};
  }
  Value result =
      llvm::TypeSwitch<Operation *, Value>(op)
          .Case([&](math::ExpOp) { return f.exp(x); })
          .Case([&](math::Exp2Op) { return f.exp2(x); })
          .Case([&](math::ExpM1Op) { return f.expm1(x); })
          .Case([&](math::TanhOp) { return f.tanh(x); })
          .Case([&](math::LogOp) { return f.log(x); })
          .Case([&](math::ErfOp) { return f.erf(x); })
          .Case([&](math::ErfcOp) { return narrow(d.erfc64(wide(0))); })
          .Case([&](math::Log1pOp) { return narrow(d.log1p64(wide(0))); })
          .Case([&](math::Log2Op) {
            return narrow(
                d.mul(d.log64(wide(0)), d.constant(1.4426950408889634)));
          })
          .Case([&](math::Log10Op) {
            return narrow(
                d.mul(d.log64(wide(0)), d.constant(0.4342944819032518)));
          })
          .Case([&](math::SinOp) { return narrow(d.sinCos64(wide(0)).first); })
          .Case([&](math::CosOp) { return narrow(d.sinCos64(wide(0)).second); })
          .Case([&](math::TanOp) {
            auto [sine, cosine] = d.sinCos64(wide(0));
            return narrow(d.div(sine, cosine));
          })
          .Case([&](math::AtanOp) { return narrow(d.atan64(wide(0))); })
          .Case([&](math::Atan2Op) {
            return narrow(d.atan2of64(wide(0), wide(1)));
          })
          .Case([&](math::AsinOp) {
            Value w = wide(0);
            Value cosine = d.sqrt(d.mul(d.sub(one(), w), d.add(one(), w)));
            return narrow(d.atan64(d.div(w, cosine)));
          })
          .Case([&](math::AcosOp) {
            Value w = wide(0);
            Value tangent = d.sqrt(d.div(d.sub(one(), w), d.add(one(), w)));
            return narrow(d.mul(d.atan64(tangent), d.constant(2)));
          })
          .Case([&](math::SinhOp) {
            Value w = wide(0);
            Value t = d.exp64(d.abs(w), /*minusOne=*/true);
            Value sum = d.add(t, d.div(t, d.add(t, one())));
            return narrow(d.copySign(d.mul(sum, d.constant(0.5)), w));
          })
          .Case([&](math::CoshOp) {
            Value e = d.exp64(d.abs(wide(0)), /*minusOne=*/false);
            return narrow(d.mul(d.add(e, d.div(one(), e)), d.constant(0.5)));
          })
          .Case([&](math::AsinhOp) {
            Value w = wide(0);
            Value a = d.abs(w), square = d.mul(a, a);
            Value root = d.sqrt(d.add(square, one()));
            Value rest = d.div(square, d.add(root, one()));
            rest = d.select(d.equal(a, d.infinity()), a, rest);
            return narrow(d.copySign(d.log1p64(d.add(a, rest)), w));
          })
          .Case([&](math::AcoshOp) {
            Value w = wide(0);
            Value above = d.sub(w, one());
            Value root = d.sqrt(d.mul(above, d.add(w, one())));
            Value value = d.log1p64(d.add(above, root));
            return narrow(d.select(d.greater(one(), w), d.nan(), value));
          })
          .Case([&](math::AtanhOp) {
            Value w = wide(0);
            Value ratio = d.div(d.mul(d.constant(2), w), d.sub(one(), w));
            return narrow(d.mul(d.log1p64(ratio), d.constant(0.5)));
          })
          .Case([&](math::CbrtOp) {
            Value w = wide(0);
            Value third = d.div(d.log64(d.abs(w)), d.constant(3));
            Value root = d.exp64(third, /*minusOne=*/false);
            root = d.select(d.equal(w, d.constant(0)), d.constant(0), root);
            root =
                d.select(d.equal(d.abs(w), d.infinity()), d.infinity(), root);
            return narrow(d.copySign(root, w));
          })
          .Case([&](math::PowFOp) { return narrow(d.pow64(wide(0), wide(1))); })
          .Case(
              [&](math::FPowIOp) { return narrow(d.pow64(wide(0), wide(1))); })
          .Default([](Operation *) { return Value(); });
  if (!result)
    return {};
  return {result};
}

LogicalResult ExpandGPUMathPass::expand(Operation *op, IRRewriter &rewriter) {
  if (isNativeForAll(op))
    return success();
  Type f32 = rewriter.getF32Type();
  auto isNarrow = [](Type type) { return type.isF16() || type.isBF16(); };
  auto isScalar = [&](Type type) {
    return type == f32 || isNarrow(type) || isa<IntegerType>(type);
  };
  bool isWide = llvm::any_of(op->getOperandTypes(), isNarrow);
  if (isNative(op) && !isWide)
    return success();
  if (!isWide)
    if (Value form = createMathForm(rewriter, op, op->getOperands())) {
      rewriter.replaceOp(op, form);
      return success();
    }
  SmallVector<Value> results;
  if (llvm::all_of(op->getOperandTypes(), isScalar)) {
    SmallVector<Value> operands;
    for (Value operand : op->getOperands())
      operands.push_back(
          isNarrow(operand.getType())
              ? arith::ExtFOp::create(rewriter, op->getLoc(), f32, operand)
                    .getResult()
              : operand);
    if (isNative(op)) {
      SmallVector<Type> types;
      for (Type type : op->getResultTypes())
        types.push_back(isNarrow(type) ? f32 : type);
      results = rewriter
                    .create(op->getLoc(), op->getName().getIdentifier(),
                            operands, types, op->getAttrs())
                    ->getResults();
    } else {
      results = compute(op, operands, rewriter);
    }
  }
  if (results.empty())
    return op->emitOpError("has no form for GPUs; expected a function of "
                           "floating-point scalars of f16, bf16 or f32");
  for (auto [result, old] : llvm::zip_equal(results, op->getResults()))
    if (result.getType() != old.getType())
      result = arith::TruncFOp::create(rewriter, op->getLoc(), old.getType(),
                                       result);
  rewriter.replaceOp(op, results);
  return success();
}
