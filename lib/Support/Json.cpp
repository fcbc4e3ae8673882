//===- Json.cpp -----------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Json.h"

#include <string>
#include <utility>
#include <vector>

using namespace quant_llm;
using nlohmann::json;

namespace {

/// Builds the value from parser events; unlike the parser's own builder it sees
/// every key and every level as they come.
class Builder : public nlohmann::json_sax<json> {
public:
  explicit Builder(unsigned maxDepth) : maxDepth(maxDepth) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t &) override {
    return add(value);
  }
  bool string(string_t &value) override { return add(std::move(value)); }
  bool binary(binary_t &) override { return false; } // not in JSON text

  bool start_object(size_t) override { return push(json::object()); }
  bool start_array(size_t) override { return push(json::array()); }
  bool end_object() override { return pop(); }
  bool end_array() override { return pop(); }

  bool key(string_t &value) override {
    if (stack.back()->contains(value)) {
      error = "expected every key once in an object but got " +
              json(value).dump() + " twice";
      return false;
    }
    pendingKey = std::move(value);
    return true;
  }

  bool parse_error(size_t, const std::string &,
                   const nlohmann::detail::exception &exception) override {
    // "[json.exception.parse_error.101] parse error at line 1, ...": the part
    // in brackets names a class of the library.
    std::string text = exception.what();
    size_t bracket = text.find("] ");
    if (bracket != std::string::npos)
      text.erase(0, bracket + 2);
    // It quotes the offending token, which may be long.
    if (text.size() > 300)
      text = text.substr(0, 300) + "...";
    // The text quotes the input: keep messages printable whatever it holds.
    for (char &c : text)
      if (static_cast<unsigned char>(c) < 0x20 ||
          static_cast<unsigned char>(c) > 0x7e)
        c = '?';
    error = "expected valid JSON: " + text;
    return false;
  }

  json root;
  std::string error;

private:
  json *place(json value) {
    if (stack.empty()) {
      root = std::move(value);
      return &root;
    }
    json &parent = *stack.back();
    if (parent.is_object())
      return &(parent[pendingKey] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  bool add(json value) {
    place(std::move(value));
    return true;
  }

  bool push(json value) {
    if (stack.size() >= maxDepth) {
      error = "expected JSON nested at most " + std::to_string(maxDepth) +
              " levels deep";
      return false;
    }
    stack.push_back(place(std::move(value)));
    return true;
  }

  bool pop() {
    stack.pop_back();
    return true;
  }

  const unsigned maxDepth;
  /// Open objects and arrays. The pointers stay valid: only the innermost one
  /// grows.
  std::vector<json *> stack;
  std::string pendingKey;
};

} // namespace

Result<json> quant_llm::parseJson(std::string_view text, unsigned maxDepth) {
  // The parser takes a zero byte for the end of the text.
  if (text.find('\0') != std::string_view::npos)
    return Status::error("expected valid JSON: the text holds a zero byte");
  Builder builder(maxDepth);
  if (!json::sax_parse(text.begin(), text.end(), &builder))
    return Status::error(builder.error);
  return std::move(builder.root);
}
