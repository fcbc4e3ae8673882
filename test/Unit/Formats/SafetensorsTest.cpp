//===- SafetensorsTest.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Safetensors.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <csignal>
#include <numeric>
#include <optional>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace quant_llm;
using namespace quant_llm::test;

static std::string build(const std::string &header, const std::string &data) {
  return le<uint64_t>(header.size()) + header + data;
}

/// Opens a file of these bytes.
static Result<SafetensorsFile> openBytes(const std::string &bytes) {
  return SafetensorsFile::open(MemoryFile(bytes).path());
}

static Result<SafetensorsFile> openHeader(const std::string &header,
                                          size_t dataBytes) {
  return openBytes(build(header, std::string(dataBytes, '\1')));
}

static const char *twoTensors =
    R"({"__metadata__":{"format":"pt"},)"
    R"("b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}} )";

TEST(SafetensorsFileTest, ReadsTensorsInFileOrder) {
  std::string data(16, '\0');
  std::iota(data.begin(), data.end(), 0);
  Result<SafetensorsFile> file = openBytes(build(twoTensors, data));
  ASSERT_TRUE(file.ok()) << file.message();
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorView &a = file->tensors()[0], &b = file->tensors()[1];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::F32);
  EXPECT_EQ(a.shape, std::vector<int64_t>{});
  EXPECT_EQ(a.bytes, 4u);
  EXPECT_EQ(a.data[3], 3);
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, DType::F16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.data[0], 4);
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(file->find("b"), &b);
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST(SafetensorsFileTest, ReadsUnusualButValidFiles) {
  EXPECT_TRUE(openHeader("{}", 0).ok());
  EXPECT_TRUE(openHeader("{}       ", 0).ok());
  EXPECT_TRUE(openHeader(R"({"__metadata__":{}})", 0).ok());
  // Empty tensors take no place, wherever they say they are.
  Result<SafetensorsFile> file =
      openHeader(R"({"z":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},)"
                 R"("e":{"dtype":"F32","shape":[4,0],"data_offsets":[2,2]},)"
                 R"("u":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                 R"("v":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                 6);
  ASSERT_TRUE(file.ok()) << file.message();
  std::vector<std::string> names;
  for (const TensorView &tensor : file->tensors())
    names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"u", "e", "z", "v"}));
  // "v" is not aligned to its type; that is allowed.
  EXPECT_EQ(file->find("v")->bytes, 4u);
  // Names are any Unicode text, keys come in any order.
  EXPECT_TRUE(openHeader("{\"\\u00e4\\n\xc3\xa4\":{\"data_offsets\":[0,3],"
                         "\"shape\":[6],\"dtype\":\"F4\"}}",
                         3)
                  .ok());
}

TEST(SafetensorsFileTest, TruncatedAnywhere) {
  std::string whole = build(twoTensors, std::string(16, '\1'));
  ASSERT_TRUE(openBytes(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size)
    expectError(openBytes(whole.substr(0, size)),
                "is not a valid safetensors file");
  expectError(openBytes(whole + "x"), "expected the data to end at offset 16");
}

TEST(SafetensorsFileTest, HeaderLength) {
  auto withLength = [](uint64_t length) {
    return openBytes(le<uint64_t>(length) + "{}" + std::string(100, ' '));
  };
  expectError(openBytes(""), "at least the 8 bytes");
  expectError(withLength(0), "begin with '{'");
  expectError(withLength(103), "truncated");
  expectError(withLength(100'000'000), "truncated");
  expectError(withLength(100'000'001), "header of at most 100000000 bytes");
  expectError(withLength(uint64_t(1) << 63),
              "header of at most 100000000 bytes but got 9223372036854775808");
  expectError(withLength(~uint64_t(0)), "but got 18446744073709551615");
  expectError(withLength(~uint64_t(0) - 7), "header of at most");
  expectError(openBytes(build(" {}", "")), "begin with '{'");
}

TEST(SafetensorsFileTest, HeaderIsStrictJson) {
  expectError(openHeader("{", 0), "expected valid JSON in UTF-8");
  expectError(openHeader("{}{}", 0), "expected valid JSON");
  expectError(openHeader("{} x", 0), "expected valid JSON");
  expectError(openHeader("{\"a\xff\":1}", 0), "expected valid JSON in UTF-8");
  // Messages stay printable whatever the file holds.
  std::string message = openHeader("{\"a\xff\x1b[31m\":1}", 0).message();
  for (char c : message)
    EXPECT_TRUE(c >= ' ' && c <= '~') << static_cast<int>(c);
  expectError(openHeader("{\"\xed\xa0\x80\":1}", 0), "expected valid JSON");
  expectError(openHeader(std::string("{}\0{}", 5), 0), "zero byte");
  expectError(openHeader("{}\xef\xbb\xbf", 0), "expected valid JSON");
  for (const std::string &opener :
       {std::string("{\"a\":"), std::string("["), std::string("{\"a\":[")}) {
    std::string deep = "{\"x\":";
    for (int i = 0; i < 100000; ++i)
      deep += opener;
    expectError(openHeader(deep, 0), "is not a valid safetensors file");
  }
}

TEST(SafetensorsFileTest, HeaderStructure) {
  auto tensor = [](const std::string &fields) {
    return openHeader("{\"t\":{" + fields + "}}", 4);
  };
  ASSERT_TRUE(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])").ok());
  expectError(tensor(R"("dtype":"F32","shape":[1])"),
              "tensor 't': expected the key \"data_offsets\"");
  expectError(tensor(R"("dtype":"F32","data_offsets":[0,4])"),
              "tensor 't': expected the key \"shape\"");
  expectError(tensor(R"("shape":[1],"data_offsets":[0,4])"),
              "tensor 't': expected the key \"dtype\"");
  expectError(tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"),
              "expected a dtype of the safetensors format but got 'F31'");
  expectError(tensor(R"("dtype":1,"shape":[1],"data_offsets":[0,4])"),
              "expected a string for \"dtype\" but got the number 1");
  expectError(tensor(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"),
              "expected an array for \"shape\" but got the string '1'");
  expectError(tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"),
              "in \"shape\" but got an array");
  expectError(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"),
              "in \"shape\" but got the negative number -1");
  expectError(tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"),
              "in \"shape\" but got the number 1.0");
  expectError(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4e0])"),
              "in \"data_offsets\" but got the number 4e0");
  expectError(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"),
              "expected two data_offsets but got 1");
  expectError(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"),
              "expected two data_offsets but got more");
  expectError(tensor(R"("dtype":"F32","shape":[null],"data_offsets":[0,4])"),
              "but got null");
  expectError(tensor(R"("dtype":"F32","shape":[true],"data_offsets":[0,4])"),
              "but got a boolean");
  expectError(
      tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":0)"),
      "expected the keys dtype, shape and data_offsets but got 'extra'");
  expectError(
      tensor(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"),
      "tensor 't': expected every key once but got 'dtype' twice");
  expectError(openHeader(R"({"t":[]})", 0), "for 't' but got an array");
  expectError(openHeader(R"({"t":0})", 0), "for 't' but got the number 0");
  expectError(openHeader(R"({"__metadata__":{"a":1}})", 0),
              "expected a string in __metadata__ for 'a' but got the number 1");
  expectError(openHeader(R"({"__metadata__":{"a":{}}})", 0),
              "but got an object");
  expectError(openHeader(R"({"__metadata__":[]})", 0), "but got an array");
}

TEST(SafetensorsFileTest, DuplicateKeys) {
  expectError(
      openHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                 R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                 2),
      "expected every key once but got 'a' twice");
  expectError(openHeader(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
              "got 'k' twice");
  expectError(openHeader(R"({"__metadata__":{},"__metadata__":{}})", 0),
              "got '__metadata__' twice");
}

TEST(SafetensorsFileTest, SizesThatDoNotAgree) {
  auto tensor = [](const std::string &dtype, const std::string &shape,
                   const std::string &offsets) {
    return openHeader("{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                          ",\"data_offsets\":" + offsets + "}}",
                      8);
  };
  ASSERT_TRUE(tensor("F32", "[2]", "[0,8]").ok());
  expectError(tensor("F32", "[3]", "[0,8]"), "expected 12 bytes of data");
  expectError(tensor("F16", "[2]", "[0,8]"), "expected 4 bytes of data");
  expectError(tensor("F32", "[2]", "[8,0]"), "in ascending order");
  expectError(tensor("F32", "[2]", "[0,9]"), "within the 8 bytes of data");
  expectError(tensor("F32", "[2]", "[8,16]"), "within the 8 bytes of data");
  expectError(tensor("U8", "[0]", "[8,18446744073709551615]"),
              "within the 8 bytes of data");
  expectError(
      tensor("U8", "[0]", "[18446744073709551615,18446744073709551615]"),
      "within the 8 bytes of data");
  expectError(tensor("F32", "[2]", "[0,18446744073709551616]"), "below 2^64");
  // Products that wrap to the right size.
  expectError(tensor("F32", "[4611686018427387904,4,2]", "[0,8]"),
              "expected a shape whose size");
  expectError(tensor("F32", "[4611686018427387906]", "[0,8]"),
              "expected a shape whose size");
  expectError(tensor("U8", "[9223372036854775808,2]", "[0,8]"),
              "expected dimensions below 2^63");
  expectError(tensor("U8", "[4294967296,4294967296,8]", "[0,8]"),
              "expected a shape whose size");
  expectError(tensor("F4", "[15]", "[0,8]"), "whole number of bytes");
}

TEST(SafetensorsFileTest, OverlapsAndGaps) {
  auto twoRanges = [](int b0, int e0, int b1, int e1) {
    auto entry = [](const char *name, int begin, int end) {
      return std::string("\"") + name + R"(":{"dtype":"U8","shape":[)" +
             std::to_string(end - begin) + R"(],"data_offsets":[)" +
             std::to_string(begin) + "," + std::to_string(end) + "]}";
    };
    return openHeader("{" + entry("a", b0, e0) + "," + entry("b", b1, e1) + "}",
                      8);
  };
  ASSERT_TRUE(twoRanges(0, 4, 4, 8).ok());
  ASSERT_TRUE(twoRanges(4, 8, 0, 4).ok());
  expectError(twoRanges(0, 5, 4, 8), "tensors must not overlap");
  expectError(twoRanges(0, 8, 0, 8), "tensors must not overlap");
  expectError(twoRanges(0, 8, 3, 3), "tensors must not overlap");
  expectError(twoRanges(0, 3, 4, 8), "gaps are not allowed");
  expectError(twoRanges(1, 4, 4, 8), "gaps are not allowed");
  expectError(twoRanges(0, 4, 4, 7), "expected the data to end at offset 7");
  expectError(openHeader("{}", 8), "expected the data to end at offset 0");
}

TEST(SafetensorsFileTest, DamagedBytes) {
  // Any one byte replaced: the file is refused or all it says holds.
  std::string whole = build(twoTensors, std::string(16, '\1'));
  for (size_t at = 0; at < whole.size() - 16; ++at)
    for (char byte :
         {'\0', '\1', '"', '0', '9', ',', '{', '}', '\x7f', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = byte;
      Result<SafetensorsFile> file = openBytes(damaged);
      if (!file.ok())
        continue;
      uint64_t sum = 0;
      for (const TensorView &tensor : file->tensors())
        for (uint64_t i = 0; i < tensor.bytes; ++i)
          sum += tensor.data[i];
      EXPECT_LE(sum, 16u);
    }
}

//===----------------------------------------------------------------------===//
// Writer
//===----------------------------------------------------------------------===//

static const std::vector<TensorDeclaration> someTensors = {
    {"w", DType::F32, {2, 2}},
    {"empty", DType::F16, {0, 7}},
    {"q\"\\\n\x01\xc3\xa4", DType::U8, {3}},
    {"s", DType::F8E8M0, {}}};

static void writeSome(const std::string &path) {
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(
      path, someTensors, {{"b", "2"}, {"a", "tab\t"}});
  ASSERT_TRUE(writer.ok()) << writer.message();
  ASSERT_TRUE(writer->append("w", "0123456", 7).ok());
  ASSERT_TRUE(writer->append("w", "789abcdef", 9).ok());
  ASSERT_TRUE(writer->append("empty", nullptr, 0).ok());
  for (const char *byte : {"x", "y", "z"})
    ASSERT_TRUE(writer->append(someTensors[2].name, byte, 1).ok());
  ASSERT_TRUE(writer->append("s", "!", 1).ok());
  Status status = writer->finish();
  ASSERT_TRUE(status.ok()) << status.message();
}

TEST(SafetensorsWriterTest, WhatIsWrittenIsRead) {
  TempDir dir;
  writeSome(dir / "out");
  Result<SafetensorsFile> file = SafetensorsFile::open(dir / "out");
  ASSERT_TRUE(file.ok()) << file.message();
  ASSERT_EQ(file->tensors().size(), 4u);
  for (const TensorDeclaration &declared : someTensors) {
    const TensorView *view = file->find(declared.name);
    ASSERT_NE(view, nullptr);
    EXPECT_EQ(view->dtype, declared.dtype);
    EXPECT_EQ(view->shape, declared.shape);
  }
  const TensorView *w = file->find("w");
  EXPECT_EQ(std::string(w->data, w->data + w->bytes), "0123456789abcdef");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w->data) % 64, 0u);
  EXPECT_EQ(*file->find("s")->data, '!');
  EXPECT_EQ(file->metadata(),
            (std::map<std::string, std::string>{{"a", "tab\t"}, {"b", "2"}}));
}

TEST(SafetensorsWriterTest, BytesAreDeterministic) {
  TempDir dir;
  writeSome(dir / "one");
  writeSome(dir / "two");
  std::string bytes = readFile(dir / "one");
  EXPECT_EQ(bytes, readFile(dir / "two"));
  EXPECT_EQ(bytes.substr(8, 41),
            "{\"__metadata__\":{\"a\":\"tab\\t\",\"b\":\"2\"},\"w\"");
  EXPECT_EQ((bytes.size() - 20) % 64, 0u);
}

TEST(SafetensorsWriterTest, NoTensors) {
  TempDir dir;
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(dir / "out", {});
  ASSERT_TRUE(writer.ok() && writer->finish().ok());
  Result<SafetensorsFile> file = SafetensorsFile::open(dir / "out");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_TRUE(file->tensors().empty());
}

TEST(SafetensorsWriterTest, WrongDeclarations) {
  TempDir dir;
  auto create = [&](std::vector<TensorDeclaration> tensors,
                    std::map<std::string, std::string> metadata = {}) {
    return SafetensorsWriter::create(dir / "out", std::move(tensors), metadata);
  };
  expectError(create({{"a", DType::U8, {1}}, {"a", DType::U8, {2}}}),
              "tensor 'a' is declared twice");
  expectError(create({{"__metadata__", DType::U8, {1}}}), "reserves");
  expectError(create({{"\xff", DType::U8, {1}}}),
              "tensor '\\xff': expected a name in UTF-8");
  expectError(create({{"a", DType::U8, {-1}}}), "but got U8[-1]");
  expectError(create({{"a", DType::F4, {1}}}), "whole number of bytes");
  int64_t big = int64_t(1) << 62;
  expectError(create({{"a", DType::U8, {big, 2}}}), "does not overflow");
  // Each fits, their sum does not. (Sizes are counted in bits.)
  std::vector<TensorDeclaration> many;
  for (int i = 0; i < 9; ++i)
    many.push_back({std::to_string(i), DType::U8, {(int64_t(1) << 61) - 1}});
  expectError(create(many), "tensor '8'");
  expectError(create({}, {{"k", "\xff"}}), "expected metadata in UTF-8");
  expectError(create({}, {{"k", std::string(100'000'000, 'x')}}),
              "header of at most");
  expectError(SafetensorsWriter::create(dir / "no/out", {}), "cannot write");
  EXPECT_TRUE(dir.list().empty());
}

TEST(SafetensorsWriterTest, WrongCalls) {
  TempDir dir;
  const std::vector<TensorDeclaration> tensors = {{"a", DType::U8, {2}},
                                                  {"b", DType::U8, {1}}};
  auto create = [&] { return SafetensorsWriter::create(dir / "out", tensors); };
  {
    auto writer = create();
    expectError(writer->append("b", "x", 1),
                "expected data of tensor 'a', the next in the declared order, "
                "but got those of 'b'");
    expectError(writer->append("a", "xy", 2), "in the declared order");
    expectError(writer->finish(), "in the declared order");
  }
  {
    auto writer = create();
    EXPECT_TRUE(writer->append("a", "x", 1).ok());
    expectError(writer->append("a", "yz", 2),
                "expected 2 bytes of tensor 'a' but got 1 and then 2 more");
  }
  {
    auto writer = create();
    EXPECT_TRUE(writer->append("a", "x", 1).ok());
    expectError(writer->finish(), "expected 2 bytes of tensor 'a' but got 1");
  }
  {
    auto writer = create();
    EXPECT_TRUE(writer->append("a", "xy", 2).ok());
    expectError(writer->finish(), "expected 1 bytes of tensor 'b' but got 0");
  }
  EXPECT_TRUE(dir.list().empty());
  auto writer = create();
  EXPECT_TRUE(writer->append("a", "xy", 2).ok());
  EXPECT_TRUE(writer->append("b", "z", 1).ok());
  EXPECT_TRUE(writer->finish().ok());
  expectError(writer->append("b", "z", 1), "after those of the last");
  expectError(writer->finish(), "after those of the last");
}

TEST(SafetensorsWriterTest, FullDiskLeavesTheOldFile) {
  TempDir dir;
  writeFile(dir / "out", "old");
  pid_t child = ::fork();
  if (child == 0) {
    struct rlimit limit = {1 << 20, 1 << 20};
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    auto writer = SafetensorsWriter::create(dir / "out",
                                            {{"a", DType::U8, {10, 1 << 20}}});
    std::string row(1 << 20, 'x');
    Status status;
    for (int i = 0; i < 10 && status.ok(); ++i)
      status = writer->append("a", row.data(), row.size());
    bool asExpected =
        status.message().find("File too large") != std::string::npos &&
        !writer->append("a", row.data(), 1).ok() && !writer->finish().ok();
    ::_exit(asExpected ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(dir.list(), std::set<std::string>{"out"});
  EXPECT_EQ(readFile(dir / "out"), "old");
}

TEST(SafetensorsWriterTest, KilledWriterLeavesTheOldFile) {
  TempDir dir;
  writeSome(dir / "out");
  std::string before = readFile(dir / "out");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  pid_t child = ::fork();
  if (child == 0) {
    auto writer =
        SafetensorsWriter::create(dir / "out", {{"a", DType::U8, {3 << 20}}});
    std::string part(1 << 20, 'x');
    for (int i = 0; i < 2; ++i)
      if (!writer->append("a", part.data(), part.size()).ok())
        ::_exit(1);
    (void)!::write(ready[1], "x", 1);
    for (;;)
      ::pause();
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, SIGKILL);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(readFile(dir / "out"), before);
}
