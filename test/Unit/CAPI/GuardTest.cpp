//===- GuardTest.cpp - Exceptions become errors of the C API --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Internal.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>

using namespace quant_llm;

namespace {

/// What a caller sees of a function of the API with this body.
template <typename Body>
std::pair<QuantLLMStatus, std::string> run(Body body) {
  QuantLLMError *error = nullptr;
  QuantLLMStatus status = runGuarded(&error, body);
  // Without a place for the error the status is the same.
  EXPECT_EQ(runGuarded(nullptr, body), status);
  std::unique_ptr<QuantLLMError> owned(error);
  EXPECT_EQ(error == nullptr, status == QUANT_LLM_OK);
  return {status, error ? error->message : ""};
}

using Seen = std::pair<QuantLLMStatus, std::string>;

TEST(GuardTest, Outcomes) {
  EXPECT_EQ(run([]() -> Outcome { return {}; }), (Seen{QUANT_LLM_OK, ""}));
  EXPECT_EQ(run([]() -> Outcome { return Status::error("wrong"); }),
            (Seen{QUANT_LLM_INVALID_INPUT, "wrong"}));
}

TEST(GuardTest, OnlyMemoryIsOutOfMemory) {
  EXPECT_EQ(run([]() -> Outcome { throw std::bad_alloc(); }),
            (Seen{QUANT_LLM_OUT_OF_MEMORY, "out of memory"}));
  EXPECT_EQ(run([]() -> Outcome { throw std::bad_array_new_length(); }),
            (Seen{QUANT_LLM_OUT_OF_MEMORY, "out of memory"}));
  EXPECT_EQ(
      run([]() -> Outcome { throw std::out_of_range("no such element"); }),
      (Seen{QUANT_LLM_INTERNAL_ERROR, "internal error: no such element"}));
  EXPECT_EQ(
      run([]() -> Outcome { throw 42; }),
      (Seen{QUANT_LLM_INTERNAL_ERROR, "internal error: unknown exception"}));
}

} // namespace
