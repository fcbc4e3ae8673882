//===- JsonTest.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Json.h"
#include "quant-llm/Support/CheckedMath.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <limits>

using namespace quant_llm;
using namespace quant_llm::test;

TEST(JsonTest, ParsesEveryKindOfValue) {
  Result<nlohmann::json> value = parseJson(
      R"( {"a": [1, -2, 3.5, 1e300, true, false, null], "b": {"c": "\u00e4"}} )");
  ASSERT_TRUE(value.ok()) << value.message();
  EXPECT_EQ(value->dump(),
            R"({"a":[1,-2,3.5,1e+300,true,false,null],"b":{"c":"ä"}})");
  EXPECT_EQ(*parseJson("17"), 17);
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const char *text :
       {"", " ", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "nul", "'a'", "1 2",
        "[NaN]", "// comment\n1", "{\"a\":1}{}", "\"\\ud800\"", "\"a\nb\""})
    expectError(parseJson(text), "expected valid JSON");
  expectError(parseJson("\"\xff\""), "expected valid JSON");
  expectError(parseJson("\"\xc0\x80\""), "expected valid JSON");
  expectError(parseJson("1e999"), "expected valid JSON");
  expectError(parseJson(std::string_view("{}\0{}", 5)), "zero byte");
  // A long token is not repeated in full.
  EXPECT_LT(parseJson("\"" + std::string(100000, 'x')).message().size(), 500u);
}

TEST(JsonTest, RefusesDuplicateKeys) {
  expectError(parseJson(R"({"a": 1, "b": 2, "a": 3})"), "got \"a\" twice");
  expectError(parseJson(R"([{"x": {"a": 1, "\u0061": 3}}])"), "twice");
  EXPECT_TRUE(
      parseJson(R"([{"a": 1}, {"a": 1}, {"b": {"a": 1}, "a": 2}])").ok());
}

TEST(JsonTest, BoundsNesting) {
  auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(parseJson(nested(64)).ok());
  expectError(parseJson(nested(65)), "nested at most 64 levels");
  expectError(parseJson(nested(1000000)), "nested at most 64 levels");
  expectError(parseJson(nested(3), 2), "nested at most 2 levels");
}

TEST(CheckedMathTest, NoticesOverflow) {
  constexpr uint64_t big = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(checkedMul<uint64_t>(big, 1), big);
  EXPECT_EQ(checkedMul<uint64_t>(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(checkedAdd<uint64_t>(big, 1), std::nullopt);
  EXPECT_EQ(checkedAdd<int64_t>(std::numeric_limits<int64_t>::min(), -1),
            std::nullopt);
  EXPECT_EQ(checkedMul<int64_t>(-3, 4), -12);
}
