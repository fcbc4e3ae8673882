//===- MappedFile.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/MappedFile.h"

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace quant_llm;

static Status errnoError(const std::string &path, const char *action) {
  return Status::error(std::string("cannot ") + action + " '" + path +
                       "': " + std::strerror(errno));
}

/// What kind of file a mode is about, for "expected a regular file but got
/// ...".
static const char *describeKind(mode_t mode) {
  if (S_ISDIR(mode))
    return "a directory";
  if (S_ISFIFO(mode))
    return "a pipe";
  if (S_ISSOCK(mode))
    return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode))
    return "a device";
  return "something else";
}

static FileId getId(const struct stat &info) {
  return {static_cast<uint64_t>(info.st_dev),
          static_cast<uint64_t>(info.st_ino)};
}

std::optional<FileId> FileId::of(const std::string &path) {
  struct stat info;
  if (path.find('\0') != std::string::npos || ::stat(path.c_str(), &info) != 0)
    return std::nullopt;
  return getId(info);
}

Result<MappedFile> MappedFile::open(const std::string &path) {
  // A path with a zero byte would name another file than the message says.
  if (path.find('\0') != std::string::npos)
    return Status::error("expected a path without zero bytes");
  // O_NONBLOCK: opening a pipe must not wait for its other end.
  int descriptor =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0)
    return errnoError(path, "open");
  struct stat info;
  if (::fstat(descriptor, &info) != 0) {
    Status status = errnoError(path, "open");
    ::close(descriptor);
    return status;
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(descriptor);
    return Status::error("cannot open '" + path +
                         "': expected a regular file but got " +
                         describeKind(info.st_mode));
  }
  MappedFile file;
  file.name = path;
  file.identity = getId(info);
  if (info.st_size > 0) {
    if (static_cast<uint64_t>(info.st_size) >
        static_cast<uint64_t>(std::numeric_limits<ptrdiff_t>::max())) {
      ::close(descriptor);
      return Status::error("cannot map '" + path + "': the file is too large");
    }
    file.length = static_cast<size_t>(info.st_size);
    void *address = ::mmap(nullptr, file.length, PROT_READ, MAP_PRIVATE,
                           descriptor, /*offset=*/0);
    if (address == MAP_FAILED) {
      Status status = errnoError(path, "map");
      ::close(descriptor);
      return status;
    }
    file.bytes = static_cast<const uint8_t *>(address);
  }
  ::close(descriptor);
  return file;
}

MappedFile::MappedFile(MappedFile &&other) noexcept
    : name(std::move(other.name)), identity(other.identity),
      bytes(std::exchange(other.bytes, nullptr)),
      length(std::exchange(other.length, 0)) {}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  std::swap(name, other.name);
  std::swap(identity, other.identity);
  std::swap(bytes, other.bytes);
  std::swap(length, other.length);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes)
    ::munmap(const_cast<uint8_t *>(bytes), length);
}

void MappedFile::release(const uint8_t *begin, size_t count) const {
  if (!bytes || begin < bytes || begin > bytes + length ||
      count > static_cast<size_t>(bytes + length - begin))
    return;
  size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t first = (static_cast<size_t>(begin - bytes) + page - 1) / page * page;
  size_t last = static_cast<size_t>(begin - bytes) + count;
  // The last page of the file belongs to whoever reaches the end of it.
  last = last == length ? (last + page - 1) / page * page : last / page * page;
  if (first < last)
    ::madvise(const_cast<uint8_t *>(bytes) + first, last - first,
              MADV_DONTNEED);
}
