//===- Progress.cpp - How far a long piece of work has come ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Progress.h"

#include <utility>

namespace quant_llm {

static thread_local const ProgressScope *currentScope = nullptr;

ProgressScope::ProgressScope(ProgressListener listener, StopRequest shouldStop)
    : listener(std::move(listener)), shouldStop(std::move(shouldStop)),
      outer(currentScope) {
  currentScope = this;
}

ProgressScope::~ProgressScope() { currentScope = outer; }

Status ProgressScope::announce(const Progress &progress) const {
  if (listener)
    listener(progress);
  if (shouldStop && shouldStop())
    return Status::error("stopped by the caller during " + progress.stage);
  return Status::success();
}

Status announceProgress(const Progress &progress) {
  return currentScope ? currentScope->announce(progress) : Status::success();
}

} // namespace quant_llm
