/*===- Runtime.h - Running compiled modules -----------------------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_RUNTIME_H
#define QUANT_LLM_C_RUNTIME_H

#include "quant-llm-c/Support.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Contiguous row-major data. `dtype` is the name of the element type in
 * safetensors: F32, F16, BF16, I64, U8, BOOL, ... */
typedef struct QuantLLMTensorView {
  const char *dtype;
  size_t rank;
  const int64_t *shape;
  void *data;
} QuantLLMTensorView;

/* A result of a call. */
typedef struct QuantLLMTensor QuantLLMTensor;

/* The view lives as long as the tensor. */
QUANT_LLM_C_EXPORTED QuantLLMTensorView
quantLLMTensorGetView(const QuantLLMTensor *tensor);
QUANT_LLM_C_EXPORTED size_t
quantLLMTensorGetNumBytes(const QuantLLMTensor *tensor);
QUANT_LLM_C_EXPORTED void quantLLMTensorDestroy(QuantLLMTensor *tensor);

typedef struct QuantLLMEngineOptions {
  /* Nonzero: the exact reference lowering instead of the fast kernels. */
  int reference;
  /* Threads of the kernels; 0 means $QUANT_LLM_THREADS or all cores. */
  int threads;
  /* Directory of relative paths of archives; NULL means that of the module's
   * file, or the working directory for a module from memory. */
  const char *baseDirectory;
  /* Nonzero: neither read nor write the cache of compiled objects. */
  int disableCache;
} QuantLLMEngineOptions;

/* A compiled module with its parameters bound. Calls on one engine exclude each
 * other. */
typedef struct QuantLLMEngine QuantLLMEngine;

/* Compiles a .mlir or .mlirbc file. `options` may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMEngineCreateFromFile(
    const char *path, const QuantLLMEngineOptions *options,
    QuantLLMEngine **engine, QuantLLMError **error);
/* Compiles a module in memory (text or bytecode); `name` stands for the file in
 * messages and may be NULL. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMEngineCreateFromMemory(
    const char *source, size_t sourceSize, const char *name,
    const QuantLLMEngineOptions *options, QuantLLMEngine **engine,
    QuantLLMError **error);
QUANT_LLM_C_EXPORTED void quantLLMEngineDestroy(QuantLLMEngine *engine);

/* JSON: {"functions": [{"name", "arguments": [{"dtype", "shape", "scalar"}],
 * "results": [the same], "aliases": [i or -1 per result]}], "from_cache",
 * "compile_seconds"}. A dynamic extent is -1. */
QUANT_LLM_C_EXPORTED QuantLLMStatus quantLLMEngineDescribe(
    const QuantLLMEngine *engine, QuantLLMBuffer **json, QuantLLMError **error);

typedef struct QuantLLMArgument {
  QuantLLMTensorView tensor;
  /* Nonzero: an argument that a result aliases may be overwritten; the result
   * then is the same memory. Otherwise it is copied first. */
  int inPlace;
} QuantLLMArgument;

/* The number of results of a function. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMEngineGetNumResults(const QuantLLMEngine *engine, const char *function,
                            size_t *numResults, QuantLLMError **error);

/* Calls a function. `results` has room for `resultCapacity` tensors, at least
 * as many as the function has results (quantLLMEngineGetNumResults). After an
 * error the contents of arguments passed in place are unspecified; they share
 * no memory with other arguments. */
QUANT_LLM_C_EXPORTED QuantLLMStatus
quantLLMEngineInvoke(QuantLLMEngine *engine, const char *function,
                     const QuantLLMArgument *arguments, size_t numArguments,
                     QuantLLMTensor **results, size_t resultCapacity,
                     size_t *numResults, QuantLLMError **error);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_RUNTIME_H */
