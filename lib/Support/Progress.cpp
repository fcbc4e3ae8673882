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

static thread_local const ProgressListener *currentListener = nullptr;

ProgressScope::ProgressScope(ProgressListener listener)
    : listener(std::move(listener)), outer(currentListener) {
  currentListener = &this->listener;
}

ProgressScope::~ProgressScope() { currentListener = outer; }

void announceProgress(const Progress &progress) {
  if (currentListener && *currentListener)
    (*currentListener)(progress);
}

} // namespace quant_llm
