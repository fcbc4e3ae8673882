//===- QuantizeWeights.cpp - From dense parameters to weights -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NewArchive.h has the phases of the pass, which it shares with others.
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"
#include "NewArchive.h"
#include "Report.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Methods/ClipSearch.h"
#include "quant-llm/Methods/HalfQuadratic.h"
#include "quant-llm/Methods/LowRank.h"
#include "quant-llm/Methods/SecondOrder.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Metrics.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <memory>
#include <optional>

namespace quant_llm {
#define GEN_PASS_DEF_QUANTIZEWEIGHTS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-quantize";

namespace {

/// Scales that are the largest or the smallest positive number of their type.
struct EndScales {
  int64_t largest = 0, smallest = 0;
};

/// A parameter to be quantized; the dense one is kept for other uses.
struct Quantized : MovedWeight {
  TensorInfo info;
  std::string reason;

  // Filled while writing.
  ErrorMetrics errors;
  SecondOrderReport outputs;
  LowRankReport lowRank;
  int lowRankSteps = 0;
  EndScales endScales;
  /// If it was corrected.
  std::optional<DriftReport> drift;
  /// The errors of the outputs are known.
  bool hasOutputs = false;

  bool hasLowRank() { return type.getScheme().getLowRank() != 0; }
};

struct QuantizeWeights : quant_llm::impl::QuantizeWeightsBase<QuantizeWeights> {
  using QuantizeWeightsBase::QuantizeWeightsBase;

  LogicalResult initialize(MLIRContext *context) override {
    if (needsHessian(method) && calibration.empty())
      return emitOptionError(context, "calibration",
                             "expected a file with the Hessians that the "
                             "method needs; quant-llm calibrate writes one");
    if (clip != ClipObjective::None && calibration.empty())
      return emitOptionError(context, "calibration",
                             "expected a file with the statistics that the "
                             "clip needs; quant-llm calibrate writes one");
    if (clip != ClipObjective::None && method != QuantizationMethod::Nearest &&
        !needsHessian(method))
      return emitOptionError(
          context, "clip",
          "expected none with a method that chooses scales or "
          "zeros itself; choose nearest, gptq or quantease");
    if (clip != ClipObjective::None && method == QuantizationMethod::GPTQ &&
        !staticGroups && !actOrder)
      return emitOptionError(context, "clip",
                             "expected static groups with gptq, which else "
                             "chooses the scales itself; add static-groups or "
                             "act-order");
    if (clipGrid < 1 || clipGrid > kMostClipSteps)
      return emitOptionError(context, "clip-grid",
                             "expected 1 to " + Twine(kMostClipSteps) +
                                 " steps but got " + Twine(clipGrid));
    if (!(clipShrink > 0.0 && clipShrink <= 1.0))
      return emitOptionError(context, "clip-shrink",
                             "expected a part above 0 and at most 1 but got " +
                                 Twine(std::to_string(clipShrink)));
    if (anyModel && calibration.empty())
      return emitOptionError(context, "any-model",
                             "expected none without the option calibration");
    if (!(damping >= 0.0 && damping <= kMostDamping)) {
      std::string text;
      llvm::raw_string_ostream(text)
          << llvm::format("expected a number from 0 to %g but got %g",
                          kMostDamping, double(damping));
      return emitOptionError(context, "damping", text);
    }
    for (auto [name, strength] :
         {std::pair<StringRef, double>("drift", drift),
          std::pair<StringRef, double>("residual-drift", residualDrift)}) {
      if (!(strength >= 0.0 && strength <= 1.0))
        return emitOptionError(context, name,
                               "expected a number from 0 to 1 but got " +
                                   Twine(std::to_string(strength)));
      if (strength != 0.0 && !needsHessian(method))
        return emitOptionError(context, name,
                               "expected none with a method that follows no "
                               "errors of outputs; choose gptq or quantease");
    }
    if (sweeps < 1)
      return emitOptionError(context, "sweeps",
                             "expected at least 1 but got " + Twine(sweeps));
    if (threads > unsigned(kMostThreads))
      return emitOptionError(context, "threads",
                             "expected at most " + Twine(kMostThreads) +
                                 " but got " + Twine(threads));
    if (failed(setPattern(context, "include", include, included)) ||
        failed(setPattern(context, "clip-exclude", clipExclude, unclipped)))
      return failure();
    if (lowRankSteps < 1)
      return emitOptionError(context, "low-rank-steps",
                             "expected at least 1 but got " +
                                 Twine(lowRankSteps));
    // An option that cannot matter is a mistake.
    const QuantizeWeightsOptions defaults;
    if (clip == ClipObjective::None) {
      const char *message = "expected none without a clip";
      if (clipGrid != defaults.clipGrid)
        return emitOptionError(context, "clip-grid", message);
      if (clipShrink != defaults.clipShrink)
        return emitOptionError(context, "clip-shrink", message);
      if (clipEachEnd)
        return emitOptionError(context, "clip-each-end", message);
      if (!clipExclude.empty())
        return emitOptionError(context, "clip-exclude", message);
    }
    if (lowRank == 0 && lowRankType != defaults.lowRankType)
      return emitOptionError(context, "low-rank-type",
                             "expected none without the option low-rank");
    if (method != QuantizationMethod::QuantEase) {
      const char *message = "expected none with another method than quantease";
      if (sweeps != defaults.sweeps)
        return emitOptionError(context, "sweeps", message);
      if (relax != defaults.relax)
        return emitOptionError(context, "relax", message);
      if (startFromGPTQ)
        return emitOptionError(context, "start-from-gptq", message);
    }
    if (!usesGPTQ()) {
      const char *message = "expected none without gptq; choose method=gptq, "
                            "or quantease with start-from-gptq";
      if (damping != defaults.damping && calibration.empty())
        return emitOptionError(context, "damping", message);
      if (actOrder)
        return emitOptionError(context, "act-order", message);
      if (staticGroups)
        return emitOptionError(context, "static-groups", message);
    }
    return success();
  }

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  bool usesGPTQ() const {
    return method == QuantizationMethod::GPTQ || startFromGPTQ;
  }
  bool needsStatistics() const {
    return needsHessian(method) || clip != ClipObjective::None;
  }
  bool followsDrift() const { return drift != 0.0 || residualDrift != 0.0; }
  bool hasResidualDrift(const std::string &name) const {
    return residualDrift != 0.0 &&
           statistics->contains(statistic::residualDrift, name);
  }
  bool isClipped(StringRef name) const {
    return clip != ClipObjective::None && !(unclipped && unclipped.match(name));
  }
  bool isIncluded(StringRef name) const {
    return !included || included.match(name);
  }
  LogicalResult run();
  LogicalResult collect();
  LogicalResult failNothingToDo();
  LogicalResult plan(ParameterArchives &archives, NewArchive &newArchive);
  LogicalResult write(ParameterArchives &archives, NewArchive &newArchive);
  LogicalResult verifyLowRankOptions();
  WeightType getStoredType(LinearOpInterface linear, RankedTensorType dense);
  LogicalResult verifyStatistics(Quantized &entry);
  FailureOr<QuantizedMatrix> quantizeWeight(Quantized &entry,
                                            const MatrixView &matrix,
                                            const Scheme &scheme);
  std::string makeReport();
  void rewrite(NewArchive &newArchive);

  llvm::MapVector<Operation *, Quantized> quantized;
  std::vector<CopiedParameter> copied;
  std::vector<ParameterOp> untouched;
  /// One with a scheme that the option include leaves out.
  ParameterOp left;
  /// Weights that are negative and cannot be.
  int64_t numNegative = 0, numCounted = 0;
  SchemeAttr schemeWithoutSign;
  std::shared_ptr<const CalibrationFile> statistics;
  NamePattern included, unclipped;
};

} // namespace

/// "model.layers.0.mlp.up_proj.weight" -> "up_proj": what matrices of different
/// layers have in common.
static std::string getKind(StringRef name) {
  name.consume_back(".weight");
  return name.substr(name.rfind('.') + 1).str();
}

/// Says why there is nothing to quantize.
LogicalResult QuantizeWeights::failNothingToDo() {
  if (left)
    return emitOptionError(
        &getContext(), "include",
        "expected a match in the name of a parameter with a scheme, such as '" +
            left.getSymName() + "', but '" + include + "' has none");
  LinearOpInterface dense, done;
  getOperation()->walk([&](LinearOpInterface linear) {
    if (linear.isQuantized())
      done = done ? done : linear;
    else if (linear.getReasonAttr())
      dense = dense ? dense : linear;
  });
  InFlightDiagnostic diag = getOperation().emitError() << kPassName << ": ";
  auto explainDense = [&] {
    if (ParameterOp parameter = getParameterOf(dense.getWeights().front()))
      diag << "'" << parameter.getSymName() << "' stays ";
    diag << dense.getReasonAttr().getValue();
  };
  if (done) {
    diag << "the linears of the module are quantized already";
    if (dense) {
      diag << ", but for those that stay dense (";
      explainDense();
      diag << ")";
    }
    diag << "; start from the module with the dense weights";
  } else if (dense) {
    diag << "no linear has a scheme to apply: ";
    explainDense();
  } else {
    diag << "no linear has a scheme to apply; run "
            "quant-llm-choose-granularity first";
  }
  return diag;
}

/// The type under the scheme of the linear, with the low-rank part that the
/// options ask for; null if that is not possible.
WeightType QuantizeWeights::getStoredType(LinearOpInterface linear,
                                          RankedTensorType dense) {
  auto emitError = [&] { return linear.emitOpError("cannot be quantized: "); };
  SchemeAttr scheme = linear.getSchemeAttr();
  if (lowRank != 0 && scheme.getLowRank() == 0) {
    Scheme wanted = scheme.toNumerics();
    wanted.lowRank = lowRank;
    wanted.lowRankType = lowRankType;
    scheme = SchemeAttr::fromNumericsChecked(emitError, &getContext(), wanted);
    if (!scheme)
      return nullptr;
  }
  return WeightType::getChecked(emitError, &getContext(), dense.getShape(),
                                dense.getElementType(), scheme,
                                WeightLayoutAttrInterface());
}

/// Options that are about low-rank parts, which schemes may have without the
/// option low-rank.
LogicalResult QuantizeWeights::verifyLowRankOptions() {
  bool any = llvm::any_of(
      quantized, [](auto &entry) { return entry.second.hasLowRank(); });
  bool weighsLowRank =
      any && (needsHessian(method) || clip != ClipObjective::Fisher);
  if (damping != QuantizeWeightsOptions().damping && !usesGPTQ() &&
      !weighsLowRank && !followsDrift())
    return emitOptionError("damping",
                           "expected none without gptq and without low-rank "
                           "parts that a Hessian weighs, since nothing else "
                           "uses it");
  if (any)
    return success();
  if (!needsStatistics() && !calibration.empty())
    return emitOptionError("calibration",
                           "expected none with a method without "
                           "statistics; choose gptq or quantease, a clip, "
                           "or low-rank parts");
  if (lowRankSteps != 1)
    return emitOptionError("low-rank-steps",
                           "expected none without low-rank parts");
  return success();
}

LogicalResult QuantizeWeights::collect() {
  quantized.clear();
  copied.clear();
  untouched.clear();
  numNegative = numCounted = 0;
  left = {};

  SymbolTableCollection tables;
  bool ok = true;
  getOperation()->walk([&](LinearOpInterface linear) {
    SchemeAttr scheme = linear.getSchemeAttr();
    if (!scheme)
      return;
    for (Value weight : linear.getWeights()) {
      if (isa<WeightType>(weight.getType()))
        continue;
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter) {
        InFlightDiagnostic diag = linear.emitOpError(
            "has a scheme, but its weight is not a parameter of an archive");
        diag.attachNote(weight.getLoc()) << "the weight is defined here";
        ok = false;
        continue;
      }
      if (!isIncluded(parameter.getSymName())) {
        left = left ? left : parameter;
        continue;
      }
      auto dense = cast<RankedTensorType>(parameter.getType());
      WeightType type = getStoredType(linear, dense);
      if (!type) {
        ok = false;
        continue;
      }
      Quantized &entry = quantized[parameter];
      if (!entry.parameter) {
        entry.parameter = parameter;
        entry.type = type;
        if (StringAttr reason = linear.getReasonAttr())
          entry.reason = reason.str();
      } else if (entry.type != type) {
        InFlightDiagnostic diag = linear.emitOpError("expected the scheme ")
                                  << entry.type.getScheme()
                                  << " that another linear of parameter "
                                  << parameter.getSymNameAttr()
                                  << " has, but got " << type.getScheme();
        diag.attachNote(entry.linears.front().getLoc())
            << "the other linear is here";
        ok = false;
      }
      if (entry.linears.empty() || entry.linears.back() != linear)
        entry.linears.push_back(linear);
    }
  });
  if (!ok)
    return failure();
  if (quantized.empty())
    return failNothingToDo();

  findOtherUses(getOperation(), [&](ParameterOp parameter) -> MovedWeight * {
    auto entry = quantized.find(parameter);
    return entry == quantized.end() ? nullptr : &entry->second;
  });
  return success();
}

static StringRef getMethodName(QuantizationMethod method) {
  switch (method) {
  case QuantizationMethod::Nearest:
    return "nearest";
  case QuantizationMethod::HalfQuadratic:
    return "hqq";
  case QuantizationMethod::GPTQ:
    return "gptq";
  case QuantizationMethod::QuantEase:
    return "quantease";
  case QuantizationMethod::EasyQuant:
    return "easyquant";
  }
  llvm_unreachable("a method without name");
}

static StringRef getClipName(ClipObjective clip) {
  switch (clip) {
  case ClipObjective::None:
    return "none";
  case ClipObjective::Diagonal:
    return "diagonal";
  case ClipObjective::Output:
    return "output";
  case ClipObjective::Fisher:
    return "fisher";
  }
  llvm_unreachable("a clip without name");
}

LogicalResult QuantizeWeights::verifyStatistics(Quantized &entry) {
  if (!statistics)
    return success();
  LinearOpInterface first = entry.linears.front();
  auto linear = dyn_cast<LinearOp>(*first);
  if (!linear)
    return first->emitOpError("expected quant_llm.linear for ")
           << (needsHessian(method) ? "method " : "a calibration with method ")
           << getMethodName(method)
           << ", because calibration files know the inputs of no other "
              "op; choose method nearest or hqq, without a clip";
  int64_t n = linear.getN(), k = linear.getK();
  const std::string name = entry.parameter.getSymName().str();
  Status status;
  if (needsHessian(method) || clip != ClipObjective::Fisher)
    status = statistics->checkShape(statistic::hessian, name, {k, k});
  if (status.ok() && drift != 0.0)
    status = statistics->checkShape(statistic::drift, name, {k, k});
  if (status.ok() && hasResidualDrift(name))
    status = statistics->checkShape(statistic::residualDrift, name, {n, k});
  if (status.ok() && clip == ClipObjective::Fisher)
    status = statistics->checkShape(statistic::fisher, name, {n, k});
  if (!status.ok())
    return linear.emitOpError(status.message());
  return success();
}

LogicalResult QuantizeWeights::plan(ParameterArchives &archives,
                                    NewArchive &newArchive) {
  bool ok = true;
  statistics.reset();
  if (failed(verifyLowRankOptions()))
    return failure();
  if (!calibration.empty()) {
    FailureOr<CalibrationFile> file =
        openCalibration(getOperation(), calibration, archives, anyModel);
    if (failed(file))
      return failure();
    statistics = std::make_shared<CalibrationFile>(std::move(*file));
  }
  for (auto &[key, entry] : quantized) {
    FailureOr<TensorInfo> info = archives.find(entry.parameter);
    if (failed(info)) {
      ok = false;
      continue;
    }
    entry.info = std::move(*info);
    // What is not in the file is found before anything is written.
    ok &= succeeded(verifyStatistics(entry));
    Status status = verifyScheme(entry.type.getScheme().toNumerics(),
                                 entry.type.getN(), entry.type.getK());
    if (status.ok() && method == QuantizationMethod::HalfQuadratic)
      status = verifyHalfQuadraticScheme(entry.type.getScheme().toNumerics());
    if (status.ok() && method == QuantizationMethod::EasyQuant)
      status = verifyEasyQuantScheme(entry.type.getScheme().toNumerics());
    if (!status.ok()) {
      entry.parameter.emitOpError("cannot be quantized: ") << status.message();
      ok = false;
    }
  }
  if (residualDrift != 0.0 && statistics && !quantized.empty() &&
      llvm::none_of(quantized, [&](auto &entry) {
        return hasResidualDrift(entry.second.parameter.getSymName().str());
      }))
    getOperation().emitWarning()
        << kPassName
        << ": the option 'residual-drift' changes nothing, because "
        << "'" << calibration << "' has the statistic residual-drift of no "
        << "weight that is quantized";
  for (auto parameter : getOperation().getOps<ParameterOp>()) {
    auto entry = quantized.find(parameter);
    if (entry != quantized.end() && !entry->second.keepOld)
      continue;
    if (!copyDense) {
      untouched.push_back(parameter);
      continue;
    }
    FailureOr<CopiedParameter> copy = findCopied(archives, parameter);
    if (succeeded(copy))
      copied.push_back(std::move(*copy));
    ok &= succeeded(copy);
  }
  if (!ok)
    return failure();

  for (auto &[key, entry] : quantized)
    newArchive.addParameter(entry.parameter);
  for (CopiedParameter &copy : copied)
    if (!quantized.contains(copy.parameter))
      newArchive.addParameter(copy.parameter);
  if (failed(newArchive.declare(copied)))
    return failure();
  for (auto &[key, entry] : quantized) {
    entry.key = newArchive.getNewKey(entry.parameter);
    if (failed(newArchive.declare(entry)))
      return failure();
  }
  return success();
}

/// Adds the numbers of negative and of all weights.
static void countNegative(const MatrixView &matrix, int64_t &negative,
                          int64_t &all) {
  std::vector<float> row(static_cast<size_t>(matrix.k));
  for (int64_t n = 0; n < matrix.n; ++n) {
    loadRow(matrix, n, 0, matrix.k, row.data());
    negative += llvm::count_if(row, [](float x) { return x < 0; });
  }
  all += matrix.n * matrix.k;
}

/// Of the scales that are stored as numbers: with a scheme of scales, its own.
static quant_llm::FloatType getScaleType(const Scheme &scheme) {
  return scheme.scaleScheme ? scheme.scaleScheme->scaleType : scheme.scaleType;
}

/// How many scales are the largest or the smallest positive number of their
/// type, to which those beyond are clamped (docs/Spec.md, section 3.1).
static EndScales countEndScales(const QuantizedMatrix &stored,
                                const Scheme &scheme) {
  const quant_llm::FloatType type = getScaleType(scheme);
  const size_t width = floatTypeBytes(type);
  EndScales count;
  for (size_t at = 0; at + width <= stored.scales.size(); at += width) {
    const float scale = loadFloat(type, stored.scales.data() + at);
    count.largest += scale >= maxFinite(type);
    // Of blocks of zeros, which this type has no other scale for, and of
    // weights below 2^-127, which are not told from these.
    count.smallest +=
        type != quant_llm::FloatType::F8E8M0FNU && scale == minPositive(type);
  }
  return count;
}

/// A warning where a wider type would have had other scales.
static void warnOfEndScales(ParameterOp parameter, const EndScales &count,
                            quant_llm::FloatType type, size_t all) {
  using quant_llm::FloatType;
  auto warn = [&](int64_t number, float end, const char *which,
                  const char *beyond) {
    parameter.emitWarning()
        << kPassName << ": " << number << " of " << all << " scales of '"
        << parameter.getSymName() << "' are " << double(end) << ", the "
        << which << " " << floatTypeName(type) << ", as are all that should be "
        << beyond << "; where the errors of the report are large, use scales "
        << "of a wider type (bf16 or f32)";
  };
  if (count.largest != 0 && maxFinite(type) < maxFinite(FloatType::BF16))
    warn(count.largest, maxFinite(type), "largest", "larger");
  if (count.smallest != 0 && minPositive(type) > minPositive(FloatType::BF16))
    warn(count.smallest, minPositive(type), "smallest positive", "smaller");
}

/// The matrix without the low-rank part of what is stored.
static std::vector<float> subtractLowRank(const MatrixView &matrix,
                                          const QuantizedMatrix &stored,
                                          const Scheme &scheme, int threads) {
  size_t width = floatTypeBytes(scheme.lowRankType);
  auto at = [&](const std::vector<uint8_t> &bytes, int64_t index) {
    return loadFloat(scheme.lowRankType,
                     bytes.data() + static_cast<size_t>(index) * width);
  };
  std::vector<float> values(static_cast<size_t>(matrix.n * matrix.k));
  std::vector<float> b(static_cast<size_t>(scheme.lowRank * matrix.k));
  for (size_t i = 0; i < b.size(); ++i)
    b[i] = at(stored.lowRankB, static_cast<int64_t>(i));
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float *to = values.data() + row * matrix.k;
      loadRow(matrix, row, 0, matrix.k, to);
      for (int64_t j = 0; j < scheme.lowRank; ++j) {
        float factor = at(stored.lowRankA, row * scheme.lowRank + j);
        for (int64_t i = 0; i < matrix.k; ++i)
          to[i] -= factor * b[static_cast<size_t>(j * matrix.k + i)];
      }
    }
  });
  return values;
}

FailureOr<QuantizedMatrix>
QuantizeWeights::quantizeWeight(Quantized &entry, const MatrixView &matrix,
                                const Scheme &scheme) {
  ParameterOp parameter = entry.parameter;
  std::string name = parameter.getSymName().str();
  std::vector<float> hessian, fisher, diagonal;
  if (statistics && (needsHessian(method) || clip != ClipObjective::Fisher)) {
    FailureOr<std::vector<float>> values =
        readStatistic(*statistics, statistic::hessian,
                      cast<LinearOp>(*entry.linears.front()), parameter);
    if (failed(values))
      return failure();
    hessian = std::move(*values);
  }
  ClipImportance importance;
  if (clip == ClipObjective::Fisher) {
    Result<std::vector<float>> values =
        statistics->read(statistic::fisher, name, {matrix.n, matrix.k});
    if (!values.ok())
      return entry.linears.front()->emitOpError(values.message());
    fisher = values.take();
    importance.elements = fisher.data();
  } else if (clip == ClipObjective::Diagonal) {
    for (int64_t i = 0; i < matrix.k; ++i)
      diagonal.push_back(hessian[static_cast<size_t>(i * matrix.k + i)]);
    importance.columns = diagonal.data();
  } else if (clip == ClipObjective::Output) {
    importance.hessian = {hessian.data(), matrix.k};
  }
  GPTQOptions gptq;
  gptq.damping = damping;
  gptq.actOrder = actOrder;
  gptq.staticGroups = staticGroups;
  gptq.measureErrors = !report.empty();
  HessianView hessianView{hessian.data(), matrix.k};
  Scheme codes = scheme;
  codes.lowRank = 0;
  auto run = [&](const MatrixView &matrix,
                 SecondOrderReport *outputs) -> Result<QuantizedMatrix> {
    // The scales and zeros of clipped ranges are there for the method to keep.
    std::optional<QuantizedMatrix> clipped;
    if (isClipped(name)) {
      ClipOptions options;
      options.grid = clipGrid;
      options.shrink = clipShrink;
      options.eachEnd = clipEachEnd;
      Result<QuantizedMatrix> found =
          quantizeClipped(matrix, codes, importance, options, name, threads);
      if (!found.ok() || method == QuantizationMethod::Nearest)
        return found;
      clipped = found.take();
    }
    const QuantizedMatrix *start = clipped ? &*clipped : nullptr;
    switch (method) {
    case QuantizationMethod::Nearest:
      break;
    case QuantizationMethod::HalfQuadratic:
      return quantizeHalfQuadratic(matrix, codes, {}, name, threads);
    case QuantizationMethod::GPTQ:
      return quantizeGPTQ(matrix, codes, hessianView, gptq, name, threads,
                          outputs, start);
    case QuantizationMethod::QuantEase: {
      QuantEaseOptions options;
      options.sweeps = sweeps;
      options.relax = relax;
      options.startFromGPTQ = startFromGPTQ;
      options.gptq = gptq;
      return quantizeQuantEase(matrix, codes, hessianView, options, name,
                               threads, outputs, start);
    }
    case QuantizationMethod::EasyQuant:
      return quantizeEasyQuant(matrix, codes, {}, name, threads);
    }
    return quantize(matrix, codes, name, threads);
  };
  std::vector<float> corrected;
  MatrixView target = matrix;
  if (drift != 0.0 || hasResidualDrift(name)) {
    std::vector<float> ofInputs, ofResidual;
    auto read = [&](std::string_view which, std::vector<float> &values) {
      FailureOr<std::vector<float>> found =
          readStatistic(*statistics, which,
                        cast<LinearOp>(*entry.linears.front()), parameter);
      if (succeeded(found))
        values = std::move(*found);
      return success(succeeded(found));
    };
    Drift wanted;
    if (drift != 0.0) {
      if (failed(read(statistic::drift, ofInputs)))
        return failure();
      wanted.inputs = ofInputs.data();
      wanted.inputStrength = drift;
    }
    if (hasResidualDrift(name)) {
      if (failed(read(statistic::residualDrift, ofResidual)))
        return failure();
      wanted.residual = ofResidual.data();
      wanted.residualStrength = residualDrift;
    }
    Result<std::vector<float>> result =
        correctForDrift(matrix, hessianView, wanted, damping, name, threads,
                        &entry.drift.emplace());
    if (!result.ok())
      return parameter.emitOpError("cannot be quantized: ") << result.message();
    corrected = result.take();
    target = {corrected.data(), SourceType::F32, matrix.n, matrix.k};
  }
  Result<QuantizedMatrix> stored = run(target, &entry.outputs);
  if (!stored.ok())
    return parameter.emitOpError("cannot be quantized: ") << stored.message();
  if (scheme.lowRank != 0) {
    const HessianView *weighting = hessian.empty() ? nullptr : &hessianView;
    auto add = [&](QuantizedMatrix &to, LowRankReport &report) {
      return addLowRank(target, scheme, weighting, damping, name, threads, to,
                        &report);
    };
    Status status = add(*stored, entry.lowRank);
    entry.lowRankSteps = 1;
    while (status.ok() && entry.lowRankSteps < lowRankSteps) {
      std::vector<float> rest =
          subtractLowRank(target, *stored, scheme, threads);
      Result<QuantizedMatrix> next =
          run({rest.data(), SourceType::F32, matrix.n, matrix.k}, nullptr);
      if (!next.ok()) {
        status = next.status();
        break;
      }
      LowRankReport report;
      status = add(*next, report);
      if (!status.ok() || report.error >= entry.lowRank.error)
        break;
      stored = std::move(next);
      entry.lowRank = report;
      ++entry.lowRankSteps;
    }
    if (!status.ok())
      return parameter.emitOpError("cannot be quantized: ") << status.message();
    // For the report alone.
    if (weighting && !report.empty()) {
      std::vector<float> values(static_cast<size_t>(matrix.n * matrix.k));
      status = dequantize(*stored, scheme, values.data(), threads);
      if (!status.ok())
        return parameter.emitOpError("cannot be compared: ")
               << status.message();
      entry.outputs.error = getRelativeError(
          computeOutputError(target, values.data(), hessianView, threads));
      entry.hasOutputs = true;
      if (!needsHessian(method))
        entry.outputs.damping = entry.lowRank.damping;
    }
  }
  const SecondOrderReport &outputs = entry.outputs;
  // The largest of what its uses needed.
  const DriftReport corrections = entry.drift.value_or(DriftReport());
  if (outputs.dampingRetries || corrections.dampingRetries)
    remark::analysis(
        parameter.getLoc(),
        remark::RemarkOpts::name("damping-raised").category(kPassName))
        << "the Hessian of the inputs of " + name +
               " could not be factored with the damping that was asked for"
        << remark::metric("damping",
                          std::max(outputs.damping, corrections.damping));
  if (corrections.change > 1.0)
    parameter.emitWarning()
        << kPassName << ": what is added to '" << name
        << "' for what drifted behind quantized layers is "
        << llvm::formatv("{0:f1}", corrections.change).str()
        << " times as large; measure that again, with more tokens, or lower "
           "the options 'drift' and 'residual-drift'";
  if (outputs.deadColumns == entry.type.getK())
    parameter.emitWarning()
        << kPassName << ": all inputs of '" << name
        << "' are always 0 in the calibration, so that it is rounded to "
           "nearest; measure it with other text, if its inputs are not so";
  else if (outputs.deadColumns)
    remark::analysis(
        parameter.getLoc(),
        remark::RemarkOpts::name("dead-inputs").category(kPassName))
        << "inputs of " + name + " are always 0; rounded to nearest"
        << remark::metric("dead", outputs.deadColumns);
  return stored.take();
}

LogicalResult QuantizeWeights::write(ParameterArchives &archives,
                                     NewArchive &newArchive) {
  Progress progress{"quantizing weights", "", 0, 0};
  for (const CopiedParameter &copy : copied)
    progress.total += copy.getBytes();
  for (auto &[key, entry] : quantized)
    progress.total +=
        getByteSize(entry.info.dtype, entry.info.shape).value_or(0);

  auto advance = [&](ParameterOp op, uint64_t bytes) {
    progress.item = op.getSymName().str();
    progress.done += bytes;
    return announce(op, progress);
  };

  // In the order of the declarations.
  for (const CopiedParameter &copy : copied)
    if (failed(newArchive.append(copy, archives,
                                 [&](const std::string &, uint64_t bytes) {
                                   return advance(copy.parameter, bytes);
                                 })))
      return failure();
  for (auto &[key, entry] : quantized) {
    ParameterOp parameter = entry.parameter;
    FailureOr<LoadedMatrix> matrix = archives.load(parameter, entry.info);
    if (failed(matrix))
      return failure();
    Scheme scheme = entry.type.getScheme().toNumerics();
    FailureOr<QuantizedMatrix> stored =
        quantizeWeight(entry, matrix->view, scheme);
    if (failed(stored))
      return failure();
    Result<ErrorMetrics> errors =
        computeErrors(matrix->view, stored->view(), scheme, threads);
    if (!errors.ok())
      return parameter.emitOpError("cannot be compared: ") << errors.message();
    entry.errors = *errors;
    if (scheme.element.kind == ElementKind::UInt &&
        scheme.zero == ZeroKind::None) {
      schemeWithoutSign = entry.type.getScheme();
      countNegative(matrix->view, numNegative, numCounted);
    }
    entry.endScales = countEndScales(*stored, scheme);
    const quant_llm::FloatType scaleType = getScaleType(scheme);
    warnOfEndScales(parameter, entry.endScales, scaleType,
                    stored->scales.size() / floatTypeBytes(scaleType));
    for (const ComponentInfo &component :
         getComponents(scheme, entry.type.getN(), entry.type.getK())) {
      const std::vector<uint8_t> &bytes = stored->get(component.kind);
      if (failed(newArchive.append(entry.key + component.suffix, bytes.data(),
                                   bytes.size())))
        return failure();
    }
    archives.release(parameter, entry.info);
    using Arg = remark::detail::Remark::Arg;
    remark::passed(parameter.getLoc(),
                   remark::RemarkOpts::name("quantized").category(kPassName))
        << Arg("parameter", parameter.getSymName())
        << Arg("scheme", Attribute(entry.type.getScheme()))
        << Arg("relative error", entry.errors.relativeFrobenius)
        << Arg("bits per weight",
               getBitsPerWeight(scheme, entry.type.getN(), entry.type.getK()));
    if (failed(advance(parameter,
                       *getByteSize(entry.info.dtype, entry.info.shape))))
      return failure();
  }
  return success();
}

/// JSON has no infinity.
static llvm::json::Value finiteOrNull(double value) {
  if (!std::isfinite(value))
    return nullptr;
  return value;
}

static std::string printToString(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  attribute.print(stream);
  return text;
}

std::string QuantizeWeights::makeReport() {
  llvm::json::Array weights, dense;
  int64_t numWeights = 0, weightBytes = 0, originalBytes = 0;
  double squaredError = 0;
  for (auto &[key, entry] : quantized) {
    Scheme scheme = entry.type.getScheme().toNumerics();
    int64_t n = entry.type.getN(), k = entry.type.getK();
    int64_t stored = getStoredBytes(scheme, n, k);
    int64_t original = *getByteSize(entry.info.dtype, entry.info.shape);
    llvm::json::Object weight{
        {"name", entry.parameter.getSymName()},
        {"kind", getKind(entry.key)},
        {"shape", llvm::json::Array{n, k}},
        {"scheme", printToString(entry.type.getScheme())},
        {"block", llvm::json::Array{scheme.blockN, scheme.blockK}},
        {"reason", entry.reason},
        {"bits_per_weight", getBitsPerWeight(scheme, n, k)},
        {"stored_bytes", stored},
        {"dense_bytes", original},
        {"mse", finiteOrNull(entry.errors.mse)},
        {"relative_frobenius", finiteOrNull(entry.errors.relativeFrobenius)},
        {"max_error", finiteOrNull(entry.errors.maxAbs)},
        {"sqnr_db", finiteOrNull(entry.errors.sqnrDecibels)},
    };
    if (needsHessian(method) || entry.hasOutputs) {
      weight["output_error"] = finiteOrNull(entry.outputs.error);
      if (needsHessian(method))
        weight["nearest_output_error"] =
            finiteOrNull(entry.outputs.nearestError);
      if (usesGPTQ() || entry.hasLowRank())
        weight["damping"] = entry.outputs.damping;
    }
    if (entry.endScales.largest != 0)
      weight["largest_scales"] = entry.endScales.largest;
    if (entry.endScales.smallest != 0)
      weight["smallest_scales"] = entry.endScales.smallest;
    if (entry.drift) {
      weight["drift_change"] = finiteOrNull(entry.drift->change);
      weight["drift_damping"] = entry.drift->damping;
    }
    if (entry.hasLowRank())
      weight["low_rank"] = llvm::json::Object{
          {"rank", entry.type.getScheme().getLowRank()},
          {"remaining_error", finiteOrNull(entry.lowRank.remainingError)},
          {"steps", entry.lowRankSteps}};
    weights.push_back(std::move(weight));
    numWeights += n * k;
    weightBytes += stored;
    originalBytes += original;
    squaredError += entry.errors.mse * double(n) * double(k);
  }
  int64_t denseBytes = 0;
  llvm::json::Array earlier;
  llvm::DenseMap<Operation *, std::string> denseReasons;
  llvm::DenseSet<Operation *> leftOut;
  SymbolTableCollection tables;
  getOperation()->walk([&](LinearOpInterface linear) {
    for (Value weight : linear.getWeights()) {
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter)
        continue;
      // With a scheme, the reason is one for that.
      if (linear.getSchemeAttr()) {
        if (!isIncluded(parameter.getSymName()))
          leftOut.insert(parameter);
      } else if (linear.getReasonAttr()) {
        denseReasons.try_emplace(parameter, linear.getReasonAttr().str());
      }
    }
  });
  auto addDense = [&](ParameterOp parameter, std::optional<int64_t> bytes) {
    std::string type;
    llvm::raw_string_ostream(type) << parameter.getType();
    llvm::json::Object object{{"name", parameter.getSymName()}, {"type", type}};
    // Of an earlier run, whose report has it.
    if (isa<WeightType>(parameter.getType())) {
      earlier.push_back(std::move(object));
      return;
    }
    if (bytes) {
      object["bytes"] = *bytes;
      denseBytes += *bytes;
    }
    if (auto reason = denseReasons.find(parameter);
        reason != denseReasons.end())
      object["reason"] = reason->second;
    else if (quantized.contains(parameter))
      object["reason"] = "quantized, and kept for other uses";
    else if (leftOut.contains(parameter))
      object["reason"] = "left out by the option 'include'";
    dense.push_back(std::move(object));
  };
  for (const CopiedParameter &copy : copied)
    addDense(copy.parameter, static_cast<int64_t>(copy.getBytes()));
  for (ParameterOp parameter : untouched) {
    auto type = dyn_cast<RankedTensorType>(parameter.getType());
    std::optional<int64_t> bytes;
    if (type)
      bytes = type.getNumElements() * ((type.getElementTypeBitWidth() + 7) / 8);
    addDense(parameter, bytes);
  }
  llvm::json::Object totals{
      {"weights", numWeights},
      {"bits_per_weight", numWeights ? 8.0 * weightBytes / numWeights : 0.0},
      {"stored_bytes", weightBytes},
      {"weight_bytes_before", originalBytes},
      {"dense_bytes", denseBytes},
      {"bytes_before", originalBytes + denseBytes},
      {"bytes_after", weightBytes + denseBytes},
      {"mse", finiteOrNull(numWeights ? squaredError / numWeights : 0.0)},
  };
  llvm::json::Object result{
      {"archive", llvm::sys::path::filename(output)},
      {"method", getMethodName(method)},
      {"clip", getClipName(clip)},
      {"weights", std::move(weights)},
      {"dense", std::move(dense)},
      {"totals", std::move(totals)},
  };
  if (!include.empty())
    result["include"] = std::string(include);
  if (drift != 0.0)
    result["drift"] = double(drift);
  if (residualDrift != 0.0)
    result["residual_drift"] = double(residualDrift);
  if (!earlier.empty())
    result["quantized_before"] = std::move(earlier);
  return printReport(std::move(result));
}

void QuantizeWeights::rewrite(NewArchive &newArchive) {
  newArchive.beginRewrite();
  for (const CopiedParameter &copy : copied) {
    newArchive.move(copy.parameter, copy.key);
    ++numCopied;
  }
  for (auto &[key, entry] : quantized) {
    newArchive.move(entry, ".quantized");
    ++numQuantized;
  }
  // The scheme is in the types now, unless another weight of the linear was
  // left out; the reason stays.
  for (auto &[key, entry] : quantized)
    for (LinearOpInterface linear : entry.linears)
      if (linear.isQuantized())
        linear.setSchemeAttr({});
  newArchive.endRewrite();
}

LogicalResult QuantizeWeights::run() {
  ParameterArchives archives(baseDir);
  NewArchive newArchive(getOperation(), {kPassName, output, report, archiveName,
                                         moduleDir, baseDir});
  if (failed(collect()) ||
      failed(
          newArchive.verifyOptions(archives, {{"calibration", calibration}})) ||
      failed(plan(archives, newArchive)) || failed(newArchive.open()) ||
      failed(write(archives, newArchive)) ||
      failed(newArchive.finish([&] { return makeReport(); })))
    return failure();
  if (numNegative != 0)
    getOperation().emitWarning()
        << kPassName << ": " << numNegative << " of " << numCounted
        << " weights are negative, which " << schemeWithoutSign
        << " cannot represent: they become zero; use an element with a sign "
           "or a zero (zero = int)";
  rewrite(newArchive);
  return success();
}
