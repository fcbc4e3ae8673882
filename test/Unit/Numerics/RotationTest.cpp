//===- RotationTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Rotation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace quant_llm;

TEST(HadamardMatrixTest, RowsAreOrthogonal) {
  // Every base that is not larger than 344, the largest one that a common model
  // needs (11008 = 344 * 32).
  int count = 0;
  for (int64_t n = 1; n <= 344; ++n) {
    if (!HadamardMatrix::isSupported(n))
      continue;
    ++count;
    Result<HadamardMatrix> h = HadamardMatrix::get(n);
    ASSERT_TRUE(h.ok()) << h.message();
    ASSERT_EQ(h->order(), n);
    std::vector<int> entries(n * n);
    for (int64_t i = 0; i < n * n; ++i) {
      entries[i] = h->at(i / n, i % n);
      ASSERT_EQ(entries[i] * entries[i], 1);
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        int sum = 0;
        for (int64_t k = 0; k < n; ++k)
          sum += entries[i * n + k] * entries[j * n + k];
        ASSERT_EQ(sum, i == j ? n : 0) << n << ": " << i << ", " << j;
      }
    }
  }
  // Of 1, 2 and the 86 multiples of 4 the constructions miss few.
  EXPECT_GT(count, 70);
}

TEST(HadamardMatrixTest, OrdersOfModels) {
  for (int64_t n : {64, 128, 192, 576, 1024, 1536, 2048, 2560, 4096, 5120, 8192,
                    8960, 11008, 12288, 13824, 14336, 18944, 28672, 53248})
    EXPECT_TRUE(HadamardMatrix::isSupported(n)) << n;
  for (int64_t n : {-4, 0, 3, 5, 6, 10, 14, 92, 172, 4098})
    EXPECT_FALSE(HadamardMatrix::isSupported(n)) << n;
  EXPECT_FALSE(
      HadamardMatrix::isSupported(std::numeric_limits<int64_t>::max()));
  EXPECT_EQ(HadamardMatrix::get(576)->getBase(), 36);
  EXPECT_EQ(HadamardMatrix::get(1536)->getBase(), 12);
  EXPECT_EQ(HadamardMatrix::get(4096)->getBase(), 1);
  EXPECT_EQ(HadamardMatrix::get(11008)->getBase(), 344);
}

TEST(HadamardMatrixTest, UnsupportedOrder) {
  Result<HadamardMatrix> h = HadamardMatrix::get(172);
  ASSERT_FALSE(h.ok());
  EXPECT_EQ(h.message(),
            "expected an order with a known Hadamard matrix (a power of two, "
            "or m times one with m = 12, 20, 28, 36, ...) but got 172; the "
            "largest one that divides it is 4");
  EXPECT_FALSE(HadamardMatrix::get(0).ok());
  EXPECT_EQ(HadamardMatrix::getLargestDivisor(172), 4);
  EXPECT_EQ(HadamardMatrix::getLargestDivisor(7), 1);
  EXPECT_EQ(HadamardMatrix::getLargestDivisor(3 * 64), 192);
  EXPECT_EQ(HadamardMatrix::getLargestDivisor(116), 4);
}

TEST(HadamardMatrixTest, MultiplyIsTheMatrix) {
  for (int64_t n : {1, 2, 8, 12, 24, 36, 80, 144, 344, 688}) {
    Result<HadamardMatrix> h = HadamardMatrix::get(n);
    ASSERT_TRUE(h.ok());
    for (bool transposed : {false, true}) {
      // Every second element of a longer vector.
      std::vector<double> x(2 * n);
      for (int64_t i = 0; i < n; ++i)
        x[2 * i] = static_cast<double>((i * 7919 + 3) % 101 - 50);
      std::vector<double> y = x;
      h->multiply(y.data(), 2, transposed);
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i)
          sum += x[2 * i] * (transposed ? h->at(j, i) : h->at(i, j));
        ASSERT_EQ(y[2 * j], sum) << n << ", " << j; // integers: no rounding
        ASSERT_EQ(y[2 * j + 1], 0);
      }
    }
  }
}

TEST(HadamardMatrixTest, LargeOrders) {
  for (int64_t n : {4096, 14336, 11008, 8192 * 36}) {
    Result<HadamardMatrix> h = HadamardMatrix::get(n);
    ASSERT_TRUE(h.ok());
    std::vector<double> x(n);
    x[n / 3] = 1;
    x[n - 1] = -3;
    std::vector<double> y = x;
    h->multiply(y.data(), 1, false);
    h->multiply(y.data(), 1, true);
    for (int64_t i = 0; i < n; ++i)
      ASSERT_EQ(y[i], static_cast<double>(n) * x[i]) << n << ", " << i;
  }
}

TEST(RotationTest, RandomSigns) {
  std::vector<int8_t> signs = getRandomSigns(1, 1000);
  int sum = 0;
  for (int8_t sign : signs) {
    ASSERT_EQ(sign * sign, 1);
    sum += sign;
  }
  EXPECT_LT(std::abs(sum), 100);
  EXPECT_EQ(signs, getRandomSigns(1, 1000));
  EXPECT_NE(signs, getRandomSigns(2, 1000));
  // The first output of SplitMix64 for the seed 0 is 0xe220a8397b1dcdaf.
  std::vector<int8_t> known = getRandomSigns(0, 64);
  for (int i = 0; i < 64; ++i)
    EXPECT_EQ(known[i], 0xe220a8397b1dcdafu >> i & 1 ? -1 : 1) << i;
}

TEST(RotationTest, RandomOrthogonal) {
  for (int64_t n : {1, 2, 7, 96}) {
    std::vector<double> q = getRandomOrthogonal(5, n), t(n * n);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        t[j * n + i] = q[i * n + j];
    EXPECT_LT(getIdentityError(q.data(), t.data(), n), 1e-13) << n;
    EXPECT_LT(getIdentityError(t.data(), q.data(), n), 1e-13) << n;
  }
}

TEST(RotationTest, IdentityError) {
  const double a[] = {1, 0, 0.5, 1}, b[] = {1, 0, -0.5, 1};
  EXPECT_EQ(getIdentityError(a, b, 2), 0);
  EXPECT_EQ(getIdentityError(a, a, 2), 1);
  const double bad[] = {NAN, 0, 0, 1};
  EXPECT_EQ(getIdentityError(bad, b, 2), INFINITY);
  // Estimated: a wrong row is seen.
  std::vector<double> q = getRandomOrthogonal(5, 100);
  EXPECT_GT(getIdentityError(q.data(), q.data(), 100), 0.1);
  q[99 * 100 + 3] = NAN;
  EXPECT_EQ(getIdentityError(q.data(), q.data(), 100), INFINITY);
}
