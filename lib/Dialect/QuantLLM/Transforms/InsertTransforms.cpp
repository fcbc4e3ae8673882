//===- InsertTransforms.cpp - Sites of transforms, and pairs at them ------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Numerics/Rotation.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/FileSystem.h"

#include <cmath>
#include <random>

namespace quant_llm {
#define GEN_PASS_DEF_INSERTTRANSFORMS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-insert-transforms";

//===----------------------------------------------------------------------===//
// Kinds
//===----------------------------------------------------------------------===//

static constexpr std::pair<TransformSiteKind, StringLiteral> kSiteNames[] = {
    {TransformSiteKind::NormAttention, "norm-attention"},
    {TransformSiteKind::NormMLP, "norm-mlp"},
    {TransformSiteKind::NormHead, "norm-head"},
    {TransformSiteKind::UpDown, "up-down"},
    {TransformSiteKind::ValueOutput, "value-output"},
    {TransformSiteKind::Residual, "residual"},
    {TransformSiteKind::QueryKey, "query-key"},
};

StringRef quant_llm::getSiteKindName(TransformSiteKind kind) {
  for (const auto &[known, name] : kSiteNames)
    if (known == kind)
      return name;
  return "";
}

std::optional<TransformSiteKind>
quant_llm::parseTransformSiteKind(StringRef name) {
  for (const auto &[kind, known] : kSiteNames)
    if (known == name)
      return kind;
  return std::nullopt;
}

std::string TransformSite::getName() const {
  // Of a stream there is no parameter that comes first.
  if (kind == TransformSiteKind::Residual)
    return "residual";
  if (consumers.empty())
    return "";
  LinearOp linear = consumers.front();
  ParameterOp parameter = getParameterOf(linear.getWeights().front());
  return parameter ? parameter.getSymName().str() : "";
}

//===----------------------------------------------------------------------===//
// Structure
//===----------------------------------------------------------------------===//

/// A pointwise op: a result element depends on one element of each operand,
/// which may be repeated.
static bool isPointwise(Operation *op) {
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op))
    return linalgOp.hasPureTensorSemantics() &&
           linalgOp.getNumReductionLoops() == 0;
  return op->hasTrait<OpTrait::Elementwise>() ||
         isa<tensor::CastOp, ScaleChannelsOp, ShiftChannelsOp>(op);
}

static bool isReduction(Operation *op) {
  auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
  return linalgOp && linalgOp.getNumReductionLoops() > 0 &&
         linalgOp.getNumDpsInputs() == 1;
}

/// A product of two tensors that are both computed.
static bool isContraction(Operation *op) {
  auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
  return linalgOp && linalgOp.getNumReductionLoops() > 0 &&
         linalgOp.getNumDpsInputs() == 2;
}

/// The inputs of an op that carry data.
static SmallVector<Value> getInputs(Operation *op) {
  SmallVector<Value> inputs;
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op)) {
    for (OpOperand *operand : linalgOp.getDpsInputOperands())
      inputs.push_back(operand->get());
  } else if (auto transform = dyn_cast<ChannelTransformOpInterface>(op)) {
    inputs.push_back(transform.getInput());
  } else {
    llvm::append_range(inputs, op->getOperands());
  }
  return inputs;
}

/// What pointwise ops compute a value of.
static llvm::SetVector<Value> getLeaves(Value value) {
  llvm::SetVector<Value> leaves, seen;
  SmallVector<Value> pending{value};
  while (!pending.empty()) {
    Value next = pending.pop_back_val();
    if (!seen.insert(next))
      continue;
    Operation *op = next.getDefiningOp();
    if (op && isPointwise(op))
      llvm::append_range(pending, getInputs(op));
    else if (isa<RankedTensorType>(next.getType()))
      leaves.insert(next);
  }
  return leaves;
}

/// Whether a value is x, or something pointwise of x, combined with a reduction
/// of x.
static bool isNormOutput(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op || !isPointwise(op))
    return false;
  llvm::SetVector<Value> leaves = getLeaves(value);
  return llvm::any_of(leaves, [&](Value leaf) {
    Operation *reduction = leaf.getDefiningOp();
    if (!reduction || !isReduction(reduction))
      return false;
    llvm::SetVector<Value> reduced = getLeaves(getInputs(reduction).front());
    return llvm::any_of(reduced, [&](Value x) { return leaves.contains(x); });
  });
}

/// What the results of a linear end in, without passing another linear.
static TransformSiteKind getNormKind(ArrayRef<LinearOp> consumers) {
  bool reachesLinear = false;
  llvm::SetVector<Operation *> seen;
  SmallVector<Operation *> pending(consumers.begin(), consumers.end());
  while (!pending.empty()) {
    for (Operation *user : pending.pop_back_val()->getUsers()) {
      if (!seen.insert(user))
        continue;
      if (isContraction(user))
        return TransformSiteKind::NormAttention;
      if (isa<LinearOp>(user))
        reachesLinear = true;
      else if (!isReduction(user))
        pending.push_back(user);
    }
  }
  return reachesLinear ? TransformSiteKind::NormMLP
                       : TransformSiteKind::NormHead;
}

/// A transform without effect, to follow channels by the rules of commuting.
static ChannelTransform getProbe(int64_t dim) {
  ChannelTransform probe;
  probe.kind = TransformKind::Rotate;
  probe.hadamard = 1;
  probe.dims = {dim};
  return probe;
}

static SmallVector<OperandTransforms> getWays(Value value,
                                              const ChannelTransform &probe) {
  SmallVector<OperandTransforms> ways;
  auto op =
      dyn_cast_or_null<TransformCommuteOpInterface>(value.getDefiningOp());
  if (op) {
    // A probe has no data that an op would have to be made for.
    OpBuilder builder(op);
    op.hoistTransform(probe, builder, ways);
  }
  return ways;
}

/// The source of a reshape that leaves the last dimension as it is, or none.
static Value getReshapedRows(Operation *op) {
  if (!isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op))
    return {};
  Value source = op->getOperand(0);
  auto before = cast<RankedTensorType>(source.getType());
  auto after = cast<RankedTensorType>(op->getResultTypes()[0]);
  if (before.getRank() == 0 || after.getRank() == 0)
    return {};
  int64_t size = before.getShape().back();
  bool isKept = !ShapedType::isDynamic(size) && size == after.getShape().back();
  return isKept ? source : Value();
}

/// Whether scaling the outputs of one linear, perhaps with a bias or another
/// factor from parameters, scales the last dimension of `value`.
static bool isScaledByLinear(Value value) {
  ChannelTransform last;
  last.dims = {cast<RankedTensorType>(value.getType()).getRank() - 1};
  llvm::DenseSet<Value> seen;
  SmallVector<std::pair<Value, ChannelTransform>> pending{{value, last}};
  while (!pending.empty()) {
    auto [next, scale] = pending.pop_back_val();
    Operation *op = next.getDefiningOp();
    auto type = dyn_cast<RankedTensorType>(next.getType());
    if (!op || !type || !seen.insert(next).second)
      continue;
    const bool isLast =
        scale.dims.size() == 1 && scale.dims.front() == type.getRank() - 1;
    if (isa<LinearOp>(op) && isLast)
      return true;
    if (Value source = getReshapedRows(op); source && isLast) {
      last.dims = {cast<RankedTensorType>(source.getType()).getRank() - 1};
      pending.emplace_back(source, last);
      continue;
    }
    // Others may look at the data of the scale, which has none.
    if (!isPointwise(op))
      continue;
    for (const OperandTransforms &way : getWays(next, scale)) {
      SmallVector<std::pair<Value, ChannelTransform>> computed;
      for (const OperandTransform &entry : way)
        if (!isParameterLike(entry.operand->get()))
          computed.emplace_back(entry.operand->get(), entry.transform);
      if (computed.size() == 1)
        pending.push_back(computed.front());
    }
  }
  return false;
}

/// Whether `value` is a product of which scaling the outputs of one linear
/// scales one side.
static bool isProductWithLinear(Value value) {
  if (auto linear = value.getDefiningOp<LinearOp>())
    return linear.getWeights().size() == 2;
  Operation *op = value.getDefiningOp();
  if (!op || !isPointwise(op))
    return false;
  llvm::SetVector<Value> leaves = getLeaves(value);
  leaves.remove_if(isParameterLike);
  return leaves.size() > 1 && isScaledByLinear(value);
}

/// The slice of a state that a read gets, before it was written.
static Value getWrittenSlice(tensor::ExtractSliceOp read) {
  auto write = read.getSource().getDefiningOp<tensor::InsertSliceOp>();
  return write ? write.getSource() : Value();
}

/// Follows the last dimension of the input of a linear up to another linear,
/// through a contraction. Returns the result of that linear.
static Value findValues(LinearOp output, int64_t &headSize) {
  Value value = output.getInput();
  ChannelTransform probe =
      getProbe(cast<RankedTensorType>(value.getType()).getRank() - 1);
  headSize = 0;
  for (int steps = 0; steps < 64; ++steps) {
    Operation *op = value.getDefiningOp();
    if (!op)
      return {};
    if (isa<LinearOp>(op))
      return headSize > 0 ? value : Value();
    auto type = cast<RankedTensorType>(value.getType());
    if (isContraction(op))
      headSize = type.getDimSize(probe.dims.front());
    if (auto read = dyn_cast<tensor::ExtractSliceOp>(op)) {
      // From the dimensions of the read slice to those of the state, and on to
      // those of what was written: a state has its channels in one dimension.
      SmallVector<OperandTransforms> ways = getWays(value, probe);
      Value written = getWrittenSlice(read);
      if (ways.empty() || !written)
        return {};
      auto write = read.getSource().getDefiningOp<tensor::InsertSliceOp>();
      SmallVector<OperandTransforms> writeWays =
          getWays(write.getResult(), ways.front().front().transform);
      if (writeWays.empty())
        return {};
      probe = writeWays.front().front().transform;
      value = written;
      continue;
    }
    SmallVector<OperandTransforms> ways = getWays(value, probe);
    const OperandTransform *next = nullptr;
    for (const OperandTransforms &way : ways) {
      for (const OperandTransform &entry : way)
        if (!isParameterLike(entry.operand->get()) && !next)
          next = &entry;
      if (next)
        break;
    }
    if (!next)
      return {};
    probe = next->transform;
    value = next->operand->get();
  }
  return {};
}

/// The result of a rotary embedding that is a factor of a contraction: through
/// views, what scales it, and the state that it is written to (`isState`).
static Value findRotated(Value value, bool &isState) {
  isState = false;
  for (int steps = 0; steps < 64; ++steps) {
    Operation *op = value.getDefiningOp();
    if (!op)
      return {};
    if (isa<tensor::InsertSliceOp>(op))
      return matchRotaryEmbedding(value) ? value : Value();
    if (auto read = dyn_cast<tensor::ExtractSliceOp>(op)) {
      Value written = getWrittenSlice(read);
      if (written)
        isState = true;
      value = written ? written : read.getSource();
      continue;
    }
    if (!isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op) &&
        !isPointwise(op))
      return {};
    SmallVector<Value> tensors =
        llvm::filter_to_vector(getInputs(op), [](Value input) {
          return isa<RankedTensorType>(input.getType()) &&
                 !isParameterLike(input);
        });
    if (isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op))
      value = op->getOperand(0);
    else if (tensors.size() == 1)
      value = tensors.front();
    else
      return {};
  }
  return {};
}

/// The site of the keys that a contraction multiplies with queries, both of
/// them rotated.
static std::optional<TransformSite> findQueryKey(Operation *contraction) {
  SmallVector<Value> inputs = getInputs(contraction);
  bool isState[2];
  Value rotated[2];
  for (int i : {0, 1}) {
    rotated[i] = findRotated(inputs[i], isState[i]);
    if (!rotated[i])
      return std::nullopt;
  }
  // Both could be transformed, if none is a state.
  Value keys = rotated[isState[0] && !isState[1] ? 0 : 1];
  RotaryEmbedding rotary = *matchRotaryEmbedding(keys);
  auto type = cast<RankedTensorType>(keys.getType());
  if (rotated[0] == rotated[1] || rotary.dim != type.getRank() - 1)
    return std::nullopt;
  TransformSite site{TransformSiteKind::QueryKey, keys, {}, 0};
  site.block = site.getChannels();
  // The linear behind, perhaps through a norm of each head, whose gain has no
  // numbers for single heads.
  bool isDirect = true;
  Value value = rotary.source;
  if (auto expand = value.getDefiningOp<tensor::ExpandShapeOp>()) {
    ReassociationIndices heads = expand.getReassociationIndices().back();
    for (int64_t dim = 0; dim + 1 < type.getRank(); ++dim)
      if (heads.size() == 2 && rotary.sourceDims[dim] == heads.front())
        site.headDim = dim;
  }
  SmallVector<Value> pending{value};
  llvm::SetVector<Value> seen;
  while (!pending.empty() && site.consumers.empty()) {
    Value next = pending.pop_back_val();
    Operation *op = next.getDefiningOp();
    if (!op || !seen.insert(next))
      continue;
    if (auto linear = dyn_cast<LinearOp>(op)) {
      site.consumers.push_back(linear);
      continue;
    }
    isDirect &= !isReduction(op);
    for (Value input : getInputs(op))
      if (isa<RankedTensorType>(input.getType()))
        pending.push_back(input);
  }
  if (!isDirect)
    site.headDim.reset();
  if (site.consumers.empty())
    return std::nullopt;
  return site;
}

/// The x and y of x + y, two tensors of one shape, perhaps with parameters
/// (a bias) besides; empty for anything else.
static SmallVector<Value> getSummands(Operation *op) {
  if (op->getNumResults() != 1)
    return {};
  if (isa<arith::AddFOp, linalg::AddOp>(op)) {
    SmallVector<Value> inputs = getInputs(op);
    if (!isa<RankedTensorType>(op->getResult(0).getType()) ||
        inputs.size() != 2 || inputs[0].getType() != inputs[1].getType())
      return {};
    return inputs;
  }
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic || !isPointwise(op))
    return {};
  // Every input once.
  llvm::SetVector<Value> added;
  SmallVector<Value> pending{generic.getBody()->getTerminator()->getOperand(0)};
  while (!pending.empty()) {
    Value value = pending.pop_back_val();
    if (auto add = value.getDefiningOp<arith::AddFOp>())
      pending.append({add.getLhs(), add.getRhs()});
    else if (!isa<BlockArgument>(value) || !added.insert(value))
      return {};
  }
  SmallVector<Value> summands;
  for (OpOperand *input : generic.getDpsInputOperands()) {
    if (!added.contains(generic.getMatchingBlockArgument(input)))
      return {};
    if (isParameterLike(input->get()))
      continue;
    if (!generic.getMatchingIndexingMap(input).isIdentity())
      return {};
    summands.push_back(input->get());
  }
  if (added.size() != static_cast<size_t>(generic.getNumDpsInputs()) ||
      summands.size() != 2 || summands[0].getType() != summands[1].getType())
    return {};
  return summands;
}

/// The start of a residual stream that `add` adds a linear's result to.
static Value findStream(Operation *add) {
  SmallVector<Value> inputs = getSummands(add);
  if (inputs.empty())
    return {};
  // A linear, perhaps with a bias.
  auto isWriter = [](Value value) {
    llvm::SetVector<Value> leaves = getLeaves(value);
    leaves.remove_if(isParameterLike);
    return leaves.size() == 1 && leaves.front().getDefiningOp<LinearOp>();
  };
  for (auto [stream, update] :
       {std::pair(inputs[0], inputs[1]), std::pair(inputs[1], inputs[0])}) {
    if (!isWriter(update) || isWriter(stream))
      continue;
    if (Operation *before = stream.getDefiningOp())
      if (Value start = findStream(before))
        return start;
    return stream;
  }
  return {};
}

SmallVector<TransformSite>
quant_llm::findTransformSites(FunctionOpInterface function) {
  SmallVector<TransformSite> sites;
  llvm::MapVector<Value, SmallVector<LinearOp>> readers;
  llvm::SetVector<Value> streams, rotatedKeys;
  function.walk([&](Operation *op) {
    if (auto linear = dyn_cast<LinearOp>(op)) {
      // Data of transforms are no part of the model.
      if (!isParameterLike(linear.getResult()))
        readers[linear.getInput()].push_back(linear);
    } else if (Value stream = findStream(op)) {
      streams.insert(stream);
    } else if (isContraction(op)) {
      std::optional<TransformSite> site = findQueryKey(op);
      if (site && rotatedKeys.insert(site->value))
        sites.push_back(std::move(*site));
    }
  });
  auto hasChannels = [](Value value) {
    auto type = cast<RankedTensorType>(value.getType());
    return type.getRank() > 0 && !type.isDynamicDim(type.getRank() - 1);
  };
  for (Value stream : streams) {
    if (!hasChannels(stream))
      continue;
    TransformSite site{TransformSiteKind::Residual, stream, {}, 0};
    site.block = site.getChannels();
    sites.push_back(std::move(site));
  }
  for (auto &[value, linears] : readers) {
    TransformSite site{TransformSiteKind::NormHead, value, linears, 0};
    site.block = site.getChannels();
    if (isNormOutput(value)) {
      site.kind = getNormKind(linears);
      sites.push_back(std::move(site));
      continue;
    }
    if (isProductWithLinear(value)) {
      site.kind = TransformSiteKind::UpDown;
      sites.push_back(std::move(site));
      continue;
    }
    int64_t headSize = 0;
    if (Value values = findValues(linears.front(), headSize)) {
      site.kind = TransformSiteKind::ValueOutput;
      site.value = values;
      site.block = headSize;
      if (hasChannels(values) && site.getChannels() % headSize == 0)
        sites.push_back(std::move(site));
    }
  }
  return sites;
}

//===----------------------------------------------------------------------===//
// Gains
//===----------------------------------------------------------------------===//

/// The product that a parameter enters as a factor of the yielded value: the
/// only use of the block argument, perhaps after a widening.
static arith::MulFOp getGainProduct(BlockArgument gain) {
  Value value = gain;
  if (!value.hasOneUse())
    return {};
  if (auto widened = dyn_cast<arith::ExtFOp>(*value.getUsers().begin())) {
    value = widened.getOut();
    if (!value.hasOneUse())
      return {};
  }
  return dyn_cast<arith::MulFOp>(*value.getUsers().begin());
}

/// Whether a linear reads the value, not only a contraction behind it: norms of
/// queries and keys are no norms of the stream.
static bool reachesLinear(Value value) {
  llvm::SetVector<Operation *> seen;
  SmallVector<Value> pending{value};
  while (!pending.empty())
    for (Operation *user : pending.pop_back_val().getUsers()) {
      if (isa<LinearOp>(user))
        return true;
      if (seen.insert(user) && !isContraction(user) && !isReduction(user))
        llvm::append_range(pending, user->getResults());
    }
  return false;
}

int64_t quant_llm::extractNormGains(FunctionOpInterface function) {
  SmallVector<std::pair<linalg::GenericOp, unsigned>> found;
  function.walk([&](linalg::GenericOp op) {
    if (op->getNumResults() != 1 || !isNormOutput(op.getResult(0)) ||
        !reachesLinear(op.getResult(0)))
      return;
    int64_t rank = op.getNumLoops();
    AffineMap channels =
        AffineMap::get(rank, 0, getAffineDimExpr(rank - 1, op.getContext()));
    for (auto [i, operand] : llvm::enumerate(op.getDpsInputOperands())) {
      Value gain = operand->get();
      if (!isParameterLike(gain) ||
          op.getMatchingIndexingMap(operand) != channels ||
          !op.getMatchingIndexingMap(op.getDpsInitOperand(0)).isIdentity())
        continue;
      // A factor of the result: scaling the gain alone scales it.
      ChannelTransform probe;
      probe.dims = {rank - 1};
      probe.data = {gain};
      bool isFactor = llvm::any_of(
          getWays(op.getResult(0), probe), [&](const OperandTransforms &way) {
            return way.size() == 1 && way.front().operand == operand;
          });
      if (isFactor && getGainProduct(op.getBody()->getArgument(i)))
        found.push_back({op, i});
    }
  });
  for (auto [op, index] : found) {
    OpBuilder builder(op);
    Value gain = op.getDpsInputOperand(index)->get();
    // The same op without the operand.
    SmallVector<Value> inputs = op.getInputs();
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    inputs.erase(inputs.begin() + index);
    maps.erase(maps.begin() + index);
    auto without = linalg::GenericOp::create(
        builder, op.getLoc(), op->getResultTypes(), inputs, op.getOutputs(),
        maps, op.getIteratorTypesArray());
    IRMapping mapping;
    op.getRegion().cloneInto(&without.getRegion(), mapping);
    BlockArgument argument = without.getBody()->getArgument(index);
    arith::MulFOp product = getGainProduct(argument);
    Value factor = argument;
    if (auto widened = dyn_cast<arith::ExtFOp>(*argument.getUsers().begin()))
      factor = widened.getOut();
    product.replaceAllUsesWith(product.getLhs() == factor ? product.getRhs()
                                                          : product.getLhs());
    product.erase();
    if (factor != argument)
      factor.getDefiningOp()->erase();
    without.getBody()->eraseArgument(index);
    ChannelTransform scale;
    scale.dims = {static_cast<int64_t>(op.getNumLoops()) - 1};
    scale.data = {gain};
    Value scaled = scale.apply(builder, op.getLoc(), without.getResult(0));
    op.getResult(0).replaceAllUsesWith(scaled);
    op.erase();
  }
  return found.size();
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct InsertTransforms
    : public quant_llm::impl::InsertTransformsBase<InsertTransforms> {
  using InsertTransformsBase::InsertTransformsBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registry
        .insert<arith::ArithDialect, linalg::LinalgDialect, math::MathDialect,
                tensor::TensorDialect, QuantLLMDialect>();
    registerTransformCommuteModels(registry);
  }

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  InFlightDiagnostic fail() {
    return getOperation().emitError() << kPassName << ": ";
  }
  LogicalResult run();
  LogicalResult parseOptions();
  LogicalResult openData();
  /// The transform of a site; none if there are no data for it.
  FailureOr<std::optional<ChannelTransform>> getTransform(TransformSite &site,
                                                          uint64_t siteSeed);
  /// The numbers of a site in the file; none if it has none.
  FailureOr<std::optional<TensorInfo>>
  findData(TransformSite &site, StringRef ending, ArrayRef<int64_t> shape,
           ArrayRef<DType> types, StringRef typeNames);
  FailureOr<Value> getData(TransformSite &site, StringRef ending,
                           ArrayRef<int64_t> shape);
  FailureOr<Value> getConstantData(TransformSite &site, StringRef ending,
                                   ArrayRef<int64_t> shape);

  std::vector<TransformSiteKind> kinds;
  TransformKind kind = TransformKind::Rotate;
  bool isHadamard = false;
  std::shared_ptr<Archive> archive;
  ArchiveOp archiveOp;
};

} // namespace

LogicalResult InsertTransforms::parseOptions() {
  kinds.clear();
  if (seed < -1)
    return emitOptionError("seed")
           << "expected a number from 0 up, or -1 for no signs, but got "
           << int64_t(seed);
  for (const std::string &name : sites) {
    std::optional<TransformSiteKind> site = parseTransformSiteKind(name);
    if (!site)
      return emitOptionError("sites")
             << "expected norm-attention, norm-mlp, norm-head, up-down, "
                "value-output, residual or query-key but got '"
             << name << "'";
    kinds.push_back(*site);
  }
  if (kinds.empty())
    return emitOptionError("sites", "expected at least one site but got none");
  if (llvm::is_contained(kinds, TransformSiteKind::QueryKey) &&
      transform != "scale" && transform != "orthogonal")
    return emitOptionError("transform")
           << "expected scale or orthogonal for the site query-key, because "
              "nothing else commutes with rotary embeddings, but got '"
           << transform << "'";
  isHadamard = transform == "hadamard";
  if (transform == "scale")
    kind = TransformKind::Scale;
  else if (transform == "shift")
    kind = TransformKind::Shift;
  else if (transform == "permute")
    kind = TransformKind::Permute;
  else if (transform == "orthogonal" || isHadamard)
    kind = TransformKind::Rotate;
  else
    return emitOptionError("transform")
           << "expected scale, shift, permute, orthogonal or hadamard but got '"
           << transform << "'";
  if (isHadamard && (random || !dataFile.empty()))
    return fail() << "a Hadamard matrix has no numbers that 'random' or 'data' "
                     "could give; its signs come from 'seed'";
  if (!isHadamard && random == !dataFile.empty())
    return fail() << "expected one of the options 'random' and 'data' for the "
                     "transform "
                  << transform;
  return success();
}

LogicalResult InsertTransforms::openData() {
  if (dataFile.empty())
    return success();
  Result<std::unique_ptr<Archive>> opened = Archive::open(dataFile);
  if (!opened.ok())
    return fail() << "cannot read '" << dataFile << "': " << opened.message();
  archive = opened.take();
  // Like all paths in a module, this one is found from everywhere.
  SmallString<128> path(dataFile);
  if (llvm::sys::fs::make_absolute(path))
    return fail() << "cannot find the directory of '" << dataFile << "'";
  std::string name = "transforms";
  for (int i = 1; getOperation().lookupSymbol(name); ++i)
    name = "transforms_" + std::to_string(i);
  OpBuilder builder(getOperation().getContext());
  builder.setInsertionPointToStart(getOperation().getBody());
  archiveOp = ArchiveOp::create(builder, getOperation().getLoc(), name, path);
  return success();
}

FailureOr<std::optional<TensorInfo>>
InsertTransforms::findData(TransformSite &site, StringRef ending,
                           ArrayRef<int64_t> shape, ArrayRef<DType> types,
                           StringRef typeNames) {
  std::string key = site.getName() + ending.str();
  if (site.getName().empty() || !archive->contains(key))
    return std::optional<TensorInfo>();
  Result<TensorInfo> info = archive->find(key);
  if (!info.ok())
    return fail() << info.message();
  if (!llvm::is_contained(types, info->dtype))
    return fail() << "expected '" << key << "' in '" << dataFile
                  << "' to have elements of type " << typeNames << " but got "
                  << std::string(getDTypeName(info->dtype));
  if (ArrayRef<int64_t>(info->shape) != shape)
    return fail() << "expected '" << key << "' in '" << dataFile
                  << "' to have the shape " << shapeToString(shape.vec())
                  << " but got " << shapeToString(info->shape);
  return std::optional<TensorInfo>(info.take());
}

FailureOr<Value> InsertTransforms::getData(TransformSite &site,
                                           StringRef ending,
                                           ArrayRef<int64_t> shape) {
  bool isIndex = kind == TransformKind::Permute;
  // Sixteen bits do not hold every channel of large sites.
  const bool isSmall = ShapedType::getNumElements(shape) <= 32768;
  FailureOr<std::optional<TensorInfo>> info =
      !isIndex ? findData(site, ending, shape,
                          {DType::F64, DType::F32, DType::F16, DType::BF16},
                          "F64, F32, F16 or BF16")
      : isSmall
          ? findData(site, ending, shape, {DType::I16, DType::I32, DType::I64},
                     "I16, I32 or I64")
          : findData(site, ending, shape, {DType::I32, DType::I64},
                     "I32 or I64");
  if (failed(info))
    return failure();
  if (!*info)
    return Value();
  std::string key = site.getName() + ending.str();
  OpBuilder builder(getOperation().getContext());
  Type element;
  switch ((*info)->dtype) {
  case DType::F64:
    element = builder.getF64Type();
    break;
  case DType::F32:
    element = builder.getF32Type();
    break;
  case DType::F16:
    element = builder.getF16Type();
    break;
  case DType::BF16:
    element = builder.getBF16Type();
    break;
  case DType::I16:
    element = builder.getI16Type();
    break;
  case DType::I32:
    element = builder.getI32Type();
    break;
  case DType::I64:
    element = builder.getI64Type();
    break;
  default:
    llvm_unreachable("findData() gives no other type");
  }
  // The symbol; a parameter may have the name already.
  std::string symbol = key;
  for (int i = 1;; ++i) {
    Operation *existing = getOperation().lookupSymbol(symbol);
    auto parameter = dyn_cast_or_null<ParameterOp>(existing);
    if (!existing ||
        (parameter && parameter.getArchive() == archiveOp.getSymName()))
      break;
    symbol = key + "_" + std::to_string(i);
  }
  auto type = RankedTensorType::get(shape, element);
  if (!getOperation().lookupSymbol(symbol)) {
    builder.setInsertionPointAfter(archiveOp);
    ParameterOp::create(
        builder, site.value.getLoc(), symbol, archiveOp.getSymName(),
        symbol == key ? StringAttr() : builder.getStringAttr(key), type);
  }
  builder.setInsertionPointAfterValue(site.value);
  return GetParameterOp::create(builder, site.value.getLoc(), type, symbol)
      .getResult();
}

/// The same as a constant, whose numbers passes can see.
FailureOr<Value> InsertTransforms::getConstantData(TransformSite &site,
                                                   StringRef ending,
                                                   ArrayRef<int64_t> shape) {
  FailureOr<std::optional<TensorInfo>> info =
      findData(site, ending, shape, {DType::F64, DType::F32}, "F64 or F32");
  if (failed(info))
    return failure();
  if (!*info)
    return Value();
  Result<TensorBuffer> buffer = loadTensor(**info);
  if (!buffer.ok())
    return fail() << buffer.message();
  OpBuilder builder(getOperation().getContext());
  bool isWide = (*info)->dtype == DType::F64;
  Type element =
      isWide ? Type(builder.getF64Type()) : Type(builder.getF32Type());
  auto attr = DenseElementsAttr::getFromRawBuffer(
      RankedTensorType::get(shape, element),
      ArrayRef(reinterpret_cast<const char *>(buffer->data), buffer->bytes));
  builder.setInsertionPointAfterValue(site.value);
  return arith::ConstantOp::create(builder, site.value.getLoc(), attr)
      .getResult();
}

FailureOr<std::optional<ChannelTransform>>
InsertTransforms::getTransform(TransformSite &site, uint64_t siteSeed) {
  ChannelTransform result;
  result.kind = kind;
  result.dims = {cast<RankedTensorType>(site.value.getType()).getRank() - 1};
  int64_t channels = site.getChannels();
  bool isQueryKey = site.kind == TransformSiteKind::QueryKey;
  int64_t heads = 1;
  if (isQueryKey && kind == TransformKind::Scale && site.headDim) {
    result.dims.insert(result.dims.begin(), *site.headDim);
    heads =
        cast<RankedTensorType>(site.value.getType()).getDimSize(*site.headDim);
  }
  if (isHadamard) {
    // One matrix for all sites of a kind: caches keep one transform.
    result.hadamard = HadamardMatrix::getLargestDivisor(site.block);
    if (seed >= 0)
      result.seed = seed;
    return std::optional(result);
  }
  StringRef ending = kind == TransformKind::Scale     ? ".channel_scale"
                     : kind == TransformKind::Shift   ? ".channel_shift"
                     : kind == TransformKind::Permute ? ".channel_permutation"
                                                      : ".channel_rotation";
  // At the input of linears, the scale is what their weights are multiplied by.
  result.inverse = kind == TransformKind::Scale || kind == TransformKind::Shift;
  SmallVector<int64_t> shape{channels};
  if (kind == TransformKind::Rotate)
    shape = {site.block, site.block};
  if (result.dims.size() > 1)
    shape = {heads, channels};
  if (archive && isQueryKey) {
    // Whether they commute with the rotation of pairs is seen from the numbers.
    FailureOr<Value> data = getConstantData(site, ending, shape);
    if (failed(data))
      return failure();
    if (!*data)
      return std::optional<ChannelTransform>();
    result.data = {*data};
    return std::optional(result);
  }
  if (archive) {
    FailureOr<Value> data = getData(site, ending, shape);
    if (failed(data))
      return failure();
    if (!*data)
      return std::optional<ChannelTransform>();
    result.data = {*data};
    return std::optional(result);
  }

  OpBuilder builder(getOperation().getContext());
  builder.setInsertionPointAfterValue(site.value);
  std::mt19937_64 generator(siteSeed);
  auto uniform = [&] {
    return (static_cast<double>(generator() >> 11) + 0.5) / 9007199254740992.0;
  };
  DenseElementsAttr attr;
  if (kind == TransformKind::Permute) {
    SmallVector<int64_t> indices =
        llvm::to_vector(llvm::seq<int64_t>(0, channels));
    for (int64_t i = channels - 1; i > 0; --i)
      std::swap(indices[i], indices[generator() % (i + 1)]);
    attr = DenseElementsAttr::get(
        RankedTensorType::get(shape, builder.getI64Type()),
        ArrayRef<int64_t>(indices));
  } else {
    SmallVector<double> values;
    if (kind == TransformKind::Rotate && isQueryKey) {
      // A rotation of each pair by an angle of its own.
      RotaryEmbedding rotary = *matchRotaryEmbedding(site.value);
      values.assign(channels * channels, 0.0);
      for (int64_t i = 0; i < channels; ++i) {
        int64_t partner = rotary.getPartner(i, channels);
        if (partner < i)
          continue;
        double angle = 6.283185307179586 * uniform();
        values[i * channels + i] = values[partner * channels + partner] =
            std::cos(angle);
        values[i * channels + partner] = std::sin(angle);
        values[partner * channels + i] = -std::sin(angle);
      }
    } else if (kind == TransformKind::Rotate) {
      values = llvm::to_vector(getRandomOrthogonal(siteSeed, site.block));
    } else {
      for (int64_t i = 0; i < heads * channels; ++i)
        values.push_back(kind == TransformKind::Scale
                             ? std::exp2(2 * uniform() - 1)
                             : uniform() - 0.5);
    }
    if (kind == TransformKind::Scale && isQueryKey) {
      RotaryEmbedding rotary = *matchRotaryEmbedding(site.value);
      for (int64_t i = 0; i < heads * channels; ++i) {
        int64_t channel = i % channels;
        int64_t partner = rotary.getPartner(channel, channels);
        if (partner > channel)
          values[i - channel + partner] = values[i];
      }
    }
    // Data of a shift go through a linear, which has no f64.
    Type element = kind == TransformKind::Shift ? Type(builder.getF32Type())
                                                : Type(builder.getF64Type());
    if (element.isF64()) {
      attr = DenseElementsAttr::get(RankedTensorType::get(shape, element),
                                    ArrayRef<double>(values));
    } else {
      SmallVector<float> narrow(values.begin(), values.end());
      attr = DenseElementsAttr::get(RankedTensorType::get(shape, element),
                                    ArrayRef<float>(narrow));
    }
  }
  result.data = {arith::ConstantOp::create(builder, site.value.getLoc(), attr)};
  return std::optional(result);
}

LogicalResult InsertTransforms::run() {
  if (failed(parseOptions()) || failed(openData()))
    return failure();
  bool rotatesStream = foldGains && kind == TransformKind::Rotate &&
                       llvm::is_contained(kinds, TransformSiteKind::Residual);
  uint64_t siteSeed = seed >= 0 ? seed : 0;
  SmallVector<FunctionOpInterface> functions;
  getOperation()->walk([&](FunctionOpInterface function) {
    if (!function.isExternal())
      functions.push_back(function);
  });
  int64_t inserted = 0;
  llvm::DenseSet<int> seen;
  for (FunctionOpInterface function : functions) {
    if (rotatesStream)
      numGains += extractNormGains(function);
    if (llvm::is_contained(kinds, TransformSiteKind::QueryKey)) {
      splitRotaryEmbeddings(function);
      joinRotatedHalves(function);
    }
    for (TransformSite &site : findTransformSites(function)) {
      if (!llvm::is_contained(kinds, site.kind))
        continue;
      seen.insert(static_cast<int>(site.kind));
      FailureOr<std::optional<ChannelTransform>> found =
          getTransform(site, siteSeed++);
      if (failed(found))
        return failure();
      using Arg = remark::detail::Remark::Arg;
      auto options = remark::RemarkOpts::name(*found ? "inserted" : "skipped")
                         .category(kPassName)
                         .function(function.getName());
      if (!*found) {
        remark::missed(site.value.getLoc(), options)
            << Arg("site", getSiteKindName(site.kind))
            << Arg("parameter", site.getName());
        continue;
      }
      remark::passed(site.value.getLoc(), options)
          << Arg("site", getSiteKindName(site.kind))
          << Arg("parameter", site.getName())
          << Arg("transform", (*found)->describe());
      OpBuilder builder(function.getContext());
      // Behind the data.
      if (!(*found)->data.empty())
        builder.setInsertionPointAfterValue((*found)->data.front());
      else
        builder.setInsertionPointAfterValue(site.value);
      insertTransformPair(builder, site.value, **found);
      ++inserted;
    }
  }
  numPairs += inserted;
  if (inserted == 0)
    return fail() << "found no site to insert a transform at; raise weight "
                     "contractions first (convert-linalg-to-quant-llm)"
                  << (archive ? ", and compare the keys of 'data' with the "
                                "names of parameters"
                              : "");
  for (TransformSiteKind wanted : kinds)
    if (!seen.contains(static_cast<int>(wanted)))
      getOperation().emitWarning(kPassName)
          << ": found no site '" << getSiteKindName(wanted) << "'";
  return success();
}
