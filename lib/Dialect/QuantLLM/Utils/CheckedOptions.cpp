//===- CheckedOptions.cpp - Options of passes, checked first --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

#include "quant-llm/Dialect/QuantLLM/Utils/NamedValueParser.h"

#include "llvm/ADT/APInt.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Regex.h"
#include "llvm/Support/raw_ostream.h"

#include <deque>
#include <optional>

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

std::string
CheckedOptions::checkName(const llvm::cl::generic_parser_base &parser,
                          StringRef text) {
  SmallVector<StringRef> names;
  for (unsigned i = 0, e = parser.getNumOptions(); i < e; ++i)
    names.push_back(parser.getOption(i));
  return llvm::is_contained(names, text) ? "" : listAlternatives(names);
}

std::string CheckedOptions::checkTruth(StringRef text) {
  // As LLVM takes them: an option without a value is true.
  static constexpr StringRef values[] = {"",      "true",  "TRUE",  "True", "1",
                                         "false", "FALSE", "False", "0"};
  return llvm::is_contained(values, text) ? "" : "true or false";
}

std::string CheckedOptions::checkNumber(StringRef text) {
  double value;
  return !text.empty() && llvm::to_float(text, value) ? "" : "a number";
}

template <typename T>
static std::string checkInteger(StringRef text, T least, T most) {
  T value;
  if (!text.getAsInteger(0, value) && value >= least && value <= most)
    return "";
  StringRef digits = text;
  digits.consume_front("-");
  APInt any;
  if (digits.getAsInteger(0, any))
    return "an integer";
  return "an integer from " + std::to_string(least) + " to " +
         std::to_string(most);
}

std::string CheckedOptions::checkSigned(StringRef text, int64_t least,
                                        int64_t most) {
  return checkInteger(text, least, most);
}

std::string CheckedOptions::checkUnsigned(StringRef text, uint64_t most) {
  return checkInteger(text, uint64_t(0), most);
}

//===----------------------------------------------------------------------===//
// Texts of options
//===----------------------------------------------------------------------===//

namespace {

/// Keeps every value that it is given, as text; none at all is possible too.
class Recorder : public llvm::cl::Option {
public:
  Recorder(StringRef name, llvm::cl::SubCommand &owner)
      : Option(llvm::cl::ZeroOrMore, llvm::cl::NotHidden) {
    setArgStr(name);
    addSubCommand(owner);
    addArgument();
  }

  std::vector<std::optional<std::string>> values;

private:
  bool handleOccurrence(unsigned, StringRef, StringRef value) override {
    values.push_back(value.data() ? std::optional(value.str()) : std::nullopt);
    return false;
  }
  size_t getOptionWidth() const override { return 0; }
  void printOptionInfo(size_t) const override {}
  void printOptionValue(size_t, bool) const override {}
  void setDefault() override {}
};

/// Takes the text of options apart as MLIR does, but takes every value.
struct Recorders : mlir::detail::PassOptions {
  void add(StringRef name) {
    llvm::cl::SubCommand &owner = *this;
    all.emplace_back(name, owner);
  }

  std::deque<Recorder> all;
};

} // namespace

void CheckedOptions::addEntry(llvm::cl::Option &option, Rule rule,
                              bool isList) {
  entries.push_back({&option, std::move(rule), isList,
                     option.getValueExpectedFlag() == llvm::cl::ValueRequired});
}

std::string CheckedOptions::findFault(StringRef owner, StringRef text) const {
  Recorders recorders;
  for (const Entry &entry : entries)
    recorders.add(entry.option->ArgStr);
  std::string errors;
  llvm::raw_string_ostream os(errors);
  if (failed(recorders.parseFromString(text, os))) {
    // Nothing but a name can be wrong here.
    StringRef name = StringRef(errors).split("no such option ").second.trim();
    SmallVector<StringRef> names;
    for (const Entry &entry : entries)
      names.push_back(entry.option->ArgStr);
    return (owner + ": unknown option '" + name + "': expected " +
            (names.empty() ? "no options" : listAlternatives(names)))
        .str();
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry &entry = entries[i];
    auto fail = [&](const Twine &message) {
      return (owner + ": invalid option '" + entry.option->ArgStr +
              "': expected " + message)
          .str();
    };
    for (const std::optional<std::string> &value : recorders.all[i].values) {
      if (!value && entry.needsValue)
        return fail("a value but got none; write " + entry.option->ArgStr +
                    "=VALUE");
      std::string fault;
      auto check = [&](StringRef part) {
        std::string expected = entry.rule(part);
        if (!expected.empty())
          fault = fail(expected + " but got '" + part + "'");
        return success(fault.empty());
      };
      StringRef given = value ? StringRef(*value) : StringRef();
      if (entry.isList)
        (void)mlir::detail::pass_options::parseCommaSeparatedList(
            *entry.option, entry.option->ArgStr, given, check);
      else
        (void)check(given);
      if (!fault.empty())
        return fault;
    }
  }
  return "";
}

//===----------------------------------------------------------------------===//
// Errors of pipelines
//===----------------------------------------------------------------------===//

std::string quant_llm::summarizePipelineErrors(StringRef errors) {
  SmallVector<StringRef> lines;
  errors.split(lines, '\n');
  std::string message, refused;
  bool isOfUpstream = false;
  const llvm::Regex syntax(
      "^MLIR Textual PassPipeline Parser:[0-9]+:([0-9]+): error: (.*)$");
  for (size_t i = 0; i < lines.size(); ++i) {
    if (SmallVector<StringRef> parts; syntax.match(lines[i], &parts)) {
      // Then comes that line of the pipeline, or of a part of it.
      size_t column = 1;
      (void)parts[1].getAsInteger(10, column);
      StringRef rest = i + 1 < lines.size() ? lines[i + 1] : StringRef();
      rest = rest.drop_front(std::min(rest.size(), column - 1)).trim();
      return parts[2].str() +
             (rest.empty() ? ", at the end"
                           : ", at the beginning of '" + rest.str() + "'");
    }
    StringRef line = lines[i].trim();
    if (line.starts_with("failed to add `")) {
      // Of the innermost list of passes first.
      if (refused.empty())
        refused = line.str();
      continue;
    }
    isOfUpstream |= line.consume_front("<Pass-Options-Parser>: ");
    if (!line.empty())
      message += (message.empty() ? "" : "\n") + line.str();
  }
  // Our passes say themselves which pass refuses its options.
  if (message.empty() || refused.empty() || !isOfUpstream)
    return message.empty() ? refused : message;
  return refused + ": " + message;
}
