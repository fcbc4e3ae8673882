//===- FuzzNpy.cpp --------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FuzzInput.h"

#include "quant-llm/Formats/Npy.h"

using namespace quant_llm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz::FuzzInput input(data, size);
  Result<NpyFile> file = NpyFile::open(input.path());
  if (!file.ok())
    return 0;
  if (file->bytes() != *getByteSize(file->dtype(), file->shape()))
    std::abort();
  fuzz::touch(file->data(), file->bytes());
  return 0;
}
