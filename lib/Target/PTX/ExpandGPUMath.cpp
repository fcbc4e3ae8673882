//===- ExpandGPUMath.cpp - Functions of math as arithmetic ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace quant_llm {
#define GEN_PASS_DEF_EXPANDGPUMATH
#include "quant-llm/Target/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

struct ExpandGPUMathPass
    : public quant_llm::impl::ExpandGPUMathBase<ExpandGPUMathPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    populateMathPolynomialApproximationPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
