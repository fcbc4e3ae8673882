//===- VerifyStage.cpp - Contracts between the stages ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Matchers.h"

namespace quant_llm {
#define GEN_PASS_DEF_VERIFYSTAGE
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

struct VerifyStage : quant_llm::impl::VerifyStageBase<VerifyStage> {
  using VerifyStageBase::VerifyStageBase;

  void runOnOperation() override {
    // Every stage reports all it finds; later stages are not checked on IR that
    // breaks an earlier one, since the messages would repeat each other.
    bool ok = verifyRaised();
    if (ok && stage != Stage::Raised)
      ok = verifyChosen();
    if (ok && stage == Stage::Quantized)
      ok = verifyQuantized();
    if (checkArchives)
      ok &= verifyArchives();
    if (!ok)
      signalPassFailure();
    markAllAnalysesPreserved();
  }

private:
  bool verifyRaised();
  bool verifyChosen();
  bool verifyQuantized();
  bool verifyArchives();
};

} // namespace

bool VerifyStage::verifyRaised() {
  bool ok = true;
  auto isParameter = [](Value value) {
    return value.getDefiningOp<GetParameterOp>() != nullptr;
  };
  getOperation()->walk([&](linalg::LinalgOp op) {
    std::string reason;
    if (op.getNumReductionLoops() == 0)
      return;
    if (matchWeightContraction(op, isParameter, reason)) {
      op->emitOpError(
          "is a contraction with a parameter; at stage 'raised' it must be "
          "a quant_llm.linear: run convert-linalg-to-quant-llm");
      ok = false;
    } else if (!reason.empty()) {
      op->emitOpError("is a contraction with a parameter that cannot be a "
                      "quant_llm.linear, as stage 'raised' expects: ")
          << reason;
      ok = false;
    }
  });
  return ok;
}

bool VerifyStage::verifyChosen() {
  bool ok = true;
  SymbolTableCollection tables;
  llvm::DenseMap<Operation *, LinearOpInterface> first;
  getOperation()->walk([&](LinearOpInterface op) {
    if (!op.getSchemeAttr() && !op.getReasonAttr() && !op.isQuantized()) {
      op.emitOpError(
          "has neither a scheme nor a reason for having none, as stage "
          "'chosen' expects: run quant-llm-choose-granularity");
      ok = false;
    }
    for (Value weight : op.getWeights()) {
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter)
        continue;
      auto [entry, inserted] = first.try_emplace(parameter, op);
      if (!inserted && entry->second.getSchemeAttr() != op.getSchemeAttr()) {
        InFlightDiagnostic diag =
            op.emitOpError("expected the scheme of every linear of parameter ")
            << parameter.getSymNameAttr() << " to be the same";
        diag.attachNote(entry->second.getLoc()) << "another scheme is here";
        ok = false;
      }
    }
  });
  return ok;
}

bool VerifyStage::verifyQuantized() {
  bool ok = true;
  getOperation()->walk([&](LinearOpInterface op) {
    for (auto [index, weight] : llvm::enumerate(op.getWeights())) {
      if (isa<WeightType>(weight.getType()))
        continue;
      if (op.getSchemeAttr()) {
        op.emitOpError("has a scheme but weight ")
            << index
            << " is still dense, at stage 'quantized': run quant-llm-quantize";
        ok = false;
      } else if (!op.getReasonAttr()) {
        op.emitOpError("has the dense weight ")
            << index
            << " without a reason for it, as stage 'quantized' expects";
        ok = false;
      }
    }
  });
  getOperation()->walk([&](QuantizeActivationOp op) {
    DenseFPElementsAttr scales;
    if (!op.isStatic() ||
        !matchPattern(op.getGiven().front(), m_Constant(&scales)))
      return;
    for (const APFloat &scale : scales.getValues<APFloat>())
      if (!scale.isFinite() || (scale.isNegative() && !scale.isZero())) {
        SmallString<16> text;
        scale.toString(text);
        op.emitOpError("expected given scales to be finite and not negative, "
                       "at stage 'quantized', but got ")
            << text;
        ok = false;
        return;
      }
  });
  return ok;
}

bool VerifyStage::verifyArchives() {
  bool ok = true;
  ParameterArchives archives(baseDir);
  getOperation()->walk([&](ParameterOp op) {
    if (isa<WeightType>(op.getType()))
      ok &= succeeded(archives.findComponents(op));
    else
      ok &= succeeded(archives.find(op));
  });
  return ok;
}
