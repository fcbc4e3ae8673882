//===- StreamText.h - What is written to a stream of LLVM -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_UTILS_STREAMTEXT_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_UTILS_STREAMTEXT_H

#include "llvm/Config/abi-breaking.h"
#include "llvm/Support/raw_ostream.h"

#include <mutex>
#include <string>

namespace quant_llm {

/// Keeps what is written to llvm::outs() or llvm::errs() until take().
class StreamText {
public:
  explicit StreamText(llvm::raw_fd_ostream &stream)
      : lock(getMutex(stream)), stream(stream),
        sizeBefore(stream.GetBufferSize()) {
    stream.flush();
    setBuffer();
  }
  StreamText(const StreamText &) = delete;
  StreamText &operator=(const StreamText &) = delete;
  ~StreamText() {
    if (sizeBefore)
      stream.SetBufferSize(sizeBefore);
    else
      stream.SetUnbuffered();
  }

  std::string take() {
    std::string text(buffer, stream.GetNumBytesInBuffer());
#if LLVM_ENABLE_ABI_BREAKING_CHECKS
    // LLVM with assertions does not let go of what is in a buffer.
    stream.flush();
#else
    setBuffer();
#endif
    return text;
  }

private:
  /// The function that gives a stream another buffer is for classes of streams.
  struct Access : llvm::raw_ostream {
    using raw_ostream::SetBuffer;
  };
  void setBuffer() { (stream.*&Access::SetBuffer)(buffer, sizeof(buffer)); }

  static std::mutex &getMutex(const llvm::raw_fd_ostream &stream) {
    static std::mutex errors, others;
    return &stream == &llvm::errs() ? errors : others;
  }

  std::lock_guard<std::mutex> lock;
  llvm::raw_fd_ostream &stream;
  size_t sizeBefore;
  // Longer texts are written.
  char buffer[1 << 14];
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_UTILS_STREAMTEXT_H
