//===- SelectKernels.cpp - The pass quant-llm-select-kernels --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Writes down what lib/Kernels decides; there are no heuristics here.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/KernelProblem.h"
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/Tuning.h"
#include "quant-llm/Support/Bytecode.h"
#include "quant-llm/Support/MappedFile.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Remarks.h"

namespace quant_llm {
#define GEN_PASS_DEF_SELECTKERNELS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-select-kernels";

namespace {

/// A tuning file whose schemes have been parsed.
struct Tuning {
  std::vector<TuningEntry> entries;
  SmallVector<SchemeAttr> schemes;
};

struct SelectKernelsPass
    : public quant_llm::impl::SelectKernelsBase<SelectKernelsPass> {
  using SelectKernelsBase::SelectKernelsBase;

  void runOnOperation() override {
    Result<ChipLimits> limits = getChipLimits(chip);
    if (!limits.ok()) {
      emitOptionError("chip", limits.message());
      return signalPassFailure();
    }
    FailureOr<Tuning> tuning = readTuning();
    if (failed(tuning))
      return signalPassFailure();
    WalkResult result = getOperation()->walk([&](LinearOpInterface op) {
      return WalkResult(select(op, *limits, *tuning));
    });
    if (result.wasInterrupted())
      signalPassFailure();
  }

private:
  FailureOr<Tuning> readTuning();
  LogicalResult select(LinearOpInterface op, const ChipLimits &limits,
                       const Tuning &tuning);

  InFlightDiagnostic fileError() {
    return emitError(getOperation()->getLoc(), "tuning file '")
           << tuningFile << "': ";
  }
};

} // namespace

FailureOr<Tuning> SelectKernelsPass::readTuning() {
  Tuning tuning;
  if (tuningFile.empty())
    return tuning;
  Result<MappedFile> file = MappedFile::open(tuningFile);
  if (!file.ok())
    return fileError() << file.message();
  Result<std::vector<TuningEntry>> entries =
      parseTuning({reinterpret_cast<const char *>(file->data()), file->size()});
  if (!entries.ok())
    return fileError() << entries.message();
  tuning.entries = entries.take();
  for (auto [index, entry] : llvm::enumerate(tuning.entries)) {
    // The parser's message would point into the text of the scheme.
    std::string message;
    Attribute parsed;
    {
      ScopedDiagnosticHandler handler(&getContext(),
                                      [&](Diagnostic &diagnostic) {
                                        if (message.empty())
                                          message = diagnostic.str();
                                        return success();
                                      });
      if (Status status = checkTextNesting(entry.scheme); !status.ok())
        message = status.message();
      else
        parsed = parseAttribute(entry.scheme, &getContext());
    }
    auto scheme = dyn_cast_if_present<SchemeAttr>(parsed);
    if (!scheme)
      return fileError() << "entry " << index
                         << ": expected 'scheme' to be a scheme attribute but "
                            "got '"
                         << entry.scheme << "'"
                         << (message.empty() ? "" : ": " + message);
    tuning.schemes.push_back(scheme);
  }
  return tuning;
}

/// Whether codes, scales and zeros mean the same; how they came about does not
/// matter to a kernel.
static bool haveSameStorage(SchemeAttr a, SchemeAttr b) {
  return a.getElement() == b.getElement() && a.getBlockN() == b.getBlockN() &&
         a.getBlockK() == b.getBlockK() && a.getScale() == b.getScale() &&
         a.getZeroKind() == b.getZeroKind() &&
         a.getZeroType() == b.getZeroType();
}

LogicalResult SelectKernelsPass::select(LinearOpInterface op,
                                        const ChipLimits &limits,
                                        const Tuning &tuning) {
  auto leave = [&](const std::string &reason) {
    remark::missed(op.getLoc(),
                   remark::RemarkOpts::name("no kernel").category(kPassName))
        << reason;
    ++numSkipped;
    return success();
  };
  // Written by hand, or by this pass for some chip.
  if (op.getKernelsAttr()) {
    FailureOr<KernelProblem> problem = getProblemOfKernels(op);
    if (failed(problem) || failed(verifyKernels(op, *problem, limits)))
      return failure();
    ++numSelected;
    return success();
  }
  Result<KernelProblem> problem = getKernelProblem(op);
  if (!problem.ok())
    return leave(problem.message());

  std::vector<std::string> reasons;
  std::vector<KernelConfig> configs = selectKernels(*problem, limits, &reasons);
  if (configs.empty()) {
    Status reason = verifyKernel(*problem, KernelConfig(), limits);
    return leave(reason.ok() ? "no kernel family fits" : reason.message());
  }

  SchemeAttr scheme =
      cast<WeightType>(op.getWeights().front().getType()).getScheme();
  for (auto [index, entry] : llvm::enumerate(tuning.entries)) {
    // What was measured for a linear says little about experts.
    if (entry.experts != problem->experts || entry.chip != chip ||
        entry.n != problem->n || entry.k != problem->k ||
        entry.weights != problem->numWeights ||
        !haveSameStorage(tuning.schemes[index], scheme))
      continue;
    configs = entry.kernels;
    reasons.clear();
    for (const KernelConfig &config : configs) {
      Status status = verifyKernel(*problem, config, limits);
      if (!status.ok()) {
        auto diagnostic = fileError()
                          << "entry " << index << ": " << describe(config)
                          << " cannot be built: " << status.message();
        diagnostic.attachNote(op.getLoc()) << "for this linear";
        return diagnostic;
      }
      reasons.push_back(describe(config) + ": tuning file");
    }
    break;
  }

  SmallVector<Attribute> kernels;
  for (const auto &[config, reason] : llvm::zip_equal(configs, reasons)) {
    kernels.push_back(KernelConfigAttr::get(&getContext(), config));
    remark::passed(op.getLoc(),
                   remark::RemarkOpts::name("kernel").category(kPassName))
        << reason;
  }
  op.setKernelsAttr(ArrayAttr::get(&getContext(), kernels));
  ++numSelected;
  return success();
}
