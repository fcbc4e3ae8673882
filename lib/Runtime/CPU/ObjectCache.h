//===- ObjectCache.h - Compiled modules kept on disk ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A directory of files named by the hash of everything that determines their
// contents. Any number of processes may share it: files appear by renaming and
// are read through a mapping, so a reader never sees a part. The cache only
// saves time: every failure to read or write it is ignored. So is an entry that
// is damaged or that somebody else could have written.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_RUNTIME_CPU_OBJECTCACHE_H
#define QUANT_LLM_LIB_RUNTIME_CPU_OBJECTCACHE_H

#include "CompiledModule.h"

#include <optional>

namespace quant_llm::cpu {

class ObjectCache {
public:
  /// Disabled if the options say so or no directory can be determined.
  explicit ObjectCache(const CpuEngineOptions &options);

  /// The name of the entry for a source compiled under `options`.
  static std::string computeKey(std::string_view source,
                                const CpuEngineOptions &options);

  std::optional<CompiledModule> load(const std::string &key) const;
  void store(const std::string &key, const CompiledModule &module) const;

private:
  void evict() const;

  std::string directory; // empty: disabled
  uint64_t limit;
};

} // namespace quant_llm::cpu

#endif // QUANT_LLM_LIB_RUNTIME_CPU_OBJECTCACHE_H
