/*===- Support.h - Errors, buffers, callbacks of the C API --------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
|*===----------------------------------------------------------------------===*|
|*                                                                            *|
|* The C API of quant-llm has two layers. The lower one takes and returns     *|
|* bytes: modules as text or bytecode, descriptions as JSON; a caller needs   *|
|* no MLIR (Compile.h, Model.h). The upper one holds handles of what is too   *|
|* large or too slow to rebuild: engines and tensors (Runtime.h).             *|
|*                                                                            *|
|* Conventions: every function that can fail returns a QuantLLMStatus and     *|
|* takes as last argument where to put an error (or NULL). Objects that a     *|
|* function hands out belong to the caller, who destroys them; NULL may be    *|
|* destroyed. Results are only written on success. Strings are UTF-8 and end  *|
|* in NUL. Unless said otherwise a function may be called from any thread.    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_SUPPORT_H
#define QUANT_LLM_C_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QUANT_LLM_C_EXPORTED __attribute__((visibility("default")))
#else
#define QUANT_LLM_C_EXPORTED
#endif

typedef enum QuantLLMStatus {
  QUANT_LLM_OK = 0,
  /* A file, a module, an option or an argument is wrong. */
  QUANT_LLM_INVALID_INPUT = 1,
  /* Memory ran out. */
  QUANT_LLM_OUT_OF_MEMORY = 2,
  /* A fault of the library; the message belongs into a report of it. */
  QUANT_LLM_INTERNAL_ERROR = 3,
} QuantLLMStatus;

typedef enum QuantLLMSeverity {
  QUANT_LLM_ERROR = 0,
  QUANT_LLM_WARNING = 1,
  QUANT_LLM_REMARK = 2,
  QUANT_LLM_NOTE = 3,
} QuantLLMSeverity;

/* A message of the compiler. The strings live as long as what they came from:
 * the error, or the call of the handler. */
typedef struct QuantLLMDiagnostic {
  QuantLLMSeverity severity;
  /* Such as `model.mlir:3:5`; empty if unknown. */
  const char *location;
  const char *message;
} QuantLLMDiagnostic;

/* What went wrong: one message for people, and the diagnostics behind it. */
typedef struct QuantLLMError QuantLLMError;

QUANT_LLM_C_EXPORTED const char *
quantLLMErrorGetMessage(const QuantLLMError *error);
QUANT_LLM_C_EXPORTED size_t
quantLLMErrorGetNumDiagnostics(const QuantLLMError *error);
/* An empty note for an index out of range. */
QUANT_LLM_C_EXPORTED QuantLLMDiagnostic
quantLLMErrorGetDiagnostic(const QuantLLMError *error, size_t index);
QUANT_LLM_C_EXPORTED void quantLLMErrorDestroy(QuantLLMError *error);

/* Bytes that a function handed out. A NUL follows the last one. */
typedef struct QuantLLMBuffer QuantLLMBuffer;

QUANT_LLM_C_EXPORTED const char *
quantLLMBufferGetData(const QuantLLMBuffer *buffer);
QUANT_LLM_C_EXPORTED size_t quantLLMBufferGetSize(const QuantLLMBuffer *buffer);
QUANT_LLM_C_EXPORTED void quantLLMBufferDestroy(QuantLLMBuffer *buffer);

/* How long work reports. The handlers are called while the function that was
 * given them runs, one call at a time; each may be NULL. */
typedef struct QuantLLMHandlers {
  /* `done` of `total` units of the stage are done; `item` is the last one. */
  void (*progress)(void *userData, const char *stage, const char *item,
                   uint64_t done, uint64_t total);
  /* Remarks and warnings of work that succeeds; errors become the error. */
  void (*diagnostic)(void *userData, const QuantLLMDiagnostic *diagnostic);
  void *userData;
  /* Asked where progress is told, and before files appear. If it returns
   * another number than 0, the function fails and leaves no files. */
  int (*shouldStop)(void *userData);
} QuantLLMHandlers;

/* The version of quant-llm, such as "0.1.0". */
QUANT_LLM_C_EXPORTED const char *quantLLMGetVersion(void);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_SUPPORT_H */
