//===- Internal.h - What the files of the C API share -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CAPI_INTERNAL_H
#define QUANT_LLM_LIB_CAPI_INTERNAL_H

#include "quant-llm-c/Support.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <vector>

namespace quant_llm {

struct StoredDiagnostic {
  QuantLLMSeverity severity;
  std::string location;
  std::string message;
};

} // namespace quant_llm

struct QuantLLMError {
  std::string message;
  std::vector<quant_llm::StoredDiagnostic> diagnostics;
};

struct QuantLLMBuffer {
  std::string bytes;
};

namespace quant_llm {

/// The text of a JSON value; what names in files hold besides UTF-8 is
/// replaced.
template <typename Json>
QuantLLMBuffer *makeBuffer(const Json &json) {
  return new QuantLLMBuffer{
      json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

/// What the body of a function of the API returns: success, or an error with
/// diagnostics.
struct Outcome {
  Outcome() = default;
  Outcome(Status status) : status(std::move(status)) {}

  Status status;
  std::vector<StoredDiagnostic> diagnostics;
};

/// Hands out an error of one message, or none if there is no memory for it.
inline QuantLLMStatus reportException(QuantLLMError **error,
                                      QuantLLMStatus status,
                                      const char *message,
                                      const char *detail = "") noexcept {
  if (!error)
    return status;
  try {
    *error = new QuantLLMError{std::string(message) + detail, {}};
  } catch (...) {
    *error = nullptr;
  }
  return status;
}

/// Runs the body of a function of the API. No exception may reach a C caller.
/// Our own code raises none, but the standard library does: about memory, which
/// is nobody's fault, and else about misuse, which is ours.
template <typename Body>
QuantLLMStatus runGuarded(QuantLLMError **error, Body body) {
  try {
    Outcome outcome = body();
    if (outcome.status.ok())
      return QUANT_LLM_OK;
    if (error)
      *error = new QuantLLMError{outcome.status.message(),
                                 std::move(outcome.diagnostics)};
    return QUANT_LLM_INVALID_INPUT;
  } catch (const std::bad_alloc &) {
    return reportException(error, QUANT_LLM_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &exception) {
    return reportException(error, QUANT_LLM_INTERNAL_ERROR,
                           "internal error: ", exception.what());
  } catch (...) {
    return reportException(error, QUANT_LLM_INTERNAL_ERROR,
                           "internal error: unknown exception");
  }
}

/// An error unless `pointer` is set.
inline Status checkNotNull(const void *pointer, const char *name) {
  return pointer ? Status::success()
                 : Status::error(std::string("expected '") + name +
                                 "' but got a null pointer");
}

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CAPI_INTERNAL_H
