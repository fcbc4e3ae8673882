//===- TensorTest.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/Tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace quant_llm;

static Tensor makeTensor(std::vector<float> values) {
  Result<Tensor> tensor =
      Tensor::allocate(DType::F32, {static_cast<int64_t>(values.size())});
  EXPECT_TRUE(tensor.ok());
  std::copy(values.begin(), values.end(), static_cast<float *>(tensor->data()));
  return tensor.take();
}

TEST(TensorTest, AllocationIsZeroedAndAligned) {
  Result<Tensor> tensor = Tensor::allocate(DType::F16, {3, 5});
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(tensor->numElements(), 15);
  EXPECT_EQ(tensor->numBytes(), 30);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data()) % 64, 0u);
  for (int i = 0; i < 15; ++i)
    EXPECT_EQ(static_cast<uint16_t *>(tensor->data())[i], 0);
  EXPECT_EQ(tensor->describe(), "f16 [3, 5]");
}

TEST(TensorTest, WrongShapesAreErrors) {
  EXPECT_EQ(Tensor::allocate(DType::F32, {2, -1}).message(),
            "expected extents that are not negative but got shape [2, ?]");
  int64_t huge = std::numeric_limits<int64_t>::max();
  EXPECT_FALSE(Tensor::allocate(DType::F32, {huge, huge}).ok());
  EXPECT_FALSE(Tensor::allocate(DType::F32, {huge}).ok());
  // Zero elements whatever the other extents are.
  EXPECT_TRUE(Tensor::allocate(DType::F32, {huge, huge, 0}).ok());
  EXPECT_FALSE(Tensor::allocate(DType::F4, {4}).ok());
}

TEST(TensorTest, CloneDoesNotShare) {
  Tensor tensor = makeTensor({1, 2});
  Result<Tensor> copy = tensor.clone();
  ASSERT_TRUE(copy.ok());
  static_cast<float *>(copy->data())[0] = 5;
  EXPECT_EQ(static_cast<float *>(tensor.data())[0], 1);
}

TEST(TensorTest, Compatibility) {
  EXPECT_TRUE(isCompatible(DType::U8, DType::I8));
  EXPECT_TRUE(isCompatible(DType::I64, DType::U64));
  EXPECT_FALSE(isCompatible(DType::F16, DType::BF16));
  EXPECT_FALSE(isCompatible(DType::I32, DType::F32));
}

TEST(CompareTensorsTest, CountsAndNorms) {
  Result<TensorDifference> difference =
      compareTensors(makeTensor({3, 4, 1}), makeTensor({3, 4, 0}), 0, 0.5);
  ASSERT_TRUE(difference.ok());
  EXPECT_EQ(difference->mismatches, 1);
  EXPECT_EQ(difference->worst, 2);
  EXPECT_DOUBLE_EQ(difference->maxAbsolute, 1);
  EXPECT_DOUBLE_EQ(difference->relativeFrobenius, 0.2);
}

TEST(CompareTensorsTest, NaNAndInfinity) {
  float nan = std::numeric_limits<float>::quiet_NaN();
  float infinity = std::numeric_limits<float>::infinity();
  Result<TensorDifference> same = compareTensors(
      makeTensor({nan, infinity, 1}), makeTensor({nan, infinity, 1}), 0, 0);
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->mismatches, 0);
  EXPECT_EQ(same->maxAbsolute, 0);
  Result<TensorDifference> other =
      compareTensors(makeTensor({nan, 1}), makeTensor({1, infinity}), 1, 1);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->mismatches, 2);
  EXPECT_TRUE(std::isinf(other->maxAbsolute));
}

TEST(CompareTensorsTest, ShapesMustAgree) {
  EXPECT_EQ(compareTensors(makeTensor({1}), makeTensor({1, 2}), 0, 0).message(),
            "expected shape [2] but got [1]");
}
