//===- ChooseGroupAxis.cpp - Groups along inputs or outputs ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"
#include "Report.h"
#include "SchemeSearch.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/IR/Remarks.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

namespace quant_llm {
#define GEN_PASS_DEF_CHOOSEGROUPAXIS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-choose-group-axis";

namespace {

struct ChooseGroupAxis : quant_llm::impl::ChooseGroupAxisBase<ChooseGroupAxis> {
  using ChooseGroupAxisBase::ChooseGroupAxisBase;

  LogicalResult initialize(MLIRContext *context) override;
  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
};

} // namespace

LogicalResult ChooseGroupAxis::initialize(MLIRContext *context) {
  return SchemeSearch::verifyOptions(context, kPassName, "error", error,
                                     calibration, anyModel, threads);
}

LogicalResult ChooseGroupAxis::run() {
  SchemeSearch search(getOperation(), kPassName, baseDir, threads);
  if (failed(search.verifyReport(report, calibration)) ||
      failed(search.collect(error, calibration, anyModel)))
    return failure();
  struct Choice {
    WeightClass *weights;
    SmallVector<SchemeAttr> schemes;
    std::vector<double> errors;
  };
  std::vector<Choice> choices;
  Progress progress{"choosing axes of groups", "", 0, 0};
  for (WeightClass &weights : search.getClasses())
    progress.total += weights.getNumWeights();
  for (WeightClass &weights : search.getClasses()) {
    progress.item = weights.getName().str();
    progress.done += weights.getNumWeights();
    const Scheme inputs = weights.scheme.toNumerics();
    if (inputs.blockN != 1 || inputs.blockK == 1) {
      using Arg = remark::detail::Remark::Arg;
      remark::missed(weights.members.front().parameter.getLoc(),
                     remark::RemarkOpts::name("skipped").category(kPassName))
          << Arg("parameter", weights.getName())
          << Arg("reason", StringRef("its groups are not along the inputs"));
      continue;
    }
    Scheme outputs = inputs;
    outputs.blockN = inputs.blockK;
    outputs.blockK = 1;
    Choice &choice = choices.emplace_back();
    choice.weights = &weights;
    choice.schemes = {weights.scheme,
                      SchemeAttr::fromNumerics(&getContext(), outputs)};
    if (failed(search.measure(weights, choice.schemes, choice.errors)))
      return failure();
    if (progress.done != progress.total &&
        failed(announce(getOperation(), progress)))
      return failure();
  }
  if (choices.empty())
    return search.fail() << "no scheme has groups along the inputs, [1, g], to "
                            "compare with groups along the outputs";
  auto isTurned = [](const Choice &choice) {
    return choice.errors[1] < choice.errors[0];
  };
  if (!report.empty()) {
    llvm::json::Array entries;
    for (Choice &choice : choices) {
      const Scheme chosen =
          choice.schemes[isTurned(choice) ? 1 : 0].toNumerics();
      double count = static_cast<double>(choice.weights->getNumWeights());
      auto getBits = [&](SchemeAttr scheme) {
        return 8.0 *
               static_cast<double>(choice.weights->getStoredBytes(scheme)) /
               count;
      };
      entries.push_back(llvm::json::Object{
          {"parameters", choice.weights->getNames()},
          {"error_inputs", choice.errors[0]},
          {"error_outputs", choice.errors[1]},
          {"bits_inputs", getBits(choice.schemes[0])},
          {"bits_outputs", getBits(choice.schemes[1])},
          {"block", llvm::json::Array{chosen.blockN, chosen.blockK}}});
    }
    if (Status status = writeReport(
            report, llvm::json::Object{{"error", getSchemeErrorName(error)},
                                       {"weights", std::move(entries)}});
        !status.ok())
      return search.fail() << status.message();
  }
  progress.done = progress.total;
  if (failed(announce(getOperation(), progress)))
    return failure();
  for (Choice &choice : choices) {
    const bool turned = isTurned(choice);
    std::string reason =
        llvm::formatv("AdaDim: groups along the {0}, {1} error {2:e3}; along "
                      "the {3}: {4:e3}",
                      turned ? "outputs" : "inputs", getSchemeErrorName(error),
                      choice.errors[turned ? 1 : 0],
                      turned ? "inputs" : "outputs",
                      choice.errors[turned ? 0 : 1])
            .str();
    search.setScheme(*choice.weights, choice.schemes[turned ? 1 : 0], reason,
                     "axis");
    numOutputs += turned;
  }
  return success();
}
