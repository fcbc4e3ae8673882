//===- ChannelScalesTest.cpp ----------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/ChannelScales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace quant_llm;

namespace {

std::vector<float> getRandom(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float &value : values)
    value = normal(random);
  return values;
}

Scheme parse(const std::string &text) {
  Result<Scheme> scheme = parseScheme(text);
  EXPECT_TRUE(scheme.ok()) << text << ": " << scheme.message();
  return *scheme;
}

/// X^T X / tokens.
std::vector<float> getHessian(const std::vector<float> &x, size_t k) {
  size_t tokens = x.size() / k;
  std::vector<float> hessian(k * k);
  for (size_t i = 0; i < k; ++i)
    for (size_t j = 0; j < k; ++j) {
      double sum = 0;
      for (size_t t = 0; t < tokens; ++t)
        sum += static_cast<double>(x[t * k + i]) * x[t * k + j];
      hessian[i * k + j] =
          static_cast<float>(sum / static_cast<double>(tokens));
    }
  return hessian;
}

TEST(ChannelScalesTest, SmoothQuantByItsFormula) {
  Result<std::vector<float>> scales =
      computeSmoothScales({4, 9, 1, 0, 5}, {1, 4, 0.25f, 3, 0}, 0.5);
  ASSERT_TRUE(scales.ok()) << scales.message();
  EXPECT_EQ(*scales, (std::vector<float>{2, 1.5f, 2, 1, 1}));
  // All in the weights, all in the inputs.
  EXPECT_EQ(*computeSmoothScales({4, 9}, {2, 5}, 1.0),
            (std::vector<float>{4, 9}));
  EXPECT_EQ(*computeSmoothScales({4, 9}, {2, 5}, 0.0),
            (std::vector<float>{0.5f, 0.2f}));
  // Bounds.
  EXPECT_EQ(*computeSmoothScales({1e-30f, 1e30f}, {1, 1}, 1.0),
            (std::vector<float>{1e-5f, 1e5f}));
}

TEST(ChannelScalesTest, SmoothedMaximaMeet) {
  // At strength 1/2 inputs and weights get the same maxima.
  std::vector<float> x{3, 0.2f, 40}, w{0.5f, 2, 0.01f};
  Result<std::vector<float>> scales = computeSmoothScales(x, w, 0.5);
  ASSERT_TRUE(scales.ok());
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(x[i] / (*scales)[i] / (w[i] * (*scales)[i]), 1.0, 1e-5);
}

TEST(ChannelScalesTest, AWQByItsFormula) {
  Result<std::vector<float>> scales = computeAWQScales({1, 4, 16, 0}, {}, 0.5);
  ASSERT_TRUE(scales.ok()) << scales.message();
  // 1, 2, 4 over sqrt(1 * 4).
  EXPECT_EQ(*scales, (std::vector<float>{0.5f, 1, 2, 1}));
  EXPECT_EQ(*computeAWQScales({1, 4, 16, 0}, {}, 0.0),
            (std::vector<float>{1, 1, 1, 1}));
  // 1 / 0.25, 2 / 0.5, 4 / 1 (all 4), and no weights.
  EXPECT_EQ(*computeAWQScales({1, 4, 16, 4}, {0.0625f, 0.25f, 1, 0}, 0.5),
            (std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(*computeAWQScales({5, 5}, {0.25f, 1}, 0.0),
            (std::vector<float>{2, 0.5f}));
  // Nothing is known of any channel.
  EXPECT_EQ(*computeAWQScales({0, 0}, {}, 0.5), (std::vector<float>{1, 1}));
}

TEST(ChannelScalesTest, Magnitudes) {
  std::vector<float> weights{1,  -2, 3,  0, //
                             -4, 1,  0,  0, //
                             2,  2,  -6, 0};
  MatrixView view{weights.data(), SourceType::F32, 3, 4};
  std::vector<float> maxima{0, 0, 0, 7};
  ASSERT_TRUE(mergeColumnMaxima(view, maxima, "w", 2).ok());
  EXPECT_EQ(maxima, (std::vector<float>{4, 2, 6, 7}));
  std::vector<double> sums(4);
  Scheme scheme = parse("uint4, block = [1, 2], scale = f16, zero = int, "
                        "rule = minmax, rounding = half_even");
  ASSERT_TRUE(addRelativeMagnitudes(view, scheme, sums, "w", 2).ok());
  EXPECT_EQ(sums,
            (std::vector<double>{0.5 + 1 + 1, 1 + 0.25 + 1, 1 + 0 + 1, 0}));
  // Blocks of several rows.
  scheme.blockN = 2;
  sums.assign(4, 1.0);
  ASSERT_TRUE(addRelativeMagnitudes(view, scheme, sums, "w", 2).ok());
  EXPECT_EQ(sums,
            (std::vector<double>{1 + 1.25 + 1, 1 + 0.75 + 1, 1 + 1 + 1, 1}));
}

TEST(ChannelScalesTest, TheErrorIsThatOfTheOutputs) {
  // By its definition: the mean over the tokens of |x dW^T|^2.
  const size_t n = 37, k = 50, tokens = 80;
  std::vector<float> weights = getRandom(n * k, 1),
                     x = getRandom(tokens * k, 2);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t i = 0; i < k; ++i)
      x[t * k + i] *= i % 7 == 0 ? 20.0f : 1.0f;
  std::vector<float> hessian = getHessian(x, k);
  OutputErrorMeter meter({hessian.data(), static_cast<int64_t>(k)});
  MatrixView view{weights.data(), SourceType::F32, n, k};
  Scheme scheme = parse("uint3, block = [1, 16], scale = f16, zero = int, "
                        "rule = minmax, rounding = half_even");
  std::vector<float> scales(k);
  for (size_t i = 0; i < k; ++i)
    scales[i] = i % 7 == 0 ? 2.0f : 0.75f;
  for (bool scaled : {false, true}) {
    std::vector<float> used = scaled ? scales : std::vector<float>();
    std::vector<float> transformed = weights;
    for (size_t i = 0; i < transformed.size() && scaled; ++i)
      transformed[i] *= scales[i % k];
    Result<QuantizedMatrix> stored =
        quantize({transformed.data(), SourceType::F32, n, k}, scheme, "w", 1);
    ASSERT_TRUE(stored.ok());
    std::vector<float> values(n * k);
    ASSERT_TRUE(dequantize(*stored, scheme, values.data(), 1).ok());
    double expected = 0;
    for (size_t t = 0; t < tokens; ++t)
      for (size_t row = 0; row < n; ++row) {
        double difference = 0;
        for (size_t i = 0; i < k; ++i) {
          double value = static_cast<double>(values[row * k + i]) /
                         (scaled ? scales[i] : 1.0f);
          difference += x[t * k + i] * (value - weights[row * k + i]);
        }
        expected += difference * difference / static_cast<double>(tokens);
      }
    Result<double> error =
        computeScaledError(view, scheme, used, meter, "w", 1);
    ASSERT_TRUE(error.ok()) << error.message();
    EXPECT_NEAR(*error / expected, 1.0, 1e-3) << scaled;
    // Any number of threads.
    EXPECT_EQ(*error, *computeScaledError(view, scheme, used, meter, "w", 3));
  }
}

TEST(ChannelScalesTest, BadInput) {
  auto fails = [](Status status, const char *text) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find(text), std::string::npos)
        << status.message();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  fails(computeSmoothScales({1, 2}, {1}, 0.5).status(),
        "expected magnitudes of the weights of 2 channels but got 1");
  fails(computeSmoothScales({1}, {1}, 1.5).status(),
        "expected a strength from 0 to 1 but got 1.5");
  fails(computeSmoothScales({1}, {1}, nan).status(), "expected a strength");
  fails(computeSmoothScales({1, nan}, {1, 1}, 0.5).status(),
        "expected magnitudes of inputs but got nan at channel 1");
  fails(computeSmoothScales({1, 1}, {-1, 1}, 0.5).status(),
        "expected magnitudes of weights but got -1");
  fails(computeAWQScales({1, 2}, {1}, 0.5).status(), "of 2 channels");
  fails(computeAWQScales({1}, {}, -0.1).status(), "expected an exponent");
  std::vector<float> weights{1, nan};
  MatrixView view{weights.data(), SourceType::F32, 1, 2};
  std::vector<float> maxima(2);
  fails(mergeColumnMaxima(view, maxima, "w", 1),
        "tensor 'w' has nan at row 0, column 1");
  Scheme scheme = parse("uint4, block = [1, 2], scale = f16, zero = int, "
                        "rule = minmax, rounding = half_even");
  std::vector<double> sums(2);
  fails(addRelativeMagnitudes(view, scheme, sums, "w", 1),
        "tensor 'w' has nan");
  std::vector<float> hessian{1, 0, 0, 1};
  OutputErrorMeter meter({hessian.data(), 2});
  fails(computeScaledError(view, scheme, {}, meter, "w", 1).status(),
        "tensor 'w' has nan");
}

} // namespace
