/*===- Compile.h - Modules as bytes in and out --------------------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_COMPILE_H
#define QUANT_LLM_C_COMPILE_H

#include "quant-llm-c/Support.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QuantLLMCompileOptions {
  /* Stands for the file in messages; relative paths of archives are resolved
   * against its directory. NULL means `<memory>` and the working directory. */
  const char *name;
  /* A textual pass pipeline, `builtin.module(...)` or a list of passes; NULL or
   * empty only parses and verifies. */
  const char *pipeline;
  /* Nonzero: MLIR bytecode comes out instead of text. */
  int bytecode;
  QuantLLMHandlers handlers;
} QuantLLMCompileOptions;

/* Parses and verifies a module (text or bytecode), runs a pipeline and prints
 * the module. `options` may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMCompile(const char *source, size_t sourceSize,
                const QuantLLMCompileOptions *options, QuantLLMBuffer **module,
                QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_COMPILE_H */
