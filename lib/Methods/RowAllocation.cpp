//===- RowAllocation.cpp - Options for rows under a budget ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/RowAllocation.h"

#include "quant-llm/Support/Numbers.h"
#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

using namespace quant_llm;

namespace {
/// The options of the rows of one matrix.
struct MatrixChoice {
  std::vector<int64_t> rows;
  int64_t cost = 0;
  double error = 0;
};
} // namespace

/// The bytes of all tables are at most this, so that sums and products of them
/// are in range, and exact as numbers of f64.
static constexpr int64_t kMostBytes = int64_t(1) << 53;
/// Largest sum of errors: no price is infinite, whatever the multiplier.
static constexpr double kMostError = 1e250;

static double getError(const RowTable &table, int64_t row, size_t option) {
  return table.errors[static_cast<size_t>(row) * table.costs.size() + option];
}

/// All rows with the option of the least price; of equals the cheapest.
static MatrixChoice chooseWhole(const RowTable &table, double multiplier) {
  MatrixChoice best;
  double bestPrice = 0;
  for (size_t o = 0; o < table.costs.size(); ++o) {
    MatrixChoice choice;
    for (int64_t row = 0; row < table.rows; ++row)
      choice.error += getError(table, row, o);
    choice.cost = table.costs[o] * table.rows;
    double price = choice.error + multiplier * static_cast<double>(choice.cost);
    if (o == 0 || price < bestPrice ||
        (price == bestPrice && choice.cost < best.cost)) {
      bestPrice = price;
      choice.rows.assign(static_cast<size_t>(table.rows),
                         static_cast<int64_t>(o));
      best = std::move(choice);
    }
  }
  return best;
}

/// Every row with its best one of at most `maxParts` options; of equals the
/// cheapest.
static MatrixChoice chooseParts(const RowTable &table, double multiplier,
                                const RowAllocationOptions &options) {
  const size_t count = table.costs.size();
  std::vector<double> prices(table.errors.size());
  for (int64_t row = 0; row < table.rows; ++row)
    for (size_t o = 0; o < count; ++o)
      prices[static_cast<size_t>(row) * count + o] =
          getError(table, row, o) +
          multiplier * static_cast<double>(table.costs[o]);
  std::vector<size_t> left(count);
  for (size_t o = 0; o < count; ++o)
    left[o] = o;
  MatrixChoice choice;
  choice.rows.resize(static_cast<size_t>(table.rows));
  for (;;) {
    // What is lost without an option is the way to the second best one.
    std::vector<double> loss(count, 0.0);
    std::vector<int64_t> used(count, 0);
    for (int64_t row = 0; row < table.rows; ++row) {
      const double *price = prices.data() + static_cast<size_t>(row) * count;
      size_t best = left.front();
      double second = std::numeric_limits<double>::infinity();
      for (size_t i = 1; i < left.size(); ++i) {
        size_t o = left[i];
        if (price[o] < price[best] ||
            (price[o] == price[best] && table.costs[o] < table.costs[best])) {
          second = price[best];
          best = o;
        } else {
          second = std::min(second, price[o]);
        }
      }
      choice.rows[static_cast<size_t>(row)] = static_cast<int64_t>(best);
      ++used[best];
      loss[best] += second - price[best];
    }
    if (left.size() == 1)
      break;
    // Options with too few rows first.
    const bool tooMany = static_cast<int64_t>(left.size()) > options.maxParts;
    size_t worst = count;
    for (size_t o : left) {
      const bool isSmall = used[o] < options.minRows;
      if (!isSmall && !tooMany)
        continue;
      if (worst == count) {
        worst = o;
        continue;
      }
      const bool worstIsSmall = used[worst] < options.minRows;
      if (isSmall != worstIsSmall  ? isSmall
          : loss[o] != loss[worst] ? loss[o] < loss[worst]
                                   : table.costs[o] > table.costs[worst])
        worst = o;
    }
    if (worst == count)
      break;
    left.erase(std::find(left.begin(), left.end(), worst));
  }
  for (int64_t row = 0; row < table.rows; ++row) {
    auto option = static_cast<size_t>(choice.rows[static_cast<size_t>(row)]);
    choice.cost += table.costs[option];
    choice.error += getError(table, row, option);
  }
  if (left.size() > 1)
    choice.cost += table.orderCost * table.rows;
  return choice;
}

/// The better of the two; of equals the cheaper.
static MatrixChoice chooseForMatrix(const RowTable &table, double multiplier,
                                    const RowAllocationOptions &options) {
  MatrixChoice whole = chooseWhole(table, multiplier);
  if (table.rows == 1 || options.maxParts == 1)
    return whole;
  MatrixChoice parts = chooseParts(table, multiplier, options);
  auto getPrice = [&](const MatrixChoice &choice) {
    return choice.error + multiplier * static_cast<double>(choice.cost);
  };
  const double price = getPrice(parts), wholePrice = getPrice(whole);
  return price < wholePrice || (price == wholePrice && parts.cost < whole.cost)
             ? parts
             : whole;
}

static std::string getContext(const RowTable &table, size_t index) {
  return (table.name.empty() ? "matrix " + std::to_string(index) : table.name) +
         ": ";
}

Status quant_llm::verifyRowCosts(const std::vector<RowTable> &tables) {
  int64_t left = kMostBytes;
  for (size_t i = 0; i < tables.size(); ++i) {
    const RowTable &table = tables[i];
    if (table.rows < 1 || table.costs.empty())
      return Status::error(getContext(table, i) + "expected rows and options");
    for (int64_t cost : table.costs)
      if (cost < 0)
        return Status::error(getContext(table, i) +
                             "expected costs of rows that are "
                             "not negative but got " +
                             std::to_string(cost));
    if (table.orderCost < 0)
      return Status::error(getContext(table, i) +
                           "expected a cost of the order that "
                           "is not negative but got " +
                           std::to_string(table.orderCost));
    const int64_t most =
        *std::max_element(table.costs.begin(), table.costs.end());
    // Written without sums or products, which could overflow.
    if (most > left / table.rows || table.orderCost > left / table.rows - most)
      return Status::error(getContext(table, i) +
                           "expected costs of at most 2^53 bytes for all "
                           "matrices together but got more: " +
                           std::to_string(table.rows) + " rows of up to " +
                           std::to_string(most) + " bytes, " +
                           std::to_string(table.orderCost) +
                           " more each for their order, beside " +
                           std::to_string(kMostBytes - left));
    left -= (most + table.orderCost) * table.rows;
  }
  return Status::success();
}

/// Adds the largest errors of the rows to `sum`.
static Status verifyErrors(const RowTable &table, size_t index, double &sum) {
  const size_t count = table.costs.size();
  if (table.errors.size() / count != static_cast<size_t>(table.rows) ||
      table.errors.size() % count != 0)
    return Status::error(getContext(table, index) +
                         "expected an error for each row with each option");
  for (size_t i = 0; i < table.errors.size(); i += count) {
    double largest = 0;
    for (size_t o = 0; o < count; ++o) {
      double error = table.errors[i + o];
      if (!(error >= 0.0) || !std::isfinite(error))
        return Status::error(getContext(table, index) +
                             "expected errors that are finite and not "
                             "negative but got " +
                             std::to_string(error));
      largest = std::max(largest, error);
    }
    sum += largest;
  }
  if (sum > kMostError)
    return Status::error(getContext(table, index) +
                         "expected errors of at most 1e250 together with "
                         "those of the matrices before, but got " +
                         formatShortest(sum));
  return Status::success();
}

Result<RowAllocation>
quant_llm::allocateRows(const std::vector<RowTable> &tables, int64_t budget,
                        const RowAllocationOptions &options, int threads) {
  if (options.maxParts < 1 || options.minRows < 0)
    return Status::error("expected at least one part, and no negative number "
                         "of rows");
  if (Status status = verifyRowCosts(tables); !status.ok())
    return status;
  int64_t least = 0;
  double sum = 0, largestError = 0, smallestError = HUGE_VAL;
  for (size_t i = 0; i < tables.size(); ++i) {
    if (Status status = verifyErrors(tables[i], i, sum); !status.ok())
      return status;
    least += *std::min_element(tables[i].costs.begin(), tables[i].costs.end()) *
             tables[i].rows;
    for (double error : tables[i].errors) {
      largestError = std::max(largestError, error);
      if (error > 0.0)
        smallestError = std::min(smallestError, error);
    }
  }
  if (least > budget)
    return Status::error("expected a budget of at least " +
                         std::to_string(least) + " bytes but got " +
                         std::to_string(budget));
  auto choose = [&](double multiplier) {
    std::vector<MatrixChoice> found(tables.size());
    parallelFor(static_cast<int64_t>(tables.size()), threads,
                [&](int64_t begin, int64_t end) {
                  for (int64_t i = begin; i < end; ++i)
                    found[static_cast<size_t>(i)] = chooseForMatrix(
                        tables[static_cast<size_t>(i)], multiplier, options);
                });
    RowAllocation result;
    for (MatrixChoice &choice : found) {
      result.choices.push_back(std::move(choice.rows));
      result.cost += choice.cost;
      result.error += choice.error;
    }
    return result;
  };
  RowAllocation best = choose(0.0);
  if (best.cost <= budget || largestError == 0.0)
    return best;
  // A byte is worth no more than all of an error, and no less than nothing of
  // any. With an infinite multiplier all rows are as cheap as they can be.
  double low = std::log(smallestError) - 50.0;
  double high = std::log(largestError) + 50.0;
  bool hasBest = false;
  for (int step = 0; step < 60; ++step) {
    double middle = low * 0.5 + high * 0.5;
    RowAllocation tried = choose(std::exp(middle));
    if (tried.cost > budget) {
      low = middle;
      continue;
    }
    high = middle;
    // Leaving options out is not monotone.
    if (!hasBest || tried.error < best.error)
      best = std::move(tried);
    hasBest = true;
  }
  if (!hasBest)
    best = choose(std::exp(high));
  if (best.cost > budget)
    return Status::error("expected a budget of at least " +
                         std::to_string(best.cost) + " bytes but got " +
                         std::to_string(budget));
  return best;
}
