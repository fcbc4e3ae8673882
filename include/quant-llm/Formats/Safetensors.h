//===- Safetensors.h - Reader and writer of safetensors files ---*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The format: 8 bytes with the length n of the header (little-endian), n bytes
// of JSON, then the data of the tensors without gaps. The header maps each name
// to
// {"dtype", "shape", "data_offsets": [begin, end]}, and "__metadata__" to a map
// of strings.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_SAFETENSORS_H
#define QUANT_LLM_FORMATS_SAFETENSORS_H

#include "quant-llm/Formats/DType.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Status.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// A densely stored tensor in row-major order inside a mapped file.
struct TensorView {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
  /// Valid while the file object lives. Of any alignment: safetensors does not
  /// align tensors, so read elements through memcpy, or use loadTensor() of
  /// Archive.h, which copies only where the alignment is wrong.
  const uint8_t *data = nullptr;
  uint64_t bytes = 0;
};

/// Longest header that is read, as in the reference implementation.
constexpr uint64_t maxSafetensorsHeader = 100'000'000;

/// A safetensors file, mapped. Everything in the header is checked when it is
/// opened: valid JSON and UTF-8, no name twice, known types, sizes that agree
/// with shapes, and data ranges that cover the file without overlap or gap.
class SafetensorsFile {
public:
  static Result<SafetensorsFile> open(const std::string &path);

  const std::string &path() const { return file.path(); }
  const FileId &id() const { return file.id(); }
  /// In the order of the data in the file (empty tensors at one offset by
  /// name).
  const std::vector<TensorView> &tensors() const { return views; }
  /// Null if there is no such tensor.
  const TensorView *find(std::string_view name) const;
  const std::map<std::string, std::string> &metadata() const { return entries; }

  /// See MappedFile::release.
  void release(const TensorView &tensor) const;

private:
  explicit SafetensorsFile(MappedFile file) : file(std::move(file)) {}

  MappedFile file;
  std::vector<TensorView> views;
  std::map<std::string, size_t, std::less<>> indexOf;
  std::map<std::string, std::string> entries;
};

/// A tensor to be written.
struct TensorDeclaration {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
};

/// Writes a safetensors file whose tensors are declared first and whose data
/// are then appended in the order of the declarations, in pieces of any size:
/// memory is bounded by the header. The data start at a multiple of 64 bytes;
/// declare tensors of wide types first if every tensor shall be aligned to its
/// type. The same calls give the same bytes. The file appears at finish()
/// (AtomicFile).
class SafetensorsWriter {
public:
  static Result<SafetensorsWriter>
  create(const std::string &path, std::vector<TensorDeclaration> tensors,
         const std::map<std::string, std::string> &metadata = {});

  /// Appends to tensor `name`, which must be the first one that is not
  /// complete; `count` must not exceed what it still lacks. After an error
  /// nothing can be appended any more and no file will appear.
  Status append(std::string_view name, const void *data, size_t count);

  /// Completes the file; an error if data are missing.
  Status finish();

private:
  explicit SafetensorsWriter(AtomicFile file) : file(std::move(file)) {}
  Status fail(const std::string &message);
  void skipComplete();

  AtomicFile file;
  std::vector<TensorDeclaration> declarations;
  std::vector<uint64_t> sizes;
  size_t current = 0;   // first incomplete tensor
  uint64_t written = 0; // bytes of it
  Status failure;
  bool finished = false;
};

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_SAFETENSORS_H
