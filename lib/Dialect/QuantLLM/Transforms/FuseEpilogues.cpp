//===- FuseEpilogues.cpp - Elementwise operations into linears ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

namespace quant_llm {
#define GEN_PASS_DEF_FUSEEPILOGUES
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-fuse-epilogues";

static bool isEpilogueElement(Type type) {
  return type.isF16() || type.isBF16() || type.isF32();
}

/// Whether `op` computes every element of its one result from the elements at
/// the same place (or a projection of it) of its inputs.
static bool isPointwise(linalg::LinalgOp op) {
  return op.hasPureTensorSemantics() && op.getNumDpsInits() == 1 &&
         op.getNumParallelLoops() == op.getNumLoops() &&
         !op.hasIndexSemantics() &&
         op.getMatchingIndexingMap(op.getDpsInitOperand(0)).isIdentity() &&
         !op.payloadUsesValueFromOperand(op.getDpsInitOperand(0));
}

/// The one op that uses the results of `op`, if there is just one.
static Operation *getUniqueUser(Operation *op) {
  Operation *user = nullptr;
  for (Operation *next : op->getUsers()) {
    if (user && user != next)
      return nullptr;
    user = next;
  }
  return user;
}

namespace {

/// Elementwise op on the result of a linear -> the linear's epilogue.
struct FuseElementwise : OpInterfaceRewritePattern<linalg::LinalgOp> {
  FuseElementwise(MLIRContext *context, bool residual, bool gated,
                  llvm::function_ref<void(bool)> count)
      : OpInterfaceRewritePattern(context), residual(residual), gated(gated),
        count(count) {}

  /// An input of the elementwise op that is no linear to be fused.
  struct Extra {
    Value value;    // the new operand of the epilogue, or null
    Value constant; // what the body uses instead
  };

  LogicalResult matchAndRewrite(linalg::LinalgOp op,
                                PatternRewriter &rewriter) const override {
    if (!isPointwise(op))
      return rewriter.notifyMatchFailure(op, "not elementwise");
    Block *body = op.getBlock();
    auto resultType = cast<RankedTensorType>(op->getResult(0).getType());
    if (!isEpilogueElement(resultType.getElementType()) ||
        resultType.getEncoding())
      return rewriter.notifyMatchFailure(
          op, "the result is not of f16, bf16 or f32");
    for (Operation &inner : body->without_terminator()) {
      StringRef dialect = inner.getName().getDialectNamespace();
      auto isScalar = [](Type type) { return type.isIntOrIndexOrFloat(); };
      if ((dialect != "arith" && dialect != "math") || inner.getNumRegions() ||
          !llvm::all_of(inner.getOperandTypes(), isScalar) ||
          !llvm::all_of(inner.getResultTypes(), isScalar) || !isPure(&inner))
        return rewriter.notifyMatchFailure(
            op, "the body has more than pure scalar ops of arith and math");
    }
    auto isInside = [&](Value value) {
      return value.getParentBlock() == body ||
             matchPattern(value, m_Constant());
    };
    for (Operation &inner : *body)
      if (!llvm::all_of(inner.getOperands(), isInside))
        return rewriter.notifyMatchFailure(
            op, "the body uses a value from outside");

    // Linears whose result is used by this op alone, element for element.
    SmallVector<LinearOp> linears;
    for (OpOperand *input : op.getDpsInputOperands()) {
      auto linear = input->get().getDefiningOp<LinearOp>();
      if (!linear || llvm::is_contained(linears, linear))
        continue;
      bool alone = llvm::all_of(linear->getUses(), [&](OpOperand &use) {
        return use.getOwner() == op && op.isDpsInput(&use) &&
               op.getMatchingIndexingMap(&use).isIdentity();
      });
      if (alone)
        linears.push_back(linear);
    }
    if (linears.empty())
      return rewriter.notifyMatchFailure(
          op, "no input is the result of a linear that nothing else uses");
    LinearOp first = linears.front(), second;
    if (linears.size() > 1 && canPair(first, linears[1]))
      second = linears[1];

    // The other inputs.
    int64_t lastDim = resultType.getRank() - 1;
    SmallVector<Extra> extras;
    for (OpOperand *input : op.getDpsInputOperands()) {
      Extra extra;
      Value value = input->get();
      auto type = dyn_cast<RankedTensorType>(value.getType());
      if (value == first.getResult() ||
          (second && value == second.getResult())) {
        extras.push_back(extra);
        continue;
      }
      AffineMap map = op.getMatchingIndexingMap(input);
      if (!type) {
        if (!matchPattern(value, m_Constant()))
          return rewriter.notifyMatchFailure(op, "an input is a scalar");
        extra.constant = value;
      } else if (Value vector = getVector(value, map, lastDim, first.getN())) {
        extra.value = vector;
      } else if (map.isIdentity() && isEpilogueElement(type.getElementType()) &&
                 !type.getEncoding()) {
        if (!residual)
          return rewriter.notifyMatchFailure(op, "residuals are not fused");
        extra.value = value;
      } else {
        return rewriter.notifyMatchFailure(op,
                                           "an input is neither one value per "
                                           "output nor of the result's shape");
      }
      extras.push_back(extra);
    }

    // The type of the new linear: the shape follows from its input.
    auto linearType = cast<RankedTensorType>(first.getResult().getType())
                          .clone(resultType.getElementType());
    SmallVector<Value> weights(first.getWeights());
    SmallVector<Value> operands(first.getEpilogueOperands());
    if (second) {
      llvm::append_range(weights, second.getWeights());
      llvm::append_range(operands, second.getEpilogueOperands());
    }
    Location loc = op.getLoc();
    for (Extra &extra : extras) {
      if (!extra.value)
        continue;
      auto type = cast<RankedTensorType>(extra.value.getType());
      if (type.getRank() == linearType.getRank() &&
          type.getShape() != linearType.getShape() &&
          !(type.getRank() == 1 && type.getDimSize(0) == first.getN()))
        extra.value = tensor::CastOp::create(
            rewriter, loc, linearType.clone(type.getElementType()),
            extra.value);
      operands.push_back(extra.value);
    }

    auto build = [&](OpBuilder &builder, Location bodyLoc, ValueRange args) {
      ValueRange accumulators = args.take_front(weights.size());
      ValueRange rest = args.drop_front(weights.size());
      auto inlineEpilogue = [&](LinearOp linear) -> Value {
        size_t numOperands = linear.getEpilogueOperands().size();
        SmallVector<Value> own(
            accumulators.take_front(linear.getWeights().size()));
        llvm::append_range(own, rest.take_front(numOperands));
        accumulators = accumulators.drop_front(linear.getWeights().size());
        rest = rest.drop_front(numOperands);
        Type element = getElementTypeOrSelf(linear.getResult().getType());
        if (!linear.hasEpilogue()) {
          // The rounding of the linear's result.
          if (element.isF32())
            return own.front();
          return arith::TruncFOp::create(builder, linear.getLoc(), element,
                                         own.front());
        }
        return cloneBody(builder, &linear.getEpilogue().front(), own);
      };
      Value firstValue = inlineEpilogue(first);
      Value secondValue = second ? inlineEpilogue(second) : Value();
      SmallVector<Value> inputs;
      for (auto [input, extra] :
           llvm::zip_equal(op.getDpsInputOperands(), extras)) {
        Value value;
        if (input->get() == first.getResult()) {
          value = firstValue;
        } else if (second && input->get() == second.getResult()) {
          value = secondValue;
        } else if (extra.constant) {
          value = builder.clone(*extra.constant.getDefiningOp())->getResult(0);
        } else {
          value = rest.front();
          rest = rest.drop_front();
          // A vector that was widened on its way.
          Type wanted = body->getArgument(inputs.size()).getType();
          if (value.getType() != wanted)
            value = arith::ExtFOp::create(builder, bodyLoc, wanted, value);
        }
        inputs.push_back(value);
      }
      inputs.push_back(nullptr); // the output, which the body does not use
      YieldOp::create(builder, bodyLoc, cloneBody(builder, body, inputs));
    };

    StringAttr reason = first.getReasonAttr();
    if (second && second.getReasonAttr() != reason)
      reason = rewriter.getStringAttr(
          (reason ? reason.strref() : StringRef("none")) + "; second weight: " +
          (second.getReasonAttr() ? second.getReasonAttr().strref()
                                  : StringRef("none")));
    Value result =
        LinearOp::create(rewriter, loc, linearType, first.getInput(), weights,
                         operands, build, first.getSchemeAttr(), reason);
    if (linearType != resultType)
      result = tensor::CastOp::create(rewriter, loc, resultType, result);
    remark::passed(loc, remark::RemarkOpts::name("fused").category(kPassName))
        << (second ? "elementwise op joins two linears into a gated pair"
                   : "elementwise op is part of the linear's epilogue");
    count(second != nullptr);
    rewriter.replaceOp(op, result);
    return success();
  }

private:
  /// Whether both are one weight of the same shape on the same input.
  bool canPair(LinearOp first, LinearOp second) const {
    return gated && first.getInput() == second.getInput() &&
           first.getWeights().size() == 1 && second.getWeights().size() == 1 &&
           first.getN() == second.getN() &&
           first.getSchemeAttr() == second.getSchemeAttr();
  }

  /// A vector of `size` values that `value`, read through `map`, repeats along
  /// every dimension but the last.
  static Value getVector(Value value, AffineMap map, int64_t lastDim,
                         int64_t size) {
    auto isVector = [&](Value traced) {
      auto type = dyn_cast<RankedTensorType>(traced.getType());
      return type && type.getRank() == 1 && type.getDimSize(0) == size &&
             isEpilogueElement(type.getElementType()) && !type.getEncoding();
    };
    std::optional<TracedTensor> traced = traceTensor(value, isVector);
    if (!traced)
      return nullptr;
    auto dim = dyn_cast<AffineDimExpr>(traced->map.compose(map).getResult(0));
    return dim && dim.getPosition() == lastDim ? traced->source : nullptr;
  }

  /// Clones the ops of `body`, with `values` for its arguments, and returns the
  /// value that it yields. Constants from outside are cloned too.
  static Value cloneBody(OpBuilder &builder, Block *body,
                         ArrayRef<Value> values) {
    IRMapping mapping;
    for (auto [argument, value] : llvm::zip(body->getArguments(), values))
      if (value)
        mapping.map(argument, value);
    auto mapOutside = [&](Value value) {
      if (value.getParentBlock() != body && !mapping.contains(value))
        mapping.map(value, builder.clone(*value.getDefiningOp())->getResult(0));
    };
    for (Operation &inner : body->without_terminator()) {
      llvm::for_each(inner.getOperands(), mapOutside);
      builder.clone(inner, mapping);
    }
    Value yielded = body->getTerminator()->getOperand(0);
    mapOutside(yielded);
    return mapping.lookup(yielded);
  }

  bool residual, gated;
  llvm::function_ref<void(bool)> count;
};

/// Activations in several ops use the result of a linear more than once: x and
/// sigmoid(x). Fuses such ops until only one uses the linear.
struct JoinUsers : OpRewritePattern<LinearOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(LinearOp op,
                                PatternRewriter &rewriter) const override {
    if (op->use_empty() || getUniqueUser(op))
      return rewriter.notifyMatchFailure(
          op, "the result has no more than one user");
    // What each user leads to through ops that have one user.
    llvm::SetVector<Operation *> users(op->user_begin(), op->user_end());
    SmallVector<SmallVector<Operation *>> chains;
    for (Operation *user : users) {
      SmallVector<Operation *> chain;
      for (Operation *next = user; next; next = getUniqueUser(next)) {
        auto elementwise = dyn_cast<linalg::LinalgOp>(next);
        if (!elementwise || !isPointwise(elementwise))
          break;
        chain.push_back(next);
      }
      chains.push_back(std::move(chain));
    }
    auto join = llvm::find_if(chains.front(), [&](Operation *candidate) {
      return llvm::all_of(chains, [&](ArrayRef<Operation *> chain) {
        return llvm::is_contained(chain, candidate);
      });
    });
    if (join == chains.front().end())
      return rewriter.notifyMatchFailure(op,
                                         "no elementwise op joins all users");
    auto producer = llvm::find_if(users, [&](Operation *user) {
      return user != *join && canFuse(user, getUniqueUser(user));
    });
    if (producer == users.end())
      return rewriter.notifyMatchFailure(op, "no two users can be fused");

    // Nothing below fails: canFuse() has seen to that.
    linalg::GenericOp second = generalize(rewriter, getUniqueUser(*producer));
    linalg::GenericOp first = generalize(rewriter, *producer);
    rewriter.setInsertionPoint(second);
    FailureOr<linalg::ElementwiseOpFusionResult> result =
        linalg::fuseElementwiseOps(rewriter, findFusedOperand(first, second));
    assert(succeeded(result) && "pointwise ops can be fused");
    rewriter.replaceOp(second,
                       result->replacements.lookup(second->getResult(0)));
    if (first->use_empty())
      rewriter.eraseOp(first);
    return success();
  }

private:
  /// The input of `consumer` that is the result of `producer`; null if it only
  /// uses it for the shape of its own result.
  static OpOperand *findFusedOperand(linalg::LinalgOp producer,
                                     linalg::LinalgOp consumer) {
    for (OpOperand *operand : consumer.getDpsInputOperands())
      if (operand->get().getDefiningOp() == producer)
        return operand;
    return nullptr;
  }

  /// Whether both can be made generic and then one op. Since both are pointwise
  /// (their results have identity maps), all that upstream asks for besides is
  /// one region and an input to fuse.
  static bool canFuse(Operation *producer, Operation *consumer) {
    return producer->getNumRegions() == 1 && consumer->getNumRegions() == 1 &&
           findFusedOperand(cast<linalg::LinalgOp>(producer),
                            cast<linalg::LinalgOp>(consumer));
  }

  static linalg::GenericOp generalize(PatternRewriter &rewriter,
                                      Operation *op) {
    if (auto generic = dyn_cast<linalg::GenericOp>(op))
      return generic;
    rewriter.setInsertionPoint(op);
    FailureOr<linalg::GenericOp> generic =
        linalg::generalizeNamedOp(rewriter, cast<linalg::LinalgOp>(op));
    assert(succeeded(generic) && "ops of one region can be generalized");
    return *generic;
  }
};

struct FuseEpilogues : quant_llm::impl::FuseEpiloguesBase<FuseEpilogues> {
  using FuseEpiloguesBase::FuseEpiloguesBase;

  void runOnOperation() override {
    auto count = [&](bool pair) {
      ++numFused;
      if (pair)
        ++numPairs;
    };
    // Only our patterns: the rest of the module is left as it was written.
    GreedyRewriteConfig config;
    config.enableFolding(false)
        .enableConstantCSE(false)
        .setRegionSimplificationLevel(GreedySimplifyRegionLevel::Disabled);
    // Residuals last: in silu(g) * u the product would else take silu(g), not
    // yet part of a linear, for a residual of u before the two can become a
    // pair.
    for (bool residual : {false, true}) {
      if (residual && !fuseResidual)
        break;
      RewritePatternSet patterns(&getContext());
      patterns.add<FuseElementwise>(&getContext(), residual, fuseGated, count);
      patterns.add<JoinUsers>(&getContext());
      if (failed(applyPatternsGreedily(getOperation(), std::move(patterns),
                                       config)))
        return signalPassFailure();
    }
  }
};

} // namespace
