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
    if (op.getResults().empty() && !op.getOutputs().empty())
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
  module->setAttr("quant_llm.parameters", builder.getArrayAttr(list));
  return success();
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

/// Forbids writes to arguments that no result takes the place of: a caller does
/// not expect its input to change.
static void protectArguments(func::FuncOp function) {
  if (function.isExternal())
    return;
  BitVector updated(function.getNumArguments());
  function.walk([&](func::ReturnOp op) {
    for (Value operand : op.getOperands())
      if (BlockArgument argument = findUpdatedArgument(operand))
        updated.set(argument.getArgNumber());
  });
  for (BlockArgument argument : function.getArguments())
    if (isa<TensorType>(argument.getType()) &&
        !updated.test(argument.getArgNumber()))
      function.setArgAttr(
          argument.getArgNumber(),
          bufferization::BufferizationDialect::kWritableAttrName,
          BoolAttr::get(function.getContext(), false));
}

/// Records in `quant_llm.result_aliases` which results are arguments, and drops
/// these: a returned buffer would belong to the caller and thus be a copy.
static void recordResultAliases(func::FuncOp function, ModuleOp module) {
  if (function.isExternal() || function.isPrivate() ||
      !function.getBody().hasOneBlock() ||
      !SymbolTable::symbolKnownUseEmpty(function, module))
    return;
  Operation *terminator = function.getBody().front().getTerminator();
  SmallVector<int64_t> aliases;
  llvm::BitVector dropped(terminator->getNumOperands());
  for (auto [index, operand] : llvm::enumerate(terminator->getOperands())) {
    Value source = operand;
    while (auto cast = source.getDefiningOp<memref::CastOp>())
      source = cast.getSource();
    auto argument = dyn_cast<BlockArgument>(source);
    bool isAlias = argument && isa<MemRefType>(source.getType());
    aliases.push_back(isAlias ? static_cast<int64_t>(argument.getArgNumber())
                              : -1);
    dropped[index] = isAlias;
  }
  terminator->eraseOperands(dropped);
  (void)function.eraseResults(dropped);
  function->setAttr("quant_llm.result_aliases",
                    DenseI64ArrayAttr::get(function.getContext(), aliases));
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct Bufferize : public quant_llm::impl::BufferizeBase<Bufferize> {
  using BufferizeBase::BufferizeBase;

  static void buildFirst(OpPassManager &pm) {
    bufferization::OneShotBufferizePassOptions options;
    options.bufferizeFunctionBoundaries = true;
    options.functionBoundaryTypeConversion =
        bufferization::LayoutMapOption::IdentityLayoutMap;
    options.bufferAlignment = 64;
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
    buildFirst(pm);
    buildSecond(pm);
    pm.getDependentDialects(registry);
  }

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (failed(bindParameters(module)))
      return signalPassFailure();
    for (auto function : module.getOps<func::FuncOp>())
      protectArguments(function);

    // Kernels are on buffers already. Without their bodies nothing below needs
    // to look at them, and their explicit memory management is left alone.
    SmallVector<std::pair<func::FuncOp, std::unique_ptr<Region>>> bodies;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr(kKernelAttrName) && !function.isExternal()) {
        auto body = std::make_unique<Region>();
        body->takeBody(function.getBody());
        bodies.emplace_back(function, std::move(body));
      }
    LogicalResult result = runWithoutKernels(module);
    for (auto &[function, body] : bodies)
      function.getBody().takeBody(*body);
    if (failed(result))
      signalPassFailure();
  }

  LogicalResult runWithoutKernels(ModuleOp module) {
    OpPassManager first(ModuleOp::getOperationName());
    buildFirst(first);
    if (failed(runPipeline(first, module)))
      return failure();
    for (auto function : module.getOps<func::FuncOp>())
      recordResultAliases(function, module);
    OpPassManager second(ModuleOp::getOperationName());
    buildSecond(second);
    return runPipeline(second, module);
  }
};

} // namespace
