/*===- Torch.h - From modules to PyTorch --------------------------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_TORCH_H
#define QUANT_LLM_C_TORCH_H

#include "quant-llm-c/Support.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QuantLLMTorchPart {
  QUANT_LLM_TORCH_WHOLE = 0,
  /* What is in front of the blocks of a function, some blocks, and what is
   * behind them. */
  QUANT_LLM_TORCH_FRONT = 1,
  QUANT_LLM_TORCH_BLOCKS = 2,
  QUANT_LLM_TORCH_BACK = 3
} QuantLLMTorchPart;

typedef struct QuantLLMTorchOptions {
  /* NULL for the only function. */
  const char *function;
  QuantLLMTorchPart part;
  /* For QUANT_LLM_TORCH_BLOCKS, the indices of the first and the last one. */
  int64_t firstBlock, lastBlock;
  /* Nonzero: the inputs of linears pass through the argument `tap`. */
  int tap;
} QuantLLMTorchOptions;

/* Translates a function of a module (text or bytecode) to PyTorch source, as
 * JSON: {"source", "function", "inputs": [value], "outputs": [value],
 * "parameters": [key], "linears": [symbol of a weight], "blocks": [index]},
 * where a value is {"name", "id", "shape": [...] or null for a number, "dtype":
 * "float" | "int64" | ..., "slots": [begin, end] or null}. An id identifies a
 * value among all parts of the function; with slots, a part has only these
 * entries of its first dimension (its own part of a cache). `name` stands for
 * the file and may be NULL, as may `options`. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMTranslateToTorch(const char *source, size_t sourceSize,
                         const char *name, const QuantLLMTorchOptions *options,
                         QuantLLMBuffer **json, QuantLLMError **error);

/* What tells the model of a module (text or bytecode) apart from others: 64
 * hexadecimal digits, from the names and types of its parameters and a sample
 * of their bytes in their archives (docs/Calibration.md). `name` stands for the
 * file and may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMFingerprintModel(
    const char *source, size_t sourceSize, const char *name,
    QuantLLMBuffer **text, QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_TORCH_H */
