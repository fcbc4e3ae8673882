//===- Archive.cpp --------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Archive.h"

#include "Text.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/Json.h"
#include "quant-llm/Support/MappedFile.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

using namespace quant_llm;

/// Longest index of shards that is read.
static constexpr size_t maxIndexBytes = 100'000'000;

//===----------------------------------------------------------------------===//
// Archive
//===----------------------------------------------------------------------===//

Archive::Archive(Format format, std::string path, std::vector<File> files,
                 std::vector<std::string> keys)
    : archiveFormat(format), name(std::move(path)), parts(std::move(files)),
      keys(std::move(keys)) {
  for (size_t i = 0; i < this->keys.size(); ++i)
    keyIndex.emplace(this->keys[i], i);
}

Archive::~Archive() = default;

const Archive::File *Archive::findFile(const std::string &path) const {
  std::optional<FileId> id = FileId::of(path);
  for (const File &file : parts)
    if (id && file.id == *id)
      return &file;
  return nullptr;
}

bool Archive::contains(std::string_view key) const {
  return keyIndex.find(key) != keyIndex.end();
}

const std::map<std::string, std::string> &Archive::metadata() const {
  static const std::map<std::string, std::string> none;
  return none;
}

namespace {

class SafetensorsArchive : public Archive {
public:
  SafetensorsArchive(const std::string &path, std::vector<std::string> keys,
                     SafetensorsFile file)
      : Archive(Format::Safetensors, path, {{path, file.id()}},
                std::move(keys)),
        file(std::move(file)) {}

  Result<TensorInfo> find(std::string_view key) const override {
    const TensorView *view = file.find(key);
    if (!view)
      return Status::error("'" + path() + "' has no tensor " +
                           quoteForMessage(key));
    return TensorInfo{*view, std::nullopt};
  }
  const std::map<std::string, std::string> &metadata() const override {
    return file.metadata();
  }
  void release(const TensorInfo &tensor) const override {
    file.release(tensor);
  }

private:
  SafetensorsFile file;
};

class ShardedArchive : public Archive {
public:
  ShardedArchive(const MappedFile &index, std::vector<std::string> keys,
                 std::vector<SafetensorsFile> shards,
                 std::map<std::string, size_t, std::less<>> shardOf)
      : Archive(Format::ShardedSafetensors, index.path(),
                listFiles(index, shards), std::move(keys)),
        shards(std::move(shards)), shardOf(std::move(shardOf)) {}

  Result<TensorInfo> find(std::string_view key) const override {
    auto found = shardOf.find(key);
    const TensorView *view =
        found == shardOf.end() ? nullptr : shards[found->second].find(key);
    if (!view)
      return Status::error("'" + path() + "' has no tensor " +
                           quoteForMessage(key));
    return TensorInfo{*view, std::nullopt};
  }
  void release(const TensorInfo &tensor) const override {
    auto found = shardOf.find(tensor.name);
    if (found != shardOf.end())
      shards[found->second].release(tensor);
  }

private:
  static std::vector<File>
  listFiles(const MappedFile &index,
            const std::vector<SafetensorsFile> &shards) {
    std::vector<File> files = {{index.path(), index.id()}};
    for (const SafetensorsFile &shard : shards)
      files.push_back({shard.path(), shard.id()});
    return files;
  }

  std::vector<SafetensorsFile> shards;
  std::map<std::string, size_t, std::less<>> shardOf;
};

class GGUFArchive : public Archive {
public:
  GGUFArchive(const std::string &path, std::vector<std::string> keys,
              GGUFFile file)
      : Archive(Format::GGUF, path, {{path, file.id()}}, std::move(keys)),
        file(std::move(file)) {}

  Result<TensorInfo> find(std::string_view key) const override;
  const GGUFFile *gguf() const override { return &file; }
  void release(const TensorInfo &tensor) const override {
    if (const GGUFTensor *info = file.find(tensor.name))
      file.release(*info);
  }

private:
  GGUFFile file;
};

} // namespace

Result<TensorInfo> GGUFArchive::find(std::string_view key) const {
  const GGUFTensor *tensor = file.find(key);
  if (!tensor)
    return Status::error("'" + path() + "' has no tensor " +
                         quoteForMessage(key));
  TensorInfo info;
  info.name = tensor->name;
  info.shape = tensor->shape;
  info.data = tensor->data;
  info.bytes = tensor->bytes;
  switch (tensor->type) {
  case GGMLType::F32:
    info.dtype = DType::F32;
    break;
  case GGMLType::F16:
    info.dtype = DType::F16;
    break;
  case GGMLType::BF16:
    info.dtype = DType::BF16;
    break;
  case GGMLType::Q4_0:
  case GGMLType::Q4_1:
  case GGMLType::Q8_0:
    info.dtype = DType::F16;
    info.blockType = tensor->type;
    break;
  default:
    return Status::error("'" + path() + "': tensor " + quoteForMessage(key) +
                         " has ggml type " + getGGMLTypeName(tensor->type) +
                         ", which is not supported; expected F32, F16, BF16, "
                         "Q8_0, Q4_0 or Q4_1");
  }
  return info;
}

//===----------------------------------------------------------------------===//
// Opening
//===----------------------------------------------------------------------===//

/// The path with all links resolved, or an error.
static Result<std::string> resolvePath(const std::string &path) {
  char *resolved = ::realpath(path.c_str(), nullptr);
  if (!resolved)
    return Status::error("cannot open '" + path + "': " + std::strerror(errno));
  std::string result(resolved);
  std::free(resolved);
  return result;
}

static std::string getDirectory(const std::string &path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos)
    return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

static bool isInside(const std::string &path, const std::string &directory) {
  if (directory == "/")
    return true;
  return path.size() > directory.size() &&
         path.compare(0, directory.size(), directory) == 0 &&
         path[directory.size()] == '/';
}

/// The real path of a shard, after checking that it is where a shard may be.
static Result<std::string> resolveShard(const std::string &indexPath,
                                        const std::string &shard) {
  std::string quoted = "shard " + quoteForMessage(shard);
  if (shard.empty() || shard.find('\0') != std::string::npos)
    return Status::error("expected a file name for every shard but got " +
                         quoteForMessage(shard));
  if (shard[0] == '/')
    return Status::error(quoted + ": expected a path relative to the index but "
                                  "got an absolute one");
  for (size_t begin = 0; begin <= shard.size();) {
    size_t end = std::min(shard.find('/', begin), shard.size());
    if (shard.compare(begin, end - begin, "..") == 0)
      return Status::error(quoted + ": expected a path below the directory of "
                                    "the index, without \"..\"");
    begin = end + 1;
  }
  Result<std::string> directory = resolvePath(getDirectory(indexPath));
  if (!directory.ok())
    return directory.status();
  Result<std::string> realIndex = resolvePath(indexPath);
  if (!realIndex.ok())
    return realIndex.status();
  Result<std::string> real = resolvePath(*directory + "/" + shard);
  if (!real.ok())
    return real.status().withContext(quoted);
  if (!isInside(*real, *directory) &&
      !isInside(*real, getDirectory(*realIndex)))
    return Status::error(quoted +
                         ": expected a file below the directory of the "
                         "index but it is a link to '" +
                         *real + "'");
  return real;
}

static Result<std::unique_ptr<Archive>> openIndex(const MappedFile &index) {
  auto fail = [&](const std::string &message) {
    return Status::error(
        "'" + index.path() +
        "' is not a valid index of safetensors shards: " + message);
  };
  if (index.size() > maxIndexBytes)
    return fail("expected at most " + std::to_string(maxIndexBytes) +
                " bytes but got " + std::to_string(index.size()));
  Result<nlohmann::json> parsed =
      parseJson({reinterpret_cast<const char *>(index.data()), index.size()});
  if (!parsed.ok())
    return fail(parsed.message());
  auto weightMap = parsed->find("weight_map");
  if (weightMap == parsed->end() || !weightMap->is_object())
    return fail("expected an object \"weight_map\"");

  std::map<std::string, size_t> shardIndex;
  std::map<std::string, size_t, std::less<>> shardOf;
  for (const auto &item : weightMap->items()) {
    if (!item.value().is_string())
      return fail("expected the name of a file for tensor " +
                  quoteForMessage(item.key()) + " but got " +
                  item.value().type_name());
    shardIndex.emplace(item.value().get_ref<const std::string &>(), 0);
  }

  std::vector<SafetensorsFile> shards;
  for (auto &[shard, position] : shardIndex) {
    Result<std::string> path = resolveShard(index.path(), shard);
    if (!path.ok())
      return fail(path.message());
    Result<SafetensorsFile> file = SafetensorsFile::open(*path);
    if (!file.ok())
      return fail("shard " + quoteForMessage(shard) + ": " + file.message());
    position = shards.size();
    shards.push_back(file.take());
  }
  for (const auto &item : weightMap->items()) {
    const std::string &shard = item.value().get_ref<const std::string &>();
    size_t position = shardIndex[shard];
    if (!shards[position].find(item.key()))
      return fail("expected tensor " + quoteForMessage(item.key()) +
                  " in shard " + quoteForMessage(shard) +
                  " but it is not there");
    shardOf.emplace(item.key(), position);
  }
  std::vector<std::string> keys;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const TensorView &tensor : shards[i].tensors()) {
      auto found = shardOf.find(tensor.name);
      if (found == shardOf.end())
        continue;
      if (found->second != i)
        return fail("expected every tensor in one shard but " +
                    quoteForMessage(tensor.name) + " is in '" +
                    shards[found->second].path() + "' and in '" +
                    shards[i].path() + "'");
      keys.push_back(tensor.name);
    }
  }
  return std::unique_ptr<Archive>(new ShardedArchive(
      index, std::move(keys), std::move(shards), std::move(shardOf)));
}

Result<std::unique_ptr<Archive>> Archive::open(const std::string &path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok())
    return mapped.status();
  std::string_view content(reinterpret_cast<const char *>(mapped->data()),
                           mapped->size());
  std::vector<std::string> keys;
  if (content.substr(0, 4) == "GGUF") {
    Result<GGUFFile> file = GGUFFile::open(path);
    if (!file.ok())
      return file.status();
    for (const GGUFTensor &tensor : file->tensors())
      keys.push_back(tensor.name);
    return std::unique_ptr<Archive>(
        new GGUFArchive(path, std::move(keys), file.take()));
  }
  // A safetensors file begins with the length of its header, so that its ninth
  // byte is the first brace; the first one is that of an index.
  bool isSafetensors = content.size() > 8 && content[8] == '{' &&
                       content.substr(4, 4) == std::string_view("\0\0\0\0", 4);
  size_t first = content.find_first_not_of(" \t\r\n");
  if (!isSafetensors && first != std::string_view::npos &&
      content[first] == '{')
    return openIndex(*mapped);
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  if (!file.ok())
    return file.status();
  for (const TensorView &tensor : file->tensors())
    keys.push_back(tensor.name);
  return std::unique_ptr<Archive>(
      new SafetensorsArchive(path, std::move(keys), file.take()));
}

//===----------------------------------------------------------------------===//
// Reading elements
//===----------------------------------------------------------------------===//

int64_t TensorInfo::numColumns() const {
  return shape.empty() ? 1 : shape.back();
}

int64_t TensorInfo::numRows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i)
    rows *= shape[i];
  return rows;
}

/// The ggml type that decodes the data of a tensor, if there is one.
static std::optional<GGMLType> getDecoder(const TensorInfo &tensor) {
  if (tensor.blockType)
    return tensor.blockType;
  switch (tensor.dtype) {
  case DType::F32:
    return GGMLType::F32;
  case DType::F16:
    return GGMLType::F16;
  case DType::BF16:
    return GGMLType::BF16;
  default:
    return std::nullopt;
  }
}

static Status checkRows(const TensorInfo &tensor, int64_t firstRow,
                        int64_t rowCount) {
  int64_t rows = tensor.numRows();
  if (firstRow < 0 || rowCount < 0 || firstRow > rows ||
      rowCount > rows - firstRow)
    return Status::error("tensor " + quoteForMessage(tensor.name) +
                         ": expected rows within the " + std::to_string(rows) +
                         " rows of the tensor but got " +
                         std::to_string(rowCount) + " from row " +
                         std::to_string(firstRow));
  return Status::success();
}

template <typename T>
static Status readRows(const TensorInfo &tensor, int64_t firstRow,
                       int64_t rowCount, T *out,
                       void (*decode)(GGMLType, const uint8_t *, int64_t, T *),
                       T (*fromFloat)(float)) {
  if (Status status = checkRows(tensor, firstRow, rowCount); !status.ok())
    return status;
  int64_t columns = tensor.numColumns();
  int64_t count = rowCount * columns;
  if (std::optional<GGMLType> type = getDecoder(tensor)) {
    GGMLBlock block = *getGGMLBlock(*type);
    uint64_t rowBytes =
        static_cast<uint64_t>(columns) / block.elements * block.bytes;
    decode(*type, tensor.data + static_cast<uint64_t>(firstRow) * rowBytes,
           count, out);
    return Status::success();
  }
  if (tensor.dtype == DType::F64) {
    const uint8_t *data =
        tensor.data + static_cast<uint64_t>(firstRow * columns) * 8;
    for (int64_t i = 0; i < count; ++i, data += 8) {
      double value;
      std::memcpy(&value, data, sizeof(value));
      out[i] = fromFloat(static_cast<float>(value));
    }
    return Status::success();
  }
  return Status::error("tensor " + quoteForMessage(tensor.name) +
                       ": expected floating-point elements (F64, F32, F16 or "
                       "BF16) but got " +
                       std::string(getDTypeName(tensor.dtype)));
}

Status quant_llm::readRowsAsF32(const TensorInfo &tensor, int64_t firstRow,
                                int64_t rowCount, float *out) {
  return readRows<float>(tensor, firstRow, rowCount, out, dequantize,
                         [](float value) { return value; });
}

Status quant_llm::readRowsAsF16(const TensorInfo &tensor, int64_t firstRow,
                                int64_t rowCount, uint16_t *out) {
  return readRows<uint16_t>(tensor, firstRow, rowCount, out, dequantizeToF16,
                            floatToF16);
}

Result<TensorBuffer> quant_llm::loadTensor(const TensorInfo &tensor,
                                           size_t alignment) {
  if (alignment == 0)
    alignment = std::max(getByteWidth(tensor.dtype), 1u);
  assert((alignment & (alignment - 1)) == 0 && "expected a power of two");
  TensorBuffer buffer;
  std::optional<uint64_t> bytes = getByteSize(tensor.dtype, tensor.shape);
  assert(bytes && "checked when the archive was opened");
  buffer.bytes = *bytes;
  if (!tensor.blockType &&
      reinterpret_cast<uintptr_t>(tensor.data) % alignment == 0) {
    buffer.data = tensor.data;
    return buffer;
  }
  std::align_val_t align{std::max(alignment, alignof(std::max_align_t))};
  auto *memory = static_cast<uint8_t *>(
      ::operator new(std::max<size_t>(buffer.bytes, 1), align, std::nothrow));
  if (!memory)
    return Status::error("not enough memory for the " +
                         std::to_string(buffer.bytes) + " bytes of tensor " +
                         quoteForMessage(tensor.name));
  buffer.storage = std::shared_ptr<uint8_t>(
      memory, [align](uint8_t *pointer) { ::operator delete(pointer, align); });
  buffer.data = memory;
  if (tensor.blockType)
    dequantizeToF16(*tensor.blockType, tensor.data,
                    tensor.numRows() * tensor.numColumns(),
                    reinterpret_cast<uint16_t *>(memory));
  else if (buffer.bytes > 0)
    std::memcpy(memory, tensor.data, buffer.bytes);
  return buffer;
}
