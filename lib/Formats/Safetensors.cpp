//===- Safetensors.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Safetensors.h"

#include "Text.h"
#include "quant-llm/Support/CheckedMath.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

using namespace quant_llm;
using nlohmann::json;

//===----------------------------------------------------------------------===//
// Header
//===----------------------------------------------------------------------===//

namespace {

constexpr std::string_view metadataKey = "__metadata__";

/// A tensor as the header describes it.
struct HeaderEntry {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// Reads the header from parser events, without a tree: what the format does
/// not allow is refused where it appears, so memory is bounded by what is kept.
class HeaderReader : public nlohmann::json_sax<json> {
public:
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t &text) override {
    return unexpected("the number " + text.substr(0, 40));
  }
  bool number_integer(number_integer_t value) override {
    return unexpected("the negative number " + std::to_string(value));
  }
  bool binary(binary_t &) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state == State::Shape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return fail("expected dimensions below 2^63 but got " +
                    std::to_string(value));
      entries.back().view.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state == State::Offsets) {
      if (numOffsets == 2)
        return fail("expected two data_offsets but got more");
      (numOffsets++ == 0 ? entries.back().begin : entries.back().end) = value;
      return true;
    }
    return unexpected("the number " + std::to_string(value));
  }

  bool string(string_t &value) override {
    if (state == State::Metadata) {
      metadata[currentKey] = std::move(value);
      return true;
    }
    if (state == State::Tensor && currentKey == "dtype") {
      std::optional<DType> dtype = parseDType(value);
      if (!dtype)
        return fail("expected a dtype of the safetensors format but got " +
                    quoteForMessage(value));
      entries.back().view.dtype = *dtype;
      return true;
    }
    return unexpected("the string " + quoteForMessage(value));
  }

  bool start_object(size_t) override {
    switch (state) {
    case State::Start:
      state = State::Top;
      return true;
    case State::Top:
      fields.clear();
      if (currentKey == metadataKey) {
        state = State::Metadata;
        return true;
      }
      entries.emplace_back();
      entries.back().view.name = currentKey;
      numOffsets = 0;
      state = State::Tensor;
      return true;
    default:
      return unexpected("an object");
    }
  }

  bool end_object() override {
    if (state == State::Tensor) {
      for (const char *field : {"dtype", "shape", "data_offsets"})
        if (!fields.count(field))
          return fail(std::string("expected the key \"") + field +
                      "\" but it is missing");
      state = State::Top;
    } else if (state == State::Metadata) {
      state = State::Top;
    } else {
      state = State::End;
    }
    return true;
  }

  bool start_array(size_t) override {
    if (state == State::Tensor && currentKey == "shape")
      state = State::Shape;
    else if (state == State::Tensor && currentKey == "data_offsets")
      state = State::Offsets;
    else
      return unexpected("an array");
    return true;
  }

  bool end_array() override {
    if (state == State::Offsets && numOffsets != 2)
      return fail("expected two data_offsets but got " +
                  std::to_string(numOffsets));
    state = State::Tensor;
    return true;
  }

  bool key(string_t &value) override {
    std::set<std::string> &seen = state == State::Top ? names : fields;
    if (!seen.insert(value).second)
      return fail("expected every key once but got " + quoteForMessage(value) +
                  " twice");
    if (state == State::Tensor && value != "dtype" && value != "shape" &&
        value != "data_offsets")
      return fail("expected the keys dtype, shape and data_offsets but got " +
                  quoteForMessage(value));
    currentKey = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string &,
                   const nlohmann::detail::exception &exception) override {
    std::string text = exception.what();
    size_t reason = text.find(": ");
    if (reason != std::string::npos)
      text.erase(0, reason + 2);
    error = "expected valid JSON in UTF-8; at byte " +
            std::to_string(position) + " of it: " + makePrintable(text);
    return false;
  }

private:
  enum class State { Start, Top, Metadata, Tensor, Shape, Offsets, End };

  bool fail(const std::string &message) {
    if (state == State::Tensor || state == State::Shape ||
        state == State::Offsets)
      error = "tensor " + quoteForMessage(entries.back().view.name) + ": ";
    error += message;
    return false;
  }

  bool unexpected(const std::string &found) {
    switch (state) {
    case State::Start:
    case State::End:
      return fail("expected a JSON object but got " + found);
    case State::Top:
      return fail("expected an object for " + quoteForMessage(currentKey) +
                  " but got " + found);
    case State::Metadata:
      return fail("expected a string in __metadata__ for " +
                  quoteForMessage(currentKey) + " but got " + found);
    case State::Tensor:
      return fail(std::string("expected ") +
                  (currentKey == "dtype" ? "a string" : "an array") +
                  " for \"" + currentKey + "\" but got " + found);
    case State::Shape:
    case State::Offsets:
      return fail("expected non-negative integers below 2^64 in \"" +
                  currentKey + "\" but got " + found);
    }
    return fail("unexpected " + found);
  }

  State state = State::Start;
  std::string currentKey;
  std::set<std::string> names;
  std::set<std::string> fields; // of the current tensor or of the metadata
  int numOffsets = 0;
};

} // namespace

static uint64_t readLittleEndian64(const uint8_t *bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i)
    value = (value << 8) | bytes[i];
  return value;
}

/// Checks what the header says against the size of the data; sorts the entries
/// by place.
static Status checkEntries(std::vector<HeaderEntry> &entries,
                           uint64_t dataBytes) {
  for (const HeaderEntry &entry : entries) {
    const TensorView &view = entry.view;
    std::string prefix = "tensor " + quoteForMessage(view.name) + ": ";
    std::string range = "[" + std::to_string(entry.begin) + ", " +
                        std::to_string(entry.end) + "]";
    if (entry.begin > entry.end)
      return Status::error(
          prefix + "expected data_offsets in ascending order but got " + range);
    if (entry.end > dataBytes)
      return Status::error(prefix + "expected data_offsets within the " +
                           std::to_string(dataBytes) +
                           " bytes of data but got " + range +
                           "; the file is truncated or its header is wrong");
    std::optional<uint64_t> bytes = getByteSize(view.dtype, view.shape);
    std::string type =
        std::string(getDTypeName(view.dtype)) + shapeToString(view.shape);
    if (!bytes)
      return Status::error(prefix +
                           "expected a shape whose size is a whole "
                           "number of bytes below 2^63 elements, but "
                           "got " +
                           type);
    if (*bytes != entry.end - entry.begin)
      return Status::error(prefix + "expected " + std::to_string(*bytes) +
                           " bytes of data for " + type +
                           " but got data_offsets " + range);
  }
  std::sort(entries.begin(), entries.end(),
            [](const HeaderEntry &a, const HeaderEntry &b) {
              return std::tie(a.begin, a.end, a.view.name) <
                     std::tie(b.begin, b.end, b.view.name);
            });
  uint64_t position = 0;
  std::string previous = "the begin of the data";
  for (const HeaderEntry &entry : entries) {
    if (entry.begin != position)
      return Status::error(
          "tensor " + quoteForMessage(entry.view.name) +
          ": expected its data " + "to begin at offset " +
          std::to_string(position) + " (after " + previous +
          ") but they begin at " + std::to_string(entry.begin) +
          (entry.begin < position ? "; tensors must not overlap"
                                  : "; gaps are not allowed"));
    position = entry.end;
    previous = "tensor " + quoteForMessage(entry.view.name);
  }
  if (position != dataBytes)
    return Status::error("expected the data to end at offset " +
                         std::to_string(position) + " (after " + previous +
                         ") but the file holds " + std::to_string(dataBytes) +
                         " bytes of data");
  return Status::success();
}

//===----------------------------------------------------------------------===//
// SafetensorsFile
//===----------------------------------------------------------------------===//

Result<SafetensorsFile> SafetensorsFile::open(const std::string &path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok())
    return mapped.status();
  SafetensorsFile result(mapped.take());
  auto fail = [&](const std::string &message) {
    return Status::error("'" + path +
                         "' is not a valid safetensors file: " + message);
  };

  const uint8_t *bytes = result.file.data();
  uint64_t size = result.file.size();
  if (size < 8)
    return fail("expected at least the 8 bytes of the header's length but the "
                "file has " +
                std::to_string(size));
  uint64_t headerBytes = readLittleEndian64(bytes);
  if (headerBytes > maxSafetensorsHeader)
    return fail("expected a header of at most " +
                std::to_string(maxSafetensorsHeader) + " bytes but got " +
                std::to_string(headerBytes));
  if (headerBytes > size - 8)
    return fail("expected a header of " + std::to_string(headerBytes) +
                " bytes but only " + std::to_string(size - 8) +
                " bytes follow; the file is truncated");
  const char *text = reinterpret_cast<const char *>(bytes) + 8;
  if (headerBytes == 0 || text[0] != '{')
    return fail("expected the header to begin with '{'");
  // The parser takes a zero byte for the end of the text.
  if (std::memchr(text, 0, headerBytes))
    return fail("expected valid JSON but the header holds a zero byte");

  HeaderReader reader;
  if (!json::sax_parse(text, text + headerBytes, &reader))
    return fail(reader.error);
  if (Status status = checkEntries(reader.entries, size - 8 - headerBytes);
      !status.ok())
    return fail(status.message());

  result.entries = std::move(reader.metadata);
  result.views.reserve(reader.entries.size());
  for (HeaderEntry &entry : reader.entries) {
    entry.view.data = bytes + 8 + headerBytes + entry.begin;
    entry.view.bytes = entry.end - entry.begin;
    result.indexOf.emplace(entry.view.name, result.views.size());
    result.views.push_back(std::move(entry.view));
  }
  return result;
}

const TensorView *SafetensorsFile::find(std::string_view name) const {
  auto found = indexOf.find(name);
  return found == indexOf.end() ? nullptr : &views[found->second];
}

void SafetensorsFile::release(const TensorView &tensor) const {
  file.release(tensor.data, tensor.bytes);
}

//===----------------------------------------------------------------------===//
// SafetensorsWriter
//===----------------------------------------------------------------------===//

Result<SafetensorsWriter>
SafetensorsWriter::create(const std::string &path,
                          std::vector<TensorDeclaration> tensors,
                          const std::map<std::string, std::string> &metadata) {
  auto fail = [&](const std::string &message) {
    return Status::error("cannot write '" + path + "': " + message);
  };

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto &[key, value] : metadata) {
      if (!isValidUtf8(key) || !isValidUtf8(value))
        return fail("expected metadata in UTF-8 but got other bytes for " +
                    quoteForMessage(key));
      if (header.back() != '{')
        header += ',';
      appendJsonString(header, key);
      header += ':';
      appendJsonString(header, value);
    }
    header += '}';
  }

  std::vector<uint64_t> sizes;
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const TensorDeclaration &tensor : tensors) {
    std::string quoted = "tensor " + quoteForMessage(tensor.name);
    if (!names.insert(tensor.name).second)
      return fail(quoted + " is declared twice");
    if (tensor.name == metadataKey)
      return fail(quoted + " has a name that the format reserves");
    if (!isValidUtf8(tensor.name))
      return fail(quoted + ": expected a name in UTF-8");
    std::optional<uint64_t> bytes = getByteSize(tensor.dtype, tensor.shape);
    std::optional<uint64_t> end =
        bytes ? checkedAdd(offset, *bytes) : std::nullopt;
    if (!end)
      return fail(quoted +
                  ": expected a shape whose size is a whole number of "
                  "bytes and does not overflow, but got " +
                  std::string(getDTypeName(tensor.dtype)) +
                  shapeToString(tensor.shape));
    if (header.size() > 1)
      header += ',';
    appendJsonString(header, tensor.name);
    header += ":{\"dtype\":\"";
    header += getDTypeName(tensor.dtype);
    header += "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i)
      header += (i ? "," : "") + std::to_string(tensor.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(offset) + "," +
              std::to_string(*end) + "]}";
    sizes.push_back(*bytes);
    offset = *end;
  }
  header += '}';
  // Trailing spaces are allowed; with these the data begin at a multiple of 64.
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');
  if (header.size() > maxSafetensorsHeader)
    return fail("expected a header of at most " +
                std::to_string(maxSafetensorsHeader) + " bytes but the " +
                std::to_string(tensors.size()) + " tensors need " +
                std::to_string(header.size()));

  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file.ok())
    return file.status();
  uint8_t length[8];
  for (int i = 0; i < 8; ++i)
    length[i] =
        static_cast<uint8_t>(static_cast<uint64_t>(header.size()) >> (8 * i));
  if (Status status = file->write(length, sizeof(length)); !status.ok())
    return status;
  if (Status status = file->write(header.data(), header.size()); !status.ok())
    return status;

  SafetensorsWriter writer(file.take());
  writer.declarations = std::move(tensors);
  writer.sizes = std::move(sizes);
  writer.skipComplete();
  return writer;
}

/// Moves on to the first tensor that still lacks data.
void SafetensorsWriter::skipComplete() {
  while (current < sizes.size() && written == sizes[current]) {
    ++current;
    written = 0;
  }
}

Status SafetensorsWriter::fail(const std::string &message) {
  failure = Status::error("cannot write '" + file.path() + "': " + message);
  return failure;
}

Status SafetensorsWriter::append(std::string_view name, const void *data,
                                 size_t count) {
  if (!failure.ok())
    return failure;
  // An empty tensor is complete from the start, wherever it was declared.
  if (count == 0)
    return Status::success();
  if (finished || current == sizes.size())
    return fail("got data of tensor " + quoteForMessage(name) +
                " after those of the last declared tensor were complete");
  if (name != declarations[current].name)
    return fail("expected data of tensor " +
                quoteForMessage(declarations[current].name) +
                ", the next in the declared order, but got those of " +
                quoteForMessage(name));
  if (count > sizes[current] - written)
    return fail("expected " + std::to_string(sizes[current]) +
                " bytes of tensor " + quoteForMessage(name) + " but got " +
                std::to_string(written) + " and then " + std::to_string(count) +
                " more");
  if (Status status = file.write(data, count); !status.ok()) {
    failure = status;
    return status;
  }
  written += count;
  skipComplete();
  return Status::success();
}

Status SafetensorsWriter::finish() {
  if (!failure.ok())
    return failure;
  if (finished)
    return fail("the file is already complete");
  if (current < sizes.size())
    return fail("expected " + std::to_string(sizes[current]) +
                " bytes of tensor " +
                quoteForMessage(declarations[current].name) + " but got " +
                std::to_string(written));
  finished = true;
  if (Status status = file.commit(); !status.ok()) {
    failure = status;
    return status;
  }
  return Status::success();
}
