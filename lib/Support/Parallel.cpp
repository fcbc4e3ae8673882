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

unsigned quant_llm::resolveThreadCount(int requested) {
  if (requested > 0)
    return static_cast<unsigned>(requested);
  if (const char *text = std::getenv("QUANT_LLM_THREADS")) {
    char *end = nullptr;
    long value = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && value > 0 && value <= 4096)
      return static_cast<unsigned>(value);
  }
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
