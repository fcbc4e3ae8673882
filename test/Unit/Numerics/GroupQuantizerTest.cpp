//===- GroupQuantizerTest.cpp ---------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/GroupQuantizer.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Metrics.h"
#include "quant-llm/Numerics/Packing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace quant_llm;

TEST(GroupQuantizerTest, Int4ByHand) {
  const float weights[] = {7, -7, 3.5f, 1, 0, 14};
  Scheme scheme;
  scheme.blockK = 4;
  Result<QuantizedMatrix> stored =
      quantize({weights, SourceType::F32, 1, 6}, scheme, "w", 1);
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->scales, (std::vector<uint8_t>{0x00, 0x3c, 0x00, 0x40}));
  EXPECT_EQ(stored->codes, (std::vector<uint8_t>{0x97, 0x14, 0x70}));
  float values[6];
  ASSERT_TRUE(dequantize(*stored, scheme, values, 1).ok());
  const float expected[] = {7, -7, 4, 1, 0, 14};
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(values[i], expected[i]);
}
