//===- ProgressTest.cpp - Tests of progress announcements -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Progress.h"

#include <gtest/gtest.h>
#include <thread>
#include <vector>

using namespace quant_llm;

TEST(ProgressTest, NobodyListens) { announceProgress({"stage", "item", 1, 2}); }

TEST(ProgressTest, InnermostScopeListens) {
  std::vector<uint64_t> outer, inner;
  ProgressScope outerScope([&](const Progress &p) { outer.push_back(p.done); });
  announceProgress({"a", "x", 1, 3});
  {
    ProgressScope innerScope(
        [&](const Progress &p) { inner.push_back(p.done); });
    announceProgress({"a", "y", 2, 3});
  }
  announceProgress({"a", "z", 3, 3});
  EXPECT_EQ(outer, (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(inner, (std::vector<uint64_t>{2}));
}

TEST(ProgressTest, OtherThreadsAreNotHeard) {
  unsigned calls = 0;
  ProgressScope scope([&](const Progress &) { ++calls; });
  std::thread([] { announceProgress({"a", "x", 1, 1}); }).join();
  EXPECT_EQ(calls, 0u);
}
