//===- HalfQuadratic.cpp - Zeros that ignore outliers ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/HalfQuadratic.h"

#include "quant-llm/Methods/Grid.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <cmath>

using namespace quant_llm;

static Status verifyOptions(const HalfQuadraticOptions &options) {
  auto error = [](const char *what, double value) {
    return Status::error(std::string("expected ") + what + " but got " +
                         std::to_string(value));
  };
  if (!(options.norm > 0.0 && options.norm <= 1.0))
    return error("a norm p with 0 < p <= 1", options.norm);
  if (!(options.beta > 0.0 && std::isfinite(options.beta)))
    return error("a positive beta", options.beta);
  if (!(options.kappa >= 1.0 && std::isfinite(options.kappa)))
    return error("a kappa of at least 1", options.kappa);
  if (options.iterations < 1)
    return error("at least one iteration", options.iterations);
  return Status::success();
}

namespace {
/// The values of one block, and the zeros that are tried for it.
class Block {
public:
  Block(Grid &grid, int64_t cell, FloatType zeroType)
      : grid(grid), cell(cell), zeroType(zeroType) {}

  std::vector<float> weights;

  /// Solves for the zero, and leaves the best one in the grid and in `stored`.
  void solve(const HalfQuadraticOptions &options, uint8_t *stored);

private:
  float store(double zero, uint8_t *bytes) const {
    storeFloat(zeroType, static_cast<float>(zero), bytes);
    return loadFloat(zeroType, bytes);
  }
  /// The zero nearest to the rule's under which the weight 0 has a code, or the
  /// rule's if 0 is beyond the range of the weights.
  float alignToZero(uint8_t *bytes) const;
  /// Values of the nearest codes under a stored zero.
  double computeMeanError(float zero, std::vector<float> &values) {
    grid.set(cell, grid.getScale(cell), zero);
    values.resize(weights.size());
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      values[i] = grid.roundIn(cell, weights[i]).value;
      sum += std::fabs(static_cast<double>(weights[i]) - values[i]);
    }
    return sum / static_cast<double>(weights.size());
  }

  Grid &grid;
  int64_t cell;
  FloatType zeroType;
};
} // namespace

float Block::alignToZero(uint8_t *bytes) const {
  float zero = grid.getZero(cell);
  float value = grid.roundIn(cell, 0.0f).value;
  auto [low, high] = std::minmax_element(weights.begin(), weights.end());
  if (*low > 0.0f || *high < 0.0f)
    return zero;
  return store(static_cast<double>(zero) - value, bytes);
}

void Block::solve(const HalfQuadraticOptions &options, uint8_t *stored) {
  float scale = grid.getScale(cell);
  if (scale == 0.0f)
    return;
  float best = alignToZero(stored);
  std::vector<float> values;
  double least = computeMeanError(best, values);
  double beta = options.beta;
  float zero = best;
  for (int iteration = 0; iteration < options.iterations; ++iteration) {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      double weight = weights[i], residual = weight - values[i];
      double size = std::fabs(residual);
      double shrunk =
          size == 0.0
              ? 0.0
              : std::max(size - std::pow(size, options.norm - 1.0) / beta, 0.0);
      sum += weight - std::copysign(shrunk, residual) -
             (values[i] - static_cast<double>(zero));
    }
    beta *= options.kappa;
    uint8_t bytes[4];
    zero = store(sum / static_cast<double>(weights.size()), bytes);
    double error = computeMeanError(zero, values);
    if (!(error < least))
      break;
    least = error;
    best = zero;
    std::copy(bytes, bytes + floatTypeBytes(zeroType), stored);
  }
  grid.set(cell, scale, best);
}

Status quant_llm::verifyHalfQuadraticScheme(const Scheme &scheme) {
  if (scheme.zero == ZeroKind::Float)
    return Status::success();
  return Status::error(
      "expected a scheme with a float zero, which is what half-quadratic "
      "quantization chooses (the mean error is less than the step that an "
      "integer zero could move); use zero = f16, or round to nearest");
}

Result<QuantizedMatrix>
quant_llm::quantizeHalfQuadratic(const MatrixView &matrix, const Scheme &scheme,
                                 const HalfQuadraticOptions &options,
                                 const std::string &tensorName, int threads) {
  std::string context = "tensor '" + tensorName + "'";
  Status status = verifyOptions(options);
  if (status.ok())
    status = verifyHalfQuadraticScheme(scheme);
  if (!status.ok())
    return status.withContext(context);
  Result<QuantizedMatrix> stored =
      quantize(matrix, scheme, tensorName, threads);
  if (!stored.ok())
    return stored.status();
  Result<Grid> grid = Grid::get(stored->view(), scheme);
  if (!grid.ok())
    return grid.status().withContext(context);

  const BlockGrid &blocks = grid->blocks();
  size_t zeroBytes =
      stored->zeros.size() / static_cast<size_t>(blocks.gridN * blocks.gridK);
  int64_t rowBytes = packedRowBytes(matrix.k, scheme.element.bits);
  parallelFor(blocks.gridN, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    std::vector<uint8_t> codes(row.size());
    for (int64_t rowBlock = begin; rowBlock < end; ++rowBlock) {
      int64_t firstRow = rowBlock * blocks.blockN;
      int64_t lastRow = std::min(firstRow + blocks.blockN, matrix.n);
      for (int64_t i = 0; i < blocks.gridK; ++i) {
        int64_t cell = rowBlock * blocks.gridK + i;
        int64_t first = i * blocks.blockK;
        int64_t count = std::min(blocks.blockK, matrix.k - first);
        Block block(*grid, cell, scheme.zeroType);
        block.weights.resize(static_cast<size_t>((lastRow - firstRow) * count));
        for (int64_t r = firstRow; r < lastRow; ++r)
          loadRow(matrix, r, first, count,
                  block.weights.data() + (r - firstRow) * count);
        block.solve(options, stored->zeros.data() +
                                 static_cast<size_t>(cell) * zeroBytes);
      }
      for (int64_t r = firstRow; r < lastRow; ++r) {
        loadRow(matrix, r, 0, matrix.k, row.data());
        for (size_t i = 0; i < row.size(); ++i)
          codes[i] = grid->round(r, static_cast<int64_t>(i), row[i]).code;
        packRow(codes.data(), matrix.k, scheme.element.bits,
                stored->codes.data() + r * rowBytes);
      }
    }
  });
  return stored;
}
