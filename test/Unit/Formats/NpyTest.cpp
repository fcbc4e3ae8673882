//===- NpyTest.cpp --------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Npy.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

using namespace quant_llm;
using namespace quant_llm::test;

static std::string build(const std::string &header, const std::string &data,
                         int version = 1) {
  std::string length = version == 1
                           ? le<uint16_t>(static_cast<uint16_t>(header.size()))
                           : le<uint32_t>(static_cast<uint32_t>(header.size()));
  return "\x93NUMPY" + std::string(1, static_cast<char>(version)) +
         std::string(1, '\0') + length + header + data;
}

static Result<NpyFile> openBytes(const std::string &bytes) {
  return NpyFile::open(MemoryFile(bytes).path());
}

static Result<NpyFile> openHeader(const std::string &header, size_t bytes) {
  return openBytes(build(header, std::string(bytes, '\1')));
}

static const char *header2x3 =
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n";

TEST(NpyTest, ReadsEveryVersion) {
  for (int version : {1, 2, 3}) {
    Result<NpyFile> file =
        openBytes(build(header2x3, std::string(24, '\5'), version));
    ASSERT_TRUE(file.ok()) << file.message();
    EXPECT_EQ(file->dtype(), DType::F32);
    EXPECT_EQ(file->shape(), (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(file->bytes(), 24u);
    EXPECT_EQ(file->data()[23], 5);
  }
}

TEST(NpyTest, RoundTrip) {
  TempDir dir;
  std::string data(8 * 24, '\0');
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<char>(i * 7);
  for (DType dtype :
       {DType::Bool, DType::I8, DType::U8, DType::I16, DType::U16, DType::F16,
        DType::I32, DType::U32, DType::F32, DType::I64, DType::U64, DType::F64})
    for (const std::vector<int64_t> &shape : std::vector<std::vector<int64_t>>{
             {}, {5}, {2, 3, 4}, {0, 7}, std::vector<int64_t>(64, 1)}) {
      Status status = writeNpy(dir / "a.npy", dtype, shape, data.data());
      ASSERT_TRUE(status.ok()) << status.message();
      Result<NpyFile> file = NpyFile::open(dir / "a.npy");
      ASSERT_TRUE(file.ok()) << file.message();
      EXPECT_EQ(file->dtype(), dtype);
      EXPECT_EQ(file->shape(), shape);
      EXPECT_EQ(file->bytes(), *getByteSize(dtype, shape));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(file->data()) % 64, 0u);
      EXPECT_EQ(std::string(file->data(), file->data() + file->bytes()),
                data.substr(0, file->bytes()));
    }
}

TEST(NpyTest, WriteErrors) {
  TempDir dir;
  float data[1] = {};
  expectError(writeNpy(dir / "a", DType::BF16, {1}, data),
              "NumPy has no type for BF16; write a .safetensors file instead");
  expectError(writeNpy(dir / "a", DType::F32, {-1}, data), "but got [-1]");
  expectError(writeNpy(dir / "a", DType::F32, {int64_t(1) << 62, 4}, data),
              "does not overflow");
  expectError(
      writeNpy(dir / "a", DType::F32, std::vector<int64_t>(65, 1), data),
      "at most 64 non-negative dimensions");
  expectError(writeNpy(dir / "no/a", DType::F32, {1}, data), "cannot write");
  EXPECT_TRUE(dir.list().empty());
}

TEST(NpyTest, TruncatedAnywhere) {
  for (int version : {1, 2}) {
    std::string whole = build(header2x3, std::string(24, '\5'), version);
    for (size_t size = 0; size < whole.size(); ++size)
      expectError(openBytes(whole.substr(0, size)), "is not a valid .npy file");
    expectError(openBytes(whole + "x"), "expected 24 bytes of data for "
                                        "F32[2, 3] but the file has 25");
  }
}

TEST(NpyTest, WrongBegin) {
  expectError(openBytes("PK\x03\x04..............."), "several arrays (.npz)");
  expectError(openBytes(std::string(100, 'x')), "\\x93NUMPY");
  expectError(openBytes(build(header2x3, std::string(24, 'x'), 4)),
              "expected version 1, 2 or 3 but got 4");
  expectError(openBytes(std::string("\x93NUMPY\x02\0\xff\xff\xff\xff{", 13)),
              "header of at most 1048576 bytes but got 4294967295");
}

TEST(NpyTest, HeaderSyntax) {
  auto open = [](const std::string &header) { return openHeader(header, 4); };
  // Any order and spacing, double quotes, long integers of Python 2.
  EXPECT_TRUE(
      open("{\"shape\":(1L,),\"fortran_order\":True,\"descr\":\"<f4\"}").ok());
  const char *rest = "'fortran_order': False, 'shape': (1,)}";
  expectError(open(""), "expected '{' at byte 0");
  expectError(open("{"), "expected a key in quotes");
  expectError(open("{'descr': '<f4'"), "expected ',' or '}'");
  expectError(open("{'descr' '<f4'}"), "expected ':'");
  expectError(open("{'descr': '<f4}"), "expected a simple type in quotes");
  expectError(open(std::string("{'descr': [('a', '<f4')], ") + rest),
              "structured arrays are not supported");
  expectError(open("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"),
              "expected True or False");
  expectError(open("{'descr': '<f4', 'fortran_order': False}"),
              "expected the key 'shape' but it is missing");
  expectError(open("{'descr': '<f4', 'descr': '<f4'}"),
              "expected every key once but got 'descr' twice");
  expectError(open("{'extra': 1}"), "but got 'extra'");
  expectError(open(std::string("{'descr': '<f4', ") + rest + "x"),
              "nothing after the '}'");
  expectError(
      open(std::string("{'descr': '<f4', ") + rest + std::string(1, '\0')),
      "nothing after the '}'");
  auto shape = [&](const std::string &text) {
    return open("{'descr': '<f4', 'fortran_order': False, 'shape': " + text +
                "}");
  };
  EXPECT_TRUE(shape("()").ok());
  EXPECT_TRUE(shape("(1)").ok());
  expectError(shape("[1]"), "expected '('");
  expectError(shape("(-1,)"), "non-negative dimension");
  expectError(shape("(1 1)"), "expected ',' or ')'");
  expectError(shape("(1.5,)"), "expected ',' or ')'");
  expectError(shape("(,)"), "non-negative dimension");
  expectError(shape("(9223372036854775808,)"), "dimensions below 2^63");
  expectError(shape("(99999999999999999999999,)"), "dimensions below 2^63");
  expectError(shape("(4611686018427387904, 4)"), "overflows");
  expectError(shape("(4611686018427387905,)"), "overflows");
  expectError(shape("(2,)"), "expected 8 bytes of data");
  std::string many = "(";
  for (int i = 0; i < 65; ++i)
    many += "1,";
  expectError(shape(many + ")"), "at most 64 dimensions");
}

TEST(NpyTest, TypesAndOrder) {
  auto open = [](const std::string &descr, const std::string &order,
                 const std::string &shape, size_t bytes) {
    return openHeader("{'descr': '" + descr + "', 'fortran_order': " + order +
                          ", 'shape': " + shape + "}",
                      bytes);
  };
  EXPECT_EQ(open("|i1", "False", "(2,)", 2)->dtype(), DType::I8);
  EXPECT_EQ(open("<i1", "False", "(2,)", 2)->dtype(), DType::I8);
  EXPECT_EQ(open("|b1", "False", "(2,)", 2)->dtype(), DType::Bool);
  expectError(open(">f4", "False", "(1,)", 4), "big-endian arrays");
  for (const char *descr :
       {"|O", "<U4", "<c8", "|V2", "<f16", "<M8[ns]", "", "<", "f5"})
    expectError(open(descr, "False", "(1,)", 4),
                "expected a boolean, integer or floating-point type");
  expectError(open("<f4", "True", "(2, 2)", 16), "Fortran order");
  Result<NpyFile> row = open("<f4", "True", "(1, 3, 1)", 12);
  ASSERT_TRUE(row.ok()) << row.message();
  EXPECT_EQ(row->shape(), (std::vector<int64_t>{1, 3, 1}));
}
