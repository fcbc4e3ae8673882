/*===- Model.h - Models and files of weights ----------------------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_MODEL_H
#define QUANT_LLM_C_MODEL_H

#include "quant-llm-c/Support.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a safetensors file, the index of a sharded one or a GGUF file holds, as
 * JSON: {"path", "format": "safetensors" | "sharded safetensors" | "gguf",
 * "files": ["path"], "tensors": [{"name", "dtype", "shape", "bytes"}],
 * "metadata": {...}}. The files are the one, or the index and every shard.
 * `dtype` is that of safetensors, or of ggml for blocks ("Q4_1"). The metadata
 * are those of a safetensors file. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMDescribeArchive(
    const char *path, QuantLLMBuffer **json, QuantLLMError **error);

/* All metadata of a GGUF file (the tokenizer among them) as a JSON object. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMReadGGUFMetadata(
    const char *path, QuantLLMBuffer **json, QuantLLMError **error);

typedef struct QuantLLMImportOptions {
  /* Nonzero: quantized blocks of a GGUF file become F32, else F16. */
  int blocksAsF32;
  QuantLLMHandlers handlers;
} QuantLLMImportOptions;

/* Imports a Hugging Face directory or a GGUF file `input` to the module
 * `output`, a file ending in .mlir. The weights of a directory stay where they
 * are; those of a GGUF file are dequantized to a safetensors file beside
 * `output`, with a config.json. All files appear together or none. `options`
 * may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMImportModel(
    const char *input, const char *output, const QuantLLMImportOptions *options,
    QuantLLMError **error);

typedef struct QuantLLMQuantizeOptions {
  /* The pipeline is `quant-llm-<recipe>`; NULL means "finequant". */
  const char *recipe;
  /* Options of the pipeline as text, such as "alpha=0.7 sizes=64,128"; NULL
   * means none. */
  const char *options;
  QuantLLMHandlers handlers;
} QuantLLMQuantizeOptions;

/* Quantizes the model of the module file `input` into the directory `output`,
 * which must exist: model.mlir, model.safetensors with all weights, and
 * report.json. `options` may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMQuantizeModel(
    const char *input, const char *output,
    const QuantLLMQuantizeOptions *options, QuantLLMError **error);

/* What can be said of the recipe and its options without a model: values are
 * parsed and checked, and the passes look at them as far as
 * quantLLMCheckPipeline() lets them. `options` may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMCheckQuantizeOptions(
    const QuantLLMQuantizeOptions *options, QuantLLMError **error);

/* What a module (text or bytecode) declares, as JSON: {"archives": [{"name",
 * "path"}], "parameters": [{"name", "archive", "key", "shape", "element_type",
 * "scheme": text or null, "planned_scheme": text or null, "bytes"}],
 * "functions": [{"name", "type"}]}. `name`
 * stands for the file and may be NULL; paths of archives come out resolved
 * against its directory. `bytes` counts what is stored, scales included;
 * `planned_scheme` is what a linear is to quantize a dense weight to. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMDescribeModule(const char *source, size_t sourceSize, const char *name,
                       QuantLLMBuffer **json, QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_MODEL_H */
