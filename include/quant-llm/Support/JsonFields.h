//===- JsonFields.h - The fields of a JSON object ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_JSONFIELDS_H
#define QUANT_LLM_SUPPORT_JSONFIELDS_H

#include "quant-llm/Support/Json.h"

#include <set>
#include <string>
#include <vector>

namespace quant_llm {

/// Reads the fields of one JSON object. Keeps the first error and returns
/// defaults after it, so that a reader can be written straight down. The object
/// must outlive the reader.
class JsonFields {
public:
  /// `where` precedes every message.
  JsonFields(const nlohmann::json &object, std::string where);

  const Status &status() const { return failure; }
  bool ok() const { return failure.ok(); }
  void fail(const std::string &message);
  /// An error if the object has fields that nobody has asked for.
  const Status &rejectOthers();

  /// Null if there is no such field.
  const nlohmann::json *find(const char *name);
  const nlohmann::json *require(const char *name);

  std::string text(const char *name);
  std::string textOr(const char *name, std::string otherwise);
  int64_t integer(const char *name, int64_t low, int64_t high);
  int64_t integerOr(const char *name, int64_t otherwise, int64_t low,
                    int64_t high);
  bool booleanOr(const char *name, bool otherwise);
  /// The elements of an array; arrayOr has none where there is no such field.
  std::vector<const nlohmann::json *> array(const char *name);
  std::vector<const nlohmann::json *> arrayOr(const char *name);
  std::vector<std::string> texts(const char *name);

  /// @{ Values that have been found, with the name that messages give them.
  std::string asText(const nlohmann::json &value, const char *name);
  int64_t asInteger(const nlohmann::json &value, const char *name, int64_t low,
                    int64_t high);
  std::vector<const nlohmann::json *> asArray(const nlohmann::json &value,
                                              const char *name);
  /// @}

private:
  const nlohmann::json &object;
  std::string where;
  std::set<std::string> known;
  Status failure;
};

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_JSONFIELDS_H
