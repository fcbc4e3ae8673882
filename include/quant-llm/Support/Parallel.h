//===- Parallel.h - Deterministic fork-join loops ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_PARALLEL_H
#define QUANT_LLM_SUPPORT_PARALLEL_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <functional>

namespace quant_llm {

/// No more threads than this are ever used.
constexpr int kMostThreads = 4096;

/// An error unless the environment variable QUANT_LLM_THREADS is unset, empty,
/// or a number from 1 to kMostThreads. For the beginning of tools that are
/// given no number of threads (Python checks it, too): resolveThreadCount()
/// ignores any other value.
Status checkThreadSetting();

/// Number of threads to use for a request: `requested` if positive, else the
/// environment variable QUANT_LLM_THREADS if it is a number as above, else the
/// number of processors this process may run on. From 1 to kMostThreads.
unsigned resolveThreadCount(int requested);

/// Calls `body(begin, end)` on disjoint, consecutive ranges that cover
/// [0, count), on up to `threads` threads (see resolveThreadCount); on fewer if
/// no more can be begun. Returns when all are done. `body` must not throw, or
/// return in a child that it made by fork(); it may call parallelFor, and
/// exit(). The ranges depend on `count` and the number of threads alone; the
/// threads stay for later calls, of which several may run at a time. All ranges
/// begin with the floating-point environment of the caller. The threads have
/// the processors, priority and signal mask of the caller that they were begun
/// for, and keep them. A body whose result for an index does not depend on the
/// range it came in gives the same result for any thread count.
void parallelFor(int64_t count, int threads,
                 const std::function<void(int64_t begin, int64_t end)> &body);

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_PARALLEL_H
