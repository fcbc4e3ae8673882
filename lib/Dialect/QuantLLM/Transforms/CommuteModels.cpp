//===- CommuteModels.cpp - How transforms cross ops -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Most rules follow from one analysis: what happens to the result of scalar
// code when some of its inputs are transformed. It serves the bodies of linalg
// ops, the epilogues of linears, and pointwise ops on tensors alike.
//
//===----------------------------------------------------------------------===//

#include "SliceHalf.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"

#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Scalar code
//===----------------------------------------------------------------------===//

namespace {

/// How a scalar depends on the operands that are transformed together.
enum class Dependence {
  None,
  /// Sum of products of one such operand and something independent of them.
  Linear,
  /// One such operand plus something independent of them.
  Offset,
  /// One such operand itself: both of the above.
  Self,
  Other,
};

struct ScalarClass {
  Dependence dependence = Dependence::None;
  /// Depends on the channel by other ways than the transformed operands (for a
  /// linear scalar: its coefficients do).
  bool varies = false;

  bool isLinear() const {
    return dependence == Dependence::Linear || dependence == Dependence::Self;
  }
  bool isOffset() const {
    return dependence == Dependence::Offset || dependence == Dependence::Self;
  }
};

} // namespace

/// The class of the result of an op on scalars, or of a pointwise op.
static ScalarClass classify(Operation *op, ArrayRef<ScalarClass> operands) {
  ScalarClass result;
  bool depends = false;
  for (const ScalarClass &operand : operands) {
    result.varies |= operand.varies;
    depends |= operand.dependence != Dependence::None;
  }
  if (!depends)
    return result;
  auto isNone = [&](unsigned i) {
    return operands[i].dependence == Dependence::None;
  };
  result.dependence = Dependence::Other;
  if (isa<arith::ExtFOp, arith::TruncFOp>(op))
    return operands[0];
  if (isa<arith::NegFOp>(op)) {
    if (operands[0].isLinear())
      result.dependence = Dependence::Linear;
    return result;
  }
  if (isa<arith::MulFOp, arith::DivFOp>(op)) {
    if ((operands[0].isLinear() && isNone(1)) ||
        (isa<arith::MulFOp>(op) && operands[1].isLinear() && isNone(0)))
      result.dependence = Dependence::Linear;
    return result;
  }
  if (isa<arith::AddFOp, arith::SubFOp>(op)) {
    bool isSum = isa<arith::AddFOp>(op);
    if (operands[0].isLinear() && operands[1].isLinear())
      result.dependence = Dependence::Linear;
    else if (operands[0].isOffset() && isNone(1))
      result.dependence = Dependence::Offset;
    else if (isSum && operands[1].isOffset() && isNone(0))
      result.dependence = Dependence::Offset;
    return result;
  }
  if (isa<arith::SelectOp>(op) && isNone(0) && operands[1].isLinear() &&
      operands[2].isLinear())
    result.dependence = Dependence::Linear;
  return result;
}

/// Whether a value of this class, made of operands with the transform, has the
/// transform itself.
static bool isCrossedBy(const ScalarClass &value, const ChannelTransform &t) {
  switch (t.kind) {
  case TransformKind::Scale:
    return value.isLinear();
  case TransformKind::Shift:
    return value.isOffset();
  case TransformKind::Permute:
    // Any function of permuted channels.
    return value.dependence != Dependence::None && !value.varies;
  case TransformKind::Rotate:
    return value.isLinear() && !value.varies;
  case TransformKind::Affine:
    return t.isLinear() && value.isLinear() && !value.varies;
  }
  return false;
}

/// The class of a value in a block, given those of its arguments; `loopVaries`
/// says of `linalg.index` dimensions whether they are channels.
static ScalarClass classifyValue(Block &block, Value value,
                                 ArrayRef<ScalarClass> arguments,
                                 function_ref<bool(int64_t)> loopVaries) {
  DenseMap<Value, ScalarClass> classes;
  for (auto [argument, known] :
       llvm::zip_equal(block.getArguments(), arguments))
    classes[argument] = known;
  for (Operation &op : block.without_terminator()) {
    ScalarClass result;
    if (auto index = dyn_cast<linalg::IndexOp>(op)) {
      result.varies = loopVaries(index.getDim());
    } else if (op.getNumRegions() != 0 || !isMemoryEffectFree(&op)) {
      result = {Dependence::Other, true};
    } else {
      SmallVector<ScalarClass> operands;
      for (Value operand : op.getOperands())
        operands.push_back(classes.lookup(operand));
      result = classify(&op, operands);
    }
    for (Value defined : op.getResults())
      classes[defined] = result;
  }
  return classes.lookup(value);
}

/// Calls `accept` with sets of operand positions that hold `fixed` (if it is
/// not negative), small ones first, until it returns true.
static bool findSet(unsigned count, int fixed,
                    function_ref<bool(unsigned)> accept) {
  // The sets are bits of a number; ops have few operands that matter.
  if (count > 6)
    return false;
  SmallVector<unsigned> sets;
  for (unsigned set = 1; set < 1u << count; ++set)
    if (fixed < 0 || set >> fixed & 1)
      sets.push_back(set);
  llvm::sort(sets, [](unsigned a, unsigned b) {
    return std::pair(llvm::popcount(a), a) < std::pair(llvm::popcount(b), b);
  });
  return llvm::any_of(sets, accept);
}

/// An operand of scalar code: which of its dimensions are the channels.
struct ScalarOperand {
  OpOperand *operand;
  /// The dimensions of the operand that are the transformed ones of the result,
  /// in order; empty if it does not have them all.
  SmallVector<int64_t, 2> dims;
  /// It has some of them.
  bool varies = false;
};

/// All ways to transform the result of scalar code by transforming operands.
static void
hoistThroughScalars(ArrayRef<ScalarOperand> operands,
                    const ChannelTransform &transform,
                    function_ref<ScalarClass(ArrayRef<ScalarClass>)> evaluate,
                    int fixed, SmallVectorImpl<OperandTransforms> &ways) {
  findSet(operands.size(), fixed, [&](unsigned set) {
    SmallVector<ScalarClass> classes;
    for (auto [i, operand] : llvm::enumerate(operands)) {
      ScalarClass value;
      if (set >> i & 1) {
        if (operand.dims.empty())
          return false;
        value.dependence = Dependence::Self;
      } else {
        value.varies = operand.varies;
      }
      classes.push_back(value);
    }
    if (!isCrossedBy(evaluate(classes), transform))
      return false;
    OperandTransforms &way = ways.emplace_back();
    for (auto [i, operand] : llvm::enumerate(operands))
      if (set >> i & 1)
        way.push_back({operand.operand, transform.on(operand.dims)});
    return false;
  });
}

/// The first way that transforms the operand `fixed`; the others of the way
/// must have been transformed back: T(x) + y = T(x + T^-1(y)). `result` is what
/// the result then has: the transform, or nothing if it ends here.
static LogicalResult sinkThroughScalars(
    ArrayRef<ScalarOperand> operands, const ChannelTransform &resultTransform,
    unsigned fixed, function_ref<ScalarClass(ArrayRef<ScalarClass>)> evaluate,
    OperandTransforms &others, std::optional<ChannelTransform> &result) {
  // (x + d) + b = x + (b + d): an offset goes to a parameter.
  if (resultTransform.kind == TransformKind::Shift) {
    auto isOffset = [&](unsigned position) {
      SmallVector<ScalarClass> classes(operands.size());
      for (auto [i, operand] : llvm::enumerate(operands))
        classes[i].varies = operand.varies;
      classes[position] = {Dependence::Self, false};
      return evaluate(classes).isOffset();
    };
    for (auto [i, operand] : llvm::enumerate(operands)) {
      if (i == fixed || operand.dims.empty() ||
          !isParameterLike(operand.operand->get()) || !isOffset(i) ||
          !isOffset(fixed))
        continue;
      others.push_back({operand.operand, resultTransform.on(operand.dims)});
      result.reset();
      return success();
    }
  }
  SmallVector<OperandTransforms> ways;
  hoistThroughScalars(operands, resultTransform, evaluate, fixed, ways);
  if (ways.empty())
    return failure();
  for (const OperandTransform &entry : ways.front())
    if (entry.operand != operands[fixed].operand)
      others.push_back({entry.operand, entry.transform.getInverse()});
  result = resultTransform;
  return success();
}

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

static RankedTensorType getTensorType(Value value) {
  return dyn_cast<RankedTensorType>(value.getType());
}

/// Of matrix M^T for a linear transform x M.
static ChannelTransform getTransposed(const ChannelTransform &transform,
                                      OpBuilder &builder, Location loc) {
  if (transform.isOrthogonal())
    return transform.getInverse();
  ChannelTransform result = transform;
  if (transform.kind != TransformKind::Affine)
    return result;
  for (Value &matrix : result.data) {
    RankedTensorType type = getTensorType(matrix);
    Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(),
                                          type.getElementType());
    matrix = linalg::TransposeOp::create(builder, loc, matrix, empty,
                                         ArrayRef<int64_t>{1, 0})
                 ->getResult(0);
  }
  return result;
}

/// Whether all dimensions of the transform have a static size in `value`.
static bool hasChannels(Value value, const ChannelTransform &transform) {
  RankedTensorType type = getTensorType(value);
  return type && llvm::all_of(transform.dims, [&](int64_t dim) {
           return dim < type.getRank() && !type.isDynamicDim(dim);
         });
}

//===----------------------------------------------------------------------===//
// linalg
//===----------------------------------------------------------------------===//

namespace {

/// A linalg op with one result, seen as a result element computed by scalar
/// code.
class LinalgView {
public:
  static std::optional<LinalgView> get(Operation *operation) {
    auto op = dyn_cast<linalg::LinalgOp>(operation);
    if (!op || !op.hasPureTensorSemantics() || op->getNumResults() != 1 ||
        op.getBlock()->getNumArguments() != op.getNumDpsInputs() + 1 ||
        !op.getMatchingIndexingMap(op.getDpsInitOperand(0))
             .isProjectedPermutation())
      return std::nullopt;
    LinalgView view;
    view.op = op;
    view.resultMap = op.getMatchingIndexingMap(op.getDpsInitOperand(0));
    Block *body = op.getBlock();
    BlockArgument init = body->getArguments().back();
    view.contribution = body->getTerminator()->getOperand(0);
    if (op.getNumReductionLoops() == 0)
      return init.use_empty() ? std::optional(view) : std::nullopt;
    // init + contribution
    auto add = view.contribution.getDefiningOp<arith::AddFOp>();
    if (!add || !init.hasOneUse())
      return view; // only channels that are reduced can be looked at
    for (auto [sum, term] : {std::pair(add.getLhs(), add.getRhs()),
                             std::pair(add.getRhs(), add.getLhs())}) {
      if (sum == init) {
        view.contribution = term;
        view.isSum = true;
      }
    }
    return view;
  }

  /// The loops of dimensions of an operand; nothing if one is not a loop.
  std::optional<SmallVector<int64_t>> getLoops(OpOperand &operand,
                                               ArrayRef<int64_t> dims) {
    SmallVector<int64_t> loops;
    AffineMap map = op.getMatchingIndexingMap(&operand);
    for (int64_t dim : dims) {
      auto expr = dyn_cast<AffineDimExpr>(map.getResult(dim));
      if (!expr)
        return std::nullopt;
      loops.push_back(expr.getPosition());
    }
    return loops;
  }

  /// The dimensions of an operand that belong to the loops, in their order;
  /// empty if one is missing. Transforms name dimensions in increasing order.
  SmallVector<int64_t, 2> getDims(AffineMap map, ArrayRef<int64_t> loops) {
    SmallVector<int64_t, 2> dims;
    for (int64_t loop : loops) {
      int64_t found = -1;
      for (auto [i, expr] : llvm::enumerate(map.getResults()))
        if (auto dim = dyn_cast<AffineDimExpr>(expr);
            dim && dim.getPosition() == loop)
          found = found < 0 ? static_cast<int64_t>(i) : found;
      if (found < 0 || (!dims.empty() && found <= dims.back()))
        return {};
      dims.push_back(found);
    }
    return dims;
  }

  bool isReduction(int64_t loop) {
    return op.getIteratorTypesArray()[loop] == utils::IteratorType::reduction;
  }

  SmallVector<ScalarOperand> getOperands(ArrayRef<int64_t> loops) {
    SmallVector<ScalarOperand> operands;
    for (OpOperand *input : op.getDpsInputOperands()) {
      ScalarOperand &entry = operands.emplace_back();
      entry.operand = input;
      AffineMap map = op.getMatchingIndexingMap(input);
      if (getTensorType(input->get()))
        entry.dims = getDims(map, loops);
      entry.varies = llvm::any_of(
          loops, [&](int64_t loop) { return map.isFunctionOfDim(loop); });
    }
    return operands;
  }

  ScalarClass evaluate(ArrayRef<ScalarClass> inputs, ArrayRef<int64_t> loops) {
    SmallVector<ScalarClass> arguments(inputs);
    arguments.emplace_back(); // the init, of which nothing is used
    return classifyValue(
        *op.getBlock(), contribution, arguments,
        [&](int64_t loop) { return llvm::is_contained(loops, loop); });
  }

  /// Channels of the result can be transformed by transforming a sum of
  /// transformed terms, if the init is zero.
  bool canTransformResult(const ChannelTransform &transform) {
    if (op.getNumReductionLoops() == 0)
      return true;
    return isSum && transform.isLinear() &&
           isZeroFilled(op.getDpsInitOperand(0)->get());
  }

  linalg::LinalgOp op;
  AffineMap resultMap;
  /// What a result element is, or what is added to it.
  Value contribution;
  bool isSum = false;
};

/// tensor.extract of whole rows of a captured table: `table[row, channel]`.
static OpOperand *getGatheredTable(LinalgView &view, ArrayRef<int64_t> loops,
                                   SmallVectorImpl<int64_t> &dims) {
  Value value = view.contribution;
  while (Operation *cast = value.getDefiningOp()) {
    if (!isa<arith::ExtFOp, arith::TruncFOp>(cast))
      break;
    value = cast->getOperand(0);
  }
  auto extract = value.getDefiningOp<tensor::ExtractOp>();
  if (!extract || view.op.getNumReductionLoops() != 0 || loops.size() != 1)
    return nullptr;
  // The other indices must not depend on the channel.
  SmallVector<Value> pending;
  for (auto [i, index] : llvm::enumerate(extract.getIndices())) {
    auto loop = index.getDefiningOp<linalg::IndexOp>();
    if (loop && static_cast<int64_t>(loop.getDim()) == loops.front() &&
        dims.empty())
      dims.push_back(i);
    else
      pending.push_back(index);
  }
  if (dims.empty())
    return nullptr;
  RankedTensorType table = getTensorType(extract.getTensor());
  RankedTensorType result = getTensorType(view.op->getResult(0));
  SmallVector<int64_t, 2> resultDims = view.getDims(view.resultMap, loops);
  if (resultDims.empty() ||
      table.getDimSize(dims.front()) != result.getDimSize(resultDims.front()))
    return nullptr;
  Block *body = view.op.getBlock();
  while (!pending.empty()) {
    Value index = pending.pop_back_val();
    if (auto argument = dyn_cast<BlockArgument>(index)) {
      if (argument.getOwner() != body)
        continue;
      AffineMap map = view.op.getIndexingMapsArray()[argument.getArgNumber()];
      if (map.isFunctionOfDim(loops.front()))
        return nullptr;
      continue;
    }
    Operation *op = index.getDefiningOp();
    if (op->getBlock() != body)
      continue;
    if (auto loop = dyn_cast<linalg::IndexOp>(op)) {
      if (static_cast<int64_t>(loop.getDim()) == loops.front())
        return nullptr;
      continue;
    }
    if (op->getNumRegions() != 0)
      return nullptr;
    llvm::append_range(pending, op->getOperands());
  }
  return &extract.getTensorMutable();
}

/// The two arguments of a body whose product is summed; equal for squares.
static std::optional<std::pair<unsigned, unsigned>>
getProduct(LinalgView &view) {
  auto getArgument = [&](Value value) -> std::optional<unsigned> {
    while (auto cast = value.getDefiningOp<arith::ExtFOp>())
      value = cast.getIn();
    auto argument = dyn_cast<BlockArgument>(value);
    if (!argument || argument.getOwner() != view.op.getBlock())
      return std::nullopt;
    return argument.getArgNumber();
  };
  auto multiply = view.contribution.getDefiningOp<arith::MulFOp>();
  if (!view.isSum || !multiply)
    return std::nullopt;
  std::optional<unsigned> lhs = getArgument(multiply.getLhs());
  std::optional<unsigned> rhs = getArgument(multiply.getRhs());
  if (!lhs || !rhs)
    return std::nullopt;
  return std::pair(*lhs, *rhs);
}

template <typename OpTy>
struct LinalgModel
    : public TransformCommuteOpInterface::ExternalModel<LinalgModel<OpTy>,
                                                        OpTy> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    std::optional<LinalgView> view = LinalgView::get(op);
    if (!view || !hasChannels(op->getResult(0), transform))
      return;
    // A constant 0 stays what it is.
    if (transform.isLinear() && isZeroFilled(op->getResult(0))) {
      ways.emplace_back();
      return;
    }
    SmallVector<int64_t> loops;
    for (int64_t dim : transform.dims)
      loops.push_back(view->resultMap.getDimPosition(dim));
    SmallVector<int64_t> dims;
    if (OpOperand *table = getGatheredTable(*view, loops, dims)) {
      ways.push_back({{table, transform.on(dims)}});
      return;
    }
    if (!view->canTransformResult(transform))
      return;
    hoistThroughScalars(
        view->getOperands(loops), transform,
        [&](ArrayRef<ScalarClass> classes) {
          return view->evaluate(classes, loops);
        },
        /*fixed=*/-1, ways);
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    std::optional<LinalgView> view = LinalgView::get(op);
    if (!view || operand.getOwner() != op || !view->op.isDpsInput(&operand))
      return failure();
    std::optional<SmallVector<int64_t>> loops =
        view->getLoops(operand, transform.dims);
    if (!loops)
      return failure();
    if (llvm::any_of(*loops,
                     [&](int64_t loop) { return view->isReduction(loop); }))
      return sinkIntoSum(*view, operand, transform, *loops, builder, others);
    SmallVector<int64_t, 2> resultDims = view->getDims(view->resultMap, *loops);
    if (resultDims.empty() || !view->canTransformResult(transform))
      return failure();
    ChannelTransform onResult = transform.on(resultDims);
    if (!hasChannels(op->getResult(0), onResult))
      return failure();
    return sinkThroughScalars(
        view->getOperands(*loops), onResult, operand.getOperandNumber(),
        [&](ArrayRef<ScalarClass> classes) {
          return view->evaluate(classes, *loops);
        },
        others, result);
  }

private:
  /// Channels that are summed over.
  static LogicalResult sinkIntoSum(LinalgView &view, OpOperand &operand,
                                   const ChannelTransform &transform,
                                   ArrayRef<int64_t> loops, OpBuilder &builder,
                                   OperandTransforms &others) {
    if (!transform.isLinear())
      return failure();
    // A sum does not depend on the order of its terms.
    if (transform.kind == TransformKind::Permute && view.isSum) {
      SmallVector<ScalarClass> classes;
      for (const ScalarOperand &entry : view.getOperands(loops)) {
        ScalarClass &value = classes.emplace_back();
        if (entry.operand == &operand)
          value.dependence = Dependence::Self;
        else
          value.varies = entry.varies;
      }
      if (!view.evaluate(classes, loops).varies)
        return success();
    }
    std::optional<std::pair<unsigned, unsigned>> product = getProduct(view);
    if (!product)
      return failure();
    // Squares: rotations keep their sum. Only if all channels are summed.
    if (product->first == product->second)
      return success(transform.isOrthogonal() &&
                     product->first == operand.getOperandNumber());
    // sum_k (x M)_k y_k = sum_k x_k (y M^T)_k
    unsigned other = product->first == operand.getOperandNumber()
                         ? product->second
                         : product->first;
    if (other >= view.op.getNumDpsInputs())
      return failure();
    OpOperand *factor = view.op.getDpsInputOperand(other);
    SmallVector<int64_t, 2> dims =
        view.getDims(view.op.getMatchingIndexingMap(factor), loops);
    if (dims.empty() || !hasChannels(factor->get(), transform.on(dims)))
      return failure();
    others.push_back({factor, getTransposed(transform.on(dims), builder,
                                            operand.getOwner()->getLoc())});
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Pointwise ops on tensors
//===----------------------------------------------------------------------===//

template <typename OpTy>
struct PointwiseModel
    : public TransformCommuteOpInterface::ExternalModel<PointwiseModel<OpTy>,
                                                        OpTy> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    if (!hasChannels(op->getResult(0), transform))
      return;
    hoistThroughScalars(
        getOperands(op, transform), transform,
        [&](ArrayRef<ScalarClass> classes) { return classify(op, classes); },
        /*fixed=*/-1, ways);
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    if (!hasChannels(op->getResult(0), transform))
      return failure();
    return sinkThroughScalars(
        getOperands(op, transform), transform, operand.getOperandNumber(),
        [&](ArrayRef<ScalarClass> classes) { return classify(op, classes); },
        others, result);
  }

private:
  static SmallVector<ScalarOperand>
  getOperands(Operation *op, const ChannelTransform &transform) {
    SmallVector<ScalarOperand> operands;
    for (OpOperand &operand : op->getOpOperands()) {
      ScalarOperand &entry = operands.emplace_back();
      entry.operand = &operand;
      if (!getTensorType(operand.get()))
        continue; // the condition of a select
      entry.dims = transform.dims;
      entry.varies = true;
    }
    return operands;
  }
};

//===----------------------------------------------------------------------===//
// quant_llm.linear
//===----------------------------------------------------------------------===//

struct LinearModel
    : public TransformCommuteOpInterface::ExternalModel<LinearModel, LinearOp> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto linear = cast<LinearOp>(op);
    if (!isOutput(linear, transform))
      return;
    SmallVector<OperandTransforms> found;
    hoistThroughScalars(
        getOperands(linear, transform), transform,
        [&](ArrayRef<ScalarClass> classes) {
          return evaluate(linear, classes);
        },
        /*fixed=*/-1, found);
    for (OperandTransforms &way : found)
      if (isAllowed(linear, way))
        ways.push_back(std::move(way));
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    auto linear = cast<LinearOp>(op);
    MutableOperandRange weights = linear.getWeightsMutable();
    if (&operand == &linear.getInputMutable()) {
      RankedTensorType input = linear.getInputType();
      if (transform.dims.size() != 1 ||
          transform.dims.front() != input.getRank() - 1)
        return failure();
      if (transform.kind == TransformKind::Shift)
        return sinkShift(linear, transform, builder, result);
      if (!transform.isLinear())
        return failure();
      for (OpOperand &weight : weights) {
        if (isa<WeightType>(weight.get().getType()))
          return failure();
        others.push_back({&weight, getTransposed(transform.on({1}), builder,
                                                 linear.getLoc())});
      }
      return success();
    }
    // An operand of the epilogue.
    SmallVector<ScalarOperand> operands;
    int64_t rank = linear.getResult().getType().getRank();
    bool perOutput = getTensorType(operand.get()) &&
                     getTensorType(operand.get()).getRank() == 1 && rank != 1;
    ChannelTransform onResult =
        perOutput ? transform.on({rank - 1}) : transform;
    if (!isOutput(linear, onResult))
      return failure();
    operands = getOperands(linear, onResult);
    for (auto [i, entry] : llvm::enumerate(operands)) {
      if (entry.operand != &operand || i < linear.getWeights().size())
        continue;
      if (failed(sinkThroughScalars(
              operands, onResult, i,
              [&](ArrayRef<ScalarClass> classes) {
                return evaluate(linear, classes);
              },
              others, result)) ||
          !isAllowed(linear, others))
        return failure();
      return success();
    }
    return failure();
  }

private:
  /// Whether the channels are the outputs of the linear.
  static bool isOutput(LinearOp linear, const ChannelTransform &transform) {
    return transform.dims.size() == 1 &&
           transform.dims.front() == linear.getResult().getType().getRank() - 1;
  }

  /// The accumulators, as if they were the weights, and the operands of the
  /// epilogue.
  static SmallVector<ScalarOperand>
  getOperands(LinearOp linear, const ChannelTransform &transform) {
    SmallVector<ScalarOperand> operands;
    for (OpOperand &weight : linear.getWeightsMutable())
      operands.push_back({&weight, {0}, true});
    int64_t rank = linear.getResult().getType().getRank();
    for (OpOperand &operand : linear.getEpilogueOperandsMutable()) {
      bool perOutput = getTensorType(operand.get()).getRank() == 1 && rank != 1;
      ScalarOperand &entry = operands.emplace_back();
      entry.operand = &operand;
      if (perOutput)
        entry.dims = {0};
      else
        entry.dims = transform.dims;
      entry.varies = true;
    }
    return operands;
  }

  static ScalarClass evaluate(LinearOp linear, ArrayRef<ScalarClass> classes) {
    if (!linear.hasEpilogue())
      return classes.front();
    Block &body = linear.getEpilogue().front();
    return classifyValue(body, body.getTerminator()->getOperand(0), classes,
                         [](int64_t) { return true; });
  }

  /// An offset of an accumulator is no transform of a weight, and quantized
  /// weights stay as they are.
  static bool isAllowed(LinearOp linear, const OperandTransforms &way) {
    return llvm::all_of(way, [&](const OperandTransform &entry) {
      unsigned first = linear.getWeights().getBeginOperandIndex();
      unsigned number = entry.operand->getOperandNumber();
      bool isWeight =
          number >= first && number < first + linear.getWeights().size();
      return !isWeight || (entry.transform.isLinear() &&
                           !isa<WeightType>(entry.operand->get().getType()));
    });
  }

  /// (x + d) W^T = x W^T + d W^T: the offset of the outputs is itself a linear.
  static LogicalResult sinkShift(LinearOp linear,
                                 const ChannelTransform &transform,
                                 OpBuilder &builder,
                                 std::optional<ChannelTransform> &result) {
    Value weight = linear.getWeights().front();
    Operation *get = weight.getDefiningOp();
    if (linear.hasEpilogue() || isa<WeightType>(weight.getType()) ||
        !isa_and_nonnull<GetParameterOp>(get))
      return failure();
    Value offset = transform.data.front();
    Type element = getElementTypeOrSelf(offset.getType());
    if (element.isF64())
      return failure(); // `linear` has no inputs of f64
    // The weight may come later than the place of the builder.
    Value weightHere = builder.clone(*get)->getResult(0);
    auto type = RankedTensorType::get({linear.getN()}, builder.getF32Type());
    Value outputs = LinearOp::create(builder, linear.getLoc(), type, offset,
                                     ValueRange{weightHere});
    result = transform.on({linear.getResult().getType().getRank() - 1});
    result->data = {outputs};
    return success();
  }
};

//===----------------------------------------------------------------------===//
// quant_llm.grouped_linear
//===----------------------------------------------------------------------===//

/// All experts have the same channels: those of the input are the columns of
/// the weight, those of the result the rows of every expert.
struct GroupedLinearModel
    : public TransformCommuteOpInterface::ExternalModel<GroupedLinearModel,
                                                        GroupedLinearOp> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto linear = cast<GroupedLinearOp>(op);
    if (transform.dims != SmallVector<int64_t, 2>{1})
      return;
    SmallVector<OperandTransforms> found;
    hoistThroughScalars(
        getOperands(linear), transform,
        [&](ArrayRef<ScalarClass> classes) {
          return evaluate(linear, classes);
        },
        /*fixed=*/-1, found);
    for (OperandTransforms &way : found)
      if (finish(linear, way, builder))
        ways.push_back(std::move(way));
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    auto linear = cast<GroupedLinearOp>(op);
    if (&operand == &linear.getInputMutable()) {
      if (!transform.isLinear() || transform.dims != SmallVector<int64_t, 2>{1})
        return failure();
      for (OpOperand &weight : linear.getWeightsMutable()) {
        if (isa<WeightType>(weight.get().getType()))
          return failure();
        others.push_back(
            {&weight, getTransposed(transform, builder, linear.getLoc())});
      }
      return success();
    }
    // An operand of the epilogue with a row per token.
    if (transform.dims != SmallVector<int64_t, 2>{1})
      return failure();
    SmallVector<ScalarOperand> operands = getOperands(linear);
    for (auto [i, entry] : llvm::enumerate(operands)) {
      if (entry.operand != &operand || i < linear.getWeights().size())
        continue;
      if (failed(sinkThroughScalars(
              operands, transform, i,
              [&](ArrayRef<ScalarClass> classes) {
                return evaluate(linear, classes);
              },
              others, result)) ||
          !finish(linear, others, builder))
        return failure();
      return success();
    }
    return failure();
  }

private:
  /// As for linears; per-expert operands are told from those with a row per
  /// token by `finish`.
  static SmallVector<ScalarOperand> getOperands(GroupedLinearOp linear) {
    SmallVector<ScalarOperand> operands;
    for (OpOperand &weight : linear.getWeightsMutable())
      operands.push_back({&weight, {0}, true});
    for (OpOperand &operand : linear.getEpilogueOperandsMutable())
      operands.push_back(
          {&operand, {getTensorType(operand.get()).getRank() - 1}, true});
    return operands;
  }

  static ScalarClass evaluate(GroupedLinearOp linear,
                              ArrayRef<ScalarClass> classes) {
    if (linear.getEpilogue().empty())
      return classes.front();
    Block &body = linear.getEpilogue().front();
    return classifyValue(body, body.getTerminator()->getOperand(0), classes,
                         [](int64_t) { return true; });
  }

  /// Gives transforms of what has values for every expert the data for all of
  /// them; false if a weight cannot be transformed.
  static bool finish(GroupedLinearOp linear, OperandTransforms &way,
                     OpBuilder &builder) {
    int64_t experts = linear.getNumExperts();
    for (OperandTransform &entry : way) {
      Value value = entry.operand->get();
      bool isWeight = llvm::is_contained(linear.getWeights(), value);
      if (isWeight &&
          (!entry.transform.isLinear() || isa<WeightType>(value.getType())))
        return false;
      if (!isWeight && getTensorType(value).getRank() != 1)
        continue;
      switch (entry.transform.kind) {
      case TransformKind::Rotate:
      case TransformKind::Affine:
        continue; // blocks of rows follow one another
      case TransformKind::Permute:
        return false; // its data would have to count on
      case TransformKind::Scale:
      case TransformKind::Shift:
        break;
      }
      Value data = entry.transform.data.front();
      RankedTensorType type = getTensorType(data);
      Location loc = linear.getLoc();
      Value empty = tensor::EmptyOp::create(
          builder, loc, {experts, type.getDimSize(0)}, type.getElementType());
      data = linalg::BroadcastOp::create(builder, loc, data, empty,
                                         ArrayRef<int64_t>{0})
                 ->getResult(0);
      entry.transform.data.front() = tensor::CollapseShapeOp::create(
          builder, loc, data, ArrayRef<ReassociationIndices>{{0, 1}});
    }
    return true;
  }
};

//===----------------------------------------------------------------------===//
// tensor
//===----------------------------------------------------------------------===//

/// Reshapes the data of a scale or shift.
static Value expandData(OpBuilder &builder, Location loc, Value data,
                        ArrayRef<int64_t> shape,
                        ArrayRef<ReassociationIndices> groups) {
  RankedTensorType type = getTensorType(data);
  if (type.getShape() == shape)
    return data;
  return tensor::ExpandShapeOp::create(
      builder, loc, RankedTensorType::get(shape, type.getElementType()), data,
      groups);
}

/// The transform of the expanded tensor of a reshape, from that of the
/// collapsed one.
static std::optional<ChannelTransform>
expandTransform(const ChannelTransform &transform, RankedTensorType expanded,
                ArrayRef<ReassociationIndices> groups, OpBuilder &builder,
                Location loc) {
  if (transform.kind == TransformKind::Scale ||
      transform.kind == TransformKind::Shift) {
    SmallVector<int64_t> dims, shape;
    SmallVector<ReassociationIndices> dataGroups;
    for (int64_t dim : transform.dims) {
      ReassociationIndices &group = dataGroups.emplace_back();
      for (int64_t part : groups[dim]) {
        if (expanded.isDynamicDim(part))
          return std::nullopt;
        group.push_back(dims.size());
        dims.push_back(part);
        shape.push_back(expanded.getDimSize(part));
      }
    }
    ChannelTransform result = transform.on(dims);
    result.data.front() =
        expandData(builder, loc, transform.data.front(), shape, dataGroups);
    return result;
  }
  // Blocks stay together in the last dimension. A permutation needs it all.
  ArrayRef<int64_t> group = groups[transform.dims.front()];
  int64_t size = 1;
  for (int64_t part : group) {
    if (expanded.isDynamicDim(part))
      return std::nullopt;
    size *= expanded.getDimSize(part);
  }
  int64_t last = expanded.getDimSize(group.back());
  bool fits = transform.kind == TransformKind::Permute
                  ? last == size
                  : last % transform.getBlock() == 0;
  if (!fits)
    return std::nullopt;
  return transform.on({group.back()});
}

/// The reverse of expandTransform.
static std::optional<ChannelTransform>
collapseTransform(const ChannelTransform &transform, RankedTensorType expanded,
                  ArrayRef<ReassociationIndices> groups, OpBuilder &builder,
                  Location loc) {
  SmallVector<int64_t> dims;
  for (auto [i, group] : llvm::enumerate(groups))
    if (llvm::any_of(group, [&](int64_t part) {
          return llvm::is_contained(transform.dims, part);
        }))
      dims.push_back(i);
  if (transform.kind != TransformKind::Scale &&
      transform.kind != TransformKind::Shift) {
    ArrayRef<int64_t> group = groups[dims.front()];
    int64_t size = 1;
    for (int64_t part : group) {
      if (expanded.isDynamicDim(part))
        return std::nullopt;
      size *= expanded.getDimSize(part);
    }
    int64_t dim = transform.dims.front();
    bool fits =
        dim == group.back() && (transform.kind != TransformKind::Permute ||
                                expanded.getDimSize(dim) == size);
    if (!fits)
      return std::nullopt;
    return transform.on(dims);
  }
  // The data are repeated along the other dimensions of the groups.
  SmallVector<int64_t> fullShape, missing;
  SmallVector<ReassociationIndices> dataGroups;
  for (int64_t dim : dims) {
    ReassociationIndices &group = dataGroups.emplace_back();
    for (int64_t part : groups[dim]) {
      if (expanded.isDynamicDim(part))
        return std::nullopt;
      if (!llvm::is_contained(transform.dims, part))
        missing.push_back(fullShape.size());
      group.push_back(fullShape.size());
      fullShape.push_back(expanded.getDimSize(part));
    }
  }
  Value data = transform.data.front();
  Type element = getElementTypeOrSelf(data.getType());
  if (!missing.empty()) {
    Value empty = tensor::EmptyOp::create(builder, loc, fullShape, element);
    data = linalg::BroadcastOp::create(builder, loc, data, empty, missing)
               ->getResult(0);
  }
  if (fullShape.size() != dims.size())
    data = tensor::CollapseShapeOp::create(builder, loc, data, dataGroups);
  ChannelTransform result = transform.on(dims);
  result.data.front() = data;
  return result;
}

template <typename OpTy>
struct ReshapeModel
    : public TransformCommuteOpInterface::ExternalModel<ReshapeModel<OpTy>,
                                                        OpTy> {
  static constexpr bool isExpand = std::is_same_v<OpTy, tensor::ExpandShapeOp>;

  static std::optional<ChannelTransform>
  cross(OpTy op, const ChannelTransform &transform, bool expand,
        OpBuilder &builder) {
    RankedTensorType expanded = isExpand ? op.getResultType() : op.getSrcType();
    SmallVector<ReassociationIndices> groups = op.getReassociationIndices();
    return expand ? expandTransform(transform, expanded, groups, builder,
                                    op.getLoc())
                  : collapseTransform(transform, expanded, groups, builder,
                                      op.getLoc());
  }

  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto reshape = cast<OpTy>(op);
    if (std::optional<ChannelTransform> source =
            cross(reshape, transform, !isExpand, builder))
      ways.push_back({{&reshape.getSrcMutable(), *source}});
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    auto reshape = cast<OpTy>(op);
    if (&operand != &reshape.getSrcMutable())
      return failure();
    result = cross(reshape, transform, isExpand, builder);
    return success(result.has_value());
  }
};

struct CastModel
    : public TransformCommuteOpInterface::ExternalModel<CastModel,
                                                        tensor::CastOp> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto cast = llvm::cast<tensor::CastOp>(op);
    if (hasChannels(cast.getSource(), transform))
      ways.push_back({{&cast.getSourceMutable(), transform}});
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    result = transform;
    return success(hasChannels(op->getResult(0), transform));
  }
};

struct EmptyModel
    : public TransformCommuteOpInterface::ExternalModel<EmptyModel,
                                                        tensor::EmptyOp> {
  /// Its elements are unspecified before and after.
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    ways.emplace_back();
  }
};

/// Between the large tensor and the slice of an op on slices.
struct SliceDims {
  template <typename OpTy>
  SliceDims(OpTy op, RankedTensorType large, llvm::SmallBitVector dropped)
      : large(large), offsets(op.getMixedOffsets()), sizes(op.getMixedSizes()),
        strides(op.getMixedStrides()), dropped(std::move(dropped)) {}

  /// The slice has the dimension of the large tensor as a whole.
  bool isWhole(int64_t dim) const {
    return !large.isDynamicDim(dim) && !dropped.test(dim) &&
           getConstantIntValue(offsets[dim]) == 0 &&
           getConstantIntValue(sizes[dim]) == large.getDimSize(dim) &&
           getConstantIntValue(strides[dim]) == 1;
  }

  std::optional<ChannelTransform>
  toSlice(const ChannelTransform &transform) const {
    SmallVector<int64_t> dims;
    for (int64_t dim : transform.dims) {
      if (!isWhole(dim))
        return std::nullopt;
      int64_t position = dim;
      for (int64_t i = 0; i < dim; ++i)
        position -= dropped.test(i);
      dims.push_back(position);
    }
    return transform.on(dims);
  }

  std::optional<ChannelTransform>
  toLarge(const ChannelTransform &transform) const {
    SmallVector<int64_t> kept, dims;
    for (int64_t dim = 0; dim < large.getRank(); ++dim)
      if (!dropped.test(dim))
        kept.push_back(dim);
    for (int64_t dim : transform.dims) {
      dims.push_back(kept[dim]);
      if (!isWhole(dims.back()))
        return std::nullopt;
    }
    return transform.on(dims);
  }

  RankedTensorType large;
  SmallVector<OpFoldResult> offsets, sizes, strides;
  llvm::SmallBitVector dropped;
};

/// A sum of products with the halves x1 and x2, in one linalg op.
struct HalfCoefficients {
  bool isNegative[2];
  Value factor[2];
  AffineMap map[2];

  /// `numbers` are the arguments of the op's body that x1 and x2 are.
  static std::optional<HalfCoefficients> get(LinalgView &view,
                                             ArrayRef<unsigned> numbers) {
    // Without conversions; negations change the sign of their term.
    auto strip = [](Value value, bool &isNegative) {
      while (Operation *op = value.getDefiningOp()) {
        if (!isa<arith::ExtFOp, arith::TruncFOp, arith::NegFOp>(op))
          break;
        isNegative ^= isa<arith::NegFOp>(op);
        value = op->getOperand(0);
      }
      return value;
    };
    auto getArgument = [&](Value value, bool &isNegative) {
      auto argument = dyn_cast<BlockArgument>(strip(value, isNegative));
      return argument && argument.getOwner() == view.op.getBlock() ? argument
                                                                   : nullptr;
    };
    HalfCoefficients result;
    bool found[2] = {false, false};
    auto addTerm = [&](Value value, bool isNegative) {
      auto product = strip(value, isNegative).getDefiningOp<arith::MulFOp>();
      if (!product)
        return false;
      BlockArgument a = getArgument(product.getLhs(), isNegative);
      BlockArgument b = getArgument(product.getRhs(), isNegative);
      if (!a || !b)
        return false;
      for (int half : {0, 1})
        for (auto [x, factor] : {std::pair(a, b), std::pair(b, a)}) {
          if (found[half] || x.getArgNumber() != numbers[half] ||
              llvm::is_contained(numbers, factor.getArgNumber()) ||
              factor.getArgNumber() >= view.op.getNumDpsInputs())
            continue;
          OpOperand *operand =
              view.op.getDpsInputOperand(factor.getArgNumber());
          result.isNegative[half] = isNegative;
          result.factor[half] = operand->get();
          result.map[half] = view.op.getMatchingIndexingMap(operand);
          return found[half] = true;
        }
      return false;
    };
    Value sum = view.contribution;
    while (auto cast = sum.getDefiningOp<arith::TruncFOp>())
      sum = cast.getIn();
    Operation *op = sum.getDefiningOp();
    if (!isa_and_nonnull<arith::AddFOp, arith::SubFOp>(op) ||
        !addTerm(op->getOperand(0), false) ||
        !addTerm(op->getOperand(1), isa<arith::SubFOp>(op)))
      return std::nullopt;
    return result;
  }
};

/// Two slices, inserted one after the other, of pairs of channels that are
/// computed from those of a tensor.
struct RotaryHalves {
  tensor::InsertSliceOp first, second;
  /// What is inserted as the first and the second half of the channels.
  linalg::LinalgOp ops[2];
  /// The dimension of the channels in the tensor and in the slices.
  int64_t dim, sliceDim;
  RotaryEmbedding rotary;

  static std::optional<RotaryHalves> get(tensor::InsertSliceOp second) {
    RotaryHalves halves;
    halves.second = second;
    halves.first = second.getDest().getDefiningOp<tensor::InsertSliceOp>();
    if (!halves.first || !halves.matchInserts())
      return std::nullopt;
    std::optional<LinalgView> views[2];
    for (int half : {0, 1}) {
      views[half] = LinalgView::get(halves.ops[half]);
      if (!views[half] || views[half]->op.getNumReductionLoops() != 0 ||
          !halves.ops[half]->hasOneUse())
        return std::nullopt;
    }
    if (!halves.matchSource(*views[0], *views[1]) || !halves.hasNoOtherUses())
      return std::nullopt;
    return halves;
  }

private:
  /// Slices of both halves, the same but for the half.
  bool matchInserts() {
    int64_t rank = second.getDestType().getRank();
    SmallVector<OpFoldResult> offsets = second.getMixedOffsets();
    dim = -1;
    for (int64_t i = 0; i < rank; ++i)
      if (first.getMixedOffsets()[i] != offsets[i])
        dim = i;
    if (dim < 0 || first.getSourceType() != second.getSourceType())
      return false;
    std::optional<Half> before = Half::get(first, first.getDestType(), dim);
    std::optional<Half> after = Half::get(second, second.getDestType(), dim);
    if (!before || !after || before->isSecond == after->isSecond ||
        before->interleaved != after->interleaved)
      return false;
    llvm::SmallBitVector dropped = second.getDroppedDims();
    if (dropped.test(dim) || dropped != first.getDroppedDims())
      return false;
    sliceDim = dim;
    for (int64_t i = 0; i < dim; ++i)
      sliceDim -= dropped.test(i);
    for (int64_t i = 0; i < rank; ++i)
      if (i != dim &&
          (first.getMixedOffsets()[i] != offsets[i] ||
           first.getMixedSizes()[i] != second.getMixedSizes()[i] ||
           first.getMixedStrides()[i] != second.getMixedStrides()[i]))
        return false;
    rotary.dim = sliceDim;
    rotary.interleaved = before->interleaved;
    ops[before->isSecond] = first.getSource().getDefiningOp<linalg::LinalgOp>();
    ops[after->isSecond] = second.getSource().getDefiningOp<linalg::LinalgOp>();
    return ops[0] && ops[1];
  }

  /// Both halves are computed from those of one tensor, of which every element
  /// has elements of its own.
  bool matchSource(LinalgView &view0, LinalgView &view1) {
    LinalgView *views[2] = {&view0, &view1};
    SmallVector<unsigned> numbers[2];
    AffineMap sourceMap;
    for (int half : {0, 1}) {
      LinalgView &view = *views[half];
      if (view.resultMap != view0.resultMap)
        return false;
      int64_t loop = view.resultMap.getDimPosition(sliceDim);
      numbers[half].assign(2, ~0u);
      for (OpOperand *input : view.op.getDpsInputOperands()) {
        auto read = input->get().getDefiningOp<tensor::ExtractSliceOp>();
        AffineMap map = view.op.getMatchingIndexingMap(input);
        if (!read || !map.isPermutation() || read.getDroppedDims().any())
          continue;
        std::optional<Half> part = Half::get(
            read, read.getSourceType(),
            *map.getResultPosition(getAffineDimExpr(loop, map.getContext())));
        if (!part || part->interleaved != rotary.interleaved)
          continue;
        if (!rotary.source) {
          rotary.source = read.getSource();
          sourceMap = map;
        }
        if (rotary.source != read.getSource() || map != sourceMap ||
            numbers[half][part->isSecond] != ~0u)
          return false;
        numbers[half][part->isSecond] = input->getOperandNumber();
        if (!llvm::is_contained(rotary.reads, &read.getSourceMutable()))
          rotary.reads.push_back(&read.getSourceMutable());
      }
      if (llvm::is_contained(numbers[half], ~0u))
        return false;
      // A sum of products with the halves, whatever the channels are.
      SmallVector<ScalarClass> classes(view.op.getNumDpsInputs());
      for (unsigned number : numbers[half])
        classes[number].dependence = Dependence::Self;
      if (!view.evaluate(classes, {}).isLinear())
        return false;
    }
    for (unsigned i = 0; i < view0.resultMap.getNumResults(); ++i) {
      int64_t loop = view0.resultMap.getDimPosition(i);
      std::optional<unsigned> position = sourceMap.getResultPosition(
          getAffineDimExpr(loop, sourceMap.getContext()));
      rotary.sourceDims.push_back(position ? int64_t(*position) : -1);
    }
    std::optional<HalfCoefficients> c0 =
        HalfCoefficients::get(view0, numbers[0]);
    std::optional<HalfCoefficients> c1 =
        HalfCoefficients::get(view1, numbers[1]);
    auto areEqual = [&](int i, int j) {
      return c0->factor[i] == c1->factor[j] && c0->map[i] == c1->map[j];
    };
    rotary.isRotation = c0 && c1 && areEqual(0, 1) && areEqual(1, 0) &&
                        c0->isNegative[0] == c1->isNegative[1] &&
                        c0->isNegative[1] != c1->isNegative[0];
    return true;
  }

  /// What is between the tensor and the result has no other readers.
  bool hasNoOtherUses() {
    for (OpOperand *read : rotary.reads)
      for (Operation *user : read->getOwner()->getUsers())
        if (user != ops[0] && user != ops[1])
          return false;
    for (Operation *user : first->getUsers()) {
      if (user == second)
        continue;
      // A slice whose place the second half is computed into.
      auto place = dyn_cast<tensor::ExtractSliceOp>(user);
      if (!place)
        return false;
      for (OpOperand &use : place->getUses())
        if (auto op = dyn_cast<linalg::LinalgOp>(use.getOwner());
            !op || (op != ops[0] && op != ops[1]) || !op.isDpsInit(&use))
          return false;
    }
    return true;
  }
};

/// Whether the data of a transform, constants, commute with the rotation of
/// pairs; nothing else is known here.
bool commutesWithPairs(const ChannelTransform &transform,
                       const RotaryEmbedding &rotary, int64_t size) {
  if (transform.hadamard == 1 && !transform.seed)
    return true; // the identity
  DenseFPElementsAttr attr;
  if (transform.data.size() != 1 ||
      !matchPattern(transform.data.front(), m_Constant(&attr)))
    return false;
  SmallVector<APFloat> values(attr.getValues<APFloat>());
  auto isEqual = [&](int64_t a, int64_t b, bool negated) {
    return (negated ? llvm::neg(values[a]) : values[a]).compare(values[b]) ==
           APFloat::cmpEqual;
  };
  if (transform.kind == TransformKind::Scale) {
    // The pairs are in the last dimension of the data.
    for (int64_t i = 0; i < int64_t(values.size()); ++i) {
      int64_t channel = i % size;
      if (!isEqual(i, i - channel + rotary.getPartner(channel, size), false))
        return false;
    }
    return true;
  }
  if (transform.kind != TransformKind::Rotate || !rotary.isRotation ||
      int64_t(values.size()) != size * size)
    return false;
  // [[a, b], [-b, a]] on each pair.
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j) {
      int64_t pi = rotary.getPartner(i, size), pj = rotary.getPartner(j, size);
      if (i == j || i == pj ? !isEqual(i * size + j, pi * size + pj, i != j)
                            : !values[i * size + j].isZero())
        return false;
    }
  return true;
}

/// What the source of a rotary embedding is to have for its result, of type
/// `type`, to have the transform.
std::optional<ChannelTransform> crossRotary(const RotaryEmbedding &rotary,
                                            RankedTensorType type,
                                            const ChannelTransform &transform) {
  if (transform.kind == TransformKind::Shift ||
      transform.kind == TransformKind::Permute)
    return std::nullopt;
  SmallVector<int64_t> dims;
  for (int64_t dim : transform.dims) {
    dims.push_back(rotary.sourceDims[dim]);
    if (dims.back() < 0 ||
        (dims.size() > 1 && dims[dims.size() - 2] >= dims.back()))
      return std::nullopt;
    // A slice of another dimension has not all of its channels.
    auto source = cast<RankedTensorType>(rotary.source.getType());
    if (type.isDynamicDim(dim) ||
        type.getDimSize(dim) != source.getDimSize(dims.back()))
      return std::nullopt;
  }
  if (llvm::is_contained(transform.dims, rotary.dim) &&
      (transform.dims.back() != rotary.dim ||
       !commutesWithPairs(transform, rotary, type.getDimSize(rotary.dim))))
    return std::nullopt;
  if (!llvm::is_contained(transform.dims, rotary.dim) &&
      transform.kind != TransformKind::Scale)
    return std::nullopt;
  return transform.on(dims);
}

struct ExtractSliceModel : public TransformCommuteOpInterface::ExternalModel<
                               ExtractSliceModel, tensor::ExtractSliceOp> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto slice = cast<tensor::ExtractSliceOp>(op);
    SliceDims dims(slice, slice.getSourceType(), slice.getDroppedDims());
    if (std::optional<ChannelTransform> source = dims.toLarge(transform))
      ways.push_back({{&slice.getSourceMutable(), *source}});
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    auto slice = cast<tensor::ExtractSliceOp>(op);
    SliceDims dims(slice, slice.getSourceType(), slice.getDroppedDims());
    result = dims.toSlice(transform);
    return success(result.has_value());
  }
};

struct InsertSliceModel
    : public TransformCommuteOpInterface::ExternalModel<InsertSliceModel,
                                                        tensor::InsertSliceOp> {
  void hoistTransform(Operation *op, const ChannelTransform &transform,
                      OpBuilder &builder,
                      SmallVectorImpl<OperandTransforms> &ways) const {
    auto insert = cast<tensor::InsertSliceOp>(op);
    if (std::optional<RotaryEmbedding> rotary =
            matchRotaryEmbedding(insert.getResult()))
      if (std::optional<ChannelTransform> source =
              crossRotary(*rotary, insert.getType(), transform)) {
        OperandTransforms &way = ways.emplace_back();
        for (OpOperand *read : rotary->reads)
          way.push_back({read, *source});
        return;
      }
    SliceDims dims(insert, insert.getDestType(), insert.getDroppedDims());
    if (std::optional<ChannelTransform> source = dims.toSlice(transform))
      ways.push_back({{&insert.getSourceMutable(), *source},
                      {&insert.getDestMutable(), transform}});
  }

  LogicalResult sinkTransform(Operation *op, OpOperand &operand,
                              const ChannelTransform &transform,
                              OpBuilder &builder, OperandTransforms &others,
                              std::optional<ChannelTransform> &result) const {
    auto insert = cast<tensor::InsertSliceOp>(op);
    SliceDims dims(insert, insert.getDestType(), insert.getDroppedDims());
    if (&operand == &insert.getSourceMutable()) {
      result = dims.toLarge(transform);
      if (result)
        others.push_back({&insert.getDestMutable(), result->getInverse()});
      return success(result.has_value());
    }
    std::optional<ChannelTransform> source = dims.toSlice(transform);
    if (!source)
      return failure();
    others.push_back({&insert.getSourceMutable(), source->getInverse()});
    result = transform;
    return success();
  }
};

} // namespace

//===----------------------------------------------------------------------===//
// Halves of rotary embeddings
//===----------------------------------------------------------------------===//

std::optional<RotaryEmbedding> quant_llm::matchRotaryEmbedding(Value value) {
  auto insert = value.getDefiningOp<tensor::InsertSliceOp>();
  if (!insert || insert.getDroppedDims().any())
    return std::nullopt;
  std::optional<RotaryHalves> halves = RotaryHalves::get(insert);
  if (!halves || !halves->first.getDest().getDefiningOp<tensor::EmptyOp>())
    return std::nullopt;
  return halves->rotary;
}

int64_t quant_llm::joinRotatedHalves(FunctionOpInterface function) {
  SmallVector<RotaryHalves> found;
  function.walk([&](tensor::InsertSliceOp insert) {
    std::optional<RotaryHalves> halves = RotaryHalves::get(insert);
    if (halves && !halves->first.getDest().getDefiningOp<tensor::EmptyOp>())
      found.push_back(*halves);
  });
  int64_t numJoined = 0;
  for (RotaryHalves &halves : found) {
    tensor::InsertSliceOp first = halves.first, second = halves.second;
    auto type = cast<RankedTensorType>(first.getSourceType());
    int64_t dim = halves.sliceDim;
    // The halves are computed into tensors of their own, not into slices; that
    // of the second one is a slice of what the first one is inserted into.
    auto firstOp = first.getSource().getDefiningOp<linalg::LinalgOp>();
    auto secondOp = second.getSource().getDefiningOp<linalg::LinalgOp>();
    if (firstOp->getBlock() != secondOp->getBlock() ||
        !firstOp->isBeforeInBlock(secondOp))
      continue;
    OpBuilder before(firstOp);
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(
        before, firstOp.getLoc(), firstOp.getDpsInitOperand(0)->get());
    for (linalg::LinalgOp op : {firstOp, secondOp}) {
      OpBuilder builder(op);
      op.getDpsInitOperand(0)->set(tensor::EmptyOp::create(
          builder, op.getLoc(), sizes, type.getElementType()));
    }
    OpBuilder builder(second);
    Location loc = second.getLoc();
    SmallVector<OpFoldResult> whole = sizes;
    int64_t size = 2 * type.getDimSize(dim);
    whole[dim] = builder.getIndexAttr(size);
    Value joined =
        tensor::EmptyOp::create(builder, loc, whole, type.getElementType());
    for (tensor::InsertSliceOp insert : {first, second}) {
      SmallVector<OpFoldResult> offsets(type.getRank(),
                                        builder.getIndexAttr(0));
      SmallVector<OpFoldResult> strides(type.getRank(),
                                        builder.getIndexAttr(1));
      offsets[dim] = insert.getMixedOffsets()[halves.dim];
      strides[dim] = insert.getMixedStrides()[halves.dim];
      joined = tensor::InsertSliceOp::create(builder, loc, insert.getSource(),
                                             joined, offsets, sizes, strides);
    }
    SmallVector<OpFoldResult> offsets = second.getMixedOffsets();
    SmallVector<OpFoldResult> extents = second.getMixedSizes();
    SmallVector<OpFoldResult> strides = second.getMixedStrides();
    offsets[halves.dim] = builder.getIndexAttr(0);
    extents[halves.dim] = builder.getIndexAttr(size);
    strides[halves.dim] = builder.getIndexAttr(1);
    Value written = tensor::InsertSliceOp::create(
        builder, loc, joined, first.getDest(), offsets, extents, strides);
    second.getResult().replaceAllUsesWith(written);
    second.erase();
    for (Operation *user : llvm::make_early_inc_range(first->getUsers()))
      if (user->use_empty())
        user->erase();
    if (first->use_empty())
      first.erase();
    ++numJoined;
  }
  return numJoined;
}

//===----------------------------------------------------------------------===//
// Registration
//===----------------------------------------------------------------------===//

template <template <typename> class Model, typename... Ops>
static void attach(MLIRContext *context) {
  (Ops::template attachInterface<Model<Ops>>(*context), ...);
}

void quant_llm::registerTransformCommuteModels(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, QuantLLMDialect *) {
    LinearOp::attachInterface<LinearModel>(*context);
    GroupedLinearOp::attachInterface<GroupedLinearModel>(*context);
  });
  registry.addExtension(+[](MLIRContext *context, linalg::LinalgDialect *) {
    attach<LinalgModel, linalg::GenericOp, linalg::MapOp, linalg::FillOp,
           linalg::CopyOp, linalg::TransposeOp, linalg::BroadcastOp,
           linalg::ReduceOp, linalg::ElementwiseOp, linalg::AddOp,
           linalg::SubOp, linalg::MulOp, linalg::DivOp, linalg::NegFOp,
           linalg::MatmulOp, linalg::BatchMatmulOp, linalg::MatvecOp,
           linalg::VecmatOp, linalg::ContractOp>(context);
  });
  registry.addExtension(+[](MLIRContext *context, arith::ArithDialect *) {
    attach<PointwiseModel, arith::AddFOp, arith::SubFOp, arith::MulFOp,
           arith::DivFOp, arith::NegFOp, arith::ExtFOp, arith::TruncFOp,
           arith::SelectOp, arith::MaximumFOp, arith::MinimumFOp,
           arith::MaxNumFOp, arith::MinNumFOp>(context);
  });
  registry.addExtension(+[](MLIRContext *context, math::MathDialect *) {
    attach<PointwiseModel, math::ExpOp, math::TanhOp, math::ErfOp, math::SqrtOp,
           math::RsqrtOp, math::AbsFOp>(context);
  });
  registry.addExtension(+[](MLIRContext *context, tensor::TensorDialect *) {
    attach<ReshapeModel, tensor::ExpandShapeOp, tensor::CollapseShapeOp>(
        context);
    tensor::CastOp::attachInterface<CastModel>(*context);
    tensor::EmptyOp::attachInterface<EmptyModel>(*context);
    tensor::ExtractSliceOp::attachInterface<ExtractSliceModel>(*context);
    tensor::InsertSliceOp::attachInterface<InsertSliceModel>(*context);
  });
}
