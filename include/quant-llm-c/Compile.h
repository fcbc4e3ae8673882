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
 * the module. If that fails, files that passes wrote are taken back. `options`
 * may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMCompile(const char *source, size_t sourceSize,
                const QuantLLMCompileOptions *options, QuantLLMBuffer **module,
                QuantLLMError **error);

/* What can be said of a pipeline without a module: its text and the values of
 * options are parsed, and those passes that look at their options before they
 * run (Pass::initialize) do. Other passes look at theirs when they run, as all
 * do at files that options name: a pipeline that is fine here may still fail on
 * every module. No pass is run. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMCheckPipeline(const char *pipeline, QuantLLMError **error);

/* `text` as the value of a pass option in a pipeline, in quotation marks where
 * it needs them. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMQuoteOption(const char *text,
                                                        QuantLLMBuffer **quoted,
                                                        QuantLLMError **error);

/* A recipe (docs/Recipes.md) is the JSON object {"name", "summary", "pipeline",
 * "options": [{"name", "default", "help"}], "calibration": bool}; options may
 * have "choices", "minimum" and "maximum" too. Its values are a JSON object of
 * texts by name. The first function checks the recipe and values of options;
 * `values` may be NULL. The second one makes the pass pipeline, for which
 * values have the files "output", "report", "calibration" and "scratch" too, as
 * far as the recipe uses them. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMCheckRecipe(const char *recipe,
                                                        const char *values,
                                                        QuantLLMError **error);
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMRenderRecipe(const char *recipe, const char *values,
                     QuantLLMBuffer **pipeline, QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_COMPILE_H */
