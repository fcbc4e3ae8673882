//===- quant-formats-dump.cpp ---------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The file formats on a command line, so that tests in Python can compare them
// with the packages `safetensors`, `gguf` and `numpy`.
//
//   quant-formats-dump list ARCHIVE            tensors and metadata as JSON
//   quant-formats-dump copy ARCHIVE OUT [f32]  to safetensors, row by row
//   quant-formats-dump npy IN OUT              reads and writes a .npy file
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Formats/Npy.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

using namespace quant_llm;
using nlohmann::ordered_json;

/// The checksum of zlib.
static uint32_t crc32(const uint8_t *data, uint64_t count) {
  uint32_t crc = ~0u;
  for (uint64_t i = 0; i < count; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

static Status list(const std::string &path) {
  Result<std::unique_ptr<Archive>> archive = Archive::open(path);
  if (!archive.ok())
    return archive.status();
  ordered_json out;
  out["metadata"] = (*archive)->metadata();
  if (const GGUFFile *file = (*archive)->gguf()) {
    Result<std::string> metadata = file->metadataJson();
    if (!metadata.ok())
      return metadata.status();
    out["metadata"] = ordered_json::parse(*metadata, nullptr,
                                          /*allow_exceptions=*/false);
  }
  out["tensors"] = ordered_json::array();
  for (const std::string &name : (*archive)->names()) {
    Result<TensorInfo> info = (*archive)->find(name);
    if (!info.ok())
      return info.status();
    Result<TensorBuffer> buffer = loadTensor(*info);
    if (!buffer.ok())
      return buffer.status();
    out["tensors"].push_back(
        {{"name", name},
         {"dtype", getDTypeName(info->dtype)},
         {"block", info->blockType ? getGGMLTypeName(*info->blockType) : ""},
         {"shape", info->shape},
         {"crc", crc32(buffer->data, buffer->bytes)}});
  }
  std::puts(out.dump().c_str());
  return Status::success();
}

static Status copyRows(const TensorInfo &info, bool toF32,
                       SafetensorsWriter &writer) {
  // A few rows at a time, so that pieces of a tensor are exercised.
  constexpr int64_t step = 3;
  int64_t columns = info.numColumns();
  for (int64_t row = 0; row < info.numRows(); row += step) {
    int64_t count = std::min(step, info.numRows() - row);
    std::vector<float> floats(static_cast<size_t>(count * columns));
    std::vector<uint16_t> halves(floats.size());
    Status status = toF32 ? readRowsAsF32(info, row, count, floats.data())
                          : readRowsAsF16(info, row, count, halves.data());
    if (!status.ok())
      return status;
    status = toF32 ? writer.append(info.name, floats.data(), floats.size() * 4)
                   : writer.append(info.name, halves.data(), halves.size() * 2);
    if (!status.ok())
      return status;
  }
  return Status::success();
}

static Status copy(const std::string &from, const std::string &to, bool toF32) {
  Result<std::unique_ptr<Archive>> archive = Archive::open(from);
  if (!archive.ok())
    return archive.status();
  std::vector<TensorInfo> infos;
  std::vector<TensorDeclaration> declarations;
  for (const std::string &name : (*archive)->names()) {
    Result<TensorInfo> info = (*archive)->find(name);
    if (!info.ok())
      return info.status();
    infos.push_back(*info);
    declarations.push_back(
        {name, toF32 ? DType::F32 : info->dtype, info->shape});
  }
  Result<SafetensorsWriter> writer =
      SafetensorsWriter::create(to, declarations, (*archive)->metadata());
  if (!writer.ok())
    return writer.status();
  for (const TensorInfo &info : infos) {
    bool plain = !info.blockType && !toF32;
    Status status = plain ? writer->append(info.name, info.data, info.bytes)
                          : copyRows(info, toF32, *writer);
    if (!status.ok())
      return status;
    (*archive)->release(info);
  }
  return writer->finish();
}

static Status copyNpy(const std::string &from, const std::string &to) {
  Result<NpyFile> file = NpyFile::open(from);
  if (!file.ok())
    return file.status();
  return writeNpy(to, file->dtype(), file->shape(), file->data());
}

int main(int argc, char **argv) {
  installInterruptCleanup();
  std::vector<std::string> args(argv + 1, argv + argc);
  Status status = Status::error("expected list ARCHIVE, copy ARCHIVE OUT [f32] "
                                "or npy IN OUT");
  if (args.size() == 2 && args[0] == "list")
    status = list(args[1]);
  else if (args.size() >= 3 && args.size() <= 4 && args[0] == "copy")
    status = copy(args[1], args[2], args.size() == 4 && args[3] == "f32");
  else if (args.size() == 3 && args[0] == "npy")
    status = copyNpy(args[1], args[2]);
  if (status.ok())
    return 0;
  std::fprintf(stderr, "quant-formats-dump: error: %s\n",
               status.message().c_str());
  return 1;
}
