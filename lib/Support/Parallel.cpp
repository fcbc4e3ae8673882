//===- Parallel.cpp - Deterministic fork-join loops -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Threads stay when a loop is done: searches run a thousand short loops for
// each layer of a model, and on many processors to start a thread takes longer
// than its share of such a loop.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

using namespace quant_llm;

constexpr const char *kThreadsVariable = "QUANT_LLM_THREADS";

/// The number in the environment variable, or 0.
static unsigned getThreadSetting() {
  const char *text = std::getenv(kThreadsVariable);
  if (!text || *text < '0' || *text > '9')
    return 0;
  char *end = nullptr;
  long value = std::strtol(text, &end, 10);
  return *end == '\0' && value <= kMostThreads ? static_cast<unsigned>(value)
                                               : 0;
}

Status quant_llm::checkThreadSetting() {
  const char *text = std::getenv(kThreadsVariable);
  if (!text || *text == '\0' || getThreadSetting() != 0)
    return Status::success();
  return Status::error(
      "expected the environment variable " + std::string(kThreadsVariable) +
      " to be a number from 1 to " + std::to_string(kMostThreads) +
      " but got '" + text + "'; unset it to use every processor");
}

unsigned quant_llm::resolveThreadCount(int requested) {
  if (requested > 0)
    return static_cast<unsigned>(std::min(requested, kMostThreads));
  if (unsigned setting = getThreadSetting())
    return setting;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

namespace {

/// A call of parallelFor, on the stack of its caller.
struct Loop {
  const std::function<void(int64_t, int64_t)> &body;
  int64_t count, ranges;
  /// The range that is taken next, and how many are being run.
  int64_t next, running;
  /// Rounding and the like, as the caller has it.
  std::fenv_t environment;
  std::condition_variable done;

  int64_t bound(int64_t range) const {
    // Written without count * range, which could overflow.
    return count / ranges * range + std::min(range, count % ranges);
  }
};

/// Threads that help with any loop. The caller of a loop works on it too, and
/// ends it alone if no thread comes: so loops may be nested, and called by
/// several threads.
class Helpers {
public:
  void run(Loop &loop) {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stopped && static_cast<int64_t>(threads.size()) < loop.ranges - 1) {
      // Not std::thread, which ends the process if there can be no more
      // threads.
      pthread_t thread;
      if (pthread_create(&thread, nullptr, work, this) != 0)
        break;
      threads.push_back(thread);
    }
    open.push_back(&loop);
    for (int64_t i = 1; i < loop.ranges; ++i)
      wake.notify_one();
    while (loop.next < loop.ranges)
      runRange(loop, lock);
    loop.done.wait(lock, [&] { return loop.running == 0; });
  }

  /// Ends the threads; loops are run by their callers from then on.
  void stop() {
    std::vector<pthread_t> ending;
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopped = true;
      ending.swap(threads);
    }
    wake.notify_all();
    // A body may end the process: others may wait for that very body.
    const bool isHelper =
        std::any_of(ending.begin(), ending.end(), [](pthread_t thread) {
          return pthread_equal(thread, pthread_self());
        });
    for (pthread_t thread : ending) {
      if (isHelper)
        pthread_detach(thread);
      else
        pthread_join(thread, nullptr);
    }
  }

private:
  /// Runs the next range of a loop; the lock is held before and after.
  void runRange(Loop &loop, std::unique_lock<std::mutex> &lock) {
    int64_t range = loop.next++;
    if (loop.next == loop.ranges)
      open.erase(std::find(open.begin(), open.end(), &loop));
    ++loop.running;
    lock.unlock();
    loop.body(loop.bound(range), loop.bound(range + 1));
    lock.lock();
    // The lock keeps the loop alive until it is told.
    if (--loop.running == 0 && loop.next == loop.ranges)
      loop.done.notify_one();
  }

  static void *work(void *argument) {
    auto &helpers = *static_cast<Helpers *>(argument);
    std::unique_lock<std::mutex> lock(helpers.mutex);
    while (true) {
      helpers.wake.wait(
          lock, [&] { return helpers.stopped || !helpers.open.empty(); });
      if (helpers.open.empty())
        return nullptr;
      Loop &loop = *helpers.open.back();
      std::fesetenv(&loop.environment);
      helpers.runRange(loop, lock);
    }
  }

  std::mutex mutex;
  std::condition_variable wake;
  /// Loops of which ranges are left to take.
  std::vector<Loop *> open;
  std::vector<pthread_t> threads;
  bool stopped = false;
};

} // namespace

/// Of this process. Never freed: threads may call parallelFor until its end.
static std::atomic<Helpers *> helpers = nullptr;

static Helpers &getHelpers() {
  Helpers *known = helpers.load();
  if (known)
    return *known;
  auto *created = new Helpers;
  if (helpers.compare_exchange_strong(known, created))
    return *created;
  delete created;
  return *known;
}

namespace {
struct HelpersOfProcess {
  HelpersOfProcess() {
    // A child made by fork() has none of the threads, and a lock that may be
    // held.
    pthread_atfork(nullptr, nullptr, [] { helpers.store(nullptr); });
  }
  /// No thread may be left in a library that is closed.
  ~HelpersOfProcess() {
    if (Helpers *known = helpers.load())
      known->stop();
  }
};
} // namespace

static HelpersOfProcess helpersOfProcess;

void quant_llm::parallelFor(int64_t count, int threads,
                            const std::function<void(int64_t, int64_t)> &body) {
  if (count <= 0)
    return;
  int64_t ranges = std::min<int64_t>(
      count, static_cast<int64_t>(resolveThreadCount(threads)));
  if (ranges == 1)
    return body(0, count);
  Loop loop{body, count, ranges, 0, 0, {}, {}};
  std::fegetenv(&loop.environment);
  getHelpers().run(loop);
}
