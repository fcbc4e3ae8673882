//===- RowAllocationTest.cpp ----------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/RowAllocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

using namespace quant_llm;

namespace {

/// Matrices whose rows matter more or less; option o has o + 2 bytes per row.
std::vector<RowTable> makeTables(unsigned seed, int matrices, int64_t rows,
                                 size_t options) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<RowTable> tables(static_cast<size_t>(matrices));
  for (RowTable &table : tables) {
    table.rows = rows;
    double size = std::exp(normal(random));
    for (size_t o = 0; o < options; ++o)
      table.costs.push_back(static_cast<int64_t>(10 * (o + 2)));
    for (int64_t row = 0; row < rows; ++row) {
      double part = size * std::exp(2.0 * normal(random));
      for (size_t o = 0; o < options; ++o)
        table.errors.push_back(part * std::pow(0.25, static_cast<double>(o)) *
                               std::exp(0.2 * normal(random)));
    }
  }
  return tables;
}

/// Cost and error of choices, counted again; -1 if they break a rule.
std::pair<int64_t, double> count(const std::vector<RowTable> &tables,
                                 const RowAllocation &found,
                                 const RowAllocationOptions &options) {
  int64_t cost = 0;
  double error = 0;
  for (size_t i = 0; i < tables.size(); ++i) {
    const RowTable &table = tables[i];
    std::map<int64_t, int64_t> used;
    EXPECT_EQ(static_cast<int64_t>(found.choices[i].size()), table.rows);
    for (int64_t row = 0; row < table.rows; ++row) {
      auto o = static_cast<size_t>(found.choices[i][static_cast<size_t>(row)]);
      ++used[static_cast<int64_t>(o)];
      cost += table.costs[o];
      error += table.errors[static_cast<size_t>(row) * table.costs.size() + o];
    }
    EXPECT_LE(static_cast<int64_t>(used.size()), options.maxParts);
    if (used.size() > 1) {
      cost += table.orderCost * table.rows;
      for (auto [option, rows] : used)
        EXPECT_GE(rows, options.minRows) << "option " << option;
    }
  }
  return {cost, error};
}

TEST(RowAllocationTest, WithoutRulesAsGoodAsTheBound) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::vector<RowTable> tables = makeTables(seed, 3, 40, 4);
    RowAllocationOptions options;
    options.maxParts = 4;
    options.minRows = 0;
    const int64_t budget = 3 * 40 * 33;
    Result<RowAllocation> found = allocateRows(tables, budget, options, 2);
    ASSERT_TRUE(found.ok()) << found.message();
    EXPECT_EQ(count(tables, *found, options).first, found->cost);
    EXPECT_LE(found->cost, budget);
    // No choice within the budget is better than the largest of the bounds
    // sum min (error + m cost) - m budget; a row is left at most.
    double bound = 0;
    for (double m = 1e-9; m < 1e3; m *= 1.01) {
      double sum = -m * static_cast<double>(budget);
      for (const RowTable &table : tables)
        for (int64_t row = 0; row < table.rows; ++row) {
          double least = HUGE_VAL;
          for (size_t o = 0; o < 4; ++o)
            least =
                std::min(least, table.errors[static_cast<size_t>(row) * 4 + o] +
                                    m * static_cast<double>(table.costs[o]));
          sum += least;
        }
      bound = std::max(bound, sum);
    }
    EXPECT_GE(found->error, bound * (1 - 1e-9));
    EXPECT_LE(found->error, bound * 1.1) << "seed " << seed;
    // One option for each matrix is far from that.
    options.maxParts = 1;
    Result<RowAllocation> whole = allocateRows(tables, budget, options, 1);
    ASSERT_TRUE(whole.ok());
    EXPECT_GT(whole->error, 1.5 * found->error);
  }
}

TEST(RowAllocationTest, KeepsTheRules) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::vector<RowTable> tables = makeTables(seed, 5, 64, 6);
    for (RowTable &table : tables)
      table.orderCost = 2;
    // One that may not be split.
    tables[2].rows = 1;
    tables[2].errors.resize(6);
    double last = HUGE_VAL;
    for (int64_t parts : {1, 2, 3, 6}) {
      RowAllocationOptions options;
      options.maxParts = parts;
      options.minRows = 8;
      const int64_t budget = 4 * 64 * 38 + 60;
      Result<RowAllocation> found = allocateRows(tables, budget, options, 1);
      ASSERT_TRUE(found.ok()) << found.message();
      auto [cost, error] = count(tables, *found, options);
      EXPECT_EQ(cost, found->cost);
      EXPECT_NEAR(error, found->error, 1e-9 * error);
      EXPECT_LE(cost, budget);
      // More parts are hardly ever worse.
      EXPECT_LE(error, 1.05 * last) << "seed " << seed << ", " << parts;
      last = error;
      Result<RowAllocation> again = allocateRows(tables, budget, options, 3);
      ASSERT_TRUE(again.ok());
      EXPECT_EQ(again->choices, found->choices);
    }
  }
}

TEST(RowAllocationTest, AnOrderThatCostsTooMuch) {
  std::vector<RowTable> tables = makeTables(1, 4, 64, 4);
  RowAllocationOptions options;
  for (RowTable &table : tables)
    table.orderCost = 1000;
  Result<RowAllocation> found = allocateRows(tables, 4 * 64 * 35, options, 1);
  ASSERT_TRUE(found.ok());
  for (const std::vector<int64_t> &rows : found->choices)
    EXPECT_TRUE(std::all_of(rows.begin(), rows.end(),
                            [&](int64_t o) { return o == rows.front(); }));
}

TEST(RowAllocationTest, EndsOfTheBudget) {
  std::vector<RowTable> tables = makeTables(2, 2, 32, 4);
  RowAllocationOptions options;
  // All that is wanted, and all that is least.
  Result<RowAllocation> all = allocateRows(tables, 1 << 20, options, 1);
  ASSERT_TRUE(all.ok());
  Result<RowAllocation> least = allocateRows(tables, 2 * 32 * 20, options, 1);
  ASSERT_TRUE(least.ok()) << least.message();
  EXPECT_EQ(least->cost, 2 * 32 * 20);
  EXPECT_LT(all->error, least->error);
  EXPECT_EQ(allocateRows(tables, 2 * 32 * 20 - 1, options, 1).message(),
            "expected a budget of at least 1280 bytes but got 1279");
  // Where nothing counts, the cheapest.
  for (RowTable &table : tables)
    std::fill(table.errors.begin(), table.errors.end(), 0.0);
  Result<RowAllocation> none = allocateRows(tables, 2 * 32 * 20, options, 1);
  ASSERT_TRUE(none.ok()) << none.message();
  EXPECT_EQ(none->cost, 2 * 32 * 20);
}

TEST(RowAllocationTest, LargeCostsAndErrors) {
  // A weight that must not be split, of more than 2^31 bytes, and errors at the
  // ends of their range.
  for (double size : {5e-324, 1.0, 1e249}) {
    std::vector<RowTable> tables = makeTables(4, 3, 20, 4);
    tables[1].rows = 1;
    tables[1].costs = {int64_t(2359296000), int64_t(1) << 52};
    tables[1].errors = {size, 0.0};
    RowAllocationOptions options;
    for (int64_t left : {int64_t(0), int64_t(1000), int64_t(1) << 52}) {
      const int64_t budget = 2 * 20 * 20 + tables[1].costs[0] + left;
      Result<RowAllocation> found = allocateRows(tables, budget, options, 1);
      ASSERT_TRUE(found.ok()) << found.message();
      auto [cost, error] = count(tables, *found, options);
      EXPECT_EQ(cost, found->cost);
      EXPECT_LE(cost, budget);
      EXPECT_NEAR(error, found->error, 1e-9 * error);
      EXPECT_EQ(found->choices[1][0], left > 1000) << size;
    }
  }
}

TEST(RowAllocationTest, OfEqualOptionsTheCheapest) {
  // Half of the rows have no error, the others need the dear option, which is
  // the first one.
  RowTable table{4, {9, 5, 3}, 0, {}};
  for (double size : {0.0, 1.0, 0.0, 1.0})
    table.errors.insert(table.errors.end(), {0.0, size, 2 * size});
  RowAllocationOptions options;
  options.minRows = 1;
  for (int64_t parts : {2, 3}) {
    options.maxParts = parts;
    Result<RowAllocation> found = allocateRows({table}, 100, options, 1);
    ASSERT_TRUE(found.ok()) << found.message();
    EXPECT_EQ(found->choices[0], (std::vector<int64_t>{2, 0, 2, 0}));
    EXPECT_EQ(found->cost, 24);
  }
}

TEST(RowAllocationTest, EqualRowsLeaveABudget) {
  // As the header says: all change at one multiplier.
  RowTable table{100, {2, 3}, 0, {}};
  for (int row = 0; row < 100; ++row)
    table.errors.insert(table.errors.end(), {1.0, 0.0});
  Result<RowAllocation> found = allocateRows({table}, 290, {}, 1);
  ASSERT_TRUE(found.ok()) << found.message();
  EXPECT_EQ(found->cost, 200);
}

TEST(RowAllocationTest, Invalid) {
  auto getMessage = [](auto change, RowAllocationOptions options = {}) {
    std::vector<RowTable> tables = makeTables(3, 2, 4, 2);
    change(tables);
    return allocateRows(tables, 1 << 20, options, 1).message();
  };
  auto startsWith = [&](const std::string &expected, auto change) {
    return getMessage(change).substr(0, expected.size()) == expected;
  };
  auto none = [](std::vector<RowTable> &) {};
  EXPECT_EQ(getMessage([](auto &t) { t[1].errors.pop_back(); }),
            "matrix 1: expected an error for each row with each option");
  EXPECT_EQ(getMessage([](auto &t) { t[1].rows = 0; }),
            "matrix 1: expected rows and options");
  EXPECT_EQ(getMessage([](auto &t) { t[1].costs.clear(); }),
            "matrix 1: expected rows and options");
  EXPECT_EQ(getMessage([](auto &t) { t[0].costs[1] = -1; }),
            "matrix 0: expected costs of rows that are not negative but got "
            "-1");
  EXPECT_EQ(getMessage([](auto &t) { t[0].orderCost = -2; }),
            "matrix 0: expected a cost of the order that is not negative but "
            "got -2");
  const char *tooMuch = "matrix 1: expected costs of at most 2^53 bytes for "
                        "all matrices together but got more: 4 rows of up to ";
  const int64_t most = int64_t(1) << 53;
  for (int64_t bad : {most / 4, most, std::numeric_limits<int64_t>::max()}) {
    EXPECT_TRUE(startsWith(tooMuch, [&](auto &t) { t[1].costs[0] = bad; }));
    EXPECT_TRUE(startsWith(tooMuch, [&](auto &t) { t[1].orderCost = bad; }));
  }
  EXPECT_TRUE(startsWith(tooMuch, [&](auto &t) {
    t[0].costs[0] = most / 8;
    t[1].orderCost = most / 8;
  }));
  EXPECT_TRUE(startsWith("the rows of 'w': expected costs", [&](auto &t) {
    t[1].name = "the rows of 'w'";
    t[1].costs[0] = most;
  }));
  // Prices would be infinite, and no option the best.
  for (double bad : {1e250, 1e308, std::numeric_limits<double>::max()})
    EXPECT_TRUE(startsWith("matrix 1: expected errors of at most 1e250 "
                           "together with those of the matrices before, but "
                           "got ",
                           [&](auto &t) { t[1].errors.assign(8, bad); }));
  for (double bad : {-1.0, std::numeric_limits<double>::quiet_NaN(),
                     std::numeric_limits<double>::infinity()})
    EXPECT_NE(getMessage([&](auto &t) { t[1].errors[3] = bad; })
                  .find("matrix 1: expected errors that are finite and not "
                        "negative but got "),
              std::string::npos);
  RowAllocationOptions noParts;
  noParts.maxParts = 0;
  EXPECT_EQ(getMessage(none, noParts), "expected at least one part, and no "
                                       "negative number of rows");
}

} // namespace
