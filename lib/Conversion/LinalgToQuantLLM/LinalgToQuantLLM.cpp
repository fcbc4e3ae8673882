//===- LinalgToQuantLLM.cpp - Raising contractions of weights -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/LinalgToQuantLLM/LinalgToQuantLLM.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/IndexingUtils.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/Sequence.h"

namespace quant_llm {
#define GEN_PASS_DEF_CONVERTLINALGTOQUANTLLM
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "convert-linalg-to-quant-llm";

static bool isIdentity(ArrayRef<int64_t> order) {
  return llvm::equal(order, llvm::seq<int64_t>(0, order.size()));
}

/// A tensor whose dimension i is dimension `order[i]` of `value`.
static Value transpose(OpBuilder &builder, Location loc, Value value,
                       ArrayRef<int64_t> order) {
  if (isIdentity(order))
    return value;
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, loc, value);
  SmallVector<OpFoldResult> permuted;
  for (int64_t dim : order)
    permuted.push_back(sizes[dim]);
  Value empty = tensor::EmptyOp::create(builder, loc, permuted,
                                        getElementTypeOrSelf(value.getType()));
  return linalg::TransposeOp::create(builder, loc, value, empty, order)
      ->getResult(0);
}

/// The value whose broadcast along every dimension but `channel` is `init`, if
/// there is one: a bias.
static Value getBias(Value init, int64_t channel) {
  std::optional<TracedTensor> traced = traceTensor(init, [](Value value) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    return type && type.getRank() == 1 && type.hasStaticShape();
  });
  if (!traced || cast<RankedTensorType>(init.getType()).getRank() == 1)
    return nullptr;
  auto dim = dyn_cast<AffineDimExpr>(traced->map.getResult(0));
  if (!dim || dim.getPosition() != channel)
    return nullptr;
  return traced->source;
}

/// `value`, a float scalar, as f32.
static Value widen(OpBuilder &builder, Location loc, Value value) {
  if (value.getType().isF32())
    return value;
  return arith::ExtFOp::create(builder, loc, builder.getF32Type(), value);
}

namespace {

/// linalg contraction with a weight -> linear.
struct RaiseContraction : OpInterfaceRewritePattern<linalg::LinalgOp> {
  RaiseContraction(MLIRContext *context, std::function<bool(Value)> isWeight)
      : OpInterfaceRewritePattern(context), isWeight(std::move(isWeight)) {}

  LogicalResult matchAndRewrite(linalg::LinalgOp op,
                                PatternRewriter &rewriter) const override {
    std::string reason;
    std::optional<WeightContraction> match =
        matchWeightContraction(op, isWeight, reason);
    if (!match)
      return rewriter.notifyMatchFailure(op, [&](Diagnostic &diag) {
        diag << (reason.empty() ? "no operand comes from a weight" : reason);
      });

    Location loc = op.getLoc();
    auto weightType = cast<RankedTensorType>(match->weight.getType());
    auto resultType = cast<RankedTensorType>(op->getResult(0).getType());
    Value input =
        transpose(rewriter, loc, match->activation, match->activationOrder);
    auto inputType = cast<RankedTensorType>(input.getType());
    int64_t numInputs = weightType.getDimSize(1);
    if (inputType.getShape().back() != numInputs) {
      SmallVector<int64_t> shape(inputType.getShape());
      shape.back() = numInputs;
      inputType = inputType.clone(shape);
      input = tensor::CastOp::create(rewriter, loc, inputType, input);
    }
    SmallVector<int64_t> shape(inputType.getShape());
    shape.back() = weightType.getDimSize(0);
    auto linearType = RankedTensorType::get(shape, resultType.getElementType());

    Value result;
    if (isZeroFilled(match->init)) {
      result = LinearOp::create(rewriter, loc, linearType, input,
                                ValueRange{match->weight});
    } else {
      // The accumulator does not start at zero: its start is an operand of the
      // epilogue, one value per output if it repeats a vector.
      Value extra = getBias(match->init, match->resultOrder.back());
      if (!extra) {
        extra = transpose(rewriter, loc, match->init, match->resultOrder);
        RankedTensorType castType =
            linearType.clone(getElementTypeOrSelf(extra.getType()));
        if (extra.getType() != castType)
          extra = tensor::CastOp::create(rewriter, loc, castType, extra);
      }
      auto body = [&](OpBuilder &builder, Location bodyLoc, ValueRange args) {
        Value sum = arith::AddFOp::create(builder, bodyLoc, args[0],
                                          widen(builder, bodyLoc, args[1]));
        if (!resultType.getElementType().isF32())
          sum = arith::TruncFOp::create(builder, bodyLoc,
                                        resultType.getElementType(), sum);
        YieldOp::create(builder, bodyLoc, sum);
      };
      result =
          LinearOp::create(rewriter, loc, linearType, input,
                           ValueRange{match->weight}, ValueRange{extra}, body);
    }

    result = transpose(rewriter, loc, result,
                       invertPermutationVector(match->resultOrder));
    if (result.getType() != resultType)
      result = tensor::CastOp::create(rewriter, loc, resultType, result);
    remark::passed(loc, remark::RemarkOpts::name("raised").category(kPassName))
        << "contraction with a "
        << remark::detail::Remark::Arg("weight", weightType) << " is a linear";
    rewriter.replaceOp(op, result);
    return success();
  }

private:
  std::function<bool(Value)> isWeight;
};

/// linear(collapse(x)) -> collapse(linear(x)) where only leading dimensions are
/// collapsed: front ends flatten batches because a matmul has two dimensions, a
/// linear does not need it, and the result is usually expanded again.
struct MoveCollapseAfterLinear : OpRewritePattern<LinearOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(LinearOp op,
                                PatternRewriter &rewriter) const override {
    auto collapse = op.getInput().getDefiningOp<tensor::CollapseShapeOp>();
    if (!collapse)
      return rewriter.notifyMatchFailure(op,
                                         "the input is not a collapsed tensor");
    SmallVector<ReassociationIndices> groups =
        collapse.getReassociationIndices();
    if (groups.empty() || groups.back().size() != 1)
      return rewriter.notifyMatchFailure(op,
                                         "the last dimension is collapsed too");
    if (!op.getEpilogueOperands().empty())
      return rewriter.notifyMatchFailure(op, "the epilogue has operands");
    // Only where the result is expanded again, else the reshape merely moves.
    auto undoesCollapse = [&](Operation *user) {
      auto expand = dyn_cast<tensor::ExpandShapeOp>(user);
      return expand && expand.getReassociationIndices() == groups &&
             haveSameLeadingSizes(expand, collapse);
    };
    if (llvm::none_of(op->getUsers(), undoesCollapse))
      return rewriter.notifyMatchFailure(op,
                                         "the result is not expanded again");

    SmallVector<int64_t> shape(collapse.getSrcType().getShape());
    auto oldType = cast<RankedTensorType>(op.getResult().getType());
    shape.back() = oldType.getShape().back();
    auto newType = RankedTensorType::get(shape, oldType.getElementType());
    auto linear = cast<LinearOp>(rewriter.clone(*op));
    rewriter.modifyOpInPlace(linear, [&] {
      linear.getInputMutable().assign(collapse.getSrc());
      linear.getResult().setType(newType);
    });
    Value result = tensor::CollapseShapeOp::create(
        rewriter, op.getLoc(), oldType, linear.getResult(), groups);
    // Undo the collapse where it is undone: the sizes are those of the input.
    for (Operation *user : llvm::make_early_inc_range(op->getUsers())) {
      if (!undoesCollapse(user))
        continue;
      auto expand = cast<tensor::ExpandShapeOp>(user);
      rewriter.setInsertionPoint(expand);
      Value full = linear.getResult();
      if (full.getType() != expand.getType())
        full = tensor::CastOp::create(rewriter, expand.getLoc(),
                                      expand.getType(), full);
      rewriter.replaceOp(expand, full);
    }
    rewriter.replaceOp(op, result);
    return success();
  }

private:
  /// Whether the leading dimensions of the result of `expand` surely have the
  /// sizes of those of the source of `collapse`: in each group at most one of
  /// them is not known to be equal.
  static bool haveSameLeadingSizes(tensor::ExpandShapeOp expand,
                                   tensor::CollapseShapeOp collapse) {
    ArrayRef<int64_t> expanded = expand.getResultType().getShape();
    ArrayRef<int64_t> source = collapse.getSrcType().getShape();
    for (const ReassociationIndices &group :
         ArrayRef(expand.getReassociationIndices()).drop_back()) {
      unsigned unknown = 0;
      for (int64_t dim : group)
        if (expanded[dim] != source[dim])
          return false;
        else if (ShapedType::isDynamic(expanded[dim]))
          ++unknown;
      if (unknown > 1)
        return false;
    }
    return true;
  }
};

struct ConvertLinalgToQuantLLM
    : quant_llm::impl::ConvertLinalgToQuantLLMBase<ConvertLinalgToQuantLLM> {
  using ConvertLinalgToQuantLLMBase::ConvertLinalgToQuantLLMBase;

  void runOnOperation() override {
    bool all = allValues;
    auto isWeight = [all](Value value) {
      if (!isa<RankedTensorType>(value.getType()))
        return false;
      if (value.getDefiningOp<GetParameterOp>())
        return true;
      if (!all || cast<RankedTensorType>(value.getType()).getRank() != 2)
        return false;
      if (auto argument = dyn_cast<BlockArgument>(value))
        return isa<FunctionOpInterface>(argument.getOwner()->getParentOp());
      return value.getDefiningOp()->hasTrait<OpTrait::ConstantLike>();
    };

    RewritePatternSet patterns(&getContext());
    populateLinalgToQuantLLMPatterns(patterns, isWeight);
    // Only our patterns: the rest of the module is left as it was written.
    GreedyRewriteConfig config;
    config.enableFolding(false)
        .enableConstantCSE(false)
        .setRegionSimplificationLevel(GreedySimplifyRegionLevel::Disabled);
    if (failed(
            applyPatternsGreedily(getOperation(), std::move(patterns), config)))
      return signalPassFailure();

    // What is left of the contractions of parameters, and why.
    getOperation()->walk([&](linalg::LinalgOp op) {
      std::string reason;
      if (op.getNumReductionLoops() == 0 ||
          matchWeightContraction(op, isWeight, reason) || reason.empty())
        return;
      ++numNotRaised;
      remark::missed(op.getLoc(),
                     remark::RemarkOpts::name("not raised").category(kPassName))
          << "contraction with a parameter is not a linear: " << reason;
    });
    getOperation()->walk([&](LinearOp) { ++numLinears; });
  }
};

} // namespace

void quant_llm::populateLinalgToQuantLLMPatterns(
    RewritePatternSet &patterns, std::function<bool(Value)> isWeight) {
  patterns.add<RaiseContraction>(patterns.getContext(), std::move(isWeight));
  patterns.add<MoveCollapseAfterLinear>(patterns.getContext());
}
