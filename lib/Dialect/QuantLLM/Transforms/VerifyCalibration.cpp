//===- VerifyCalibration.cpp - Does a calibration file fit? ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/StringExtras.h"

#include <algorithm>

namespace quant_llm {
#define GEN_PASS_DEF_VERIFYCALIBRATION
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

#define DEBUG_TYPE "quant-llm-verify-calibration"

namespace {

struct VerifyCalibration
    : quant_llm::impl::VerifyCalibrationBase<VerifyCalibration> {
  using VerifyCalibrationBase::VerifyCalibrationBase;

  LogicalResult initialize(MLIRContext *context) override {
    if (calibration.empty())
      return emitOptionError(context, "calibration", "expected a file");
    statistics.assign(wanted.begin(), wanted.end());
    if (statistics.empty())
      statistics.emplace_back(statistic::absMax);
    for (const std::string &name : statistics)
      if (!llvm::is_contained(statistic::ofWeightShape, std::string_view(name)))
        return emitOptionError(
            context, "statistics",
            "expected one of " +
                llvm::join(ArrayRef(statistic::ofWeightShape), ", ") +
                " but got '" + name + "'");
    return success();
  }

  void runOnOperation() override {
    ParameterArchives archives(baseDir);
    FailureOr<CalibrationFile> file =
        openCalibration(getOperation(), calibration, archives, anyModel);
    if (failed(file))
      return signalPassFailure();
    bool ok = true;
    SymbolTableCollection tables;
    getOperation()->walk([&](LinearOp linear) {
      for (Value weight : linear.getWeights())
        if (ParameterOp parameter = getParameterOf(weight, &tables))
          ok &= succeeded(verify(*file, linear, parameter));
    });
    if (!ok)
      signalPassFailure();
    markAllAnalysesPreserved();
  }

private:
  LogicalResult verify(const CalibrationFile &file, LinearOp linear,
                       ParameterOp parameter);

  std::vector<std::string> statistics;
};

} // namespace

LogicalResult VerifyCalibration::verify(const CalibrationFile &file,
                                        LinearOp linear,
                                        ParameterOp parameter) {
  const std::string name = parameter.getSymName().str();
  for (const std::string &statistic : statistics) {
    FailureOr<std::vector<float>> values =
        readStatistic(file, statistic, linear, parameter);
    if (failed(values))
      return failure();
    if (statistic != statistic::absMax)
      continue;
    int64_t dead = std::count(values->begin(), values->end(), 0.0f);
    if (dead)
      remark::analysis(
          linear.getLoc(),
          remark::RemarkOpts::name("dead-inputs").category(DEBUG_TYPE))
          << "inputs of " + name + " are always 0"
          << remark::metric("dead", dead)
          << remark::metric("inputs", linear.getK());
  }
  return success();
}
