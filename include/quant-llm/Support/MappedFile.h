//===- MappedFile.h - A file as read-only memory ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_MAPPEDFILE_H
#define QUANT_LLM_SUPPORT_MAPPEDFILE_H

#include "quant-llm/Support/Status.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace quant_llm {

/// Which file it is, whatever path leads to it: symbolic and hard links to one
/// file have the same.
struct FileId {
  uint64_t device = 0;
  uint64_t inode = 0;

  /// That of the file `path` leads to; nothing if there is none.
  static std::optional<FileId> of(const std::string &path);

  bool operator==(const FileId &other) const {
    return device == other.device && inode == other.inode;
  }
};

/// A regular file mapped read-only. The bytes are valid as long as the object
/// lives (moving it does not move them). Replacing the file by a rename is
/// harmless; truncating it in place while it is mapped ends the process by
/// SIGBUS on the next access, as with every memory map.
class MappedFile {
public:
  /// Fails for anything that is not a readable regular file: directories, pipes
  /// (without waiting for a writer), devices. An empty file has size() == 0.
  static Result<MappedFile> open(const std::string &path);

  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&other) noexcept;
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;
  ~MappedFile();

  /// The path as given to open().
  const std::string &path() const { return name; }
  /// Of the file as it was opened, even if another has its name by now.
  const FileId &id() const { return identity; }
  /// Page-aligned; null for an empty file.
  const uint8_t *data() const { return bytes; }
  size_t size() const { return length; }

  /// Tells the system that the pages wholly inside the range are not needed for
  /// now, so that reading a file from end to end does not fill the memory of
  /// the process. The range must lie in the file; reading it again later works.
  void release(const uint8_t *begin, size_t count) const;

private:
  MappedFile() = default;

  std::string name;
  FileId identity;
  const uint8_t *bytes = nullptr;
  size_t length = 0;
};

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_MAPPEDFILE_H
