//===- BitAllocationTest.cpp ----------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/BitAllocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

using namespace quant_llm;

namespace {

using Items = std::vector<std::vector<BitOption>>;

/// The least error within the budget, and the least cost of it, by trying all.
std::pair<double, int64_t> tryAll(const Items &items, int64_t budget) {
  double best = HUGE_VAL;
  int64_t bestCost = 0;
  std::vector<size_t> choice(items.size(), 0);
  for (;;) {
    double error = 0;
    int64_t cost = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      error += items[i][choice[i]].error;
      cost += items[i][choice[i]].cost;
    }
    if (cost <= budget &&
        (error < best || (error == best && cost < bestCost))) {
      best = error;
      bestCost = cost;
    }
    size_t i = 0;
    while (i < items.size() && ++choice[i] == items[i].size())
      choice[i++] = 0;
    if (i == items.size())
      return {best, bestCost};
  }
}

TEST(BitAllocationTest, AsGoodAsTryingAll) {
  std::mt19937 random(3);
  auto draw = [&](int below) {
    return static_cast<int>(random() % unsigned(below));
  };
  int solved = 0, beaten = 0;
  for (int round = 0; round < 400; ++round) {
    Items items(static_cast<size_t>(1 + draw(7)));
    int64_t least = 0, most = 0;
    for (std::vector<BitOption> &options : items) {
      options.resize(static_cast<size_t>(1 + draw(4)));
      int64_t smallest = 1000, largest = 0;
      for (BitOption &option : options) {
        option.cost = draw(60);
        // Whole numbers: sums are exact, and there are equals.
        option.error = draw(round % 2 ? 12 : 1000);
        smallest = std::min(smallest, option.cost);
        largest = std::max(largest, option.cost);
      }
      least += smallest;
      most += largest;
    }
    int64_t budget = least + draw(static_cast<int>(most - least + 1));
    Result<BitAllocation> found = allocateBits(items, budget);
    ASSERT_TRUE(found.ok()) << found.message();
    auto [error, cost] = tryAll(items, budget);
    EXPECT_EQ(found->error, error) << round;
    EXPECT_EQ(found->cost, cost) << round;
    double sum = 0;
    int64_t spent = 0;
    ASSERT_EQ(found->choices.size(), items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      sum += items[i][static_cast<size_t>(found->choices[i])].error;
      spent += items[i][static_cast<size_t>(found->choices[i])].cost;
    }
    EXPECT_EQ(sum, found->error);
    EXPECT_EQ(spent, found->cost);
    ++solved;
    beaten += found->cost < budget;
  }
  EXPECT_EQ(solved, 400);
  EXPECT_GT(beaten, 0);
}

TEST(BitAllocationTest, NotTheConvexHull) {
  // Choices by a multiplier alone would take (0, 2) or (2, 0): 3 is the budget
  // where the options in the middle, which lie above the line, are best.
  Items items{{{0, 10}, {2, 6}, {3, 0}}, {{0, 10}, {1, 9}, {3, 0}}};
  Result<BitAllocation> found = allocateBits(items, 5);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->error, 6.0);
  EXPECT_EQ(found->choices, (std::vector<int64_t>{1, 2}));
}

TEST(BitAllocationTest, ManyItemsWithoutCommonUnit) {
  // 300 items of four options, costs without a common divisor.
  std::mt19937 random(9);
  Items items(300);
  int64_t middle = 0;
  for (std::vector<BitOption> &options : items) {
    auto size = static_cast<int64_t>(1000000 + random() % 50000000);
    double weight = std::exp(static_cast<double>(random() % 1000) / 100.0);
    for (int bits = 2; bits <= 5; ++bits)
      options.push_back({size * bits + static_cast<int64_t>(random() % 997),
                         weight * std::pow(4.0, -bits)});
    middle += options[1].cost;
  }
  Result<BitAllocation> found = allocateBits(items, middle);
  ASSERT_TRUE(found.ok()) << found.message();
  EXPECT_LE(found->cost, middle);
  // Better than three bits everywhere, and all is spent but a little.
  double uniform = 0;
  for (const std::vector<BitOption> &options : items)
    uniform += options[1].error;
  EXPECT_LT(found->error, 0.7 * uniform);
  EXPECT_GT(static_cast<double>(found->cost),
            0.999 * static_cast<double>(middle));
  EXPECT_EQ(allocateBits(items, middle)->choices, found->choices);
  // A small room is a message.
  Result<BitAllocation> none = allocateBits(items, middle, 100);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.message().find("give fewer candidates"), std::string::npos);
}

TEST(BitAllocationTest, ThousandsOfItems) {
  // 64 rows each, of two lengths; widths 2, 3 and 4 by groups of 32, 64, 192.
  std::mt19937 random(9);
  Items items(2500);
  int64_t budget = 13;
  for (std::vector<BitOption> &options : items) {
    int64_t columns = random() % 4 ? 576 : 1536;
    double weight = std::exp(static_cast<double>(random() % 1000) / 150.0) *
                    static_cast<double>(random() % 997 + 1);
    for (int bits = 2; bits <= 4; ++bits)
      for (int64_t group : {32, 64, 192}) {
        if (bits == 4 && group == 32)
          continue;
        double noise = 1.0 + static_cast<double>(random() % 200) / 1000.0;
        options.push_back({64 * (columns * bits / 8 + columns / group * 3),
                           weight * std::pow(4.0, -bits) *
                               std::pow(static_cast<double>(group), 0.3) *
                               noise});
      }
    ASSERT_EQ(options.size(), 8U);
    budget += options[4].cost; // 3 bits by 64
  }
  Result<BitAllocation> found =
      allocateBits(items, budget, /*maxStates=*/int64_t(1) << 24);
  ASSERT_TRUE(found.ok()) << found.message();
  EXPECT_LE(found->cost, budget);
  EXPECT_GT(static_cast<double>(found->cost),
            0.9999 * static_cast<double>(budget));
  // No multiplier's bound may exceed the error, and the best one is near it.
  double bound = 0;
  for (double multiplier = 1e-9; multiplier < 1e3; multiplier *= 1.05) {
    double sum = -multiplier * static_cast<double>(budget);
    for (const std::vector<BitOption> &options : items) {
      double least = HUGE_VAL;
      for (const BitOption &option : options)
        least = std::min(least, option.error + multiplier * static_cast<double>(
                                                                option.cost));
      sum += least;
    }
    bound = std::max(bound, sum);
  }
  EXPECT_GE(found->error, bound * (1 - 1e-12));
  EXPECT_LT(found->error, bound * 1.001);
}

TEST(BitAllocationTest, BadInput) {
  auto fails = [](const Items &items, int64_t budget, const char *text) {
    Result<BitAllocation> found = allocateBits(items, budget);
    ASSERT_FALSE(found.ok());
    EXPECT_NE(found.message().find(text), std::string::npos) << found.message();
  };
  fails({{{3, 1}, {4, 0}}, {{2, 5}}}, 4,
        "expected a budget of at least 5, the cost of the cheapest options, "
        "but got 4");
  fails({{{3, 1}}, {}}, 9, "expected at least one option of item 1");
  fails({{{-3, 1}}}, 9, "expected costs that are not negative but got -3");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  fails({{{3, nan}}}, 9, "expected errors that are finite");
  fails({{{3, -1}}}, 9, "expected errors that are finite");
  int64_t most = std::numeric_limits<int64_t>::max();
  fails({{{most, 1}}, {{most, 1}}}, 9, "expected costs whose sum fits");
  // Nothing to choose.
  Result<BitAllocation> nothing = allocateBits({}, 0);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->cost, 0);
}

} // namespace
