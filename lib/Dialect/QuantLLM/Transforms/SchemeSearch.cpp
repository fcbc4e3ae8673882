//===- SchemeSearch.cpp - Errors of weights under other schemes -----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "SchemeSearch.h"

#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Methods/SecondOrder.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/IR/Remarks.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/ADT/MapVector.h"

#include <cmath>
#include <numeric>
#include <optional>

using namespace mlir;
using namespace quant_llm;

StringRef quant_llm::getSchemeErrorName(SchemeError error) {
  switch (error) {
  case SchemeError::Weight:
    return "weight";
  case SchemeError::Output:
    return "output";
  case SchemeError::RelativeOutput:
    return "relative-output";
  case SchemeError::Fisher:
    return "fisher";
  case SchemeError::FisherOutput:
    return "fisher-output";
  }
  llvm_unreachable("an error without name");
}

int64_t WeightClass::getNumWeights() {
  int64_t sum = 0;
  for (Member &member : members)
    sum += cast<RankedTensorType>(member.parameter.getType()).getNumElements();
  return sum;
}

int64_t WeightClass::getStoredBytes(SchemeAttr scheme) {
  int64_t sum = 0;
  for (Member &member : members) {
    auto type = cast<RankedTensorType>(member.parameter.getType());
    sum += quant_llm::getStoredBytes(scheme.toNumerics(), type.getDimSize(0),
                                     type.getDimSize(1));
  }
  return sum;
}

llvm::json::Array WeightClass::getNames() {
  llvm::json::Array names;
  for (Member &member : members)
    names.push_back(member.parameter.getSymName());
  return names;
}

LogicalResult SchemeSearch::verifyOptions(
    MLIRContext *context, StringRef passName, StringRef errorOption,
    SchemeError error, StringRef calibration, bool anyModel, unsigned threads) {
  if (error == SchemeError::Weight && !calibration.empty())
    return emitOptionError(context, passName, "calibration",
                           "expected none with the " + errorOption +
                               " weight, which needs no statistics");
  if (error != SchemeError::Weight && calibration.empty())
    return emitOptionError(context, passName, "calibration",
                           "expected a file with the statistics that the " +
                               errorOption +
                               " needs; quant-llm calibrate writes one");
  if (anyModel && calibration.empty())
    return emitOptionError(context, passName, "any-model",
                           "expected none without the option calibration");
  if (threads > unsigned(kMostThreads))
    return emitOptionError(context, passName, "threads",
                           "expected at most " + Twine(kMostThreads) +
                               " but got " + Twine(threads));
  return success();
}

void SchemeSearch::setScheme(WeightClass &weights, SchemeAttr scheme,
                             const std::string &reason, StringRef remarkName) {
  weights.scheme = scheme;
  for (LinearOpInterface linear : weights.linears) {
    linear.setSchemeAttr(scheme);
    linear.setReasonAttr(StringAttr::get(scheme.getContext(), reason));
  }
  using Arg = remark::detail::Remark::Arg;
  for (WeightClass::Member &member : weights.members)
    remark::passed(member.parameter.getLoc(),
                   remark::RemarkOpts::name(remarkName).category(passName))
        << Arg("parameter", member.parameter.getSymName())
        << Arg("scheme", Attribute(scheme)) << Arg("reason", reason);
}

LogicalResult SchemeSearch::verifyStatistics(WeightClass::Member &member) {
  if (!statistics)
    return success();
  auto linear = dyn_cast<LinearOp>(*member.linear);
  if (!linear)
    return member.linear->emitOpError(
        "expected quant_llm.linear for an error with statistics, because "
        "calibration files know the inputs of no other op; use the error "
        "weight");
  int64_t n = linear.getN(), k = linear.getK();
  const std::string name = member.parameter.getSymName().str();
  Status status = Status::success();
  if (kind == SchemeError::Fisher)
    status = statistics->checkShape(statistic::fisher, name, {n, k});
  if (kind == SchemeError::FisherOutput)
    status = statistics->checkShape(statistic::rowFisher, name, {n});
  if (status.ok() && kind != SchemeError::Fisher)
    status = statistics->checkShape(statistic::hessian, name, {k, k});
  if (!status.ok())
    return linear.emitOpError(status.message());
  return success();
}

LogicalResult SchemeSearch::verifyReport(StringRef report,
                                         StringRef calibration) {
  return verifyReportFile(module, archives, report,
                          {{"calibration", calibration}},
                          [&] { return fail(); });
}

LogicalResult SchemeSearch::collect(SchemeError error, StringRef calibration,
                                    bool anyModel) {
  kind = error;
  classes.clear();
  SymbolTableCollection tables;
  llvm::MapVector<Operation *, WeightClass::Member> members;
  llvm::EquivalenceClasses<Operation *> meeting;
  llvm::MapVector<Operation *, SmallVector<LinearOpInterface>> linears;
  bool ok = true;
  module->walk([&](LinearOpInterface linear) {
    if (!linear.getSchemeAttr() || linear.isQuantized())
      return;
    Operation *first = nullptr;
    for (Value weight : linear.getWeights()) {
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter || isa<WeightType>(weight.getType())) {
        InFlightDiagnostic diag = linear->emitOpError(
            "has a scheme, but its weight is not a dense parameter of an "
            "archive");
        diag.attachNote(weight.getLoc()) << "the weight is defined here";
        ok = false;
        return;
      }
      meeting.insert(parameter);
      if (first)
        meeting.unionSets(first, parameter);
      else
        first = parameter;
      members.try_emplace(parameter,
                          WeightClass::Member{parameter, linear, {}});
    }
    if (first)
      linears[first].push_back(linear);
  });
  if (!ok)
    return failure();
  if (members.empty())
    return fail() << "no linear has a scheme to change; run "
                     "quant-llm-choose-granularity first";

  llvm::MapVector<Operation *, WeightClass> byLeader;
  for (auto &[key, member] : members) {
    FailureOr<TensorInfo> info = archives.find(member.parameter);
    if (failed(info)) {
      ok = false;
      continue;
    }
    member.info = std::move(*info);
    byLeader[meeting.getLeaderValue(key)].members.push_back(member);
  }
  for (auto &[key, list] : linears)
    llvm::append_range(byLeader[meeting.getLeaderValue(key)].linears, list);
  for (auto &[key, weights] : byLeader) {
    if (weights.members.empty())
      continue;
    weights.scheme = weights.linears.front().getSchemeAttr();
    for (LinearOpInterface linear : weights.linears)
      if (linear.getSchemeAttr() != weights.scheme) {
        InFlightDiagnostic diag = linear->emitOpError("expected the scheme ")
                                  << weights.scheme
                                  << " of another linear with weights of this "
                                     "one, but got "
                                  << linear.getSchemeAttr();
        diag.attachNote(weights.linears.front().getLoc())
            << "the other linear is here";
        ok = false;
      }
    classes.push_back(std::move(weights));
  }
  if (!ok)
    return failure();
  if (kind == SchemeError::Weight)
    return success();
  FailureOr<CalibrationFile> file =
      openCalibration(module, calibration, archives, anyModel);
  if (failed(file))
    return failure();
  statistics = std::make_unique<CalibrationFile>(std::move(*file));
  for (WeightClass &weights : classes)
    for (WeightClass::Member &member : weights.members)
      ok &= succeeded(verifyStatistics(member));
  return success(ok);
}

/// Sum of F_ij (A - W)_ij^2, row by row and then over rows; F = 1 if null.
static double sumSquares(const MatrixView &matrix,
                         const std::vector<float> &values, const float *fisher,
                         unsigned threads) {
  std::vector<double> rows(static_cast<size_t>(matrix.n));
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    for (int64_t n = begin; n < end; ++n) {
      loadRow(matrix, n, 0, matrix.k, row.data());
      double sum = 0;
      for (int64_t i = 0; i < matrix.k; ++i) {
        auto at = static_cast<size_t>(n * matrix.k + i);
        double difference = static_cast<double>(values[at]) -
                            static_cast<double>(row[static_cast<size_t>(i)]);
        sum += difference * difference * (fisher ? fisher[at] : 1.0);
      }
      rows[static_cast<size_t>(n)] = sum;
    }
  });
  return std::accumulate(rows.begin(), rows.end(), 0.0);
}

namespace {
/// What rows of a weight count by in the error FisherOutput: the mean squared
/// gradient of the loss with respect to an output n is estimated by
/// F_n / tr(H), so that the scale of H does not matter.
struct RowWeights {
  RowWeights(const std::vector<float> &rowFisher,
             const std::vector<float> &hessian, int64_t k);
  /// Multiplies row n of A - W, in the place of A, by the root of its weight.
  void apply(const MatrixView &matrix, std::vector<float> &values,
             unsigned threads) const;

  std::vector<float> roots; ///< at most 1
  double scale = 0.0;       ///< of the squares of `roots`
};
} // namespace

RowWeights::RowWeights(const std::vector<float> &rowFisher,
                       const std::vector<float> &hessian, int64_t k)
    : roots(rowFisher.size()) {
  double trace = 0.0;
  for (int64_t i = 0; i < k; ++i)
    trace += hessian[static_cast<size_t>(i * k + i)];
  const double largest = *llvm::max_element(rowFisher);
  // Without gradients or inputs nothing counts.
  if (!(trace > 0.0) || !(largest > 0.0))
    return;
  scale = largest / trace;
  for (auto [root, value] : llvm::zip_equal(roots, rowFisher))
    root = static_cast<float>(std::sqrt(value / largest));
}

void RowWeights::apply(const MatrixView &matrix, std::vector<float> &values,
                       unsigned threads) const {
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    for (int64_t n = begin; n < end; ++n) {
      loadRow(matrix, n, 0, matrix.k, row.data());
      for (int64_t i = 0; i < matrix.k; ++i) {
        float &value = values[static_cast<size_t>(n * matrix.k + i)];
        value = (value - row[static_cast<size_t>(i)]) *
                roots[static_cast<size_t>(n)];
      }
    }
  });
}

LogicalResult SchemeSearch::measure(WeightClass &weights,
                                    ArrayRef<SchemeAttr> schemes,
                                    std::vector<double> &errors) {
  errors.assign(schemes.size(), 0.0);
  for (WeightClass::Member &member : weights.members) {
    ParameterOp parameter = member.parameter;
    const std::string name = parameter.getSymName().str();
    FailureOr<LoadedMatrix> matrix = archives.load(parameter, member.info);
    if (failed(matrix))
      return failure();
    const MatrixView &view = matrix->view;
    std::unique_ptr<OutputErrorMeter> meter;
    std::vector<float> fisher;
    std::optional<RowWeights> rowWeights;
    double reference = 1.0;
    const bool isOfRows = kind == SchemeError::FisherOutput;
    if (isOfRows || kind == SchemeError::Fisher) {
      Result<std::vector<float>> values =
          isOfRows
              ? statistics->read(statistic::rowFisher, name, {view.n})
              : statistics->read(statistic::fisher, name, {view.n, view.k});
      if (!values.ok())
        return member.linear->emitOpError(values.message());
      fisher = values.take();
    }
    if (kind != SchemeError::Fisher && kind != SchemeError::Weight) {
      FailureOr<std::vector<float>> hessian =
          readStatistic(*statistics, statistic::hessian,
                        cast<LinearOp>(*member.linear), parameter);
      if (failed(hessian))
        return failure();
      meter = std::make_unique<OutputErrorMeter>(
          HessianView{hessian->data(), view.k}, threads);
      if (kind == SchemeError::RelativeOutput)
        reference = meter->compute(view, nullptr, threads);
      if (isOfRows)
        rowWeights.emplace(fisher, *hessian, view.k);
    }
    std::vector<float> values(static_cast<size_t>(view.n * view.k));
    for (auto [i, attr] : llvm::enumerate(schemes)) {
      // What a low-rank part will mend is not known before it is computed.
      const Scheme scheme = attr.withoutLowRank().toNumerics();
      Result<QuantizedMatrix> stored = quantize(view, scheme, name, threads);
      Status status = stored.ok()
                          ? dequantize(*stored, scheme, values.data(), threads)
                          : stored.status();
      if (!status.ok())
        return parameter.emitOpError("cannot be quantized: ")
               << status.message();
      double error;
      if (rowWeights) {
        rowWeights->apply(view, values, threads);
        MatrixView weighted{values.data(), SourceType::F32, view.n, view.k};
        error = rowWeights->scale * meter->compute(weighted, nullptr, threads);
      } else if (meter) {
        error = meter->compute(view, values.data(), threads);
      } else {
        error = sumSquares(view, values,
                           fisher.empty() ? nullptr : fisher.data(), threads);
      }
      // Without outputs there is no error of outputs.
      if (kind == SchemeError::RelativeOutput)
        error = reference > 0.0 ? error / reference : 0.0;
      // Rounding may leave a little less than nothing.
      error = std::max(error, 0.0);
      if (!std::isfinite(error))
        return parameter.emitOpError("has an error out of the range of numbers "
                                     "under ")
               << attr << "; calibrate again, or use the error weight";
      errors[i] += error;
    }
    archives.release(parameter, member.info);
  }
  return success();
}

/// f_n = F_n / tr(H) of the rows, to the power p, times what leaves
/// their mean: large estimates from few tokens are large by chance more often
/// than small ones.
static std::vector<double> getRowWeights(const std::vector<float> &rowFisher,
                                         const std::vector<float> &hessian,
                                         int64_t k, double power) {
  double trace = 0.0, sum = 0.0, powerSum = 0.0;
  for (int64_t i = 0; i < k; ++i)
    trace += hessian[static_cast<size_t>(i * k + i)];
  std::vector<double> weights;
  for (float value : rowFisher) {
    sum += value;
    weights.push_back(std::pow(static_cast<double>(value), power));
    powerSum += weights.back();
  }
  // Without gradients or inputs nothing counts.
  double factor = trace > 0.0 && powerSum > 0.0 ? sum / powerSum / trace : 0.0;
  for (double &weight : weights)
    weight *= factor;
  return weights;
}

LogicalResult SchemeSearch::measureRows(WeightClass &weights, size_t index,
                                        ArrayRef<SchemeAttr> schemes,
                                        const RowErrorOptions &options,
                                        std::vector<double> &errors) {
  WeightClass::Member &member = weights.members[index];
  ParameterOp parameter = member.parameter;
  const std::string name = parameter.getSymName().str();
  FailureOr<LoadedMatrix> matrix = archives.load(parameter, member.info);
  if (failed(matrix))
    return failure();
  const MatrixView &view = matrix->view;
  Result<std::vector<float>> rowFisher =
      statistics->read(statistic::rowFisher, name, {view.n});
  if (!rowFisher.ok())
    return member.linear->emitOpError(rowFisher.message());
  FailureOr<std::vector<float>> hessian =
      readStatistic(*statistics, statistic::hessian,
                    cast<LinearOp>(*member.linear), parameter);
  if (failed(hessian))
    return failure();
  std::vector<double> rowWeights =
      getRowWeights(*rowFisher, *hessian, view.k, options.power);
  GPTQOptions gptq;
  gptq.damping = options.damping;
  gptq.actOrder = true;
  Result<std::vector<double>> moments = getConditionalMoments(
      HessianView{hessian->data(), view.k}, gptq, name, threads);
  if (!moments.ok())
    return parameter.emitOpError(moments.message());
  std::vector<float> diagonal(static_cast<size_t>(view.k));
  for (int64_t i = 0; i < view.k; ++i)
    diagonal[static_cast<size_t>(i)] =
        (*hessian)[static_cast<size_t>(i * view.k + i)];
  ClipImportance importance;
  importance.columns = diagonal.data();
  errors.assign(static_cast<size_t>(view.n) * schemes.size(), 0.0);
  std::vector<float> values(static_cast<size_t>(view.n * view.k));
  for (auto [i, attr] : llvm::enumerate(schemes)) {
    const Scheme scheme = attr.withoutLowRank().toNumerics();
    Result<QuantizedMatrix> stored =
        quantizeClipped(view, scheme, importance, options.clip, name, threads);
    Status status = stored.ok()
                        ? dequantize(*stored, scheme, values.data(), threads)
                        : stored.status();
    if (!status.ok())
      return parameter.emitOpError("cannot be quantized: ") << status.message();
    const size_t option = i;
    parallelFor(view.n, threads, [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(view.k));
      for (int64_t n = begin; n < end; ++n) {
        loadRow(view, n, 0, view.k, row.data());
        double sum = 0.0;
        for (size_t c = 0; c < row.size(); ++c) {
          double change =
              static_cast<double>(values[static_cast<size_t>(n * view.k) + c]) -
              static_cast<double>(row[c]);
          sum += (*moments)[c] * change * change;
        }
        errors[static_cast<size_t>(n) * schemes.size() + option] =
            sum * rowWeights[static_cast<size_t>(n)];
      }
    });
  }
  for (double error : errors)
    if (!std::isfinite(error))
      return parameter.emitOpError("has an error out of the range of numbers; "
                                   "calibrate again");
  archives.release(parameter, member.info);
  return success();
}
