//===- Memory.cpp - The allocator of generated code -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Memory.h"

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>

using namespace quant_llm;
using namespace quant_llm::cpu;

namespace {

/// Precedes each block. A block is in the ring of a scope, in a free list, or
/// in neither; `next` and `previous` serve whichever it is.
struct alignas(64) Header {
  Header *next;
  Header *previous;
  size_t bytes;
  unsigned sizeClass;
};
static_assert(sizeof(Header) == 64, "blocks must stay 64-byte aligned");

/// Four classes for each power of two, so at most a fifth of a block is unused.
constexpr unsigned numClasses = 4 * 64;
/// Beyond this much unused memory, freed blocks go back to the system.
constexpr size_t unusedLimit = size_t(512) << 20;

unsigned computeSizeClass(size_t size, size_t &rounded) {
  if (size < 64)
    size = 64;
  unsigned log = 63 - static_cast<unsigned>(__builtin_clzll(size));
  size_t step = size_t(1) << (log - 2);
  size_t quarter = (size - (size_t(1) << log) + step - 1) / step;
  rounded = (size_t(1) << log) + quarter * step;
  return 4 * log + static_cast<unsigned>(quarter);
}

struct Pool {
  std::mutex mutex;
  Header *lists[numClasses + 1] = {};
  size_t unused = 0;
};

Pool &getPool() {
  // Never destroyed: tensors may outlive static destruction.
  static Pool *pool = new Pool;
  return *pool;
}

std::atomic<int64_t> liveBytes{0};
std::atomic<int64_t> peakBytes{0};

thread_local AllocationScope *currentScope = nullptr;
thread_local Header *currentRing = nullptr;

} // namespace

void *cpu::allocateBlock(size_t size) {
  if (size > size_t(1) << 62)
    return nullptr;
  size_t rounded = 0;
  unsigned sizeClass = computeSizeClass(size, rounded);
  Pool &pool = getPool();
  Header *header = nullptr;
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    header = pool.lists[sizeClass];
    if (header) {
      pool.lists[sizeClass] = header->next;
      pool.unused -= header->bytes;
    }
  }
  if (!header) {
    size_t total = (sizeof(Header) + rounded + 63) / 64 * 64;
    void *memory = std::aligned_alloc(64, total);
    if (!memory) {
      releaseUnusedBlocks();
      memory = std::aligned_alloc(64, total);
    }
    if (!memory)
      return nullptr;
    header = new (memory) Header{nullptr, nullptr, rounded, sizeClass};
  }
  header->next = header->previous = nullptr;
  if (Header *ring = currentRing) {
    header->next = ring->next;
    header->previous = ring;
    ring->next->previous = header;
    ring->next = header;
  }
  int64_t live = liveBytes += static_cast<int64_t>(header->bytes);
  int64_t peak = peakBytes;
  while (live > peak && !peakBytes.compare_exchange_weak(peak, live))
    ;
  return header + 1;
}

void cpu::freeBlock(void *block) {
  if (!block)
    return;
  Header *header = static_cast<Header *>(block) - 1;
  if (header->next) {
    header->next->previous = header->previous;
    header->previous->next = header->next;
  }
  liveBytes -= static_cast<int64_t>(header->bytes);
  Pool &pool = getPool();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    if (pool.unused + header->bytes <= unusedLimit) {
      header->next = pool.lists[header->sizeClass];
      pool.lists[header->sizeClass] = header;
      pool.unused += header->bytes;
      return;
    }
  }
  std::free(header);
}

void cpu::releaseUnusedBlocks() {
  Pool &pool = getPool();
  std::lock_guard<std::mutex> lock(pool.mutex);
  for (Header *&list : pool.lists)
    while (Header *header = list) {
      list = header->next;
      std::free(header);
    }
  pool.unused = 0;
}

AllocationScope::AllocationScope() : outer(currentScope) {
  Header *head = new (ring) Header{nullptr, nullptr, 0, 0};
  head->next = head->previous = head;
  currentScope = this;
  currentRing = head;
}

AllocationScope::~AllocationScope() {
  // What is left are results, which now belong to the caller.
  Header *head = reinterpret_cast<Header *>(ring);
  for (Header *header = head->next; header != head;) {
    Header *next = header->next;
    header->next = header->previous = nullptr;
    header = next;
  }
  currentScope = outer;
  currentRing = outer ? reinterpret_cast<Header *>(outer->ring) : nullptr;
}

void AllocationScope::freeAll() {
  Header *head = reinterpret_cast<Header *>(ring);
  while (head->next != head)
    freeBlock(head->next + 1);
}

std::optional<size_t> AllocationScope::findSize(const void *block) const {
  const Header *head = reinterpret_cast<const Header *>(ring);
  for (const Header *header = head->next; header != head; header = header->next)
    if (header + 1 == block)
      return header->bytes;
  return std::nullopt;
}

RuntimeMemoryUse quant_llm::getRuntimeMemoryUse() {
  return {liveBytes.load(), peakBytes.load()};
}
