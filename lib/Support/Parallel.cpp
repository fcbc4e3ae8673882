//===- Parallel.cpp - Deterministic fork-join loops -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Parallel.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
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

void quant_llm::parallelFor(int64_t count, int threads,
                            const std::function<void(int64_t, int64_t)> &body) {
  if (count <= 0)
    return;
  int64_t workers = std::min<int64_t>(
      count, static_cast<int64_t>(resolveThreadCount(threads)));
  auto bound = [&](int64_t worker) {
    // Written without count * worker, which could overflow.
    return count / workers * worker + std::min(worker, count % workers);
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<size_t>(workers));
  for (int64_t worker = 1; worker < workers; ++worker)
    pool.emplace_back([&, worker] { body(bound(worker), bound(worker + 1)); });
  body(0, bound(1));
  for (std::thread &thread : pool)
    thread.join();
}
