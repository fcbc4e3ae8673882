//===- ParseSafely.cpp - Parsers of MLIR, guarded -------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Parser/ParseSafely.h"

#include "quant-llm/Support/Bytecode.h"

#include "llvm/Support/CrashRecoveryContext.h"

#include <mutex>

using namespace quant_llm;

namespace {

/// Recovery is on for the process while one thread needs it.
class RecoveryScope {
public:
  RecoveryScope() {
    std::lock_guard<std::mutex> lock(mutex);
    if (users++ == 0)
      llvm::CrashRecoveryContext::Enable();
  }
  ~RecoveryScope() {
    std::lock_guard<std::mutex> lock(mutex);
    if (--users == 0)
      llvm::CrashRecoveryContext::Disable();
  }
  RecoveryScope(const RecoveryScope &) = delete;
  RecoveryScope &operator=(const RecoveryScope &) = delete;

private:
  static std::mutex mutex;
  static unsigned users;
};

std::mutex RecoveryScope::mutex;
unsigned RecoveryScope::users = 0;

} // namespace

bool quant_llm::mayFaultParser(std::string_view source) {
  for (const char *name : {"linalg.elementwise", "linalg.batch_matmul",
                           "linalg.batch_reduce_matmul"})
    if (source.find(name) != source.npos)
      return true;
  return false;
}

Status quant_llm::parseSafely(std::string_view source,
                              llvm::function_ref<void()> parse) {
  if (Status status = checkSource(source); !status.ok())
    return status;
  RecoveryScope scope;
  llvm::CrashRecoveryContext context;
  if (context.RunSafely(parse))
    return Status::success();
  return Status::error(
      "expected a module that the parser of MLIR 22.1 can read but it failed "
      "in itself; it does so for linalg.elementwise, linalg.batch_matmul and "
      "linalg.batch_reduce_matmul of types that they cannot compute with: "
      "write linalg.generic instead");
}
