//===- RowAllocation.h - Options for rows under a budget --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// BitAllocation.h for the rows of matrices: rows of one matrix may have
// different options, but only few different ones, because rows of an option are
// stored, and multiplied with, together.
//
// With a multiplier m >= 0, the price of a row is its error + m cost. Of every
// matrix the options that are worth the least are left out until few enough are
// left, and each has rows enough; a matrix whose rows agree on one option, or
// where different ones are not worth the cost of an order, stays whole. The
// multiplier is bisected to the budget, which is a heuristic, and nothing uses
// up what it leaves of the budget. That is little where rows change their
// options at many multipliers. It may be as much as a whole matrix, or several,
// where all rows of it change at one: a weight that must not be split, rows
// with equal errors, parts that are worth their order only together.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_ROWALLOCATION_H
#define QUANT_LLM_METHODS_ROWALLOCATION_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <vector>

namespace quant_llm {

/// The rows of a matrix, or of a whole weight that must not be split as one
/// row.
struct RowTable {
  int64_t rows = 0; ///< at least 1
  /// Of each option the bytes of one row: not negative, see verifyRowCosts().
  std::vector<int64_t> costs;
  /// Bytes per row if the rows have several options: where the row stands in
  /// the order of the stored ones.
  int64_t orderCost = 0;
  /// [rows][options]: finite, not negative.
  std::vector<double> errors;
  /// For messages; without one they say its number.
  std::string name = {};
};

struct RowAllocationOptions {
  /// Different options in a matrix, at least 1.
  int64_t maxParts = 4;
  /// Rows of an option, where there are several.
  int64_t minRows = 16;
};

struct RowAllocation {
  /// Of each matrix, of each row, the index of its option.
  std::vector<std::vector<int64_t>> choices;
  int64_t cost = 0;
  double error = 0;
};

/// Checks all but the errors of tables, which may be missing: numbers of rows
/// and options; costs that are not negative, and of which the largest ones of
/// all rows, with those of orders, are at most 2^53 together.
Status verifyRowCosts(const std::vector<RowTable> &tables);

/// Choices with a cost of at most `budget` bytes and a small error. They do not
/// depend on the number of threads.
/// Errors: those of verifyRowCosts(); a table whose sizes do not agree; errors
/// that are not finite, negative, or larger than 1e250 together; a budget below
/// the least cost.
Result<RowAllocation> allocateRows(const std::vector<RowTable> &tables,
                                   int64_t budget,
                                   const RowAllocationOptions &options,
                                   int threads);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_ROWALLOCATION_H
