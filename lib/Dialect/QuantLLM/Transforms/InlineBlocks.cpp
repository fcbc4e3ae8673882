//===- InlineBlocks.cpp - Inline block and cross_block regions ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/IR/PatternMatch.h"

namespace quant_llm {
#define GEN_PASS_DEF_INLINEBLOCKS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

#define DEBUG_TYPE "quant-llm-inline-blocks"

namespace {

struct InlineBlocks : public quant_llm::impl::InlineBlocksBase<InlineBlocks> {
  using InlineBlocksBase::InlineBlocksBase;

  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    // Inner regions first, so that an outer one moves plain operations.
    getOperation()->walk<WalkOrder::PostOrder>([&](Operation *op) {
      if (op == getOperation() || !isa<BlockOp, CrossBlockOp>(op))
        return;
      Block &body = op->getRegion(0).front();
      Operation *yield = body.getTerminator();
      SmallVector<Value> values(yield->getOperands());
      rewriter.eraseOp(yield);
      rewriter.inlineBlockBefore(&body, op);
      rewriter.replaceOp(op, values);
    });
  }
};

} // namespace
