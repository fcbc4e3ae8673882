//===- ChooseChannelScales.cpp - Scales of channels from statistics -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// SmoothQuant, SmoothQuant+ and AWQ choose the numbers of transforms; how
// transforms move and where they end is the business of others. All is chosen
// before the module is changed.
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"
#include "Report.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Methods/ChannelScales.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/JSON.h"

#include <cmath>
#include <memory>

namespace quant_llm {
#define GEN_PASS_DEF_CHOOSECHANNELSCALES
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-choose-channel-scales";
/// What stands for an alpha that is not given.
static constexpr double kNoAlpha = -1.0;

namespace {

/// A weight whose columns a site scales.
struct Member {
  LinearOp linear;
  ParameterOp parameter;
  TensorInfo info;
  /// Null if the weight stays dense.
  SchemeAttr scheme;
};

/// A site, or the same site of several functions.
struct ScaledSite {
  /// The value in each function.
  SmallVector<TransformSite> places;
  SmallVector<Member> members;
  /// Inputs of the members that have the scale of one channel of the site: the
  /// heads that share values.
  int64_t repeats = 1;

  // What is chosen from, and what was chosen.
  std::vector<float> inputs, weights;
  std::vector<float> scales;
  double strength = 0;
  bool duo = false;
  int64_t numDead = 0;
  /// The errors of the members, without scales and with them, and tr(W H W^T).
  double errorBefore = 0, errorAfter = 0, reference = 0;

  int64_t getChannels() const { return places.front().getChannels(); }
  TransformSiteKind getKind() const { return places.front().kind; }
};

/// A way to scale a site.
struct Trial {
  double strength = 0;
  bool duo = false;
};

struct ChooseChannelScales
    : public quant_llm::impl::ChooseChannelScalesBase<ChooseChannelScales> {
  using ChooseChannelScalesBase::ChooseChannelScalesBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registry
        .insert<arith::ArithDialect, linalg::LinalgDialect, math::MathDialect,
                tensor::TensorDialect, QuantLLMDialect>();
    registerTransformCommuteModels(registry);
  }

  LogicalResult initialize(MLIRContext *context) override;
  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  InFlightDiagnostic fail() {
    return getOperation().emitError() << kPassName << ": ";
  }
  bool needsSchemes() const {
    return method != ChannelScaleMethod::SmoothQuant;
  }
  /// Whether scales are those of the least error.
  bool isSearch() const {
    return method == ChannelScaleMethod::SmoothQuantPlus ||
           (method == ChannelScaleMethod::AWQ && alpha == kNoAlpha);
  }
  LogicalResult run();
  LogicalResult collect();
  LogicalResult addSite(TransformSite &place);
  LogicalResult verifyStatistics();
  LogicalResult measureMagnitudes(ScaledSite &site);
  FailureOr<std::vector<float>> getScales(ScaledSite &site, const Trial &trial);
  LogicalResult measureErrors(ScaledSite &site, ArrayRef<Trial> trials,
                              std::vector<double> &errors);
  std::vector<Trial> getTrials();
  LogicalResult choose();
  LogicalResult writeReport();
  void insert(ScaledSite &site);
  void skip(TransformSite &site, const Twine &reason);

  std::vector<TransformSiteKind> kinds;
  std::vector<ScaledSite> chosen;
  std::shared_ptr<const CalibrationFile> statistics;
  // Shared, because a pass can be copied.
  std::shared_ptr<ParameterArchives> archives;
};

} // namespace

static StringRef getMethodName(ChannelScaleMethod method) {
  switch (method) {
  case ChannelScaleMethod::SmoothQuant:
    return "smoothquant";
  case ChannelScaleMethod::SmoothQuantPlus:
    return "smoothquant-plus";
  case ChannelScaleMethod::AWQ:
    return "awq";
  }
  llvm_unreachable("a method without name");
}

LogicalResult ChooseChannelScales::initialize(MLIRContext *context) {
  if (calibration.empty())
    return emitOptionError(context, "calibration",
                           "expected a file with statistics of the "
                           "inputs; quant-llm calibrate writes one");
  kinds.clear();
  for (const std::string &name : sites) {
    std::optional<TransformSiteKind> kind = parseTransformSiteKind(name);
    // Keys take no scales but those that are equal in pairs of channels.
    if (!kind || *kind == TransformSiteKind::Residual ||
        *kind == TransformSiteKind::QueryKey)
      return emitOptionError(context, "sites",
                             "expected norm-attention, norm-mlp, norm-head, "
                             "up-down or value-output but got '" +
                                 name + "'");
    kinds.push_back(*kind);
  }
  if (kinds.empty()) {
    kinds = {TransformSiteKind::NormAttention, TransformSiteKind::NormMLP};
    if (method == ChannelScaleMethod::AWQ)
      kinds.insert(kinds.end(),
                   {TransformSiteKind::UpDown, TransformSiteKind::ValueOutput});
  }
  if (alpha != kNoAlpha && !(alpha >= 0.0 && alpha <= 1.0))
    return emitOptionError(context, "alpha",
                           "expected a number from 0 to 1 but got " +
                               std::to_string(alpha));
  if (grid < 1 || grid > 1000)
    return emitOptionError(context, "grid",
                           "expected 1 to 1000 steps but got " + Twine(grid));
  if (threads > unsigned(kMostThreads))
    return emitOptionError(context, "threads",
                           "expected at most " + Twine(kMostThreads) +
                               " but got " + Twine(threads));
  // An option that cannot matter is a mistake.
  const ChooseChannelScalesOptions defaults;
  if (method == ChannelScaleMethod::SmoothQuantPlus && alpha != kNoAlpha)
    return emitOptionError(context, "alpha",
                           "expected none with smoothquant-plus, which "
                           "searches it");
  if (method == ChannelScaleMethod::SmoothQuant && grid != defaults.grid)
    return emitOptionError(context, "grid",
                           "expected none with smoothquant, which searches "
                           "nothing; give alpha");
  if (method == ChannelScaleMethod::SmoothQuant && error != defaults.error)
    return emitOptionError(context, "error",
                           "expected none with smoothquant, which measures "
                           "none");
  if (method != ChannelScaleMethod::AWQ && duo != defaults.duo)
    return emitOptionError(context, "duo-scaling",
                           "expected none with another method than awq");
  if (method == ChannelScaleMethod::AWQ && !isSearch()) {
    if (grid != defaults.grid)
      return emitOptionError(
          context, "grid", "expected none with alpha, as nothing is searched");
    if (error != defaults.error)
      return emitOptionError(context, "error",
                             "expected none with alpha, as none is measured");
    if (duo == DuoScaling::Both)
      return emitOptionError(context, "duo-scaling",
                             "expected no or yes with alpha, as nothing "
                             "is searched");
  }
  return success();
}

void ChooseChannelScales::skip(TransformSite &site, const Twine &reason) {
  using Arg = remark::detail::Remark::Arg;
  remark::missed(site.value.getLoc(),
                 remark::RemarkOpts::name("skipped").category(kPassName))
      << Arg("site", getSiteKindName(site.kind))
      << Arg("parameter", site.getName()) << Arg("reason", reason.str());
}

LogicalResult ChooseChannelScales::addSite(TransformSite &place) {
  ScaledSite site;
  bool hasScheme = false;
  for (LinearOp linear : place.consumers) {
    for (Value weight : linear.getWeights()) {
      ParameterOp parameter = getParameterOf(weight);
      if (!parameter || isa<WeightType>(weight.getType())) {
        skip(place, "a weight is not a dense parameter of an archive");
        return success();
      }
      if (llvm::any_of(site.members, [&](const Member &member) {
            return member.parameter == parameter;
          }))
        continue;
      FailureOr<TensorInfo> info = archives->find(parameter);
      if (failed(info))
        return failure();
      site.members.push_back(
          {linear, parameter, std::move(*info), linear.getSchemeAttr()});
      hasScheme |= static_cast<bool>(linear.getSchemeAttr());
    }
  }
  if (site.members.empty()) {
    skip(place, "no linear reads it");
    return success();
  }
  if (needsSchemes() && !hasScheme) {
    skip(place, "no weight has a scheme");
    return success();
  }
  int64_t inputs = place.consumers.front().getK();
  if (inputs % place.getChannels() != 0) {
    skip(place, "its channels do not divide the inputs of the linear");
    return success();
  }
  site.repeats = inputs / place.getChannels();
  // One weight has one form: functions that share it share its scales.
  for (ScaledSite &known : chosen) {
    auto isShared = [&](const Member &member) {
      return llvm::any_of(site.members, [&](const Member &other) {
        return other.parameter == member.parameter;
      });
    };
    if (llvm::none_of(known.members, isShared))
      continue;
    if (known.getKind() != place.kind ||
        known.members.size() != site.members.size() ||
        !llvm::all_of(known.members, isShared)) {
      skip(place, "another site scales a part of its weights");
      return success();
    }
    known.places.push_back(place);
    return success();
  }
  site.places.push_back(place);
  chosen.push_back(std::move(site));
  return success();
}

LogicalResult ChooseChannelScales::collect() {
  chosen.clear();
  bool ok = true, hasSites = false;
  getOperation()->walk([&](FunctionOpInterface function) {
    if (function.isExternal())
      return;
    for (TransformSite &site : findTransformSites(function)) {
      if (!llvm::is_contained(kinds, site.kind))
        continue;
      hasSites = true;
      ok &= succeeded(addSite(site));
    }
  });
  if (!ok)
    return failure();
  if (!hasSites)
    return fail() << "found no site to scale; raise weight contractions first "
                     "(convert-linalg-to-quant-llm)";
  if (chosen.empty())
    return fail() << "found no site with "
                  << (needsSchemes()
                          ? "a linear that has a scheme, which tells what the "
                            "error will be; run quant-llm-choose-granularity "
                            "or quant-llm-allocate-bits first"
                          : "dense parameters; start from the module with the "
                            "dense weights");
  return success();
}

/// What the method reads, of all sites, before anything is computed.
LogicalResult ChooseChannelScales::verifyStatistics() {
  bool ok = true;
  auto check = [&](Member &member, std::string_view name,
                   const std::vector<int64_t> &shape) {
    Status status = statistics->checkShape(
        name, member.parameter.getSymName().str(), shape);
    if (!status.ok())
      member.linear.emitOpError(status.message());
    ok &= status.ok();
  };
  for (ScaledSite &site : chosen) {
    int64_t k = site.members.front().linear.getK();
    check(site.members.front(),
          method == ChannelScaleMethod::AWQ ? statistic::absMean
                                            : statistic::absMax,
          {k});
    if (isSearch())
      for (Member &member : site.members)
        if (member.scheme)
          check(member, statistic::hessian, {k, k});
  }
  return success(ok);
}

LogicalResult ChooseChannelScales::measureMagnitudes(ScaledSite &site) {
  Member &first = site.members.front();
  const bool isMean = method == ChannelScaleMethod::AWQ;
  FailureOr<std::vector<float>> values = readStatistic(
      *statistics, isMean ? statistic::absMean : statistic::absMax,
      first.linear, first.parameter);
  if (failed(values))
    return failure();
  const int64_t channels = site.getChannels(),
                block = site.places.front().block;
  // Values are repeated head by head.
  auto getChannel = [&](size_t input) {
    auto i = static_cast<int64_t>(input);
    return static_cast<size_t>(i / (block * site.repeats) * block + i % block);
  };
  site.inputs.assign(channels, 0.0f);
  for (auto [i, value] : llvm::enumerate(*values)) {
    float &to = site.inputs[getChannel(i)];
    to = isMean ? to + value / static_cast<float>(site.repeats)
                : std::max(to, value);
  }
  site.numDead = llvm::count(site.inputs, 0.0f);

  const bool usesWeights = !isMean || duo != DuoScaling::No;
  std::vector<float> maxima(values->size(), 0.0f);
  std::vector<double> sums(values->size(), 0.0);
  int64_t rows = 0;
  for (Member &member : site.members) {
    if (!usesWeights || (isMean && !member.scheme))
      continue;
    FailureOr<LoadedMatrix> matrix =
        archives->load(member.parameter, member.info);
    if (failed(matrix))
      return failure();
    std::string name = member.parameter.getSymName().str();
    Status status =
        isMean ? addRelativeMagnitudes(matrix->view, member.scheme.toNumerics(),
                                       sums, name, threads)
               : mergeColumnMaxima(matrix->view, maxima, name, threads);
    if (!status.ok())
      return member.parameter.emitOpError("cannot be scaled: ")
             << status.message();
    rows += matrix->view.n;
    archives->release(member.parameter, member.info);
  }
  site.weights.clear();
  if (!usesWeights)
    return success();
  site.weights.assign(channels, 0.0f);
  for (size_t i = 0; i < values->size(); ++i) {
    float &to = site.weights[getChannel(i)];
    if (isMean)
      to += static_cast<float>(sums[i] / static_cast<double>(rows) /
                               static_cast<double>(site.repeats));
    else
      to = std::max(to, maxima[i]);
  }
  return success();
}

FailureOr<std::vector<float>>
ChooseChannelScales::getScales(ScaledSite &site, const Trial &trial) {
  Result<std::vector<float>> scales =
      method == ChannelScaleMethod::AWQ
          ? computeAWQScales(site.inputs,
                             trial.duo ? site.weights : std::vector<float>(),
                             trial.strength)
          : computeSmoothScales(site.inputs, site.weights, trial.strength);
  if (!scales.ok())
    return site.members.front().linear.emitOpError(scales.message());
  return scales.take();
}

/// The errors of the quantized members without scales, and under each trial.
LogicalResult ChooseChannelScales::measureErrors(ScaledSite &site,
                                                 ArrayRef<Trial> trials,
                                                 std::vector<double> &errors) {
  errors.assign(trials.size(), 0.0);
  site.errorBefore = site.reference = 0;
  const int64_t block = site.places.front().block;
  std::unique_ptr<OutputErrorMeter> meter;
  for (auto [index, member] : llvm::enumerate(site.members)) {
    if (!member.scheme)
      continue;
    const std::string name = member.parameter.getSymName().str();
    const int64_t k = member.linear.getK();
    // All linears of a site have one input, and mostly one statistic.
    if (!meter) {
      FailureOr<std::vector<float>> hessian = readStatistic(
          *statistics, statistic::hessian, member.linear, member.parameter);
      if (failed(hessian))
        return failure();
      meter = std::make_unique<OutputErrorMeter>(
          HessianView{hessian->data(), k}, threads);
    }
    FailureOr<LoadedMatrix> matrix =
        archives->load(member.parameter, member.info);
    if (failed(matrix))
      return failure();
    const Scheme scheme = member.scheme.withoutLowRank().toNumerics();
    const double outputs = meter->compute(matrix->view, nullptr, threads);
    site.reference += outputs;
    // Without outputs there is no error of outputs.
    double weight = 1.0;
    if (error == SchemeError::RelativeOutput)
      weight = outputs > 0.0 ? 1.0 / outputs : 0.0;
    auto measure = [&](const std::vector<float> &scales, double &sum) {
      std::vector<float> columns;
      for (size_t i = 0; !scales.empty() && i < static_cast<size_t>(k); ++i)
        columns.push_back(
            scales[i / (block * site.repeats) * block + i % block]);
      Result<double> found = computeScaledError(matrix->view, scheme, columns,
                                                *meter, name, threads);
      if (!found.ok())
        return LogicalResult(member.parameter.emitOpError("cannot be scaled: ")
                             << found.message());
      sum += weight * *found;
      return success();
    };
    if (failed(measure({}, site.errorBefore)))
      return failure();
    for (auto [i, trial] : llvm::enumerate(trials)) {
      FailureOr<std::vector<float>> scales = getScales(site, trial);
      if (failed(scales) || failed(measure(*scales, errors[i])))
        return failure();
    }
    archives->release(member.parameter, member.info);
  }
  if (!std::isfinite(site.errorBefore))
    return site.members.front().linear.emitOpError(
        "has outputs out of the range of numbers on the calibration tokens; "
        "calibrate again, or leave its site out");
  return success();
}

std::vector<Trial> ChooseChannelScales::getTrials() {
  std::vector<Trial> trials;
  if (method == ChannelScaleMethod::SmoothQuant)
    return {{alpha == kNoAlpha ? 0.5 : alpha, false}};
  if (!isSearch())
    return {{alpha, duo == DuoScaling::Yes}};
  // An exponent of 1 is a strength of the paper on SmoothQuant+, but none that
  // AWQ tries.
  const bool isAWQ = method == ChannelScaleMethod::AWQ;
  for (int i = 0; i < grid + !isAWQ; ++i) {
    double strength = static_cast<double>(i) / grid;
    if (duo != DuoScaling::Yes)
      trials.push_back({strength, false});
    if (isAWQ && duo != DuoScaling::No)
      trials.push_back({strength, true});
  }
  return trials;
}

LogicalResult ChooseChannelScales::choose() {
  const std::vector<Trial> trials = getTrials();
  const bool isGlobal = method == ChannelScaleMethod::SmoothQuantPlus;
  Progress progress{"choosing channel scales", "", 0, 0};
  progress.total = chosen.size();
  std::vector<std::vector<double>> errors(chosen.size());
  for (auto [index, site] : llvm::enumerate(chosen)) {
    progress.item = site.places.front().getName();
    if (failed(measureMagnitudes(site)))
      return failure();
    if (isSearch() && failed(measureErrors(site, trials, errors[index])))
      return failure();
    // The last step is what follows.
    if (++progress.done != progress.total &&
        failed(announce(getOperation(), progress)))
      return failure();
  }
  // NaN and infinity are no better than anything.
  auto findBest = [](const std::vector<double> &values) {
    size_t best = 0;
    for (size_t i = 0; i < values.size(); ++i)
      if (values[i] < values[best] || !std::isfinite(values[best]))
        best = i;
    return best;
  };
  size_t global = 0;
  if (isGlobal) {
    std::vector<double> sums(trials.size(), 0.0);
    for (const std::vector<double> &site : errors)
      for (size_t i = 0; i < site.size(); ++i)
        sums[i] += site[i];
    global = findBest(sums);
  }
  for (auto [site, siteErrors] : llvm::zip_equal(chosen, errors)) {
    size_t best =
        isGlobal || siteErrors.empty() ? global : findBest(siteErrors);
    site.strength = trials[best].strength;
    site.duo = trials[best].duo;
    FailureOr<std::vector<float>> scales = getScales(site, trials[best]);
    if (failed(scales))
      return failure();
    site.scales = std::move(*scales);
    if (!siteErrors.empty())
      site.errorAfter = siteErrors[best];
    // No scale is worse than none where each site is on its own.
    if (!isGlobal && !siteErrors.empty() &&
        !(site.errorAfter <= site.errorBefore)) {
      site.scales.assign(site.scales.size(), 1.0f);
      site.strength = 0;
      site.duo = false;
      site.errorAfter = site.errorBefore;
    }
  }
  progress.done = progress.total;
  return announce(getOperation(), progress);
}

static llvm::json::Value finiteOrNull(double value) {
  if (!std::isfinite(value))
    return nullptr;
  return value;
}

LogicalResult ChooseChannelScales::writeReport() {
  if (report.empty())
    return success();
  llvm::json::Array entries;
  double before = 0, after = 0;
  for (ScaledSite &site : chosen) {
    auto [least, most] =
        std::minmax_element(site.scales.begin(), site.scales.end());
    llvm::json::Array parameters;
    for (Member &member : site.members)
      parameters.push_back(member.parameter.getSymName());
    llvm::json::Object entry{
        {"site", getSiteKindName(site.getKind())},
        {"parameters", std::move(parameters)},
        {"channels", site.getChannels()},
        {"dead_channels", site.numDead},
        {"strength", site.strength},
        {"smallest_scale", *least},
        {"largest_scale", *most},
    };
    if (method == ChannelScaleMethod::AWQ)
      entry["duo_scaling"] = site.duo;
    if (isSearch()) {
      entry["error_before"] = finiteOrNull(site.errorBefore);
      entry["error_after"] = finiteOrNull(site.errorAfter);
      entry["outputs"] = finiteOrNull(site.reference);
      before += site.errorBefore;
      after += site.errorAfter;
    }
    entries.push_back(std::move(entry));
  }
  llvm::json::Object object{{"method", getMethodName(method)},
                            {"sites", std::move(entries)}};
  if (method != ChannelScaleMethod::AWQ || !isSearch())
    object["strength"] = chosen.front().strength;
  if (isSearch()) {
    object["error_before"] = finiteOrNull(before);
    object["error_after"] = finiteOrNull(after);
  }
  if (Status status = quant_llm::writeReport(report, std::move(object));
      !status.ok())
    return fail() << status.message();
  return success();
}

void ChooseChannelScales::insert(ScaledSite &site) {
  using Arg = remark::detail::Remark::Arg;
  for (TransformSite &place : site.places) {
    auto options = remark::RemarkOpts::name("scaled").category(kPassName);
    auto found = remark::passed(place.value.getLoc(), options);
    found << Arg("site", getSiteKindName(place.kind))
          << Arg("parameter", place.getName())
          << Arg("strength", site.strength);
    if (isSearch())
      found << Arg("error before", site.errorBefore)
            << Arg("error after", site.errorAfter);
    OpBuilder builder(&getContext());
    builder.setInsertionPointAfterValue(place.value);
    std::vector<double> wide(site.scales.begin(), site.scales.end());
    auto type =
        RankedTensorType::get({site.getChannels()}, builder.getF64Type());
    ChannelTransform transform;
    transform.kind = TransformKind::Scale;
    transform.inverse = true;
    transform.dims = {cast<RankedTensorType>(place.value.getType()).getRank() -
                      1};
    transform.data = {arith::ConstantOp::create(
        builder, place.value.getLoc(),
        DenseElementsAttr::get(type, ArrayRef<double>(wide)))};
    builder.setInsertionPointAfterValue(transform.data.front());
    insertTransformPair(builder, place.value, transform);
    ++numPairs;
  }
  if (site.numDead)
    remark::analysis(
        site.places.front().value.getLoc(),
        remark::RemarkOpts::name("dead-channels").category(kPassName))
        << "channels that were always 0 get the scale 1; parameter " +
               site.places.front().getName()
        << remark::metric("dead", site.numDead);
}

LogicalResult ChooseChannelScales::run() {
  archives = std::make_shared<ParameterArchives>(baseDir);
  if (failed(verifyReportFile(getOperation(), *archives, report,
                              {{"calibration", calibration}},
                              [&] { return fail(); })) ||
      failed(collect()))
    return failure();
  FailureOr<CalibrationFile> file =
      openCalibration(getOperation(), calibration, *archives, anyModel);
  if (failed(file))
    return failure();
  statistics = std::make_shared<CalibrationFile>(std::move(*file));
  if (failed(verifyStatistics()) || failed(choose()) || failed(writeReport()))
    return failure();
  for (ScaledSite &site : chosen) {
    // Nothing to do is nothing to insert.
    if (llvm::all_of(site.scales, [](float s) { return s == 1.0f; })) {
      for (TransformSite &place : site.places)
        skip(place, "no scale is better than 1");
      continue;
    }
    insert(site);
  }
  archives.reset();
  statistics.reset();
  chosen.clear();
  return success();
}
