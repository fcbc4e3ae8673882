//===- FuzzInput.h - The input of a fuzz target as a file -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_FUZZ_FUZZINPUT_H
#define QUANT_LLM_TEST_FUZZ_FUZZINPUT_H

#include "quant-llm/Formats/Archive.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

namespace quant_llm::fuzz {

/// A file in memory.
class FuzzInput {
public:
  FuzzInput(const uint8_t *data, size_t size)
      : descriptor(::memfd_create("input", MFD_CLOEXEC)) {
    if (descriptor < 0 ||
        ::write(descriptor, data, size) != static_cast<ssize_t>(size))
      std::abort();
  }
  ~FuzzInput() { ::close(descriptor); }

  std::string path() const {
    return "/proc/self/fd/" + std::to_string(descriptor);
  }

private:
  int descriptor;
};

/// Reads every byte, so that the sanitizer sees a range that is not there.
inline void touch(const uint8_t *data, uint64_t count) {
  volatile uint8_t sink = 0;
  for (uint64_t i = 0; i < count; ++i)
    sink = sink ^ data[i];
}

/// Opens an archive and reads all of it in every way; what is accepted must
/// hold what it promises.
inline void readAll(const std::string &path) {
  Result<std::unique_ptr<Archive>> archive = Archive::open(path);
  if (!archive.ok()) {
    if (archive.message().empty())
      std::abort();
    return;
  }
  for (const std::string &name : (*archive)->names()) {
    Result<TensorInfo> info = (*archive)->find(name);
    if (!info.ok()) {
      // Only a type of ggml that cannot be read.
      if (!(*archive)->gguf())
        std::abort();
      continue;
    }
    touch(info->data, info->bytes);
    Result<TensorBuffer> buffer = loadTensor(*info, 64);
    if (!buffer.ok() || buffer->bytes != *getByteSize(info->dtype, info->shape))
      std::abort();
    touch(buffer->data, buffer->bytes);
    int64_t rows = info->numRows();
    std::vector<float> floats(
        static_cast<size_t>(*getNumElements(info->shape)));
    std::vector<uint16_t> halves(floats.size());
    (void)readRowsAsF32(*info, 0, rows, floats.data());
    (void)readRowsAsF16(*info, rows / 2, rows - rows / 2, halves.data());
    (*archive)->release(*info);
  }
}

} // namespace quant_llm::fuzz

#endif // QUANT_LLM_TEST_FUZZ_FUZZINPUT_H
