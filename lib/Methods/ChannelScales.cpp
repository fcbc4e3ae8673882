//===- ChannelScales.cpp - Scales of channels that spare weights ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/ChannelScales.h"

#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <cmath>

using namespace quant_llm;

static constexpr double smallestScale = 1e-5;
static constexpr double largestScale = 1e5;
/// Row blocks whose sums are kept apart, so that the number of threads does not
/// change the order of additions.
static constexpr int64_t blocksPerPart = 64;

static Status verifyMagnitudes(const std::vector<float> &values,
                               const char *what) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!(values[i] >= 0.0f) || !std::isfinite(values[i]))
      return Status::error(std::string("expected magnitudes of ") + what +
                           " but got " + std::to_string(values[i]) +
                           " at channel " + std::to_string(i));
  return Status::success();
}

static Status verifyArguments(const std::vector<float> &inputs,
                              const std::vector<float> &weights,
                              bool needsWeights, const char *name,
                              double exponent) {
  if ((needsWeights || !weights.empty()) && weights.size() != inputs.size())
    return Status::error("expected magnitudes of the weights of " +
                         std::to_string(inputs.size()) + " channels but got " +
                         std::to_string(weights.size()));
  if (!(exponent >= 0.0 && exponent <= 1.0))
    return Status::error(std::string("expected ") + name +
                         " from 0 to 1 but got " + std::to_string(exponent));
  Status status = verifyMagnitudes(inputs, "inputs");
  return status.ok() ? verifyMagnitudes(weights, "weights") : status;
}

static float clampScale(double scale) {
  return static_cast<float>(std::clamp(scale, smallestScale, largestScale));
}

Result<std::vector<float>>
quant_llm::computeSmoothScales(const std::vector<float> &inputs,
                               const std::vector<float> &weights,
                               double strength) {
  Status status = verifyArguments(inputs, weights, /*needsWeights=*/true,
                                  "a strength", strength);
  if (!status.ok())
    return status;
  std::vector<float> scales(inputs.size(), 1.0f);
  for (size_t i = 0; i < scales.size(); ++i)
    if (inputs[i] > 0.0f && weights[i] > 0.0f)
      scales[i] =
          clampScale(std::pow(static_cast<double>(inputs[i]), strength) /
                     std::pow(static_cast<double>(weights[i]), 1.0 - strength));
  return scales;
}

Result<std::vector<float>>
quant_llm::computeAWQScales(const std::vector<float> &inputs,
                            const std::vector<float> &weights,
                            double exponent) {
  Status status = verifyArguments(inputs, weights, /*needsWeights=*/false,
                                  "an exponent", exponent);
  if (!status.ok())
    return status;
  std::vector<double> raw(inputs.size(), 0.0);
  double smallest = HUGE_VAL, largest = 0.0;
  for (size_t i = 0; i < raw.size(); ++i) {
    if (!(inputs[i] > 0.0f) || (!weights.empty() && !(weights[i] > 0.0f)))
      continue;
    raw[i] = std::pow(static_cast<double>(inputs[i]), exponent);
    if (!weights.empty())
      raw[i] /= std::pow(static_cast<double>(weights[i]), 1.0 - exponent);
    smallest = std::min(smallest, raw[i]);
    largest = std::max(largest, raw[i]);
  }
  std::vector<float> scales(raw.size(), 1.0f);
  double middle = std::sqrt(smallest) * std::sqrt(largest);
  for (size_t i = 0; i < raw.size(); ++i)
    if (raw[i] > 0.0)
      scales[i] = clampScale(raw[i] / middle);
  return scales;
}

Status quant_llm::mergeColumnMaxima(const MatrixView &matrix,
                                    std::vector<float> &maxima,
                                    const std::string &tensorName,
                                    int threads) {
  if (Status status = verifyFinite(matrix, tensorName, threads); !status.ok())
    return status;
  // A maximum does not depend on the order, but threads need their own.
  int64_t parts = (matrix.n - 1) / blocksPerPart + 1;
  std::vector<std::vector<float>> found(static_cast<size_t>(parts));
  parallelFor(parts, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    for (int64_t part = begin; part < end; ++part) {
      std::vector<float> &to = found[static_cast<size_t>(part)];
      to.assign(row.size(), 0.0f);
      int64_t last = std::min((part + 1) * blocksPerPart, matrix.n);
      for (int64_t n = part * blocksPerPart; n < last; ++n) {
        loadRow(matrix, n, 0, matrix.k, row.data());
        for (size_t i = 0; i < row.size(); ++i)
          to[i] = std::max(to[i], std::fabs(row[i]));
      }
    }
  });
  for (const std::vector<float> &part : found)
    for (size_t i = 0; i < part.size(); ++i)
      maxima[i] = std::max(maxima[i], part[i]);
  return Status::success();
}

Status quant_llm::addRelativeMagnitudes(const MatrixView &matrix,
                                        const Scheme &scheme,
                                        std::vector<double> &sums,
                                        const std::string &tensorName,
                                        int threads) {
  Status status = verifyScheme(scheme, matrix.n, matrix.k)
                      .withContext("tensor '" + tensorName + "'");
  if (status.ok())
    status = verifyFinite(matrix, tensorName, threads);
  if (!status.ok())
    return status;
  BlockGrid grid = getBlockGrid(scheme, matrix.n, matrix.k);
  int64_t parts = (grid.gridN - 1) / blocksPerPart + 1;
  std::vector<std::vector<double>> found(static_cast<size_t>(parts));
  parallelFor(parts, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    std::vector<float> maxima(static_cast<size_t>(grid.gridK));
    std::vector<double> magnitudes(row.size());
    for (int64_t part = begin; part < end; ++part) {
      std::vector<double> &to = found[static_cast<size_t>(part)];
      to.assign(row.size(), 0.0);
      int64_t lastBlock = std::min((part + 1) * blocksPerPart, grid.gridN);
      for (int64_t b = part * blocksPerPart; b < lastBlock; ++b) {
        std::fill(maxima.begin(), maxima.end(), 0.0f);
        std::fill(magnitudes.begin(), magnitudes.end(), 0.0);
        int64_t last = std::min((b + 1) * grid.blockN, matrix.n);
        for (int64_t n = b * grid.blockN; n < last; ++n) {
          loadRow(matrix, n, 0, matrix.k, row.data());
          for (int64_t i = 0; i < matrix.k; ++i) {
            auto at = static_cast<size_t>(i);
            auto cell = static_cast<size_t>(i / grid.blockK);
            float size = std::fabs(row[at]);
            maxima[cell] = std::max(maxima[cell], size);
            magnitudes[at] += static_cast<double>(size);
          }
        }
        for (int64_t i = 0; i < matrix.k; ++i) {
          float largest = maxima[static_cast<size_t>(i / grid.blockK)];
          if (largest > 0.0f)
            to[static_cast<size_t>(i)] += magnitudes[static_cast<size_t>(i)] /
                                          static_cast<double>(largest);
        }
      }
    }
  });
  for (const std::vector<double> &part : found)
    for (size_t i = 0; i < part.size(); ++i)
      sums[i] += part[i];
  return Status::success();
}

Result<double> quant_llm::computeScaledError(const MatrixView &matrix,
                                             const Scheme &scheme,
                                             const std::vector<float> &scales,
                                             const OutputErrorMeter &meter,
                                             const std::string &tensorName,
                                             int threads) {
  auto k = static_cast<size_t>(matrix.k);
  std::vector<float> values(static_cast<size_t>(matrix.n) * k);
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float *row = values.data() + static_cast<size_t>(n) * k;
      loadRow(matrix, n, 0, matrix.k, row);
      for (size_t i = 0; i < scales.size(); ++i)
        row[i] *= scales[i];
    }
  });
  Result<QuantizedMatrix> stored =
      quantize({values.data(), SourceType::F32, matrix.n, matrix.k}, scheme,
               tensorName, threads);
  if (!stored.ok())
    return stored.status();
  Status status = dequantize(*stored, scheme, values.data(), threads);
  if (!status.ok())
    return status.withContext("tensor '" + tensorName + "'");
  if (!scales.empty())
    parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        for (size_t i = 0; i < k; ++i)
          values[static_cast<size_t>(n) * k + i] /= scales[i];
    });
  return meter.compute(matrix, values.data(), threads);
}
