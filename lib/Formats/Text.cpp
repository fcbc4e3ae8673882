//===- Text.cpp -----------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Text.h"

#include <cstddef>
#include <cstdint>

using namespace quant_llm;

static const char hexDigits[] = "0123456789abcdef";

bool quant_llm::isValidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    uint8_t lead = static_cast<uint8_t>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    // Number of bytes that follow, and the range of the first of them, which
    // excludes overlong forms, surrogates and values above U+10FFFF.
    size_t follow;
    uint8_t low = 0x80, high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
      follow = 1;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      follow = 2;
      if (lead == 0xe0)
        low = 0xa0;
      if (lead == 0xed)
        high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      follow = 3;
      if (lead == 0xf0)
        low = 0x90;
      if (lead == 0xf4)
        high = 0x8f;
    } else {
      return false;
    }
    if (follow > text.size() - i - 1)
      return false;
    for (size_t k = 1; k <= follow; ++k) {
      uint8_t byte = static_cast<uint8_t>(text[i + k]);
      if (byte < low || byte > high)
        return false;
      low = 0x80;
      high = 0xbf;
    }
    i += follow + 1;
  }
  return true;
}

void quant_llm::appendJsonString(std::string &out, std::string_view text) {
  auto needsEscape = [](char c) {
    return c == '"' || c == '\\' || static_cast<uint8_t>(c) < 0x20;
  };
  out += '"';
  while (!text.empty()) {
    size_t plain = 0;
    while (plain < text.size() && !needsEscape(text[plain]))
      ++plain;
    out.append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty())
      break;
    char c = text.front();
    text.remove_prefix(1);
    switch (c) {
    case '"':
    case '\\':
      out += '\\';
      out += c;
      break;
    case '\n':
      out += "\\n";
      break;
    case '\r':
      out += "\\r";
      break;
    case '\t':
      out += "\\t";
      break;
    default:
      out += "\\u00";
      out += hexDigits[static_cast<uint8_t>(c) >> 4];
      out += hexDigits[c & 15];
    }
  }
  out += '"';
}

std::string quant_llm::makePrintable(std::string_view text) {
  constexpr size_t longest = 300;
  std::string out;
  for (char c : text.substr(0, longest)) {
    uint8_t byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += "\\x";
      out += hexDigits[byte >> 4];
      out += hexDigits[byte & 15];
    } else {
      out += c;
    }
  }
  return text.size() > longest ? out + "..." : out;
}

std::string quant_llm::quoteForMessage(std::string_view text) {
  return "'" + makePrintable(text) + "'";
}
