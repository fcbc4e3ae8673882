//===- Npy.h - Reader and writer of .npy files ------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The array format of NumPy, for tools that exchange activations with Python.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_NPY_H
#define QUANT_LLM_FORMATS_NPY_H

#include "quant-llm/Formats/DType.h"
#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

/// A .npy file (versions 1 to 3), mapped. Little-endian numbers and booleans;
/// of Fortran order only what is the same in C order (at most one dimension
/// larger than 1).
class NpyFile {
public:
  static Result<NpyFile> open(const std::string &path);

  DType dtype() const { return type; }
  const std::vector<int64_t> &shape() const { return dims; }
  /// Row-major; valid while the object lives. Of any alignment, though NumPy
  /// itself aligns to 64 bytes.
  const uint8_t *data() const { return payload; }
  uint64_t bytes() const { return count; }

private:
  explicit NpyFile(MappedFile file) : file(std::move(file)) {}

  MappedFile file;
  DType type = DType::F32;
  std::vector<int64_t> dims;
  const uint8_t *payload = nullptr;
  uint64_t count = 0;
};

/// Writes a row-major array in version 1.0 (AtomicFile). NumPy has no name for
/// bf16 and the 8-bit floats: an error.
Status writeNpy(const std::string &path, DType dtype,
                const std::vector<int64_t> &shape, const void *data);

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_NPY_H
