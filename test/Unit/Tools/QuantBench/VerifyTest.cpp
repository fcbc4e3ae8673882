//===- VerifyTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../../Runtime/CUDA/TestArtifact.h"

#include "Verify.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include <cmath>
#include <cstring>

using namespace quant_llm;
using namespace quant_llm::bench;
using namespace quant_llm::test;
using nlohmann::json;

static constexpr int64_t n = 48, k = 200;
static constexpr uint64_t seed = 3;

static json step(const char *op, json arguments) {
  return {{"op", op}, {"args", std::move(arguments)}};
}

static json constant(double value) {
  return {{"op", "arith.constant"}, {"value", value}};
}

/// A linear of the test artifact with a formula.
static Reference makeReference(size_t linear, const json &formula) {
  TestArtifact artifact;
  artifact.linear(linear)["formula"] = formula;
  artifact.write();
  std::shared_ptr<const cuda::Artifact> opened;
  Status status = cuda::Artifact::open(artifact.directory.path, {}, opened);
  EXPECT_TRUE(status.ok()) << status.message();
  Result<Reference> reference = Reference::create(*opened, linear);
  EXPECT_TRUE(reference.ok()) << reference.message();
  return reference.take();
}

/// Numbers of a weight of the test artifact.
static std::vector<float> makeWeight(unsigned index) {
  std::vector<float> values;
  for (int64_t i = 0; i < n * k; ++i)
    values.push_back(static_cast<float>((i * 7919 + index) % 1009) / 1009 -
                     0.5f);
  Result<Scheme> scheme = parseScheme("int4, block = [1, 32], scale = f16");
  Result<QuantizedMatrix> matrix =
      quantize({values.data(), SourceType::F32, n, k}, *scheme, "w", 1);
  EXPECT_TRUE(matrix.ok()) << matrix.message();
  Status status = dequantize(*matrix, *scheme, values.data(), 1);
  EXPECT_TRUE(status.ok()) << status.message();
  return values;
}

/// [m, n] in float64.
static std::vector<double> multiply(const Input &input,
                                    const std::vector<float> &weight) {
  std::vector<double> sums;
  for (int64_t token = 0; token < input.m; ++token)
    for (int64_t row = 0; row < n; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i)
        sum += static_cast<double>(
                   f16ToFloat(input.x[static_cast<size_t>(token * k + i)])) *
               static_cast<double>(weight[static_cast<size_t>(row * k + i)]);
      sums.push_back(sum);
    }
  return sums;
}

static std::vector<uint8_t> toF16(const std::vector<double> &values) {
  std::vector<uint8_t> bytes(2 * values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = floatToF16(static_cast<float>(values[i]));
    std::memcpy(bytes.data() + 2 * i, &bits, sizeof(bits));
  }
  return bytes;
}

namespace {

/// silu(sum0) * sum1 + bias + residual of 70 tokens: of these, 32 are compared
/// element by element with float64.
struct Pair {
  Reference reference = makeReference(
      0, {step("arith.negf", {"sum0"}), step("math.exp", {0}), constant(1),
          step("arith.addf", {1, 2}), step("arith.divf", {"sum0", 3}),
          step("arith.mulf", {4, "sum1"}), step("arith.addf", {5, "epilogue0"}),
          step("arith.addf", {6, "epilogue1"}), step("quant_llm.yield", {7})});
  Input input = reference.makeInput(70, 1, {});
  std::vector<double> y;

  /// The residual is that of the token `residualOf`, or of its own.
  explicit Pair(int64_t residualOf = -1) {
    std::vector<double> gate = multiply(input, makeWeight(1));
    std::vector<double> up = multiply(input, makeWeight(2));
    for (int64_t token = 0; token < input.m; ++token)
      for (int64_t row = 0; row < n; ++row) {
        size_t i = static_cast<size_t>(token * n + row);
        float bias;
        std::memcpy(&bias, input.operands[0].data() + 4 * row, sizeof(bias));
        uint16_t residual;
        int64_t from = residualOf < 0 ? token : residualOf;
        std::memcpy(&residual, input.operands[1].data() + 2 * (from * n + row),
                    sizeof(residual));
        y.push_back(gate[i] / (1 + std::exp(-gate[i])) * up[i] +
                    static_cast<double>(bias) +
                    static_cast<double>(f16ToFloat(residual)));
      }
  }

  Status compare(const std::vector<double> &values) const {
    double error;
    return reference.compare(input, toF16(values), seed, error);
  }
};

} // namespace

TEST(VerifyTest, EveryElementOfAnEpilogueCounts) {
  Pair pair;
  Status right = pair.compare(pair.y);
  EXPECT_TRUE(right.ok()) << right.message();
  std::vector<int64_t> others;
  for (int64_t token = 0; token < pair.input.m; ++token) {
    int64_t row = token * 7 % n;
    std::vector<double> changed = pair.y;
    changed[static_cast<size_t>(token * n + row)] += 100;
    Status status = pair.compare(changed);
    ASSERT_FALSE(status.ok()) << token;
    if (status.message().find("relative error ") == 0)
      continue;
    others.push_back(token);
    expectError(status, "element [" + std::to_string(token) + ", " +
                            std::to_string(row) + "] is wrong: ");
  }
  EXPECT_GE(others.size(), size_t(38));

  // Each of them nearly right, all of them together not.
  std::vector<double> changed = pair.y;
  for (int64_t token : others)
    for (int64_t row = 0; row < n; ++row)
      changed[static_cast<size_t>(token * n + row)] *= 1.005;
  expectError(pair.compare(changed), "relative error of all elements ");
}

TEST(VerifyTest, OperandsOfElementsAreTheirOwn) {
  Pair pair(/*residualOf=*/0);
  expectError(pair.compare(pair.y), "relative error ");
}

TEST(VerifyTest, SumsThatF16CannotHold) {
  Reference reference =
      makeReference(2, {constant(1e-6), step("arith.mulf", {"sum0", 0}),
                        step("quant_llm.yield", {1})});
  Input input = reference.makeInput(5, 1, {});
  for (uint16_t &bits : input.x)
    bits = floatToF16(f16ToFloat(bits) * 10000);
  std::vector<double> sums = multiply(input, makeWeight(1));
  std::vector<double> right, wrong;
  double most = 0;
  for (double sum : sums) {
    most = std::max(most, std::fabs(sum));
    right.push_back(sum * 1e-6);
    wrong.push_back(sum * 1.01e-6);
  }
  EXPECT_GT(most, 65520);
  double error;
  Status status = reference.compare(input, toF16(right), seed, error);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_LT(error, 1e-3);
  expectError(reference.compare(input, toF16(wrong), seed, error),
              "relative error 0.01, expected at most 0.000");
}
