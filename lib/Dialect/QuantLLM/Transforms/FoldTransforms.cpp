//===- FoldTransforms.cpp - Move transforms until parameters absorb them --===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A transform whose users all are its inverse moves up, against the flow of
// values; its inverse and transforms without a partner move down. Each move is
// planned before IR changes: up only if parameters absorb all of it, down where
// parameters absorb some of it.
//
//===----------------------------------------------------------------------===//

#include "Report.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/Support/JSON.h"

namespace quant_llm {
#define GEN_PASS_DEF_FOLDTRANSFORMS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-fold-transforms";

bool quant_llm::isRowSlice(Operation *op) {
  auto slice = dyn_cast_if_present<tensor::ExtractSliceOp>(op);
  if (!slice || !slice.getSource().getDefiningOp<PermuteChannelsOp>())
    return false;
  RankedTensorType source = slice.getSourceType(), type = slice.getType();
  return source.getRank() == 2 && type.getRank() == 2 &&
         source.hasStaticShape() && type.hasStaticShape() &&
         !slice.isDynamicOffset(0) && slice.getStaticStrides()[0] == 1 &&
         slice.getStaticOffsets()[1] == 0 &&
         type.getDimSize(1) == source.getDimSize(1);
}

bool quant_llm::isEvaluable(Operation *op) {
  if (auto linear = dyn_cast<LinearOp>(op))
    return !linear.hasEpilogue() && linear.getWeights().size() == 1 &&
           isa<RankedTensorType>(linear.getWeights().front().getType());
  if (isRowSlice(op))
    return true;
  return isa<ChannelTransformOpInterface, tensor::ExpandShapeOp,
             tensor::CollapseShapeOp, linalg::BroadcastOp, linalg::TransposeOp>(
      op);
}

bool quant_llm::isParameterLike(Value value) {
  Operation *op = value.getDefiningOp();
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!op || !type || !type.hasStaticShape())
    return false;
  if (isa<GetParameterOp>(op) || op->hasTrait<OpTrait::ConstantLike>())
    return true;
  if (!isEvaluable(op))
    return false;
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op))
    return isParameterLike(linalgOp.getDpsInputOperand(0)->get());
  return llvm::all_of(op->getOperands(), isParameterLike);
}

void quant_llm::eraseUnusedData(Operation *root, bool constants) {
  bool erased = true;
  while (erased) {
    erased = false;
    root->walk<WalkOrder::PostOrder, ReverseIterator>([&](Operation *op) {
      if (op->use_empty() && isPure(op) &&
          (isEvaluable(op) || isa<tensor::EmptyOp, GetParameterOp>(op) ||
           (constants && op->hasTrait<OpTrait::ConstantLike>() &&
            isa<RankedTensorType>(op->getResult(0).getType())))) {
        op->erase();
        erased = true;
      }
    });
  }
}

void quant_llm::insertTransformPair(OpBuilder &builder, Value value,
                                    const ChannelTransform &transform) {
  Value there = transform.apply(builder, value.getLoc(), value);
  Value back = transform.getInverse().apply(builder, value.getLoc(), there);
  value.replaceAllUsesExcept(back, there.getDefiningOp());
}

namespace {

/// What became of a transform or a pair.
struct Outcome {
  std::string transform;
  Location loc;
  /// Parameters that absorbed it or its inverse.
  llvm::MapVector<StringRef, std::string> absorbed;
  SmallVector<std::string> online;
  bool isPair = false;
  bool removed = false;
  bool changedState = false;
};

/// How a transform would fare if it moved down.
struct Cost {
  /// Places where it would be left.
  int64_t online = 0;
  /// Ops whose parameters would absorb it.
  int64_t absorbed = 0;
};

class Folder {
public:
  Folder(FunctionOpInterface function, bool changeState, int64_t maxOnline)
      : function(function), changeState(changeState), maxOnline(maxOnline),
        data(function.getContext()) {}

  void run();

  std::vector<Outcome> outcomes;

private:
  // Data of transforms, at the start of the function.
  void hoistData(const ChannelTransform &transform);
  bool hoistValue(Value value);

  // Upwards.
  bool canProduce(Value value, const ChannelTransform &transform,
                  int64_t numReads = 1);
  Value produce(Value value, const ChannelTransform &transform,
                Operation *user);
  std::optional<OperandTransforms> findWay(Value value,
                                           const ChannelTransform &transform);

  // Downwards.
  struct Crossing {
    OperandTransforms others;
    std::optional<ChannelTransform> result;
    /// The reads of a state, if the use writes one.
    SmallVector<std::pair<Value, ChannelTransform>> reads;
    BlockArgument state;
  };
  std::optional<Crossing> cross(OpOperand &use,
                                const ChannelTransform &transform);
  bool crossState(OpOperand &use, const ChannelTransform &transform,
                  Crossing &crossing);
  Cost getCost(OpOperand &use, const ChannelTransform &transform);
  Cost getCost(Value value, const ChannelTransform &transform);
  Cost plan(ArrayRef<Operation *> ops);
  void sink(Operation *op);
  void sinkUse(OpOperand &use, Value input, const ChannelTransform &transform);
  void sinkResult(Value result, const ChannelTransform &transform);

  void collect(SmallVectorImpl<Operation *> &pairs,
               SmallVectorImpl<Operation *> &singles);
  void foldPair(Operation *op);
  bool foldSingle(Operation *op);
  void begin(Operation *op, bool isPair);
  void leaveOnline(Operation *op);
  void noteAbsorbed(Value parameter, const ChannelTransform &transform);

  FunctionOpInterface function;
  const bool changeState;
  const int64_t maxOnline;
  OpBuilder data;
  Operation *lastData = nullptr;
  Outcome *current = nullptr;

  /// The plan: transforms that values will have, and the uses to be crossed.
  DenseMap<Value, ChannelTransform> planned;
  DenseSet<OpOperand *> crossed;
};

} // namespace

//===----------------------------------------------------------------------===//
// Data
//===----------------------------------------------------------------------===//

/// Moves what makes a parameter-like value to the start of the function.
bool Folder::hoistValue(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op)
    return false;
  for (Value operand : op->getOperands())
    if (!hoistValue(operand) && operand.getDefiningOp())
      return false;
  Block &entry = function.getFunctionBody().front();
  if (lastData && op->getBlock() == &entry &&
      (op == lastData || op->isBeforeInBlock(lastData)))
    return true;
  if (lastData)
    op->moveAfter(lastData);
  else
    op->moveBefore(&entry, entry.begin());
  lastData = op;
  return true;
}

void Folder::hoistData(const ChannelTransform &transform) {
  for (Value value : transform.data)
    hoistValue(value);
}

//===----------------------------------------------------------------------===//
// Upwards
//===----------------------------------------------------------------------===//

std::optional<OperandTransforms>
Folder::findWay(Value value, const ChannelTransform &transform) {
  auto op =
      dyn_cast_or_null<TransformCommuteOpInterface>(value.getDefiningOp());
  if (!op)
    return std::nullopt;
  SmallVector<OperandTransforms> ways;
  op.hoistTransform(transform, data, ways);
  for (OperandTransforms &way : ways)
    if (llvm::all_of(way, [&](const OperandTransform &entry) {
          // Reads of one value with one transform are produced together.
          Value value = entry.operand->get();
          int64_t numReads =
              llvm::count_if(way, [&](const OperandTransform &other) {
                return other.operand->get() == value &&
                       other.transform == entry.transform;
              });
          return canProduce(value, entry.transform, numReads);
        }))
      return std::move(way);
  return std::nullopt;
}

/// Whether a use is of the shape of a value only.
static bool isShapeUse(OpOperand &use) {
  if (isa<tensor::DimOp>(use.getOwner()))
    return true;
  auto op = dyn_cast<linalg::LinalgOp>(use.getOwner());
  return op && op.isDpsInit(&use) && op.getNumReductionLoops() == 0 &&
         op.getMatchingBlockArgument(&use).use_empty();
}

/// Whether the users of a value, `numReads` that are known, can have it
/// transformed without an op that is executed for it.
bool Folder::canProduce(Value value, const ChannelTransform &transform,
                        int64_t numReads) {
  if (isParameterLike(value))
    return true;
  auto plan = planned.find(value);
  if (plan != planned.end())
    return transform.isInverseOf(plan->second);
  if (std::optional<ChannelTransform> before =
          ChannelTransform::of(value.getDefiningOp());
      before && transform.isInverseOf(*before))
    return true;
  // Others would need the value as it is.
  return llvm::count_if(value.getUses(),
                        [](OpOperand &use) { return !isShapeUse(use); }) ==
             numReads &&
         findWay(value, transform).has_value();
}

/// What canProduce promised: a value that has the transform.
Value Folder::produce(Value value, const ChannelTransform &transform,
                      Operation *user) {
  Operation *op = value.getDefiningOp();
  if (isParameterLike(value)) {
    noteAbsorbed(value, transform);
    // Before the op that the user belongs to, which may be the body of a
    // linalg op.
    while (isa<linalg::LinalgOp, LinearOp>(user->getParentOp()))
      user = user->getParentOp();
    OpBuilder builder(user);
    return transform.apply(builder, value.getLoc(), value);
  }
  if (std::optional<ChannelTransform> before = ChannelTransform::of(op);
      before && transform.isInverseOf(*before))
    return cast<ChannelTransformOpInterface>(op).getInput();
  std::optional<OperandTransforms> way = findWay(value, transform);
  assert(way && "canProduce has found one");
  llvm::SmallMapVector<Value, Value, 2> produced;
  for (OperandTransform &entry : *way) {
    Value before = entry.operand->get();
    Operation *owner = entry.operand->getOwner();
    // A parameter is transformed at every place that reads it.
    if (isParameterLike(before)) {
      entry.operand->set(produce(before, entry.transform, owner));
      continue;
    }
    auto known = produced.find(before);
    if (known == produced.end())
      known = produced.insert({before, produce(before, entry.transform, owner)})
                  .first;
    entry.operand->set(known->second);
  }
  return value;
}

//===----------------------------------------------------------------------===//
// States
//===----------------------------------------------------------------------===//

/// Whether two slices of one tensor share no element, as far as constants tell.
static bool areDisjoint(OffsetSizeAndStrideOpInterface a,
                        OffsetSizeAndStrideOpInterface b) {
  if (!a.hasUnitStride() || !b.hasUnitStride())
    return false;
  for (auto [offsetA, sizeA, offsetB, sizeB] :
       llvm::zip_equal(a.getMixedOffsets(), a.getMixedSizes(),
                       b.getMixedOffsets(), b.getMixedSizes())) {
    std::optional<int64_t> beginA = getConstantIntValue(offsetA);
    std::optional<int64_t> extentA = getConstantIntValue(sizeA);
    std::optional<int64_t> beginB = getConstantIntValue(offsetB);
    std::optional<int64_t> extentB = getConstantIntValue(sizeB);
    if (beginA && extentA && beginB && extentB &&
        (*beginA + *extentA <= *beginB || *beginB + *extentB <= *beginA))
      return true;
  }
  return false;
}

/// An argument of the function that is returned after slices of it were
/// replaced is a state (a cache): its elements mean what the function makes of
/// them. If one op writes the slice that `use` goes to, that slice can hold
/// transformed values, and every read gets the transform.
bool Folder::crossState(OpOperand &use, const ChannelTransform &transform,
                        Crossing &crossing) {
  auto write = dyn_cast<tensor::InsertSliceOp>(use.getOwner());
  if (!changeState || !write || &use != &write.getSourceMutable() ||
      !transform.isLinear())
    return false;
  Value root = write.getDest();
  while (auto before = root.getDefiningOp<tensor::InsertSliceOp>())
    root = before.getDest();
  auto argument = dyn_cast<BlockArgument>(root);
  if (!argument || argument.getOwner() != &function.getFunctionBody().front())
    return false;
  // All versions of the state, from the argument on.
  bool isReturned = false;
  SmallVector<tensor::ExtractSliceOp> reads;
  SmallVector<Value> versions{root};
  while (!versions.empty()) {
    for (OpOperand &other : versions.pop_back_val().getUses()) {
      Operation *owner = other.getOwner();
      if (isa<tensor::DimOp>(owner))
        continue;
      if (owner->hasTrait<OpTrait::ReturnLike>() &&
          owner->getParentOp() == function) {
        isReturned = true;
        continue;
      }
      if (auto slice = dyn_cast<tensor::ExtractSliceOp>(owner)) {
        if (!llvm::all_of(slice->getUses(), isShapeUse))
          reads.push_back(slice);
        continue;
      }
      auto insert = dyn_cast<tensor::InsertSliceOp>(owner);
      if (!insert || &other != &insert.getDestMutable())
        return false;
      versions.push_back(insert.getResult());
      if (insert != write && !areDisjoint(insert, write))
        return false;
    }
  }
  if (!isReturned)
    return false;

  // The transform on the dimensions of the state.
  auto commute = cast<TransformCommuteOpInterface>(write.getOperation());
  OperandTransforms others;
  std::optional<ChannelTransform> onState;
  if (failed(commute.sinkTransform(use, transform, data, others, onState)))
    return false;
  for (tensor::ExtractSliceOp read : reads) {
    if (areDisjoint(read, write))
      continue;
    // Rows that other ops wrote have no transform.
    for (Value version = read.getSource(); version != root;) {
      auto insert = version.getDefiningOp<tensor::InsertSliceOp>();
      if (insert != write && !areDisjoint(insert, read))
        return false;
      version = insert.getDest();
    }
    auto slice = cast<TransformCommuteOpInterface>(read.getOperation());
    OperandTransforms none;
    std::optional<ChannelTransform> onRead;
    if (failed(slice.sinkTransform(read.getSourceMutable(), *onState, data,
                                   none, onRead)) ||
        !onRead)
      return false;
    crossing.reads.push_back({read.getResult(), *onRead});
  }
  crossing.state = argument;
  return true;
}

//===----------------------------------------------------------------------===//
// Downwards
//===----------------------------------------------------------------------===//

std::optional<Folder::Crossing>
Folder::cross(OpOperand &use, const ChannelTransform &transform) {
  Crossing crossing;
  if (isShapeUse(use))
    return crossing;
  if (std::optional<ChannelTransform> next =
          ChannelTransform::of(use.getOwner());
      next && next->isInverseOf(transform) && use.getOperandNumber() == 0)
    return crossing;
  auto op = dyn_cast<TransformCommuteOpInterface>(use.getOwner());
  if (!op || isParameterLike(op->getResult(0)))
    return std::nullopt;
  if (crossState(use, transform, crossing))
    return crossing;
  crossing = Crossing();
  if (failed(op.sinkTransform(use, transform, data, crossing.others,
                              crossing.result)))
    return std::nullopt;
  for (const OperandTransform &other : crossing.others)
    if (!canProduce(other.operand->get(), other.transform))
      return std::nullopt;
  return crossing;
}

Cost Folder::getCost(OpOperand &use, const ChannelTransform &transform) {
  std::optional<Crossing> crossing = cross(use, transform);
  if (!crossing)
    return {1, 0};
  Cost cost;
  // Cancelled or taken by other operands; neither by a sum that does not see
  // it nor by who looks at the shape.
  bool ends = !crossing->result && crossing->reads.empty();
  if (ends &&
      (!crossing->others.empty() || ChannelTransform::of(use.getOwner())))
    cost.absorbed = 1;
  if (crossing->result)
    cost = getCost(use.getOwner()->getResult(0), *crossing->result);
  for (auto &[read, readTransform] : crossing->reads) {
    Cost readCost = getCost(read, readTransform);
    cost.online += readCost.online;
    cost.absorbed += readCost.absorbed;
  }
  if (cost.online > 0 && cost.absorbed == 0)
    return {1, 0};
  crossed.insert(&use);
  return cost;
}

/// Of a value that has the transform behind it. Uses that it cannot cross share
/// one op.
Cost Folder::getCost(Value value, const ChannelTransform &transform) {
  auto [entry, inserted] = planned.try_emplace(value, transform);
  // Another way to a value that was counted before.
  if (!inserted)
    return entry->second == transform ? Cost{0, 0} : Cost{1, 0};
  Cost cost;
  bool isLeft = false;
  for (OpOperand &use : value.getUses()) {
    Cost useCost = getCost(use, transform);
    if (useCost.online > 0 && useCost.absorbed == 0) {
      isLeft = true;
      continue;
    }
    cost.online += useCost.online;
    cost.absorbed += useCost.absorbed;
  }
  cost.online += isLeft;
  return cost;
}

/// Plans to move transform ops down, each into the uses of its result that
/// absorb some of it.
Cost Folder::plan(ArrayRef<Operation *> ops) {
  planned.clear();
  crossed.clear();
  Cost total;
  for (Operation *op : ops) {
    Cost cost = getCost(op->getResult(0), *ChannelTransform::of(op));
    total.online += cost.online;
    total.absorbed += cost.absorbed;
  }
  planned.clear();
  return total;
}

/// Carries out the plan for an op.
void Folder::sink(Operation *op) {
  ChannelTransform transform = *ChannelTransform::of(op);
  Value input = cast<ChannelTransformOpInterface>(op).getInput();
  // Uses change while they are walked.
  SmallVector<OpOperand *> uses;
  for (OpOperand &use : op->getResult(0).getUses())
    if (crossed.contains(&use))
      uses.push_back(&use);
  for (OpOperand *use : llvm::reverse(uses))
    sinkUse(*use, input, transform);
  if (op->use_empty())
    op->erase();
  else
    leaveOnline(op);
}

/// The users of `value` get transform(value) instead, and that moves on.
void Folder::sinkResult(Value value, const ChannelTransform &transform) {
  OpBuilder builder(function.getContext());
  builder.setInsertionPointAfterValue(value);
  Operation *op =
      transform.apply(builder, value.getLoc(), value).getDefiningOp();
  value.replaceAllUsesExcept(op->getResult(0), op);
  sink(op);
}

void Folder::sinkUse(OpOperand &use, Value input,
                     const ChannelTransform &transform) {
  Operation *owner = use.getOwner();
  std::optional<Crossing> crossing = cross(use, transform);
  // What a sibling needed may have moved in the meantime.
  if (!crossing)
    return;
  if (ChannelTransform::of(owner) && !crossing->result &&
      crossing->others.empty() && use.getOperandNumber() == 0) {
    owner->getResult(0).replaceAllUsesWith(input);
    owner->erase();
    return;
  }
  use.set(input);
  for (OperandTransform &other : crossing->others)
    other.operand->set(produce(other.operand->get(), other.transform, owner));
  if (crossing->state) {
    current->changedState = true;
    function.setArgAttr(crossing->state.getArgNumber(), kChangedStateAttrName,
                        UnitAttr::get(function.getContext()));
  }
  for (auto &[read, readTransform] : crossing->reads)
    sinkResult(read, readTransform);
  if (crossing->result)
    sinkResult(owner->getResult(0), *crossing->result);
}

//===----------------------------------------------------------------------===//
// Reports
//===----------------------------------------------------------------------===//

void Folder::noteAbsorbed(Value parameter, const ChannelTransform &transform) {
  // The parameter at the root of the chain.
  while (Operation *op = parameter.getDefiningOp()) {
    if (auto get = dyn_cast<GetParameterOp>(op)) {
      current->absorbed[get.getParameter()] = transform.describe();
      return;
    }
    if (op->getNumOperands() == 0)
      return;
    parameter = op->getOperand(0);
  }
}

//===----------------------------------------------------------------------===//
// Driver
//===----------------------------------------------------------------------===//

void Folder::begin(Operation *op, bool isPair) {
  outcomes.emplace_back(Outcome{ChannelTransform::of(op)->describe(),
                                op->getLoc(),
                                {},
                                {},
                                isPair,
                                false,
                                false});
  current = &outcomes.back();
}

/// Leaves an op for good, so that the partner of a transform that was absorbed
/// is not absorbed by the same parameter the next time.
void Folder::leaveOnline(Operation *op) {
  op->setAttr(kOnlineAttrName, UnitAttr::get(op->getContext()));
  current->online.push_back(ChannelTransform::of(op)->describe());
}

/// A transform whose users are its inverse.
void Folder::foldPair(Operation *op) {
  begin(op, /*isPair=*/true);
  auto transformOp = cast<ChannelTransformOpInterface>(op);
  ChannelTransform transform = transformOp.getTransform();
  Value input = transformOp.getInput();
  SmallVector<Operation *> inverses(op->getUsers().begin(),
                                    op->getUsers().end());
  planned.clear();
  bool hoists = canProduce(input, transform);
  // Where the inverse cannot move, the pair is of no use; and more ops than
  // allowed must not be left.
  Cost cost = plan(inverses);
  if (cost.absorbed == 0 || cost.online + !hoists > maxOnline) {
    for (Operation *inverse : inverses) {
      inverse->getResult(0).replaceAllUsesWith(input);
      inverse->erase();
    }
    op->erase();
    current->removed = true;
    return;
  }
  if (hoists) {
    Value produced = produce(input, transform, op);
    op->getResult(0).replaceAllUsesWith(produced);
    op->erase();
  } else {
    leaveOnline(op);
  }
  for (Operation *inverse : inverses)
    sink(inverse);
}

/// A transform without a partner. Returns whether it has moved.
bool Folder::foldSingle(Operation *op) {
  auto transformOp = cast<ChannelTransformOpInterface>(op);
  ChannelTransform transform = transformOp.getTransform();
  begin(op, /*isPair=*/false);
  Cost cost = plan(op);
  if (cost.absorbed > 0 && cost.online <= maxOnline) {
    sink(op);
    return true;
  }
  if (canProduce(transformOp.getInput(), transform)) {
    Value produced = produce(transformOp.getInput(), transform, op);
    op->getResult(0).replaceAllUsesWith(produced);
    op->erase();
    return true;
  }
  outcomes.pop_back();
  return false;
}

void Folder::collect(SmallVectorImpl<Operation *> &pairs,
                     SmallVectorImpl<Operation *> &singles) {
  auto isPartner = [](Operation *a, Operation *b) {
    std::optional<ChannelTransform> first = ChannelTransform::of(a);
    std::optional<ChannelTransform> second = ChannelTransform::of(b);
    return first && second && !a->hasAttr(kOnlineAttrName) &&
           !b->hasAttr(kOnlineAttrName) && second->isInverseOf(*first);
  };
  function.walk([&](ChannelTransformOpInterface op) {
    ChannelTransform transform = op.getTransform();
    // What was absorbed; and nothing absorbs data that a program computes.
    if (isParameterLike(op.getInput()) || op->hasAttr(kOnlineAttrName) ||
        !llvm::all_of(transform.data, isParameterLike))
      return;
    hoistData(transform);
    bool isFirst =
        !op->use_empty() && llvm::all_of(op->getUses(), [&](OpOperand &use) {
          return use.getOperandNumber() == 0 && isPartner(op, use.getOwner());
        });
    Operation *before = op.getInput().getDefiningOp();
    if (isFirst)
      pairs.push_back(op);
    else if (!before || !isPartner(before, op))
      singles.push_back(op);
  });
  if (lastData)
    data.setInsertionPointAfter(lastData);
  else
    data.setInsertionPointToStart(&function.getFunctionBody().front());
}

void Folder::run() {
  // Transforms without a partner first: the gains of norms, which a rotation
  // cannot cross. What cannot move may do so when something else has moved.
  DenseSet<Operation *> stuck;
  for (bool changed = true; changed;) {
    changed = false;
    SmallVector<Operation *> pairs, singles;
    collect(pairs, singles);
    for (Operation *op : singles) {
      if (!stuck.insert(op).second)
        continue;
      changed = foldSingle(op);
      if (changed)
        break;
    }
    if (!changed && !pairs.empty()) {
      foldPair(pairs.front());
      changed = true;
    }
    if (changed)
      stuck.clear();
    else
      for (Operation *op : singles) {
        begin(op, /*isPair=*/false);
        leaveOnline(op);
      }
  }
  // Data for plans that were not carried out, and parameters that were copied.
  eraseUnusedData(function, /*constants=*/false);
  current = nullptr;
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct FoldTransforms
    : public quant_llm::impl::FoldTransformsBase<FoldTransforms> {
  using FoldTransformsBase::FoldTransformsBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registry
        .insert<arith::ArithDialect, linalg::LinalgDialect, math::MathDialect,
                tensor::TensorDialect, QuantLLMDialect>();
    registerTransformCommuteModels(registry);
  }

  void runOnOperation() override {
    auto module = dyn_cast<ModuleOp>(getOperation());
    if (!module)
      module = getOperation()->getParentOfType<ModuleOp>();
    if (maxOnline < 0) {
      emitOptionError("max-online")
          << "expected at least 0 but got " << int64_t(maxOnline);
      return signalPassFailure();
    }
    ParameterArchives archives;
    if (module &&
        failed(verifyReportFile(module, archives, reportFile, {}, [&] {
          return getOperation()->emitError() << kPassName << ": ";
        })))
      return signalPassFailure();
    llvm::json::Array entries;
    getOperation()->walk([&](FunctionOpInterface function) {
      if (function.isExternal() || !function.getFunctionBody().hasOneBlock())
        return;
      Folder folder(function, changeState, maxOnline);
      folder.run();
      for (const Outcome &outcome : folder.outcomes)
        report(function, outcome, entries);
    });
    if (!reportFile.empty() && failed(write(std::move(entries))))
      signalPassFailure();
  }

private:
  void report(FunctionOpInterface function, const Outcome &outcome,
              llvm::json::Array &entries) {
    using Arg = remark::detail::Remark::Arg;
    StringRef what = outcome.removed           ? "removed"
                     : !outcome.online.empty() ? "online"
                                               : "folded";
    if (outcome.removed)
      ++numRemoved;
    else if (outcome.online.empty())
      ++numFolded;
    numOnline += outcome.online.size();
    llvm::json::Array absorbed;
    std::string names;
    for (auto &[name, transform] : outcome.absorbed) {
      absorbed.push_back(
          llvm::json::Object{{"parameter", name}, {"transform", transform}});
      names += (names.empty() ? "" : ", ") + name.str();
    }
    remark::passed(outcome.loc,
                   remark::RemarkOpts::name(what).category(kPassName).function(
                       function.getName()))
        << Arg("transform", outcome.transform) << Arg("absorbed by", names)
        << Arg("online ops", int64_t(outcome.online.size()))
        << Arg("state changed", outcome.changedState ? "yes" : "no");
    llvm::json::Array online;
    for (const std::string &text : outcome.online)
      online.push_back(text);
    entries.push_back(llvm::json::Object{
        {"function", function.getName()},
        {"transform", outcome.transform},
        {"pair", outcome.isPair},
        {"outcome", what},
        {"absorbed", std::move(absorbed)},
        {"online", std::move(online)},
        {"state_changed", outcome.changedState},
    });
  }

  LogicalResult write(llvm::json::Array entries) {
    if (Status status = writeReport(
            reportFile, llvm::json::Object{{"transforms", std::move(entries)}});
        !status.ok())
      return getOperation()->emitError()
             << kPassName << ": " << status.message();
    return success();
  }
};

} // namespace
