//===- ParallelTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Parallel.h"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
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

/// What a range of a loop of `ranges` threads finds, each on a thread of its
/// own.
template <typename T>
static std::vector<T> getOnEachThread(int ranges, T (*get)()) {
  std::vector<T> found(static_cast<size_t>(ranges));
  std::atomic<int> arrived = 0;
  parallelFor(ranges, ranges, [&](int64_t begin, int64_t) {
    for (++arrived; arrived < ranges;)
      std::this_thread::yield();
    found[static_cast<size_t>(begin)] = get();
  });
  return found;
}

/// Threads that have called it; their ids may be those of ended ones.
static int countThreads() {
  static std::atomic<int> threads = 0;
  thread_local const bool counted = (++threads, true);
  (void)counted;
  return threads;
}

TEST(ParallelForTest, ThreadsStay) {
  for (int i = 0; i < 1000; ++i)
    getOnEachThread(4, countThreads);
  // Loops of other tests have left up to 99.
  EXPECT_LE(countThreads(), 100);
}

TEST(ParallelForTest, ThreadsRoundAsTheirCaller) {
  for (int mode : {FE_TONEAREST, FE_UPWARD, FE_TONEAREST, FE_TOWARDZERO}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    std::vector<int> modes = getOnEachThread<int>(3, std::fegetround);
    std::vector<int> nested = getOnEachThread<int>(
        2, [] { return getOnEachThread<int>(2, std::fegetround).back(); });
    ASSERT_EQ(std::fesetround(FE_TONEAREST), 0);
    EXPECT_EQ(modes, std::vector<int>(3, mode));
    EXPECT_EQ(nested, std::vector<int>(2, mode));
  }
#ifdef __SSE__
  // Numbers below the normal ones are taken for zero.
  const unsigned before = _mm_getcsr(), flushing = before | 0x8040;
  _mm_setcsr(flushing);
  std::vector<unsigned> flushed = getOnEachThread<unsigned>(
      3, [] { return static_cast<unsigned>(_mm_getcsr()); });
  _mm_setcsr(before);
  for (unsigned found : flushed)
    EXPECT_EQ(found & 0x8040, 0x8040u);
  std::vector<unsigned> restored = getOnEachThread<unsigned>(
      3, [] { return static_cast<unsigned>(_mm_getcsr()); });
  for (unsigned found : restored)
    EXPECT_EQ(found & 0x8040, before & 0x8040);
#endif
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

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static constexpr bool isSanitized = true;
#else
static constexpr bool isSanitized = false;
#endif

/// The status of a child that calls `body`, or is ended after a minute.
static int runInChild(void (*body)()) {
  pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    body();
    ::_exit(100);
  }
  int status = -1;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status)
             ? WEXITSTATUS(status)
             : -1;
}

TEST(ParallelForTest, GoesOnWithFewerThreads) {
  if (isSanitized)
    GTEST_SKIP() << "the sanitizer needs room of its own";
  EXPECT_EQ(
      runInChild([] {
        // There is no room for the stacks of more threads than the
        // parent had.
        int64_t pages = 0;
        std::ifstream("/proc/self/statm") >> pages;
        auto bytes = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE));
        rlimit limit{bytes + (2 << 20), bytes + (2 << 20)};
        if (::setrlimit(RLIMIT_AS, &limit) != 0)
          ::_exit(1);
        int64_t sum = sumInParallel(kMostThreads, kMostThreads);
        ::_exit(sum == int64_t(kMostThreads) * (kMostThreads - 1) / 2 ? 0 : 2);
      }),
      0);
}

TEST(ParallelForTest, ABodyMayEndTheProcess) {
  if (isSanitized)
    GTEST_SKIP() << "the sanitizer looks at threads that are left";
  EXPECT_EQ(runInChild([] {
              // Two helpers: one waits for a range of its nested loop, in which
              // the other one ends the process.
              sumInParallel(3, 3);
              static std::thread::id caller = std::this_thread::get_id();
              static std::thread::id waiting;
              parallelFor(2, 2, [](int64_t, int64_t) {
                if (std::this_thread::get_id() == caller)
                  for (;;)
                    ::pause();
                waiting = std::this_thread::get_id();
                std::atomic<int> arrived = 0;
                parallelFor(2, 2, [&](int64_t, int64_t) {
                  for (++arrived; arrived < 2;)
                    std::this_thread::yield();
                  if (std::this_thread::get_id() == waiting)
                    return;
                  std::this_thread::sleep_for(std::chrono::milliseconds(100));
                  std::exit(3);
                });
              });
            }),
            3);
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
