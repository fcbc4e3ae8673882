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
 * "tensors": [{"name", "dtype", "shape", "bytes"}], "metadata": {...}}. `dtype`
 * is that of safetensors, or of ggml for blocks ("Q4_1"). The metadata are
 * those of a safetensors file. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMDescribeArchive(
    const char *path, QuantLLMBuffer **json, QuantLLMError **error);

/* All metadata of a GGUF file (the tokenizer among them) as a JSON object. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMReadGGUFMetadata(
    const char *path, QuantLLMBuffer **json, QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_MODEL_H */
