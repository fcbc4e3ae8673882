//===- StandardOutput.h - A place for what tools print ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_STANDARDOUTPUT_H
#define QUANT_LLM_TOOLS_STANDARDOUTPUT_H

#include <fcntl.h>
#include <unistd.h>

namespace quant_llm {

/// Before a tool opens any file: the number of a standard output that is closed
/// must not become that of the file. Writing to it stays an error.
inline void reserveStandardOutput() {
  if (::fcntl(STDOUT_FILENO, F_GETFD) >= 0)
    return;
  int unwritable = ::open("/dev/null", O_RDONLY);
  if (unwritable >= 0 && unwritable != STDOUT_FILENO) {
    ::dup2(unwritable, STDOUT_FILENO);
    ::close(unwritable);
  }
}

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_STANDARDOUTPUT_H
