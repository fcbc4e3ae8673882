//===- ParallelTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

using namespace quant_llm;

TEST(ParallelForTest, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 3, 8, 100})
    for (int64_t count : {0, 1, 2, 7, 64, 1000}) {
      std::vector<int> hits(static_cast<size_t>(count), 0);
      parallelFor(count, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          ++hits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(hits, std::vector<int>(static_cast<size_t>(count), 1));
    }
}

TEST(ParallelForTest, RangesOfAHugeCountDoNotOverflow) {
  int64_t count = std::numeric_limits<int64_t>::max();
  std::mutex mutex;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  parallelFor(count, 3, [&](int64_t begin, int64_t end) {
    std::lock_guard<std::mutex> lock(mutex);
    ranges.emplace_back(begin, end);
  });
  std::sort(ranges.begin(), ranges.end());
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[0].first, 0);
  EXPECT_EQ(ranges[0].second, ranges[1].first);
  EXPECT_EQ(ranges[1].second, ranges[2].first);
  EXPECT_EQ(ranges[2].second, count);
}

TEST(ResolveThreadCountTest, RequestWinsOverEnvironment) {
  setenv("QUANT_LLM_THREADS", "7", 1);
  EXPECT_EQ(resolveThreadCount(3), 3u);
  EXPECT_EQ(resolveThreadCount(0), 7u);
  unsetenv("QUANT_LLM_THREADS");
  EXPECT_EQ(resolveThreadCount(std::numeric_limits<int>::max()),
            static_cast<unsigned>(kMostThreads));
}

TEST(ResolveThreadCountTest, WrongSettingsAreErrors) {
  for (const char *text : {"abc", "0", "-1", "99999999", "4097", "2x", " 2",
                           "1e3", "99999999999999999999"}) {
    setenv("QUANT_LLM_THREADS", text, 1);
    Status status = checkThreadSetting();
    EXPECT_EQ(status.message(),
              "expected the environment variable QUANT_LLM_THREADS to be a "
              "number from 1 to 4096 but got '" +
                  std::string(text) + "'; unset it to use every processor");
    EXPECT_GE(resolveThreadCount(0), 1u);
  }
  for (const char *text : {"", "1", "4096"}) {
    setenv("QUANT_LLM_THREADS", text, 1);
    EXPECT_TRUE(checkThreadSetting().ok());
  }
  unsetenv("QUANT_LLM_THREADS");
  EXPECT_TRUE(checkThreadSetting().ok());
}
