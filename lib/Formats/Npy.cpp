//===- Npy.cpp ------------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Npy.h"

#include "Text.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/CheckedMath.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

using namespace quant_llm;

static constexpr std::string_view magic("\x93NUMPY", 6);

/// Longest header that is read; NumPy itself stops at 10000 by default.
static constexpr uint32_t maxHeaderBytes = 1 << 20;
/// As in NumPy 2.
static constexpr size_t maxRank = 64;

namespace {
struct DescrRow {
  std::string_view code; // without the byte order
  DType dtype;
};
} // namespace

static const DescrRow descrRows[] = {
    {"b1", DType::Bool}, {"i1", DType::I8},  {"u1", DType::U8},
    {"i2", DType::I16},  {"u2", DType::U16}, {"f2", DType::F16},
    {"i4", DType::I32},  {"u4", DType::U32}, {"f4", DType::F32},
    {"i8", DType::I64},  {"u8", DType::U64}, {"f8", DType::F64},
};

namespace {

/// Parses the header, a Python dictionary literal of which only strings,
/// booleans and tuples of integers occur.
class HeaderParser {
public:
  explicit HeaderParser(std::string_view text) : text(text) {}

  std::string descr;
  bool fortranOrder = false;
  std::vector<int64_t> shape;

  Status parse() {
    if (!consume('{'))
      return expected("'{'");
    std::set<std::string> seen;
    while (!consume('}')) {
      std::string key;
      if (!parseString(key))
        return expected("a key in quotes");
      if (!seen.insert(key).second)
        return Status::error("expected every key once but got " +
                             quoteForMessage(key) + " twice");
      if (!consume(':'))
        return expected("':'");
      if (Status status = parseValue(key); !status.ok())
        return status;
      if (!consume(',') && peek() != '}')
        return expected("',' or '}'");
    }
    peek();
    if (at != text.size())
      return expected("nothing after the '}'");
    for (const char *key : {"descr", "fortran_order", "shape"})
      if (!seen.count(key))
        return Status::error(std::string("expected the key '") + key +
                             "' but it is missing");
    return Status::success();
  }

private:
  Status expected(const std::string &what) {
    return Status::error("expected " + what + " at byte " + std::to_string(at) +
                         " of the header");
  }

  /// The next character that is not white space; 0 at the end.
  char peek() {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n' ||
                                text[at] == '\t' || text[at] == '\r'))
      ++at;
    return at < text.size() ? text[at] : '\0';
  }

  bool consume(char c) {
    if (peek() != c || at == text.size())
      return false;
    ++at;
    return true;
  }

  bool consumeWord(std::string_view word) {
    peek();
    if (text.substr(at, word.size()) != word)
      return false;
    at += word.size();
    return true;
  }

  bool parseString(std::string &out) {
    char quote = peek();
    if (quote != '\'' && quote != '"')
      return false;
    size_t end = text.find(quote, at + 1);
    if (end == std::string_view::npos)
      return false;
    out = std::string(text.substr(at + 1, end - at - 1));
    at = end + 1;
    return out.find('\\') == std::string::npos;
  }

  Status parseValue(const std::string &key) {
    if (key == "descr") {
      if (!parseString(descr))
        return expected("a simple type in quotes (structured arrays are not "
                        "supported)");
      return Status::success();
    }
    if (key == "fortran_order") {
      fortranOrder = consumeWord("True");
      if (!fortranOrder && !consumeWord("False"))
        return expected("True or False");
      return Status::success();
    }
    if (key == "shape")
      return parseShape();
    return Status::error("expected the keys 'descr', 'fortran_order' and "
                         "'shape' but got " +
                         quoteForMessage(key));
  }

  Status parseShape() {
    if (!consume('('))
      return expected("'('");
    while (!consume(')')) {
      char first = peek();
      if (first < '0' || first > '9')
        return expected("a non-negative dimension or ')'");
      int64_t value = 0;
      for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
        std::optional<int64_t> next = checkedMul<int64_t>(value, 10);
        if (next)
          next = checkedAdd<int64_t>(*next, text[at] - '0');
        if (!next)
          return Status::error("expected dimensions below 2^63");
        value = *next;
      }
      if (shape.size() == maxRank)
        return Status::error("expected at most " + std::to_string(maxRank) +
                             " dimensions");
      shape.push_back(value);
      // Python 2 wrote long integers with this suffix.
      consumeWord("L");
      if (!consume(',') && peek() != ')')
        return expected("',' or ')'");
    }
    return Status::success();
  }

  std::string_view text;
  size_t at = 0;
};

} // namespace

static Result<DType> parseDescr(const std::string &descr) {
  std::string_view code(descr);
  if (!code.empty() && code[0] == '>')
    return Status::error("big-endian arrays are not supported; save "
                         "array.astype(array.dtype.newbyteorder('<'))");
  if (!code.empty() && (code[0] == '<' || code[0] == '|' || code[0] == '='))
    code.remove_prefix(1);
  for (const DescrRow &row : descrRows)
    if (row.code == code)
      return row.dtype;
  return Status::error("expected a boolean, integer or floating-point type of "
                       "at most 8 bytes but got " +
                       quoteForMessage(descr));
}

Result<NpyFile> NpyFile::open(const std::string &path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok())
    return mapped.status();
  NpyFile result(mapped.take());
  auto fail = [&](const std::string &message) {
    return Status::error("'" + path + "' is not a valid .npy file: " + message);
  };

  std::string_view content(reinterpret_cast<const char *>(result.file.data()),
                           result.file.size());
  if (content.substr(0, magic.size()) != magic)
    return fail(content.substr(0, 4) == std::string_view("PK\x03\x04", 4)
                    ? "it is an archive of several arrays (.npz)"
                    : "expected it to begin with \"\\x93NUMPY\"");
  if (content.size() < 10)
    return fail("the file is truncated");
  auto byteAt = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(content[i]));
  };
  uint32_t version = byteAt(6);
  if (version < 1 || version > 3)
    return fail("expected version 1, 2 or 3 but got " +
                std::to_string(version));
  size_t headerBegin = version == 1 ? 10 : 12;
  if (content.size() < headerBegin)
    return fail("the file is truncated");
  uint32_t headerBytes = byteAt(8) | byteAt(9) << 8;
  if (version > 1)
    headerBytes |= byteAt(10) << 16 | byteAt(11) << 24;
  if (headerBytes > maxHeaderBytes)
    return fail("expected a header of at most " +
                std::to_string(maxHeaderBytes) + " bytes but got " +
                std::to_string(headerBytes));
  if (headerBytes > content.size() - headerBegin)
    return fail("expected a header of " + std::to_string(headerBytes) +
                " bytes but the file is truncated");

  HeaderParser header(content.substr(headerBegin, headerBytes));
  if (Status status = header.parse(); !status.ok())
    return fail(status.message());
  Result<DType> dtype = parseDescr(header.descr);
  if (!dtype.ok())
    return fail(dtype.message());
  if (header.fortranOrder &&
      std::count_if(header.shape.begin(), header.shape.end(),
                    [](int64_t dim) { return dim != 1; }) > 1)
    return fail("arrays in Fortran order are not supported; save "
                "numpy.ascontiguousarray(array)");
  std::optional<uint64_t> bytes = getByteSize(*dtype, header.shape);
  if (!bytes)
    return fail("the size of shape " + shapeToString(header.shape) +
                " overflows");
  uint64_t available = content.size() - headerBegin - headerBytes;
  if (*bytes != available)
    return fail("expected " + std::to_string(*bytes) + " bytes of data for " +
                std::string(getDTypeName(*dtype)) +
                shapeToString(header.shape) + " but the file has " +
                std::to_string(available));
  result.type = *dtype;
  result.dims = std::move(header.shape);
  result.payload = result.file.data() + headerBegin + headerBytes;
  result.count = *bytes;
  return result;
}

Status quant_llm::writeNpy(const std::string &path, DType dtype,
                           const std::vector<int64_t> &shape,
                           const void *data) {
  auto fail = [&](const std::string &message) {
    return Status::error("cannot write '" + path + "': " + message);
  };
  const DescrRow *row =
      std::find_if(std::begin(descrRows), std::end(descrRows),
                   [&](const DescrRow &row) { return row.dtype == dtype; });
  if (row == std::end(descrRows))
    return fail("NumPy has no type for " + std::string(getDTypeName(dtype)) +
                "; write a .safetensors file instead");
  std::optional<uint64_t> bytes = getByteSize(dtype, shape);
  if (!bytes || shape.size() > maxRank)
    return fail("expected at most " + std::to_string(maxRank) +
                " non-negative dimensions whose product does not overflow but "
                "got " +
                shapeToString(shape));

  std::string text = "{'descr': '";
  text += getByteWidth(dtype) == 1 ? '|' : '<';
  text += row->code;
  text += "', 'fortran_order': False, 'shape': (";
  for (int64_t dim : shape)
    text += std::to_string(dim) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1)
    text.resize(text.size() - 2);
  text += "), }";
  // The data begin at a multiple of 64; the header ends with a line feed.
  size_t total = (10 + text.size() + 1 + 63) / 64 * 64;
  text.resize(total - 10 - 1, ' ');
  text += '\n';

  std::string prefix(magic);
  prefix += '\x01';
  prefix += '\0';
  prefix += static_cast<char>(text.size() & 0xff);
  prefix += static_cast<char>(text.size() >> 8);
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file.ok())
    return file.status();
  for (std::string_view part :
       {std::string_view(prefix), std::string_view(text)})
    if (Status status = file->write(part.data(), part.size()); !status.ok())
      return status;
  if (Status status = file->write(data, *bytes); !status.ok())
    return status;
  return file->commit();
}
