//===- ParallelTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Parallel.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <set>
#include <string>
#include <thread>
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

/// The sum of i < count, by a loop.
static int64_t sumInParallel(int64_t count, int threads) {
  std::atomic<int64_t> sum = 0;
  parallelFor(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sum += i;
  });
  return sum;
}

TEST(ParallelForTest, ThreadsStay) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  for (int i = 0; i < 1000; ++i)
    parallelFor(4, 4, [&](int64_t, int64_t) {
      std::lock_guard<std::mutex> lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
  // Loops of other tests have left up to 99.
  EXPECT_LE(ids.size(), 100u);
}

TEST(ParallelForTest, LoopsMayBeNestedAndMeet) {
  std::vector<int64_t> sums(4, 0);
  std::vector<std::thread> callers;
  for (int64_t &to : sums)
    callers.emplace_back([&to] {
      for (int i = 0; i < 200; ++i) {
        std::atomic<int64_t> sum = 0;
        parallelFor(5, 3, [&](int64_t begin, int64_t end) {
          for (; begin < end; ++begin)
            sum += sumInParallel(20, 4);
        });
        to += sum;
      }
    });
  for (std::thread &caller : callers)
    caller.join();
  EXPECT_EQ(sums, std::vector<int64_t>(4, 200 * 5 * 190));
}

TEST(ParallelForTest, AChildMadeByForkHasThreadsOfItsOwn) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the sanitizer ends children that begin threads";
#endif
  EXPECT_EQ(sumInParallel(100, 4), 4950);
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Two ranges that wait for each other need two threads.
    std::atomic<int> arrived = 0;
    parallelFor(2, 2, [&](int64_t, int64_t) {
      for (++arrived; arrived < 2;)
        std::this_thread::yield();
    });
    ::_exit(sumInParallel(100, 4) == 4950 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
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
