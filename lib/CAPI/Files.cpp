//===- Files.cpp - Files of weights in the C API --------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Model.h"

#include "Internal.h"

#include "quant-llm/Formats/Archive.h"

#include <nlohmann/json.hpp>

using namespace quant_llm;
using Json = nlohmann::ordered_json;

static const char *nameOf(Archive::Format format) {
  switch (format) {
  case Archive::Format::Safetensors:
    return "safetensors";
  case Archive::Format::ShardedSafetensors:
    return "sharded safetensors";
  case Archive::Format::GGUF:
    break;
  }
  return "gguf";
}

QuantLLMStatus quantLLMDescribeArchive(const char *path, QuantLLMBuffer **json,
                                       QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(path, "path"), checkNotNull(json, "json")})
      if (!status.ok())
        return status;
    Result<std::unique_ptr<Archive>> archive = Archive::open(path);
    if (!archive.ok())
      return archive.status();

    Json tensors = Json::array();
    if (const GGUFFile *gguf = (*archive)->gguf()) {
      // Types that cannot be read can still be listed.
      for (const GGUFTensor &tensor : gguf->tensors())
        tensors.push_back({{"name", tensor.name},
                           {"dtype", getGGMLTypeName(tensor.type)},
                           {"shape", tensor.shape},
                           {"bytes", tensor.bytes}});
    } else {
      for (const std::string &name : (*archive)->names()) {
        Result<TensorInfo> info = (*archive)->find(name);
        if (!info.ok())
          return info.status();
        tensors.push_back({{"name", name},
                           {"dtype", std::string(getDTypeName(info->dtype))},
                           {"shape", info->shape},
                           {"bytes", info->bytes}});
      }
    }
    Json files = Json::array();
    for (const Archive::File &file : (*archive)->files())
      files.push_back(file.path);
    Json metadata = Json::object();
    for (const auto &[key, value] : (*archive)->metadata())
      metadata[key] = value;
    *json = makeBuffer(Json{{"path", path},
                            {"format", nameOf((*archive)->format())},
                            {"files", std::move(files)},
                            {"tensors", std::move(tensors)},
                            {"metadata", std::move(metadata)}});
    return {};
  });
}

QuantLLMStatus quantLLMReadGGUFMetadata(const char *path, QuantLLMBuffer **json,
                                        QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(path, "path"), checkNotNull(json, "json")})
      if (!status.ok())
        return status;
    Result<GGUFFile> file = GGUFFile::open(path);
    if (!file.ok())
      return file.status();
    Result<std::string> text = file->metadataJson();
    if (!text.ok())
      return text.status();
    *json = new QuantLLMBuffer{text.take()};
    return {};
  });
}
