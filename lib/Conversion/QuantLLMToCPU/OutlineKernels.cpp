//===- OutlineKernels.cpp - Structured ops to shared kernels --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Turns every linalg op on tensors, or a group of them that can run row by row
// (the parts of a softmax or of a normalization), into a `quant_llm.dispatch`
// of a function with loops on memrefs. Three reasons: a layer that occurs
// thirty times is compiled once, the rows of a group stay in the first cache,
// and the function that is left for bufferization is short.
//
//===----------------------------------------------------------------------===//

#include "KernelBuilder.h"
#include "KernelLibrary.h"
#include "SmallWork.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"
#include "quant-llm/Support/CheckedMath.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/OpenMP/OpenMPDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Transforms/RegionUtils.h"

#include "llvm/ADT/SetVector.h"

namespace quant_llm {
#define GEN_PASS_DEF_OUTLINEKERNELS
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Analysis of one op
//===----------------------------------------------------------------------===//

/// A check in a body, which the pass turns into one that any thread may do.
static bool isRequire(Operation &op) {
  auto call = dyn_cast<func::CallOp>(op);
  return call && call.getCallee() == kRequireFunction;
}

/// Whether the pass can write loops for `op`.
static bool canOutline(linalg::LinalgOp op) {
  if (!op.hasPureTensorSemantics() || op->getNumRegions() != 1 ||
      !op->getRegion(0).hasOneBlock())
    return false;
  // The extent of each loop must be that of some operand's dimension.
  for (unsigned loop = 0, e = op.getNumLoops(); loop < e; ++loop) {
    bool found = false;
    for (OpOperand &operand : op->getOpOperands())
      found |= op.getMatchingIndexingMap(&operand)
                   .getResultPosition(getAffineDimExpr(loop, op->getContext()))
                   .has_value();
    if (!found)
      return false;
  }
  for (OpOperand &init : op.getDpsInitsMutable()) {
    // Each element of a result must be written by one iteration of the parallel
    // loops.
    if (!op.getMatchingIndexingMap(&init).isProjectedPermutation())
      return false;
    for (unsigned loop = 0, e = op.getNumLoops(); loop < e; ++loop) {
      bool isParallel =
          op.getIteratorTypesArray()[loop] == utils::IteratorType::parallel;
      bool inMap = op.getMatchingIndexingMap(&init).isFunctionOfDim(loop);
      if (isParallel != inMap)
        return false;
    }
  }
  // The body: scalar ops, and reads of whole tensors at its top level.
  for (Operation &inner : *op.getBlock()) {
    if (inner.getNumRegions() != 0)
      return false;
    bool onTensor =
        llvm::any_of(inner.getOperandTypes(),
                     [](Type type) { return isa<ShapedType>(type); }) ||
        llvm::any_of(inner.getResultTypes(),
                     [](Type type) { return isa<ShapedType>(type); });
    if (onTensor && !isa<tensor::ExtractOp, tensor::DimOp>(inner))
      return false;
    if (auto dim = dyn_cast<tensor::DimOp>(inner))
      if (!dim.getConstantIndex())
        return false;
  }
  // Rows run on any thread and in any order, so nothing else may happen there.
  for (Operation &inner : op.getBlock()->without_terminator())
    if (!isMemoryEffectFree(&inner) && !isRequire(inner))
      return false;
  return llvm::all_of(op->getOperandTypes(), [](Type type) {
    return !isa<ShapedType>(type) || isa<RankedTensorType>(type);
  });
}

/// The number of leading results of `map` that are d0, d1, ...
static unsigned countLeadingIdentity(AffineMap map) {
  unsigned count = 0;
  while (count < map.getNumResults() && count < map.getNumDims() &&
         map.getResult(count) == getAffineDimExpr(count, map.getContext()))
    ++count;
  return count;
}

static unsigned countLeadingParallel(linalg::LinalgOp op) {
  unsigned count = 0;
  for (utils::IteratorType type : op.getIteratorTypesArray()) {
    if (type != utils::IteratorType::parallel)
      break;
    ++count;
  }
  return count;
}

/// Tensors that the body reads beside its arguments.
static SetVector<Value> getCaptured(linalg::LinalgOp op) {
  SetVector<Value> captured;
  getUsedValuesDefinedAbove(op->getRegions(), captured);
  return captured;
}

/// The value that every element of an init has before the op, if it is known.
static Value getSplatInit(Value init) {
  if (auto fill = init.getDefiningOp<linalg::FillOp>())
    return fill.value();
  return nullptr;
}

namespace {

/// What an index may be.
struct Interval {
  int64_t low;
  int64_t high;
};

} // namespace

/// The range of an integer in the body of `op`, as far as simple arithmetic on
/// constants and loop indices tells.
static std::optional<Interval> computeInterval(linalg::LinalgOp op, Value value,
                                               unsigned depth) {
  if (depth > 16)
    return std::nullopt;
  auto get = [&](Value operand) {
    return computeInterval(op, operand, depth + 1);
  };
  // Far below overflow, so that the sums and products here are exact.
  auto make = [](int64_t low, int64_t high) -> std::optional<Interval> {
    constexpr int64_t limit = int64_t(1) << 31;
    if (low < -limit || high > limit)
      return std::nullopt;
    return Interval{low, high};
  };
  APInt constant;
  if (matchPattern(value, m_ConstantInt(&constant))) {
    if (constant.getSignificantBits() > 32)
      return std::nullopt;
    return make(constant.getSExtValue(), constant.getSExtValue());
  }
  Operation *def = value.getDefiningOp();
  if (!def)
    return std::nullopt;
  if (auto index = dyn_cast<linalg::IndexOp>(def)) {
    int64_t extent = op.getStaticLoopRanges()[index.getDim()];
    if (ShapedType::isDynamic(extent))
      return std::nullopt;
    return make(0, extent - 1);
  }
  if (auto extend = dyn_cast<arith::ExtUIOp>(def)) {
    unsigned width = extend.getIn().getType().getIntOrFloatBitWidth();
    return width < 31 ? make(0, (int64_t(1) << width) - 1) : std::nullopt;
  }
  if (auto cast = dyn_cast<arith::IndexCastUIOp>(def)) {
    if (std::optional<Interval> inner = get(cast.getIn()))
      if (inner->low >= 0)
        return inner;
    unsigned width = cast.getIn().getType().isIndex()
                         ? 64
                         : cast.getIn().getType().getIntOrFloatBitWidth();
    return width < 31 ? make(0, (int64_t(1) << width) - 1) : std::nullopt;
  }
  if (isa<arith::IndexCastOp, arith::ExtSIOp>(def)) {
    std::optional<Interval> inner = get(def->getOperand(0));
    // A narrower type could wrap.
    return inner && inner->low >= 0 && inner->high < (int64_t(1) << 31) - 1
               ? inner
               : std::nullopt;
  }
  if (def->getNumOperands() != 2)
    return std::nullopt;
  std::optional<Interval> a = get(def->getOperand(0)),
                          b = get(def->getOperand(1));
  if (isa<arith::AndIOp>(def)) {
    if (b && b->low >= 0)
      return make(0, b->high);
    return a && a->low >= 0 ? make(0, a->high) : std::nullopt;
  }
  if (isa<arith::MinUIOp>(def) && (a || b)) {
    // The smaller one as an unsigned number.
    if (b && b->low >= 0)
      return make(0, a && a->low >= 0 ? std::min(a->high, b->high) : b->high);
    return a && a->low >= 0 ? make(0, a->high) : std::nullopt;
  }
  if (isa<arith::MinSIOp>(def) && (a || b)) {
    if (a && b)
      return make(std::min(a->low, b->low), std::min(a->high, b->high));
    // Bounded on one side only, which max(0, x) below may complete.
    Value other = def->getOperand(a ? 1 : 0);
    int64_t high = a ? a->high : b->high;
    if (auto max = other.getDefiningOp<arith::MaxSIOp>())
      for (Value bound : max->getOperands())
        if (std::optional<Interval> low = get(bound))
          return make(std::min(low->low, high), high);
    return std::nullopt;
  }
  if (isa<arith::MaxSIOp>(def) && (a || b)) {
    if (a && b)
      return make(std::max(a->low, b->low), std::max(a->high, b->high));
    Value other = def->getOperand(a ? 1 : 0);
    int64_t low = a ? a->low : b->low;
    if (auto min = other.getDefiningOp<arith::MinSIOp>())
      for (Value bound : min->getOperands())
        if (std::optional<Interval> high = get(bound))
          return make(low, std::max(low, high->high));
    return std::nullopt;
  }
  if (!a || !b || a->low < 0 || b->low < 0)
    return std::nullopt;
  if (isa<arith::AddIOp>(def))
    return make(a->low + b->low, a->high + b->high);
  if (isa<arith::MulIOp>(def)) {
    std::optional<int64_t> product = checkedMul(a->high, b->high);
    return product ? make(a->low * b->low, *product) : std::nullopt;
  }
  if (isa<arith::DivUIOp>(def) && b->low > 0)
    return make(a->low / b->high, a->high / b->low);
  if (isa<arith::RemUIOp>(def) && b->low > 0)
    return make(0, std::min(a->high, b->high - 1));
  if (isa<arith::ShRUIOp>(def))
    return make(0, a->high);
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Groups
//===----------------------------------------------------------------------===//

namespace {

/// Ops that one kernel executes, row by row over `rowLoops` outer loops.
struct Group {
  SmallVector<linalg::LinalgOp> ops;
  unsigned rowLoops = 0;
  /// Nothing with an effect on it may be moved across; set when the group must
  /// not grow.
  bool closed = false;

  bool contains(Operation *op) const {
    return llvm::any_of(ops, [&](linalg::LinalgOp member) {
      return member.getOperation() == op;
    });
  }
  linalg::LinalgOp last() const { return ops.back(); }
};

} // namespace

/// The number of outer loops that `op` can share with the members of `group`
/// that produce its operands; 0 if it cannot join.
static unsigned computeSharedLoops(const Group &group, linalg::LinalgOp op) {
  unsigned loops = std::min(group.rowLoops, countLeadingParallel(op));
  bool connected = false;
  for (OpOperand &operand : op->getOpOperands()) {
    auto producer = operand.get().getDefiningOp<linalg::LinalgOp>();
    if (!producer || !group.contains(producer))
      continue;
    // What a member accumulates into must be a buffer of its own.
    if (op.isDpsInit(&operand))
      return 0;
    connected = true;
    AffineMap written =
        producer.getIndexingMapMatchingResult(cast<OpResult>(operand.get()));
    loops =
        std::min({loops, countLeadingIdentity(written),
                  countLeadingIdentity(op.getMatchingIndexingMap(&operand))});
  }
  for (Value captured : getCaptured(op))
    if (Operation *producer = captured.getDefiningOp())
      if (group.contains(producer))
        return 0;
  // Every result must be written row by row as well.
  for (OpOperand &init : op.getDpsInitsMutable())
    loops =
        std::min(loops, countLeadingIdentity(op.getMatchingIndexingMap(&init)));
  return connected ? loops : 0;
}

/// True if everything outside the group that uses its results comes after `op`,
/// so that the group may be executed at the place of `op`.
static bool usersFollow(const Group &group, Operation *op) {
  for (linalg::LinalgOp member : group.ops)
    for (Operation *user : member->getUsers()) {
      Operation *ancestor = op->getBlock()->findAncestorOpInBlock(*user);
      if (!ancestor)
        return false;
      if (ancestor != op && !group.contains(ancestor) &&
          ancestor->isBeforeInBlock(op))
        return false;
    }
  return true;
}

static SmallVector<Group> formGroups(Block &block, bool fuse) {
  SmallVector<Group> groups;
  DenseMap<Operation *, unsigned> groupOf;
  for (Operation &operation : block) {
    auto op = dyn_cast<linalg::LinalgOp>(operation);
    if (!op || !canOutline(op))
      continue;
    // A fill that is only the start of other ops becomes a constant there.
    if (isa<linalg::FillOp>(op) &&
        llvm::all_of(op->getUses(), [](OpOperand &use) {
          auto user = dyn_cast<linalg::LinalgOp>(use.getOwner());
          return user && user.isDpsInit(&use) && canOutline(user);
        }))
      continue;
    std::optional<unsigned> best;
    if (fuse && !isa<linalg::FillOp>(op))
      for (Value operand : op->getOperands())
        if (Operation *producer = operand.getDefiningOp()) {
          auto it = groupOf.find(producer);
          if (it != groupOf.end() && (!best || it->second > *best))
            best = it->second;
        }
    if (best) {
      Group &group = groups[*best];
      unsigned loops = computeSharedLoops(group, op);
      if (loops > 0 && usersFollow(group, op)) {
        group.ops.push_back(op);
        group.rowLoops = loops;
        groupOf[op] = *best;
        continue;
      }
    }
    Group group;
    group.ops.push_back(op);
    group.rowLoops = countLeadingParallel(op);
    for (OpOperand &init : op.getDpsInitsMutable())
      group.rowLoops =
          std::min(group.rowLoops,
                   countLeadingIdentity(op.getMatchingIndexingMap(&init)));
    groupOf[op] = groups.size();
    groups.push_back(std::move(group));
  }
  return groups;
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

namespace {

struct KernelOptions {
  bool parallel;
  bool fastMath;
};

/// Writes the function of one group and the dispatch that calls it.
class KernelWriter {
public:
  KernelWriter(const Group &group, KernelLibrary &library,
               const KernelOptions &options)
      : group(group), library(library), options(options),
        builder(group.last()->getContext()), loc(group.last()->getLoc()) {}

  void run();

private:
  /// Where the elements of a tensor are while the kernel runs.
  struct Storage {
    /// A memref; null for a value per row.
    Value memref;
    /// The value in the current row.
    Value scalar;
    /// The memref holds one row only: the row loops are not among its indices.
    bool isRow = false;
  };

  void collectOperands();
  bool hasExtent(linalg::LinalgOp op, unsigned loop) const;
  void collectExtents(llvm::function_ref<void(Value)> addInput);
  Value mapCaptured(Value value);
  Type getArgumentType(Value value);
  void writeFunction();
  void writeRow(ValueRange rowIndices);
  void writeMember(linalg::LinalgOp op, ValueRange rowIndices);
  void writeLoops(linalg::LinalgOp op, SmallVectorImpl<Value> &indices,
                  unsigned position, ArrayRef<unsigned> order,
                  unsigned numParallel);
  SmallVector<Value> writeReduction(linalg::LinalgOp op,
                                    SmallVectorImpl<Value> &indices,
                                    ArrayRef<unsigned> loops,
                                    ValueRange carried);
  SmallVector<Value> writeBody(linalg::LinalgOp op, ArrayRef<Value> indices,
                               ValueRange carried);
  Value writeExtract(linalg::LinalgOp op, tensor::ExtractOp extract,
                     ArrayRef<Value> at);
  void writeRequire(ArrayRef<Value> arguments);
  Value getCallState();
  Value load(Value tensor, AffineMap map, ArrayRef<Value> indices);
  void store(linalg::LinalgOp op, unsigned result, ArrayRef<Value> indices,
             Value value);
  SmallVector<Value> computeIndices(AffineMap map, ArrayRef<Value> indices);
  OpFoldResult getExtent(linalg::LinalgOp op, unsigned loop);
  Value getExtentValue(linalg::LinalgOp op, unsigned loop);
  Value computeIsLarge();
  Value constantIndex(int64_t value) {
    return arith::ConstantIndexOp::create(builder, loc, value);
  }
  bool isInternal(OpResult result) const {
    return llvm::all_of(result.getUsers(),
                        [&](Operation *user) { return group.contains(user); });
  }

  const Group &group;
  KernelLibrary &library;
  KernelOptions options;
  OpBuilder builder;
  Location loc;
  unsigned rowLoops = 0;

  /// Operands of the dispatch, in the order of the arguments.
  SetVector<Value> inputs;
  SmallVector<Value> outputs;
  SmallVector<OpResult> outputResults;

  func::FuncOp kernel;
  DenseMap<Value, Storage> storage;
  /// Extents of loops that no buffer has.
  DenseMap<std::pair<Operation *, unsigned>, OpFoldResult> extents;
  /// Buffers of results, which their ops also read if they accumulate.
  DenseMap<Value, Value> outputBuffers;
  IRMapping scalars;

public:
  /// @{ What the kernel calls the runtime about.
  bool callsIndexFault = false;
  bool callsCheckFault = false;
  /// @}
};

} // namespace

void KernelWriter::collectOperands() {
  auto addInput = [&](Value value) {
    if (auto result = dyn_cast<OpResult>(value))
      if (group.contains(result.getOwner()))
        return;
    // Constants are part of the code.
    if (!isa<ShapedType>(value.getType()))
      if (matchPattern(value, m_Constant()))
        return;
    inputs.insert(value);
  };
  for (linalg::LinalgOp op : group.ops) {
    for (OpOperand *operand : op.getDpsInputOperands())
      addInput(operand->get());
    for (OpOperand &init : op.getDpsInitsMutable())
      if (op.payloadUsesValueFromOperand(&init))
        if (Value splat = getSplatInit(init.get()))
          addInput(splat);
    for (Value captured : getCaptured(op))
      addInput(captured);
    for (OpOperand &init : op.getDpsInitsMutable()) {
      OpResult result = op.getTiedOpResult(&init);
      if (isInternal(result)) {
        if (op.payloadUsesValueFromOperand(&init) && !getSplatInit(init.get()))
          addInput(init.get());
        continue;
      }
      Value buffer = init.get();
      // Ops that do not read the start values need only the space.
      if (auto fill = buffer.getDefiningOp<linalg::FillOp>())
        buffer = fill.output();
      else if (!op.payloadUsesValueFromOperand(&init) &&
               !buffer.getDefiningOp<tensor::EmptyOp>() &&
               !buffer.getDefiningOp<tensor::ExtractSliceOp>()) {
        // A slice is where the result shall be; anything else is not to be
        // overwritten, and as a destination it would be copied first.
        builder.setInsertionPoint(op);
        buffer = tensor::EmptyOp::create(
            builder, loc, tensor::getMixedSizes(builder, loc, buffer),
            cast<RankedTensorType>(buffer.getType()).getElementType());
      }
      outputs.push_back(buffer);
      outputResults.push_back(result);
    }
  }
  collectExtents(addInput);
}

/// Whether getExtent() will find the extent of a loop in a buffer.
bool KernelWriter::hasExtent(linalg::LinalgOp op, unsigned loop) const {
  for (OpOperand &operand : op->getOpOperands()) {
    std::optional<unsigned> position =
        op.getMatchingIndexingMap(&operand).getResultPosition(
            getAffineDimExpr(loop, op->getContext()));
    if (!position)
      continue;
    if (!cast<RankedTensorType>(operand.get().getType())
             .isDynamicDim(*position))
      return true;
    if (op.isDpsInit(&operand)) {
      if (!isInternal(op.getTiedOpResult(&operand)))
        return true;
      continue;
    }
    auto producer = operand.get().getDefiningOp<linalg::LinalgOp>();
    if (!producer || !group.contains(producer) ||
        !isInternal(cast<OpResult>(operand.get())))
      return true;
    if (hasExtent(
            producer,
            producer.getIndexingMapMatchingResult(cast<OpResult>(operand.get()))
                .getDimPosition(*position)))
      return true;
  }
  return false;
}

/// The extents of what exists in rows only are those of tensors that will have
/// no buffer; the kernel takes them as numbers.
void KernelWriter::collectExtents(llvm::function_ref<void(Value)> addInput) {
  for (linalg::LinalgOp op : group.ops)
    for (OpOperand &init : op.getDpsInitsMutable()) {
      AffineMap map = op.getMatchingIndexingMap(&init);
      for (unsigned i = 0; i < map.getNumResults(); ++i) {
        unsigned loop = map.getDimPosition(i);
        if (hasExtent(op, loop))
          continue;
        Value tensor = init.get();
        if (auto fill = tensor.getDefiningOp<linalg::FillOp>())
          tensor = fill.output();
        OpFoldResult extent;
        if (auto empty = tensor.getDefiningOp<tensor::EmptyOp>()) {
          extent = empty.getMixedSizes()[i];
        } else {
          builder.setInsertionPoint(op);
          extent = tensor::getMixedSize(builder, loc, tensor, i);
        }
        if (std::optional<int64_t> known = getConstantIntValue(extent))
          extent = builder.getIndexAttr(*known);
        else
          addInput(cast<Value>(extent));
        extents[{op, loop}] = extent;
      }
    }
}

/// Activations may be slices; parameters and constants are whole files' worth
/// of contiguous data, and knowing so makes their addressing cheaper.
Type KernelWriter::getArgumentType(Value value) {
  auto tensor = dyn_cast<RankedTensorType>(value.getType());
  if (!tensor)
    return value.getType();
  if (Operation *producer = value.getDefiningOp())
    if (isa<GetParameterOp, arith::ConstantOp>(producer))
      return MemRefType::get(tensor.getShape(), tensor.getElementType());
  SmallVector<int64_t> strides(tensor.getRank(), ShapedType::kDynamic);
  if (!strides.empty())
    strides.back() = 1;
  return MemRefType::get(tensor.getShape(), tensor.getElementType(),
                         StridedLayoutAttr::get(builder.getContext(),
                                                ShapedType::kDynamic, strides));
}

void KernelWriter::run() {
  // A loop must be left inside the rows for vectors to run along.
  rowLoops = group.rowLoops;
  unsigned deepest = 0;
  for (linalg::LinalgOp op : group.ops)
    deepest = std::max<unsigned>(deepest, op.getNumLoops());
  if (rowLoops == deepest && rowLoops > 0)
    --rowLoops;

  collectOperands();
  writeFunction();
  FlatSymbolRefAttr symbol = library.insertOrReuse(kernel);

  builder.setInsertionPoint(group.last());
  auto dispatch = DispatchOp::create(
      builder, loc,
      llvm::map_to_vector(outputs, [](Value v) { return v.getType(); }), symbol,
      inputs.getArrayRef(), outputs);
  for (auto [result, replacement] :
       llvm::zip_equal(outputResults, dispatch.getResults()))
    result.replaceUsesWithIf(replacement, [&](OpOperand &use) {
      return !group.contains(use.getOwner());
    });
  for (linalg::LinalgOp op : llvm::reverse(group.ops))
    op->erase();
}

void KernelWriter::writeFunction() {
  auto module = group.last()->getParentOfType<ModuleOp>();
  SmallVector<Type> types;
  for (Value input : inputs)
    types.push_back(getArgumentType(input));
  for (Value output : outputs)
    types.push_back(getArgumentType(output));
  bool anyReduction = llvm::any_of(group.ops, [](linalg::LinalgOp op) {
    return op.getNumReductionLoops() != 0;
  });
  builder.setInsertionPointToEnd(module.getBody());
  kernel = func::FuncOp::create(
      builder, loc,
      library.makeName(getKernelHint(loc, anyReduction ? "reduce" : "map")),
      builder.getFunctionType(types, {}));
  kernel.setPrivate();
  Block *entry = kernel.addEntryBlock();
  builder.setInsertionPointToStart(entry);

  for (auto [input, argument] : llvm::zip(inputs, entry->getArguments())) {
    if (isa<ShapedType>(input.getType()))
      storage[input].memref = argument;
    else
      scalars.map(input, argument);
  }
  for (auto [index, result] : llvm::enumerate(outputResults))
    outputBuffers[result] = entry->getArgument(inputs.size() + index);

  SmallVector<Value> rowExtents;
  for (unsigned loop = 0; loop < rowLoops; ++loop)
    rowExtents.push_back(getExtentValue(group.ops.front(), loop));

  // Rows of internal tensors, one set per thread.
  SmallVector<Value> scratch;
  auto allocateScratch = [&] {
    for (linalg::LinalgOp op : group.ops)
      for (OpOperand &init : op.getDpsInitsMutable()) {
        OpResult result = op.getTiedOpResult(&init);
        if (!isInternal(result))
          continue;
        auto type = cast<RankedTensorType>(result.getType());
        if (type.getRank() <= static_cast<int64_t>(rowLoops) && rowLoops > 0)
          continue; // one value per row
        AffineMap map = op.getMatchingIndexingMap(&init);
        SmallVector<int64_t> shape;
        SmallVector<Value> dynamic;
        for (unsigned i = rowLoops; i < map.getNumResults(); ++i) {
          OpFoldResult extent = getExtent(op, map.getDimPosition(i));
          if (std::optional<int64_t> size = getConstantIntValue(extent)) {
            shape.push_back(*size);
          } else {
            shape.push_back(ShapedType::kDynamic);
            dynamic.push_back(cast<Value>(extent));
          }
        }
        Storage &place = storage[result];
        place.memref = memref::AllocOp::create(
            builder, loc, MemRefType::get(shape, type.getElementType()),
            dynamic, builder.getI64IntegerAttr(64));
        place.isRow = true;
        scratch.push_back(place.memref);
      }
  };
  auto freeScratch = [&] {
    for (Value buffer : scratch)
      memref::DeallocOp::create(builder, loc, buffer);
  };

  Value zero = constantIndex(0), one = constantIndex(1);
  if (options.parallel && rowLoops > 0) {
    omp::ParallelOperands clauses;
    clauses.ifExpr = computeIsLarge();
    auto parallel = omp::ParallelOp::create(builder, loc, clauses);
    builder.createBlock(&parallel.getRegion());
    allocateScratch();
    // Every thread has to take part in the loop, so each row looks whether
    // there is memory for it.
    Value allocated =
        scratch.empty() ? Value() : areAllocated(builder, loc, scratch);
    auto workshare = omp::WsloopOp::create(builder, loc);
    freeScratch();
    omp::TerminatorOp::create(builder, loc);
    builder.createBlock(&workshare.getRegion());
    omp::LoopNestOperands nest;
    nest.loopLowerBounds.assign(rowLoops, zero);
    nest.loopUpperBounds.assign(rowExtents.begin(), rowExtents.end());
    nest.loopSteps.assign(rowLoops, one);
    nest.collapseNumLoops = builder.getI64IntegerAttr(rowLoops);
    auto loops = omp::LoopNestOp::create(builder, loc, nest);
    Block *body = builder.createBlock(&loops.getRegion());
    for (unsigned i = 0; i < rowLoops; ++i)
      body->addArgument(builder.getIndexType(), loc);
    auto yield = omp::YieldOp::create(builder, loc, ValueRange{});
    builder.setInsertionPoint(yield);
    if (allocated) {
      auto choice = scf::IfOp::create(builder, loc, allocated);
      builder.setInsertionPointToStart(choice.thenBlock());
    }
    writeRow(body->getArguments());
    builder.setInsertionPointToEnd(entry);
  } else {
    allocateScratch();
    SmallVector<Value> rows;
    for (unsigned i = 0; i < rowLoops; ++i) {
      auto loop = scf::ForOp::create(builder, loc, zero, rowExtents[i], one);
      builder.setInsertionPointToStart(loop.getBody());
      rows.push_back(loop.getInductionVar());
    }
    writeRow(rows);
    builder.setInsertionPointToEnd(entry);
    freeScratch();
  }
  func::ReturnOp::create(builder, loc);
}

/// An estimate of the work against the threshold.
Value KernelWriter::computeIsLarge() {
  Value total;
  for (linalg::LinalgOp op : group.ops) {
    int64_t cost = 1;
    for (Operation &inner : *op.getBlock())
      cost += isa_and_nonnull<math::MathDialect>(inner.getDialect()) ? 8 : 0;
    Value product = constantIndex(cost);
    for (unsigned loop = 0; loop < op.getNumLoops(); ++loop)
      product = arith::MulIOp::create(builder, loc, product,
                                      getExtentValue(op, loop));
    total =
        total ? arith::AddIOp::create(builder, loc, total, product).getResult()
              : product;
  }
  return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sge, total,
                               constantIndex(kLeastParallelLoop));
}

/// The extent of a loop, from a buffer that has it.
OpFoldResult KernelWriter::getExtent(linalg::LinalgOp op, unsigned loop) {
  if (OpFoldResult extent = extents.lookup({op, loop})) {
    if (auto value = dyn_cast<Value>(extent))
      return scalars.lookup(value);
    return extent;
  }
  std::optional<OpFoldResult> dynamic;
  for (OpOperand &operand : op->getOpOperands()) {
    std::optional<unsigned> position =
        op.getMatchingIndexingMap(&operand).getResultPosition(
            getAffineDimExpr(loop, op->getContext()));
    if (!position)
      continue;
    auto type = cast<RankedTensorType>(operand.get().getType());
    if (!type.isDynamicDim(*position))
      return builder.getIndexAttr(type.getDimSize(*position));
    if (dynamic)
      continue;
    Value buffer;
    bool isRow = false;
    if (op.isDpsInit(&operand)) {
      OpResult result = op.getTiedOpResult(&operand);
      buffer = outputBuffers.lookup(result);
      if (!buffer) {
        buffer = storage.lookup(result).memref;
        isRow = storage.lookup(result).isRow;
      }
    } else {
      auto it = storage.find(operand.get());
      if (it != storage.end()) {
        buffer = it->second.memref;
        isRow = it->second.isRow;
      }
      if (!buffer)
        buffer = outputBuffers.lookup(operand.get());
    }
    if (!buffer || (isRow && *position < rowLoops))
      continue;
    dynamic = memref::DimOp::create(builder, loc, buffer,
                                    *position - (isRow ? rowLoops : 0))
                  .getResult();
  }
  if (dynamic)
    return *dynamic;
  // An internal tensor: the extent is that of the loop which wrote it.
  for (OpOperand *operand : op.getDpsInputOperands()) {
    std::optional<unsigned> position =
        op.getMatchingIndexingMap(operand).getResultPosition(
            getAffineDimExpr(loop, op->getContext()));
    auto producer = operand->get().getDefiningOp<linalg::LinalgOp>();
    if (position && producer && group.contains(producer))
      return getExtent(
          producer,
          producer.getIndexingMapMatchingResult(cast<OpResult>(operand->get()))
              .getDimPosition(*position));
  }
  llvm_unreachable("canOutline() found an operand for every loop");
}

Value KernelWriter::getExtentValue(linalg::LinalgOp op, unsigned loop) {
  return getValueOrCreateConstantIndexOp(builder, loc, getExtent(op, loop));
}

void KernelWriter::writeRow(ValueRange rowIndices) {
  for (linalg::LinalgOp op : group.ops)
    writeMember(op, rowIndices);
}

void KernelWriter::writeMember(linalg::LinalgOp op, ValueRange rowIndices) {
  OpBuilder::InsertionGuard guard(builder);
  SmallVector<Value> indices(op.getNumLoops());
  llvm::copy(rowIndices, indices.begin());
  // Parallel loops outside, reductions inside, each in their order.
  SmallVector<unsigned> order;
  auto iterators = op.getIteratorTypesArray();
  for (unsigned loop = rowLoops; loop < op.getNumLoops(); ++loop)
    if (iterators[loop] == utils::IteratorType::parallel)
      order.push_back(loop);
  unsigned numParallel = order.size();
  for (unsigned loop = rowLoops; loop < op.getNumLoops(); ++loop)
    if (iterators[loop] != utils::IteratorType::parallel)
      order.push_back(loop);
  writeLoops(op, indices, 0, order, numParallel);
}

void KernelWriter::writeLoops(linalg::LinalgOp op,
                              SmallVectorImpl<Value> &indices,
                              unsigned position, ArrayRef<unsigned> order,
                              unsigned numParallel) {
  if (position < numParallel) {
    unsigned loop = order[position];
    Value extent = getExtentValue(op, loop);
    auto forOp = scf::ForOp::create(builder, loc, constantIndex(0), extent,
                                    constantIndex(1));
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(forOp.getBody());
    indices[loop] = forOp.getInductionVar();
    writeLoops(op, indices, position + 1, order, numParallel);
    return;
  }
  // The start values: a constant, or what the output holds.
  SmallVector<Value> carried;
  for (OpOperand &init : op.getDpsInitsMutable()) {
    if (!op.payloadUsesValueFromOperand(&init)) {
      Type type = cast<RankedTensorType>(init.get().getType()).getElementType();
      carried.push_back(
          arith::ConstantOp::create(builder, loc, builder.getZeroAttr(type)));
    } else if (Value splat = getSplatInit(init.get())) {
      carried.push_back(mapCaptured(splat));
    } else {
      OpResult result = op.getTiedOpResult(&init);
      AffineMap map = op.getMatchingIndexingMap(&init);
      SmallVector<Value> at = computeIndices(map, indices);
      if (Value buffer = outputBuffers.lookup(result))
        carried.push_back(memref::LoadOp::create(builder, loc, buffer, at));
      else
        carried.push_back(load(init.get(), map, indices));
    }
  }
  SmallVector<Value> values =
      writeReduction(op, indices, order.drop_front(numParallel), carried);
  for (auto [index, value] : llvm::enumerate(values))
    store(op, index, indices, value);
}

SmallVector<Value> KernelWriter::writeReduction(linalg::LinalgOp op,
                                                SmallVectorImpl<Value> &indices,
                                                ArrayRef<unsigned> loops,
                                                ValueRange carried) {
  if (loops.empty())
    return writeBody(op, indices, carried);
  Value extent = getExtentValue(op, loops.front());
  auto forOp = scf::ForOp::create(builder, loc, constantIndex(0), extent,
                                  constantIndex(1), carried);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(forOp.getBody());
  indices[loops.front()] = forOp.getInductionVar();
  SmallVector<Value> values = writeReduction(op, indices, loops.drop_front(),
                                             forOp.getRegionIterArgs());
  scf::YieldOp::create(builder, loc, values);
  return llvm::to_vector(ValueRange(forOp.getResults()));
}

/// A scalar from outside: an argument of the kernel, or a constant to copy.
Value KernelWriter::mapCaptured(Value value) {
  if (Value mapped = scalars.lookupOrNull(value))
    return mapped;
  return builder.clone(*value.getDefiningOp())
      ->getResult(cast<OpResult>(value).getResultNumber());
}

SmallVector<Value> KernelWriter::writeBody(linalg::LinalgOp op,
                                           ArrayRef<Value> indices,
                                           ValueRange carried) {
  IRMapping mapping;
  Block *body = op.getBlock();
  for (OpOperand *operand : op.getDpsInputOperands()) {
    BlockArgument argument = op.getMatchingBlockArgument(operand);
    if (argument.use_empty())
      continue;
    if (isa<ShapedType>(operand->get().getType()))
      mapping.map(argument, load(operand->get(),
                                 op.getMatchingIndexingMap(operand), indices));
    else
      mapping.map(argument, mapCaptured(operand->get()));
  }
  for (auto [argument, value] : llvm::zip(op.getRegionOutputArgs(), carried))
    mapping.map(argument, value);
  for (Value captured : getCaptured(op))
    if (!isa<ShapedType>(captured.getType()))
      mapping.map(captured, mapCaptured(captured));

  bool reduces = op.getNumReductionLoops() != 0;
  for (Operation &inner : body->without_terminator()) {
    if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
      mapping.map(index.getResult(), indices[index.getDim()]);
      continue;
    }
    if (auto extract = dyn_cast<tensor::ExtractOp>(inner)) {
      SmallVector<Value> at = llvm::map_to_vector(
          extract.getIndices(), [&](Value v) { return mapping.lookup(v); });
      mapping.map(extract.getResult(), writeExtract(op, extract, at));
      continue;
    }
    if (auto dim = dyn_cast<tensor::DimOp>(inner)) {
      mapping.map(dim.getResult(),
                  memref::DimOp::create(builder, loc,
                                        storage.lookup(dim.getSource()).memref,
                                        *dim.getConstantIndex()));
      continue;
    }
    if (isRequire(inner)) {
      writeRequire(llvm::map_to_vector(inner.getOperands(), [&](Value value) {
        return mapping.lookupOrDefault(value);
      }));
      continue;
    }
    Operation *copy = builder.clone(inner, mapping);
    // Sums in any order: that is what lets LLVM use vectors. NaN and infinity
    // keep their meaning, and a rounding to a smaller type is a part of it.
    if (options.fastMath && !isa<arith::TruncFOp>(copy))
      if (auto fast = dyn_cast<arith::ArithFastMathInterface>(copy)) {
        auto flags = arith::FastMathFlags::contract;
        if (reduces)
          flags = flags | arith::FastMathFlags::reassoc;
        copy->setAttr(
            fast.getFastMathAttrName(),
            arith::FastMathFlagsAttr::get(builder.getContext(), flags));
      }
  }
  return llvm::map_to_vector(
      body->getTerminator()->getOperands(),
      [&](Value value) { return mapping.lookupOrDefault(value); });
}

/// Reads an element at computed indices, unless one is out of range.
Value KernelWriter::writeExtract(linalg::LinalgOp op, tensor::ExtractOp extract,
                                 ArrayRef<Value> at) {
  Value buffer = storage.lookup(extract.getTensor()).memref;
  auto type = cast<RankedTensorType>(extract.getTensor().getType());
  SmallVector<std::pair<Value, Value>> doubtful; // index and extent
  for (auto [i, index] : llvm::enumerate(extract.getIndices())) {
    std::optional<Interval> interval = computeInterval(op, index, 0);
    if (interval && interval->low >= 0 && !type.isDynamicDim(i) &&
        interval->high < type.getDimSize(i))
      continue;
    doubtful.emplace_back(at[i],
                          memref::DimOp::create(builder, loc, buffer, i));
  }
  if (doubtful.empty())
    return memref::LoadOp::create(builder, loc, buffer, at);
  Value inside;
  for (auto [index, extent] : doubtful) {
    Value one = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ult,
                                      index, extent);
    inside = inside
                 ? arith::AndIOp::create(builder, loc, inside, one).getResult()
                 : one;
  }
  auto choice = scf::IfOp::create(builder, loc, type.getElementType(), inside,
                                  /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(&choice.getThenRegion().front());
  Value value = memref::LoadOp::create(builder, loc, buffer, at);
  scf::YieldOp::create(builder, loc, value);
  builder.setInsertionPointToStart(&choice.getElseRegion().front());
  // Which of several indices it is does not matter: the last will do.
  Type i64 = builder.getI64Type();
  Value state = getCallState();
  Value index =
      arith::IndexCastOp::create(builder, loc, i64, doubtful.back().first);
  Value extent =
      arith::IndexCastOp::create(builder, loc, i64, doubtful.back().second);
  func::CallOp::create(builder, loc, kIndexFaultFunction, TypeRange{},
                       ValueRange{state, index, extent});
  callsIndexFault = true;
  Value nothing = arith::ConstantOp::create(
      builder, loc, builder.getZeroAttr(type.getElementType()));
  scf::YieldOp::create(builder, loc, nothing);
  return choice.getResult(0);
}

/// Notes a check that failed, which the first of `arguments` is the number of
/// unless it is negative.
void KernelWriter::writeRequire(ArrayRef<Value> arguments) {
  Value none = arith::ConstantIntOp::create(builder, loc, 0, /*width=*/64);
  Value failed = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::sge,
                                       arguments.front(), none);
  auto choice = scf::IfOp::create(builder, loc, failed);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(choice.thenBlock());
  SmallVector<Value> noted{getCallState()};
  llvm::append_range(noted, arguments);
  func::CallOp::create(builder, loc, kCheckFaultFunction, TypeRange{}, noted);
  callsCheckFault = true;
}

Value KernelWriter::getCallState() {
  return LLVM::AddressOfOp::create(
      builder, loc, LLVM::LLVMPointerType::get(builder.getContext()),
      kCallState);
}

SmallVector<Value> KernelWriter::computeIndices(AffineMap map,
                                                ArrayRef<Value> indices) {
  SmallVector<Value> result;
  for (AffineExpr expr : map.getResults()) {
    if (auto dim = dyn_cast<AffineDimExpr>(expr)) {
      result.push_back(indices[dim.getPosition()]);
      continue;
    }
    if (auto constant = dyn_cast<AffineConstantExpr>(expr)) {
      result.push_back(constantIndex(constant.getValue()));
      continue;
    }
    result.push_back(affine::AffineApplyOp::create(
        builder, loc,
        AffineMap::get(map.getNumDims(), 0, expr, builder.getContext()),
        indices));
  }
  return result;
}

Value KernelWriter::load(Value tensor, AffineMap map, ArrayRef<Value> indices) {
  const Storage place = storage.lookup(tensor);
  if (place.scalar)
    return place.scalar;
  SmallVector<Value> at = computeIndices(map, indices);
  Value buffer = place.memref;
  if (!buffer)
    buffer = outputBuffers.lookup(tensor);
  if (place.isRow)
    at.erase(at.begin(), at.begin() + rowLoops);
  return memref::LoadOp::create(builder, loc, buffer, at);
}

void KernelWriter::store(linalg::LinalgOp op, unsigned result,
                         ArrayRef<Value> indices, Value value) {
  OpOperand *init = op.getDpsInitOperand(result);
  OpResult tied = op.getTiedOpResult(init);
  AffineMap map = op.getMatchingIndexingMap(init);
  SmallVector<Value> at = computeIndices(map, indices);
  Storage &place = storage[tied];
  if (place.memref) {
    if (place.isRow)
      at.erase(at.begin(), at.begin() + rowLoops);
    memref::StoreOp::create(builder, loc, value, place.memref, at);
    return;
  }
  if (Value buffer = outputBuffers.lookup(tied))
    memref::StoreOp::create(builder, loc, value, buffer, at);
  // Later members read one value per row from a register.
  if (rowLoops > 0 && map.getNumResults() <= rowLoops)
    place.scalar = value;
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

/// Reads of tensors in the bodies of ops that stay where they are: a wrong
/// index is noted, and 0 read, as it is in kernels. Returns whether there are
/// any.
static bool guardExtracts(func::FuncOp function) {
  SmallVector<tensor::ExtractOp> extracts;
  function.walk([&](tensor::ExtractOp op) {
    if (op->getParentOfType<linalg::LinalgOp>() && !op.getIndices().empty())
      extracts.push_back(op);
  });
  for (tensor::ExtractOp op : extracts) {
    OpBuilder builder(op);
    Location loc = op.getLoc();
    Value inside, index, extent;
    for (auto [i, at] : llvm::enumerate(op.getIndices())) {
      // The last wrong one is told, and the last one if all are right.
      Value size = tensor::DimOp::create(builder, loc, op.getTensor(), i);
      Value fits = arith::CmpIOp::create(builder, loc,
                                         arith::CmpIPredicate::ult, at, size);
      auto choose = [&](Value other, Value value) -> Value {
        return other ? arith::SelectOp::create(builder, loc, fits, other, value)
                           .getResult()
                     : value;
      };
      index = choose(index, at);
      extent = choose(extent, size);
      inside =
          inside ? arith::AndIOp::create(builder, loc, inside, fits).getResult()
                 : fits;
    }
    auto choice = scf::IfOp::create(builder, loc, op.getType(), inside,
                                    /*withElseRegion=*/true);
    op.replaceAllUsesWith(choice.getResult(0));
    builder.setInsertionPointToStart(choice.thenBlock());
    auto yield = scf::YieldOp::create(builder, loc, op.getResult());
    op->moveBefore(yield);
    builder.setInsertionPointToStart(choice.elseBlock());
    Type i64 = builder.getI64Type();
    Value state = LLVM::AddressOfOp::create(
        builder, loc, LLVM::LLVMPointerType::get(builder.getContext()),
        kCallState);
    func::CallOp::create(
        builder, loc, kIndexFaultFunction, TypeRange{},
        ValueRange{state, arith::IndexCastOp::create(builder, loc, i64, index),
                   arith::IndexCastOp::create(builder, loc, i64, extent)});
    Value nothing = arith::ConstantOp::create(
        builder, loc, builder.getZeroAttr(op.getType()));
    scf::YieldOp::create(builder, loc, nothing);
  }
  return !extracts.empty();
}

namespace {

struct OutlineKernels
    : public quant_llm::impl::OutlineKernelsBase<OutlineKernels> {
  using OutlineKernelsBase::OutlineKernelsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    KernelLibrary library(module);
    SmallVector<Block *> blocks;
    for (auto function : module.getOps<func::FuncOp>()) {
      if (function->hasAttr(kKernelAttrName))
        continue;
      function.walk([&](Operation *op) {
        if (isa<linalg::LinalgOp>(op))
          return WalkResult::skip();
        for (Region &region : op->getRegions())
          for (Block &block : region)
            blocks.push_back(&block);
        return WalkResult::advance();
      });
    }
    bool callsIndexFault = false, callsCheckFault = false;
    for (Block *block : blocks)
      for (const Group &group : formGroups(*block, fuse)) {
        KernelWriter writer(group, library, KernelOptions{parallel, fastMath});
        writer.run();
        callsIndexFault |= writer.callsIndexFault;
        callsCheckFault |= writer.callsCheckFault;
        ++numDispatches;
      }
    for (auto function : module.getOps<func::FuncOp>())
      if (!function->hasAttr(kKernelAttrName))
        callsIndexFault |= guardExtracts(function);
    // Fills that were the start of something.
    for (Block *block : blocks)
      for (Operation &op : llvm::make_early_inc_range(llvm::reverse(*block)))
        if (isa<linalg::FillOp>(op) && op.use_empty())
          op.erase();
    OpBuilder builder = OpBuilder::atBlockBegin(module.getBody());
    Type i64 = builder.getI64Type();
    Type pointer = LLVM::LLVMPointerType::get(&getContext());
    if ((callsIndexFault &&
         failed(getRuntimeFunction(
             module, kIndexFaultFunction,
             builder.getFunctionType({pointer, i64, i64}, {})))) ||
        (callsCheckFault &&
         failed(getRuntimeFunction(
             module, kCheckFaultFunction,
             builder.getFunctionType({pointer, i64, i64, i64}, {})))))
      return signalPassFailure();
    if ((callsIndexFault || callsCheckFault) &&
        !module.lookupSymbol(kCallState))
      LLVM::GlobalOp::create(builder, module.getLoc(), builder.getI8Type(),
                             /*isConstant=*/false, LLVM::Linkage::External,
                             kCallState, Attribute());
  }
};

} // namespace
