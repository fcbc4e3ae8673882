//===- Json.h - JSON from untrusted text ------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_JSON_H
#define QUANT_LLM_SUPPORT_JSON_H

#include "quant-llm/Support/Status.h"

#include <nlohmann/json.hpp>

#include <string_view>

namespace quant_llm {

/// Parses one JSON value. Errors (no exceptions) for anything that is not valid
/// JSON in valid UTF-8, for keys repeated in one object and for nesting deeper
/// than `maxDepth`. Objects come out sorted by key.
Result<nlohmann::json> parseJson(std::string_view text, unsigned maxDepth = 64);

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_JSON_H
