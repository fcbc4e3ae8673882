//===- GGUFTest.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/GGUF.h"
#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Numerics/Float.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace quant_llm;
using namespace quant_llm::test;

using Type = GGUFValue::Type;

static std::string text(const std::string &value) {
  return le<uint64_t>(value.size()) + value;
}

static std::string array(Type type, uint64_t count,
                         const std::string &elements) {
  return le<uint32_t>(static_cast<uint32_t>(type)) + le<uint64_t>(count) +
         elements;
}

namespace {

/// Composes a GGUF file; every field can be made wrong.
struct Builder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;
  std::string metadata, descriptions, data;
  uint64_t numEntries = 0, numTensors = 0;

  Builder &entry(const std::string &key, uint32_t type,
                 const std::string &payload) {
    metadata += text(key) + le<uint32_t>(type) + payload;
    ++numEntries;
    return *this;
  }
  Builder &entry(const std::string &key, Type type,
                 const std::string &payload) {
    return entry(key, static_cast<uint32_t>(type), payload);
  }

  /// `dims` in the order of ggml, contiguous first.
  Builder &describe(const std::string &name, const std::vector<uint64_t> &dims,
                    uint32_t type, uint64_t offset) {
    descriptions +=
        text(name) + le<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims)
      descriptions += le<uint64_t>(dim);
    descriptions += le<uint32_t>(type) + le<uint64_t>(offset);
    ++numTensors;
    return *this;
  }
  Builder &tensor(const std::string &name, const std::vector<uint64_t> &dims,
                  GGMLType type, const std::string &bytes) {
    data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
    describe(name, dims, static_cast<uint32_t>(type), data.size());
    data += bytes;
    return *this;
  }

  std::string build() const {
    std::string file = magic + le(version) + le(numTensors) + le(numEntries) +
                       metadata + descriptions;
    if (!data.empty())
      file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data;
  }
  Result<GGUFFile> open() const {
    return GGUFFile::open(MemoryFile(build()).path());
  }
};

} // namespace

static std::string floats(std::initializer_list<float> values) {
  std::string bytes;
  for (float value : values)
    bytes += le(value);
  return bytes;
}

/// A file with every type of value and two tensors.
static Builder sample() {
  Builder b;
  b.entry("u8", Type::U8, le<uint8_t>(200))
      .entry("i8", Type::I8, le<int8_t>(-100))
      .entry("u16", Type::U16, le<uint16_t>(60000))
      .entry("i16", Type::I16, le<int16_t>(-30000))
      .entry("u32", Type::U32, le<uint32_t>(4000000000u))
      .entry("i32", Type::I32, le<int32_t>(-2000000000))
      .entry("f32", Type::F32, le<float>(1e-5f))
      .entry("bool", Type::Bool, le<uint8_t>(1))
      .entry("string", Type::String, text("a\"\n\xc3\xa4"))
      .entry("u64", Type::U64, le<uint64_t>(~uint64_t(0)))
      .entry("i64", Type::I64, le<int64_t>(std::numeric_limits<int64_t>::min()))
      .entry("f64", Type::F64, le<double>(0.1))
      .entry("names", Type::Array, array(Type::String, 2, text("x") + text("")))
      .entry("nested", Type::Array,
             array(Type::Array, 2,
                   array(Type::U8, 2, "\x01\x02") + array(Type::Bool, 0, "")))
      .tensor("w", {2, 3}, GGMLType::F32, floats({1, 2, 3, 4, 5, 6}))
      .tensor("v", {4}, GGMLType::F16, std::string(8, '\0'));
  return b;
}

TEST(GGUFFileTest, ReadsMetadata) {
  for (uint32_t version : {2, 3}) {
    Builder b = sample();
    b.version = version;
    Result<GGUFFile> file = b.open();
    ASSERT_TRUE(file.ok()) << file.message();
    EXPECT_EQ(file->version(), version);
    EXPECT_EQ(file->alignment(), 32u);
    EXPECT_EQ(file->metadata().size(), 14u);
    EXPECT_EQ(*file->getInteger("u8"), 200);
    EXPECT_EQ(*file->getInteger("i8"), -100);
    EXPECT_EQ(*file->getInteger("u16"), 60000);
    EXPECT_EQ(*file->getInteger("i16"), -30000);
    EXPECT_EQ(*file->getInteger("u32"), 4000000000);
    EXPECT_EQ(*file->getInteger("i32"), -2000000000);
    EXPECT_EQ(*file->getInteger("i64"), std::numeric_limits<int64_t>::min());
    EXPECT_EQ(file->findMetadata("u64")->asUnsigned(), ~uint64_t(0));
    EXPECT_EQ(file->findMetadata("u64")->asInteger(), std::nullopt);
    EXPECT_EQ(file->findMetadata("i8")->asUnsigned(), std::nullopt);
    EXPECT_EQ(*file->getFloat("f32"), 1e-5f);
    EXPECT_EQ(*file->getFloat("f64"), 0.1);
    EXPECT_EQ(file->findMetadata("bool")->asBool(), true);
    EXPECT_EQ(*file->getString("string"), "a\"\n\xc3\xa4");
    auto names = file->findMetadata("names")->asArray();
    ASSERT_TRUE(names && names->size() == 2);
    EXPECT_EQ((*names)[0].asString(), "x");
    EXPECT_EQ((*names)[1].asString(), "");
    expectError(file->getInteger("missing"),
                "expected metadata key 'missing' of integer type but it is "
                "missing");
    expectError(file->getInteger("f32"), "but its type is f32");
    expectError(file->getInteger("u64"), "but its type is u64");
    expectError(file->getFloat("u8"), "of floating-point type");
    expectError(file->getString("names"), "but its type is array");
    EXPECT_EQ(file->findMetadata("u8")->asString(), std::nullopt);
    EXPECT_EQ(file->findMetadata("u8")->asArray(), std::nullopt);
    EXPECT_EQ(file->findMetadata("u8")->asBool(), std::nullopt);
  }
}

TEST(GGUFFileTest, MetadataAsJson) {
  Result<GGUFFile> file = sample().open();
  ASSERT_TRUE(file.ok());
  Result<std::string> json = file->metadataJson();
  ASSERT_TRUE(json.ok()) << json.message();
  EXPECT_EQ(*json,
            "{\"u8\":200,\"i8\":-100,\"u16\":60000,\"i16\":-30000,"
            "\"u32\":4000000000,\"i32\":-2000000000,"
            "\"f32\":9.999999747378752e-06,\"bool\":true,"
            "\"string\":\"a\\\"\\n\xc3\xa4\",\"u64\":18446744073709551615,"
            "\"i64\":-9223372036854775808,\"f64\":0.1,\"names\":[\"x\",\"\"],"
            "\"nested\":[[1,2],[]]}");
  Builder floatsOnly;
  floatsOnly.entry("f", Type::Array,
                   array(Type::F32, 4,
                         floats({1, std::numeric_limits<float>::infinity(),
                                 std::nanf(""), -0.0f})));
  EXPECT_EQ(*floatsOnly.open()->metadataJson(), "{\"f\":[1.0,null,null,-0.0]}");
  Builder bad;
  bad.entry("key", Type::Array, array(Type::String, 1, text("\xff")));
  ASSERT_TRUE(bad.open().ok());
  expectError(bad.open()->metadataJson(),
              "expected text in UTF-8 for metadata key 'key'");
}

TEST(GGUFFileTest, ShapesAreRowMajor) {
  Result<GGUFFile> file = sample().open();
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(file->tensors().size(), 2u);
  const GGUFTensor *w = file->find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(w->type, GGMLType::F32);
  EXPECT_EQ(w->bytes, 24u);
  float value;
  std::memcpy(&value, w->data + 8, 4);
  EXPECT_EQ(value, 3); // row 1, column 0
  EXPECT_EQ(file->find("x"), nullptr);
  file->release(*w);
}

TEST(GGUFFileTest, TruncatedAnywhere) {
  std::string whole = sample().build();
  for (size_t size = 0; size < whole.size(); ++size)
    expectError(GGUFFile::open(MemoryFile(whole.substr(0, size)).path()),
                "is not a valid GGUF file");
}

TEST(GGUFFileTest, DamagedBytes) {
  // Any one byte replaced: the file is refused or can be read to the end.
  std::string whole = sample().build();
  for (size_t at = 0; at < whole.size(); ++at)
    for (char byte : {'\0', '\1', '\x09', '\x20', '\x7f', '\x80', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = byte;
      MemoryFile memory(damaged);
      Result<GGUFFile> file = GGUFFile::open(memory.path());
      if (!file.ok())
        continue;
      (void)file->metadataJson();
      Result<std::unique_ptr<Archive>> archive = Archive::open(memory.path());
      ASSERT_TRUE(archive.ok());
      for (const std::string &name : (*archive)->names())
        if (Result<TensorInfo> info = (*archive)->find(name); info.ok())
          (void)loadTensor(*info);
    }
}

TEST(GGUFFileTest, WrongBegin) {
  Builder b = sample();
  b.magic = "GGML";
  expectError(b.open(), "expected the file to begin with \"GGUF\"");
  for (uint32_t version : {0u, 1u, 4u, 0x7fffffffu}) {
    b = sample();
    b.version = version;
    expectError(b.open(),
                "expected version 2 or 3 but got " + std::to_string(version));
  }
  b.version = 0x03000000;
  expectError(b.open(), "big-endian GGUF files are not supported");
}

TEST(GGUFFileTest, WrongCounts) {
  for (uint64_t count : {uint64_t(15), uint64_t(1000), uint64_t(1) << 32,
                         uint64_t(1) << 63, ~uint64_t(0)}) {
    Builder b = sample();
    b.numEntries = count;
    EXPECT_FALSE(b.open().ok());
    b = sample();
    b.numTensors = count;
    EXPECT_FALSE(b.open().ok());
  }
  // Tables of arrays and strings that claim more than there is.
  for (uint64_t count :
       {uint64_t(9), uint64_t(1) << 61, uint64_t(1) << 63, ~uint64_t(0)})
    for (Type type : {Type::U8, Type::U64, Type::String, Type::Array}) {
      Builder b;
      b.entry("a", Type::Array, array(type, count, ""));
      expectError(b.open(), "metadata key 'a': ");
    }
  Builder b;
  b.entry("a", Type::String, le<uint64_t>(~uint64_t(0)) + "x");
  expectError(b.open(), "a string ends beyond the end of the file");
  b = Builder();
  b.metadata = le<uint64_t>(uint64_t(1) << 63) + std::string(40, 'x');
  b.numEntries = 1;
  expectError(b.open(), "metadata entry 0 ends beyond the end of the file");
}

TEST(GGUFFileTest, WrongTypesOfValues) {
  Builder b;
  b.entry("a", 13u, std::string(20, '\0'));
  expectError(b.open(), "expected a value type below 13 but got 13");
  b = Builder();
  b.entry("a", Type::Array, array(static_cast<Type>(13), 0, ""));
  expectError(b.open(), "expected an element type below 13 but got 13");
  auto nested = [](int depth) {
    std::string value;
    for (int i = 1; i < depth; ++i)
      value += array(Type::Array, 1, "");
    Builder b;
    b.entry("a", Type::Array, value + array(Type::U8, 1, "x"));
    return b.open();
  };
  EXPECT_TRUE(nested(8).ok());
  expectError(nested(9), "nested at most 8 levels");
  expectError(nested(100000), "nested at most 8 levels");
}

TEST(GGUFFileTest, DuplicatesAndNames) {
  Builder b;
  b.entry("a", Type::U8, "x").entry("a", Type::U8, "x");
  expectError(b.open(), "expected every metadata key once but got 'a' twice");
  b = Builder();
  b.entry("\xff", Type::U8, "x");
  expectError(b.open(), "expected metadata keys in UTF-8");
  b = Builder();
  b.tensor("t", {1}, GGMLType::F32, floats({1}))
      .tensor("t", {1}, GGMLType::F32, floats({1}));
  expectError(b.open(), "expected every tensor once but got 't' twice");
  b = Builder();
  b.tensor("\xc0\x80", {1}, GGMLType::F32, floats({1}));
  expectError(b.open(), "expected a name in UTF-8");
}

TEST(GGUFFileTest, Alignment) {
  for (uint64_t alignment : {1, 8, 64, 4096}) {
    Builder b;
    b.alignment = alignment;
    b.entry("general.alignment", Type::U32,
            le<uint32_t>(static_cast<uint32_t>(alignment)))
        .tensor("a", {1}, GGMLType::F32, floats({1}))
        .tensor("b", {1}, GGMLType::F32, floats({2}));
    Result<GGUFFile> file = b.open();
    ASSERT_TRUE(file.ok()) << file.message();
    EXPECT_EQ(file->alignment(), alignment);
    float value;
    std::memcpy(&value, file->find("b")->data, 4);
    EXPECT_EQ(value, 2);
  }
  for (uint32_t alignment : {0u, 3u, 48u, 0xffffffffu}) {
    Builder b;
    b.entry("general.alignment", Type::U32, le(alignment));
    expectError(b.open(),
                "a power of two but got " + std::to_string(alignment));
  }
  Builder b;
  b.entry("general.alignment", Type::String, text("32"));
  expectError(b.open(), "but got a value of type string");
  b = Builder();
  b.entry("general.alignment", Type::U32, le<uint32_t>(1u << 31))
      .describe("a", {1}, 0, 0);
  expectError(b.open(), "tensor 'a': expected its 4 bytes at offset 0 to lie "
                        "within the 0 bytes of data");
}

TEST(GGUFFileTest, WrongTensors) {
  auto one = [](const std::vector<uint64_t> &dims, uint32_t type,
                uint64_t offset) {
    Builder b;
    b.describe("t", dims, type, offset);
    b.data = std::string(64, '\0');
    return b.open();
  };
  ASSERT_TRUE(one({4, 4}, 0, 0).ok());
  ASSERT_TRUE(one({}, 0, 32).ok());
  ASSERT_TRUE(one({0}, 0, 64).ok());
  expectError(one({1, 1, 1, 1, 1}, 0, 0), "at most 4 dimensions but got 5");
  expectError(one({4, 5}, 0, 0), "expected its 80 bytes at offset 0");
  expectError(one({4, 4}, 0, 32), "expected its 64 bytes at offset 32");
  expectError(one({1}, 0, 96), "within the 64 bytes of data");
  expectError(one({0}, 0, 96), "within the 64 bytes of data");
  expectError(one({1}, 0, 4), "expected an offset that is a multiple of 32");
  expectError(one({1}, 0, ~uint64_t(0) - 31), "within the 64 bytes of data");
  expectError(one({uint64_t(1) << 63}, 0, 0), "expected dimensions below 2^63");
  expectError(one({uint64_t(1) << 62, 4}, 0, 0), "overflows");
  expectError(one({uint64_t(1) << 62}, 0, 0), "overflows");
  expectError(one({uint64_t(1) << 32, uint64_t(1) << 32}, 0, 0), "overflows");
  expectError(one({33}, 3, 0),
              "expected rows of whole blocks of 32 elements (Q4_1) but got "
              "shape [33]");
  expectError(one({32}, 42, 0),
              "tensor 't': expected a type in use by ggml but got unknown type "
              "42");
  expectError(one({32}, 4, 0), "but got Q4_2");
  expectError(one({32}, ~0u, 0), "unknown type 4294967295");
  // A rank that would read far beyond the file.
  Builder b;
  b.descriptions = text("t") + le<uint32_t>(4) + std::string(12, '\0');
  b.numTensors = 1;
  expectError(b.open(), "ends beyond the end of the file");
}

TEST(GGUFFileTest, Overlap) {
  Builder b;
  b.describe("a", {16}, 0, 0).describe("b", {8}, 0, 32);
  b.data = std::string(96, '\0');
  expectError(b.open(), "tensors 'a' and 'b' overlap");
  b = Builder();
  b.describe("a", {8}, 0, 0).describe("b", {8}, 0, 0);
  b.data = std::string(96, '\0');
  expectError(b.open(), "overlap");
  b = Builder(); // in another order, with a gap, and an empty one inside
  b.describe("a", {8}, 0, 64)
      .describe("b", {8}, 0, 0)
      .describe("c", {0}, 0, 64);
  b.data = std::string(96, '\0');
  EXPECT_TRUE(b.open().ok());
}

TEST(GGUFFileTest, UnsupportedTypesAreNamedWhenRead) {
  TempDir dir;
  Builder b;
  b.tensor("good", {32}, GGMLType::Q8_0, std::string(34, '\0'))
      .tensor("output.weight", {256}, static_cast<GGMLType>(14),
              std::string(210, '\0'))
      .tensor("ids", {1}, GGMLType::I32, std::string(4, '\0'));
  writeFile(dir / "m", b.build());
  Result<std::unique_ptr<Archive>> archive = Archive::open(dir / "m");
  ASSERT_TRUE(archive.ok()) << archive.message();
  EXPECT_EQ((*archive)->format(), Archive::Format::GGUF);
  EXPECT_EQ((*archive)->names(),
            (std::vector<std::string>{"good", "output.weight", "ids"}));
  EXPECT_NE((*archive)->gguf(), nullptr);
  EXPECT_TRUE((*archive)->find("good").ok());
  expectError((*archive)->find("output.weight"),
              "tensor 'output.weight' has ggml type Q6_K, which is not "
              "supported; expected F32, F16, BF16, Q8_0, Q4_0 or Q4_1");
  expectError((*archive)->find("ids"), "tensor 'ids' has ggml type I32");
  expectError((*archive)->find("none"), "has no tensor 'none'");
}

//===----------------------------------------------------------------------===//
// Dequantization
//===----------------------------------------------------------------------===//

TEST(DequantizeTest, BlocksByTheFormula) {
  std::mt19937 generator(7);
  for (int round = 0; round < 200; ++round) {
    uint8_t block[34];
    for (uint8_t &byte : block)
      byte = static_cast<uint8_t>(generator());
    // Finite scales; all else is random.
    block[1] &= 0xbf;
    block[3] &= 0xbf;
    double d = f16ToFloat(static_cast<uint16_t>(block[0] | block[1] << 8));
    double m = f16ToFloat(static_cast<uint16_t>(block[2] | block[3] << 8));
    float out[32];
    dequantize(GGMLType::Q8_0, block, 32, out);
    for (int i = 0; i < 32; ++i)
      EXPECT_EQ(out[i], d * static_cast<int8_t>(block[2 + i]));
    dequantize(GGMLType::Q4_0, block, 32, out);
    for (int i = 0; i < 32; ++i) {
      int q = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
      EXPECT_EQ(out[i], d * (q - 8));
    }
    dequantize(GGMLType::Q4_1, block, 32, out);
    uint16_t halves[32];
    dequantizeToF16(GGMLType::Q4_1, block, 32, halves);
    for (int i = 0; i < 32; ++i) {
      int q = i < 16 ? block[4 + i] & 15 : block[4 + i - 16] >> 4;
      EXPECT_EQ(out[i], static_cast<float>(d * q + m));
      EXPECT_EQ(halves[i], floatToF16(out[i]));
    }
  }
}

TEST(DequantizeTest, RowsOfABlockTensor) {
  TempDir dir;
  std::string blocks; // [3, 64]: row r, block b has scale 1 and codes r*2+b
  for (int i = 0; i < 6; ++i)
    blocks +=
        le<uint16_t>(floatToF16(1)) + std::string(32, static_cast<char>(i));
  Builder b;
  b.tensor("w", {64, 3}, GGMLType::Q8_0, blocks);
  writeFile(dir / "m", b.build());
  std::unique_ptr<Archive> archive = Archive::open(dir / "m").take();
  TensorInfo info = archive->find("w").take();
  EXPECT_EQ(info.dtype, DType::F16);
  EXPECT_EQ(info.blockType, GGMLType::Q8_0);
  EXPECT_EQ(info.bytes, 6u * 34);
  EXPECT_EQ(info.shape, (std::vector<int64_t>{3, 64}));
  std::vector<float> rows(128);
  ASSERT_TRUE(readRowsAsF32(info, 1, 2, rows.data()).ok());
  for (int i = 0; i < 128; ++i)
    EXPECT_EQ(rows[i], 2 + i / 32);
  Result<TensorBuffer> all = loadTensor(info);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->bytes, 3u * 64 * 2);
  const auto *halves = reinterpret_cast<const uint16_t *>(all->data);
  for (int i = 0; i < 192; ++i)
    EXPECT_EQ(halves[i], floatToF16(static_cast<float>(i / 32)));
  archive->release(info);
}

TEST(DequantizeTest, TypeTable) {
  EXPECT_EQ(getGGMLTypeName(GGMLType::Q4_1), "Q4_1");
  EXPECT_EQ(getGGMLTypeName(static_cast<GGMLType>(14)), "Q6_K");
  EXPECT_EQ(getGGMLTypeName(static_cast<GGMLType>(99)), "unknown type 99");
  EXPECT_EQ(getGGMLBlock(GGMLType::Q4_0)->bytes, 18u);
  EXPECT_EQ(getGGMLBlock(static_cast<GGMLType>(4)), std::nullopt);
  EXPECT_TRUE(canDequantize(GGMLType::BF16));
  EXPECT_FALSE(canDequantize(GGMLType::F64));
}
