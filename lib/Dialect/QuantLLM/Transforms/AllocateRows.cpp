//===- AllocateRows.cpp - Schemes of rows under a budget ------------------===//
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
#include "quant-llm/Methods/RowAllocation.h"
#include "quant-llm/Numerics/Element.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/SymbolTable.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>

namespace quant_llm {
#define GEN_PASS_DEF_ALLOCATEROWS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-allocate-rows";

namespace {

/// Rows with one scheme, in the order of the weight.
struct Part {
  SchemeAttr scheme;
  SmallVector<int32_t> rows;
  double error = 0.0;
};

struct AllocateRows : quant_llm::impl::AllocateRowsBase<AllocateRows> {
  using AllocateRowsBase::AllocateRowsBase;

  LogicalResult initialize(MLIRContext *context) override;
  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  FailureOr<SmallVector<SchemeAttr>> getCandidates(WeightClass &weights);
  LogicalResult getCosts(WeightClass &weights, bool isSplit,
                         ArrayRef<SchemeAttr> schemes,
                         std::vector<int64_t> &costs);
  SmallVector<Part> getParts(const RowTable &table,
                             ArrayRef<SchemeAttr> schemes,
                             ArrayRef<int64_t> choices);
  void split(LinearOp linear, ArrayRef<Part> parts);

  std::vector<ElementFormat> formats;
};

} // namespace

LogicalResult AllocateRows::initialize(MLIRContext *context) {
  auto check = [&](bool good, StringRef option, const Twine &message) {
    if (!good)
      (void)emitOptionError(context, option, message);
    return success(good);
  };
  if (failed(check(budget > 0.0 && budget <= 64.0, "budget",
                   budget == 0.0
                       ? Twine("expected bits per weight")
                       : "expected bits per weight, above 0 and at most 64, "
                         "but got " +
                             Twine(std::to_string(budget)))) ||
      failed(check(parts >= 1, "parts",
                   "expected at least 1 but got " + Twine(parts))) ||
      failed(check(minRows >= 1, "min-rows",
                   "expected at least 1 but got " + Twine(minRows))) ||
      failed(check(rowPower >= 0.0 && rowPower <= 1.0, "row-power",
                   "expected a power from 0 to 1 but got " +
                       Twine(std::to_string(rowPower)))) ||
      failed(check(clipGrid >= 1 && clipGrid <= kMostClipSteps, "clip-grid",
                   "expected 1 to " + Twine(kMostClipSteps) +
                       " steps but got " + Twine(clipGrid))) ||
      failed(check(clipShrink > 0.0 && clipShrink <= 1.0, "clip-shrink",
                   "expected a part above 0 and at most 1 but got " +
                       Twine(std::to_string(clipShrink)))))
    return failure();
  if (Status status = verifyDamping(damping); !status.ok())
    return emitOptionError(context, "damping", status.message());
  for (int64_t group : groups)
    if (group < 1 && group != -1)
      return emitOptionError(context, "groups",
                             "expected positive group sizes, or -1 for the "
                             "whole row, but got " +
                                 Twine(group));
  formats.clear();
  SmallVector<std::string> names(elements.begin(), elements.end());
  if (names.empty())
    names = {"normal2", "normal3", "normal4", "normal5", "int5", "int6"};
  for (const std::string &name : names) {
    Result<ElementFormat> format = parseElement(name);
    if (!format.ok())
      return emitOptionError(context, "elements", format.message());
    formats.push_back(format.take());
  }
  return SchemeSearch::verifyOptions(context, kPassName, "allocation of rows",
                                     SchemeError::FisherOutput, calibration,
                                     anyModel, threads);
}

FailureOr<SmallVector<SchemeAttr>>
AllocateRows::getCandidates(WeightClass &weights) {
  const Scheme base = weights.scheme.toNumerics();
  Operation *linear = weights.members.front().linear;
  SmallVector<int64_t> sizes(groups.begin(), groups.end());
  if (sizes.empty())
    sizes = {base.blockK};
  llvm::SetVector<SchemeAttr> candidates;
  for (const ElementFormat &format : formats)
    for (int64_t size : sizes) {
      Scheme scheme = base;
      scheme.element = format;
      scheme.blockK = size;
      const bool hasZero = format.kind == ElementKind::UInt;
      scheme.zero = hasZero ? ZeroKind::Integer : ZeroKind::None;
      scheme.rule = hasZero ? ScaleRule::MinMax : ScaleRule::AbsMax;
      auto emitError = [&] {
        return linear->emitOpError("cannot have elements ")
               << elementName(format) << " in groups of " << size << ": ";
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

/// Whether the rows of the weight of a class may be stored apart: nothing else
/// uses the weight, which would then be stored besides its parts.
static bool canSplit(WeightClass &weights, const SymbolUserMap &users) {
  if (weights.members.size() != 1 || weights.linears.size() != 1)
    return false;
  auto linear = dyn_cast<LinearOp>(*weights.linears.front());
  if (!linear || linear.getWeights().size() != 1 || linear.hasEpilogue())
    return false;
  Value weight = linear.getWeights().front();
  return weight.getDefiningOp<GetParameterOp>() && weight.hasOneUse() &&
         users.getUsers(weights.members.front().parameter).size() == 1;
}

/// The bytes of a row of a class that can be split, of all of it else.
LogicalResult AllocateRows::getCosts(WeightClass &weights, bool isSplit,
                                     ArrayRef<SchemeAttr> schemes,
                                     std::vector<int64_t> &costs) {
  for (SchemeAttr attr : schemes) {
    if (!isSplit) {
      costs.push_back(weights.getStoredBytes(attr));
      continue;
    }
    auto linear = cast<LinearOp>(*weights.linears.front());
    const Scheme scheme = attr.toNumerics();
    int64_t bytes = getStoredBytes(scheme, 1, linear.getK());
    if (scheme.blockN != 1 ||
        getStoredBytes(scheme, linear.getN(), linear.getK()) !=
            bytes * linear.getN())
      return linear.emitOpError("expected a scheme that stores every row by "
                                "itself (block = [1, ...], and no low-rank "
                                "part) but got ")
             << attr;
    costs.push_back(bytes);
  }
  return success();
}

SmallVector<Part> AllocateRows::getParts(const RowTable &table,
                                         ArrayRef<SchemeAttr> schemes,
                                         ArrayRef<int64_t> choices) {
  SmallVector<Part> all(schemes.size());
  for (auto [row, choice] : llvm::enumerate(choices)) {
    auto option = static_cast<size_t>(choice);
    all[option].scheme = schemes[option];
    all[option].rows.push_back(static_cast<int32_t>(row));
    all[option].error += table.errors[row * schemes.size() + option];
  }
  llvm::erase_if(all, [](const Part &part) { return part.rows.empty(); });
  return all;
}

static std::string printToString(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  attribute.print(stream);
  return text;
}

/// The bytes of a place in the order of n rows.
static unsigned getOrderBytes(int64_t n) {
  return llvm::isInt<16>(n - 1) ? 2 : 4;
}

/// Replaces a linear by one for each part.
void AllocateRows::split(LinearOp linear, ArrayRef<Part> parts) {
  OpBuilder builder(linear);
  Location loc = linear.getLoc();
  Value weight = linear.getWeights().front();
  auto weightType = cast<RankedTensorType>(weight.getType());
  auto resultType = cast<RankedTensorType>(linear.getType());
  const int64_t n = linear.getN(), k = linear.getK();
  const int64_t dim = resultType.getRank() - 1;
  SmallVector<int32_t> order;
  for (const Part &part : parts)
    llvm::append_range(order, part.rows);
  Type integer = builder.getIntegerType(8 * getOrderBytes(n));
  SmallVector<Attribute> places =
      llvm::map_to_vector(order, [&](int32_t row) -> Attribute {
        return builder.getIntegerAttr(integer, row);
      });
  Value permutation = arith::ConstantOp::create(
      builder, loc,
      DenseElementsAttr::get(RankedTensorType::get({n}, integer), places));
  Value ordered =
      PermuteChannelsOp::create(builder, loc, weightType, weight, permutation,
                                builder.getDenseI64ArrayAttr({0}),
                                /*inverse=*/nullptr);
  SmallVector<Value> results;
  int64_t first = 0;
  for (const Part &part : parts) {
    const auto rows = static_cast<int64_t>(part.rows.size());
    Value slice = tensor::ExtractSliceOp::create(
        builder, loc,
        RankedTensorType::get({rows, k}, weightType.getElementType()), ordered,
        SmallVector<OpFoldResult>{builder.getIndexAttr(first),
                                  builder.getIndexAttr(0)},
        SmallVector<OpFoldResult>{builder.getIndexAttr(rows),
                                  builder.getIndexAttr(k)},
        SmallVector<OpFoldResult>{builder.getIndexAttr(1),
                                  builder.getIndexAttr(1)});
    first += rows;
    auto copy = cast<LinearOp>(builder.clone(*linear));
    copy.getWeightsMutable().assign(slice);
    SmallVector<int64_t> shape(resultType.getShape());
    shape[static_cast<size_t>(dim)] = rows;
    copy.getResult().setType(
        RankedTensorType::get(shape, resultType.getElementType()));
    copy.setSchemeAttr(part.scheme);
    copy.setReasonAttr(builder.getStringAttr(
        llvm::formatv("allocated: {0} of {1} rows, error {2:e2}", rows, n,
                      part.error)
            .str()));
    results.push_back(copy.getResult());
  }
  Value joined =
      tensor::ConcatOp::create(builder, loc, resultType, dim, results);
  Value restored = PermuteChannelsOp::create(
      builder, loc, resultType, joined, permutation,
      builder.getDenseI64ArrayAttr({dim}), builder.getUnitAttr());
  linear.getResult().replaceAllUsesWith(restored);
  linear.erase();
}

LogicalResult AllocateRows::run() {
  SchemeSearch search(getOperation(), kPassName, baseDir, threads);
  if (failed(search.verifyReport(report, calibration)) ||
      failed(search.collect(SchemeError::FisherOutput, calibration, anyModel)))
    return failure();
  std::vector<WeightClass> &classes = search.getClasses();
  std::vector<SmallVector<SchemeAttr>> candidates;
  std::vector<RowTable> tables(classes.size());
  int64_t numWeights = 0, leastBytes = 0;
  SymbolTableCollection symbols;
  const SymbolUserMap users(symbols, getOperation());
  for (auto [weights, table] : llvm::zip_equal(classes, tables)) {
    FailureOr<SmallVector<SchemeAttr>> found = getCandidates(weights);
    const bool isSplit = canSplit(weights, users);
    if (failed(found) ||
        failed(getCosts(weights, isSplit, *found, table.costs)))
      return failure();
    candidates.push_back(std::move(*found));
    table.rows = isSplit ? cast<LinearOp>(*weights.linears.front()).getN() : 1;
    table.orderCost = getOrderBytes(table.rows);
    table.name = "the rows of '" + weights.getName().str() + "'";
    numWeights += weights.getNumWeights();
  }
  // Before anything is read.
  if (Status status = verifyRowCosts(tables); !status.ok())
    return search.fail() << status.message();
  for (const RowTable &table : tables)
    leastBytes +=
        *std::min_element(table.costs.begin(), table.costs.end()) * table.rows;
  const auto bytes = static_cast<int64_t>(
      std::floor(budget / 8.0 * static_cast<double>(numWeights)));
  auto toBits = [&](int64_t count) {
    return 8.0 * static_cast<double>(count) / static_cast<double>(numWeights);
  };
  if (leastBytes > bytes)
    return search.fail() << "expected a budget of at least "
                         << llvm::formatv("{0:f4}", toBits(leastBytes)).str()
                         << " bits per weight, which the smallest candidates "
                            "take with their scales and zeros, but got "
                         << llvm::formatv("{0:f4}", double(budget)).str();

  Progress progress{"measuring errors of rows", "", 0, 0};
  progress.total = numWeights;
  RowErrorOptions options;
  options.damping = damping;
  options.clip.grid = clipGrid;
  options.clip.shrink = clipShrink;
  options.power = rowPower;
  for (auto [weights, table, schemes] :
       llvm::zip_equal(classes, tables, candidates)) {
    progress.item = weights.getName().str();
    for (size_t m = 0; m < weights.members.size(); ++m) {
      std::vector<double> errors;
      if (failed(search.measureRows(weights, m, schemes, options, errors)))
        return failure();
      if (table.rows > 1) {
        table.errors = std::move(errors);
        continue;
      }
      table.errors.resize(schemes.size());
      for (size_t i = 0; i < errors.size(); ++i)
        table.errors[i % schemes.size()] += errors[i];
    }
    progress.done += weights.getNumWeights();
    if (failed(announce(getOperation(), progress)))
      return failure();
  }
  RowAllocationOptions rowOptions;
  rowOptions.maxParts = parts;
  rowOptions.minRows = minRows;
  Result<quant_llm::RowAllocation> found =
      quant_llm::allocateRows(tables, bytes, rowOptions, threads);
  if (!found.ok())
    return search.fail() << found.message();

  llvm::json::Array entries;
  std::vector<SmallVector<Part>> partsOf;
  for (auto [i, weights] : llvm::enumerate(classes)) {
    SmallVector<Part> chosen =
        getParts(tables[i], candidates[i], found->choices[i]);
    llvm::json::Array described;
    for (const Part &part : chosen)
      described.push_back(llvm::json::Object{
          {"scheme", printToString(part.scheme)},
          {"rows", chosen.size() > 1 ? llvm::json::Value(part.rows.size())
                                     : llvm::json::Value(nullptr)},
          {"error", part.error}});
    entries.push_back(llvm::json::Object{{"parameters", weights.getNames()},
                                         {"weights", weights.getNumWeights()},
                                         {"parts", std::move(described)}});
    partsOf.push_back(std::move(chosen));
  }
  if (!report.empty()) {
    llvm::json::Object object{
        {"budget", double(budget)},
        {"bits_per_weight", toBits(found->cost)},
        {"stored_bytes", found->cost},
        {"error", found->error},
        {"weights", std::move(entries)},
    };
    if (Status status = writeReport(report, std::move(object)); !status.ok())
      return search.fail() << status.message();
  }

  using Arg = remark::detail::Remark::Arg;
  for (auto [weights, chosen] : llvm::zip_equal(classes, partsOf)) {
    if (chosen.size() == 1) {
      search.setScheme(weights, chosen.front().scheme,
                       llvm::formatv("allocated: all rows, error {0:e2}",
                                     chosen.front().error)
                           .str(),
                       "allocated");
      continue;
    }
    for (const Part &part : chosen)
      remark::passed(weights.members.front().parameter.getLoc(),
                     remark::RemarkOpts::name("allocated").category(kPassName))
          << Arg("parameter", weights.getName())
          << Arg("rows", std::to_string(part.rows.size()))
          << Arg("scheme", Attribute(part.scheme));
    split(cast<LinearOp>(*weights.linears.front()), chosen);
    ++numSplit;
  }
  return success();
}
