//===- BitAllocation.cpp - Bits where they matter most --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// For any multiplier m >= 0 the errors of all choices within the budget are at
// least sum_i min_o (error + m cost) - m budget. The best multiplier gives a
// bound for what the items that are not decided yet must cost, and choices of
// the other side of it a solution to compare with.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/BitAllocation.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <tuple>

using namespace quant_llm;

/// Sums of errors in another order differ by less than this part of them.
static constexpr double roundingMargin = 1e-9;

using Items = std::vector<std::vector<BitOption>>;

/// The choice of least error + multiplier * cost; of equals the cheapest.
static BitAllocation chooseByMultiplier(const Items &items, double multiplier) {
  BitAllocation result;
  for (const std::vector<BitOption> &options : items) {
    size_t best = 0;
    auto price = [&](size_t i) {
      return options[i].error +
             multiplier * static_cast<double>(options[i].cost);
    };
    for (size_t i = 1; i < options.size(); ++i)
      if (price(i) < price(best) ||
          (price(i) == price(best) && options[i].cost < options[best].cost))
        best = i;
    result.choices.push_back(static_cast<int64_t>(best));
    result.cost += options[best].cost;
    result.error += options[best].error;
  }
  return result;
}

/// Spends what is left of the budget, the largest gain per cost first.
static void spendRest(const Items &items, int64_t budget,
                      BitAllocation &result) {
  for (;;) {
    double bestGain = 0;
    size_t bestItem = 0, bestOption = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      const BitOption &now = items[i][static_cast<size_t>(result.choices[i])];
      for (size_t o = 0; o < items[i].size(); ++o) {
        const BitOption &option = items[i][o];
        if (!(option.error < now.error) ||
            result.cost - now.cost + option.cost > budget)
          continue;
        double gain =
            (now.error - option.error) /
            std::max(static_cast<double>(option.cost - now.cost), 1e-3);
        if (gain > bestGain) {
          bestGain = gain;
          bestItem = i;
          bestOption = o;
        }
      }
    }
    if (!(bestGain > 0.0))
      return;
    const BitOption &now =
        items[bestItem][static_cast<size_t>(result.choices[bestItem])];
    result.cost += items[bestItem][bestOption].cost - now.cost;
    result.error += items[bestItem][bestOption].error - now.error;
    result.choices[bestItem] = static_cast<int64_t>(bestOption);
  }
}

namespace {
/// A set of choices for the first items.
struct State {
  int64_t cost;
  double error;
  /// Its last choice, and the place of the rest in the states before.
  uint32_t option;
  uint32_t previous;
};
} // namespace

static Status verifyItems(const Items &items, int64_t budget) {
  int64_t smallest = 0, largest = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].empty())
      return Status::error("expected at least one option of item " +
                           std::to_string(i));
    int64_t least = items[i].front().cost, most = least;
    for (const BitOption &option : items[i]) {
      if (option.cost < 0)
        return Status::error("expected costs that are not negative but got " +
                             std::to_string(option.cost) + " of item " +
                             std::to_string(i));
      if (!(option.error >= 0.0) || !std::isfinite(option.error))
        return Status::error(
            "expected errors that are finite and not negative but got " +
            std::to_string(option.error) + " of item " + std::to_string(i));
      least = std::min(least, option.cost);
      most = std::max(most, option.cost);
    }
    if (__builtin_add_overflow(largest, most, &largest))
      return Status::error("expected costs whose sum fits into 63 bits");
    smallest += least; // not above `largest`
  }
  if (smallest > budget)
    return Status::error("expected a budget of at least " +
                         std::to_string(smallest) +
                         ", the cost of the cheapest options, but got " +
                         std::to_string(budget));
  return Status::success();
}

Result<BitAllocation>
quant_llm::allocateBits(const Items &items, int64_t budget, int64_t maxStates) {
  if (Status status = verifyItems(items, budget); !status.ok())
    return status;
  BitAllocation best = chooseByMultiplier(items, 0.0);
  if (best.cost <= budget)
    return best;

  // A multiplier that is large enough, then bisection.
  double low = 0.0, high = 1e-30;
  while (chooseByMultiplier(items, high).cost > budget && high < 1e300)
    high *= 16.0;
  for (int step = 0; step < 200; ++step) {
    double middle = 0.5 * (low + high);
    if (!(low < middle && middle < high))
      break;
    (chooseByMultiplier(items, middle).cost > budget ? low : high) = middle;
  }
  best = chooseByMultiplier(items, high);
  if (best.cost > budget) {
    // Errors so large that no multiplier matters.
    best = BitAllocation();
    for (const std::vector<BitOption> &options : items) {
      auto cheapest =
          std::min_element(options.begin(), options.end(),
                           [](const BitOption &a, const BitOption &b) {
                             return a.cost < b.cost;
                           });
      best.choices.push_back(cheapest - options.begin());
      best.cost += cheapest->cost;
      best.error += cheapest->error;
    }
  }
  spendRest(items, budget, best);

  // Of the items from i on: their least price, and their least cost.
  std::vector<double> prices(items.size() + 1, 0.0);
  std::vector<int64_t> costs(items.size() + 1, 0);
  for (size_t i = items.size(); i-- > 0;) {
    double price = HUGE_VAL;
    int64_t cost = items[i].front().cost;
    for (const BitOption &option : items[i]) {
      price = std::min(price,
                       option.error + high * static_cast<double>(option.cost));
      cost = std::min(cost, option.cost);
    }
    prices[i] = prices[i + 1] + price;
    costs[i] = costs[i + 1] + cost;
  }

  std::vector<std::vector<State>> stages(1);
  stages.front().push_back({0, 0.0, 0, 0});
  int64_t numStates = 1;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::vector<State> &from = stages.back();
    // What the bound compares: with a margin, so that rounding excludes
    // nothing.
    double limit = best.error + roundingMargin * (best.error + prices.front());
    // The states that an option leads to have rising costs, as `from` has:
    // those of all options are merged, and only what is kept takes memory.
    std::vector<size_t> places(items[i].size(), 0);
    auto getState = [&](size_t o) {
      const State &state = from[places[o]];
      return State{state.cost + items[i][o].cost,
                   state.error + items[i][o].error, static_cast<uint32_t>(o),
                   static_cast<uint32_t>(places[o])};
    };
    std::vector<State> kept;
    for (;;) {
      std::optional<State> next;
      for (size_t o = 0; o < items[i].size(); ++o) {
        if (places[o] == from.size())
          continue;
        State state = getState(o);
        if (!next ||
            std::tie(state.cost, state.error, state.previous, state.option) <
                std::tie(next->cost, next->error, next->previous, next->option))
          next = state;
      }
      if (!next)
        break;
      ++places[next->option];
      if (next->cost + costs[i + 1] > budget ||
          next->error + prices[i + 1] -
                  high * static_cast<double>(budget - next->cost) >
              limit ||
          (!kept.empty() && !(next->error < kept.back().error)))
        continue;
      if (++numStates > maxStates)
        return Status::error(
            "expected at most " + std::to_string(maxStates) +
            " sets of choices to compare but got more; give fewer candidates");
      kept.push_back(*next);
    }
    stages.push_back(std::move(kept));
  }
  // None is left if rounding excluded the solution that is known.
  if (stages.back().empty())
    return best;
  size_t at = stages.back().size() - 1;
  best.cost = stages.back()[at].cost;
  best.error = stages.back()[at].error;
  for (size_t i = items.size(); i-- > 0;) {
    const State &state = stages[i + 1][at];
    best.choices[i] = state.option;
    at = state.previous;
  }
  return best;
}
