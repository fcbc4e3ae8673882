//===- CpuPipeline.cpp - The pipeline quant-llm-to-cpu --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Pipelines.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/LowerToLLVM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/SCF/Transforms/Passes.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Tensor/Transforms/Passes.h"
#include "mlir/Dialect/Tensor/Transforms/Transforms.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;

namespace {

/// Fuses a pointwise op into its only consumer.
struct FuseIntoConsumer : public OpRewritePattern<linalg::GenericOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(linalg::GenericOp consumer,
                                PatternRewriter &rewriter) const override {
    for (OpOperand &operand : consumer->getOpOperands()) {
      if (!operand.get().hasOneUse() ||
          !linalg::areElementwiseOpsFusable(&operand))
        continue;
      FailureOr<linalg::ElementwiseOpFusionResult> fused =
          linalg::fuseElementwiseOps(rewriter, &operand);
      if (failed(fused))
        continue;
      rewriter.replaceOp(
          consumer,
          llvm::map_to_vector(consumer->getResults(), [&](Value result) {
            return fused->replacements.lookup(result);
          }));
      return success();
    }
    return rewriter.notifyMatchFailure(consumer,
                                       "no producer that is pointwise and has "
                                       "one use");
  }
};

/// linalg.softmax and the like, which have no loops of their own.
struct DecomposeAggregate
    : public OpInterfaceRewritePattern<linalg::AggregatedOpInterface> {
  using OpInterfaceRewritePattern::OpInterfaceRewritePattern;

  LogicalResult matchAndRewrite(linalg::AggregatedOpInterface op,
                                PatternRewriter &rewriter) const override {
    FailureOr<SmallVector<Value>> values = op.decomposeOperation(rewriter);
    if (failed(values))
      return rewriter.notifyMatchFailure(op, "no decomposition");
    rewriter.replaceOp(op, *values);
    return success();
  }
};

/// Fuses pointwise ops into their only consumer and decomposes concatenations.
/// Upstream's patterns of the same purpose also move reshapes, which separates
/// ops that agree in their loops, and detach outputs from the slices that they
/// are to be written into.
struct FuseElementwisePass
    : public PassWrapper<FuseElementwisePass, OperationPass<>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(FuseElementwisePass)

  StringRef getArgument() const override {
    return "quant-llm-fuse-elementwise";
  }
  StringRef getDescription() const override {
    return "Fuse pointwise linalg ops into their only consumer";
  }

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<DecomposeAggregate, FuseIntoConsumer>(&getContext());
    tensor::populateDecomposeTensorConcatPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace

void quant_llm::buildCpuBufferPipeline(OpPassManager &pm,
                                       const CpuPipelineOptions &options) {
  pm.addPass(createInlineBlocks());
  if (!options.reference) {
    pm.addPass(createConvertLinalgToQuantLLM());
    pm.addPass(createFuseEpilogues());
  }
  pm.addPass(createDecomposeWeights());
  pm.addPass(createInsertChecks());
  if (options.reference)
    pm.addPass(createConvertQuantLLMToLinalg());
  else
    pm.addPass(createConvertQuantLLMToCPU());
  // `dequantize` ops, if any, and arithmetic on whole tensors.
  pm.addPass(createConvertQuantLLMToLinalg());
  pm.addPass(createConvertElementwiseToLinalgPass());
  pm.addPass(std::make_unique<FuseElementwisePass>());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  OutlineKernelsOptions outline;
  outline.parallel = options.parallel;
  outline.fastMath = !options.reference;
  pm.addPass(createOutlineKernels(outline));
  pm.addPass(createBufferize());
  LowerDispatchOptions dispatch;
  dispatch.profile = options.profile;
  pm.addPass(createLowerDispatch(dispatch));
}

void quant_llm::buildCpuLLVMPipeline(OpPassManager &pm,
                                     const CpuPipelineOptions &options) {
  // What could not be outlined.
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToLoopsPass());
  pm.addPass(createForallToParallelLoopPass());
  LowerToLLVMOptions lower;
  lower.openMP = options.parallel;
  lower.approximateMath = !options.reference;
  lower.useRuntimeAllocator = true;
  buildLowerToLLVMPipeline(pm, lower);
}

void quant_llm::buildCpuPipeline(OpPassManager &pm,
                                 const CpuPipelineOptions &options) {
  buildCpuBufferPipeline(pm, options);
  buildCpuLLVMPipeline(pm, options);
}

void quant_llm::registerCpuPipelines() {
  PassPipelineRegistration<CpuPipelineOptions>(
      "quant-llm-to-cpu",
      "Lower functions on tensors to the LLVM dialect for the CPU runtime",
      buildCpuPipeline);
}
