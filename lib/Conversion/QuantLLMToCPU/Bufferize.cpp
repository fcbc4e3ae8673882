//===- Bufferize.cpp - From tensors to buffers ----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One-shot bufferization of the functions around the kernels, with what the
// runtime needs at the boundary: parameters become external globals, arguments
// are only written if a result takes their place, and such results are recorded
// and dropped.
//
//===----------------------------------------------------------------------===//

#include "KernelLibrary.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/Bufferization.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Bufferization/IR/DstBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Interfaces/LoopLikeInterface.h"
#include "mlir/Interfaces/SubsetOpInterface.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

namespace quant_llm {
#define GEN_PASS_DEF_BUFFERIZE
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// quant_llm.dispatch
//===----------------------------------------------------------------------===//

namespace {

struct DispatchBufferization
    : public bufferization::DstBufferizableOpInterfaceExternalModel<
          DispatchBufferization, DispatchOp> {
  LogicalResult bufferize(Operation *operation, RewriterBase &rewriter,
                          const bufferization::BufferizationOptions &options,
                          bufferization::BufferizationState &state) const {
    auto op = cast<DispatchOp>(operation);
    if (!llvm::any_of(op->getOperandTypes(), llvm::IsaPred<TensorType>))
      return success();
    OpBuilder::InsertionGuard guard(rewriter);
    rewriter.setInsertionPoint(op);
    auto convert = [&](ValueRange values,
                       SmallVectorImpl<Value> &buffers) -> LogicalResult {
      for (Value value : values) {
        if (!isa<TensorType>(value.getType())) {
          buffers.push_back(value);
          continue;
        }
        FailureOr<Value> buffer =
            bufferization::getBuffer(rewriter, value, options, state);
        if (failed(buffer))
          return failure();
        buffers.push_back(*buffer);
      }
      return success();
    };
    SmallVector<Value> inputs, outputs;
    if (failed(convert(op.getInputs(), inputs)) ||
        failed(convert(op.getOutputs(), outputs)))
      return failure();
    DispatchOp::create(rewriter, op.getLoc(), TypeRange{}, op.getKernelAttr(),
                       inputs, outputs);
    if (op.getResults().empty())
      rewriter.eraseOp(op);
    else
      bufferization::replaceOpWithBufferizedValues(rewriter, op, outputs);
    return success();
  }
};

} // namespace

void quant_llm::registerCpuBufferization(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, QuantLLMDialect *) {
    DispatchOp::attachInterface<DispatchBufferization>(*context);
  });
}

//===----------------------------------------------------------------------===//
// What cannot be run
//===----------------------------------------------------------------------===//

/// Nothing below knows tensors of unknown rank.
static LogicalResult checkRanks(ModuleOp module) {
  auto isUnranked = llvm::IsaPred<UnrankedTensorType, UnrankedMemRefType>;
  WalkResult walked = module.walk([&](Operation *op) {
    bool found = llvm::any_of(op->getOperandTypes(), isUnranked) ||
                 llvm::any_of(op->getResultTypes(), isUnranked);
    if (auto function = dyn_cast<func::FuncOp>(op))
      found |= llvm::any_of(function.getArgumentTypes(), isUnranked) ||
               llvm::any_of(function.getResultTypes(), isUnranked);
    if (!found)
      return WalkResult::advance();
    op->emitError() << "expected tensors and buffers of known rank in '"
                    << op->getName() << "'";
    return WalkResult::interrupt();
  });
  return failure(walked.wasInterrupted());
}

/// What is on tensors must be an op that is known to become one on buffers.
static LogicalResult checkOps(ModuleOp module) {
  WalkResult walked = module.walk([&](Operation *op) {
    if (isa_and_nonnull<QuantLLMDialect>(op->getDialect()) ||
        !bufferization::hasTensorSemantics(op) ||
        isa<bufferization::BufferizableOpInterface>(op))
      return WalkResult::advance();
    op->emitError() << "expected no '" << op->getName()
                    << "' on tensors, for which there is no code; write it as "
                       "linalg.generic, which may read other tensors by "
                       "tensor.extract, or with loops";
    return WalkResult::interrupt();
  });
  return failure(walked.wasInterrupted());
}

/// Weights have no buffers: every use of one must have been lowered to uses of
/// its components.
static LogicalResult checkWeights(ModuleOp module) {
  auto isWeight = [](Type type) {
    return isa<WeightType, ActivationType>(type);
  };
  WalkResult walked = module.walk([&](Operation *op) {
    if (isa<AssembleOp>(op) && op->use_empty()) {
      op->erase();
      return WalkResult::advance();
    }
    if (!llvm::any_of(op->getOperandTypes(), isWeight) &&
        !llvm::any_of(op->getResultTypes(), isWeight))
      return WalkResult::advance();
    Value weight;
    for (Value operand : op->getOperands())
      if (isWeight(operand.getType()))
        weight = operand;
    bool isActivation = weight && isa<ActivationType>(weight.getType());
    InFlightDiagnostic diagnostic = op->emitError();
    diagnostic << "expected the " << (isActivation ? "activation" : "weight")
               << " of '" << op->getName() << "' to be "
               << (isActivation ? "quantized in the same region"
                                : "a parameter")
               << " or assembled from its components, which is what can run";
    if (!isActivation && weight && weight.getDefiningOp())
      diagnostic.attachNote(weight.getLoc())
          << "it comes from '" << weight.getDefiningOp()->getName()
          << "'; quantize parameters with quant-llm-quantize before";
    return WalkResult::interrupt();
  });
  return failure(walked.wasInterrupted());
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

/// Makes every parameter that is read a global without initial value, which the
/// runtime binds to the mapped file, and lists them in the module attribute
/// `quant_llm.parameters`.
static LogicalResult bindParameters(ModuleOp module) {
  SymbolTable symbols(module);
  MLIRContext *context = module.getContext();
  OpBuilder builder(context);
  SmallVector<Attribute> list;
  DenseMap<StringAttr, FlatSymbolRefAttr> globals;
  WalkResult walked = module.walk([&](GetParameterOp op) {
    auto parameter = symbols.lookup<ParameterOp>(op.getParameter());
    auto archive = symbols.lookup<ArchiveOp>(parameter.getArchive());
    auto tensor = dyn_cast<RankedTensorType>(op.getType());
    if (!tensor) {
      op.emitOpError("expected a tensor but got ")
          << op.getType()
          << "; weights must have been decomposed into their components, and "
             "what uses them must read these";
      return WalkResult::interrupt();
    }
    auto type = MemRefType::get(tensor.getShape(), tensor.getElementType());
    FlatSymbolRefAttr &global = globals[parameter.getSymNameAttr()];
    if (!global) {
      builder.setInsertionPoint(parameter);
      auto created = memref::GlobalOp::create(
          builder, parameter.getLoc(),
          builder.getStringAttr("__quant_llm_parameter_" +
                                parameter.getSymName()),
          /*sym_visibility=*/nullptr, type, /*initial_value=*/nullptr,
          /*constant=*/false, /*alignment=*/nullptr);
      symbols.insert(created);
      global = FlatSymbolRefAttr::get(created);
      list.push_back(builder.getDictionaryAttr(
          {builder.getNamedAttr("symbol", created.getSymNameAttr()),
           builder.getNamedAttr("archive", archive.getPathAttr()),
           builder.getNamedAttr(
               "key", builder.getStringAttr(parameter.getArchiveKey())),
           builder.getNamedAttr("type", TypeAttr::get(type))}));
    }
    builder.setInsertionPoint(op);
    Value buffer =
        memref::GetGlobalOp::create(builder, op.getLoc(), type, global);
    Value value = bufferization::ToTensorOp::create(
        builder, op.getLoc(), tensor, buffer, /*restrict=*/true,
        /*writable=*/false);
    op.replaceAllUsesWith(value);
    op.erase();
    return WalkResult::advance();
  });
  if (walked.wasInterrupted())
    return failure();
  for (Operation &op : llvm::make_early_inc_range(*module.getBody()))
    if (isa<ParameterOp>(op))
      op.erase();
  for (Operation &op : llvm::make_early_inc_range(*module.getBody()))
    if (isa<ArchiveOp>(op))
      op.erase();
  module->setAttr(kParametersAttrName, builder.getArrayAttr(list));
  return success();
}

/// Gives every user of a `tensor.empty` one of its own. CSE merges those of
/// equal size, which makes one buffer of them to the analysis: it would then
/// find, in quadratic time, that they must not share it.
static void separateEmptyTensors(ModuleOp module) {
  SmallVector<tensor::EmptyOp> empties;
  module.walk([&](tensor::EmptyOp op) { empties.push_back(op); });
  for (tensor::EmptyOp op : empties) {
    OpBuilder builder(op);
    bool isFirst = true;
    for (OpOperand &use : llvm::make_early_inc_range(op->getUses())) {
      if (isFirst) {
        isFirst = false;
        continue;
      }
      builder.setInsertionPoint(use.getOwner());
      use.set(builder.clone(*op)->getResult(0));
    }
  }
}

//===----------------------------------------------------------------------===//
// The boundary of functions
//===----------------------------------------------------------------------===//

/// The argument of the function whose contents `value` is a changed version of,
/// by way of destinations; null if there is none.
static BlockArgument findUpdatedArgument(Value value) {
  while (value) {
    if (auto argument = dyn_cast<BlockArgument>(value)) {
      Operation *parent = argument.getOwner()->getParentOp();
      if (isa<func::FuncOp>(parent))
        return argument;
      auto loop = dyn_cast<LoopLikeOpInterface>(parent);
      OpOperand *init = loop ? loop.getTiedLoopInit(argument) : nullptr;
      value = init ? init->get() : Value();
      continue;
    }
    auto result = cast<OpResult>(value);
    Operation *op = result.getOwner();
    if (auto destination = dyn_cast<DestinationStyleOpInterface>(op))
      value = destination.getTiedOpOperand(result)->get();
    else if (auto insert = dyn_cast<tensor::InsertOp>(op))
      value = insert.getDest();
    else if (auto slice = dyn_cast<tensor::InsertSliceOp>(op))
      value = slice.getDest();
    else if (auto loop = dyn_cast<LoopLikeOpInterface>(op)) {
      OpOperand *init = loop.getTiedLoopInit(result);
      value = init ? init->get() : Value();
    } else
      return nullptr;
  }
  return nullptr;
}

static void protectArgument(func::FuncOp function, unsigned number) {
  function.setArgAttr(number,
                      bufferization::BufferizationDialect::kWritableAttrName,
                      BoolAttr::get(function.getContext(), false));
}

/// Whether callers are told which results are arguments (recordResultAliases).
static bool hasAliases(func::FuncOp function, ModuleOp module) {
  return !function.isExternal() && !function.isPrivate() &&
         function.getBody().hasOneBlock() &&
         SymbolTable::symbolKnownUseEmpty(function, module);
}

/// Forbids writes to arguments that no result takes the place of: a caller does
/// not expect its input to change. Returns the tensor arguments of functions
/// with aliases that may be written.
static SmallVector<unsigned> protectArguments(func::FuncOp function,
                                              ModuleOp module) {
  SmallVector<unsigned> writable;
  // Inside the module the analysis sees what callers expect.
  if (function.isExternal() || function.isPrivate())
    return writable;
  BitVector updated(function.getNumArguments());
  if (hasAliases(function, module))
    function.walk([&](func::ReturnOp op) {
      for (Value operand : op.getOperands())
        if (BlockArgument argument = findUpdatedArgument(operand))
          updated.set(argument.getArgNumber());
    });
  for (BlockArgument argument : function.getArguments()) {
    unsigned number = argument.getArgNumber();
    if (!isa<TensorType>(argument.getType()))
      continue;
    if (updated.test(number))
      writable.push_back(number);
    else
      protectArgument(function, number);
  }
  return writable;
}

//===----------------------------------------------------------------------===//
// Arguments that are updated in place
//===----------------------------------------------------------------------===//

namespace {

/// An argument of which slices are written by kernels, one version after the
/// other, before the last version is returned: the caches of a model. One-shot
/// bufferization gets these right as well, but compares every read with every
/// write, which took most of the time to compile a model of thirty layers.
class ArgumentUpdates {
public:
  explicit ArgumentUpdates(BlockArgument argument) : argument(argument) {}

  /// False if anything about the uses is out of the ordinary.
  bool analyze();
  void rewrite();

private:
  BlockArgument argument;
  SmallVector<tensor::DimOp> dims;
  SmallVector<tensor::ExtractSliceOp> slices;
  SmallVector<tensor::InsertSliceOp> inserts;
  SmallVector<DispatchOp> writers;
  OpOperand *returned = nullptr;
};

} // namespace

/// The dispatch that writes the slice which `insert` puts back, if that is what
/// happens.
static DispatchOp getWriter(tensor::InsertSliceOp insert) {
  auto dispatch = insert.getSource().getDefiningOp<DispatchOp>();
  if (!dispatch || !insert.getSource().hasOneUse() ||
      dispatch.getOutputs().size() != 1)
    return nullptr;
  auto slice =
      dispatch.getOutputs().front().getDefiningOp<tensor::ExtractSliceOp>();
  if (!slice || slice.getSource() != insert.getDest() ||
      slice.getMixedOffsets() != insert.getMixedOffsets() ||
      slice.getMixedSizes() != insert.getMixedSizes() ||
      slice.getMixedStrides() != insert.getMixedStrides())
    return nullptr;
  return dispatch;
}

bool ArgumentUpdates::analyze() {
  Block *block = argument.getOwner();
  Value version = argument;
  while (true) {
    tensor::InsertSliceOp next;
    SmallVector<Operation *> readers;
    SmallPtrSet<Operation *, 4> destinations;
    for (OpOperand &use : version.getUses()) {
      Operation *user = use.getOwner();
      if (user->getBlock() != block)
        return false;
      if (auto dim = dyn_cast<tensor::DimOp>(user)) {
        dims.push_back(dim);
      } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(user)) {
        slices.push_back(slice);
        for (Operation *reader : slice->getUsers()) {
          auto dispatch = dyn_cast<DispatchOp>(reader);
          if (!dispatch || reader->getBlock() != block)
            return false;
          readers.push_back(reader);
          if (llvm::is_contained(dispatch.getOutputs(), slice.getResult()))
            destinations.insert(reader);
        }
      } else if (auto insert = dyn_cast<tensor::InsertSliceOp>(user)) {
        if (next || insert.getSource() == version)
          return false;
        next = insert;
      } else if (isa<func::ReturnOp>(user) && !returned) {
        returned = &use;
      } else {
        return false;
      }
    }
    DispatchOp writer = next ? getWriter(next) : nullptr;
    // A kernel that starts from a slice and puts its result elsewhere needs a
    // copy of the slice.
    for (Operation *destination : destinations)
      if (destination != writer)
        return false;
    if (!next)
      break;
    if (!writer || returned)
      return false;
    unsigned uses = 0;
    for (Operation *reader : readers) {
      uses += reader == writer;
      if (reader != writer && !reader->isBeforeInBlock(writer))
        return false;
    }
    if (uses != 1)
      return false; // the kernel reads what it overwrites
    inserts.push_back(next);
    writers.push_back(writer);
    version = next.getResult();
  }
  return returned && !inserts.empty();
}

void ArgumentUpdates::rewrite() {
  auto tensor = cast<RankedTensorType>(argument.getType());
  auto type = MemRefType::get(tensor.getShape(), tensor.getElementType());
  OpBuilder builder(argument.getContext());
  argument.setType(type);
  for (tensor::DimOp dim : dims) {
    builder.setInsertionPoint(dim);
    Value size =
        memref::DimOp::create(builder, dim.getLoc(), argument, dim.getIndex());
    dim.replaceAllUsesWith(size);
    dim.erase();
  }
  returned->set(argument);
  for (tensor::InsertSliceOp insert : llvm::reverse(inserts)) {
    insert->dropAllReferences();
    insert->dropAllUses();
    insert.erase();
  }
  for (DispatchOp writer : writers) {
    builder.setInsertionPoint(writer);
    DispatchOp::create(builder, writer.getLoc(), TypeRange{},
                       writer.getKernelAttr(), writer.getInputs(),
                       writer.getOutputs());
    writer.erase();
  }
  for (tensor::ExtractSliceOp slice : slices) {
    builder.setInsertionPoint(slice);
    auto viewType = memref::SubViewOp::inferRankReducedResultType(
        cast<RankedTensorType>(slice->getResult(0).getType()).getShape(), type,
        slice.getMixedOffsets(), slice.getMixedSizes(),
        slice.getMixedStrides());
    Value view = memref::SubViewOp::create(
        builder, slice.getLoc(), cast<MemRefType>(viewType), argument,
        slice.getMixedOffsets(), slice.getMixedSizes(),
        slice.getMixedStrides());
    slice.replaceAllUsesWith(view);
    slice.erase();
  }
}

static void updateArgumentsInPlace(func::FuncOp function, ModuleOp module) {
  if (!hasAliases(function, module))
    return;
  for (BlockArgument argument : function.getArguments()) {
    if (!isa<RankedTensorType>(argument.getType()))
      continue;
    ArgumentUpdates updates(argument);
    if (updates.analyze())
      updates.rewrite();
  }
  Block &entry = function.getBody().front();
  function.setFunctionType(
      FunctionType::get(function.getContext(), entry.getArgumentTypes(),
                        entry.getTerminator()->getOperandTypes()));
}

/// The buffer argument that a returned value is; null if it is none.
static BlockArgument getReturnedArgument(Value value) {
  while (auto cast = value.getDefiningOp<memref::CastOp>())
    value = cast.getSource();
  auto argument = dyn_cast<BlockArgument>(value);
  return argument && isa<MemRefType>(argument.getType()) ? argument
                                                         : BlockArgument();
}

/// Records in `quant_llm.result_aliases` which results are arguments, and drops
/// these: a returned buffer would belong to the caller and thus be a copy.
static void recordResultAliases(func::FuncOp function, ModuleOp module) {
  // An attribute of the input would be a promise that nobody keeps.
  function->removeAttr(kResultAliasesAttrName);
  if (!hasAliases(function, module))
    return;
  Operation *terminator = function.getBody().front().getTerminator();
  SmallVector<int64_t> aliases;
  llvm::BitVector dropped(terminator->getNumOperands());
  for (auto [index, operand] : llvm::enumerate(terminator->getOperands())) {
    BlockArgument argument = getReturnedArgument(operand);
    aliases.push_back(argument ? static_cast<int64_t>(argument.getArgNumber())
                               : -1);
    dropped[index] = static_cast<bool>(argument);
  }
  terminator->eraseOperands(dropped);
  (void)function.eraseResults(dropped);
  function->setAttr(kResultAliasesAttrName,
                    DenseI64ArrayAttr::get(function.getContext(), aliases));
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct Bufferize : public quant_llm::impl::BufferizeBase<Bufferize> {
  using BufferizeBase::BufferizeBase;

  static void buildFirst(OpPassManager &pm, bool hasInserts) {
    bufferization::OneShotBufferizePassOptions options;
    options.bufferizeFunctionBoundaries = true;
    options.functionBoundaryTypeConversion =
        bufferization::LayoutMapOption::IdentityLayoutMap;
    options.bufferAlignment = 64;
    // A loop may yield a buffer that it allocates in each iteration.
    options.allowReturnAllocsFromLoops = true;
    // Only insertions have a place to offer for an empty tensor.
    if (hasInserts)
      pm.addPass(bufferization::createEmptyTensorEliminationPass());
    pm.addPass(bufferization::createOneShotBufferizePass(options));
    pm.addPass(createCanonicalizerPass());
    pm.addPass(createCSEPass());
  }

  static void buildSecond(OpPassManager &pm) {
    pm.addPass(bufferization::createDropEquivalentBufferResultsPass());
    bufferization::buildBufferDeallocationPipeline(pm);
    pm.addNestedPass<func::FuncOp>(
        bufferization::createOptimizeAllocationLivenessPass());
    pm.addPass(createConvertBufferizationToMemRefPass());
    pm.addPass(createCanonicalizerPass());
    pm.addPass(createCSEPass());
  }

  void getDependentDialects(DialectRegistry &registry) const override {
    BufferizeBase::getDependentDialects(registry);
    OpPassManager pm(ModuleOp::getOperationName());
    buildFirst(pm, /*hasInserts=*/true);
    buildSecond(pm);
    pm.getDependentDialects(registry);
  }

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (failed(checkRanks(module)) || failed(checkOps(module)) ||
        failed(checkWeights(module)))
      return signalPassFailure();
    if (failed(bindParameters(module)))
      return signalPassFailure();
    separateEmptyTensors(module);
    WritableArguments writable;
    for (auto function : module.getOps<func::FuncOp>()) {
      updateArgumentsInPlace(function, module);
      for (unsigned number : protectArguments(function, module))
        writable.emplace_back(function.getName().str(), number);
    }

    // Kernels are on buffers already. Without their bodies nothing below needs
    // to look at them, and their explicit memory management is left alone.
    SmallVector<std::pair<std::string, std::unique_ptr<Region>>> bodies;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr(kKernelAttrName) && !function.isExternal()) {
        auto body = std::make_unique<Region>();
        body->takeBody(function.getBody());
        bodies.emplace_back(function.getName().str(), std::move(body));
      }
    LogicalResult result = runWithoutKernels(module, std::move(writable));
    for (auto &[name, body] : bodies)
      module.lookupSymbol<func::FuncOp>(name).getBody().takeBody(*body);
    if (failed(result))
      signalPassFailure();
  }

  /// Names of functions and numbers of their arguments.
  using WritableArguments = SmallVector<std::pair<std::string, unsigned>>;

  /// One-shot bufferization. An argument may be written only if it is also
  /// returned, which is known afterwards: where it is not, this starts again
  /// with the argument protected.
  LogicalResult bufferize(ModuleOp module, OpPassManager &pm,
                          WritableArguments writable) {
    while (true) {
      OwningOpRef<ModuleOp> before;
      if (!writable.empty())
        before = module.clone();
      if (failed(runPipeline(pm, module)))
        return failure();
      WritableArguments returned, others;
      for (auto &entry : writable) {
        auto function = module.lookupSymbol<func::FuncOp>(entry.first);
        bool isReturned = llvm::any_of(
            function.getBody().front().getTerminator()->getOperands(),
            [&](Value operand) {
              BlockArgument argument = getReturnedArgument(operand);
              return argument && argument.getArgNumber() == entry.second;
            });
        (isReturned ? returned : others).push_back(entry);
      }
      if (others.empty())
        return success();
      module.getBodyRegion().takeBody(before->getBodyRegion());
      for (auto &[name, number] : others)
        protectArgument(module.lookupSymbol<func::FuncOp>(name), number);
      writable = std::move(returned);
    }
  }

  LogicalResult runWithoutKernels(ModuleOp module, WritableArguments writable) {
    OpPassManager first(ModuleOp::getOperationName());
    bool hasInserts =
        module
            .walk([](Operation *op) {
              // Kernels write their slices in place already.
              if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
                return getWriter(insert) ? WalkResult::advance()
                                         : WalkResult::interrupt();
              return isa<tensor::ParallelInsertSliceOp,
                         bufferization::MaterializeInDestinationOp>(op)
                         ? WalkResult::interrupt()
                         : WalkResult::advance();
            })
            .wasInterrupted();
    buildFirst(first, hasInserts);
    if (failed(bufferize(module, first, std::move(writable))))
      return failure();
    for (auto function : module.getOps<func::FuncOp>())
      recordResultAliases(function, module);
    OpPassManager second(ModuleOp::getOperationName());
    buildSecond(second);
    return runPipeline(second, module);
  }
};

} // namespace
