//===- Status.h - Errors as values for the MLIR-free libraries --*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The libraries below MLIR (Numerics, Formats, Runtime) must not depend on
// LLVM, and user input must never reach an assertion or an exception. They
// return these two types instead: a message says what was expected, what was
// found and what to do, in lower case and without a final period.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_STATUS_H
#define QUANT_LLM_SUPPORT_STATUS_H

#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace quant_llm {

/// Success, or an error message.
class [[nodiscard]] Status {
public:
  /// Success.
  Status() = default;
  static Status success() { return Status(); }
  static Status error(std::string message) {
    Status status;
    status.text = std::move(message);
    return status;
  }

  bool ok() const { return !text.has_value(); }
  /// The message; empty on success.
  const std::string &message() const {
    static const std::string none;
    return text ? *text : none;
  }

  /// The same error with "<prefix>: " before it; success stays success.
  Status withContext(const std::string &prefix) const {
    return ok() ? Status() : error(prefix + ": " + *text);
  }

private:
  std::optional<std::string> text;
};

/// A value of type T, or an error message.
template <typename T>
class [[nodiscard]] Result {
public:
  Result(T value) : value(std::move(value)) {}
  Result(Status status) : failure(std::move(status)) {
    assert(!failure.ok() && "a Result without value needs an error");
  }

  bool ok() const { return value.has_value(); }
  const Status &status() const { return failure; }
  const std::string &message() const { return failure.message(); }

  T &operator*() { return *value; }
  const T &operator*() const { return *value; }
  T *operator->() { return &*value; }
  const T *operator->() const { return &*value; }
  /// Moves the value out; the result must be ok().
  T take() { return std::move(*value); }

private:
  std::optional<T> value;
  Status failure;
};

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_STATUS_H
