//===- Support.cpp - Errors and buffers of the C API ----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Internal.h"

const char *quantLLMErrorGetMessage(const QuantLLMError *error) {
  return error ? error->message.c_str() : "";
}

size_t quantLLMErrorGetNumDiagnostics(const QuantLLMError *error) {
  return error ? error->diagnostics.size() : 0;
}

QuantLLMDiagnostic quantLLMErrorGetDiagnostic(const QuantLLMError *error,
                                              size_t index) {
  if (index >= quantLLMErrorGetNumDiagnostics(error))
    return {QUANT_LLM_NOTE, "", ""};
  const quant_llm::StoredDiagnostic &diagnostic = error->diagnostics[index];
  return {diagnostic.severity, diagnostic.location.c_str(),
          diagnostic.message.c_str()};
}

void quantLLMErrorDestroy(QuantLLMError *error) { delete error; }

const char *quantLLMBufferGetData(const QuantLLMBuffer *buffer) {
  return buffer ? buffer->bytes.c_str() : "";
}

size_t quantLLMBufferGetSize(const QuantLLMBuffer *buffer) {
  return buffer ? buffer->bytes.size() : 0;
}

void quantLLMBufferDestroy(QuantLLMBuffer *buffer) { delete buffer; }

const char *quantLLMGetVersion(void) { return QUANT_LLM_VERSION; }
