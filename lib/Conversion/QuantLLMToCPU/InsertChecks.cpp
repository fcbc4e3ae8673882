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

#include "KernelLibrary.h"
#include "UncheckedOps.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"
#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"

#include "mlir/Conversion/AffineToStandard/AffineToStandard.h"
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Affine/Transforms/Transforms.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Index/IR/IndexOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/IntegerSet.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/DialectConversion.h"
#include "llvm/ADT/SetVector.h"

#include <cmath>
#include <set>
#include <tuple>

namespace quant_llm {
#define GEN_PASS_DEF_INSERTCHECKS
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

/// No tensor may have more bytes, so that neither they nor the positions in it
/// overflow.
static constexpr int64_t kMostBytes = int64_t(1) << 62;

/// No loop whose counter is part of a sum in an indexing map may be longer, and
/// no value of a map may be larger: then none overflows.
static constexpr int64_t kMostIterations = int64_t(1) << 32;
static constexpr double kMostIndex = 0x1p61;

namespace {

/// What a failed check says: with `got` and `bound`, numbers that are known at
/// run time (kGotValue).
struct Message {
  Message(const Twine &text) : text(text.str()) {}
  Message(std::string text) : text(std::move(text)) {}
  Message(StringRef text) : text(text.str()) {}
  Message(const char *text) : text(text) {}

  std::string text;
  Value got, bound;
};

struct InsertChecks : public quant_llm::impl::InsertChecksBase<InsertChecks> {
  using InsertChecksBase::InsertChecksBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    // The messages of an earlier run keep their numbers.
    if (auto earlier = module->getAttrOfType<ArrayAttr>(kChecksAttrName))
      llvm::append_range(messages, earlier);
    if (failed(replaceAsserts(module)) || failed(lowerAffine(module)) ||
        failed(refuseUncheckedOps(module)) || failed(refuseRecursion(module)))
      return signalPassFailure();
    dropPromises(module);
    keepExtents(module);
    if (failed(guardDivisions(module)) || failed(guardSteps(module)))
      return signalPassFailure();
    SmallVector<Operation *> ops;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk<WalkOrder::PreOrder>([&](Operation *op) {
        ops.push_back(op);
        return isa<linalg::LinalgOp, LinearOpInterface>(op)
                   ? WalkResult::skip()
                   : WalkResult::advance();
      });
    for (Operation *op : ops)
      if (failed(check(op)))
        return signalPassFailure();
    if (messages.empty())
      return;
    Builder builder(&getContext());
    Type i64 = builder.getI64Type();
    FunctionType type = builder.getFunctionType({i64, i64, i64}, {});
    if ((callsFail &&
         failed(getRuntimeFunction(module, kFailCheckFunction, type))) ||
        (callsRequire &&
         failed(getRuntimeFunction(module, kRequireFunction, type))))
      return signalPassFailure();
    module->setAttr(kChecksAttrName, builder.getArrayAttr(messages));
  }

private:
  /// The lowering of upstream would abort the process.
  LogicalResult replaceAsserts(ModuleOp module) {
    SmallVector<cf::AssertOp> asserts;
    module.walk([&](cf::AssertOp op) { asserts.push_back(op); });
    for (cf::AssertOp op : asserts) {
      if (!op->getParentOfType<func::FuncOp>())
        return op.emitOpError("expected to be in a func.func, where a failure "
                              "can be reported");
      OpBuilder builder(op);
      Location loc = op.getLoc();
      Message message = describe(builder, loc, op);
      if (!op->getParentOfType<linalg::LinalgOp>()) {
        Value yes = arith::ConstantIntOp::create(builder, loc, 1, /*width=*/1);
        Value wrong = arith::XOrIOp::create(builder, loc, op.getArg(), yes);
        fail(builder, loc, wrong, message);
      } else {
        require(builder, loc, op.getArg(), message);
      }
      op.erase();
    }
    return success();
  }

  /// The message of an assertion. A comparison of integers says what it got.
  Message describe(OpBuilder &builder, Location loc, cf::AssertOp op) {
    Message message = op.getMsg();
    auto compare = op.getArg().getDefiningOp<arith::CmpIOp>();
    Type type = compare ? compare.getLhs().getType() : Type();
    if (!compare || !(type.isIndex() ||
                      (type.isInteger() && type.getIntOrFloatBitWidth() <= 64)))
      return message;
    StringRef bound;
    switch (compare.getPredicate()) {
    case arith::CmpIPredicate::eq:
      bound = "{1}";
      break;
    case arith::CmpIPredicate::ne:
      bound = "something else than {1}";
      break;
    case arith::CmpIPredicate::slt:
    case arith::CmpIPredicate::ult:
      bound = "less than {1}";
      break;
    case arith::CmpIPredicate::sle:
    case arith::CmpIPredicate::ule:
      bound = "at most {1}";
      break;
    case arith::CmpIPredicate::sgt:
    case arith::CmpIPredicate::ugt:
      bound = "more than {1}";
      break;
    case arith::CmpIPredicate::sge:
    case arith::CmpIPredicate::uge:
      bound = "at least {1}";
      break;
    }
    message.text += (": expected " + bound + kGotValue).str();
    auto number = [&](Value value) -> Value {
      Type i64 = builder.getI64Type();
      if (type.isIndex())
        return arith::IndexCastOp::create(builder, loc, i64, value);
      if (type == i64)
        return value;
      bool isSigned = arith::CmpIPredicate::ult > compare.getPredicate();
      if (isSigned && !type.isInteger(1))
        return arith::ExtSIOp::create(builder, loc, i64, value);
      return arith::ExtUIOp::create(builder, loc, i64, value);
    };
    message.got = number(compare.getLhs());
    message.bound = number(compare.getRhs());
    return message;
  }

  //===--------------------------------------------------------------------===//
  // Divisions, shifts and conversions
  //===--------------------------------------------------------------------===//

  static bool isSignedDivision(Operation *op) {
    return isa<arith::DivSIOp, arith::CeilDivSIOp, arith::FloorDivSIOp,
               arith::RemSIOp, index::DivSOp, index::CeilDivSOp,
               index::FloorDivSOp, index::RemSOp>(op);
  }

  static bool isDivision(Operation *op) {
    return isSignedDivision(op) ||
           isa<arith::DivUIOp, arith::CeilDivUIOp, arith::RemUIOp,
               index::DivUOp, index::CeilDivUOp, index::RemUOp>(op);
  }

  static bool isShift(Operation *op) {
    return isa<arith::ShLIOp, arith::ShRSIOp, arith::ShRUIOp, index::ShlOp,
               index::ShrSOp, index::ShrUOp>(op);
  }

  /// Conversions of numbers that the result has no room for are undefined.
  static bool isConversion(Operation *op) {
    return isa<arith::FPToSIOp, arith::FPToUIOp>(op) &&
           isa<Float16Type, BFloat16Type, Float32Type, Float64Type,
               Float80Type>(getElementTypeOrSelf(op->getOperand(0).getType()));
  }

  /// A negative power of the integer 0 is a division by it.
  static bool isPower(Operation *op) { return isa<math::IPowIOp>(op); }

  static unsigned getWidth(Type type) {
    type = getElementTypeOrSelf(type);
    return type.isIndex() ? 64 : type.getIntOrFloatBitWidth();
  }

  /// Whether an op is a division, a shift, a power or a conversion that is
  /// undefined for some operands.
  static bool mayBeUndefined(Operation *op) {
    if (isConversion(op))
      return true;
    APInt constant;
    if (isPower(op))
      return (!matchPattern(op->getOperand(0), m_ConstantInt(&constant)) ||
              constant.isZero()) &&
             (!matchPattern(op->getOperand(1), m_ConstantInt(&constant)) ||
              constant.isNegative());
    if (!isDivision(op) && !isShift(op))
      return false;
    if (!matchPattern(op->getOperand(1), m_ConstantInt(&constant)))
      return true;
    if (isShift(op))
      return constant.uge(getWidth(op->getResult(0).getType()));
    return constant.isZero() || (isSignedDivision(op) && constant.isAllOnes());
  }

  /// Whether an op of the affine dialect may divide by what is known only at
  /// run time.
  static bool mayDivide(Operation *op) {
    auto hasDivision = [](AffineExpr expr) { return !expr.isPureAffine(); };
    if (isa<affine::AffineDelinearizeIndexOp>(op))
      return true;
    return llvm::any_of(op->getAttrs(), [&](NamedAttribute attribute) {
      if (auto map = dyn_cast<AffineMapAttr>(attribute.getValue()))
        return llvm::any_of(map.getValue().getResults(), hasDivision);
      if (auto set = dyn_cast<IntegerSetAttr>(attribute.getValue()))
        return llvm::any_of(set.getValue().getConstraints(), hasDivision);
      return false;
    });
  }

  /// Makes the divisions in maps, and accesses to memory through maps,
  /// operations that can be checked. Without any, ops stay: maps tell later
  /// passes more.
  LogicalResult lowerAffine(ModuleOp module) {
    bool isNeeded = false;
    auto functions = llvm::to_vector(module.getOps<func::FuncOp>());
    for (func::FuncOp function : functions)
      function.walk([&](Operation *op) {
        isNeeded |= isa_and_nonnull<affine::AffineDialect>(op->getDialect()) &&
                    (mayDivide(op) || llvm::any_of(op->getOperandTypes(),
                                                   llvm::IsaPred<MemRefType>));
      });
    if (!isNeeded)
      return success();
    RewritePatternSet patterns(&getContext());
    populateAffineToStdConversionPatterns(patterns);
    affine::populateAffineExpandIndexOpsPatterns(patterns);
    ConversionTarget target(getContext());
    target.addLegalDialect<arith::ArithDialect, memref::MemRefDialect,
                           scf::SCFDialect, vector::VectorDialect>();
    FrozenRewritePatternSet frozen(std::move(patterns));
    for (func::FuncOp function : functions) {
      if (failed(applyPartialConversion(function, target, frozen)))
        return failure();
      WalkResult result = function.walk([&](Operation *op) {
        if (!isa_and_nonnull<affine::AffineDialect>(op->getDialect()) ||
            !mayDivide(op))
          return WalkResult::advance();
        op->emitOpError("expected an op whose divisions can be checked; write "
                        "them as operations");
        return WalkResult::interrupt();
      });
      if (result.wasInterrupted())
        return failure();
    }
    return success();
  }

  /// The processor traps at divisions by zero, and of the least number by -1.
  /// What a shift by the width or more gives is undefined, and so is the
  /// integer of a NaN, or of a number that it has no room for; checks of such
  /// values could be optimized away.
  LogicalResult guardDivisions(ModuleOp module) {
    IRRewriter rewriter(&getContext());
    SmallVector<Operation *> divisions;
    llvm::SetVector<Operation *> named;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk([&](Operation *op) {
        if (mayBeUndefined(op)) {
          auto parent = dyn_cast<linalg::LinalgOp>(op->getParentOp());
          if (parent &&
              !isa<linalg::GenericOp, linalg::MapOp, linalg::ReduceOp>(
                  parent.getOperation()))
            named.insert(parent);
          else
            divisions.push_back(op);
        }
      });
    // The bodies of named ops are not to be changed.
    for (Operation *op : named) {
      rewriter.setInsertionPoint(op);
      FailureOr<linalg::GenericOp> generic =
          linalg::generalizeNamedOp(rewriter, cast<linalg::LinalgOp>(op));
      if (failed(generic))
        return op->emitOpError("expected an op whose divisions, shifts and "
                               "conversions to integers can be checked; write "
                               "it as linalg.generic");
      generic->walk([&](Operation *inner) {
        if (mayBeUndefined(inner))
          divisions.push_back(inner);
      });
    }
    for (Operation *op : divisions) {
      Type type = op->getResult(0).getType();
      if (isa<RankedTensorType>(type))
        op = writeAsGeneric(rewriter, op);
      if (isConversion(op) && !isa<TensorType>(op->getResult(0).getType())) {
        saturate(op);
        continue;
      }
      if (isa<ShapedType>(op->getResult(0).getType()))
        return op->emitOpError("expected a division, a shift, a power or a "
                               "conversion to an integer of numbers or ranked "
                               "tensors, which can be checked, but got one of ")
               << type;
      if (op->getParentOfType<LinearOpInterface>())
        return op->emitOpError(
            isShift(op)
                ? "expected an amount in an epilogue to be a constant below "
                  "the width, since it cannot be checked there"
            : isPower(op)
                ? "expected an exponent in an epilogue to be a constant that "
                  "is not negative, since it cannot be checked there"
                : "expected a divisor in an epilogue to be a constant, other "
                  "than zero, since it cannot be checked there");
      guardDivision(op);
      // Upstream's lowering of these divides the difference to a neighbour,
      // which may be the least number where the dividend is not.
      rewriter.setInsertionPoint(op);
      if (isa<index::FloorDivSOp>(op))
        rewriter.replaceOpWithNewOp<arith::FloorDivSIOp>(op, op->getOperand(0),
                                                         op->getOperand(1));
      else if (isa<index::CeilDivSOp>(op))
        rewriter.replaceOpWithNewOp<arith::CeilDivSIOp>(op, op->getOperand(0),
                                                        op->getOperand(1));
    }
    return success();
  }

  /// An elementwise op on tensors as one on scalars in a linalg.generic.
  Operation *writeAsGeneric(IRRewriter &rewriter, Operation *op) {
    rewriter.setInsertionPoint(op);
    Location loc = op->getLoc();
    auto type = cast<RankedTensorType>(op->getResult(0).getType());
    Value init = tensor::EmptyOp::create(
        rewriter, loc, tensor::getMixedSizes(rewriter, loc, op->getOperand(0)),
        type.getElementType());
    if (init.getType() != type)
      init = tensor::CastOp::create(rewriter, loc, type, init);
    AffineMap map = rewriter.getMultiDimIdentityMap(type.getRank());
    Operation *scalar = nullptr;
    auto generic = linalg::GenericOp::create(
        rewriter, loc, TypeRange{type}, op->getOperands(), ValueRange{init},
        SmallVector<AffineMap>(op->getNumOperands() + 1, map),
        SmallVector<utils::IteratorType>(type.getRank(),
                                         utils::IteratorType::parallel),
        [&](OpBuilder &nested, Location loc, ValueRange arguments) {
          scalar = nested.create(
              loc, op->getName().getIdentifier(), arguments.drop_back(),
              TypeRange{type.getElementType()}, op->getAttrs());
          linalg::YieldOp::create(nested, loc, scalar->getResults());
        });
    rewriter.replaceOp(op, generic);
    return scalar;
  }

  /// Upstream folds these of a value with itself to a constant of the same
  /// type, which no memory can be laid out for if extents are dynamic. Ops on
  /// scalars fold to scalars.
  void keepExtents(ModuleOp module) {
    IRRewriter rewriter(&getContext());
    SmallVector<Operation *> ops;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk([&](Operation *op) {
        if (!isa<arith::XOrIOp, arith::CmpIOp>(op))
          return;
        auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
        if (type && !type.hasStaticShape())
          ops.push_back(op);
      });
    for (Operation *op : ops)
      writeAsGeneric(rewriter, op);
  }

  /// That of the op around what was the body of a named op.
  static Location getKnownLoc(Operation *op) {
    return isa<UnknownLoc>(op->getLoc()) ? op->getParentOp()->getLoc()
                                         : op->getLoc();
  }

  /// Makes a conversion to an integer defined for every number: the nearest
  /// integer that the type has, and 0 of a NaN.
  void saturate(Operation *op) {
    OpBuilder builder(op);
    Location loc = getKnownLoc(op);
    Value number = op->getOperand(0), integer = op->getResult(0);
    Type from = number.getType(), to = integer.getType();
    const bool isSigned = isa<arith::FPToSIOp>(op);
    const unsigned bits = getWidth(to);
    auto constant = [&](Type type, TypedAttr value) -> Value {
      if (auto shaped = dyn_cast<ShapedType>(type))
        value = DenseElementsAttr::get(shaped, Attribute(value));
      return arith::ConstantOp::create(builder, loc, value);
    };
    auto getNumber = [&](const APInt &value) {
      auto type = cast<mlir::FloatType>(getElementTypeOrSelf(from));
      APFloat exact(type.getFloatSemantics());
      // Powers of two and 0 are exact, or too large and become infinite.
      exact.convertFromAPInt(value, /*IsSigned=*/true,
                             APFloat::rmNearestTiesToEven);
      return constant(from, builder.getFloatAttr(type, exact));
    };
    auto getInteger = [&](const APInt &value) {
      return constant(to,
                      builder.getIntegerAttr(getElementTypeOrSelf(to), value));
    };
    auto compare = [&](arith::CmpFPredicate predicate, Value bound) -> Value {
      return arith::CmpFOp::create(builder, loc, predicate, number, bound);
    };
    // One above the largest integer, and the least: they become these.
    APInt above = APInt::getOneBitSet(bits + 2, isSigned ? bits - 1 : bits);
    APInt least = isSigned ? -above : APInt::getZero(bits + 2);
    Value zero = getNumber(APInt::getZero(bits + 2));
    Value isHigh = compare(arith::CmpFPredicate::OGE, getNumber(above));
    Value isLow = compare(arith::CmpFPredicate::OLE, getNumber(least));
    Value isNaN = arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::UNO,
                                        number, number);
    Value isOutside = arith::OrIOp::create(builder, loc, isHigh, isLow);
    isOutside = arith::OrIOp::create(builder, loc, isOutside, isNaN);
    op->setOperand(
        0, arith::SelectOp::create(builder, loc, isOutside, zero, number));
    builder.setInsertionPointAfter(op);
    Value low = arith::SelectOp::create(
        builder, loc, isLow,
        getInteger(isSigned ? APInt::getSignedMinValue(bits)
                            : APInt::getZero(bits)),
        integer);
    Value high = arith::SelectOp::create(
        builder, loc, isHigh,
        getInteger(isSigned ? APInt::getSignedMaxValue(bits)
                            : APInt::getMaxValue(bits)),
        low);
    integer.replaceAllUsesExcept(high, low.getDefiningOp());
  }

  void guardDivision(Operation *op) {
    OpBuilder builder(op);
    Location loc = getKnownLoc(op);
    Value dividend = op->getOperand(0), divisor = op->getOperand(1);
    Type type = divisor.getType();
    auto constant = [&](const APInt &value) -> Value {
      return arith::ConstantOp::create(builder, loc,
                                       builder.getIntegerAttr(type, value));
    };
    auto equal = [&](Value a, const APInt &b) -> Value {
      return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, a,
                                   constant(b));
    };
    unsigned bits = getWidth(type);
    Value wrong;
    std::string message;
    if (isShift(op)) {
      wrong = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::uge,
                                    divisor, constant(APInt(bits, bits)));
      message = "expected an amount below the width of " +
                std::to_string(bits) + " bits";
    } else if (isPower(op)) {
      wrong = arith::AndIOp::create(
          builder, loc, equal(dividend, APInt::getZero(bits)),
          arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt,
                                divisor, constant(APInt::getZero(bits))));
      message = "expected an exponent that is not negative of the base 0";
    } else {
      wrong = equal(divisor, APInt::getZero(bits));
      message = "expected a divisor other than zero";
    }
    if (isSignedDivision(op)) {
      Value least = equal(dividend, APInt::getSignedMinValue(bits));
      Value negates = equal(divisor, APInt::getAllOnes(bits));
      wrong = arith::OrIOp::create(
          builder, loc, wrong,
          arith::AndIOp::create(builder, loc, least, negates));
      message += ", and not the least number divided by -1,";
    }
    message += (" in " + op->getName().getStringRef()).str();
    if (!op->getParentOfType<linalg::LinalgOp>()) {
      fail(builder, loc, wrong, message);
      // Other ops that may divide by zero are not moved in front of the check.
      if (!isPower(op))
        return;
    } else {
      // A kernel goes on after a fault.
      Value yes = arith::ConstantIntOp::create(builder, loc, 1, /*width=*/1);
      require(builder, loc, arith::XOrIOp::create(builder, loc, wrong, yes),
              message);
    }
    op->setOperand(1,
                   arith::SelectOp::create(builder, loc, wrong,
                                           constant(APInt(bits, 1)), divisor));
  }

  /// Values of operations that break a promise are undefined, and checks of
  /// them could be optimized away.
  static void dropPromises(ModuleOp module) {
    auto none = arith::IntegerOverflowFlagsAttr::get(
        module.getContext(), arith::IntegerOverflowFlags::none);
    for (auto function : module.getOps<func::FuncOp>())
      function.walk([&](Operation *op) {
        if (auto flags =
                dyn_cast<arith::ArithIntegerOverflowFlagsInterface>(op))
          op->setAttr(flags.getIntegerOverflowAttrName(), none);
        if (isa<arith::DivSIOp, arith::DivUIOp, arith::ShRSIOp, arith::ShRUIOp>(
                op))
          op->removeAttr("isExact");
        auto math = dyn_cast<arith::ArithFastMathInterface>(op);
        if (auto flags = math ? math.getFastMathFlagsAttr() : nullptr)
          op->setAttr(math.getFastMathAttrName(),
                      arith::FastMathFlagsAttr::get(
                          op->getContext(),
                          flags.getValue() & ~(arith::FastMathFlags::nnan |
                                               arith::FastMathFlags::ninf)));
      });
  }

  //===--------------------------------------------------------------------===//
  // Loops
  //===--------------------------------------------------------------------===//

  /// A loop whose step is zero does not end, or its length is a division by
  /// zero.
  LogicalResult guardSteps(ModuleOp module) {
    SmallVector<LoopLikeOpInterface> loops;
    for (auto function : module.getOps<func::FuncOp>())
      function.walk([&](LoopLikeOpInterface loop) {
        if (isa<scf::ForOp, scf::ParallelOp, scf::ForallOp>(*loop))
          loops.push_back(loop);
      });
    for (LoopLikeOpInterface loop : loops) {
      std::optional<SmallVector<OpFoldResult>> steps = loop.getLoopSteps();
      if (!steps)
        continue;
      OpBuilder builder(loop);
      Location loc = loop.getLoc();
      auto forOp = dyn_cast<scf::ForOp>(*loop);
      const bool isUnsigned = forOp && forOp.getUnsignedCmp();
      for (OpFoldResult step : *steps) {
        auto known = getConstantIntValue(step);
        if (known && (isUnsigned ? *known != 0 : *known > 0))
          continue;
        if (loop->getParentOfType<linalg::LinalgOp>() ||
            loop->getParentOfType<LinearOpInterface>())
          return loop.emitOpError("expected a loop in the body of another op "
                                  "to have a constant, positive step, since it "
                                  "cannot be checked there");
        Value value = getValueOrCreateConstantIndexOp(builder, loc, step);
        auto one = builder.getIntegerAttr(value.getType(), 1);
        Value wrong = arith::CmpIOp::create(
            builder, loc,
            isUnsigned ? arith::CmpIPredicate::ult : arith::CmpIPredicate::slt,
            value, arith::ConstantOp::create(builder, loc, one));
        fail(builder, loc, wrong,
             "expected a positive step of " + loop->getName().getStringRef());
      }
      guardEnd(loop, *steps, isUnsigned);
    }
    return success();
  }

  /// A counter that passes the largest number of its type begins again.
  void guardEnd(LoopLikeOpInterface loop, ArrayRef<OpFoldResult> steps,
                bool isUnsigned) {
    std::optional<SmallVector<OpFoldResult>> lower = loop.getLoopLowerBounds(),
                                             upper = loop.getLoopUpperBounds();
    // The functions of other ops cannot be left.
    if (!lower || !upper || loop->getParentOfType<linalg::LinalgOp>() ||
        loop->getParentOfType<LinearOpInterface>())
      return;
    OpBuilder builder(loop);
    Location loc = loop.getLoc();
    for (auto [from, to, by] : llvm::zip_equal(*lower, *upper, steps)) {
      if (isConstantIntValue(by, 1))
        continue;
      auto value = [&](OpFoldResult v) {
        return getValueOrCreateConstantIndexOp(builder, loc, v);
      };
      Value begin = value(from), end = value(to), step = value(by);
      Type type = begin.getType();
      unsigned width = type.isIndex() ? 64 : type.getIntOrFloatBitWidth();
      auto constant = [&](const APInt &number) {
        return arith::ConstantOp::create(builder, loc,
                                         builder.getIntegerAttr(type, number));
      };
      Value one = constant(APInt(width, 1));
      Value most = constant(isUnsigned ? APInt::getMaxValue(width)
                                       : APInt::getSignedMaxValue(width));
      // With a last number in front of `end`, none of this overflows. Wide
      // remainders are calls of a library; near the end of such types, steps
      // are refused that would just fit.
      Value isEmpty = arith::CmpIOp::create(
          builder, loc,
          isUnsigned ? arith::CmpIPredicate::uge : arith::CmpIPredicate::sge,
          begin, end);
      Value inner = arith::SubIOp::create(builder, loc, end, one);
      Value last = inner;
      if (width <= 64) {
        Value span = arith::SubIOp::create(builder, loc, inner, begin);
        Value rest = arith::RemUIOp::create(builder, loc, span, step);
        last = arith::SubIOp::create(builder, loc, inner, rest);
      }
      Value room = arith::SubIOp::create(builder, loc, most, last);
      Value passes = arith::CmpIOp::create(
          builder, loc, arith::CmpIPredicate::ugt, step, room);
      Value wrong = arith::SelectOp::create(
          builder, loc, isEmpty,
          arith::ConstantOp::create(builder, loc, builder.getBoolAttr(false)),
          passes);
      fail(builder, loc, wrong,
           "expected a counter of " + loop->getName().getStringRef() +
               " that does not pass the largest number of its type");
    }
  }

  //===--------------------------------------------------------------------===//
  // Ops on tensors
  //===--------------------------------------------------------------------===//

  LogicalResult check(Operation *op) {
    OpBuilder builder(op);
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op)) {
      checkLoops(builder, linalgOp);
      return checkIndexing(builder, linalgOp);
    }
    if (isa_and_nonnull<memref::MemRefDialect>(op->getDialect())) {
      checkBuffer(builder, op);
    } else if (op->hasTrait<OpTrait::Elementwise>()) {
      checkElementwise(builder, op);
    } else if (auto linear = dyn_cast<LinearOpInterface>(op)) {
      checkLinear(builder, linear);
    } else if (auto quantize = dyn_cast<QuantizeActivationOp>(op)) {
      checkGrids(builder, op, quantize.getResult().getType(),
                 quantize.getSource(), quantize.getGiven());
    } else if (auto assemble = dyn_cast<AssembleOp>(op)) {
      if (auto type = dyn_cast<ActivationType>(assemble.getResult().getType()))
        checkGrids(builder, op, type, assemble.getComponents().front(),
                   assemble.getComponents().drop_front());
    } else if (auto dispatch = dyn_cast<DispatchOp>(op)) {
      checkDispatch(builder, dispatch);
    } else if (auto softmax = dyn_cast<linalg::SoftmaxOp>(op)) {
      requireEqualShapes(builder, op, softmax.getInput(), softmax.getOutput());
    } else if (auto put =
                   dyn_cast<bufferization::MaterializeInDestinationOp>(op)) {
      requireEqualShapes(builder, op, put.getSource(), put.getDest());
    } else if (auto dim = dyn_cast<tensor::DimOp>(op)) {
      if (auto type = dyn_cast<RankedTensorType>(dim.getSource().getType()))
        requireDimension(builder, op, dim.getIndex(), type);
    } else if (auto concat = dyn_cast<tensor::ConcatOp>(op)) {
      checkConcat(builder, concat);
    } else if (auto insert = dyn_cast<tensor::ParallelInsertSliceOp>(op)) {
      // No other ops may stand beside it.
      builder.setInsertionPoint(op->getParentOp());
      checkInsertSlice(builder, insert);
    } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      checkSlice(builder, op, slice.getSource(), slice.getMixedOffsets(),
                 slice.getMixedSizes(), slice.getMixedStrides());
    } else if (auto insert = dyn_cast<tensor::InsertSliceOp>(op)) {
      checkInsertSlice(builder, insert);
    } else if (auto cast = dyn_cast<tensor::CastOp>(op)) {
      checkCast(builder, op, cast.getSource(), cast.getType());
    } else if (auto extract = dyn_cast<tensor::ExtractOp>(op)) {
      for (auto [i, index] : llvm::enumerate(extract.getIndices()))
        requireInside(builder, op, index, builder.getIndexAttr(1),
                      getExtent(extract.getTensor(), i));
    } else if (auto insert = dyn_cast<tensor::InsertOp>(op)) {
      for (auto [i, index] : llvm::enumerate(insert.getIndices()))
        requireInside(builder, op, index, builder.getIndexAttr(1),
                      getExtent(insert.getDest(), i));
    } else if (auto extract = dyn_cast<vector::ExtractOp>(op)) {
      checkPositions(builder, op, extract.getMixedPosition(),
                     extract.getSourceVectorType());
    } else if (auto insert = dyn_cast<vector::InsertOp>(op)) {
      checkPositions(builder, op, insert.getMixedPosition(),
                     insert.getDestVectorType());
    } else if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
      checkExpand(builder, op, expand.getSrc(), expand.getResultType(),
                  expand.getMixedOutputShape(),
                  expand.getReassociationIndices());
    } else if (auto empty = dyn_cast<tensor::EmptyOp>(op)) {
      requireSize(builder, op, empty.getType(), empty.getMixedSizes());
    } else if (auto generate = dyn_cast<tensor::GenerateOp>(op)) {
      requireSize(builder, op, mlir::cast<RankedTensorType>(generate.getType()),
                  getMixedValues(generate.getType().getShape(),
                                 generate.getDynamicExtents(), builder));
    } else if (auto splat = dyn_cast<tensor::SplatOp>(op)) {
      requireSize(builder, op, splat.getType(),
                  getMixedValues(splat.getType().getShape(),
                                 splat.getDynamicSizes(), builder));
    } else if (auto alloc = dyn_cast<bufferization::AllocTensorOp>(op)) {
      if (!alloc.getCopy())
        requireSize(
            builder, op, mlir::cast<RankedTensorType>(alloc.getType()),
            getMixedValues(
                mlir::cast<RankedTensorType>(alloc.getType()).getShape(),
                alloc.getDynamicSizes(), builder));
    } else if (auto pad = dyn_cast<tensor::PadOp>(op)) {
      SmallVector<OpFoldResult> sizes;
      for (auto [i, low, high] :
           llvm::enumerate(pad.getMixedLowPad(), pad.getMixedHighPad())) {
        auto anyLine =
            RankedTensorType::get({ShapedType::kDynamic}, builder.getF64Type());
        requireSize(builder, op, anyLine, {low});
        requireSize(builder, op, anyLine, {high});
        sizes.push_back(
            add(builder, op->getLoc(),
                add(builder, op->getLoc(), getExtent(pad.getSource(), i), low),
                high));
      }
      requireSize(builder, op, pad.getResultType(), sizes);
      requireShape(builder, op, pad.getResultType(), sizes);
    } else if (auto reshape = dyn_cast<tensor::ReshapeOp>(op)) {
      checkReshape(builder, reshape);
    }
    return success();
  }

  /// Accesses to buffers of the program, and views of them.
  void checkBuffer(OpBuilder &builder, Operation *op) {
    auto requireElement = [&](Value buffer, ValueRange indices) {
      for (auto [i, index] : llvm::enumerate(indices))
        requireInside(builder, op, index, builder.getIndexAttr(1),
                      getExtent(buffer, i));
    };
    if (auto load = dyn_cast<memref::LoadOp>(op)) {
      requireElement(load.getMemRef(), load.getIndices());
    } else if (auto store = dyn_cast<memref::StoreOp>(op)) {
      requireElement(store.getMemRef(), store.getIndices());
    } else if (auto view = dyn_cast<memref::SubViewOp>(op)) {
      checkSlice(builder, op, view.getSource(), view.getMixedOffsets(),
                 view.getMixedSizes(), view.getMixedStrides());
    } else if (auto cast = dyn_cast<memref::CastOp>(op)) {
      checkCast(builder, op, cast.getSource(), cast.getType());
    } else if (auto copy = dyn_cast<memref::CopyOp>(op)) {
      requireEqualShapes(builder, op, copy.getSource(), copy.getTarget());
    } else if (auto dim = dyn_cast<memref::DimOp>(op)) {
      if (auto type = dyn_cast<MemRefType>(dim.getSource().getType()))
        requireDimension(builder, op, dim.getIndex(), type);
    } else if (auto expand = dyn_cast<memref::ExpandShapeOp>(op)) {
      checkExpand(builder, op, expand.getSrc(), expand.getResultType(),
                  expand.getMixedOutputShape(),
                  expand.getReassociationIndices());
    } else if (auto alloc = dyn_cast<memref::AllocOp>(op)) {
      requireSize(builder, op, alloc.getType(), alloc.getMixedSizes());
    }
  }

  void checkCast(OpBuilder &builder, Operation *op, Value source, Type type) {
    auto to = dyn_cast<ShapedType>(type),
         from = dyn_cast<ShapedType>(source.getType());
    if (!to || !from || !to.hasRank() || !from.hasRank())
      return;
    for (int64_t i = 0; i < to.getRank(); ++i)
      if (!to.isDynamicDim(i))
        requireEqual(builder, op, "a cast", getExtent(source, i),
                     builder.getIndexAttr(to.getDimSize(i)));
  }

  /// What is written for one element is done for all of a tensor.
  void checkElementwise(OpBuilder &builder, Operation *op) {
    auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
    std::optional<Value> first;
    for (Value operand : op->getOperands()) {
      if (!type || !isa<RankedTensorType>(operand.getType()))
        continue;
      if (first)
        requireEqualShapes(builder, op, *first, operand);
      else
        first = operand;
    }
    if (first)
      requireShape(builder, op, type, getExtents(*first));
  }

  void checkConcat(OpBuilder &builder, tensor::ConcatOp op) {
    SmallVector<OpFoldResult> sizes;
    for (Value input : op.getInputs()) {
      SmallVector<OpFoldResult> extents = getExtents(input);
      if (sizes.empty()) {
        sizes = std::move(extents);
        continue;
      }
      for (auto [i, size, extent] : llvm::enumerate(sizes, extents)) {
        if (i == op.getDim())
          size = add(builder, op.getLoc(), size, extent);
        else
          requireEqual(builder, op, op->getName().getStringRef(), size, extent);
      }
    }
    requireSize(builder, op, op.getResultType(), sizes);
    requireShape(builder, op, op.getResultType(), sizes);
  }

  /// A kernel may know extents that its callers do not.
  void checkDispatch(OpBuilder &builder, DispatchOp op) {
    auto kernel = SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
        op, op.getKernelAttr());
    if (kernel)
      for (auto [operand, type] :
           llvm::zip_equal(op->getOperands(), kernel.getArgumentTypes()))
        checkCast(builder, op, operand, type);
  }

  template <typename InsertOp>
  void checkInsertSlice(OpBuilder &builder, InsertOp op) {
    checkSlice(builder, op, op.getDest(), op.getMixedOffsets(),
               op.getMixedSizes(), op.getMixedStrides());
    llvm::SmallBitVector dropped = op.getDroppedDims();
    unsigned position = 0;
    for (auto [index, size] : llvm::enumerate(op.getMixedSizes()))
      if (!dropped[index])
        requireEqual(builder, op, "an inserted slice",
                     getExtent(op.getSource(), position++), size);
  }

  void checkExpand(OpBuilder &builder, Operation *op, Value source,
                   ShapedType type, ArrayRef<OpFoldResult> shape,
                   ArrayRef<ReassociationIndices> groups) {
    // Products of negative or of huge numbers could be right by chance.
    requireSize(builder, op, type, shape);
    for (auto [i, group] : llvm::enumerate(groups)) {
      OpFoldResult product = builder.getIndexAttr(1);
      for (int64_t j : group)
        product = multiply(builder, op->getLoc(), product, shape[j]);
      requireEqual(builder, op, "an expanded shape", getExtent(source, i),
                   product);
    }
  }

  /// What is at another position in a vector is undefined.
  void checkPositions(OpBuilder &builder, Operation *op,
                      ArrayRef<OpFoldResult> positions, VectorType type) {
    for (auto [i, position] : llvm::enumerate(positions))
      if (!getConstantIntValue(position) || !type.getScalableDims()[i])
        requireInside(builder, op, position, builder.getIndexAttr(1),
                      builder.getIndexAttr(type.getDimSize(i)));
  }

  /// The extents come as data; only their product is known.
  void checkReshape(OpBuilder &builder, tensor::ReshapeOp op) {
    auto from = dyn_cast<RankedTensorType>(op.getSource().getType());
    auto to = dyn_cast<RankedTensorType>(op.getType());
    if (!from || !to)
      return; // refused by the bufferization
    Location loc = op.getLoc();
    OpFoldResult count = builder.getIndexAttr(1), wanted = count;
    SmallVector<OpFoldResult> extents;
    for (int64_t i = 0; i < from.getRank(); ++i)
      count = multiply(builder, loc, count, getExtent(op.getSource(), i));
    for (int64_t i = 0; i < to.getRank(); ++i) {
      Value at = arith::ConstantIndexOp::create(builder, loc, i);
      Value extent = tensor::ExtractOp::create(builder, loc, op.getShape(), at);
      if (!extent.getType().isIndex())
        extent = arith::IndexCastOp::create(builder, loc,
                                            builder.getIndexType(), extent);
      if (!to.isDynamicDim(i))
        requireEqual(builder, op, "a reshape", extent,
                     builder.getIndexAttr(to.getDimSize(i)));
      extents.push_back(extent);
      wanted = multiply(builder, loc, wanted, extent);
    }
    requireSize(builder, op, to, extents);
    requireEqual(builder, op, "a reshape", count, wanted);
  }

  /// Operands that a loop runs over must have the same extent there.
  void checkLoops(OpBuilder &builder, linalg::LinalgOp op) {
    for (unsigned loop = 0; loop < op.getNumLoops(); ++loop) {
      std::optional<OpFoldResult> first;
      for (OpOperand &operand : op->getOpOperands()) {
        if (!isa<RankedTensorType, MemRefType>(operand.get().getType()))
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

  //===--------------------------------------------------------------------===//
  // Sums of loop counters as indices
  //===--------------------------------------------------------------------===//

  struct Bounds {
    OpFoldResult low, high;
  };

  /// The largest absolute value of an expression whose dimensions are at most
  /// kMostIterations, or infinity.
  static double computeMagnitude(AffineExpr expr) {
    if (auto constant = dyn_cast<AffineConstantExpr>(expr))
      return std::fabs(static_cast<double>(constant.getValue()));
    if (isa<AffineDimExpr>(expr))
      return static_cast<double>(kMostIterations);
    auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
    if (!binary)
      return HUGE_VAL;
    double a = computeMagnitude(binary.getLHS()),
           b = computeMagnitude(binary.getRHS());
    switch (binary.getKind()) {
    case AffineExprKind::Add:
      return a + b;
    case AffineExprKind::Mul:
      return a * b;
    default: {
      // Divided by a negative number, bounds would change places.
      auto divisor = dyn_cast<AffineConstantExpr>(binary.getRHS());
      return divisor && divisor.getValue() > 0 ? a + b : HUGE_VAL;
    }
    }
  }

  /// The least and the largest value of an expression when loop i counts from 0
  /// to last[i].
  Bounds computeBounds(OpBuilder &builder, Location loc, AffineExpr expr,
                       ArrayRef<OpFoldResult> last) {
    OpFoldResult zero = builder.getIndexAttr(0);
    if (auto constant = dyn_cast<AffineConstantExpr>(expr)) {
      OpFoldResult value = builder.getIndexAttr(constant.getValue());
      return {value, value};
    }
    if (auto dim = dyn_cast<AffineDimExpr>(expr))
      return {zero, last[dim.getPosition()]};
    auto binary = cast<AffineBinaryOpExpr>(expr);
    Bounds a = computeBounds(builder, loc, binary.getLHS(), last);
    if (binary.getKind() == AffineExprKind::Add) {
      Bounds b = computeBounds(builder, loc, binary.getRHS(), last);
      return {add(builder, loc, a.low, b.low),
              add(builder, loc, a.high, b.high)};
    }
    int64_t factor = cast<AffineConstantExpr>(binary.getRHS()).getValue();
    OpFoldResult constant = builder.getIndexAttr(factor);
    if (binary.getKind() == AffineExprKind::Mul) {
      Bounds product = {multiply(builder, loc, a.low, constant),
                        multiply(builder, loc, a.high, constant)};
      if (factor < 0)
        std::swap(product.low, product.high);
      return product;
    }
    auto value = [&](OpFoldResult v) {
      return getValueOrCreateConstantIndexOp(builder, loc, v);
    };
    Value divisor = value(constant);
    auto divide = [&](OpFoldResult v) -> OpFoldResult {
      if (binary.getKind() == AffineExprKind::FloorDiv)
        return arith::FloorDivSIOp::create(builder, loc, value(v), divisor)
            .getResult();
      return arith::CeilDivSIOp::create(builder, loc, value(v), divisor)
          .getResult();
    };
    if (binary.getKind() != AffineExprKind::Mod)
      return {divide(a.low), divide(a.high)};
    // All rests, unless the counters do not get that far.
    Value most = value(builder.getIndexAttr(factor - 1));
    Value isLess = arith::CmpIOp::create(
        builder, loc, arith::CmpIPredicate::ult, value(a.high), most);
    Value isPositive = arith::CmpIOp::create(
        builder, loc, arith::CmpIPredicate::sge, value(a.low), value(zero));
    Value isExact = arith::AndIOp::create(builder, loc, isLess, isPositive);
    return {zero,
            arith::SelectOp::create(builder, loc, isExact, value(a.high), most)
                .getResult()};
  }

  /// Where an index is more than one loop counter, as in a convolution, the
  /// operand must be large enough.
  LogicalResult checkIndexing(OpBuilder &builder, linalg::LinalgOp op) {
    SmallVector<OpFoldResult> extents(op.getNumLoops());
    bool isPlain = true;
    for (OpOperand &operand : op->getOpOperands()) {
      if (!isa<RankedTensorType, MemRefType>(operand.get().getType()))
        continue;
      AffineMap map = op.getMatchingIndexingMap(&operand);
      for (auto [position, expr] : llvm::enumerate(map.getResults())) {
        auto dim = dyn_cast<AffineDimExpr>(expr);
        isPlain &= static_cast<bool>(dim);
        if (dim && !extents[dim.getPosition()])
          extents[dim.getPosition()] = getExtent(operand.get(), position);
      }
    }
    if (isPlain)
      return success();
    Location loc = op.getLoc();
    StringRef name = op->getName().getStringRef();
    auto value = [&](OpFoldResult v) {
      return getValueOrCreateConstantIndexOp(builder, loc, v);
    };
    auto compare = [&](arith::CmpIPredicate predicate, OpFoldResult a,
                       OpFoldResult b) -> Value {
      return arith::CmpIOp::create(builder, loc, predicate, value(a), value(b));
    };
    OpFoldResult zero = builder.getIndexAttr(0);
    SmallVector<OpFoldResult> last;
    Value runs = arith::ConstantIntOp::create(builder, loc, 1, /*width=*/1);
    for (OpFoldResult extent : extents) {
      // The verifier of linalg ops sees to it.
      assert(extent && "expected a loop that runs over an operand");
      last.push_back(add(builder, loc, extent, builder.getIndexAttr(-1)));
      std::optional<int64_t> known = getConstantIntValue(extent);
      if (!known || *known < 1)
        runs = arith::AndIOp::create(
            builder, loc, runs,
            compare(arith::CmpIPredicate::sgt, extent, zero));
    }
    std::set<unsigned> bounded;
    for (OpOperand &operand : op->getOpOperands()) {
      if (!isa<RankedTensorType, MemRefType>(operand.get().getType()))
        continue;
      AffineMap map = op.getMatchingIndexingMap(&operand);
      for (auto [position, expr] : llvm::enumerate(map.getResults())) {
        if (isa<AffineDimExpr>(expr))
          continue;
        if (!(computeMagnitude(expr) <= kMostIndex))
          return op->emitOpError("expected indexing maps without large numbers "
                                 "and divisions by others than positive ones, "
                                 "but got ")
                 << AffineMapAttr::get(map);
        for (unsigned dim = 0; dim < map.getNumDims(); ++dim) {
          std::optional<int64_t> known = getConstantIntValue(extents[dim]);
          if (!expr.isFunctionOfDim(dim) ||
              (known && *known <= kMostIterations) ||
              !bounded.insert(dim).second)
            continue;
          fail(builder, loc,
               compare(arith::CmpIPredicate::sgt, extents[dim],
                       builder.getIndexAttr(kMostIterations)),
               "expected loops of at most " + Twine(kMostIterations) +
                   " iterations in " + name);
        }
        Bounds bounds = computeBounds(builder, loc, expr, last);
        Value wrong = arith::OrIOp::create(
            builder, loc, compare(arith::CmpIPredicate::slt, bounds.low, zero),
            compare(arith::CmpIPredicate::sge, bounds.high,
                    getExtent(operand.get(), position)));
        fail(builder, loc, arith::AndIOp::create(builder, loc, runs, wrong),
             "shapes do not fit together: expected all indices of " + name +
                 " inside of operand " + Twine(operand.getOperandNumber()));
      }
    }
    return success();
  }

  /// Scales and zeros of an activation belong to the tokens that there are.
  void checkGrids(OpBuilder &builder, Operation *op, ActivationType type,
                  Value tokens, ValueRange grids) {
    if (!type.isPerToken())
      return;
    for (Value grid : grids)
      for (int64_t i = 0; i + 1 < int64_t(type.getShape().size()); ++i)
        requireEqual(builder, op, op->getName().getStringRef(),
                     getExtent(tokens, i), getExtent(grid, i));
  }

  void checkLinear(OpBuilder &builder, LinearOpInterface op) {
    auto type = cast<RankedTensorType>(op.getResult().getType());
    for (Value operand : op.getEpilogueOperands())
      if (cast<RankedTensorType>(operand.getType()).getRank() == type.getRank())
        for (int64_t i = 0; i + 1 < type.getRank(); ++i)
          requireEqual(builder, op, op->getName().getStringRef(),
                       getExtent(op.getInput(), i), getExtent(operand, i));
    SmallVector<OpFoldResult> sizes;
    for (int64_t i = 0; i + 1 < type.getRank(); ++i)
      sizes.push_back(getExtent(op.getInput(), i));
    sizes.push_back(builder.getIndexAttr(op.getN()));
    requireSize(builder, op, type, sizes);
  }

  void checkSlice(OpBuilder &builder, Operation *op, Value whole,
                  ArrayRef<OpFoldResult> offsets, ArrayRef<OpFoldResult> sizes,
                  ArrayRef<OpFoldResult> strides) {
    for (auto [i, offset] : llvm::enumerate(offsets)) {
      OpFoldResult extent = getExtent(whole, i);
      if (!isConstantIntValue(strides[i], 1))
        extent = countSteps(builder, op, offset, extent, strides[i]);
      requireInside(builder, op,
                    isConstantIntValue(strides[i], 1)
                        ? offset
                        : OpFoldResult(builder.getIndexAttr(0)),
                    sizes[i], extent);
    }
    // A number that turns out to be a constant below 1 only later must not
    // become the stride of a buffer, on which patterns of upstream crash.
    auto slice = cast<OffsetSizeAndStrideOpInterface>(op);
    for (unsigned i = 0; i < strides.size(); ++i) {
      if (!slice.isDynamicStride(i) || getConstantIntValue(strides[i]))
        continue;
      OpOperand &stride = op->getOpOperand(slice.getIndexOfDynamicStride(i));
      Location loc = op->getLoc();
      stride.set(arith::MaxSIOp::create(
          builder, loc, stride.get(),
          arith::ConstantIndexOp::create(builder, loc, 1)));
    }
  }

  /// The number of elements from `offset` on that a slice of this stride can
  /// have.
  OpFoldResult countSteps(OpBuilder &builder, Operation *op,
                          OpFoldResult offset, OpFoldResult extent,
                          OpFoldResult stride) {
    requireInside(builder, op, offset, builder.getIndexAttr(0), extent);
    std::optional<int64_t> o = getConstantIntValue(offset),
                           e = getConstantIntValue(extent),
                           s = getConstantIntValue(stride);
    if (o && e && s && *o >= 0 && *o <= *e && *s > 0)
      return builder.getIndexAttr((*e - *o) / *s + ((*e - *o) % *s != 0));
    Location loc = op->getLoc();
    auto value = [&](OpFoldResult v) {
      return getValueOrCreateConstantIndexOp(builder, loc, v);
    };
    Value one = arith::ConstantIndexOp::create(builder, loc, 1);
    Value step = value(stride);
    fail(builder, loc,
         arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, step,
                               one),
         "expected strides of slices that are positive");
    Value room =
        arith::SubIOp::create(builder, loc, value(extent), value(offset));
    // Rounded up; neither sum overflows, since 0 < step and room < 2^63.
    Value whole = arith::DivUIOp::create(builder, loc, room, step);
    Value rest = arith::RemUIOp::create(builder, loc, room, step);
    Value some = arith::MinUIOp::create(builder, loc, rest, one);
    return arith::AddIOp::create(builder, loc, whole, some).getResult();
  }

  //===--------------------------------------------------------------------===//
  // Extents
  //===--------------------------------------------------------------------===//

  OpFoldResult add(OpBuilder &builder, Location loc, OpFoldResult a,
                   OpFoldResult b) {
    std::optional<int64_t> x = getConstantIntValue(a),
                           y = getConstantIntValue(b);
    if (x && y)
      return builder.getIndexAttr(static_cast<int64_t>(
          static_cast<uint64_t>(*x) + static_cast<uint64_t>(*y)));
    return arith::AddIOp::create(
               builder, loc, getValueOrCreateConstantIndexOp(builder, loc, a),
               getValueOrCreateConstantIndexOp(builder, loc, b))
        .getResult();
  }

  OpFoldResult multiply(OpBuilder &builder, Location loc, OpFoldResult a,
                        OpFoldResult b) {
    std::optional<int64_t> x = getConstantIntValue(a),
                           y = getConstantIntValue(b);
    if (x && y)
      return builder.getIndexAttr(static_cast<int64_t>(
          static_cast<uint64_t>(*x) * static_cast<uint64_t>(*y)));
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

  /// The operand that has the extents of a result of `op`; null if that is
  /// not one operand.
  static Value getSameExtents(Value result, Operation *op) {
    if (auto destination = dyn_cast<DestinationStyleOpInterface>(op))
      return destination.getTiedOpOperand(cast<OpResult>(result))->get();
    if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
      return insert.getDest();
    if (auto insert = dyn_cast<tensor::InsertOp>(op))
      return insert.getDest();
    if (auto linear = dyn_cast<LinearOpInterface>(op))
      return linear.getInput();
    if (auto quantize = dyn_cast<QuantizeActivationOp>(op))
      return quantize.getSource();
    if (auto assemble = dyn_cast<AssembleOp>(op))
      return assemble.getComponents().front();
    if (op->hasTrait<OpTrait::Elementwise>())
      for (Value operand : op->getOperands())
        if (isa<RankedTensorType>(operand.getType()))
          return operand;
    return nullptr;
  }

  /// The extent of a dimension, as a value of whatever determines it.
  OpFoldResult getExtent(Value tensor, unsigned dim) {
    OpBuilder builder(tensor.getContext());
    // A loop, since programs are long.
    SmallVector<Value> passed;
    auto getSize = [&] {
      if (auto activation = dyn_cast<ActivationType>(tensor.getType()))
        return activation.getShape()[dim];
      return cast<ShapedType>(tensor.getType()).getDimSize(dim);
    };
    auto isDynamic = [&] { return ShapedType::isDynamic(getSize()); };
    while (isDynamic() && !extents.contains({tensor, dim})) {
      Operation *op = tensor.getDefiningOp();
      Value source = op ? getSameExtents(tensor, op) : Value();
      if (!source)
        break;
      passed.push_back(tensor);
      tensor = source;
    }
    OpFoldResult extent;
    if (!isDynamic())
      extent = builder.getIndexAttr(getSize());
    else if (auto known = extents.find({tensor, dim}); known != extents.end())
      extent = known->second;
    else
      extent = computeExtent(builder, tensor, dim);
    passed.push_back(tensor);
    for (Value value : passed)
      extents[{value, dim}] = extent;
    return extent;
  }

  SmallVector<OpFoldResult> getExtents(Value tensor) {
    SmallVector<OpFoldResult> list;
    for (int64_t i = 0; i < cast<ShapedType>(tensor.getType()).getRank(); ++i)
      list.push_back(getExtent(tensor, i));
    return list;
  }

  OpFoldResult computeExtent(OpBuilder &builder, Value tensor, unsigned dim) {
    if (isa<ActivationType>(tensor.getType())) {
      builder.setInsertionPointAfterValue(tensor);
      return getExtent(
          getWeightComponents(builder, tensor.getLoc(), tensor).front(), dim);
    }
    if (auto empty = tensor.getDefiningOp<tensor::EmptyOp>())
      return resolve(empty.getMixedSizes()[dim]);
    if (auto expand = tensor.getDefiningOp<tensor::ExpandShapeOp>())
      return resolve(expand.getMixedOutputShape()[dim]);
    if (auto slice = tensor.getDefiningOp<tensor::ExtractSliceOp>()) {
      llvm::SmallBitVector dropped = slice.getDroppedDims();
      unsigned position = 0;
      for (auto [i, size] : llvm::enumerate(slice.getMixedSizes()))
        if (!dropped[i] && position++ == dim)
          return resolve(size);
    }
    builder.setInsertionPointAfterValue(tensor);
    Location loc = tensor.getLoc();
    if (auto collapse = tensor.getDefiningOp<tensor::CollapseShapeOp>()) {
      ReassociationIndices group = collapse.getReassociationIndices()[dim];
      OpFoldResult extent = getExtent(collapse.getSrc(), group.front());
      for (int64_t i : ArrayRef<int64_t>(group).drop_front())
        extent =
            multiply(builder, loc, extent, getExtent(collapse.getSrc(), i));
      return extent;
    }
    if (isa<MemRefType>(tensor.getType()))
      return memref::DimOp::create(builder, loc, tensor, dim).getResult();
    return tensor::DimOp::create(builder, loc, tensor, dim).getResult();
  }

  //===--------------------------------------------------------------------===//
  // Checks
  //===--------------------------------------------------------------------===//

  void requireEqualShapes(OpBuilder &builder, Operation *op, Value a, Value b) {
    auto type = cast<ShapedType>(a.getType());
    if (!type.hasRank() || !cast<ShapedType>(b.getType()).hasRank())
      return; // refused by the bufferization
    for (int64_t i = 0; i < type.getRank(); ++i)
      requireEqual(builder, op, op->getName().getStringRef(), getExtent(a, i),
                   getExtent(b, i));
  }

  /// What the type of a result promises must be so.
  void requireShape(OpBuilder &builder, Operation *op, ShapedType type,
                    ArrayRef<OpFoldResult> sizes) {
    for (auto [i, size] : llvm::enumerate(sizes))
      if (!type.isDynamicDim(i))
        requireEqual(builder, op, op->getName().getStringRef(), size,
                     builder.getIndexAttr(type.getDimSize(i)));
  }

  void requireDimension(OpBuilder &builder, Operation *op, Value number,
                        ShapedType type) {
    if (getConstantIntValue(number))
      return; // refuseUncheckedOps() has looked at it
    Location loc = op->getLoc();
    Value rank = arith::ConstantIndexOp::create(builder, loc, type.getRank());
    // A negative number is a large unsigned one.
    fail(builder, loc,
         arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::uge, number,
                               rank),
         "out of bounds: expected a dimension below the rank " +
             Twine(type.getRank()));
  }

  void requireEqual(OpBuilder &builder, Operation *op, StringRef what,
                    OpFoldResult a, OpFoldResult b) {
    if (a == b)
      return;
    std::optional<int64_t> x = getConstantIntValue(a),
                           y = getConstantIntValue(b);
    if (x && y && *x == *y)
      return;
    if (!done.insert({builder.getInsertionBlock(), a.getOpaqueValue(),
                      b.getOpaqueValue()})
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
    requireNotNegative(builder, op, offset);
    requireNotNegative(builder, op, size);
    // Without offset + size, which could overflow.
    Value room = o == 0 ? value(extent)
                        : arith::SubIOp::create(builder, loc, value(extent),
                                                value(offset))
                              .getResult();
    if (!done.insert({builder.getInsertionBlock(), nullptr,
                      llvm::hash_combine(offset.getOpaqueValue(),
                                         size.getOpaqueValue(),
                                         extent.getOpaqueValue())})
             .second)
      return;
    Value wrong = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt,
                                        room, value(size));
    fail(
        builder, loc, wrong,
        "out of bounds: expected a slice or index inside its tensor, buffer or "
        "vector");
  }

  void requireNotNegative(OpBuilder &builder, Operation *op, OpFoldResult v) {
    std::optional<int64_t> known = getConstantIntValue(v);
    if ((known && *known >= 0) ||
        !done.insert({builder.getInsertionBlock(), v.getOpaqueValue(), nullptr})
             .second)
      return;
    Location loc = op->getLoc();
    Value wrong =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt,
                              getValueOrCreateConstantIndexOp(builder, loc, v),
                              arith::ConstantIndexOp::create(builder, loc, 0));
    fail(builder, loc, wrong,
         "expected offsets and sizes that are not negative");
  }

  /// The extents of a new tensor must be such that it has a size.
  void requireSize(OpBuilder &builder, Operation *op, ShapedType type,
                   ArrayRef<OpFoldResult> extents) {
    Type element = type.getElementType();
    int64_t most = kMostBytes;
    if (element.isIntOrFloat())
      most /= llvm::divideCeil(element.getIntOrFloatBitWidth(), 8);
    else
      most /= 16; // index, complex numbers
    SmallVector<Value> unknown;
    bool isEmpty = false;
    for (OpFoldResult extent : extents) {
      extent = resolve(extent);
      std::optional<int64_t> known = getConstantIntValue(extent);
      isEmpty |= known && *known == 0;
      if (known && *known > 0)
        most /= *known;
      else if (!known || *known < 0)
        unknown.push_back(
            getValueOrCreateConstantIndexOp(builder, op->getLoc(), extent));
    }
    if (isEmpty) {
      for (Value extent : unknown)
        requireNotNegative(builder, op, extent);
      return;
    }
    if (unknown.empty())
      return;
    // In any order.
    size_t key = 0;
    for (Value extent : unknown)
      key += llvm::hash_value(extent.getAsOpaquePointer());
    if (!done.insert({builder.getInsertionBlock(), nullptr,
                      llvm::hash_combine(most, key)})
             .second)
      return;
    Location loc = op->getLoc();
    const char *message =
        "expected sizes of a new tensor that are not negative and fit into "
        "memory";
    // A negative number is a large unsigned one.
    Value bound = arith::ConstantIndexOp::create(builder, loc, most);
    if (unknown.size() == 1)
      return fail(builder, loc,
                  arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ugt,
                                        unknown[0], bound),
                  message);
    // The product in f64, exact to more digits than the bound needs.
    Type f64 = builder.getF64Type(), i64 = builder.getI64Type();
    Value product, wrong;
    for (Value extent : unknown) {
      Value tooLarge = arith::CmpIOp::create(
          builder, loc, arith::CmpIPredicate::ugt, extent, bound);
      wrong =
          wrong
              ? arith::OrIOp::create(builder, loc, wrong, tooLarge).getResult()
              : tooLarge;
      Value number = arith::SIToFPOp::create(
          builder, loc, f64,
          arith::IndexCastOp::create(builder, loc, i64, extent));
      product =
          product
              ? arith::MulFOp::create(builder, loc, product, number).getResult()
              : number;
    }
    Value limit = arith::ConstantOp::create(
        builder, loc, builder.getF64FloatAttr(static_cast<double>(most)));
    Value overflows = arith::CmpFOp::create(
        builder, loc, arith::CmpFPredicate::OGT, product, limit);
    fail(builder, loc, arith::OrIOp::create(builder, loc, wrong, overflows),
         message);
  }

  /// The number of a new message, as a constant.
  Value addMessage(OpBuilder &builder, Location loc, const Twine &message) {
    std::string text;
    if (auto file = loc->findInstanceOf<FileLineColLoc>())
      text = (file.getFilename().getValue() + ":" + Twine(file.getLine()) +
              ":" + Twine(file.getColumn()) + ": ")
                 .str();
    text += message.str();
    Value number = arith::ConstantIntOp::create(
        builder, loc, static_cast<int64_t>(messages.size()), /*width=*/64);
    messages.push_back(builder.getStringAttr(text));
    return number;
  }

  /// The arguments of the functions of the runtime but for the number.
  SmallVector<Value> getValues(OpBuilder &builder, Location loc,
                               const Message &message) {
    Value none;
    if (!message.got || !message.bound)
      none = arith::ConstantIntOp::create(builder, loc, 0, /*width=*/64);
    return {message.got ? message.got : none,
            message.bound ? message.bound : none};
  }

  /// Ends the call if `wrong`.
  void fail(OpBuilder &builder, Location loc, Value wrong,
            const Message &message) {
    SmallVector<Value> arguments{addMessage(builder, loc, message.text)};
    llvm::append_range(arguments, getValues(builder, loc, message));
    callsFail = true;
    scf::IfOp::create(builder, loc, wrong,
                      [&](OpBuilder &nested, Location loc) {
                        func::CallOp::create(nested, loc, kFailCheckFunction,
                                             TypeRange{}, arguments);
                        scf::YieldOp::create(nested, loc);
                      });
  }

  /// In the body of a linalg op, where no region may be: a fault unless
  /// `holds`.
  void require(OpBuilder &builder, Location loc, Value holds,
               const Message &message) {
    Value none = arith::ConstantIntOp::create(builder, loc, -1, /*width=*/64);
    Value number = addMessage(builder, loc, message.text);
    SmallVector<Value> arguments{
        arith::SelectOp::create(builder, loc, holds, none, number)};
    llvm::append_range(arguments, getValues(builder, loc, message));
    func::CallOp::create(builder, loc, kRequireFunction, TypeRange{},
                         arguments);
    callsRequire = true;
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
  bool callsFail = false;
  bool callsRequire = false;
};

} // namespace
