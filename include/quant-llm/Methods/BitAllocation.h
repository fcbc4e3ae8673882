//===- BitAllocation.h - Bits where they matter most ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One option for each item, such that the sum of errors is the smallest that a
// budget for the sum of costs allows (a multiple-choice knapsack).
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_BITALLOCATION_H
#define QUANT_LLM_METHODS_BITALLOCATION_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <vector>

namespace quant_llm {

struct BitOption {
  int64_t cost = 0; ///< not negative
  double error = 0; ///< finite, not negative
};

struct BitAllocation {
  /// Of each item, the index of its option.
  std::vector<int64_t> choices;
  int64_t cost = 0;
  double error = 0;
};

/// The best choice: by dynamic programming over the sets of choices that no
/// other set beats in both cost and error, without those that a bound
/// (Lagrangian duality) excludes. Costs are not rounded to any unit, so that
/// the result is exact up to the rounding of sums of errors in float64. Of
/// equal errors the smaller cost. Deterministic. Errors: items without options,
/// costs or errors out of range, a budget below the smallest cost, and more
/// than `maxStates` sets to keep.
Result<BitAllocation>
allocateBits(const std::vector<std::vector<BitOption>> &items, int64_t budget,
             int64_t maxStates = int64_t(1) << 27);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_BITALLOCATION_H
