//===- Import.h - From a checkpoint to a module -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_IMPORT_IMPORT_H
#define QUANT_LLM_IMPORT_IMPORT_H

#include "quant-llm/Import/Checkpoint.h"
#include "quant-llm/Import/ModelBuilder.h"

#include <functional>
#include <string>

namespace quant_llm {

struct ImportOptions {
  /// What tensors in quantized blocks of a GGUF file are dequantized to.
  StorageType blockType = StorageType::F16;
  /// Told how far the conversion of weights is.
  ProgressCallback progress;
  /// Told what was noticed and ignored.
  std::function<void(const std::string &message)> warn;
};

/// Imports a model directory or a GGUF file `input` to the file `output`
/// (ending in .mlir; "-" is standard output, for a model directory only).
///
/// The weights of a directory stay where they are and the module refers to
/// them, by a path relative to `output` where the two have a directory in
/// common. Those of a GGUF file are dequantized to a safetensors file beside
/// `output`, of the same name, with a config.json for Transformers. All files
/// appear together at the end, or none; files that the importer did not write
/// are not replaced, except `output` itself.
Status importModel(mlir::MLIRContext &context, const std::string &input,
                   const std::string &output,
                   const ImportOptions &options = {});

/// A readable description of a checkpoint: configuration and tensors.
std::string describeCheckpoint(const Checkpoint &checkpoint);

} // namespace quant_llm

#endif // QUANT_LLM_IMPORT_IMPORT_H
