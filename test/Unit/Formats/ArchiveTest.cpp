//===- ArchiveTest.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Numerics/Float.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <cstring>

#include <sys/stat.h>
#include <unistd.h>

using namespace quant_llm;
using namespace quant_llm::test;

using Names = std::vector<std::string>;

/// A safetensors file of U8 tensors of one element, the first letter of the
/// name.
static void writeShard(const std::string &path, const Names &names) {
  std::vector<TensorDeclaration> tensors;
  for (const std::string &name : names)
    tensors.push_back({name, DType::U8, {1}});
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(path, tensors);
  ASSERT_TRUE(writer.ok()) << writer.message();
  for (const std::string &name : names)
    ASSERT_TRUE(writer->append(name, name.data(), 1).ok());
  ASSERT_TRUE(writer->finish().ok());
}

static Result<std::unique_ptr<Archive>>
openIndex(const TempDir &dir, const std::string &weightMap) {
  std::string path = dir / "model.safetensors.index.json";
  writeFile(path, R"({"metadata":{"total_size":3},"weight_map":)" + weightMap +
                      "}\n");
  return Archive::open(path);
}

TEST(ArchiveTest, SingleFile) {
  TempDir dir;
  writeShard(dir / "any-name", {"b", "a"});
  Result<std::unique_ptr<Archive>> archive = Archive::open(dir / "any-name");
  ASSERT_TRUE(archive.ok()) << archive.message();
  EXPECT_EQ((*archive)->format(), Archive::Format::Safetensors);
  EXPECT_EQ((*archive)->path(), dir / "any-name");
  EXPECT_EQ((*archive)->names(), (Names{"b", "a"}));
  EXPECT_TRUE((*archive)->contains("a"));
  EXPECT_FALSE((*archive)->contains("c"));
  EXPECT_EQ((*archive)->gguf(), nullptr);
  Result<TensorInfo> info = (*archive)->find("a");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(*info->data, 'a');
  EXPECT_EQ(info->blockType, std::nullopt);
  (*archive)->release(*info);
  EXPECT_EQ(*info->data, 'a');
  expectError((*archive)->find("c"),
              "'" + (dir / "any-name") + "' has no tensor 'c'");
}

TEST(ArchiveTest, FilesOfASingleFile) {
  TempDir dir;
  writeShard(dir / "m", {"a"});
  Result<std::unique_ptr<Archive>> archive = Archive::open(dir / "m");
  ASSERT_TRUE(archive.ok()) << archive.message();
  ASSERT_EQ((*archive)->files().size(), 1u);
  EXPECT_EQ((*archive)->files()[0].path, dir / "m");
  EXPECT_EQ((*archive)->findFile(dir / "m"), &(*archive)->files()[0]);
  // A file that took its name is another one.
  writeShard(dir / "m", {"a"});
  EXPECT_EQ((*archive)->findFile(dir / "m"), nullptr);
}

TEST(ArchiveTest, FilesOfShards) {
  TempDir dir;
  writeShard(dir / "1.safetensors", {"a"});
  writeShard(dir / "2.safetensors", {"b"});
  writeShard(dir / "3.safetensors", {"c"});
  ASSERT_EQ(::symlink("2.safetensors", (dir / "symbolic").c_str()), 0);
  ASSERT_EQ(::link((dir / "1.safetensors").c_str(), (dir / "hard").c_str()), 0);
  Result<std::unique_ptr<Archive>> archive =
      openIndex(dir, R"({"a": "1.safetensors", "b": "2.safetensors"})");
  ASSERT_TRUE(archive.ok()) << archive.message();
  const std::vector<Archive::File> &files = (*archive)->files();
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].path, dir / "model.safetensors.index.json");
  EXPECT_EQ((*archive)->findFile(files[0].path), &files[0]);
  EXPECT_EQ((*archive)->findFile(dir / "1.safetensors"), &files[1]);
  EXPECT_EQ((*archive)->findFile(dir / "hard"), &files[1]);
  EXPECT_EQ((*archive)->findFile(dir / "symbolic"), &files[2]);
  // Beside the shards, but not one of them; and nothing at all.
  EXPECT_EQ((*archive)->findFile(dir / "3.safetensors"), nullptr);
  EXPECT_EQ((*archive)->findFile(dir / "4.safetensors"), nullptr);
}

TEST(ArchiveTest, HeaderLengthThatLooksLikeABrace) {
  // 0x7b is '{': the length of this header must not make it an index.
  TempDir dir;
  std::string header = "{\"__metadata__\":{\"a\":\"";
  header += std::string(0x7b - header.size() - 3, 'x') + "\"}}";
  writeFile(dir / "m", le<uint64_t>(header.size()) + header);
  Result<std::unique_ptr<Archive>> archive = Archive::open(dir / "m");
  ASSERT_TRUE(archive.ok()) << archive.message();
  EXPECT_EQ((*archive)->metadata().size(), 1u);
}

TEST(ArchiveTest, OpenErrors) {
  TempDir dir;
  expectError(Archive::open(dir / "missing"), "No such file or directory");
  expectError(Archive::open(dir.path), "but got a directory");
  writeFile(dir / "empty", "");
  expectError(Archive::open(dir / "empty"), "is not a valid safetensors file");
  writeFile(dir / "text", "hello, this is no model\n");
  expectError(Archive::open(dir / "text"), "is not a valid safetensors file");
  writeFile(dir / "gguf", "GGUF");
  expectError(Archive::open(dir / "gguf"), "is not a valid GGUF file");
}

TEST(ArchiveTest, Shards) {
  TempDir dir;
  ASSERT_EQ(::mkdir((dir / "sub").c_str(), 0700), 0);
  writeShard(dir / "two.safetensors", {"c", "a", "unlisted"});
  writeShard(dir / "sub/one.safetensors", {"b"});
  Result<std::unique_ptr<Archive>> archive = openIndex(
      dir,
      R"({"a":"two.safetensors","b":"sub/one.safetensors","c":"two.safetensors"})");
  ASSERT_TRUE(archive.ok()) << archive.message();
  EXPECT_EQ((*archive)->format(), Archive::Format::ShardedSafetensors);
  EXPECT_EQ((*archive)->names(), (Names{"b", "c", "a"}));
  for (const std::string &name : (*archive)->names()) {
    Result<TensorInfo> info = (*archive)->find(name);
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(*info->data, name[0]);
    (*archive)->release(*info);
  }
  EXPECT_TRUE((*archive)->metadata().empty());
  EXPECT_FALSE((*archive)->contains("unlisted"));
  expectError((*archive)->find("unlisted"), "has no tensor 'unlisted'");
}

TEST(ArchiveTest, MalformedIndex) {
  TempDir dir;
  writeShard(dir / "s", {"a", "b"});
  writeShard(dir / "t", {"b", "c"});
  auto open = [&](const std::string &text) {
    writeFile(dir / "i.json", text);
    return Archive::open(dir / "i.json");
  };
  EXPECT_TRUE(open(R"({"weight_map":{}})").ok());
  EXPECT_TRUE(open(R"( {"weight_map":{"a":"s"}})").ok());
  expectError(open("{}"), "expected an object \"weight_map\"");
  expectError(open(R"({"weight_map":[]})"),
              "expected an object \"weight_map\"");
  expectError(open(R"({"weight_map":{"a":1}})"),
              "expected the name of a file for tensor 'a' but got number");
  expectError(open(R"({"weight_map":{"a":"s","a":"s"}})"), "twice");
  expectError(open("{\"weight_map\":{\"\xff\":\"s\"}}"), "valid JSON");
  expectError(open(R"({"weight_map":{"a":"s"})"), "valid JSON");
  expectError(open("{\"weight_map\":" + std::string(100000, '[')), "nested");
  expectError(open(R"({"weight_map":{"c":"s"}})"),
              "expected tensor 'c' in shard 's' but it is not there");
  expectError(open(R"({"weight_map":{"a":"s","b":"s","c":"t"}})"),
              "expected every tensor in one shard but 'b' is in");
  expectError(open(R"({"weight_map":{"a":"missing"}})"),
              "No such file or directory");
  expectError(open(R"({"weight_map":{"a":"."}})"), "shard '.'");
  writeFile(dir / "bad", "no model");
  expectError(open(R"({"weight_map":{"a":"bad"}})"), "shard 'bad': ");
  expectError(open(R"({"weight_map":{"a":"i.json"}})"), "shard 'i.json': ");
}

TEST(ArchiveTest, ShardsOutsideTheDirectory) {
  TempDir dir;
  TempDir other;
  writeShard(other / "s", {"a"});
  writeShard(dir / "inside", {"a"});
  ASSERT_EQ(::mkdir((dir / "sub").c_str(), 0700), 0);
  expectError(openIndex(dir, R"({"a":")" + (other / "s") + R"("})"),
              "expected a path relative to the index but got an absolute one");
  expectError(openIndex(dir, R"({"a":")" + (dir / "inside") + R"("})"),
              "absolute");
  std::string up = "../" + other.path.substr(other.path.rfind('/') + 1) + "/s";
  for (const std::string &path :
       {up, std::string("sub/../inside"), std::string(".."),
        std::string("sub/.."), "sub/../" + up})
    expectError(openIndex(dir, R"({"a":")" + path + R"("})"), "without \"..\"");
  expectError(openIndex(dir, R"({"a":""})"), "expected a file name");
  expectError(openIndex(dir, R"({"a":"s\u0000"})"), "expected a file name");
  // A name with two dots is no parent directory.
  writeShard(dir / "..model..safetensors", {"a"});
  EXPECT_TRUE(openIndex(dir, R"({"a":"..model..safetensors"})").ok());
}

TEST(ArchiveTest, LinksOutOfTheDirectory) {
  TempDir dir;
  TempDir other;
  writeShard(other / "s", {"a"});
  writeShard(dir / "inside", {"a"});
  ASSERT_EQ(::symlink((other / "s").c_str(), (dir / "link").c_str()), 0);
  ASSERT_EQ(::symlink(other.path.c_str(), (dir / "sub").c_str()), 0);
  ASSERT_EQ(::symlink("inside", (dir / "harmless").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (dir / "dangling").c_str()), 0);
  EXPECT_TRUE(openIndex(dir, R"({"a":"harmless"})").ok());
  expectError(openIndex(dir, R"({"a":"link"})"),
              "expected a file below the directory of the index but it is a "
              "link to '");
  expectError(openIndex(dir, R"({"a":"sub/s"})"), "but it is a link to '");
  expectError(openIndex(dir, R"({"a":"dangling"})"), "No such file");
  // A directory whose name begins alike is another one.
  std::string sibling = dir.path + "-more";
  ASSERT_EQ(::mkdir(sibling.c_str(), 0700), 0);
  writeShard(sibling + "/s", {"a"});
  ASSERT_EQ(::symlink((sibling + "/s").c_str(), (dir / "alike").c_str()), 0);
  expectError(openIndex(dir, R"({"a":"alike"})"), "but it is a link to '");
  std::filesystem::remove_all(sibling);
  // The directory itself may be reached through a link.
  ASSERT_EQ(::symlink(dir.path.c_str(), (other / "model").c_str()), 0);
  ASSERT_TRUE(openIndex(dir, R"({"a":"inside"})").ok());
  EXPECT_TRUE(Archive::open(other / "model/model.safetensors.index.json").ok());
}

TEST(ArchiveTest, CacheOfTheHub) {
  // snapshots/<revision>/<file> are links to blobs/<hash>.
  TempDir dir;
  for (const char *name : {"blobs", "snapshots", "snapshots/r"})
    ASSERT_EQ(::mkdir((dir / name).c_str(), 0700), 0);
  writeShard(dir / "blobs/1", {"a"});
  writeFile(dir / "blobs/2", R"({"weight_map":{"a":"m.safetensors"}})");
  ASSERT_EQ(
      ::symlink("../../blobs/1", (dir / "snapshots/r/m.safetensors").c_str()),
      0);
  ASSERT_EQ(::symlink("../../blobs/2", (dir / "snapshots/r/i.json").c_str()),
            0);
  Result<std::unique_ptr<Archive>> archive =
      Archive::open(dir / "snapshots/r/i.json");
  EXPECT_TRUE(archive.ok()) << archive.message();
}

//===----------------------------------------------------------------------===//
// Reading elements
//===----------------------------------------------------------------------===//

namespace {
/// One tensor [3, 2] of the values 1..6 in a type, after `before` bytes.
struct Stored {
  Stored(DType dtype, const std::string &bytes, size_t before = 0) {
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(
        dir / "m", {{"pad", DType::U8, {static_cast<int64_t>(before)}},
                    {"t", dtype, {3, 2}}});
    std::string padding(before, 'x');
    EXPECT_TRUE(writer->append("pad", padding.data(), before).ok());
    EXPECT_TRUE(writer->append("t", bytes.data(), bytes.size()).ok());
    EXPECT_TRUE(writer->finish().ok());
    archive = Archive::open(dir / "m").take();
    info = archive->find("t").take();
  }

  TempDir dir;
  std::unique_ptr<Archive> archive;
  TensorInfo info;
};
} // namespace

template <typename T>
static std::string oneToSix(T (*convert)(float)) {
  std::string bytes;
  for (int i = 1; i <= 6; ++i)
    bytes += le<T>(convert(static_cast<float>(i)));
  return bytes;
}

static float sameFloat(float value) { return value; }
static double asDouble(float value) { return value; }
static uint8_t asByte(float value) { return static_cast<uint8_t>(value); }

TEST(ReadRowsTest, FloatingPointTypes) {
  const std::pair<DType, std::string> cases[] = {
      {DType::F32, oneToSix(sameFloat)},
      {DType::F64, oneToSix(asDouble)},
      {DType::F16, oneToSix(floatToF16)},
      {DType::BF16, oneToSix(floatToBF16)}};
  for (const auto &[dtype, bytes] : cases)
    for (size_t before : {0, 1}) {
      Stored stored(dtype, bytes, before);
      EXPECT_EQ(stored.info.numRows(), 3);
      EXPECT_EQ(stored.info.numColumns(), 2);
      float values[4];
      ASSERT_TRUE(readRowsAsF32(stored.info, 1, 2, values).ok());
      EXPECT_EQ(std::vector<float>(values, values + 4),
                (std::vector<float>{3, 4, 5, 6}));
      uint16_t halves[2];
      ASSERT_TRUE(readRowsAsF16(stored.info, 2, 1, halves).ok());
      EXPECT_EQ(halves[0], floatToF16(5));
      EXPECT_EQ(halves[1], floatToF16(6));
      EXPECT_TRUE(readRowsAsF32(stored.info, 3, 0, values).ok());
    }
}

TEST(ReadRowsTest, WrongRowsAndTypes) {
  Stored stored(DType::F32, oneToSix(sameFloat));
  float values[8];
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  for (auto [first, count] : {std::pair<int64_t, int64_t>{0, 4},
                              {3, 1},
                              {4, 0},
                              {-1, 1},
                              {0, -1},
                              {1, most},
                              {most, most}})
    expectError(readRowsAsF32(stored.info, first, count, values),
                "expected rows within the 3 rows");
  Stored bytes(DType::U8, oneToSix(asByte));
  expectError(readRowsAsF32(bytes.info, 0, 1, values),
              "tensor 't': expected floating-point elements (F64, F32, F16 or "
              "BF16) but got U8");
}

TEST(LoadTensorTest, CopiesOnlyWhatIsNotAligned) {
  Stored aligned(DType::F32, oneToSix(sameFloat));
  Result<TensorBuffer> buffer = loadTensor(aligned.info);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data, aligned.info.data);
  EXPECT_EQ(buffer->storage, nullptr);
  EXPECT_EQ(buffer->bytes, 24u);

  Stored unaligned(DType::F32, oneToSix(sameFloat), 3);
  buffer = loadTensor(unaligned.info);
  ASSERT_TRUE(buffer.ok());
  EXPECT_NE(buffer->data, unaligned.info.data);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data) % 4, 0u);
  EXPECT_EQ(std::memcmp(buffer->data, unaligned.info.data, 24), 0);

  Stored shifted(DType::F32, oneToSix(sameFloat), 8);
  EXPECT_EQ(loadTensor(shifted.info)->storage, nullptr);
  buffer = loadTensor(shifted.info, 64);
  ASSERT_TRUE(buffer.ok() && buffer->storage);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data) % 64, 0u);
}

TEST(LoadTensorTest, EmptyAndScalar) {
  TempDir dir;
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(
      dir / "m", {{"s", DType::F32, {}}, {"e", DType::F32, {0, 5}}});
  float one = 1;
  ASSERT_TRUE(writer->append("s", &one, 4).ok() && writer->finish().ok());
  std::unique_ptr<Archive> archive = Archive::open(dir / "m").take();
  TensorInfo scalar = archive->find("s").take();
  EXPECT_EQ(scalar.numRows(), 1);
  EXPECT_EQ(scalar.numColumns(), 1);
  float value = 0;
  ASSERT_TRUE(readRowsAsF32(scalar, 0, 1, &value).ok());
  EXPECT_EQ(value, 1);
  TensorInfo empty = archive->find("e").take();
  EXPECT_EQ(empty.numRows(), 0);
  ASSERT_TRUE(readRowsAsF32(empty, 0, 0, &value).ok());
  Result<TensorBuffer> buffer = loadTensor(empty, 64);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->bytes, 0u);
}
