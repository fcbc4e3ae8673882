//===- FineQuantPipeline.cpp - quant-llm-finequant ------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Pipelines/Pipelines.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;

namespace quant_llm {

void buildFineQuantPipeline(OpPassManager &pm,
                            const FineQuantPipelineOptions &options) {
  auto verify = [&](Stage stage) {
    VerifyStageOptions verifyOptions;
    verifyOptions.stage = stage;
    verifyOptions.checkArchives = stage == Stage::Quantized;
    pm.addPass(createVerifyStage(verifyOptions));
  };
  pm.addPass(createConvertLinalgToQuantLLM());
  verify(Stage::Raised);

  ChooseGranularityOptions choose;
  choose.element = options.element;
  choose.zero = options.zero;
  choose.rule = options.rule;
  choose.scale = options.scale;
  choose.rowScale = options.rowScale;
  choose.rounding = options.rounding;
  choose.block.assign(options.block.begin(), options.block.end());
  choose.alpha = options.alpha;
  choose.statistic = options.statistic;
  choose.aggregation = options.aggregation;
  choose.sizes.assign(options.sizes.begin(), options.sizes.end());
  choose.include = options.include;
  choose.exclude = options.exclude;
  choose.includeShared = options.includeShared;
  choose.baseDir = options.baseDir;
  choose.threads = options.threads;
  pm.addPass(createChooseGranularity(choose));
  verify(Stage::Chosen);

  QuantizeWeightsOptions quantize;
  quantize.output = options.output;
  quantize.report = options.report;
  quantize.archiveName = options.archiveName;
  quantize.copyDense = options.copyDense;
  quantize.moduleDir = options.moduleDir;
  quantize.baseDir = options.baseDir;
  quantize.threads = options.threads;
  pm.addPass(createQuantizeWeights(quantize));

  // Last: the weights of a gated pair that is one op before schemes are chosen
  // would have to share a scheme.
  if (options.fuse)
    pm.addPass(createFuseEpilogues());
  verify(Stage::Quantized);
}

void registerQuantizationPipelines() {
  CheckedPipelineRegistration<FineQuantPipelineOptions>(
      "quant-llm-finequant",
      "Quantize the weights of a model with FineQuant's choice of "
      "granularities",
      buildFineQuantPipeline);
}

} // namespace quant_llm
