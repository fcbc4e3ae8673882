//===- JsonFields.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/JsonFields.h"

#include <optional>

using namespace quant_llm;
using nlohmann::json;

JsonFields::JsonFields(const json &object, std::string where)
    : object(object), where(std::move(where)) {
  if (!object.is_object())
    fail("expected an object but got " + std::string(object.type_name()));
}

void JsonFields::fail(const std::string &message) {
  if (failure.ok())
    failure = Status::error(where + ": " + message);
}

const Status &JsonFields::rejectOthers() {
  if (object.is_object())
    for (const auto &item : object.items())
      if (!known.count(item.key()))
        fail("expected no field '" + item.key() + "'");
  return failure;
}

const json *JsonFields::find(const char *name) {
  known.insert(name);
  if (!object.is_object())
    return nullptr;
  auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

const json *JsonFields::require(const char *name) {
  const json *field = find(name);
  if (!field)
    fail(std::string("expected a field '") + name + "'");
  return field;
}

std::string JsonFields::text(const char *name) {
  const json *field = require(name);
  return field ? asText(*field, name) : std::string();
}

std::string JsonFields::textOr(const char *name, std::string otherwise) {
  const json *field = find(name);
  return field ? asText(*field, name) : std::move(otherwise);
}

int64_t JsonFields::integer(const char *name, int64_t low, int64_t high) {
  const json *field = require(name);
  return field ? asInteger(*field, name, low, high) : low;
}

int64_t JsonFields::integerOr(const char *name, int64_t otherwise, int64_t low,
                              int64_t high) {
  const json *field = find(name);
  return field ? asInteger(*field, name, low, high) : otherwise;
}

bool JsonFields::booleanOr(const char *name, bool otherwise) {
  const json *field = find(name);
  if (!field)
    return otherwise;
  if (!field->is_boolean())
    fail(std::string("expected '") + name + "' to be true or false but got " +
         field->type_name());
  return field->is_boolean() && field->get<bool>();
}

std::vector<const json *> JsonFields::array(const char *name) {
  const json *field = require(name);
  return field ? asArray(*field, name) : std::vector<const json *>();
}

std::vector<const json *> JsonFields::arrayOr(const char *name) {
  const json *field = find(name);
  return field ? asArray(*field, name) : std::vector<const json *>();
}

std::vector<std::string> JsonFields::texts(const char *name) {
  std::vector<std::string> result;
  for (const json *element : array(name))
    result.push_back(asText(*element, name));
  return result;
}

std::string JsonFields::asText(const json &value, const char *name) {
  if (!value.is_string()) {
    fail(std::string("expected '") + name + "' to be text but got " +
         value.type_name());
    return {};
  }
  const std::string &text = value.get_ref<const std::string &>();
  if (text.empty() || text.find('\0') != std::string::npos) {
    fail(std::string("expected '") + name +
         "' to be text without zero bytes, and not empty");
    return {};
  }
  return text;
}

int64_t JsonFields::asInteger(const json &value, const char *name, int64_t low,
                              int64_t high) {
  std::optional<int64_t> number;
  if (value.is_number_unsigned()) {
    uint64_t read = value.get<uint64_t>();
    if (read <= static_cast<uint64_t>(INT64_MAX))
      number = static_cast<int64_t>(read);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  }
  if (number && *number >= low && *number <= high)
    return *number;
  std::string got = value.is_number() ? value.dump() : value.type_name();
  fail(std::string("expected '") + name + "' to be an integer from " +
       std::to_string(low) + " to " + std::to_string(high) + " but got " + got);
  return low;
}

std::vector<const json *> JsonFields::asArray(const json &value,
                                              const char *name) {
  std::vector<const json *> elements;
  if (!value.is_array()) {
    fail(std::string("expected '") + name + "' to be an array but got " +
         value.type_name());
    return elements;
  }
  for (const json &element : value)
    elements.push_back(&element);
  return elements;
}
