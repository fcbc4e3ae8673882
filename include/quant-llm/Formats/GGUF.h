//===- GGUF.h - Reader of GGUF files ----------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// GGUF is the model format of ggml: metadata (typed key-value pairs, among them
// the tokenizer), tensor descriptions, and aligned tensor data, much of it in
// blocks of quantized values. Versions 2 and 3, little-endian, are read.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_GGUF_H
#define QUANT_LLM_FORMATS_GGUF_H

#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quant_llm {

/// Types of tensor data; the values are those in files. Types that are only
/// named here (getGGMLTypeName knows them all) can be listed but not read.
enum class GGMLType : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q8_0 = 8,
  I8 = 24,
  I16 = 25,
  I32 = 26,
  I64 = 27,
  F64 = 28,
  BF16 = 30,
};

/// "Q4_1"; "unknown type 77" for a number that ggml does not define.
std::string getGGMLTypeName(GGMLType type);
/// Elements and bytes of a block (1 element for plain types); nothing for a
/// type that is unknown or no longer used.
struct GGMLBlock {
  uint32_t elements;
  uint32_t bytes;
};
std::optional<GGMLBlock> getGGMLBlock(GGMLType type);
/// Whether dequantize() can read the type: F32, F16, BF16, Q8_0, Q4_0, Q4_1.
bool canDequantize(GGMLType type);

/// Reads `count` elements (a multiple of the block) from `data` (any alignment)
/// as float: Q8_0 is d*q, Q4_0 is d*(q-8), Q4_1 is d*q+m, exactly as ggml. The
/// type must satisfy canDequantize().
void dequantize(GGMLType type, const uint8_t *data, int64_t count, float *out);
/// The same, rounded to the bits of f16 (to nearest even).
void dequantizeToF16(GGMLType type, const uint8_t *data, int64_t count,
                     uint16_t *out);

/// A metadata value, still in the mapped file.
class GGUFValue {
public:
  enum class Type : uint32_t {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
  };

  Type type() const { return valueType; }
  /// Of any integer type, if it fits.
  std::optional<int64_t> asInteger() const;
  std::optional<uint64_t> asUnsigned() const;
  /// Of F32 or F64.
  std::optional<double> asFloat() const;
  std::optional<bool> asBool() const;
  /// Bytes as they are in the file.
  std::optional<std::string_view> asString() const;
  /// Of an array; its elements all have one type.
  std::optional<std::vector<GGUFValue>> asArray() const;

private:
  friend class GGUFFile;
  GGUFValue(Type type, const uint8_t *begin, const uint8_t *end)
      : valueType(type), begin(begin), end(end) {}

  Type valueType;
  const uint8_t *begin;
  const uint8_t *end;
};

std::string_view getGGUFTypeName(GGUFValue::Type type);

struct GGUFTensor {
  std::string name;
  GGMLType type = GGMLType::F32;
  /// Row-major like everywhere else in quant-llm: the contiguous dimension,
  /// which ggml calls ne[0], is the last one; a linear weight is [N, K].
  std::vector<int64_t> shape;
  const uint8_t *data = nullptr;
  uint64_t bytes = 0;
};

/// A GGUF file, mapped. All lengths, counts and offsets are checked when it is
/// opened; tensors of types that cannot be read do not prevent that.
class GGUFFile {
public:
  static Result<GGUFFile> open(const std::string &path);

  const std::string &path() const { return file.path(); }
  const FileId &id() const { return file.id(); }
  uint32_t version() const { return formatVersion; }
  uint64_t alignment() const { return dataAlignment; }

  /// In the order of the file.
  const std::vector<GGUFTensor> &tensors() const { return infos; }
  const GGUFTensor *find(std::string_view name) const;

  /// In the order of the file.
  const std::vector<std::pair<std::string, GGUFValue>> &metadata() const {
    return entries;
  }
  /// Null if there is no such key.
  const GGUFValue *findMetadata(std::string_view key) const;
  /// The value of a key that must be there, or an error that names file and
  /// key.
  Result<int64_t> getInteger(std::string_view key) const;
  Result<double> getFloat(std::string_view key) const;
  Result<std::string> getString(std::string_view key) const;

  /// All metadata as one JSON object in the order of the file; infinities and
  /// NaN become null. An error if a string is not valid UTF-8.
  Result<std::string> metadataJson() const;

  void release(const GGUFTensor &tensor) const;

private:
  explicit GGUFFile(MappedFile file) : file(std::move(file)) {}
  class Parser;

  MappedFile file;
  uint32_t formatVersion = 0;
  uint64_t dataAlignment = 32;
  std::vector<std::pair<std::string, GGUFValue>> entries;
  std::map<std::string, size_t, std::less<>> entryOf;
  std::vector<GGUFTensor> infos;
  std::map<std::string, size_t, std::less<>> infoOf;
};

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_GGUF_H
