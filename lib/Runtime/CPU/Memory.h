//===- Memory.h - The allocator of generated code ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Generated code allocates the same few buffers on every call. Blocks are kept
// and reused, because fresh pages from the system cost more than many a kernel.
// A scope collects what the calling thread allocates, so that a call which is
// abandoned in the middle by a failed check does not leak.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_RUNTIME_CPU_MEMORY_H
#define QUANT_LLM_LIB_RUNTIME_CPU_MEMORY_H

#include <cstddef>
#include <optional>

namespace quant_llm::cpu {

/// At least `size` bytes, 64-byte aligned; null if there is no memory.
void *allocateBlock(size_t size);
void freeBlock(void *block);
/// Gives blocks that are not in use back to the system.
void releaseUnusedBlocks();

/// While it lives, allocations of this thread are recorded.
class AllocationScope {
public:
  AllocationScope();
  ~AllocationScope();
  AllocationScope(const AllocationScope &) = delete;
  AllocationScope &operator=(const AllocationScope &) = delete;

  /// Frees everything recorded that is still allocated.
  void freeAll();
  /// The size of a recorded block that is still allocated.
  std::optional<size_t> findSize(const void *block) const;

private:
  AllocationScope *outer;
  /// Head of the ring of recorded blocks (Memory.cpp).
  alignas(64) unsigned char ring[64];
};

} // namespace quant_llm::cpu

#endif // QUANT_LLM_LIB_RUNTIME_CPU_MEMORY_H
