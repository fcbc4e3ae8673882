//===- Archive.h - One interface over files of weights ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What `quant_llm.archive` names: a safetensors file, the index of a sharded
// one, or a GGUF file.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_ARCHIVE_H
#define QUANT_LLM_FORMATS_ARCHIVE_H

#include "quant-llm/Formats/DType.h"
#include "quant-llm/Formats/GGUF.h"
#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Support/Status.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// A tensor of an archive. For plain types the view is the whole truth. For the
/// block types of ggml, `blockType` is set, `dtype` is F16 (what they are read
/// as) and data and bytes are those of the blocks.
struct TensorInfo : TensorView {
  std::optional<GGMLType> blockType;

  /// Product of all dimensions but the last (1 for a scalar).
  int64_t numRows() const;
  /// The last dimension (1 for a scalar).
  int64_t numColumns() const;
};

/// A read-only collection of named tensors in mapped files. Safe to use from
/// several threads.
class Archive {
public:
  enum class Format { Safetensors, ShardedSafetensors, GGUF };

  /// Opens `path`; the format follows from the content (GGUF begins with its
  /// magic number, an index is a JSON object, all else must be safetensors).
  ///
  /// The shards of an index are file names relative to its directory. Refused
  /// are absolute ones, ones with a ".." component, and symbolic links that
  /// lead out of both the directory of the index and the directory that the
  /// index itself really lies in (the cache of the Hugging Face hub links index
  /// and shards to one directory of blobs). Tensors of a shard that the index
  /// does not list are not part of the archive.
  static Result<std::unique_ptr<Archive>> open(const std::string &path);

  virtual ~Archive();
  Archive(const Archive &) = delete;
  Archive &operator=(const Archive &) = delete;

  Format format() const { return archiveFormat; }
  /// The path as given to open().
  const std::string &path() const { return name; }

  /// A file that the archive consists of.
  struct File {
    std::string path;
    FileId id;
  };
  /// The one file, or the index and every shard.
  const std::vector<File> &files() const { return parts; }
  /// The file of the archive that `path` leads to, through links of any kind,
  /// or null. Who writes a file asks this first: writing it would replace what
  /// the archive was made of.
  const File *findFile(const std::string &path) const;

  /// All keys in the order of the data (of the shards by name, then in each).
  const std::vector<std::string> &names() const { return keys; }
  bool contains(std::string_view key) const;
  /// An error that names the archive if there is no such key, or if its type
  /// cannot be read.
  virtual Result<TensorInfo> find(std::string_view key) const = 0;

  /// The metadata of a safetensors file (of the index: empty).
  virtual const std::map<std::string, std::string> &metadata() const;
  /// The file behind a GGUF archive, else null.
  virtual const GGUFFile *gguf() const { return nullptr; }

  /// Tells the system that the data of the tensor are not needed for now: keeps
  /// the memory bounded when a large archive is read tensor by tensor.
  virtual void release(const TensorInfo &tensor) const = 0;

protected:
  Archive(Format format, std::string path, std::vector<File> files,
          std::vector<std::string> keys);

  const Format archiveFormat;
  const std::string name;
  const std::vector<File> parts;
  const std::vector<std::string> keys;
  std::map<std::string, size_t, std::less<>> keyIndex;
};

/// Reads rows [firstRow, firstRow + rowCount) of the tensor seen as a matrix
/// [numRows(), numColumns()] into `out`. From F64, F32, F16, BF16 and the block
/// types that can be dequantized; an error for other types or rows out of
/// range. F64 is rounded to nearest.
Status readRowsAsF32(const TensorInfo &tensor, int64_t firstRow,
                     int64_t rowCount, float *out);
/// The same into the bits of f16, rounded to nearest even.
Status readRowsAsF16(const TensorInfo &tensor, int64_t firstRow,
                     int64_t rowCount, uint16_t *out);

/// The elements of a tensor in the layout of its dtype: a view into the
/// archive, which must outlive it, or a copy of its own.
struct TensorBuffer {
  const uint8_t *data = nullptr;
  uint64_t bytes = 0;
  /// Set if the buffer is a copy.
  std::shared_ptr<uint8_t> storage;
};

/// The whole tensor in its dtype. Plain data already aligned to `alignment` (a
/// power of two; 0 stands for the width of the element) are not copied; block
/// types are dequantized to F16.
Result<TensorBuffer> loadTensor(const TensorInfo &tensor, size_t alignment = 0);

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_ARCHIVE_H
