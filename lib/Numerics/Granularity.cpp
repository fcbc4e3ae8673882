//===- Granularity.cpp - Choice of the group size by range ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Granularity.h"

#include "quant-llm/Support/Parallel.h"

#include "Kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>

using namespace quant_llm;

const char *quant_llm::rangeStatisticName(RangeStatistic statistic) {
  return statistic == RangeStatistic::Raw ? "raw" : "gaussian";
}

const char *quant_llm::rangeAggregationName(RangeAggregation aggregation) {
  return aggregation == RangeAggregation::Mean ? "mean" : "min";
}

Result<RangeStatistic> quant_llm::parseRangeStatistic(const std::string &text) {
  if (text == "raw")
    return RangeStatistic::Raw;
  if (text == "gaussian")
    return RangeStatistic::Gaussian;
  return Status::error("expected a statistic (raw, gaussian) but got '" + text +
                       "'");
}

Result<RangeAggregation>
quant_llm::parseRangeAggregation(const std::string &text) {
  if (text == "mean")
    return RangeAggregation::Mean;
  if (text == "min")
    return RangeAggregation::Min;
  return Status::error("expected an aggregation (mean, min) but got '" + text +
                       "'");
}

//===----------------------------------------------------------------------===//
// Ranges of a matrix
//===----------------------------------------------------------------------===//

/// Mean range of the groups of a row, each weighing as many as it has elements.
static double averageRange(const float *lows, const float *highs, int64_t k,
                           int64_t size, bool symmetric) {
  double sum = 0;
  for (int64_t begin = 0, group = 0; begin < k; begin += size, ++group) {
    double range = symmetric ? 2.0 * static_cast<double>(highs[group])
                             : static_cast<double>(highs[group]) - lows[group];
    sum += range * static_cast<double>(std::min(size, k - begin));
  }
  return sum / static_cast<double>(k);
}

double RangeTable::sum(size_t i) const {
  double total = 0;
  for (int64_t row = 0; row < n; ++row)
    total += ranges[i * static_cast<size_t>(n) + static_cast<size_t>(row)];
  return total;
}

Result<RangeTable> quant_llm::computeRanges(const MatrixView &matrix,
                                            const std::vector<int64_t> &sizes,
                                            bool symmetric,
                                            const std::string &tensorName,
                                            int threads) {
  if (matrix.n < 1 || matrix.k < 1)
    return Status::error("tensor '" + tensorName +
                         "': expected a matrix with at least one row and one "
                         "column but got " +
                         std::to_string(matrix.n) + "x" +
                         std::to_string(matrix.k));
  for (int64_t size : sizes)
    if (size < 1 && size != -1)
      return Status::error("expected group sizes of at least 1, or -1 for the "
                           "whole row, but got " +
                           std::to_string(size));
  RangeTable table;
  table.n = matrix.n;
  table.k = matrix.k;
  table.sizes = sizes;
  auto rows = static_cast<size_t>(matrix.n);
  table.ranges.resize(sizes.size() * rows);
  std::atomic<bool> finite{true};
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k)), lows(values),
        highs(values);
    for (int64_t row = begin; row < end && finite; ++row) {
      loadRow(matrix, row, 0, matrix.k, values.data());
      for (size_t i = 0; i < sizes.size(); ++i) {
        int64_t size = sizes[i] == -1 ? matrix.k : std::min(sizes[i], matrix.k);
        uint32_t largest =
            symmetric ? getKernels().absMax(values.data(), matrix.k, size,
                                            highs.data())
                      : getKernels().minMax(values.data(), matrix.k, size,
                                            lows.data(), highs.data());
        if (largest >= 0x7f800000) {
          finite = false;
          return;
        }
        table.ranges[i * rows + static_cast<size_t>(row)] =
            averageRange(lows.data(), highs.data(), matrix.k, size, symmetric);
      }
    }
  });
  if (!finite)
    return verifyFinite(matrix, tensorName, threads);
  return table;
}

//===----------------------------------------------------------------------===//
// Ranges of normal numbers
//===----------------------------------------------------------------------===//

double quant_llm::expectedNormalRange(int64_t count, bool symmetric) {
  if (count < 1)
    return 0.0;
  auto n = static_cast<double>(count);
  // The integrands are below 1e-20 outside of [-L, L] for any 64-bit count.
  const double limit = 14.0;
  const int intervals = 8000;
  auto integrand = [&](double x) {
    // Both powers by the complement, which stays exact in the tails.
    double above = 0.5 * std::erfc(x * M_SQRT1_2);
    if (symmetric)
      return -std::expm1(n * std::log1p(-2.0 * above));
    double below = 0.5 * std::erfc(-x * M_SQRT1_2);
    return -std::expm1(n * std::log1p(-above)) -
           std::exp(n * std::log1p(-below));
  };
  // Both integrands are even or live on x >= 0: the range is twice the
  // integral.
  double step = limit / intervals, sum = 0;
  for (int i = 0; i <= intervals; ++i) {
    double weight = i == 0 || i == intervals ? 1 : i % 2 ? 4 : 2;
    double x = step * i;
    sum += weight * integrand(x);
  }
  return 2.0 * sum * step / 3.0;
}

double quant_llm::expectedNormalRange(int64_t k, int64_t size, bool symmetric) {
  if (k < 1)
    return 0.0;
  if (size < 1 || size > k)
    size = k;
  int64_t whole = k / size, rest = k % size;
  double sum =
      static_cast<double>(whole * size) * expectedNormalRange(size, symmetric);
  if (rest)
    sum += static_cast<double>(rest) * expectedNormalRange(rest, symmetric);
  return sum / static_cast<double>(k);
}

//===----------------------------------------------------------------------===//
// Choice
//===----------------------------------------------------------------------===//

static std::string formatRatio(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%.4g", value);
  return buffer;
}

static std::string describe(const GranularityStep &step,
                            const GranularityOptions &options, bool first) {
  std::string text = first ? "K=" : "";
  text += std::to_string(step.from) + " -> " + std::to_string(step.to) + ": ";
  text += options.aggregation == RangeAggregation::Min ? "smallest row ratio "
                                                       : "mean ratio ";
  text += formatRatio(step.ratio);
  if (options.statistic == RangeStatistic::Gaussian)
    text += " of normal";
  if (step.row >= 0)
    text += " (row " + std::to_string(step.row) + ")";
  text += step.split ? " < " : " >= ";
  return text + formatRatio(options.alpha) +
         (step.split ? ", split" : ", stop");
}

Result<GranularityChoice>
quant_llm::chooseGranularity(const MatrixView &matrix,
                             const GranularityOptions &options,
                             const std::string &tensorName, int threads) {
  if (!(options.alpha > 0.0 && options.alpha <= 2.0))
    return Status::error("expected alpha above 0 and at most 2 but got " +
                         formatRatio(options.alpha));
  std::vector<int64_t> sizes{-1};
  std::vector<int64_t> allowed = options.sizes;
  std::sort(allowed.rbegin(), allowed.rend());
  allowed.erase(std::unique(allowed.begin(), allowed.end()), allowed.end());
  for (int64_t size : allowed) {
    if (size < 1)
      return Status::error("expected group sizes of at least 1 but got " +
                           std::to_string(size));
    if (size < matrix.k)
      sizes.push_back(size);
  }
  Result<RangeTable> table =
      computeRanges(matrix, sizes, options.symmetric, tensorName, threads);
  if (!table.ok())
    return table.status();

  GranularityChoice choice;
  auto rows = static_cast<size_t>(matrix.n);
  for (size_t i = 0; i + 1 < sizes.size(); ++i) {
    GranularityStep step;
    step.from = sizes[i] == -1 ? matrix.k : sizes[i];
    step.to = sizes[i + 1];
    step.row = -1;
    double before = expectedNormalRange(matrix.k, step.from, options.symmetric);
    step.expected =
        before > 0
            ? expectedNormalRange(matrix.k, step.to, options.symmetric) / before
            : 1.0;
    const double *from = table->ranges.data() + i * rows;
    const double *to = from + rows;
    if (options.aggregation == RangeAggregation::Mean) {
      double total = table->sum(i);
      step.ratio = total > 0 ? table->sum(i + 1) / total : 1.0;
    } else {
      step.ratio = 1.0;
      for (size_t row = 0; row < rows; ++row) {
        double ratio = from[row] > 0 ? to[row] / from[row] : 1.0;
        if (step.row < 0 || ratio < step.ratio) {
          step.ratio = ratio;
          step.row = static_cast<int64_t>(row);
        }
      }
    }
    if (options.statistic == RangeStatistic::Gaussian && step.expected > 0)
      step.ratio /= step.expected;
    step.split = step.ratio < options.alpha;
    choice.reason += (choice.steps.empty() ? "" : "; ") +
                     describe(step, options, choice.steps.empty());
    choice.steps.push_back(step);
    if (!step.split)
      break;
    choice.group = step.to;
  }
  if (choice.steps.empty())
    choice.reason =
        "K=" + std::to_string(matrix.k) + ": no allowed group size is smaller";
  return choice;
}
