//===- Progress.h - How far a long piece of work has come -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Libraries announce progress, tools decide whether and how to show it. The
// listener is a property of the calling thread, not an option of the work: a
// pass pipeline that is printed and run again elsewhere must not depend on a
// terminal.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_PROGRESS_H
#define QUANT_LLM_SUPPORT_PROGRESS_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <functional>
#include <string>

namespace quant_llm {

struct Progress {
  /// What is being done: "choosing granularities", "quantizing weights", ...
  std::string stage;
  /// What was worked on last, such as the name of a parameter.
  std::string item;
  /// Units of work done and in all (bytes of the weights for passes); done ==
  /// total is announced exactly once, at the end of a stage that succeeds.
  uint64_t done = 0;
  uint64_t total = 0;
};

using ProgressListener = std::function<void(const Progress &)>;

/// Whether the work is to be given up.
using StopRequest = std::function<bool()>;

/// While an object of this class lives, work that this thread starts is
/// announced to `listener`, on this thread, and asks `shouldStop`; either may
/// be empty. Scopes nest; the innermost one listens.
class ProgressScope {
public:
  explicit ProgressScope(ProgressListener listener,
                         StopRequest shouldStop = {});
  ~ProgressScope();
  ProgressScope(const ProgressScope &) = delete;
  ProgressScope &operator=(const ProgressScope &) = delete;

  Status announce(const Progress &progress) const;

private:
  ProgressListener listener;
  StopRequest shouldStop;
  const ProgressScope *outer;
};

/// Announces progress to the innermost listener of this thread, if any. An
/// error if the work is to be given up.
Status announceProgress(const Progress &progress);

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_PROGRESS_H
