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
#include "quant-llm/Support/Rounding.h"

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

} // namespace

static float load16(TensorType type, uint16_t bits) {
  return type == TensorType::BF16 ? bf16ToFloat(bits) : f16ToFloat(bits);
}

static uint16_t store16(TensorType type, float value) {
  return type == TensorType::BF16 ? floatToBF16(value) : floatToF16(value);
}

static float load(TensorType type, const uint8_t *from, int64_t index) {
  if (type == TensorType::F32) {
    float value;
    std::memcpy(&value, from + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from + 2 * index, sizeof(bits));
  return load16(type, bits);
}

/// Numbers, about normal.
static std::vector<uint8_t> makeNumbers(int64_t count, TensorType type,
                                        Random &random) {
  size_t width = static_cast<size_t>(getByteWidth(type));
  std::vector<uint8_t> bytes(static_cast<size_t>(count) * width);
  for (size_t at = 0; at < bytes.size(); at += width) {
    // The sum of four uniform numbers is normal enough.
    uint64_t bits = random.next();
    double sum = 0;
    for (int i = 0; i < 4; ++i)
      sum += static_cast<double>(bits >> 16 * i & 0xffff) / 65536 - 0.5;
    float value = static_cast<float>(sum * std::sqrt(3.0));
    uint16_t half = type == TensorType::F32 ? 0 : store16(type, value);
    std::memcpy(bytes.data() + at,
                type == TensorType::F32 ? static_cast<const void *>(&value)
                                        : &half,
                width);
  }
  return bytes;
}

/// Up to `wanted` of [0, count), both ends among them.
static std::vector<int64_t> choose(int64_t count, int64_t wanted,
                                   Random &random) {
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

static std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

std::vector<int32_t> bench::routeTokens(int64_t experts, int64_t m,
                                        uint64_t seed) {
  std::vector<int32_t> offsets(static_cast<size_t>(experts + 1));
  Random random(seed);
  for (int64_t token = 0; token < m; ++token)
    ++offsets[1 + random.next() % static_cast<uint64_t>(experts)];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

Result<Reference> Reference::create(const Artifact &artifact, size_t index) {
  const LinearDescription &linear = artifact.getManifest().linears[index];
  Result<EpilogueFormula> formula = EpilogueFormula::create(linear);
  if (!formula.ok())
    return formula.status().withContext("the numbers cannot be verified");
  if (artifact.getWeights(index).empty())
    return Status::error("expected packed weights in the artifact");
  auto toBuffer = [](const PackedTensor &tensor) {
    return QuantizedView::Buffer{tensor.source.data,
                                 static_cast<int64_t>(tensor.source.bytes)};
  };
  Reference reference;
  reference.n = linear.n;
  reference.k = linear.k;
  reference.experts = std::max<int64_t>(linear.experts, 1);
  reference.isGrouped = linear.isGrouped();
  reference.activation = linear.activation;
  reference.output = linear.output;
  reference.operands = linear.epilogue;
  reference.formula = formula.take();
  int64_t rows = reference.experts * linear.n;
  for (const PackedWeightFiles &files : artifact.getWeights(index)) {
    PackedView packed;
    packed.codes = toBuffer(files.codes);
    packed.scales = toBuffer(files.scales);
    packed.zeros = toBuffer(files.zeros);
    packed.outputScale = files.outputScale;
    Result<QuantizedMatrix> matrix =
        unpackWeight(packed, linear.scheme, rows, linear.k, /*threads=*/0);
    if (!matrix.ok())
      return matrix.status();
    std::vector<float> &weight = reference.weights.emplace_back();
    weight.resize(static_cast<size_t>(rows * linear.k));
    Status status = dequantize(*matrix, getUnpackedScheme(linear.scheme),
                               weight.data(), /*threads=*/0);
    if (!status.ok())
      return status;
  }
  if (reference.formula.isIdentity())
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
        double value = weights[0][static_cast<size_t>(row * k + i)];
        double *to = projected.data() + (row / n * k + i) * numVectors;
        for (int64_t v = 0; v < numVectors; ++v)
          to[v] += factors[v] * value;
      }
    }
  });
}

Input Reference::makeInput(int64_t m, uint64_t seed,
                           std::vector<int32_t> offsets) const {
  Random random(seed);
  Input input;
  input.m = m;
  std::vector<uint8_t> x = makeNumbers(m * k, activation, random);
  input.x.resize(x.size() / sizeof(uint16_t));
  std::memcpy(input.x.data(), x.data(), x.size());
  input.offsets = std::move(offsets);
  for (const EpilogueOperand &operand : operands)
    input.operands.push_back(makeNumbers(n * (operand.perElement ? m : experts),
                                         operand.type, random));
  return input;
}

int64_t Reference::getExpert(const Input &input, int64_t token) const {
  if (!isGrouped)
    return 0;
  return std::upper_bound(input.offsets.begin(), input.offsets.end(), token) -
         input.offsets.begin() - 1;
}

int64_t Reference::getOperandIndex(size_t operand, const Input &input,
                                   int64_t token, int64_t row) const {
  return (operands[operand].perElement ? token : getExpert(input, token)) * n +
         row;
}

void Reference::applyEpilogue(const Input &input,
                              const std::vector<int64_t> &tokens,
                              const std::vector<int64_t> &rows,
                              const Doubles &sums, Doubles &results) const {
  size_t count = tokens.size();
  std::vector<const double *> sumsOf, operandsOf;
  for (size_t j = 0; j < weights.size(); ++j)
    sumsOf.push_back(sums.data() + j * count);
  Doubles values(operands.size() * count);
  for (size_t j = 0; j < operands.size(); ++j) {
    operandsOf.push_back(values.data() + j * count);
    for (size_t i = 0; i < count; ++i)
      values[j * count + i] =
          load(operands[j].type, input.operands[j].data(),
               getOperandIndex(j, input, tokens[i], rows[i]));
  }
  results.resize(count);
  formula.evaluate(sumsOf, operandsOf, static_cast<int64_t>(count),
                   results.data());
}

Status Reference::compare(const Input &input, const std::vector<uint8_t> &y,
                          uint64_t seed, double &relativeError) const {
  Random random(seed);
  int64_t m = input.m;
  // All elements, for what is not a number.
  double sumOfSquares = 0;
  for (int64_t i = 0; i < m * n; ++i) {
    double value = load(output, y.data(), i);
    if (!std::isfinite(value))
      return Status::error("element [" + std::to_string(i / n) + ", " +
                           std::to_string(i % n) + "] is " + number(value) +
                           ": not written, or wrong");
    sumOfSquares += value * value;
  }

  // Some elements exactly, beside the product of rounded weights.
  std::vector<int64_t> tokens = choose(m, 32, random);
  std::vector<int64_t> rows = choose(n, 128, random);
  double unit = activation == TensorType::BF16 ? 0x1p-8 : 0x1p-11;
  double error = 0, denseError = 0, norm = 0;
  std::vector<std::vector<float>> inputs;
  for (int64_t token : tokens) {
    inputs.emplace_back();
    for (int64_t i = 0; i < k; ++i)
      inputs.back().push_back(
          load16(activation, input.x[static_cast<size_t>(token * k + i)]));
  }
  std::vector<float> rounded(static_cast<size_t>(k));
  Doubles sums(weights.size() * tokens.size()), denseSums(sums.size());
  Doubles exact, dense;
  for (int64_t row : rows) {
    for (size_t j = 0; j < weights.size(); ++j) {
      const float *w = nullptr;
      for (size_t t = 0; t < tokens.size(); ++t) {
        // Tokens ascend, and with them the experts.
        const float *own =
            weights[j].data() + (getExpert(input, tokens[t]) * n + row) * k;
        if (w != own) {
          w = own;
          for (int64_t i = 0; i < k; ++i)
            rounded[static_cast<size_t>(i)] =
                load16(activation, store16(activation, w[i]));
        }
        double sum = 0, denseSum = 0;
        for (int64_t i = 0; i < k; ++i) {
          double a = inputs[t][static_cast<size_t>(i)];
          sum += a * static_cast<double>(w[i]);
          denseSum += a * static_cast<double>(rounded[static_cast<size_t>(i)]);
        }
        // An epilogue of its own finds a product of the activation type. One
        // that overflows would say nothing of how exact a kernel can be.
        if (!formula.isIdentity()) {
          float product = static_cast<float>(denseSum);
          float stored = load16(activation, store16(activation, product));
          denseSum = std::isfinite(stored) ? stored : product;
        }
        sums[j * tokens.size() + t] = sum;
        denseSums[j * tokens.size() + t] = denseSum;
      }
    }
    std::vector<int64_t> rowOfTokens(tokens.size(), row);
    applyEpilogue(input, tokens, rowOfTokens, sums, exact);
    applyEpilogue(input, tokens, rowOfTokens, denseSums, dense);
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (output != TensorType::F32)
        dense[t] =
            load16(output, store16(output, static_cast<float>(dense[t])));
      double got = load(output, y.data(), tokens[t] * n + row);
      double denseDifference = dense[t] - exact[t];
      // Nor does an overflow of the epilogue.
      if (!std::isfinite(denseDifference))
        denseDifference = unit * exact[t];
      error += (got - exact[t]) * (got - exact[t]);
      denseError += denseDifference * denseDifference;
      norm += exact[t] * exact[t];
    }
  }
  norm = std::max(std::sqrt(norm), 1e-30);
  relativeError = std::sqrt(error) / norm;
  double allowed = 2 * std::sqrt(denseError) / norm;
  // Of a few elements the ratio means little; an f32 product of exact weights
  // has no error that one could compare with.
  if (rows.size() * tokens.size() < 1024)
    allowed = std::max(allowed, 2 * unit);
  allowed = std::max(allowed, 1e-6);
  if (!(relativeError <= allowed))
    return Status::error("relative error " + number(relativeError) +
                         ", expected at most " + number(allowed));
  return formula.isIdentity()
             ? compareProjections(input, y, sumOfSquares, allowed)
             : compareAll(input, y, sumOfSquares, allowed);
}

/// y r = x (W^T r) for vectors r of random signs: the expected square of the
/// difference is that of the error of all elements.
Status Reference::compareProjections(const Input &input,
                                     const std::vector<uint8_t> &y,
                                     double sumOfSquares,
                                     double allowed) const {
  std::vector<double> differences(static_cast<size_t>(input.m));
  parallelFor(input.m, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      double sums[numVectors] = {};
      const double *own =
          projected.data() + getExpert(input, token) * k * numVectors;
      for (int64_t i = 0; i < k; ++i) {
        double a =
            load16(activation, input.x[static_cast<size_t>(token * k + i)]);
        for (int64_t v = 0; v < numVectors; ++v)
          sums[v] -= a * own[i * numVectors + v];
      }
      for (int64_t row = 0; row < n; ++row) {
        double value = load(output, y.data(), token * n + row);
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

/// Tiles of y: products in f32, whose error of about 1e-6 is allowed for.
Status Reference::compareAll(const Input &input, const std::vector<uint8_t> &y,
                             double sumOfSquares, double allowed) const {
  constexpr int64_t tokensOfTile = 32, rowsOfTile = 64, columnsOfChunk = 64;
  allowed += 3e-6;
  double meanSquare = sumOfSquares / static_cast<double>(input.m * n);
  std::vector<float> x(input.x.size());
  std::transform(input.x.begin(), input.x.end(), x.begin(),
                 [&](uint16_t bits) { return load16(activation, bits); });
  // Tokens of one expert each.
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t begin = 0; begin < input.m;) {
    int64_t end = begin + 1;
    while (end < input.m && end < begin + tokensOfTile &&
           getExpert(input, end) == getExpert(input, begin))
      ++end;
    ranges.push_back({begin, end});
    begin = end;
  }
  int64_t strips = ceilDiv(n, rowsOfTile);
  int64_t tiles = strips * static_cast<int64_t>(ranges.size());
  struct Outcome {
    double squares = 0;
    int64_t wrong = -1;
  };
  std::vector<Outcome> outcomes(static_cast<size_t>(tiles));
  auto compareTile = [&](int64_t tile) {
    auto [begin, end] = ranges[static_cast<size_t>(tile / strips)];
    int64_t row = tile % strips * rowsOfTile;
    int64_t rows = std::min(rowsOfTile, n - row);
    size_t count = static_cast<size_t>((end - begin) * rows);
    Doubles sums, results;
    std::vector<float> products, chunk(columnsOfChunk * rowsOfTile);
    for (const std::vector<float> &weight : weights) {
      const float *w = weight.data() + (getExpert(input, begin) * n + row) * k;
      products.assign(tokensOfTile * rowsOfTile, 0);
      for (int64_t first = 0; first < k; first += columnsOfChunk) {
        int64_t columns = std::min(columnsOfChunk, k - first);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < columns; ++i)
            chunk[static_cast<size_t>(i * rowsOfTile + r)] =
                w[r * k + first + i];
        for (int64_t token = begin; token < end; ++token) {
          float *to = products.data() + (token - begin) * rowsOfTile;
          for (int64_t i = 0; i < columns; ++i) {
            float a = x[static_cast<size_t>(token * k + first + i)];
            const float *from = chunk.data() + i * rowsOfTile;
            for (int64_t r = 0; r < rowsOfTile; ++r)
              to[r] += a * from[r];
          }
        }
      }
      for (int64_t token = begin; token < end; ++token) {
        const float *from = products.data() + (token - begin) * rowsOfTile;
        sums.insert(sums.end(), from, from + rows);
      }
    }
    std::vector<int64_t> tokenOf, rowOf;
    for (int64_t token = begin; token < end; ++token)
      for (int64_t r = row; r < row + rows; ++r) {
        tokenOf.push_back(token);
        rowOf.push_back(r);
      }
    applyEpilogue(input, tokenOf, rowOf, sums, results);
    Outcome &outcome = outcomes[static_cast<size_t>(tile)];
    for (size_t i = 0; i < count; ++i) {
      double got = load(output, y.data(), tokenOf[i] * n + rowOf[i]);
      double difference = got - results[i];
      outcome.squares += difference * difference;
      // Far more than the error of any element of a right result.
      double most =
          32 * allowed * std::max(std::sqrt(meanSquare), std::fabs(results[i]));
      if (!(std::fabs(difference) <= most) && outcome.wrong < 0)
        outcome.wrong = tokenOf[i] * n + rowOf[i];
    }
  };
  parallelFor(tiles, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      compareTile(tile);
  });
  double total = 0;
  for (const Outcome &outcome : outcomes) {
    if (outcome.wrong >= 0)
      return Status::error(
          "element [" + std::to_string(outcome.wrong / n) + ", " +
          std::to_string(outcome.wrong % n) +
          "] is wrong: " + number(load(output, y.data(), outcome.wrong)));
    total += outcome.squares;
  }
  double all = std::sqrt(total / std::max(sumOfSquares, 1e-60));
  if (!(all <= 3 * allowed))
    return Status::error("relative error of all elements " + number(all) +
                         ", expected at most " + number(3 * allowed));
  return Status::success();
}
