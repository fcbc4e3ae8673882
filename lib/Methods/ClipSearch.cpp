//===- ClipSearch.cpp - Ranges of blocks by weighted errors ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The range of a block is shrunk by clamping its elements: the rule then gives
// the scale and zero of the smaller range, whatever the scheme. Codes are those
// of the elements as they were.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/ClipSearch.h"

#include "quant-llm/Methods/Grid.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/NestedScales.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Support/Parallel.h"

#include "Clones.h"

#include <algorithm>
#include <cmath>
#include <functional>

using namespace quant_llm;

/// Rows whose errors are computed together, in vectors.
static constexpr int64_t panelRows = 32;

namespace {
struct Range {
  float low, high;
};
/// What is left of the two ends of a range.
struct Ratios {
  float low = 1.0f, high = 1.0f;
};

class ClipSearch {
public:
  ClipSearch(const MatrixView &matrix, const Scheme &scheme,
             const ClipImportance &importance, const std::string &tensorName,
             int threads)
      : matrix(matrix), scheme(scheme), importance(importance),
        tensorName(tensorName), threads(threads), base(scheme),
        blocks(getBlockGrid(scheme, matrix.n, matrix.k)) {
    if (scheme.rule == ScaleRule::Mse)
      base.rule =
          scheme.zero == ZeroKind::None ? ScaleRule::AbsMax : ScaleRule::MinMax;
  }

  Result<QuantizedMatrix> run(const ClipOptions &options);

private:
  void computeRanges();
  Result<QuantizedMatrix> quantizeWith(const std::vector<Ratios> &ratios);
  Status measure(const std::vector<Ratios> &trial);
  void addErrors(const Grid &grid, std::vector<double> &errors) const;
  Range clip(Range range, Ratios ratios) const;

  const MatrixView &matrix;
  const Scheme &scheme;
  const ClipImportance &importance;
  const std::string &tensorName;
  int threads;
  /// The scheme with the rule that is clipped.
  Scheme base;
  BlockGrid blocks;
  std::vector<Range> ranges;
  /// The stored scales of the whole ranges, if they have a scheme.
  QuantizedMatrix wholeScales;
  /// Of every block the best ratios, and their error.
  std::vector<Ratios> best;
  std::vector<double> least;
};
} // namespace

/// sums[r] += sum over i, j in [from, to) of H_ij d_ir d_jr; d is
/// [.][panelRows], and of H, k * k, the upper triangle is read.
QUANT_LLM_CLONES
static void addProducts(const float *hessian, int64_t k, int64_t from,
                        int64_t to, const float *changes, double *sums) {
  for (int64_t i = from; i < to; ++i) {
    const float *row = hessian + i * k;
    const float *change = changes + i * panelRows;
    float product[panelRows];
    for (int64_t r = 0; r < panelRows; ++r)
      product[r] = row[i] * change[r];
    for (int64_t j = i + 1; j < to; ++j) {
      float twice = 2.0f * row[j];
      const float *other = changes + j * panelRows;
      for (int64_t r = 0; r < panelRows; ++r)
        product[r] += twice * other[r];
    }
    for (int64_t r = 0; r < panelRows; ++r)
      sums[r] +=
          static_cast<double>(product[r]) * static_cast<double>(change[r]);
  }
}

/// Calls `body(rowBlock, first row, last row)` from several threads.
static void
forEachRowBlock(const BlockGrid &blocks, int64_t n, int threads,
                const std::function<void(int64_t, int64_t, int64_t)> &body) {
  parallelFor(blocks.gridN, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      body(block, block * blocks.blockN,
           std::min((block + 1) * blocks.blockN, n));
  });
}

/// The ranges that the rules begin with.
void ClipSearch::computeRanges() {
  const bool holdsZero = scheme.zero != ZeroKind::Float;
  ranges.resize(static_cast<size_t>(blocks.gridN * blocks.gridK));
  forEachRowBlock(blocks, matrix.n, threads,
                  [&](int64_t block, int64_t first, int64_t last) {
                    std::vector<float> row(static_cast<size_t>(matrix.k));
                    Range *to = ranges.data() + block * blocks.gridK;
                    for (int64_t n = first; n < last; ++n) {
                      loadRow(matrix, n, 0, matrix.k, row.data());
                      for (int64_t i = 0; i < matrix.k; ++i) {
                        Range &range = to[i / blocks.blockK];
                        float value = row[static_cast<size_t>(i)];
                        if (n == first && i % blocks.blockK == 0)
                          range = holdsZero ? Range{0.0f, 0.0f}
                                            : Range{value, value};
                        range.low = std::min(range.low, value);
                        range.high = std::max(range.high, value);
                      }
                    }
                    if (scheme.zero == ZeroKind::None)
                      for (int64_t i = 0; i < blocks.gridK; ++i) {
                        to[i].high = std::max(to[i].high, -to[i].low);
                        to[i].low = -to[i].high;
                      }
                  });
}

Range ClipSearch::clip(Range range, Ratios ratios) const {
  if (scheme.zero != ZeroKind::Float)
    return {range.low * ratios.low, range.high * ratios.high};
  float middle = range.low * 0.5f + range.high * 0.5f;
  return {middle + (range.low - middle) * ratios.low,
          middle + (range.high - middle) * ratios.high};
}

/// Replaces the codes of `stored` by the nearest ones of `matrix`.
static Status encodeAgain(const MatrixView &matrix, const Scheme &scheme,
                          QuantizedMatrix &stored, int threads) {
  Result<Grid> grid = Grid::get(stored.view(), scheme);
  if (!grid.ok())
    return grid.status();
  int64_t rowBytes = packedRowBytes(matrix.k, scheme.element.bits);
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    std::vector<uint8_t> codes(row.size());
    for (int64_t n = begin; n < end; ++n) {
      loadRow(matrix, n, 0, matrix.k, row.data());
      grid->roundRow(n, matrix.k, row.data(), codes.data(), nullptr);
      packRow(codes.data(), matrix.k, scheme.element.bits,
              stored.codes.data() + n * rowBytes);
    }
  });
  return Status::success();
}

/// Scales and zeros of the ranges times `ratios` of the blocks, without codes.
/// Scales with a scheme of their own are stored under the
/// scales of the whole ranges: those of a trial, in which all blocks of a row
/// shrink, would be others than those that are kept, where some do.
Result<QuantizedMatrix>
ClipSearch::quantizeWith(const std::vector<Ratios> &ratios) {
  std::vector<float> values(static_cast<size_t>(matrix.n * matrix.k));
  forEachRowBlock(
      blocks, matrix.n, threads,
      [&](int64_t block, int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          float *row = values.data() + n * matrix.k;
          loadRow(matrix, n, 0, matrix.k, row);
          for (int64_t i = 0; i < blocks.gridK; ++i) {
            auto cell = static_cast<size_t>(block * blocks.gridK + i);
            if (ratios[cell].low == 1.0f && ratios[cell].high == 1.0f)
              continue;
            const Range range = clip(ranges[cell], ratios[cell]);
            float *from = row + i * blocks.blockK;
            float *to = std::min(from + blocks.blockK, row + matrix.k);
            for (; from < to; ++from)
              *from = std::clamp(*from, range.low, range.high);
          }
        }
      });
  MatrixView clamped{values.data(), SourceType::F32, matrix.n, matrix.k};
  auto storeScales = [&](const MatrixView &scales) -> Result<QuantizedMatrix> {
    QuantizedMatrix stored = wholeScales;
    if (Status status = encodeAgain(scales, *base.scaleScheme, stored, threads);
        !status.ok())
      return status;
    return stored;
  };
  return quantizeWithScales(clamped, base, storeScales, tensorName, threads,
                            /*withCodes=*/false);
}

/// Adds the errors of every block under the scales and zeros of `grid`.
void ClipSearch::addErrors(const Grid &grid,
                           std::vector<double> &errors) const {
  // Row blocks of about a panel, so that blocks of single rows are fast.
  int64_t step = std::max<int64_t>(panelRows / blocks.blockN, 1);
  int64_t parts = (blocks.gridN - 1) / step + 1;
  parallelFor(parts, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k)), values(row);
    std::vector<uint8_t> codes(row.size());
    // [k][panelRows]
    std::vector<float> changes(static_cast<size_t>(matrix.k * panelRows));
    for (int64_t part = begin; part < end; ++part) {
      int64_t lastRow = std::min((part + 1) * step * blocks.blockN, matrix.n);
      for (int64_t first = part * step * blocks.blockN; first < lastRow;
           first += panelRows) {
        int64_t rows = std::min(panelRows, lastRow - first);
        std::fill(changes.begin(), changes.end(), 0.0f);
        for (int64_t r = 0; r < rows; ++r) {
          loadRow(matrix, first + r, 0, matrix.k, row.data());
          grid.roundRow(first + r, matrix.k, row.data(), codes.data(),
                        values.data());
          for (size_t i = 0; i < row.size(); ++i)
            changes[i * panelRows + static_cast<size_t>(r)] =
                values[i] - row[i];
        }
        for (int64_t cell = 0; cell < blocks.gridK; ++cell) {
          int64_t from = cell * blocks.blockK;
          int64_t to = std::min(from + blocks.blockK, matrix.k);
          double sums[panelRows] = {};
          if (importance.hessian.data) {
            addProducts(importance.hessian.data, matrix.k, from, to,
                        changes.data(), sums);
          } else {
            for (int64_t i = from; i < to; ++i)
              for (int64_t r = 0; r < rows; ++r) {
                double change = changes[static_cast<size_t>(i * panelRows + r)];
                sums[r] +=
                    change * change *
                    (importance.columns
                         ? importance.columns[i]
                         : importance.elements[(first + r) * matrix.k + i]);
              }
          }
          for (int64_t r = 0; r < rows; ++r)
            errors[static_cast<size_t>(
                (first + r) / blocks.blockN * blocks.gridK + cell)] += sums[r];
        }
      }
    }
  });
}

/// Keeps the ratios of the blocks where they are better than the best ones.
Status ClipSearch::measure(const std::vector<Ratios> &trial) {
  Result<QuantizedMatrix> stored = quantizeWith(trial);
  if (!stored.ok())
    return stored.status();
  Result<Grid> grid = Grid::get(stored->view(), base);
  if (!grid.ok())
    return grid.status();
  std::vector<double> errors(ranges.size(), 0.0);
  addErrors(*grid, errors);
  for (size_t cell = 0; cell < errors.size(); ++cell)
    if (errors[cell] < least[cell]) {
      least[cell] = errors[cell];
      best[cell] = trial[cell];
    }
  return Status::success();
}

Result<QuantizedMatrix> ClipSearch::run(const ClipOptions &options) {
  // Also checks the elements.
  Result<QuantizedMatrix> stored = quantize(matrix, base, tensorName, threads);
  if (!stored.ok())
    return stored;
  if (base.scaleScheme) {
    wholeScales.n = blocks.gridN;
    wholeScales.k = blocks.gridK;
    wholeScales.codes = stored->scaleCodes;
    wholeScales.scales = stored->scales;
  }
  computeRanges();
  best.assign(ranges.size(), {});
  least.assign(ranges.size(), HUGE_VAL);
  std::vector<float> steps;
  for (int i = 0; i < options.grid; ++i) {
    double ratio = 1.0 - static_cast<double>(i) / options.grid;
    if (!(ratio > 1.0 - options.shrink + 1e-9))
      break;
    steps.push_back(static_cast<float>(ratio));
  }
  for (float ratio : steps)
    if (Status status =
            measure(std::vector<Ratios>(ranges.size(), {ratio, ratio}));
        !status.ok())
      return status;
  if (options.eachEnd && scheme.zero != ZeroKind::None)
    for (float Ratios::*end : {&Ratios::low, &Ratios::high}) {
      // Beside the best other end there was before.
      std::vector<Ratios> trial = best;
      for (float ratio : steps) {
        for (Ratios &ratios : trial)
          ratios.*end = ratio;
        if (Status status = measure(trial); !status.ok())
          return status;
      }
    }
  stored = quantizeWith(best);
  if (!stored.ok())
    return stored;
  if (Status status = encodeAgain(matrix, base, *stored, threads); !status.ok())
    return status;
  return stored;
}

static Status verifyImportance(const MatrixView &matrix,
                               const ClipImportance &importance,
                               const std::string &tensorName) {
  int given = (importance.columns != nullptr) +
              (importance.elements != nullptr) +
              (importance.hessian.data != nullptr);
  if (given != 1)
    return Status::error("tensor '" + tensorName +
                         "': expected one importance of the elements but got " +
                         std::to_string(given));
  if (importance.hessian.data)
    return verifyHessian(importance.hessian, matrix.k, tensorName);
  const float *values =
      importance.columns ? importance.columns : importance.elements;
  int64_t count = importance.columns ? matrix.k : matrix.n * matrix.k;
  for (int64_t i = 0; i < count; ++i)
    if (!(values[i] >= 0.0f) || !std::isfinite(values[i]))
      return Status::error("tensor '" + tensorName +
                           "': expected importances that are finite and not "
                           "negative but got " +
                           std::to_string(values[i]) + " at " +
                           std::to_string(i));
  return Status::success();
}

Result<QuantizedMatrix>
quant_llm::quantizeClipped(const MatrixView &matrix, const Scheme &scheme,
                           const ClipImportance &importance,
                           const ClipOptions &options,
                           const std::string &tensorName, int threads) {
  std::string context = "tensor '" + tensorName + "'";
  Status status = verifyScheme(scheme, matrix.n, matrix.k).withContext(context);
  if (status.ok() && options.grid < 1)
    status =
        Status::error(context + ": expected a grid of at least 1 but got " +
                      std::to_string(options.grid));
  if (status.ok() && !(options.shrink > 0.0 && options.shrink <= 1.0))
    status = Status::error(context +
                           ": expected a shrink with 0 < shrink <= 1 but got " +
                           std::to_string(options.shrink));
  if (status.ok())
    status = verifyImportance(matrix, importance, tensorName);
  if (!status.ok())
    return status;
  return ClipSearch(matrix, scheme, importance, tensorName, threads)
      .run(options);
}

//===----------------------------------------------------------------------===//
// EasyQuant
//===----------------------------------------------------------------------===//

Status quant_llm::verifyEasyQuantScheme(const Scheme &scheme) {
  if (scheme.zero != ZeroKind::None)
    return Status::error("expected a scheme without zero, whose scales are all "
                         "that EasyQuant learns; use rule mse, or zero = none");
  if (scheme.scaleScheme || scheme.scaleType == FloatType::F8E8M0FNU)
    return Status::error("expected scales of floats that can be learned but "
                         "got scales under a scheme or powers of two; use rule "
                         "mse");
  return Status::success();
}

namespace {
/// One block and its scale.
struct Descent {
  Grid &grid;
  int64_t cell;
  FloatType scaleType;
  std::vector<float> weights;

  /// The squared error under a scale as it is stored, and its derivative.
  double compute(double scale, double &derivative, uint8_t *bytes) {
    storeFloat(scaleType, static_cast<float>(scale), bytes);
    float stored = loadFloat(scaleType, bytes);
    grid.set(cell, stored, 0.0f);
    double error = 0;
    derivative = 0;
    for (float weight : weights) {
      double value = grid.roundIn(cell, weight).value;
      double difference = value - static_cast<double>(weight);
      error += difference * difference;
      derivative += 2.0 * difference * value / static_cast<double>(stored);
    }
    return error;
  }

  void solve(const EasyQuantOptions &options, uint8_t *bytes) {
    float start = grid.getScale(cell), best = start;
    if (start == 0.0f)
      return;
    // With t = s / start, relative to the sum of squares: no step depends on
    // the size of the weights.
    double norm = 0;
    for (float weight : weights)
      norm += static_cast<double>(weight) * static_cast<double>(weight);
    if (!(norm > 0.0) || !std::isfinite(norm))
      return;
    double t = 1.0, mean = 0, square = 0, least = HUGE_VAL;
    double decay = 1.0, squareDecay = 1.0;
    uint8_t tried[4];
    for (int step = 0; step <= options.steps; ++step) {
      double derivative;
      double error = compute(t * start, derivative, tried);
      float scale = grid.getScale(cell);
      if (!(scale > 0.0f) || !std::isfinite(scale) || !std::isfinite(error))
        break;
      if (error < least) {
        least = error;
        best = scale;
        std::copy(tried, tried + floatTypeBytes(scaleType), bytes);
      }
      double gradient = derivative * start / norm;
      mean = 0.9 * mean + 0.1 * gradient;
      square = 0.999 * square + 0.001 * gradient * gradient;
      decay *= 0.9;
      squareDecay *= 0.999;
      t -= options.rate * (mean / (1.0 - decay)) /
           (std::sqrt(square / (1.0 - squareDecay)) + 1e-12);
      if (!(t > 0.0))
        break;
    }
    grid.set(cell, best, 0.0f);
  }
};
} // namespace

Result<QuantizedMatrix>
quant_llm::quantizeEasyQuant(const MatrixView &matrix, const Scheme &scheme,
                             const EasyQuantOptions &options,
                             const std::string &tensorName, int threads) {
  std::string context = "tensor '" + tensorName + "'";
  Status status = verifyScheme(scheme, matrix.n, matrix.k);
  if (status.ok())
    status = verifyEasyQuantScheme(scheme);
  if (status.ok() && options.steps < 1)
    status = Status::error("expected at least one step but got " +
                           std::to_string(options.steps));
  if (status.ok() && !(options.rate > 0.0 && options.rate < 1.0))
    status = Status::error("expected a rate with 0 < rate < 1 but got " +
                           std::to_string(options.rate));
  if (!status.ok())
    return status.withContext(context);
  Result<QuantizedMatrix> stored =
      quantize(matrix, scheme, tensorName, threads);
  if (!stored.ok())
    return stored;
  Result<Grid> grid = Grid::get(stored->view(), scheme);
  if (!grid.ok())
    return grid.status().withContext(context);
  const BlockGrid &blocks = grid->blocks();
  const size_t scaleBytes = floatTypeBytes(scheme.scaleType);
  forEachRowBlock(
      blocks, matrix.n, threads,
      [&](int64_t block, int64_t first, int64_t last) {
        for (int64_t i = 0; i < blocks.gridK; ++i) {
          int64_t cell = block * blocks.gridK + i, from = i * blocks.blockK;
          int64_t count = std::min(blocks.blockK, matrix.k - from);
          Descent descent{*grid, cell, scheme.scaleType, {}};
          descent.weights.resize(static_cast<size_t>((last - first) * count));
          for (int64_t n = first; n < last; ++n)
            loadRow(matrix, n, from, count,
                    descent.weights.data() + (n - first) * count);
          descent.solve(options, stored->scales.data() +
                                     static_cast<size_t>(cell) * scaleBytes);
        }
      });
  status = encodeAgain(matrix, scheme, *stored, threads);
  if (!status.ok())
    return status.withContext(context);
  return stored;
}
