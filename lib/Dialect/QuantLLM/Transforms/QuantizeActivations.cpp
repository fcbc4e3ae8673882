//===- QuantizeActivations.cpp - Quantize the inputs of linears -----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Report.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"

#include <algorithm>
#include <cmath>

namespace quant_llm {
#define GEN_PASS_DEF_QUANTIZEACTIVATIONS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-quantize-activations";

namespace {

/// A value, and the linears of one block of IR that read it.
struct Site {
  SmallVector<LinearOpInterface> linears;
  /// The names of their parameters.
  SmallVector<std::string> names;
};

/// Static ranges of a site, one for each group.
struct Ranges {
  std::vector<float> low, high;
  /// The largest magnitude that was seen, and a typical one (0 if not asked
  /// for).
  float absMax = 0, typical = 0;
  /// What is stored for them.
  SmallVector<APFloat> scales;
  SmallVector<int8_t> zeros;
};

struct QuantizeActivations
    : public quant_llm::impl::QuantizeActivationsBase<QuantizeActivations> {
  using QuantizeActivationsBase::QuantizeActivationsBase;

  LogicalResult initialize(MLIRContext *context) override;
  void runOnOperation() override;

private:
  LogicalResult parseOptions(MLIRContext *context);
  std::optional<std::string> getReasonToSkip(LinearOpInterface linear,
                                             SmallVector<std::string> &names);
  LogicalResult quantize(Value input, Site &site);
  FailureOr<Ranges> readRanges(Site &site, int64_t channels);
  int64_t computeGrids(ActivationType type, Ranges &ranges);
  SmallVector<Value> createConstants(OpBuilder &builder, Location loc,
                                     ActivationType type, const Ranges &ranges);
  LogicalResult writeReport();

  Scheme scheme;
  NamePattern included, excluded;
  // Of one run; passes are copied, these are not.
  std::shared_ptr<SymbolTableCollection> tables;
  std::shared_ptr<CalibrationFile> file;
  llvm::json::Array sites, skipped;
};

} // namespace

LogicalResult QuantizeActivations::initialize(MLIRContext *context) {
  return parseOptions(context);
}

LogicalResult QuantizeActivations::parseOptions(MLIRContext *context) {
  scheme = Scheme();
  Result<ElementFormat> format = parseElement(element);
  if (!format.ok())
    return emitOptionError(context, "element") << format.message();
  scheme.element = format.take();
  Result<quant_llm::FloatType> type = parseFloatType(scale);
  if (!type.ok())
    return emitOptionError(context, "scale") << type.message();
  scheme.scaleType = *type;
  if (scheme.element.kind == ElementKind::UInt) {
    scheme.zero = ZeroKind::Integer;
    scheme.rule = ScaleRule::MinMax;
  }
  const bool isStatic = mode == ActivationRange::Static;
  switch (granularity) {
  case ActivationGranularity::Token:
    if (isStatic)
      return emitOptionError(context, "granularity")
             << "expected tensor or group with "
                "mode=static, since the tokens to come "
                "are not known, but got token";
    scheme.blockN = 1;
    scheme.blockK = -1;
    break;
  case ActivationGranularity::Group:
    if (group < 1)
      return emitOptionError(context, "group")
             << "expected the number of channels that share a "
                "scale, at least 1, but got "
             << int64_t(group);
    scheme.blockN = isStatic ? -1 : 1;
    scheme.blockK = group;
    break;
  case ActivationGranularity::Tensor:
    scheme.blockN = scheme.blockK = -1;
    break;
  }
  // An option that cannot matter is a mistake.
  const QuantizeActivationsOptions defaults;
  if (group != 0 && granularity != ActivationGranularity::Group)
    return emitOptionError(context, "group")
           << "expected it with granularity=group only";
  if (!(clip > 0 && clip <= 1))
    return emitOptionError(context, "clip")
           << "expected a number of more than 0 and at most 1 but got "
           << double(clip);
  if (isStatic == calibration.empty())
    return emitOptionError(context, "calibration")
           << (isStatic ? "expected a file, which mode=static needs"
                        : "expected none with mode=dynamic");
  if (anyModel && !isStatic)
    return emitOptionError(context, "any-model")
           << "expected it with mode=static only";
  if (!(percentile > 0 && percentile <= 1))
    return emitOptionError(context, "percentile")
           << "expected a fraction of more than 0 and at most 1 but got "
           << double(percentile);
  if (percentile != 1 && !isStatic)
    return emitOptionError(context, "percentile")
           << "expected it with mode=static only";
  if (outlierRatio != 0 && !isStatic)
    return emitOptionError(context, "outlier-ratio")
           << "expected it with mode=static only";
  if (outlierRatio != 0 && !(outlierRatio >= 1 && std::isfinite(outlierRatio)))
    return emitOptionError(context, "outlier-ratio")
           << "expected 0 or a finite number of at least 1 but got "
           << double(outlierRatio);
  if (!(outlierPercentile > 0 && outlierPercentile <= 1))
    return emitOptionError(context, "outlier-percentile")
           << "expected a fraction of more than 0 and at most 1 but got "
           << double(outlierPercentile);
  if (outlierRatio == 0 && outlierPercentile != defaults.outlierPercentile)
    return emitOptionError(context, "outlier-percentile")
           << "expected none without the option outlier-ratio";
  if (scheme.zero == ZeroKind::Integer &&
      (percentile != 1 || outlierRatio != 0))
    return emitOptionError(context,
                           percentile != 1 ? "percentile" : "outlier-ratio")
           << "expected none with an element without sign, since percentiles "
              "are of magnitudes";
  auto illegal = [&] {
    return emitOptionsError(context) << "the options are no legal scheme: ";
  };
  const int64_t shape[] = {1};
  SchemeAttr attribute =
      SchemeAttr::fromNumericsChecked(illegal, context, scheme);
  if (!attribute ||
      !ActivationType::getChecked(illegal, context, ArrayRef<int64_t>(shape),
                                  Type(Float32Type::get(context)), attribute))
    return failure();

  return success(succeeded(setPattern(context, "include", include, included)) &&
                 succeeded(setPattern(context, "exclude", exclude, excluded)));
}

/// Why the input of a linear stays as it is; nothing if it is to be quantized.
std::optional<std::string>
QuantizeActivations::getReasonToSkip(LinearOpInterface linear,
                                     SmallVector<std::string> &names) {
  for (Value weight : linear.getWeights())
    if (ParameterOp parameter = getParameterOf(weight, tables.get()))
      names.push_back(parameter.getSymName().str());
  if (isa<ActivationType>(linear.getInput().getType()))
    return "its input is quantized already";
  if (linear.getKernelsAttr())
    return "its GPU kernels are chosen already";
  auto matches = [&](const NamePattern &pattern) {
    return llvm::any_of(
        names, [&](const std::string &name) { return pattern.match(name); });
  };
  if (included && !matches(included))
    return "not included";
  if (excluded && matches(excluded))
    return "excluded";
  return std::nullopt;
}

void QuantizeActivations::runOnOperation() {
  ModuleOp module = getOperation();
  tables = std::make_shared<SymbolTableCollection>();
  file.reset();
  sites.clear();
  skipped.clear();
  ParameterArchives archives(baseDir);
  if (failed(verifyReportFile(
          module, archives, reportFile, {{"calibration", calibration}},
          [&] { return module.emitError() << kPassName << ": "; })))
    return signalPassFailure();
  if (mode == ActivationRange::Static) {
    FailureOr<CalibrationFile> opened =
        openCalibration(module, calibration, archives, anyModel);
    if (failed(opened))
      return signalPassFailure();
    file = std::make_shared<CalibrationFile>(std::move(*opened));
  }
  llvm::MapVector<std::pair<Value, Block *>, Site> found;
  module.walk([&](LinearOpInterface linear) {
    SmallVector<std::string> names;
    std::optional<std::string> reason = getReasonToSkip(linear, names);
    if (!reason) {
      Site &site = found[{linear.getInput(), linear->getBlock()}];
      site.linears.push_back(linear);
      llvm::append_range(site.names, names);
      return;
    }
    for (const std::string &name : names)
      skipped.push_back(
          llvm::json::Object{{"name", name}, {"reason", *reason}});
    remark::analysis(linear.getLoc(),
                     remark::RemarkOpts::name("skipped").category(kPassName))
        << "the input of " + llvm::join(names, ", ") +
               " is not quantized: " + *reason;
  });
  for (auto &[key, site] : found)
    if (failed(quantize(key.first, site)))
      return signalPassFailure();
  if (!reportFile.empty() && failed(writeReport()))
    signalPassFailure();
}

LogicalResult QuantizeActivations::quantize(Value input, Site &site) {
  auto inputType = cast<RankedTensorType>(input.getType());
  LinearOpInterface first = site.linears.front();
  OpBuilder builder(first);
  Location loc = first.getLoc();
  llvm::json::Object entry;
  Scheme chosen = scheme;
  std::optional<Ranges> ranges;
  if (mode == ActivationRange::Static) {
    FailureOr<Ranges> read = readRanges(site, inputType.getShape().back());
    if (failed(read))
      return failure();
    ranges.emplace(std::move(*read));
    float range = 0;
    for (auto [low, high] : llvm::zip_equal(ranges->low, ranges->high))
      range = std::max({range, -low, high});
    const int64_t numDead = computeGrids(
        ActivationType::get(inputType.getShape(), inputType.getElementType(),
                            SchemeAttr::fromNumerics(&getContext(), scheme)),
        *ranges);
    entry["absmax"] = ranges->absMax;
    entry["range"] = range;
    if (outlierRatio != 0)
      entry["typical"] = ranges->typical;
    bool isOutlier =
        outlierRatio != 0 && ranges->absMax > outlierRatio * ranges->typical;
    bool isDead = numDead == static_cast<int64_t>(ranges->low.size());
    if (numDead != 0 && !isOutlier && !isDead) {
      entry["dead_groups"] = numDead;
      remark::analysis(
          loc, remark::RemarkOpts::name("dead-groups").category(kPassName))
          << "groups of the inputs of " + llvm::join(site.names, ", ") +
                 " have ranges that round to 0, and get the scale of the "
                 "widest one"
          << remark::metric("groups", numDead);
    }
    if (isOutlier || isDead) {
      numOutliers += isOutlier;
      StringRef dead = range == 0 ? "always 0" : "a range that rounds to 0";
      entry["reason"] = isOutlier ? "outlier tokens" : dead;
      remark::analysis(loc,
                       remark::RemarkOpts::name(isOutlier ? "outliers" : "dead")
                           .category(kPassName))
          << "the inputs of " + llvm::join(site.names, ", ") +
                 (isOutlier    ? " have outlier tokens"
                  : range == 0 ? " were always 0"
                               : " have a range that rounds to 0") +
                 ", and get a scale per token"
          << remark::metric("absmax", ranges->absMax)
          << remark::metric("typical", ranges->typical);
      chosen.blockN = 1;
      chosen.blockK = -1;
      ranges.reset();
    }
  }
  auto type =
      ActivationType::get(inputType.getShape(), inputType.getElementType(),
                          SchemeAttr::fromNumerics(&getContext(), chosen));
  SmallVector<Value> given;
  if (ranges)
    given = createConstants(builder, loc, type, *ranges);
  FloatAttr ratio;
  if (!ranges && clip != 1.0)
    ratio = builder.getF32FloatAttr(clip);
  Value activation =
      QuantizeActivationOp::create(builder, loc, type, input, given, ratio);
  for (LinearOpInterface linear : site.linears) {
    // The input is the first operand of both ops.
    linear->setOperand(0, activation);
    ++numLinears;
  }
  ++numSites;

  std::string text;
  llvm::raw_string_ostream(text) << type.getScheme();
  entry["linears"] = llvm::json::Array(site.names);
  entry["mode"] = ranges ? "static" : "dynamic";
  entry["scheme"] = text;
  sites.push_back(std::move(entry));
  remark::passed(loc, remark::RemarkOpts::name("quantized").category(kPassName))
      << "the input of " + llvm::join(site.names, ", ") + ", " +
             (ranges ? "static" : "dynamic");
  return success();
}

FailureOr<Ranges> QuantizeActivations::readRanges(Site &site,
                                                  int64_t channels) {
  LinearOpInterface first = site.linears.front();
  auto linear = dyn_cast<LinearOp>(*first);
  ParameterOp parameter;
  if (linear)
    parameter = getParameterOf(linear.getWeights().front(), tables.get());
  if (!parameter)
    return first->emitOpError(
        "has no static range: expected a quant_llm.linear with a parameter as "
        "its weight; exclude it, or quantize it with mode=dynamic");
  auto read = [&](std::string_view statistic) {
    return readStatistic(*file, statistic, linear, parameter);
  };
  FailureOr<std::vector<float>> absMax = read(statistic::absMax);
  if (failed(absMax))
    return failure();
  auto readQuantile = [&](double fraction) -> FailureOr<std::vector<float>> {
    const std::vector<double> &known = file->quantiles();
    auto at = std::find_if(known.begin(), known.end(), [&](double other) {
      return std::abs(other - fraction) < 1e-9;
    });
    if (at == known.end()) {
      auto diagnostic = linear.emitOpError("expected ")
                        << std::string(calibration) << " to have the quantile "
                        << fraction << " but got";
      if (known.empty())
        diagnostic << " none; calibrate with the statistic quantiles";
      for (double other : known)
        diagnostic << " " << other;
      return failure();
    }
    Result<std::vector<float>> all =
        file->read(statistic::quantiles, parameter.getSymName().str(),
                   {int64_t(known.size()), channels});
    if (!all.ok())
      return linear.emitOpError(all.message());
    auto row = all->begin() + (at - known.begin()) * channels;
    return std::vector<float>(row, row + channels);
  };
  Ranges ranges;
  ranges.absMax = *std::max_element(absMax->begin(), absMax->end());
  if (outlierRatio != 0) {
    FailureOr<std::vector<float>> typical = readQuantile(outlierPercentile);
    if (failed(typical))
      return failure();
    ranges.typical = *std::max_element(typical->begin(), typical->end());
  }
  std::vector<float> low, high;
  if (scheme.zero == ZeroKind::Integer) {
    FailureOr<std::vector<float>> min = read(statistic::min),
                                  max = read(statistic::max);
    if (failed(min) || failed(max))
      return failure();
    low = std::move(*min);
    high = std::move(*max);
  } else {
    high = std::move(*absMax);
    if (percentile != 1) {
      FailureOr<std::vector<float>> quantile = readQuantile(percentile);
      if (failed(quantile))
        return failure();
      high = std::move(*quantile);
    }
    low.assign(high.size(), 0.0f);
  }
  const int64_t size = scheme.blockK < 0 ? channels : scheme.blockK;
  for (int64_t k = 0; k < channels; k += std::min(size, channels - k)) {
    auto end = std::min(channels, k + std::min(size, channels - k));
    ranges.low.push_back(
        std::min(0.0f, *std::min_element(low.begin() + k, low.begin() + end)));
    ranges.high.push_back(std::max(
        0.0f, *std::max_element(high.begin() + k, high.begin() + end)));
  }
  return ranges;
}

/// Scales and zeros of the ranges. Scales that are 0 would make every value 0,
/// whatever comes: such a group gets those of the group with the largest scale.
/// Returns how many are such.
int64_t QuantizeActivations::computeGrids(ActivationType type, Ranges &ranges) {
  Result<Element> grid = Element::get(scheme.element);
  const double largest = grid->maxValue();
  const llvm::fltSemantics &semantics =
      cast<mlir::FloatType>(type.getComponents()[1].type.getElementType())
          .getFloatSemantics();
  size_t widest = 0;
  for (auto [low, high] : llvm::zip_equal(ranges.low, ranges.high)) {
    // What is done with ranges of data, in the same steps.
    const float ratio = clip;
    float range =
        ratio * (scheme.zero == ZeroKind::Integer ? high - low : high);
    APFloat stored(range / static_cast<float>(largest));
    bool losesInfo;
    stored.convert(semantics, APFloat::rmNearestTiesToEven, &losesInfo);
    if (stored.isInfinity())
      stored = APFloat::getLargest(semantics);
    APFloat wide = stored;
    wide.convert(APFloat::IEEEsingle(), APFloat::rmNearestTiesToEven,
                 &losesInfo);
    const float step = wide.convertToFloat();
    double zero = step > 0 ? std::nearbyint(-ratio * low / step) : 0.0;
    ranges.scales.push_back(stored);
    ranges.zeros.push_back(static_cast<int8_t>(
        static_cast<uint8_t>(std::clamp(zero, 0.0, largest))));
    if (ranges.scales[widest] < stored)
      widest = ranges.scales.size() - 1;
  }
  int64_t numDead = 0;
  for (auto [scale, zero] : llvm::zip_equal(ranges.scales, ranges.zeros))
    if (scale.isZero()) {
      scale = ranges.scales[widest];
      zero = ranges.zeros[widest];
      ++numDead;
    }
  return numDead;
}

SmallVector<Value> QuantizeActivations::createConstants(OpBuilder &builder,
                                                        Location loc,
                                                        ActivationType type,
                                                        const Ranges &ranges) {
  SmallVector<WeightComponent> components = type.getComponents();
  SmallVector<Value> given;
  given.push_back(arith::ConstantOp::create(
      builder, loc, DenseElementsAttr::get(components[1].type, ranges.scales)));
  if (scheme.zero == ZeroKind::Integer)
    given.push_back(arith::ConstantOp::create(
        builder, loc,
        DenseElementsAttr::get(components[2].type,
                               ArrayRef<int8_t>(ranges.zeros))));
  return given;
}

LogicalResult QuantizeActivations::writeReport() {
  llvm::json::Object object{{"sites", std::move(sites)},
                            {"skipped", std::move(skipped)}};
  if (Status status = quant_llm::writeReport(reportFile, std::move(object));
      !status.ok())
    return getOperation()->emitError() << kPassName << ": " << status.message();
  return success();
}
