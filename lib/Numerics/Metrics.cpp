//===- Metrics.cpp - How far a quantized matrix is off --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Metrics.h"

#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

using namespace quant_llm;

namespace {
struct RowSums {
  double error = 0, weight = 0, maxAbs = 0;
};
} // namespace

/// Sums of one row, in four interleaved parts so that additions overlap.
static RowSums sumRow(const float *weights, const float *values,
                      int64_t count) {
  double errors[4] = {0, 0, 0, 0}, squares[4] = {0, 0, 0, 0};
  RowSums sums;
  for (int64_t i = 0; i < count; ++i) {
    double weight = weights[i];
    double error = static_cast<double>(values[i]) - weight;
    errors[i % 4] += error * error;
    squares[i % 4] += weight * weight;
    sums.maxAbs = std::max(sums.maxAbs, std::fabs(error));
  }
  sums.error = (errors[0] + errors[1]) + (errors[2] + errors[3]);
  sums.weight = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  return sums;
}

/// `getRow` returns row `row` of the approximation; it may use the buffer.
static ErrorMetrics
compute(const MatrixView &matrix, int threads,
        const std::function<const float *(int64_t, float *)> &getRow) {
  ErrorMetrics metrics;
  if (matrix.n <= 0 || matrix.k <= 0) {
    metrics.sqnrDecibels = std::numeric_limits<double>::infinity();
    return metrics;
  }
  std::vector<RowSums> rows(static_cast<size_t>(matrix.n));
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(static_cast<size_t>(matrix.k)), buffer(weights);
    for (int64_t row = begin; row < end; ++row) {
      loadRow(matrix, row, 0, matrix.k, weights.data());
      rows[static_cast<size_t>(row)] =
          sumRow(weights.data(), getRow(row, buffer.data()), matrix.k);
    }
  });
  RowSums total;
  for (const RowSums &row : rows) {
    total.error += row.error;
    total.weight += row.weight;
    total.maxAbs = std::max(total.maxAbs, row.maxAbs);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  metrics.mse = total.error /
                (static_cast<double>(matrix.n) * static_cast<double>(matrix.k));
  metrics.maxAbs = total.maxAbs;
  if (total.error == 0) {
    metrics.sqnrDecibels = infinity;
    return metrics;
  }
  metrics.relativeFrobenius =
      total.weight == 0 ? infinity : std::sqrt(total.error / total.weight);
  metrics.sqnrDecibels = 10 * std::log10(total.weight / total.error);
  return metrics;
}

ErrorMetrics quant_llm::computeErrors(const MatrixView &matrix,
                                      const float *approximation, int threads) {
  return compute(matrix, threads, [&](int64_t row, float *) {
    return approximation + row * matrix.k;
  });
}

Result<ErrorMetrics> quant_llm::computeErrors(const MatrixView &matrix,
                                              const QuantizedView &view,
                                              const Scheme &scheme,
                                              int threads) {
  if (matrix.n != view.n || matrix.k != view.k)
    return Status::error("expected matrices of one shape but got " +
                         std::to_string(matrix.n) + "x" +
                         std::to_string(matrix.k) + " and " +
                         std::to_string(view.n) + "x" + std::to_string(view.k));
  Result<RowReader> reader = RowReader::get(view, scheme);
  if (!reader.ok())
    return reader.status();
  return compute(matrix, threads, [&](int64_t row, float *buffer) {
    reader->read(row, row + 1, buffer);
    return buffer;
  });
}
