//===- SerializeLoops.cpp - Loops that must run in order -----------------
//-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"

#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/OpenMP/OpenMPDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Transforms/DialectConversion.h"

namespace quant_llm {
#define GEN_PASS_DEF_SERIALIZELOOPS
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

/// What in a parallel region could end the call; null if there is nothing.
static Operation *findEnd(Operation *loop) {
  Operation *found = nullptr;
  loop->walk([&](Operation *op) {
    if (auto alloc = dyn_cast<memref::AllocOp>(op)) {
      if (llvm::none_of(alloc->getUsers(),
                        llvm::IsaPred<memref::ExtractAlignedPointerAsIndexOp>))
        found = op;
    } else if (auto call = dyn_cast<func::CallOp>(op)) {
      if (call.getCallee() != kIndexFaultFunction &&
          call.getCallee() != kCheckFaultFunction)
        found = op;
    } else if (isa<func::CallIndirectOp>(op)) {
      found = op;
    }
    return found ? WalkResult::interrupt() : WalkResult::advance();
  });
  return found;
}

namespace {

struct SerializeLoops
    : public quant_llm::impl::SerializeLoopsBase<SerializeLoops> {
  using SerializeLoopsBase::SerializeLoopsBase;

  void runOnOperation() override {
    WalkResult walked = getOperation().walk([](omp::ParallelOp op) {
      Operation *end = findEnd(op);
      if (!end)
        return WalkResult::advance();
      op.emitOpError("expected no '")
              .append(end->getName().getStringRef(),
                      "' in it that could end the call; write the loop as "
                      "scf.parallel")
              .attachNote(end->getLoc())
          << "it is here";
      return WalkResult::interrupt();
    });
    if (walked.wasInterrupted())
      return signalPassFailure();
    ConversionTarget target(getContext());
    target.addDynamicallyLegalOp<scf::ParallelOp>(
        [](scf::ParallelOp op) { return !findEnd(op); });
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    RewritePatternSet patterns(&getContext());
    populateSCFToControlFlowConversionPatterns(patterns);
    if (failed(applyPartialConversion(getOperation(), target,
                                      std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
