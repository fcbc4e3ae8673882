//===- FuzzSafetensors.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FuzzInput.h"

using namespace quant_llm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz::FuzzInput input(data, size);
  Result<SafetensorsFile> file = SafetensorsFile::open(input.path());
  if (!file.ok())
    return 0;
  // The tensors tile the data.
  uint64_t sum = 0;
  for (const TensorView &tensor : file->tensors()) {
    if (file->find(tensor.name) != &tensor)
      std::abort();
    sum += tensor.bytes;
  }
  if (sum > size)
    std::abort();
  fuzz::readAll(input.path());
  return 0;
}
