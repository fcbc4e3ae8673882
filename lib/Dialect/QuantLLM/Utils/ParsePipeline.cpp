//===- ParsePipeline.cpp - Textual pipelines, with all errors -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"

#include "StreamText.h"

#include "quant-llm/Dialect/QuantLLM/Utils/EscapeText.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ListAlternatives.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OptionErrors.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OperationSupport.h"
#include "mlir/Pass/PassRegistry.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Regex.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

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

/// That the pass or pipeline `pass` (empty if it is not known) has no option of
/// that name.
static std::string describeUnknownOption(StringRef pass, StringRef option) {
  std::vector<OptionHelp> options = findPassOptions(pass);
  SmallVector<StringRef> names;
  for (const OptionHelp &help : options)
    names.push_back(help.name);
  return "unknown option '" + escapeText(option) + "': expected " +
         (pass.empty()    ? "an option of the pass"
          : names.empty() ? "none"
                          : listAlternatives(names));
}

/// What LLVM says of the value of an option of that pass or pipeline.
static std::string describeOption(StringRef pass, StringRef option,
                                  StringRef error) {
  std::vector<OptionHelp> options = findPassOptions(pass);
  auto found = llvm::find_if(
      options, [&](const OptionHelp &help) { return help.name == option; });
  return "invalid option '" + option.str() + "': " +
         describeValueError(error, found == options.end() ? nullptr : &*found);
}

/// What MLIR says of the textual pipeline `text`, in one message.
static std::string summarizeErrors(StringRef errors, StringRef text) {
  // Of a pipeline that does not end, MLIR says that it does not begin.
  if (errors.starts_with("expected pass pipeline to be wrapped"))
    if (std::string missing = findMissingEnd(text); !missing.empty())
      return "expected a closing '" + missing + "' at the end of the pipeline";
  SmallVector<StringRef> lines, said;
  errors.split(lines, '\n');
  // The pass that is refused, and that with its options.
  std::string pass, refused;
  const llvm::Regex syntax(
      "^MLIR Textual PassPipeline Parser:[0-9]+:([0-9]+): error: (.*)$");
  const llvm::Regex value("^: for the --?([^ ]+) option: ([^!]*(!( Try 0 or 1)?"
                          "|specified\\.))");
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
      if (refused.empty()) {
        refused = escapeText(whole);
        pass = line.split('`').second.split('`').first.str();
      }
      continue;
    }
    // What LLVM's parsers write to standard error, after the program's name; a
    // value may have line breaks.
    size_t behind = line.find(": for the -");
    if (behind != StringRef::npos) {
      StringRef rest = errors.substr(line.data() + behind - errors.data());
      if (SmallVector<StringRef> parts; value.match(rest, &parts)) {
        line = parts[0];
        i += line.count('\n');
      }
    }
    if (!line.empty())
      said.push_back(line);
  }
  std::string message;
  bool isOfUpstream = false;
  for (StringRef line : said) {
    std::string reworded;
    bool isOfParser = line.consume_front("<Pass-Options-Parser>: ");
    if (SmallVector<StringRef> parts; value.match(line, &parts))
      reworded = describeOption(pass, parts[1], parts[2]);
    else if (isOfParser && line.consume_front("no such option "))
      reworded = describeUnknownOption(pass, line);
    isOfUpstream |= isOfParser || !reworded.empty();
    message += (message.empty() ? "" : "\n") +
               (reworded.empty() ? line.str() : reworded);
  }
  // Our passes say themselves which pass refuses its options.
  if (message.empty() || pass.empty() || !isOfUpstream)
    return message.empty() ? refused : message;
  return pass + ": " + message;
}

LogicalResult
quant_llm::buildPipeline(StringRef text, std::string &message,
                         function_ref<LogicalResult(std::string &)> build) {
  // A pipeline may be made of others: then all is kept for the outermost.
  static thread_local bool isKept = false;
  std::string errors, written;
  LogicalResult result = success();
  if (isKept) {
    result = build(errors);
  } else {
    StreamText stream(llvm::errs());
    isKept = true;
    result = build(errors);
    isKept = false;
    written = stream.take();
  }
  if (failed(result))
    message = summarizeErrors(written + errors, text);
  else
    llvm::errs() << written;
  return result;
}

LogicalResult quant_llm::parsePipeline(StringRef text, OpPassManager &pm,
                                       std::string &message) {
  return buildPipeline(text, message, [&](std::string &errors) {
    llvm::raw_string_ostream os(errors);
    return parsePassPipeline(text, pm, os);
  });
}

//===----------------------------------------------------------------------===//
// Anchors
//===----------------------------------------------------------------------===//

std::string quant_llm::findUnknownAnchor(const OpPassManager &pm,
                                         MLIRContext *context) {
  if (context->allowsUnregisteredDialects())
    return "";
  // Nested pass managers cannot be seen, but their text can.
  std::string text;
  llvm::raw_string_ostream os(text);
  const_cast<OpPassManager &>(pm).printAsTextualPipeline(os);
  size_t begin = 0, braces = 0;
  for (auto [i, c] : llvm::enumerate(text)) {
    if (c == '{')
      ++braces;
    else if (c == '}')
      --braces;
    if (braces || llvm::isAlnum(c) || c == '_' || c == '.' || c == '-')
      continue;
    StringRef anchor = StringRef(text).slice(begin, i);
    begin = i + 1;
    if (c != '(' || anchor == OpPassManager::getAnyOpAnchorName())
      continue;
    (void)context->getOrLoadDialect(anchor.split('.').first);
    if (!RegisteredOperationName::lookup(anchor, context))
      return ("expected an operation for passes to run on but got '" + anchor +
              "(...)', which does not exist")
          .str();
  }
  return "";
}
