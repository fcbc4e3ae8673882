//===- CheckedOptions.cpp - Options of passes, checked first --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

#include "quant-llm/Dialect/QuantLLM/Utils/EscapeText.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ListAlternatives.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OptionErrors.h"

#include "mlir/IR/BuiltinOps.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <deque>
#include <optional>
#include <utility>

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Errors of options
//===----------------------------------------------------------------------===//

/// What diagnostics about options carry.
static constexpr llvm::StringLiteral kOptionError = "quant_llm.option_error";

InFlightDiagnostic quant_llm::emitOptionsError(MLIRContext *context,
                                               StringRef owner) {
  InFlightDiagnostic diag = emitError(UnknownLoc::get(context));
  diag.getUnderlyingDiagnostic()->getMetadata().emplace_back(kOptionError);
  diag << owner << ": ";
  return diag;
}

InFlightDiagnostic quant_llm::emitOptionError(Location location,
                                              StringRef owner, StringRef option,
                                              const Twine &message) {
  InFlightDiagnostic diag = emitError(location);
  diag.getUnderlyingDiagnostic()->getMetadata().emplace_back(kOptionError);
  diag << owner << ": invalid option '" << option << "': " << message;
  return diag;
}

InFlightDiagnostic quant_llm::emitOptionError(MLIRContext *context,
                                              StringRef owner, StringRef option,
                                              const Twine &message) {
  return emitOptionError(UnknownLoc::get(context), owner, option, message);
}

bool quant_llm::isOptionError(Diagnostic &diagnostic) {
  return llvm::any_of(
      diagnostic.getMetadata(), [](const DiagnosticArgument &argument) {
        return argument.getKind() ==
                   DiagnosticArgument::DiagnosticArgumentKind::String &&
               argument.getAsString() == kOptionError;
      });
}

std::string NamePattern::set(StringRef text) {
  regex.reset();
  if (text.empty())
    return "";
  auto parsed = std::make_shared<const llvm::Regex>(text);
  std::string message;
  if (!parsed->isValid(message))
    return ("'" + text + "' is no regular expression: " + message).str();
  regex = std::move(parsed);
  return "";
}

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
  return expectInteger(text, least, most);
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

/// A value as it is written, perhaps none at all, of the option `index`.
struct GivenValue {
  size_t index;
  std::optional<std::string> text;
};

/// Takes every value.
class Recorder : public llvm::cl::Option {
public:
  Recorder(StringRef name, size_t index, std::vector<GivenValue> &given,
           llvm::cl::SubCommand &owner)
      : Option(llvm::cl::ZeroOrMore, llvm::cl::NotHidden), index(index),
        given(given) {
    setArgStr(name);
    addSubCommand(owner);
    addArgument();
  }

private:
  bool handleOccurrence(unsigned, StringRef, StringRef value) override {
    given.push_back(
        {index, value.data() ? std::optional(value.str()) : std::nullopt});
    return false;
  }
  size_t getOptionWidth() const override { return 0; }
  void printOptionInfo(size_t) const override {}
  void printOptionValue(size_t, bool) const override {}
  void setDefault() override {}

  size_t index;
  std::vector<GivenValue> &given;
};

/// Takes the text of options apart as MLIR does, but takes every value.
struct Recorders : mlir::detail::PassOptions {
  void add(StringRef name) {
    llvm::cl::SubCommand &owner = *this;
    all.emplace_back(name, all.size(), given, owner);
  }

  std::vector<GivenValue> given; // in the order of the text
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
    return (owner + ": unknown option '" + escapeText(name) + "': expected " +
            (names.empty() ? "no options" : listAlternatives(names)))
        .str();
  }
  std::vector<const GivenValue *> earlier(entries.size());
  for (const GivenValue &value : recorders.given) {
    const Entry &entry = entries[value.index];
    auto fail = [&](const Twine &message) {
      return (owner + ": invalid option '" + entry.option->ArgStr +
              "': expected " + message)
          .str();
    };
    if (!value.text && entry.needsValue)
      return fail("a value but got none; write " + entry.option->ArgStr +
                  "=VALUE");
    std::string fault;
    auto check = [&](StringRef part) {
      std::string expected = entry.rule(part);
      if (!expected.empty())
        fault = fail(expected + " but got '" + escapeText(part) + "'");
      return success(fault.empty());
    };
    StringRef given = value.text ? StringRef(*value.text) : StringRef();
    if (entry.isList)
      (void)mlir::detail::pass_options::parseCommaSeparatedList(
          *entry.option, entry.option->ArgStr, given, check);
    else
      (void)check(given);
    if (!fault.empty())
      return fault;
    const GivenValue *other = std::exchange(earlier[value.index], &value);
    if (other && !entry.isList)
      return fail("one value but got '" + escapeText(other->text.value_or("")) +
                  "' and '" + escapeText(given) + "'");
  }
  return "";
}

//===----------------------------------------------------------------------===//
// Places of pipelines
//===----------------------------------------------------------------------===//

std::string quant_llm::findWrongAnchor(StringRef owner, OpPassManager &pm) {
  StringRef anchor = pm.getOpAnchorName();
  if (anchor == ModuleOp::getOperationName() ||
      pm.getNesting() == OpPassManager::Nesting::Implicit)
    return "";
  return (owner + ": expected a place in builtin.module(...) but got " +
          anchor + "(...)")
      .str();
}
