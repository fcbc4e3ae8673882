//===- Checkpoint.h - A model on disk ---------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Opens a Hugging Face model directory or a GGUF file, checks that it holds
// every tensor that its description asks for, and says where each one is. No
// MLIR.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_IMPORT_CHECKPOINT_H
#define QUANT_LLM_IMPORT_CHECKPOINT_H

#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Import/ModelConfig.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quant_llm {

/// The float types that weights are stored in.
enum class StorageType { F32, F16, BF16 };

/// A tensor of the model and where it is stored.
struct StoredTensor {
  TensorSpec spec;
  /// The key in the archive of the imported model, which also names the
  /// parameter. Differs from `spec.name` where the table of tied embeddings is
  /// stored as the output projection.
  std::string key;
  StorageType type = StorageType::F32;

  /// The name in the file that was opened, if it has to be converted (GGUF).
  std::string source;
  /// Not 0: the rows of each of this many heads are interleaved as llama.cpp
  /// does it for its rotary embedding (row 2i + h holds row h * headDim/2 + i).
  int64_t interleavedHeads = 0;
};

struct Checkpoint {
  enum class Format { HuggingFace, GGUF };

  Format format = Format::HuggingFace;
  ModelConfig config;
  /// The weights: a safetensors file, the index of a sharded one, or the GGUF
  /// file.
  std::unique_ptr<Archive> archive;
  /// In the order of listTensors(config).
  std::vector<StoredTensor> tensors;
  /// What was noticed and ignored.
  std::vector<std::string> warnings;
};

/// Opens a model directory or a GGUF file. Tensors in blocks of a GGUF file get
/// the type `blockType`.
Result<Checkpoint> openCheckpoint(const std::string &path,
                                  StorageType blockType = StorageType::F16);

/// Called with the bytes done and the bytes in all. An error ends the work.
using ProgressCallback = std::function<Status(uint64_t done, uint64_t total)>;

/// Writes the tensors of a GGUF checkpoint as safetensors with Hugging Face
/// names and row order. Memory is bounded by a fixed buffer. The file is
/// complete but appears only when finish() is called on the result.
Result<SafetensorsWriter> convertWeights(const Checkpoint &checkpoint,
                                         const std::string &path,
                                         const ProgressCallback &progress = {});

/// The metadata key that marks safetensors files written by the importer.
extern const char *const kImportedMetadataKey;

/// "F32", "F16" or "BF16".
DType getDType(StorageType type);

} // namespace quant_llm

#endif // QUANT_LLM_IMPORT_CHECKPOINT_H
