//===- CheckedOptions.cpp - Options of passes, checked first --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"

#include "quant-llm/Dialect/QuantLLM/Utils/ListAlternatives.h"

#include "mlir/IR/BuiltinOps.h"

#include "llvm/ADT/APInt.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Regex.h"
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

/// Without line breaks and other control characters: messages have one line.
static std::string escape(StringRef text) {
  std::string escaped;
  for (char c : text) {
    if (c == '\n')
      escaped += "\\n";
    else if (c == '\t')
      escaped += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      escaped += "\\x" + llvm::toHex(StringRef(&c, 1), /*LowerCase=*/true);
    else
      escaped += c;
  }
  return escaped;
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
    return (owner + ": unknown option '" + escape(name) + "': expected " +
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
        fault = fail(expected + " but got '" + escape(part) + "'");
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
      return fail("one value but got '" + escape(other->text.value_or("")) +
                  "' and '" + escape(given) + "'");
  }
  return "";
}

//===----------------------------------------------------------------------===//
// Errors of pipelines
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

/// What would close all that is open at the end of a pipeline.
static std::string findMissingEnd(StringRef text) {
  std::string closing;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '(' || c == '{')
      closing.insert(closing.begin(), c == '(' ? ')' : '}');
    else if (!closing.empty() && c == closing.front())
      closing.erase(closing.begin());
    else if ((c == '\'' || c == '"') && StringRef(closing).contains('}'))
      i = std::min(text.find(c, i + 1), text.size() - 1);
  }
  return closing;
}

std::string quant_llm::summarizePipelineErrors(StringRef errors,
                                               StringRef text) {
  // Of a pipeline that does not end, MLIR says that it does not begin.
  if (errors.starts_with("expected pass pipeline to be wrapped"))
    if (std::string missing = findMissingEnd(text); !missing.empty())
      return "expected a closing '" + missing + "' at the end of the pipeline";
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
      // The name of a pass and its options as they are written, which may have
      // line breaks.
      std::string whole = line.str();
      while (!StringRef(whole).ends_with("`") && i + 1 < lines.size())
        whole += "\n" + lines[++i].rtrim().str();
      // Of the innermost list of passes first.
      if (refused.empty())
        refused = escape(whole);
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
