//===- Verify.cpp ---------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

using namespace quant_llm;
using namespace quant_llm::bench;
using namespace quant_llm::cuda;

namespace {

/// Random numbers that are the same everywhere (splitmix64).
class Random {
public:
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t next() {
    uint64_t value = state += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
  }

private:
  uint64_t state;
};

float load16(TensorType type, uint16_t bits) {
  return type == TensorType::BF16 ? bf16ToFloat(bits) : f16ToFloat(bits);
}

uint16_t store16(TensorType type, float value) {
  return type == TensorType::BF16 ? floatToBF16(value) : floatToF16(value);
}

float loadOutput(TensorType type, const uint8_t *y, int64_t index) {
  if (type == TensorType::F32) {
    float value;
    std::memcpy(&value, y + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, y + 2 * index, sizeof(bits));
  return load16(type, bits);
}

/// Up to `wanted` of [0, count), both ends among them.
std::vector<int64_t> choose(int64_t count, int64_t wanted, Random &random) {
  std::vector<int64_t> chosen;
  if (count <= wanted) {
    for (int64_t i = 0; i < count; ++i)
      chosen.push_back(i);
    return chosen;
  }
  chosen = {0, count - 1};
  while (static_cast<int64_t>(chosen.size()) < wanted)
    chosen.push_back(
        static_cast<int64_t>(random.next() % static_cast<uint64_t>(count)));
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

} // namespace

std::vector<int32_t> bench::routeTokens(int64_t experts, int64_t m,
                                        uint64_t seed) {
  std::vector<int32_t> offsets(static_cast<size_t>(experts + 1));
  Random random(seed);
  for (int64_t token = 0; token < m; ++token)
    ++offsets[1 + random.next() % static_cast<uint64_t>(experts)];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

std::vector<uint16_t> bench::makeActivations(int64_t count, TensorType type,
                                             uint64_t seed) {
  std::vector<uint16_t> values(static_cast<size_t>(count));
  Random random(seed);
  for (uint16_t &value : values) {
    // The sum of four uniform numbers is normal enough.
    uint64_t bits = random.next();
    double sum = 0;
    for (int i = 0; i < 4; ++i)
      sum += static_cast<double>(bits >> 16 * i & 0xffff) / 65536 - 0.5;
    value = store16(type, static_cast<float>(sum * std::sqrt(3.0)));
  }
  return values;
}

Result<Reference> Reference::create(const Artifact &artifact, size_t index) {
  const LinearDescription &linear = artifact.getManifest().linears[index];
  if (linear.weights.size() != 1 || !linear.epilogue.empty())
    return Status::error("expected one weight and no epilogue: what an "
                         "epilogue computes is not in the manifest, so the "
                         "numbers cannot be verified");
  if (artifact.getWeights(index).empty())
    return Status::error("expected packed weights in the artifact");
  const PackedWeightFiles &files = artifact.getWeights(index)[0];
  auto toBuffer = [](const PackedTensor &tensor) {
    return QuantizedView::Buffer{tensor.source.data,
                                 static_cast<int64_t>(tensor.source.bytes)};
  };
  PackedView packed;
  packed.codes = toBuffer(files.codes);
  packed.scales = toBuffer(files.scales);
  packed.zeros = toBuffer(files.zeros);
  packed.outputScale = files.outputScale;
  Reference reference;
  reference.n = linear.n;
  reference.k = linear.k;
  reference.experts = std::max<int64_t>(linear.experts, 1);
  int64_t rows = reference.experts * linear.n;
  Result<QuantizedMatrix> matrix =
      unpackWeight(packed, linear.scheme, rows, linear.k, /*threads=*/0);
  if (!matrix.ok())
    return matrix.status();
  reference.weight.resize(static_cast<size_t>(rows * linear.k));
  Status status = dequantize(*matrix, getUnpackedScheme(linear.scheme),
                             reference.weight.data(), /*threads=*/0);
  if (!status.ok())
    return status;
  reference.project();
  return reference;
}

void Reference::project() {
  Random random(static_cast<uint64_t>(n));
  signs.resize(static_cast<size_t>(n));
  for (uint8_t &bits : signs)
    bits = static_cast<uint8_t>(random.next());
  projected.assign(static_cast<size_t>(experts * k * numVectors), 0);
  parallelFor(k, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < experts * n; ++row) {
      double factors[numVectors];
      for (int64_t v = 0; v < numVectors; ++v)
        factors[v] = signs[static_cast<size_t>(row % n)] >> v & 1 ? 1 : -1;
      for (int64_t i = begin; i < end; ++i) {
        double value = weight[static_cast<size_t>(row * k + i)];
        double *to = projected.data() + (row / n * k + i) * numVectors;
        for (int64_t v = 0; v < numVectors; ++v)
          to[v] += factors[v] * value;
      }
    }
  });
}

Status Reference::compare(const std::vector<uint16_t> &x, int64_t m,
                          TensorType activation, const std::vector<uint8_t> &y,
                          TensorType output, uint64_t seed,
                          const std::vector<int32_t> &offsets,
                          double &relativeError) const {
  Random random(seed);
  auto expertOf = [&](int64_t token) -> int64_t {
    if (offsets.empty())
      return 0;
    return std::upper_bound(offsets.begin(), offsets.end(), token) -
           offsets.begin() - 1;
  };
  // All elements, for what is not a number.
  double sumOfSquares = 0;
  for (int64_t i = 0; i < m * n; ++i) {
    double value = loadOutput(output, y.data(), i);
    if (!std::isfinite(value))
      return Status::error("element [" + std::to_string(i / n) + ", " +
                           std::to_string(i % n) + "] is " + number(value) +
                           ": not written, or wrong");
    sumOfSquares += value * value;
  }

  // Some elements exactly, beside the product of rounded weights.
  std::vector<int64_t> tokens = choose(m, 32, random);
  std::vector<int64_t> rows = choose(n, 128, random);
  double error = 0, denseError = 0, norm = 0;
  std::vector<std::vector<float>> inputs;
  for (int64_t token : tokens) {
    inputs.emplace_back();
    for (int64_t i = 0; i < k; ++i)
      inputs.back().push_back(
          load16(activation, x[static_cast<size_t>(token * k + i)]));
  }
  std::vector<float> rounded(static_cast<size_t>(k));
  for (int64_t row : rows) {
    const float *w = nullptr;
    for (size_t t = 0; t < tokens.size(); ++t) {
      int64_t token = tokens[t];
      // Tokens ascend, and with them the experts.
      const float *own = weight.data() + (expertOf(token) * n + row) * k;
      if (w != own) {
        w = own;
        for (int64_t i = 0; i < k; ++i)
          rounded[static_cast<size_t>(i)] =
              load16(activation, store16(activation, w[i]));
      }
      const float *input = inputs[t].data();
      double exact = 0, dense = 0;
      for (int64_t i = 0; i < k; ++i) {
        double a = input[i];
        exact += a * static_cast<double>(w[i]);
        dense += a * static_cast<double>(rounded[static_cast<size_t>(i)]);
      }
      if (output != TensorType::F32)
        dense = load16(output, store16(output, static_cast<float>(dense)));
      double got = loadOutput(output, y.data(), token * n + row);
      error += (got - exact) * (got - exact);
      denseError += (dense - exact) * (dense - exact);
      norm += exact * exact;
    }
  }
  norm = std::max(std::sqrt(norm), 1e-30);
  relativeError = std::sqrt(error) / norm;
  double allowed = 2 * std::sqrt(denseError) / norm;
  // Of a few elements the ratio means little; an f32 product of exact weights
  // has no error that one could compare with.
  double unit = activation == TensorType::BF16 ? 0x1p-8 : 0x1p-11;
  if (rows.size() * tokens.size() < 1024)
    allowed = std::max(allowed, 2 * unit);
  allowed = std::max(allowed, 1e-6);
  if (!(relativeError <= allowed))
    return Status::error("relative error " + number(relativeError) +
                         ", expected at most " + number(allowed));

  // y r = x (W^T r) for vectors r of random signs: the expected square of the
  // difference is that of the error of all elements.
  std::vector<double> differences(static_cast<size_t>(m));
  parallelFor(m, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      double sums[numVectors] = {};
      const double *own = projected.data() + expertOf(token) * k * numVectors;
      for (int64_t i = 0; i < k; ++i) {
        double a = load16(activation, x[static_cast<size_t>(token * k + i)]);
        for (int64_t v = 0; v < numVectors; ++v)
          sums[v] -= a * own[i * numVectors + v];
      }
      for (int64_t row = 0; row < n; ++row) {
        double value = loadOutput(output, y.data(), token * n + row);
        for (int64_t v = 0; v < numVectors; ++v)
          sums[v] += signs[row] >> v & 1 ? value : -value;
      }
      for (double sum : sums)
        differences[static_cast<size_t>(token)] += sum * sum / numVectors;
    }
  });
  double total = 0;
  for (double difference : differences)
    total += difference;
  double estimate = std::sqrt(total / std::max(sumOfSquares, 1e-60));
  // Eight projections of one token know the norm within a factor of two or so.
  if (!(estimate <= 3 * allowed))
    return Status::error("estimated relative error of all elements " +
                         number(estimate) + ", expected at most " +
                         number(3 * allowed));
  return Status::success();
}
