//===- FormBlocks.cpp - Form block and cross_block regions ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Which operations of a function belong to which block of the model? The only
// thing that a model of any front end says about it are the names of its
// parameters. They fix, for each operation, the earliest layer (the last layer
// whose parameters it depends on) and the latest one (the first layer that
// depends on it). Where these differ, as for the root mean square that opens
// the next layer but needs only the previous one, the boundary between the
// layers is put where the fewest values cross it: behind the hidden state.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

namespace quant_llm {
#define GEN_PASS_DEF_FORMBLOCKS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

#define DEBUG_TYPE "quant-llm-form-blocks"

namespace {

/// Not in any layer and before them.
constexpr int64_t kOutside = -1;

/// The text before and after the number of a layer in a parameter's name.
struct LayerPattern {
  std::string prefix, suffix;

  /// The layer that a name belongs to, if any.
  std::optional<int64_t> match(StringRef name) const {
    if (!name.consume_front(prefix))
      return std::nullopt;
    StringRef digits = name.take_while(llvm::isDigit);
    int64_t layer;
    // getAsInteger fails on an empty string and on overflow.
    if (!name.drop_front(digits.size()).starts_with(suffix) ||
        digits.getAsInteger(10, layer))
      return std::nullopt;
    return layer;
  }
};

/// Assigns the operations of a function's only block to layers.
class LayerAssignment {
public:
  LayerAssignment(Block &body, const LayerPattern &pattern)
      : body(body), pattern(pattern) {}

  LogicalResult compute();

  /// Layers are numbered 0 .. count-1 here; firstIndex is the model's number of
  /// the first one. Operations behind the last layer have the number count.
  int64_t count = 0;
  int64_t firstIndex = 0;
  int64_t getLayer(Operation *op) const { return layer.lookup(op); }

private:
  LogicalResult findParameters();
  LogicalResult findBounds();
  void cutBefore(int64_t next);
  unsigned countCrossing(ArrayRef<Operation *> candidates, size_t numBefore,
                         int64_t next) const;

  /// The operation of the function's block that holds `op`.
  Operation *getTopLevel(Operation *op) const {
    return body.findAncestorOpInBlock(*op);
  }
  SmallVector<Operation *> getUsers(Operation *op) const {
    SmallVector<Operation *> users;
    for (Operation *user : op->getUsers())
      users.push_back(getTopLevel(user));
    return users;
  }

  Block &body;
  const LayerPattern &pattern;
  SmallVector<Operation *> ops;
  /// Operands of an operation and values from above of its regions.
  DenseMap<Operation *, SetVector<Value>> inputs;
  /// Layers by the names of parameters, for operations that read any.
  DenseMap<Operation *, int64_t> named;
  /// Operations that read a parameter without a layer, and what follows from
  /// these and constants alone.
  DenseSet<Operation *> unnamed;
  /// Operations that depend on the function's arguments; the others make
  /// weights.
  DenseSet<Operation *> varying;
  /// What the first cut keeps in front of the layers: the embedding.
  DenseSet<Operation *> front;
  /// Bounds, and the choice between them.
  DenseMap<Operation *, int64_t> earliest, latest, layer;
};

} // namespace

LogicalResult LayerAssignment::findParameters() {
  llvm::MapVector<int64_t, Operation *> seen;
  DenseMap<Operation *, int64_t> indices;
  for (Operation &op : body.without_terminator()) {
    ops.push_back(&op);
    auto &values = inputs[&op];
    values.insert(op.operand_begin(), op.operand_end());
    getUsedValuesDefinedAbove(op.getRegions(), values);
    WalkResult result = op.walk([&](GetParameterOp get) {
      std::optional<int64_t> index = pattern.match(get.getParameter());
      if (!index) {
        unnamed.insert(&op);
        return WalkResult::advance();
      }
      auto [it, inserted] = indices.try_emplace(&op, *index);
      if (!inserted && it->second != *index) {
        get.emitOpError("expected one operation to use parameters of one "
                        "layer but got layers ")
            << it->second << " and " << *index;
        return WalkResult::interrupt();
      }
      seen.try_emplace(*index, get);
      return WalkResult::advance();
    });
    if (result.wasInterrupted())
      return failure();
  }
  if (seen.empty())
    return success();
  firstIndex = llvm::min_element(seen, llvm::less_first())->first;
  int64_t last = llvm::max_element(seen, llvm::less_first())->first;
  for (int64_t index = firstIndex; index != last; ++index)
    if (!seen.count(index))
      return seen.lookup(last)->emitOpError("expected consecutive layers but "
                                            "found no parameter of layer ")
             << index;
  count = last - firstIndex + 1;
  for (auto [op, index] : indices)
    named[op] = index - firstIndex;
  return success();
}

LogicalResult LayerAssignment::findBounds() {
  auto getEarliest = [&](Value value) {
    auto it = earliest.find(value.getDefiningOp());
    return it == earliest.end() ? kOutside : it->second;
  };
  auto getConflict = [&](Operation *op, int64_t parameter, int64_t depends) {
    return op->emitOpError("uses a parameter of layer ")
           << parameter + firstIndex << " but depends on layer "
           << depends + firstIndex
           << "; expected the layers to use their own parameters only";
  };
  DenseSet<Operation *> anchored;
  for (Operation *op : ops) {
    // The last layer whose parameters the operation depends on.
    int64_t bound = kOutside;
    for (Value input : inputs[op]) {
      bound = std::max(bound, getEarliest(input));
      Operation *def = input.getDefiningOp();
      if (!def || varying.contains(def) || !earliest.count(def))
        varying.insert(op);
    }
    if (auto it = named.find(op); it != named.end()) {
      if (bound > it->second)
        return getConflict(op, it->second, bound);
      bound = it->second;
      anchored.insert(op);
    }
    earliest[op] = bound;
    // What uses a weight is of the layer of the weight, and of no later one.
    for (Value input : inputs[op]) {
      Operation *def = input.getDefiningOp();
      if (!def || varying.contains(def))
        continue;
      int64_t weight = getEarliest(input);
      if (weight != kOutside) {
        if (weight != bound) {
          InFlightDiagnostic diag = getConflict(op, weight, bound);
          diag.attachNote(def->getLoc()) << "the parameter comes from here";
          return diag;
        }
        anchored.insert(op);
      } else if (unnamed.contains(def) && !varying.contains(op)) {
        unnamed.insert(op);
      }
    }
  }
  // The first layer that depends on an operation.
  for (Operation *op : llvm::reverse(ops)) {
    int64_t bound = count;
    for (Operation *user : getUsers(op))
      if (user != body.getTerminator())
        bound = std::min(bound, latest[user]);
    latest[op] = anchored.contains(op) ? earliest[op] : bound;
  }
  // Layer values that meet a parameter of no layer, and that no layer needs
  // again, are past the last layer (final norm, head).
  for (Operation *op : ops) {
    if (latest[op] != count || earliest[op] == kOutside)
      continue;
    for (Value input : inputs[op]) {
      Operation *def = input.getDefiningOp();
      if (def && (earliest[def] == count ||
                  (unnamed.contains(def) && earliest[def] == kOutside)))
        earliest[op] = count;
    }
    if (unnamed.contains(op))
      earliest[op] = count;
  }
  return success();
}

/// Values that are made before the boundary and used behind it, of those that
/// the choice of the first `numBefore` candidates can change.
unsigned LayerAssignment::countCrossing(ArrayRef<Operation *> candidates,
                                        size_t numBefore, int64_t next) const {
  DenseSet<Operation *> before(candidates.begin(),
                               candidates.begin() + numBefore);
  DenseSet<Operation *> behind(candidates.begin() + numBefore,
                               candidates.end());
  SetVector<Value> values;
  for (Operation *op : candidates) {
    values.insert(op->result_begin(), op->result_end());
    const SetVector<Value> &used = inputs.find(op)->second;
    values.insert(used.begin(), used.end());
  }
  unsigned crossing = 0;
  for (Value value : values) {
    Operation *def = value.getDefiningOp();
    // Values from outside the layers can be used everywhere.
    if (!def || behind.contains(def) ||
        (!before.contains(def) && earliest.lookup(def) == kOutside))
      continue;
    crossing += llvm::any_of(value.getUsers(), [&](Operation *user) {
      Operation *top = getTopLevel(user);
      if (top == body.getTerminator() || behind.contains(top))
        return true;
      return !before.contains(top) && latest.lookup(top) >= next;
    });
  }
  return crossing;
}

/// Puts the boundary in front of layer `next`: undecided operations that do not
/// depend on it are before or behind.
void LayerAssignment::cutBefore(int64_t next) {
  SmallVector<Operation *> candidates;
  if (next == 0) {
    // In front of the first layer, only what nothing but this layer uses may
    // move into it, and no constants.
    DenseSet<Operation *> onlyFirst;
    for (Operation *op : llvm::reverse(ops)) {
      if (earliest[op] != kOutside || latest[op] != 0)
        continue;
      if (llvm::all_of(getUsers(op), [&](Operation *user) {
            return user != body.getTerminator() &&
                   (onlyFirst.contains(user) || earliest[user] == 0);
          }))
        onlyFirst.insert(op);
    }
    for (Operation *op : ops) {
      if (onlyFirst.contains(op) &&
          (varying.contains(op) || unnamed.contains(op)))
        candidates.push_back(op);
    }
  } else {
    for (Operation *op : ops)
      if (!layer.contains(op) && earliest[op] != kOutside &&
          earliest[op] < next && latest[op] >= next)
        candidates.push_back(op);
  }

  // The first place with the fewest values, and on while one value is only
  // exchanged for another: an update of a cache or the sum that makes the
  // hidden state, but not the norm, which needs the hidden state twice. In
  // front of the first layer it is the last place with the fewest values,
  // behind the embedding, as the hidden state lives on beside all that follows.
  bool isFront = next == 0;
  size_t first = isFront && !candidates.empty();
  size_t best = first;
  unsigned fewest = countCrossing(candidates, first, next);
  for (size_t numBefore = first + 1; numBefore <= candidates.size();
       ++numBefore) {
    unsigned crossing = countCrossing(candidates, numBefore, next);
    if (crossing < fewest ||
        (crossing == fewest && (isFront || best == numBefore - 1))) {
      fewest = crossing;
      best = numBefore;
    }
  }
  for (auto [index, op] : llvm::enumerate(candidates)) {
    if (index >= best) {
      earliest[op] = next;
      continue;
    }
    layer[op] = next - 1;
    if (isFront)
      front.insert(op);
  }
}

LogicalResult LayerAssignment::compute() {
  if (failed(findParameters()))
    return failure();
  if (count == 0)
    return success();
  if (failed(findBounds()))
    return failure();
  for (int64_t next = 0; next <= count; ++next)
    cutBefore(next);
  for (Operation *op : ops)
    layer.try_emplace(op, earliest[op]);
  // What depends on no layer (constants, empty tensors, the parameter of the
  // final norm) goes with its users if they are all of one layer.
  for (Operation *op : llvm::reverse(ops)) {
    SmallVector<Operation *> users = getUsers(op);
    if (layer[op] != kOutside || front.contains(op) || users.empty() ||
        llvm::is_contained(users, body.getTerminator()))
      continue;
    int64_t common = layer[users.front()];
    if (llvm::all_of(users,
                     [&](Operation *user) { return layer[user] == common; }))
      layer[op] = common;
  }
  return success();
}

namespace {

struct FormBlocks : public quant_llm::impl::FormBlocksBase<FormBlocks> {
  using FormBlocksBase::FormBlocksBase;

  LogicalResult initialize(MLIRContext *context) override {
    auto [prefix, suffix] = StringRef(layerPattern).split("{}");
    if (!StringRef(layerPattern).contains("{}") || suffix.contains("{}"))
      return emitOptionError(context, "layer-pattern",
                             "expected '{}' once, in the place of the "
                             "layer's number, but got '" +
                                 layerPattern + "'");
    if (window < 0)
      return emitOptionError(context, "window",
                             "expected 0 (no cross_block) or a positive number "
                             "but got " +
                                 Twine(window));
    if (overlap < 0 || (window > 0 && overlap >= window))
      return emitOptionError(
          context, "overlap",
          "expected at least 0 and less than the window of " + Twine(window) +
              " blocks but got " + Twine(overlap));
    pattern = {prefix.str(), suffix.str()};
    return success();
  }

  void runOnOperation() override {
    WalkResult walked = getOperation()->walk<WalkOrder::PreOrder>(
        [&](FunctionOpInterface function) -> WalkResult {
          if (failed(formBlocks(function)))
            return failure();
          return WalkResult::skip();
        });
    if (walked.wasInterrupted())
      signalPassFailure();
  }

  LogicalResult formBlocks(FunctionOpInterface function);

  LayerPattern pattern;
};

/// Moves the operations of a layer into a new region operation that `create`
/// makes from the types of the results.
template <typename Create>
Operation *wrap(OpBuilder &builder, ArrayRef<Operation *> ops, Create create) {
  DenseSet<Operation *> members(ops.begin(), ops.end());
  auto isInside = [&](OpOperand &use) {
    for (Operation *op = use.getOwner(); op; op = op->getParentOp())
      if (members.contains(op))
        return true;
    return false;
  };
  SmallVector<Value> values;
  for (Operation *op : ops)
    for (Value value : op->getResults())
      if (!llvm::all_of(value.getUses(), isInside))
        values.push_back(value);

  Operation *region = create(ValueRange(values).getTypes());
  OpBuilder::InsertionGuard guard(builder);
  Block *body = builder.createBlock(&region->getRegion(0));
  for (Operation *op : ops)
    op->moveBefore(body, body->end());
  for (auto [value, result] : llvm::zip_equal(values, region->getResults()))
    value.replaceUsesWithIf(result,
                            [&](OpOperand &use) { return !isInside(use); });
  builder.setInsertionPointToEnd(body);
  YieldOp::create(builder, region->getLoc(), values);
  return region;
}

} // namespace

/// Assertions about the arguments stay in front of the layers, or move into one
/// with what they are about; their order is of no matter.
static bool isEffectFreeButForAsserts(Operation *op) {
  if (isMemoryEffectFree(op) || isa<cf::AssertOp>(op))
    return true;
  if (!op->hasTrait<OpTrait::HasRecursiveMemoryEffects>())
    return false;
  auto effects = dyn_cast<MemoryEffectOpInterface>(op);
  if (effects && !effects.hasNoEffect())
    return false;
  for (Region &region : op->getRegions())
    for (Operation &inner : region.getOps())
      if (!isEffectFreeButForAsserts(&inner))
        return false;
  return true;
}

LogicalResult FormBlocks::formBlocks(FunctionOpInterface function) {
  if (function.isExternal())
    return success();
  // Nothing to do, and nothing to demand, without parameters of layers.
  bool hasLayers = false;
  Operation *formed = nullptr, *effect = nullptr;
  function.getFunctionBody().walk([&](Operation *op) {
    if (auto get = dyn_cast<GetParameterOp>(op))
      hasLayers |= pattern.match(get.getParameter()).has_value();
    if (isa<BlockOp, CrossBlockOp>(op) && !formed)
      formed = op;
  });
  if (!hasLayers) {
    remark::missed(function.getLoc(), remark::RemarkOpts::name("no-layers")
                                          .category(DEBUG_TYPE)
                                          .function(function.getName()))
        << remark::reason("no parameter has a name like '{0}'",
                          layerPattern.getValue());
    return success();
  }
  if (formed)
    return formed->emitOpError("expected a function without blocks; run "
                               "quant-llm-inline-blocks before");
  if (!llvm::hasSingleElement(function.getFunctionBody()))
    return function.emitOpError("expected a function of one block but got ")
           << function.getFunctionBody().getBlocks().size()
           << "; blocks of layers can only be formed of structured code";
  Block &body = function.getFunctionBody().front();
  for (Operation &op : body.without_terminator()) {
    if (!isEffectFreeButForAsserts(&op)) {
      effect = &op;
      break;
    }
  }
  if (effect)
    return effect->emitOpError("has effects on memory; blocks of layers can "
                               "only be formed of operations on values");

  LayerAssignment assignment(body, pattern);
  if (failed(assignment.compute()))
    return failure();

  SmallVector<SmallVector<Operation *>> layers(assignment.count);
  SmallVector<Operation *> behind;
  for (Operation &op : body.without_terminator()) {
    int64_t layer = assignment.getLayer(&op);
    if (layer == assignment.count)
      behind.push_back(&op);
    else if (layer != kOutside)
      layers[layer].push_back(&op);
  }

  // The blocks follow what is outside; what is behind follows the blocks.
  OpBuilder builder(body.getTerminator());
  SmallVector<Operation *> blocks;
  for (auto [layer, ops] : llvm::enumerate(layers)) {
    int64_t index = assignment.firstIndex + layer;
    std::string name =
        (Twine(pattern.prefix) + Twine(index) + pattern.suffix).str();
    StringRef trimmed = StringRef(name).rtrim('.');
    blocks.push_back(wrap(builder, ops, [&](TypeRange types) -> Operation * {
      return BlockOp::create(builder, ops.front()->getLoc(), types, index,
                             trimmed);
    }));
  }
  if (window > 0)
    wrap(builder, blocks, [&](TypeRange types) -> Operation * {
      return CrossBlockOp::create(builder, blocks.front()->getLoc(), types,
                                  window, overlap);
    });
  for (Operation *op : behind)
    op->moveBefore(body.getTerminator());
  remark::passed(function.getLoc(), remark::RemarkOpts::name("blocks")
                                        .category(DEBUG_TYPE)
                                        .function(function.getName()))
      << "formed blocks" << remark::metric("blocks", assignment.count)
      << remark::metric("window", int64_t(window))
      << remark::metric("overlap", int64_t(overlap));
  return success();
}
