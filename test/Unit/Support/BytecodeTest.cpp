//===- BytecodeTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Bytecode.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <string>

using namespace quant_llm;

namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text("ML\xefR", 4);
  for (int value : values)
    text += static_cast<char>(value);
  return text;
}

void expectFault(std::initializer_list<int> values, const char *message) {
  Status status = checkBytecode(bytes(values));
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find(message), std::string::npos)
      << status.message();
}

} // namespace

TEST(BytecodeTest, TextIsNotBytecode) {
  EXPECT_FALSE(isBytecode("module {}"));
  EXPECT_FALSE(isBytecode(""));
  EXPECT_FALSE(isBytecode(std::string("ML\xef", 3)));
  EXPECT_TRUE(isBytecode(bytes({})));
  EXPECT_TRUE(checkSource("module {}").ok());
  EXPECT_FALSE(checkBytecode("module {}").ok());
}

TEST(BytecodeTest, TextIsNotNestedTooDeeply) {
  auto repeat = [](size_t count, const std::string &text) {
    std::string result;
    for (size_t i = 0; i < count; ++i)
      result += text;
    return result;
  };
  for (const char *bracket : {"[", "(", "{\n", "!a<", "- ", "{ \"]\", //]\n"}) {
    EXPECT_TRUE(checkSource(repeat(512, bracket)).ok()) << bracket;
    EXPECT_FALSE(checkSource(repeat(513, bracket)).ok()) << bracket;
  }
  EXPECT_EQ(checkSource("\n\n" + repeat(600, "[")).message(),
            "expected brackets, operators and aliases nested at most 512 "
            "levels deep but there are more at line 3");
  for (const char *expression :
       {"+ d0 ", "* 2 ", "- s0 ", "mod 5", "floordiv 3 ", "ceildiv 3 "}) {
    EXPECT_TRUE(checkSource("(d0 " + repeat(512, expression) + ")").ok())
        << expression;
    EXPECT_FALSE(checkSource("(d0 " + repeat(513, expression) + ")").ok())
        << expression;
  }
  auto aliases = [](char sigil, int count) {
    std::string result = sigil + std::string("a0 = i32\n");
    for (int i = 1; i <= count; ++i)
      result += sigil + ("a" + std::to_string(i)) + " = b<" + sigil + "a" +
                std::to_string(i - 1) + ">\n";
    return result;
  };
  for (char sigil : {'#', '!'}) {
    EXPECT_TRUE(checkSource(aliases(sigil, 200)).ok());
    EXPECT_FALSE(checkSource(aliases(sigil, 600)).ok());
  }
  // What closes, what is text, and what only looks like a bracket.
  for (const char *text :
       {"[1], ", "(a) -> (b)", "\"[\\\"(\" ", "// (((\n", "(d0 <= 1)",
        "(d0 >= 1, a < b)", "!a<() -> (b)>", "{-# a #-}", "-1, ", "(1 + 2, -3)",
        "#a = [1]\n#b = [#a]\n", "x -1\n"})
    EXPECT_TRUE(checkSource(repeat(2000, text)).ok()) << text;
  EXPECT_TRUE(checkSource("\"").ok());
  EXPECT_TRUE(checkSource("\"\\").ok());
}

TEST(BytecodeTest, SectionsAreChecked) {
  expectFault({}, "a section ends too early (at byte 4)");
  expectFault({0x03}, "its version is not 5 or 6");
  expectFault({0x0d, 'x'}, "a section ends too early");
  expectFault({0x0d, 0}, "a section is missing");
  expectFault({0x0d, 0, 0x0c, 0x01}, "a section is of unknown kind");
  expectFault({0x0d, 0, 0x00, 0x03}, "a length is larger than the number of "
                                     "bytes that follow");
  // A length of 2^64 - 1.
  expectFault(
      {0x0d, 0, 0x00, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
      "a length is larger");
  expectFault({0x0d, 0, 0x00, 0x01, 0x00, 0x01}, "a section is there twice");
  expectFault({0x0d, 0, 0x80, 0x01, 0x07}, "an alignment is not");
  expectFault({0x0d, 0, 0x80, 0x01, 0x21, 0x00},
              "the padding of a section is wrong");
}

TEST(BytecodeTest, CountsAreBoundedByWhatFollows) {
  // Empty sections but for the strings, of which there are 63, or one of no
  // bytes, or one without a zero.
  auto file = [](std::initializer_list<int> strings) {
    std::string text = bytes({0x0d, 0, 0x00});
    text += static_cast<char>(strings.size() * 2 + 1);
    for (int value : strings)
      text += static_cast<char>(value);
    for (int section : {1, 2, 3, 4, 8})
      text += {static_cast<char>(section), 0x01};
    return checkBytecode(text).message();
  };
  EXPECT_NE(file({0x7f}).find("a count is larger"), std::string::npos);
  EXPECT_NE(file({0x03, 0x01}).find("a string has no end"), std::string::npos);
  EXPECT_NE(file({0x03, 0x03, 'x'}).find("a string has no end"),
            std::string::npos);
  EXPECT_NE(file({0x03, 0x03, 0, 0}).find("do not fill"), std::string::npos);
  // The strings are right; the section of dialects lacks their number.
  EXPECT_NE(file({0x03, 0x03, 0}).find("ends too early"), std::string::npos);
}
