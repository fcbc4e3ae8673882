//===- Npy.cpp - Tensors in .npy files ------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/Npy.h"

#include "quant-llm/Formats/Npy.h"

#include <cstring>

using namespace quant_llm;

Result<Tensor> quant_llm::readNpy(const std::string &path) {
  Result<NpyFile> file = NpyFile::open(path);
  if (!file.ok())
    return file.status();
  // A copy, since functions may write into their arguments.
  Result<Tensor> tensor = Tensor::allocate(file->dtype(), file->shape());
  if (tensor.ok() && file->bytes() != 0)
    std::memcpy(tensor->data(), file->data(), file->bytes());
  return tensor;
}

Status quant_llm::writeNpy(const std::string &path, const Tensor &tensor) {
  return writeNpy(path, tensor.dtype(), tensor.shape(), tensor.data());
}
