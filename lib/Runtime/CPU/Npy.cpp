//===- Npy.cpp - Reading and writing .npy files ---------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/Npy.h"

#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/MappedFile.h"

#include <cstring>
#include <limits>

using namespace quant_llm;

namespace {

struct NpyType {
  const char *descr;
  DType type;
};

constexpr NpyType npyTypes[] = {
    {"|b1", DType::Bool}, {"|i1", DType::I8},  {"|u1", DType::U8},
    {"<i2", DType::I16},  {"<u2", DType::U16}, {"<i4", DType::I32},
    {"<u4", DType::U32},  {"<i8", DType::I64}, {"<u8", DType::U64},
    {"<f2", DType::F16},  {"<f4", DType::F32}, {"<f8", DType::F64},
};

/// A reader of the header, which is a Python dictionary literal with the keys
/// 'descr', 'fortran_order' and 'shape'.
class HeaderParser {
public:
  explicit HeaderParser(std::string_view text) : text(text) {}

  Status parse() {
    if (!consume('{'))
      return malformed("expected '{'");
    while (!consume('}')) {
      std::string key;
      if (!parseString(key) || !consume(':'))
        return malformed("expected a quoted key and ':'");
      if (key == "descr") {
        if (!parseString(descr))
          return Status::error("structured element types are not supported");
      } else if (key == "fortran_order") {
        if (consumeWord("True"))
          fortranOrder = true;
        else if (!consumeWord("False"))
          return malformed("expected True or False");
      } else if (key == "shape") {
        if (!parseShape())
          return malformed("expected a shape such as (2, 3)");
        hasShape = true;
      } else {
        return malformed("unknown key '" + key + "'");
      }
      if (!consume(',') && !peek('}'))
        return malformed("expected ',' or '}'");
    }
    if (descr.empty() || !hasShape)
      return malformed("expected the keys 'descr' and 'shape'");
    return Status::success();
  }

  std::string descr;
  bool fortranOrder = false;
  std::vector<int64_t> shape;

private:
  void skipSpace() {
    while (position < text.size() &&
           (text[position] == ' ' || text[position] == '\n'))
      ++position;
  }
  bool peek(char c) {
    skipSpace();
    return position < text.size() && text[position] == c;
  }
  bool consume(char c) {
    if (!peek(c))
      return false;
    ++position;
    return true;
  }
  bool consumeWord(std::string_view word) {
    skipSpace();
    if (text.substr(position, word.size()) != word)
      return false;
    position += word.size();
    return true;
  }
  bool parseString(std::string &out) {
    skipSpace();
    if (position >= text.size() ||
        (text[position] != '\'' && text[position] != '"'))
      return false;
    size_t end = text.find(text[position], position + 1);
    if (end == std::string_view::npos)
      return false;
    out = std::string(text.substr(position + 1, end - position - 1));
    position = end + 1;
    return true;
  }
  bool parseShape() {
    if (!consume('('))
      return false;
    while (!consume(')')) {
      skipSpace();
      int64_t value = 0;
      size_t start = position;
      while (position < text.size() && text[position] >= '0' &&
             text[position] <= '9') {
        int64_t digit = text[position] - '0';
        if (value > (std::numeric_limits<int64_t>::max() - digit) / 10)
          return false;
        value = value * 10 + digit;
        ++position;
      }
      if (position == start || shape.size() >= 64)
        return false;
      shape.push_back(value);
      if (!consume(',') && !peek(')'))
        return false;
    }
    return true;
  }
  static Status malformed(const std::string &what) {
    return Status::error("malformed header: " + what);
  }

  std::string_view text;
  size_t position = 0;
  bool hasShape = false;
};

} // namespace

Result<Tensor> quant_llm::readNpy(const std::string &path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok())
    return file.status();
  const uint8_t *bytes = file->data();
  size_t size = file->size();
  if (size < 10 || std::memcmp(bytes, "\x93NUMPY", 6) != 0)
    return Status::error("'" + path +
                         "': expected a .npy file but its first bytes differ");
  unsigned major = bytes[6];
  size_t headerBegin = major == 1 ? 10 : 12;
  if (major < 1 || major > 3 || size < headerBegin)
    return Status::error("'" + path +
                         "': expected .npy version 1, 2 or 3 but got " +
                         std::to_string(major));
  size_t headerLength = bytes[8] | size_t(bytes[9]) << 8;
  if (major > 1)
    headerLength |= size_t(bytes[10]) << 16 | size_t(bytes[11]) << 24;
  if (headerLength > size - headerBegin)
    return Status::error("'" + path + "': truncated: the header has " +
                         std::to_string(headerLength) + " bytes, the file " +
                         std::to_string(size));
  HeaderParser header(std::string_view(
      reinterpret_cast<const char *>(bytes) + headerBegin, headerLength));
  Status parsed = header.parse();
  if (!parsed.ok())
    return parsed.withContext("'" + path + "'");
  const NpyType *type = nullptr;
  for (const NpyType &candidate : npyTypes)
    if (header.descr == candidate.descr)
      type = &candidate;
  if (!type)
    return Status::error("'" + path +
                         "': expected little-endian numbers (such as '<f4' or "
                         "'<i8') but got element type '" +
                         header.descr + "'");
  size_t dimensionsAboveOne = 0;
  for (int64_t extent : header.shape)
    dimensionsAboveOne += extent > 1;
  if (header.fortranOrder && dimensionsAboveOne > 1)
    return Status::error("'" + path +
                         "': expected C order but the file is in Fortran "
                         "order; save numpy.ascontiguousarray(x)");
  Result<int64_t> count =
      checkedElementCount(header.shape, getByteWidth(type->type));
  if (!count.ok())
    return count.status().withContext("'" + path + "'");
  size_t dataBytes = static_cast<size_t>(*count) * getByteWidth(type->type);
  size_t available = size - headerBegin - headerLength;
  if (dataBytes != available)
    return Status::error("'" + path + "': expected " +
                         std::to_string(dataBytes) + " bytes of data but got " +
                         std::to_string(available));
  Result<Tensor> tensor = Tensor::allocate(type->type, header.shape);
  if (tensor.ok() && dataBytes != 0)
    std::memcpy(tensor->data(), bytes + headerBegin + headerLength, dataBytes);
  return tensor;
}

Status quant_llm::writeNpy(const std::string &path, const Tensor &tensor) {
  const NpyType *type = nullptr;
  for (const NpyType &candidate : npyTypes)
    if (tensor.dtype() == candidate.type)
      type = &candidate;
  if (!type)
    return Status::error("'" + path + "': .npy files cannot hold " +
                         std::string(elementTypeName(tensor.dtype())) +
                         "; write a .safetensors file instead");
  std::string shape = "(";
  for (int64_t extent : tensor.shape())
    shape += std::to_string(extent) + ",";
  shape += ")";
  std::string header = std::string("{'descr': '") + type->descr +
                       "', 'fortran_order': False, 'shape': " + shape + ", }";
  // Magic, version and length take 10 bytes; data starts at a multiple of 64.
  size_t total = (10 + header.size() + 1 + 63) / 64 * 64;
  header.append(total - 10 - header.size() - 1, ' ');
  header += '\n';
  std::string prefix("\x93NUMPY\x01\x00", 8);
  prefix += static_cast<char>(header.size() & 0xff);
  prefix += static_cast<char>(header.size() >> 8);
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file.ok())
    return file.status();
  Status status = file->write(prefix.data(), prefix.size());
  if (status.ok())
    status = file->write(header.data(), header.size());
  if (status.ok())
    status = file->write(tensor.data(), static_cast<size_t>(tensor.numBytes()));
  return status.ok() ? file->commit() : status;
}
