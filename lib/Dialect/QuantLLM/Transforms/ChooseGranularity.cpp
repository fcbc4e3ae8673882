//===- ChooseGranularity.cpp - A scheme for every weight ------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// FineQuant's choice of the group size, matrix by matrix, from the weights
// alone. Choosing is apart from quantizing: the choice is an attribute that a
// person may write and that other passes may change before anything is stored.
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Support/Numbers.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/ADT/MapVector.h"

namespace quant_llm {
#define GEN_PASS_DEF_CHOOSEGRANULARITY
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-choose-granularity";

namespace {

/// A parameter that is the weight of linears, and what becomes of it.
struct Candidate {
  ParameterOp parameter;
  SmallVector<LinearOpInterface> linears;
  /// Null: stays dense.
  SchemeAttr scheme;
  std::string reason;
  /// What the parameter would have got on its own, where it got another one's.
  std::string ownReason;
};

struct ChooseGranularity
    : quant_llm::impl::ChooseGranularityBase<ChooseGranularity> {
  using ChooseGranularityBase::ChooseGranularityBase;

  LogicalResult initialize(MLIRContext *context) override {
    return parseOptions(context);
  }
  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  LogicalResult parseOptions(MLIRContext *context);
  LogicalResult parseScale(MLIRContext *context);
  void collect();
  LogicalResult choose(Candidate &candidate, ParameterArchives &archives);
  LogicalResult read(Candidate &candidate, ParameterArchives &archives,
                     function_ref<LogicalResult(const MatrixView &)> use);
  /// The base scheme with groups of `group` inputs.
  SchemeAttr getScheme(int64_t blockN, int64_t blockK) {
    Scheme scheme = base;
    scheme.blockN = blockN;
    scheme.blockK = blockK;
    return SchemeAttr::fromNumerics(&getContext(), scheme);
  }

  Scheme base;
  GranularityOptions granularity;
  NamePattern included, excluded;
  llvm::MapVector<Operation *, Candidate> candidates;
  /// Linears that have a scheme already, or whose weights are no parameters.
  SmallVector<LinearOpInterface> others;
};

} // namespace

/// "int4, ...": parses one name of the scheme, or fails with the pass option.
template <typename T>
static LogicalResult assign(T &to, Result<T> parsed,
                            function_ref<InFlightDiagnostic()> emitError) {
  if (!parsed.ok())
    return emitError() << parsed.message();
  to = parsed.take();
  return success();
}

/// The type of the scales, or a scheme for them.
LogicalResult ChooseGranularity::parseScale(MLIRContext *context) {
  if (rowScale.empty())
    return assign(base.scaleType, parseFloatType(scale),
                  [&] { return emitOptionError(context, "scale"); });
  auto scales = std::make_shared<Scheme>();
  if (failed(assign(scales->element, parseElement(scale),
                    [&] { return emitOptionError(context, "scale"); })) ||
      failed(assign(scales->scaleType, parseFloatType(rowScale),
                    [&] { return emitOptionError(context, "row-scale"); })))
    return failure();
  base.scaleScheme = std::move(scales);
  return success();
}

LogicalResult ChooseGranularity::parseOptions(MLIRContext *context) {
  base = Scheme();
  if (failed(assign(base.element, parseElement(element),
                    [&] { return emitOptionError(context, "element"); })) ||
      failed(parseScale(context)) ||
      failed(assign(base.rounding, parseRounding(rounding),
                    [&] { return emitOptionError(context, "rounding"); })))
    return failure();
  if (zero.empty()) {
    base.zero = base.element.kind == ElementKind::UInt ? ZeroKind::Integer
                                                       : ZeroKind::None;
  } else if (zero == "none") {
    base.zero = ZeroKind::None;
  } else if (zero == "int") {
    base.zero = ZeroKind::Integer;
  } else {
    Result<quant_llm::FloatType> type = parseFloatType(zero);
    if (!type.ok())
      return emitOptionError(context, "zero")
             << "expected none, int, f16, bf16 or f32 but got '" << zero << "'";
    base.zero = ZeroKind::Float;
    base.zeroType = *type;
  }
  if (!rule.empty()) {
    if (failed(assign(base.rule, parseScaleRule(rule),
                      [&] { return emitOptionError(context, "rule"); })))
      return failure();
  } else {
    base.rule =
        base.zero == ZeroKind::None ? ScaleRule::AbsMax : ScaleRule::MinMax;
  }

  if (!block.empty()) {
    if (block.size() != 2)
      return emitOptionError(context, "block")
             << "expected two sizes, outputs and inputs, but got "
             << block.size();
    base.blockN = block[0];
    base.blockK = block[1];
    // An option that cannot matter is a mistake.
    const ChooseGranularityOptions defaults;
    const char *message = "expected none with the option block, which leaves "
                          "nothing to choose";
    if (alpha != defaults.alpha)
      return emitOptionError(context, "alpha") << message;
    if (statistic != defaults.statistic)
      return emitOptionError(context, "statistic") << message;
    if (aggregation != defaults.aggregation)
      return emitOptionError(context, "aggregation") << message;
    if (!sizes.empty())
      return emitOptionError(context, "sizes") << message;
  }
  // The library and the attribute each check what they need.
  auto emitError = [&] {
    return emitOptionsError(context) << "the options are no legal scheme: ";
  };
  if (Status status = verifyScheme(base); !status.ok())
    return emitError() << status.message();
  if (!SchemeAttr::fromNumericsChecked(emitError, context, base))
    return failure();

  granularity.alpha = alpha;
  if (!(alpha > 0.0 && alpha <= 2.0))
    return emitOptionError(context, "alpha")
           << "expected a number in (0, 2] but got "
           << formatShortest<double>(alpha);
  // docs/FineQuant.md has the measurements behind the defaults.
  granularity.sizes = {256, 128, 64};
  if (!sizes.empty())
    granularity.sizes.assign(sizes.begin(), sizes.end());
  for (int64_t size : granularity.sizes)
    if (size <= 0)
      return emitOptionError(context, "sizes")
             << "expected positive group sizes but got " << size;
  granularity.symmetric = base.zero == ZeroKind::None;
  granularity.statistic = statistic;
  granularity.aggregation = aggregation;

  return success(succeeded(setPattern(context, "include", include, included)) &&
                 succeeded(setPattern(context, "exclude", exclude, excluded)));
}

void ChooseGranularity::collect() {
  candidates.clear();
  others.clear();
  SymbolTableCollection tables;
  // Where one linear has a scheme that somebody wrote, it holds for every
  // linear of the parameter.
  llvm::DenseMap<Operation *, SchemeAttr> given;
  getOperation()->walk([&](LinearOpInterface op) {
    if (SchemeAttr scheme = op.getSchemeAttr())
      for (Value weight : op.getWeights())
        if (ParameterOp parameter = getParameterOf(weight, &tables))
          given.try_emplace(parameter, scheme);
  });
  getOperation()->walk([&](LinearOpInterface op) {
    if (op.getSchemeAttr() || op.isQuantized()) {
      others.push_back(op);
      return;
    }
    for (Value weight : op.getWeights()) {
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter || isa<WeightType>(weight.getType())) {
        others.push_back(op);
        return;
      }
    }
    for (Value weight : op.getWeights()) {
      Candidate &candidate = candidates[getParameterOf(weight, &tables)];
      candidate.parameter = getParameterOf(weight, &tables);
      candidate.scheme = given.lookup(candidate.parameter);
      if (candidate.linears.empty() || candidate.linears.back() != op)
        candidate.linears.push_back(op);
    }
  });
}

LogicalResult
ChooseGranularity::read(Candidate &candidate, ParameterArchives &archives,
                        function_ref<LogicalResult(const MatrixView &)> use) {
  ParameterOp parameter = candidate.parameter;
  FailureOr<TensorInfo> info = archives.find(parameter);
  if (failed(info))
    return failure();
  FailureOr<LoadedMatrix> matrix = archives.load(parameter, *info);
  if (failed(matrix))
    return failure();
  LogicalResult result = use(matrix->view);
  archives.release(parameter, *info);
  return result;
}

LogicalResult ChooseGranularity::choose(Candidate &candidate,
                                        ParameterArchives &archives) {
  ParameterOp parameter = candidate.parameter;
  StringRef name = parameter.getSymName();
  if (included && !included.match(name)) {
    candidate.reason =
        "dense: the name does not match the include expression '" + include +
        "'";
    return success();
  }
  if (excluded && excluded.match(name)) {
    candidate.reason =
        "dense: the name matches the exclude expression '" + exclude + "'";
    return success();
  }
  auto type = cast<RankedTensorType>(parameter.getType());
  if (Status status =
          verifyScheme(base, type.getDimSize(0), type.getDimSize(1));
      !status.ok())
    return parameter.emitOpError("cannot have the scheme of the options: ")
           << status.message();
  if (!block.empty()) {
    candidate.scheme = getScheme(base.blockN, base.blockK);
    candidate.reason = "uniform: the same block for every weight";
    return success();
  }
  return read(candidate, archives,
              [&](const MatrixView &matrix) -> LogicalResult {
                Result<GranularityChoice> choice =
                    chooseGranularity(matrix, granularity, name.str(), threads);
                if (!choice.ok())
                  return parameter.emitOpError("cannot be quantized: ")
                         << choice.message();
                candidate.scheme = getScheme(1, choice->group);
                candidate.reason = "FineQuant: " + choice->reason;
                return success();
              });
}

LogicalResult ChooseGranularity::run() {
  collect();

  // Users other than linears decide before anything is read.
  llvm::DenseSet<Operation *> shared;
  if (!includeShared) {
    SymbolTableCollection tables;
    getOperation()->walk([&](GetParameterOp op) {
      for (OpOperand &use : op->getUses()) {
        auto linear = dyn_cast<LinearOpInterface>(use.getOwner());
        if (!linear ||
            !llvm::is_contained(linear.getWeights(), op.getResult()) ||
            linear.getInput() == op.getResult())
          shared.insert(getParameterOf(op.getResult(), &tables));
      }
    });
  }

  Progress progress{"choosing granularities", "", 0, 0};
  for (auto &[key, candidate] : candidates)
    progress.total +=
        cast<RankedTensorType>(candidate.parameter.getType()).getNumElements();
  ParameterArchives archives(baseDir);
  bool ok = true;
  for (auto &[key, candidate] : candidates) {
    ParameterOp parameter = candidate.parameter;
    if (candidate.scheme)
      candidate.reason =
          "given: another linear of the parameter has this scheme";
    else if (shared.contains(parameter))
      candidate.reason =
          "dense: the parameter is also used by other operations than linears";
    else if (failed(choose(candidate, archives)))
      ok = false; // go on: report every weight that is wrong
    progress.item = parameter.getSymName().str();
    progress.done +=
        cast<RankedTensorType>(parameter.getType()).getNumElements();
    if ((ok || progress.done != progress.total) &&
        failed(announce(parameter, progress)))
      return failure();
  }
  if (!ok)
    return failure();

  // One scheme for all weights that meet in a linear: the finest of theirs, and
  // none if one of them stays dense.
  llvm::EquivalenceClasses<Operation *> classes;
  for (auto &[key, candidate] : candidates) {
    classes.insert(key);
    for (LinearOpInterface linear : candidate.linears)
      for (Value weight : linear.getWeights())
        classes.unionSets(key, getParameterOf(weight));
  }
  auto isFiner = [](SchemeAttr a, SchemeAttr b) {
    if (!a || !b)
      return !a && b; // dense is the finest
    uint64_t sizeA = a.getBlockK(), sizeB = b.getBlockK(); // -1 is the largest
    return sizeA < sizeB;
  };
  llvm::MapVector<Operation *, Candidate *> finest; // by leader of the class
  for (auto &[key, candidate] : candidates) {
    Candidate *&best = finest[classes.getLeaderValue(key)];
    if (!best || isFiner(candidate.scheme, best->scheme))
      best = &candidate;
  }
  for (auto &[key, candidate] : candidates) {
    Candidate *best = finest[classes.getLeaderValue(key)];
    if (best->scheme == candidate.scheme)
      continue;
    candidate.scheme = best->scheme;
    candidate.ownReason = std::move(candidate.reason);
    candidate.reason =
        ("as '" + best->parameter.getSymName() +
         "', which is used by the same linear (" + best->reason + ")")
            .str();
  }

  MLIRContext *context = &getContext();
  for (auto &[key, candidate] : candidates) {
    ParameterOp parameter = candidate.parameter;
    for (LinearOpInterface linear : candidate.linears) {
      std::string reason = candidate.reason;
      if (linear.getWeights().size() == 2) {
        // Both reasons of a pair, in the order of the weights.
        auto getReason = [&](unsigned index) -> const std::string & {
          Candidate &own =
              candidates[getParameterOf(linear.getWeights()[index])];
          return own.ownReason.empty() ? own.reason : own.ownReason;
        };
        reason = getReason(0);
        if (getReason(1) != reason)
          reason = "finest of the pair; first weight: " + reason +
                   "; second weight: " + getReason(1);
      }
      if (candidate.scheme)
        linear.setSchemeAttr(candidate.scheme);
      linear.setReasonAttr(StringAttr::get(context, reason));
    }
    if (candidate.scheme)
      ++numChosen;
    else
      ++numDense;
    using Arg = remark::detail::Remark::Arg;
    remark::RemarkOpts opts =
        remark::RemarkOpts::name("granularity").category(kPassName);
    (candidate.scheme ? remark::passed(parameter.getLoc(), opts)
                      : remark::missed(parameter.getLoc(), opts))
        << Arg("parameter", parameter.getSymName())
        << (candidate.scheme ? Arg("scheme", candidate.scheme)
                             : Arg("scheme", StringRef("none")))
        << Arg("reason", candidate.reason);
  }
  for (LinearOpInterface linear : others)
    if (!linear.getSchemeAttr() && !linear.isQuantized() &&
        !linear.getReasonAttr())
      linear.setReasonAttr(StringAttr::get(
          context, "dense: a weight is not a dense parameter of an archive"));
  return success();
}
