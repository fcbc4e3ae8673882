//===- DTypeTest.cpp ------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/DType.h"

#include <gtest/gtest.h>

using namespace quant_llm;

TEST(DTypeTest, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::U64); ++i) {
    DType dtype = static_cast<DType>(i);
    EXPECT_EQ(parseDType(getDTypeName(dtype)), dtype);
  }
  EXPECT_EQ(getDTypeName(DType::U64), "U64");
  EXPECT_EQ(getDTypeName(DType::F8E4M3), "F8_E4M3");
  EXPECT_EQ(parseDType("f32"), std::nullopt);
  EXPECT_EQ(parseDType(""), std::nullopt);
}

TEST(DTypeTest, Sizes) {
  EXPECT_EQ(getByteWidth(DType::F32), 4u);
  EXPECT_EQ(getByteWidth(DType::F4), 0u);
  EXPECT_EQ(getByteSize(DType::F16, {3, 5}), 30u);
  EXPECT_EQ(getByteSize(DType::F64, {}), 8u);
  EXPECT_EQ(getByteSize(DType::F32, {7, 0}), 0u);
  EXPECT_EQ(getByteSize(DType::F4, {3, 2}), 3u);
  EXPECT_EQ(getByteSize(DType::F4, {3}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::F6E2M3, {4}), 3u);
  EXPECT_EQ(getByteSize(DType::F32, {-1}), std::nullopt);
  int64_t big = int64_t(1) << 62;
  EXPECT_EQ(getByteSize(DType::U8, {big, 4}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::U8, {big, big, 0}), std::nullopt);
  EXPECT_EQ(getByteSize(DType::F64, {big}), std::nullopt);
  EXPECT_EQ(shapeToString({2, 3}), "[2, 3]");
  EXPECT_EQ(shapeToString({}), "[]");
}

TEST(DTypeTest, ReadableAs) {
  for (DType wanted : {DType::I8, DType::F8E4M3, DType::F8E5M2, DType::F8E8M0})
    EXPECT_TRUE(isReadableAs(DType::U8, wanted));
  EXPECT_TRUE(isReadableAs(DType::U64, DType::I64));
  EXPECT_TRUE(isReadableAs(DType::F16, DType::F16));
  EXPECT_FALSE(isReadableAs(DType::BF16, DType::F16));
  EXPECT_FALSE(isReadableAs(DType::F8E4M3, DType::F8E5M2));
  EXPECT_FALSE(isReadableAs(DType::I8, DType::F8E4M3));
  EXPECT_FALSE(isReadableAs(DType::I32, DType::I64));
  EXPECT_FALSE(isReadableAs(DType::U8, DType::Bool));
}
