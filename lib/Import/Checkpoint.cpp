//===- Checkpoint.cpp - A model on disk
//-------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/Checkpoint.h"

#include "GGUFCheckpoint.h"
#include "Printable.h"

#include "quant-llm/Support/MappedFile.h"

#include <cstring>
#include <filesystem>
#include <set>

using namespace quant_llm;
namespace fs = std::filesystem;

DType quant_llm::getDType(StorageType type) {
  switch (type) {
  case StorageType::F32:
    return DType::F32;
  case StorageType::F16:
    return DType::F16;
  case StorageType::BF16:
    return DType::BF16;
  }
  return DType::F32;
}

static bool isFile(const fs::path &path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

/// The file with the weights of a model directory.
static Result<std::string> findWeights(const fs::path &directory) {
  // In the order of Transformers.
  for (const char *name : {"model.safetensors", "model.safetensors.index.json"})
    if (isFile(directory / name))
      return (directory / name).string();
  for (const char *name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (isFile(directory / name))
      return Status::error(
          "expected model.safetensors or model.safetensors.index.json in '" +
          directory.string() + "' but found only " + name +
          ", a pickle that can run code when it is read; load the model with "
          "Transformers and save it again to get safetensors");
  return Status::error(
      "expected model.safetensors or model.safetensors.index.json in '" +
      directory.string() + "' but found neither");
}

static bool endsWith(const std::string &text, const char *suffix) {
  const size_t length = std::strlen(suffix);
  return text.size() >= length &&
         text.compare(text.size() - length, length, suffix) == 0;
}

/// Fills in `tensor` from the archive, or says what is wrong with it.
static Status bind(const Archive &archive, StoredTensor &tensor) {
  Result<TensorInfo> info = archive.find(tensor.key);
  if (!info.ok())
    return info.status();
  if (info->shape != tensor.spec.shape)
    return Status::error(
        "tensor '" + tensor.key + "' in '" + archive.path() +
        "': expected the shape " + shapeToString(tensor.spec.shape) +
        " that config.json asks for but got " + shapeToString(info->shape));
  switch (info->dtype) {
  case DType::F32:
    tensor.type = StorageType::F32;
    return Status::success();
  case DType::F16:
    tensor.type = StorageType::F16;
    return Status::success();
  case DType::BF16:
    tensor.type = StorageType::BF16;
    return Status::success();
  default:
    return Status::error("tensor '" + tensor.key + "' in '" + archive.path() +
                         "': expected type F32, F16 or BF16 but got " +
                         std::string(getDTypeName(info->dtype)));
  }
}

/// Whether two tensors hold the same bytes.
static bool sameData(const Archive &archive, const std::string &a,
                     const std::string &b) {
  Result<TensorInfo> first = archive.find(a), second = archive.find(b);
  return first.ok() && second.ok() && first->dtype == second->dtype &&
         first->shape == second->shape && first->bytes == second->bytes &&
         std::memcmp(first->data, second->data, first->bytes) == 0;
}

static Result<Checkpoint> openHuggingFace(const fs::path &directory) {
  const fs::path configPath = directory / "config.json";
  std::error_code error;
  if (!fs::exists(configPath, error))
    return Status::error(
        "expected a file config.json in '" + directory.string() +
        "'; give the directory of a Hugging Face model or a GGUF file");
  Result<MappedFile> text = MappedFile::open(configPath.string());
  if (!text.ok())
    return text.status();

  Checkpoint checkpoint;
  Result<ModelConfig> config = parseHuggingFaceConfig(
      std::string_view(reinterpret_cast<const char *>(text->data()),
                       text->size()),
      &checkpoint.warnings);
  if (!config.ok())
    return config.status().withContext("'" + configPath.string() + "'");
  for (std::string &warning : checkpoint.warnings)
    warning = "'" + configPath.string() + "': " + warning;
  checkpoint.config = config.take();

  Result<std::string> weights = findWeights(directory);
  if (!weights.ok())
    return weights.status();
  Result<std::unique_ptr<Archive>> archive = Archive::open(*weights);
  if (!archive.ok())
    return archive.status();
  checkpoint.archive = archive.take();
  const Archive &stored = *checkpoint.archive;
  if (stored.format() == Archive::Format::GGUF)
    return Status::error(
        "expected safetensors in '" + *weights +
        "' but got a GGUF file; give its path instead of the directory");

  const std::string embedding = "model.embed_tokens.weight";
  const std::string head = "lm_head.weight";
  std::set<std::string> used;
  for (TensorSpec &spec : listTensors(checkpoint.config)) {
    StoredTensor tensor;
    tensor.key = spec.name;
    tensor.spec = std::move(spec);
    if (!stored.contains(tensor.key)) {
      if (tensor.spec.role == TensorRole::Embedding &&
          checkpoint.config.tiedEmbeddings && stored.contains(head)) {
        tensor.key = head;
      } else {
        std::string message = "expected a tensor '" + tensor.key + "' in '" +
                              *weights + "' but there is none";
        if (tensor.spec.role == TensorRole::Head && stored.contains(embedding))
          message += "; if the output projection is the embedding table, set "
                     "'tie_word_embeddings' to true in config.json";
        else if (stored.contains("embed_tokens.weight"))
          message += "; the file holds a base model without output projection";
        return Status::error(message);
      }
    }
    if (Status status = bind(stored, tensor); !status.ok())
      return status;
    used.insert(tensor.key);
    checkpoint.tensors.push_back(std::move(tensor));
  }

  // Tied, but both stored: fine if they agree. Versions of Transformers differ
  // in which of two different ones they use, so neither choice would be right.
  if (checkpoint.config.tiedEmbeddings && used.count(embedding) &&
      stored.contains(head)) {
    if (!sameData(stored, embedding, head))
      return Status::error("'tie_word_embeddings' is true in '" +
                           configPath.string() + "', but the tensors '" +
                           embedding + "' and '" + head + "' of '" + *weights +
                           "' differ; set it to false to use both, or remove "
                           "the one that is wrong");
    used.insert(head);
  }

  std::vector<std::string> extra;
  for (const std::string &name : stored.names())
    if (!used.count(name) && !endsWith(name, "rotary_emb.inv_freq"))
      extra.push_back(name);
  constexpr size_t shown = 5;
  for (size_t i = 0; i < extra.size() && i < shown; ++i)
    checkpoint.warnings.push_back(
        "tensor '" + printable(extra[i]) + "' in '" + *weights +
        "' is ignored: the model described by config.json "
        "has no such tensor");
  if (extra.size() > shown)
    checkpoint.warnings.push_back(std::to_string(extra.size() - shown) +
                                  " more tensors in '" + *weights +
                                  "' are ignored");
  return checkpoint;
}

Result<Checkpoint> quant_llm::openCheckpoint(const std::string &path,
                                             StorageType blockType) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    return Status::error(
        "expected a Hugging Face model directory or a GGUF file but '" + path +
        "' does not exist");
  if (fs::is_directory(status))
    return openHuggingFace(path);

  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok())
    return file.status();
  if (file->size() < 4 || std::memcmp(file->data(), "GGUF", 4) != 0) {
    std::string message =
        "expected a Hugging Face model directory or a GGUF file but '" + path +
        "' is neither";
    if (endsWith(path, ".safetensors") || endsWith(path, ".json"))
      message += "; give the directory that holds it and config.json";
    return Status::error(message);
  }
  return openGGUFCheckpoint(path, blockType);
}
