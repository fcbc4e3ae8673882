//===- AllocateBits.cpp - Widths of elements under a budget ---------------===//
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
#include "quant-llm/Methods/BitAllocation.h"
#include "quant-llm/Numerics/Element.h"

#include "llvm/ADT/SetVector.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

namespace quant_llm {
#define GEN_PASS_DEF_ALLOCATEBITS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-allocate-bits";

namespace {

struct AllocateBits : quant_llm::impl::AllocateBitsBase<AllocateBits> {
  using AllocateBitsBase::AllocateBitsBase;

  LogicalResult initialize(MLIRContext *context) override;
  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  /// Schemes of a class, and what they cost and spoil.
  struct Table {
    SmallVector<SchemeAttr> schemes;
    std::vector<BitOption> options;
  };
  LogicalResult run();
  FailureOr<SmallVector<SchemeAttr>> getCandidates(WeightClass &weights);
  llvm::json::Object makeReport(std::vector<WeightClass> &classes,
                                ArrayRef<Table> tables,
                                const quant_llm::BitAllocation &found,
                                int64_t numWeights);
};

} // namespace

LogicalResult AllocateBits::initialize(MLIRContext *context) {
  if (!(budget > 0.0 && budget <= 64.0))
    return emitOptionError(context, "budget",
                           budget == 0.0
                               ? Twine("expected bits per weight")
                               : "expected bits per weight, above 0 and at "
                                 "most 64, but got " +
                                     Twine(std::to_string(budget)));
  for (int64_t width : bits)
    if (width < 1 || width > 8)
      return emitOptionError(context, "bits",
                             "expected widths from 1 to 8 but got " +
                                 Twine(width));
  for (int64_t group : groups)
    if (group < 1 && group != -1)
      return emitOptionError(context, "groups",
                             "expected positive group sizes, or -1 for the "
                             "whole row, but got " +
                                 Twine(group));
  return SchemeSearch::verifyOptions(context, kPassName, "sensitivity",
                                     sensitivity, calibration, anyModel,
                                     threads);
}

/// The scheme of a class with other widths and groups.
FailureOr<SmallVector<SchemeAttr>>
AllocateBits::getCandidates(WeightClass &weights) {
  const Scheme base = weights.scheme.toNumerics();
  WeightClass::Member &first = weights.members.front();
  if (base.element.kind != ElementKind::Int &&
      base.element.kind != ElementKind::UInt)
    return first.linear->emitOpError("expected a scheme with an element intN "
                                     "or uintN, whose width can be changed, "
                                     "but got ")
           << weights.scheme;
  SmallVector<int64_t> widths(bits.begin(), bits.end()),
      sizes(groups.begin(), groups.end());
  if (widths.empty())
    widths = {2, 3, 4, 5, 6, 8};
  if (sizes.empty())
    sizes = {base.blockK};
  llvm::SetVector<SchemeAttr> candidates;
  for (int64_t width : widths)
    for (int64_t size : sizes) {
      Scheme scheme = base;
      scheme.element =
          makeElement(base.element.kind, static_cast<unsigned>(width));
      scheme.blockK = size;
      auto emitError = [&] {
        return first.linear->emitOpError("cannot have ")
               << width << " bits in groups of " << size << ": ";
      };
      if (Status status = verifyScheme(scheme); !status.ok())
        return emitError() << status.message();
      SchemeAttr attr =
          SchemeAttr::fromNumericsChecked(emitError, &getContext(), scheme);
      if (!attr)
        return failure();
      candidates.insert(attr);
    }
  return SmallVector<SchemeAttr>(candidates.begin(), candidates.end());
}

static std::string printToString(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  attribute.print(stream);
  return text;
}

llvm::json::Object AllocateBits::makeReport(
    std::vector<WeightClass> &classes, ArrayRef<Table> tables,
    const quant_llm::BitAllocation &found, int64_t numWeights) {
  llvm::json::Array entries;
  for (auto [i, weights] : llvm::enumerate(classes)) {
    const Table &table = tables[i];
    llvm::json::Array options;
    double count = static_cast<double>(weights.getNumWeights());
    for (auto [scheme, option] : llvm::zip_equal(table.schemes, table.options))
      options.push_back(llvm::json::Object{
          {"scheme", printToString(scheme)},
          {"bits_per_weight", 8.0 * static_cast<double>(option.cost) / count},
          {"error", option.error}});
    auto chosen = static_cast<size_t>(found.choices[i]);
    entries.push_back(
        llvm::json::Object{{"parameters", weights.getNames()},
                           {"weights", weights.getNumWeights()},
                           {"options", std::move(options)},
                           {"chosen", found.choices[i]},
                           {"scheme", printToString(table.schemes[chosen])}});
  }
  return llvm::json::Object{
      {"sensitivity", getSchemeErrorName(sensitivity)},
      {"budget", double(budget)},
      {"bits_per_weight",
       8.0 * static_cast<double>(found.cost) / static_cast<double>(numWeights)},
      {"stored_bytes", found.cost},
      {"error", found.error},
      {"weights", std::move(entries)},
  };
}

LogicalResult AllocateBits::run() {
  SchemeSearch search(getOperation(), kPassName, baseDir, threads);
  if (failed(search.verifyReport(report, calibration)) ||
      failed(search.collect(sensitivity, calibration, anyModel)))
    return failure();
  std::vector<WeightClass> &classes = search.getClasses();
  std::vector<Table> tables;
  int64_t numWeights = 0, leastBytes = 0;
  for (WeightClass &weights : classes) {
    FailureOr<SmallVector<SchemeAttr>> candidates = getCandidates(weights);
    if (failed(candidates))
      return failure();
    Table &table = tables.emplace_back();
    table.schemes = std::move(*candidates);
    numWeights += weights.getNumWeights();
    for (SchemeAttr scheme : table.schemes)
      table.options.push_back({weights.getStoredBytes(scheme), 0.0});
    leastBytes += std::min_element(table.options.begin(), table.options.end(),
                                   [](const BitOption &a, const BitOption &b) {
                                     return a.cost < b.cost;
                                   })
                      ->cost;
  }
  // Before anything is read.
  const auto bytes = static_cast<int64_t>(
      std::floor(budget / 8.0 * static_cast<double>(numWeights)));
  if (leastBytes > bytes)
    return search.fail() << "expected a budget of at least "
                         << llvm::formatv("{0:f4}",
                                          8.0 *
                                              static_cast<double>(leastBytes) /
                                              static_cast<double>(numWeights))
                                .str()
                         << " bits per weight, which the smallest candidates "
                            "take with their scales and zeros, but got "
                         << llvm::formatv("{0:f4}", double(budget)).str();

  Progress progress{"measuring sensitivities", "", 0, 0};
  progress.total = numWeights;
  std::vector<std::vector<BitOption>> items;
  for (auto [weights, table] : llvm::zip_equal(classes, tables)) {
    progress.item = weights.getName().str();
    std::vector<double> errors;
    if (failed(search.measure(weights, table.schemes, errors)))
      return failure();
    for (auto [option, error] : llvm::zip_equal(table.options, errors))
      option.error = error;
    items.push_back(table.options);
    progress.done += weights.getNumWeights();
    if (failed(announce(getOperation(), progress)))
      return failure();
  }
  Result<quant_llm::BitAllocation> found =
      quant_llm::allocateBits(items, bytes);
  if (!found.ok())
    return search.fail() << found.message();
  if (!report.empty()) {
    if (Status status = writeReport(
            report, makeReport(classes, tables, *found, numWeights));
        !status.ok())
      return search.fail() << status.message();
  }

  for (auto [i, weights] : llvm::enumerate(classes)) {
    const Table &table = tables[i];
    auto chosen = static_cast<size_t>(found->choices[i]);
    std::string others;
    for (auto [o, scheme] : llvm::enumerate(table.schemes)) {
      Scheme numerics = scheme.toNumerics();
      others += llvm::formatv("{0}{1}{2}: {3:e2}", o ? ", " : "",
                              elementName(numerics.element),
                              groups.size() > 1
                                  ? " by " + std::to_string(numerics.blockK)
                                  : std::string(),
                              table.options[o].error)
                    .str();
    }
    std::string reason =
        "allocated: " +
        elementName(table.schemes[chosen].toNumerics().element) + " of the " +
        getSchemeErrorName(sensitivity).str() + " errors " + others;
    search.setScheme(weights, table.schemes[chosen], reason, "allocated");
    ++numAllocated;
  }
  return success();
}
