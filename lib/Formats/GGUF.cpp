//===- GGUF.cpp -----------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/GGUF.h"

#include "Text.h"
#include "quant-llm/Formats/DType.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/CheckedMath.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Types of tensor data
//===----------------------------------------------------------------------===//

namespace {
struct GGMLTypeRow {
  uint32_t value;
  const char *name;
  GGMLBlock block; // 0 elements: no longer used, size not defined
};
} // namespace

/// Every type that ggml defines or has defined.
static const GGMLTypeRow typeRows[] = {
    {0, "F32", {1, 4}},         {1, "F16", {1, 2}},
    {2, "Q4_0", {32, 18}},      {3, "Q4_1", {32, 20}},
    {4, "Q4_2", {0, 0}},        {5, "Q4_3", {0, 0}},
    {6, "Q5_0", {32, 22}},      {7, "Q5_1", {32, 24}},
    {8, "Q8_0", {32, 34}},      {9, "Q8_1", {32, 36}},
    {10, "Q2_K", {256, 84}},    {11, "Q3_K", {256, 110}},
    {12, "Q4_K", {256, 144}},   {13, "Q5_K", {256, 176}},
    {14, "Q6_K", {256, 210}},   {15, "Q8_K", {256, 292}},
    {16, "IQ2_XXS", {256, 66}}, {17, "IQ2_XS", {256, 74}},
    {18, "IQ3_XXS", {256, 98}}, {19, "IQ1_S", {256, 50}},
    {20, "IQ4_NL", {32, 18}},   {21, "IQ3_S", {256, 110}},
    {22, "IQ2_S", {256, 82}},   {23, "IQ4_XS", {256, 136}},
    {24, "I8", {1, 1}},         {25, "I16", {1, 2}},
    {26, "I32", {1, 4}},        {27, "I64", {1, 8}},
    {28, "F64", {1, 8}},        {29, "IQ1_M", {256, 56}},
    {30, "BF16", {1, 2}},       {31, "Q4_0_4_4", {0, 0}},
    {32, "Q4_0_4_8", {0, 0}},   {33, "Q4_0_8_8", {0, 0}},
    {34, "TQ1_0", {256, 54}},   {35, "TQ2_0", {256, 66}},
    {36, "IQ4_NL_4_4", {0, 0}}, {37, "IQ4_NL_4_8", {0, 0}},
    {38, "IQ4_NL_8_8", {0, 0}}, {39, "MXFP4", {32, 17}},
    {40, "NVFP4", {64, 36}},    {41, "Q1_0", {128, 18}},
};

static const GGMLTypeRow *findRow(GGMLType type) {
  for (const GGMLTypeRow &row : typeRows)
    if (row.value == static_cast<uint32_t>(type))
      return &row;
  return nullptr;
}

std::string quant_llm::getGGMLTypeName(GGMLType type) {
  if (const GGMLTypeRow *row = findRow(type))
    return row->name;
  return "unknown type " + std::to_string(static_cast<uint32_t>(type));
}

std::optional<GGMLBlock> quant_llm::getGGMLBlock(GGMLType type) {
  const GGMLTypeRow *row = findRow(type);
  if (!row || row->block.elements == 0)
    return std::nullopt;
  return row->block;
}

//===----------------------------------------------------------------------===//
// Dequantization
//===----------------------------------------------------------------------===//

bool quant_llm::canDequantize(GGMLType type) {
  switch (type) {
  case GGMLType::F32:
  case GGMLType::F16:
  case GGMLType::BF16:
  case GGMLType::Q8_0:
  case GGMLType::Q4_0:
  case GGMLType::Q4_1:
    return true;
  default:
    return false;
  }
}

static float loadF16(const uint8_t *data) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof(bits));
  return f16ToFloat(bits);
}

/// Decodes one block of quantized values. The products are exact in float (11
/// bits of d times at most 8 bits of q), so that a fused multiply-add could not
/// change the result.
static void decodeBlock(GGMLType type, const uint8_t *block, float *out) {
  float d = loadF16(block);
  switch (type) {
  case GGMLType::Q8_0:
    for (int i = 0; i < 32; ++i)
      out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    return;
  case GGMLType::Q4_0:
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
      out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
    }
    return;
  case GGMLType::Q4_1: {
    float m = loadF16(block + 2);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
      out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
    }
    return;
  }
  default:
    assert(false && "canDequantize() must hold");
  }
}

void quant_llm::dequantize(GGMLType type, const uint8_t *data, int64_t count,
                           float *out) {
  std::optional<GGMLBlock> block = getGGMLBlock(type);
  assert(block && canDequantize(type) && count % block->elements == 0);
  if (count == 0)
    return;
  switch (type) {
  case GGMLType::F32:
    std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
    return;
  case GGMLType::F16:
    f16ToFloat(data, out, static_cast<size_t>(count));
    return;
  case GGMLType::BF16:
    bf16ToFloat(data, out, static_cast<size_t>(count));
    return;
  default:
    for (int64_t i = 0; i < count; i += block->elements, data += block->bytes)
      decodeBlock(type, data, out + i);
  }
}

void quant_llm::dequantizeToF16(GGMLType type, const uint8_t *data,
                                int64_t count, uint16_t *out) {
  std::optional<GGMLBlock> block = getGGMLBlock(type);
  assert(block && canDequantize(type) && count % block->elements == 0);
  if (count == 0)
    return;
  if (type == GGMLType::F16) {
    std::memcpy(out, data, static_cast<size_t>(count) * sizeof(uint16_t));
    return;
  }
  // By way of float, in pieces that stay in the cache.
  constexpr int64_t step = 2048; // a multiple of every block
  float values[step];
  for (int64_t i = 0; i < count; i += step) {
    int64_t piece = std::min(step, count - i);
    dequantize(type, data, piece, values);
    floatToF16(values, out + i, static_cast<size_t>(piece));
    data += piece / block->elements * block->bytes;
  }
}

//===----------------------------------------------------------------------===//
// Metadata values
//===----------------------------------------------------------------------===//

std::string_view quant_llm::getGGUFTypeName(GGUFValue::Type type) {
  switch (type) {
  case GGUFValue::Type::U8:
    return "u8";
  case GGUFValue::Type::I8:
    return "i8";
  case GGUFValue::Type::U16:
    return "u16";
  case GGUFValue::Type::I16:
    return "i16";
  case GGUFValue::Type::U32:
    return "u32";
  case GGUFValue::Type::I32:
    return "i32";
  case GGUFValue::Type::F32:
    return "f32";
  case GGUFValue::Type::Bool:
    return "bool";
  case GGUFValue::Type::String:
    return "string";
  case GGUFValue::Type::Array:
    return "array";
  case GGUFValue::Type::U64:
    return "u64";
  case GGUFValue::Type::I64:
    return "i64";
  case GGUFValue::Type::F64:
    return "f64";
  }
  return "unknown";
}

/// Bytes of a value of fixed size, 0 for the others and for unknown types.
static unsigned getFixedSize(uint32_t type) {
  switch (static_cast<GGUFValue::Type>(type)) {
  case GGUFValue::Type::U8:
  case GGUFValue::Type::I8:
  case GGUFValue::Type::Bool:
    return 1;
  case GGUFValue::Type::U16:
  case GGUFValue::Type::I16:
    return 2;
  case GGUFValue::Type::U32:
  case GGUFValue::Type::I32:
  case GGUFValue::Type::F32:
    return 4;
  case GGUFValue::Type::U64:
  case GGUFValue::Type::I64:
  case GGUFValue::Type::F64:
    return 8;
  case GGUFValue::Type::String:
  case GGUFValue::Type::Array:
    break;
  }
  return 0;
}

namespace {

/// Arrays may hold arrays; nobody writes them deeper than this.
constexpr unsigned maxArrayDepth = 8;

/// Reads from a range of bytes and never beyond it. Values are decoded where
/// they lie, also after the file was checked once: it may have been changed
/// since.
class Cursor {
public:
  Cursor(const uint8_t *begin, const uint8_t *end) : at(begin), end(end) {}

  const uint8_t *position() const { return at; }
  uint64_t remaining() const { return static_cast<uint64_t>(end - at); }

  bool skip(uint64_t count) {
    if (count > remaining())
      return false;
    at += count;
    return true;
  }

  /// The format is little-endian, as is every machine this project supports.
  template <typename T>
  bool read(T &value) {
    if (remaining() < sizeof(T))
      return false;
    std::memcpy(&value, at, sizeof(T));
    at += sizeof(T);
    return true;
  }

  bool readString(std::string_view &text) {
    uint64_t length;
    if (!read(length) || length > remaining())
      return false;
    text = {reinterpret_cast<const char *>(at), static_cast<size_t>(length)};
    at += length;
    return true;
  }

  /// Skips a value of a type read from the file; an empty text is success.
  std::string skipValue(uint32_t type, unsigned depth = 0) {
    if (unsigned size = getFixedSize(type))
      return skip(size) ? "" : "it ends beyond the end of the file";
    if (type == static_cast<uint32_t>(GGUFValue::Type::String)) {
      std::string_view text;
      return readString(text) ? "" : "a string ends beyond the end of the file";
    }
    if (type != static_cast<uint32_t>(GGUFValue::Type::Array))
      return "expected a value type below 13 but got " + std::to_string(type);
    if (depth == maxArrayDepth)
      return "expected arrays nested at most " + std::to_string(maxArrayDepth) +
             " levels deep";
    uint32_t elementType;
    uint64_t count;
    if (!read(elementType) || !read(count))
      return "an array ends beyond the end of the file";
    if (unsigned size = getFixedSize(elementType)) {
      std::optional<uint64_t> bytes = checkedMul<uint64_t>(count, size);
      return bytes && skip(*bytes)
                 ? ""
                 : "an array of " + std::to_string(count) +
                       " elements ends beyond the end of the file";
    }
    // Each element takes at least one byte of the file, so a wrong count ends
    // soon; a type that is not known must not pass because the count is zero.
    if (elementType > static_cast<uint32_t>(GGUFValue::Type::F64))
      return "expected an element type below 13 but got " +
             std::to_string(elementType);
    for (uint64_t i = 0; i < count; ++i)
      if (std::string error = skipValue(elementType, depth + 1); !error.empty())
        return error;
    return "";
  }

private:
  const uint8_t *at;
  const uint8_t *end;
};

} // namespace

template <typename T>
static std::optional<T> readAs(const uint8_t *begin, const uint8_t *end) {
  T value;
  if (!Cursor(begin, end).read(value))
    return std::nullopt;
  return value;
}

template <typename T, typename From>
static std::optional<T> widen(const uint8_t *begin, const uint8_t *end) {
  std::optional<From> value = readAs<From>(begin, end);
  if (!value)
    return std::nullopt;
  return static_cast<T>(*value);
}

std::optional<int64_t> GGUFValue::asInteger() const {
  switch (valueType) {
  case Type::U8:
    return widen<int64_t, uint8_t>(begin, end);
  case Type::I8:
    return widen<int64_t, int8_t>(begin, end);
  case Type::U16:
    return widen<int64_t, uint16_t>(begin, end);
  case Type::I16:
    return widen<int64_t, int16_t>(begin, end);
  case Type::U32:
    return widen<int64_t, uint32_t>(begin, end);
  case Type::I32:
    return widen<int64_t, int32_t>(begin, end);
  case Type::I64:
    return readAs<int64_t>(begin, end);
  case Type::U64: {
    std::optional<uint64_t> value = readAs<uint64_t>(begin, end);
    if (!value ||
        *value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return std::nullopt;
    return static_cast<int64_t>(*value);
  }
  default:
    return std::nullopt;
  }
}

std::optional<uint64_t> GGUFValue::asUnsigned() const {
  if (valueType == Type::U64)
    return readAs<uint64_t>(begin, end);
  std::optional<int64_t> value = asInteger();
  if (!value || *value < 0)
    return std::nullopt;
  return static_cast<uint64_t>(*value);
}

std::optional<double> GGUFValue::asFloat() const {
  if (valueType == Type::F32)
    return widen<double, float>(begin, end);
  if (valueType == Type::F64)
    return readAs<double>(begin, end);
  return std::nullopt;
}

std::optional<bool> GGUFValue::asBool() const {
  if (valueType != Type::Bool)
    return std::nullopt;
  std::optional<uint8_t> value = readAs<uint8_t>(begin, end);
  if (!value)
    return std::nullopt;
  return *value != 0;
}

std::optional<std::string_view> GGUFValue::asString() const {
  std::string_view text;
  if (valueType != Type::String || !Cursor(begin, end).readString(text))
    return std::nullopt;
  return text;
}

std::optional<std::vector<GGUFValue>> GGUFValue::asArray() const {
  if (valueType != Type::Array)
    return std::nullopt;
  Cursor cursor(begin, end);
  uint32_t elementType;
  uint64_t count;
  if (!cursor.read(elementType) || !cursor.read(count) ||
      count > cursor.remaining())
    return std::nullopt;
  std::vector<GGUFValue> elements;
  elements.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint8_t *start = cursor.position();
    if (!cursor.skipValue(elementType).empty())
      return std::nullopt;
    elements.push_back(
        GGUFValue(static_cast<Type>(elementType), start, cursor.position()));
  }
  return elements;
}

//===----------------------------------------------------------------------===//
// Parser
//===----------------------------------------------------------------------===//

class GGUFFile::Parser {
public:
  explicit Parser(GGUFFile &file)
      : file(file),
        cursor(file.file.data(), file.file.data() + file.file.size()) {}

  Status parse();

private:
  Status parseMetadata(uint64_t count);
  Status parseTensors(uint64_t count);
  Status placeTensors();

  GGUFFile &file;
  Cursor cursor;
  std::vector<uint64_t> offsets;
};

Status GGUFFile::Parser::parse() {
  if (cursor.remaining() < 24)
    return Status::error("expected at least 24 bytes but the file has " +
                         std::to_string(cursor.remaining()));
  char magic[4];
  uint32_t version = 0;
  uint64_t numTensors = 0, numEntries = 0;
  cursor.read(magic);
  cursor.read(version);
  cursor.read(numTensors);
  cursor.read(numEntries);
  if (std::memcmp(magic, "GGUF", 4) != 0)
    return Status::error("expected the file to begin with \"GGUF\"");
  if (version != 0 && (version & 0xffffu) == 0)
    return Status::error("big-endian GGUF files are not supported; convert the "
                         "file with gguf_convert_endian.py of llama.cpp");
  if (version != 2 && version != 3)
    return Status::error("expected version 2 or 3 but got " +
                         std::to_string(version));
  // Every description takes space, so that a wrong count cannot cost memory.
  if (numEntries > cursor.remaining() / 13)
    return Status::error("expected at most as many metadata entries as fit in "
                         "the file but got " +
                         std::to_string(numEntries));
  if (numTensors > cursor.remaining() / 24)
    return Status::error("expected at most as many tensors as fit in the file "
                         "but got " +
                         std::to_string(numTensors));
  file.formatVersion = version;
  if (Status status = parseMetadata(numEntries); !status.ok())
    return status;
  if (const GGUFValue *value = file.findMetadata("general.alignment")) {
    std::optional<uint64_t> alignment = value->asUnsigned();
    if (value->type() != GGUFValue::Type::U32 || !alignment ||
        *alignment == 0 || (*alignment & (*alignment - 1)) != 0)
      return Status::error(
          "expected general.alignment to be a u32 that is a power of two but "
          "got " +
          (alignment ? std::to_string(*alignment)
                     : "a value of type " +
                           std::string(getGGUFTypeName(value->type()))));
    file.dataAlignment = *alignment;
  }
  if (Status status = parseTensors(numTensors); !status.ok())
    return status;
  return placeTensors();
}

Status GGUFFile::Parser::parseMetadata(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view key;
    uint32_t type;
    if (!cursor.readString(key) || !cursor.read(type))
      return Status::error("metadata entry " + std::to_string(i) +
                           " ends beyond the end of the file");
    if (!isValidUtf8(key))
      return Status::error("expected metadata keys in UTF-8 but got " +
                           quoteForMessage(key));
    const uint8_t *start = cursor.position();
    if (std::string error = cursor.skipValue(type); !error.empty())
      return Status::error("metadata key " + quoteForMessage(key) + ": " +
                           error);
    if (!file.entryOf.emplace(key, file.entries.size()).second)
      return Status::error("expected every metadata key once but got " +
                           quoteForMessage(key) + " twice");
    file.entries.emplace_back(std::string(key),
                              GGUFValue(static_cast<GGUFValue::Type>(type),
                                        start, cursor.position()));
  }
  return Status::success();
}

Status GGUFFile::Parser::parseTensors(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view name;
    uint32_t rank;
    if (!cursor.readString(name) || !cursor.read(rank))
      return Status::error("the description of tensor " + std::to_string(i) +
                           " ends beyond the end of the file");
    std::string prefix = "tensor " + quoteForMessage(name) + ": ";
    if (!isValidUtf8(name))
      return Status::error(prefix + "expected a name in UTF-8");
    if (rank > 4)
      return Status::error(prefix + "expected at most 4 dimensions but got " +
                           std::to_string(rank));
    GGUFTensor tensor;
    tensor.name = std::string(name);
    for (uint32_t d = 0; d < rank; ++d) {
      uint64_t size;
      if (!cursor.read(size))
        return Status::error(prefix +
                             "its description ends beyond the end of the file");
      if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return Status::error(prefix +
                             "expected dimensions below 2^63 but got " +
                             std::to_string(size));
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    uint32_t type;
    uint64_t offset;
    if (!cursor.read(type) || !cursor.read(offset))
      return Status::error(prefix +
                           "its description ends beyond the end of the file");
    tensor.type = static_cast<GGMLType>(type);
    std::optional<GGMLBlock> block = getGGMLBlock(tensor.type);
    if (!block)
      return Status::error(prefix + "expected a type in use by ggml but got " +
                           getGGMLTypeName(tensor.type));
    int64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (columns % block->elements != 0)
      return Status::error(prefix + "expected rows of whole blocks of " +
                           std::to_string(block->elements) + " elements (" +
                           getGGMLTypeName(tensor.type) + ") but got shape " +
                           shapeToString(tensor.shape));
    std::optional<int64_t> elements = getNumElements(tensor.shape);
    std::optional<uint64_t> bytes =
        elements ? checkedMul<uint64_t>(static_cast<uint64_t>(*elements) /
                                            block->elements,
                                        block->bytes)
                 : std::nullopt;
    if (!bytes)
      return Status::error(prefix + "the size of shape " +
                           shapeToString(tensor.shape) + " overflows");
    tensor.bytes = *bytes;
    if (offset % file.dataAlignment != 0)
      return Status::error(prefix +
                           "expected an offset that is a multiple of " +
                           std::to_string(file.dataAlignment) + " but got " +
                           std::to_string(offset));
    if (!file.infoOf.emplace(name, file.infos.size()).second)
      return Status::error("expected every tensor once but got " +
                           quoteForMessage(name) + " twice");
    file.infos.push_back(std::move(tensor));
    offsets.push_back(offset);
  }
  return Status::success();
}

/// Checks the offsets against the size of the file and each other.
Status GGUFFile::Parser::placeTensors() {
  uint64_t size = file.file.size();
  uint64_t described = size - cursor.remaining();
  // A file without tensors may end before the padding.
  uint64_t mask = file.dataAlignment - 1;
  uint64_t dataBegin = std::min(size, (described + mask) & ~mask);
  uint64_t dataBytes = size - dataBegin;
  std::vector<size_t> order;
  for (size_t i = 0; i < offsets.size(); ++i) {
    GGUFTensor &tensor = file.infos[i];
    if (offsets[i] > dataBytes || tensor.bytes > dataBytes - offsets[i])
      return Status::error(
          "tensor " + quoteForMessage(tensor.name) + ": expected its " +
          std::to_string(tensor.bytes) + " bytes at offset " +
          std::to_string(offsets[i]) + " to lie within the " +
          std::to_string(dataBytes) +
          " bytes of data; the file is truncated or its header is wrong");
    tensor.data = file.file.data() + dataBegin + offsets[i];
    if (tensor.bytes > 0)
      order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::make_pair(offsets[a], a) < std::make_pair(offsets[b], b);
  });
  for (size_t k = 1; k < order.size(); ++k) {
    const GGUFTensor &before = file.infos[order[k - 1]];
    if (offsets[order[k]] < offsets[order[k - 1]] + before.bytes)
      return Status::error("tensors " + quoteForMessage(before.name) + " and " +
                           quoteForMessage(file.infos[order[k]].name) +
                           " overlap");
  }
  return Status::success();
}

//===----------------------------------------------------------------------===//
// GGUFFile
//===----------------------------------------------------------------------===//

Result<GGUFFile> GGUFFile::open(const std::string &path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok())
    return mapped.status();
  GGUFFile result(mapped.take());
  if (Status status = Parser(result).parse(); !status.ok())
    return status.withContext("'" + path + "' is not a valid GGUF file");
  return result;
}

const GGUFTensor *GGUFFile::find(std::string_view name) const {
  auto found = infoOf.find(name);
  return found == infoOf.end() ? nullptr : &infos[found->second];
}

const GGUFValue *GGUFFile::findMetadata(std::string_view key) const {
  auto found = entryOf.find(key);
  return found == entryOf.end() ? nullptr : &entries[found->second].second;
}

/// For a key that is missing or has another type than the caller needs.
static Status metadataError(const GGUFFile &file, std::string_view key,
                            const char *expected) {
  const GGUFValue *value = file.findMetadata(key);
  return Status::error(
      "'" + file.path() + "': expected metadata key " + quoteForMessage(key) +
      " of " + expected + " type but " +
      (value ? "its type is " + std::string(getGGUFTypeName(value->type()))
             : "it is missing"));
}

Result<int64_t> GGUFFile::getInteger(std::string_view key) const {
  const GGUFValue *value = findMetadata(key);
  std::optional<int64_t> result = value ? value->asInteger() : std::nullopt;
  if (!result)
    return metadataError(*this, key, "integer");
  return *result;
}

Result<double> GGUFFile::getFloat(std::string_view key) const {
  const GGUFValue *value = findMetadata(key);
  std::optional<double> result = value ? value->asFloat() : std::nullopt;
  if (!result)
    return metadataError(*this, key, "floating-point");
  return *result;
}

Result<std::string> GGUFFile::getString(std::string_view key) const {
  const GGUFValue *value = findMetadata(key);
  std::optional<std::string_view> result =
      value ? value->asString() : std::nullopt;
  if (!result)
    return metadataError(*this, key, "string");
  return std::string(*result);
}

/// Appends the value as JSON; false if it holds text that is not UTF-8 (or if
/// the file changed under the map).
static bool appendJson(std::string &out, const GGUFValue &value) {
  if (std::optional<bool> flag = value.asBool()) {
    out += *flag ? "true" : "false";
    return true;
  }
  if (std::optional<uint64_t> number = value.asUnsigned()) {
    out += std::to_string(*number);
    return true;
  }
  if (std::optional<int64_t> number = value.asInteger()) {
    out += std::to_string(*number);
    return true;
  }
  if (std::optional<double> number = value.asFloat()) {
    char text[40];
    if (!std::isfinite(*number)) {
      out += "null";
      return true;
    }
    auto [end, code] = std::to_chars(text, text + sizeof(text), *number);
    std::string_view digits(text, static_cast<size_t>(end - text));
    out += digits;
    // Keep it a float for readers that tell 1 from 1.0.
    if (digits.find_first_of(".e") == std::string_view::npos)
      out += ".0";
    return code == std::errc();
  }
  if (std::optional<std::string_view> text = value.asString()) {
    if (!isValidUtf8(*text))
      return false;
    appendJsonString(out, *text);
    return true;
  }
  std::optional<std::vector<GGUFValue>> elements = value.asArray();
  if (!elements)
    return false;
  out += '[';
  for (const GGUFValue &element : *elements) {
    if (&element != &elements->front())
      out += ',';
    if (!appendJson(out, element))
      return false;
  }
  out += ']';
  return true;
}

Result<std::string> GGUFFile::metadataJson() const {
  std::string out = "{";
  for (const auto &[key, value] : entries) {
    if (out.size() > 1)
      out += ',';
    appendJsonString(out, key);
    out += ':';
    if (!appendJson(out, value))
      return Status::error("'" + path() +
                           "': expected text in UTF-8 for "
                           "metadata key " +
                           quoteForMessage(key));
  }
  return out + '}';
}

void GGUFFile::release(const GGUFTensor &tensor) const {
  file.release(tensor.data, tensor.bytes);
}
