//===- TestFiles.h - Files for tests ----------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_UNIT_TESTFILES_H
#define QUANT_LLM_TEST_UNIT_TESTFILES_H

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

namespace quant_llm::test {

/// A directory of its own that vanishes with the object.
class TempDir {
public:
  TempDir() : TempDir(getBase()) {}
  explicit TempDir(const std::string &base) {
    std::string pattern = base + "/quant-llm-test-XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TempDir(const TempDir &) = delete;
  TempDir &operator=(const TempDir &) = delete;

  std::string operator/(const std::string &name) const {
    return path + "/" + name;
  }
  /// The names of everything in it.
  std::set<std::string> list() const {
    std::set<std::string> names;
    for (const auto &entry : std::filesystem::directory_iterator(path))
      names.insert(entry.path().filename());
    return names;
  }

  std::string path;

private:
  static std::string getBase() {
    const char *base = std::getenv("TMPDIR");
    return base && *base ? base : "/tmp";
  }
};

inline void writeFile(const std::string &path, const std::string &content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  ASSERT_TRUE(out.good()) << path;
}

/// A file in memory: tests that open thousands of files would else wait for the
/// disk. Its path works in this process only.
class MemoryFile {
public:
  explicit MemoryFile(const std::string &content)
      : descriptor(::memfd_create("quant-llm-test", MFD_CLOEXEC)) {
    EXPECT_GE(descriptor, 0);
    EXPECT_EQ(::write(descriptor, content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }
  ~MemoryFile() { ::close(descriptor); }
  MemoryFile(const MemoryFile &) = delete;
  MemoryFile &operator=(const MemoryFile &) = delete;

  std::string path() const {
    return "/proc/self/fd/" + std::to_string(descriptor);
  }

private:
  int descriptor;
};

inline std::string readFile(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The bytes of a little-endian number.
template <typename T>
std::string le(T value) {
  return {reinterpret_cast<const char *>(&value), sizeof(value)};
}

/// That an operation failed with a message that contains `part`.
template <typename T>
void expectError(const T &result, const std::string &part) {
  ASSERT_FALSE(result.ok()) << "expected an error with: " << part;
  EXPECT_NE(result.message().find(part), std::string::npos)
      << "message: " << result.message() << "\nexpected part: " << part;
}

} // namespace quant_llm::test

#endif // QUANT_LLM_TEST_UNIT_TESTFILES_H
