//===- Granularity.h - Choice of the group size by range --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// FineQuant's (arXiv:2308.09723) adaptive granularity: split the groups of a
// weight matrix as long as splitting shrinks their range. The quantization step
// of a group is proportional to its range for any number of bits, so the ratio
// of ranges is the ratio of steps.
//
// The exact statistic of the paper is not public; this form is explicit about
// each choice. A matrix is [N, K] here, K contiguous; groups are along K; a row
// is an output channel.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_GRANULARITY_H
#define QUANT_LLM_NUMERICS_GRANULARITY_H

#include "quant-llm/Numerics/GroupQuantizer.h"

#include <string>
#include <vector>

namespace quant_llm {

enum class RangeStatistic {
  Raw,      ///< ratio of ranges
  Gaussian, ///< ratio of ranges divided by the one expected of normal numbers
};

enum class RangeAggregation {
  Mean, ///< ratio of the matrix's mean ranges
  Min,  ///< smallest ratio of a row: one bad row is enough to break a model
};

struct GranularityOptions {
  /// Split while the ratio is below.
  double alpha = 0.8;
  /// Allowed group sizes, in any order; those not below K are skipped. The
  /// whole row is always allowed, and is where the choice starts.
  std::vector<int64_t> sizes = {512, 256, 128, 64};
  /// Range of a group: 2*max|w| if true, else max(w)-min(w).
  bool symmetric = true;
  RangeStatistic statistic = RangeStatistic::Raw;
  RangeAggregation aggregation = RangeAggregation::Min;
};

const char *rangeStatisticName(RangeStatistic statistic); // "raw", "gaussian"
const char *rangeAggregationName(RangeAggregation aggregation); // "mean", "min"
Result<RangeStatistic> parseRangeStatistic(const std::string &text);
Result<RangeAggregation> parseRangeAggregation(const std::string &text);

/// range(g) of each row for each size g: the mean over the row's groups of
/// their range, a group weighing as many as it has elements. (Of equal groups
/// that is the plain mean; a short last group would otherwise pass for a shrunk
/// range.)
struct RangeTable {
  int64_t n = 0;
  int64_t k = 0;
  /// As asked for; -1 and sizes above k mean the whole row.
  std::vector<int64_t> sizes;
  /// ranges[i * n + row] for sizes[i].
  std::vector<double> ranges;

  /// Sum over rows for sizes[i], in row order.
  double sum(size_t i) const;
};

/// Errors: a size that is neither positive nor -1, an empty matrix, a NaN or
/// infinity (verifyFinite). The result does not depend on `threads`.
Result<RangeTable> computeRanges(const MatrixView &matrix,
                                 const std::vector<int64_t> &sizes,
                                 bool symmetric, const std::string &tensorName,
                                 int threads);

/// Expected range of `count` independent standard normal numbers: max - min,
/// that is integral of 1 - Phi(x)^n - (1-Phi(x))^n, or 2*max|x|, 2 * integral
/// over x > 0 of 1 - (2*Phi(x)-1)^n. By Simpson's rule, to about 1e-10. 0 for
/// max - min of one.
double expectedNormalRange(int64_t count, bool symmetric);

/// expectedNormalRange of the groups of size `size` of a row of k, weighed as
/// above.
double expectedNormalRange(int64_t k, int64_t size, bool symmetric);

/// One comparison: what would splitting groups of `from` into `to` gain?
struct GranularityStep {
  int64_t from, to;
  /// range(to) / range(from), aggregated; divided by `expected` if Gaussian.
  double ratio;
  /// The ratio expected of normal numbers.
  double expected;
  /// The row with the smallest ratio (aggregation Min), else -1.
  int64_t row;
  bool split;
};

struct GranularityChoice {
  /// The chosen group size along K; -1 is the whole row.
  int64_t group = -1;
  std::vector<GranularityStep> steps;
  /// One line: "K=4096 -> 512: smallest row ratio 0.646 (row 17) < 0.8, split;
  /// ...".
  std::string reason;
};

/// The choice from a matrix: starting with the whole row, goes to the next
/// smaller allowed size as long as the ratio is below alpha, and stops at the
/// first that is not. Rows whose range is 0 count as ratio 1. Errors: alpha not
/// in (0, 2], no positive sizes, and those of computeRanges.
Result<GranularityChoice> chooseGranularity(const MatrixView &matrix,
                                            const GranularityOptions &options,
                                            const std::string &tensorName,
                                            int threads);

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_GRANULARITY_H
