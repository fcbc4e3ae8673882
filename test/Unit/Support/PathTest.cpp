//===- PathTest.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Path.h"

#include <gtest/gtest.h>

using namespace quant_llm;

TEST(PathTest, Resolve) {
  EXPECT_EQ(resolvePath("", "a"), "a");
  EXPECT_EQ(resolvePath("dir", "a"), "dir/a");
  EXPECT_EQ(resolvePath("dir/", "sub/a"), "dir/sub/a");
  EXPECT_EQ(resolvePath("/", "a"), "/a");
  EXPECT_EQ(resolvePath("dir", "/a"), "/a");
  EXPECT_EQ(resolvePath("dir", ""), "dir/");
}
