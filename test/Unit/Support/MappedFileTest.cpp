//===- MappedFileTest.cpp -------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/MappedFile.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace quant_llm;
using namespace quant_llm::test;

TEST(MappedFileTest, MapsTheWholeFile) {
  TempDir dir;
  std::string content(10000, 'x');
  content[0] = 'a';
  content[9999] = 'z';
  writeFile(dir / "file", content);
  Result<MappedFile> file = MappedFile::open(dir / "file");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->path(), dir / "file");
  ASSERT_EQ(file->size(), content.size());
  EXPECT_EQ(std::string(file->data(), file->data() + file->size()), content);

  const uint8_t *data = file->data();
  MappedFile moved = file.take();
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(moved.data()[9999], 'z');
}

TEST(MappedFileTest, IdsOfFiles) {
  TempDir dir;
  writeFile(dir / "file", "content");
  writeFile(dir / "same-content", "content");
  ASSERT_EQ(::symlink("file", (dir / "symbolic").c_str()), 0);
  ASSERT_EQ(::link((dir / "file").c_str(), (dir / "hard").c_str()), 0);
  Result<MappedFile> file = MappedFile::open(dir / "symbolic");
  ASSERT_TRUE(file.ok()) << file.message();
  MappedFile moved = file.take();
  for (const char *name : {"file", "symbolic", "hard"})
    EXPECT_TRUE(FileId::of(dir / name) == moved.id()) << name;
  EXPECT_FALSE(FileId::of(dir / "same-content") == moved.id());
  EXPECT_FALSE(FileId::of(dir / "missing").has_value());
  EXPECT_FALSE(FileId::of(std::string(dir / "file") + '\0').has_value());
}

TEST(MappedFileTest, EmptyFile) {
  TempDir dir;
  writeFile(dir / "empty", "");
  Result<MappedFile> file = MappedFile::open(dir / "empty");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->size(), 0u);
  EXPECT_EQ(file->data(), nullptr);
  file->release(file->data(), 0);
}

TEST(MappedFileTest, ErrorsNamePathAndReason) {
  TempDir dir;
  expectError(MappedFile::open(dir / "missing"),
              "cannot open '" + (dir / "missing") +
                  "': No such file or directory");
  expectError(MappedFile::open(""), "No such file or directory");
  expectError(MappedFile::open(std::string("a\0b", 3)), "zero bytes");
  expectError(MappedFile::open(dir.path),
              "expected a regular file but got a directory");
  expectError(MappedFile::open("/dev/null"),
              "expected a regular file but got a device");
  writeFile(dir / "file", "x");
  expectError(MappedFile::open(dir / "file/below"), "Not a directory");
  if (::geteuid() != 0) { // root may read everything
    ASSERT_EQ(::chmod((dir / "file").c_str(), 0), 0);
    expectError(MappedFile::open(dir / "file"), "Permission denied");
  }
}

TEST(MappedFileTest, DoesNotWaitForAPipe) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  expectError(MappedFile::open(dir / "pipe"),
              "expected a regular file but got a pipe");
}

TEST(MappedFileTest, ReleasedPagesAreReadAgain) {
  TempDir dir;
  std::string content(1 << 20, 'q');
  writeFile(dir / "file", content);
  Result<MappedFile> file = MappedFile::open(dir / "file");
  ASSERT_TRUE(file.ok());
  file->release(file->data() + 1, file->size() - 1);
  file->release(file->data(), file->size());
  EXPECT_EQ(std::string(file->data(), file->data() + file->size()), content);
  // Ranges that are not of the file are ignored.
  file->release(file->data(), file->size() + 1);
  file->release(file->data() - 1, 1);
}
