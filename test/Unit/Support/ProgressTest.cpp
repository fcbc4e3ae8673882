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

TEST(ProgressTest, NobodyListens) {
  EXPECT_TRUE(announceProgress({"stage", "item", 1, 2}).ok());
}

TEST(ProgressTest, InnermostScopeListens) {
  std::vector<uint64_t> outer, inner;
  ProgressScope outerScope([&](const Progress &p) { outer.push_back(p.done); });
  EXPECT_TRUE(announceProgress({"a", "x", 1, 3}).ok());
  {
    ProgressScope innerScope(
        [&](const Progress &p) { inner.push_back(p.done); });
    EXPECT_TRUE(announceProgress({"a", "y", 2, 3}).ok());
  }
  EXPECT_TRUE(announceProgress({"a", "z", 3, 3}).ok());
  EXPECT_EQ(outer, (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(inner, (std::vector<uint64_t>{2}));
}

TEST(ProgressTest, OtherThreadsAreNotHeard) {
  unsigned calls = 0;
  ProgressScope scope([&](const Progress &) { ++calls; });
  std::thread([] {
    EXPECT_TRUE(announceProgress({"a", "x", 1, 1}).ok());
  }).join();
  EXPECT_EQ(calls, 0u);
}

TEST(ProgressTest, ListenersMayEndTheWork) {
  unsigned calls = 0;
  ProgressScope scope([&](const Progress &) { ++calls; },
                      [&] { return calls == 2; });
  EXPECT_TRUE(announceProgress({"a", "x", 1, 3}).ok());
  Status status = announceProgress({"packing weights", "y", 2, 3});
  EXPECT_EQ(status.message(), "stopped by the caller during packing weights");
  ProgressScope silent({}, [] { return true; });
  EXPECT_FALSE(announceProgress({"a", "z", 3, 3}).ok());
}
