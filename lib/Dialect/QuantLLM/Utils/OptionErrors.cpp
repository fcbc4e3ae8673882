//===- OptionErrors.cpp - What LLVM says of options, reworded -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/OptionErrors.h"

#include "StreamText.h"

#include "quant-llm/Dialect/QuantLLM/Utils/EscapeText.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ListAlternatives.h"

#include "mlir/Pass/PassRegistry.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Regex.h"

#include <limits>

using namespace llvm;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Help
//===----------------------------------------------------------------------===//

/// The options in what LLVM prints of them: lines such as `--name=<value> -
/// what it is`, and of its values `=name - what that is`.
static std::vector<OptionHelp> readHelp(StringRef text) {
  std::vector<OptionHelp> options;
  for (StringRef line : split(text, '\n')) {
    line = line.ltrim();
    if (line.consume_front("=")) {
      if (!options.empty())
        options.back().values.push_back(line.substr(0, line.find(' ')).str());
      continue;
    }
    StringRef name = line.ltrim('-');
    if (name.size() != line.size())
      options.push_back({name.substr(0, name.find_first_of(" =<")).str(), {}});
  }
  return options;
}

std::vector<OptionHelp> quant_llm::findPassOptions(StringRef name) {
#if LLVM_ENABLE_ABI_BREAKING_CHECKS
  // Then what is printed cannot be held back.
  return {};
#else
  const mlir::PassRegistryEntry *entry = mlir::PassInfo::lookup(name);
  if (!entry)
    entry = mlir::PassPipelineInfo::lookup(name);
  if (!entry)
    return {};
  std::string text;
  {
    StreamText output(outs());
    // The column of descriptions must be behind all names.
    entry->printHelpStr(/*indent=*/0,
                        entry->getOptionWidth() + name.size() + 4);
    text = output.take();
  }
  std::vector<OptionHelp> options = readHelp(text);
  // The first is the pass itself.
  if (!options.empty())
    options.erase(options.begin());
  return options;
#endif
}

/// The same of an option of the command line.
static OptionHelp findOption(StringRef name) {
  OptionHelp help{name.str(), {}};
#if !LLVM_ENABLE_ABI_BREAKING_CHECKS
  auto options = cl::getRegisteredOptions();
  auto found = options.find(name);
  if (found == options.end())
    return help;
  StreamText output(outs());
  found->second->printOptionInfo(found->second->getOptionWidth());
  // An option that may stand alone has a line for that before.
  for (OptionHelp &form : readHelp(output.take()))
    if (!form.values.empty())
      help.values = std::move(form.values);
#endif
  return help;
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

/// What is expected where LLVM wants a value of `type`, by its own name.
static std::string describeType(StringRef type, StringRef value) {
  if (type == "floating point")
    return "a number";
  auto expect = [&](auto limits) {
    return expectInteger(value, limits.min(), limits.max());
  };
  if (type == "integer")
    return expect(std::numeric_limits<int>());
  if (type == "uint")
    return expect(std::numeric_limits<unsigned>());
  static_assert(sizeof(long) == sizeof(long long), "one range for both");
  if (type == "ulong" || type == "ullong")
    return expect(std::numeric_limits<unsigned long>());
  return expect(std::numeric_limits<long>());
}

/// The most names that a message lists: there are hundreds of passes.
static constexpr size_t kMostNames = 32;

std::string quant_llm::describeValueError(StringRef error,
                                          const OptionHelp *help) {
  static const Regex ofType("^'(.*)' value invalid for ([a-z ]+) argument!$");
  static const Regex ofTruth("^'(.*)' is invalid value for boolean argument!");
  static const Regex ofNames("^Cannot find option named '(.*)'!$");
  static const Regex ofNone("^does not allow a value! '(.*)' specified\\.$");
  SmallVector<StringRef> parts;
  auto expect = [&](const Twine &what) {
    return ("expected " + what + " but got '" + escapeText(parts[1]) + "'")
        .str();
  };
  if (ofType.match(error, &parts))
    return expect(describeType(parts[2], parts[1]));
  if (ofTruth.match(error, &parts))
    return expect("true or false");
  if (ofNone.match(error, &parts))
    return expect("no value");
  if (ofNames.match(error, &parts)) {
    if (!help || help->values.empty() || help->values.size() > kMostNames)
      return expect("one of the names that it takes");
    return expect(listAlternatives(
        SmallVector<StringRef>(help->values.begin(), help->values.end())));
  }
  if (error == "may not occur within a group!")
    return "expected a space or '=' behind it";
  if (error == "requires a value!")
    return "expected a value but got none";
  return error.str();
}

//===----------------------------------------------------------------------===//
// Command lines
//===----------------------------------------------------------------------===//

/// What is wrong with a command line of which LLVM says `text`; every fault
/// begins with `prefix`. One of several is said, with what is added to it.
static std::string describeUsageError(StringRef text, StringRef prefix) {
  text.consume_front(prefix);
  // What was given may have line breaks.
  if (text.consume_front("Unknown command line argument '")) {
    auto [given, rest] = text.split("'.  Try: '");
    std::string message =
        "expected an option that exists but got '" + escapeText(given) + "'";
    // LLVM names the nearest of all, however far that is.
    rest = rest.split('\n').second;
    if (rest.consume_front(prefix) && rest.consume_front("Did you mean '")) {
      StringRef similar = rest.split("'?").first;
      if (given.edit_distance(similar) <= given.size() / 4)
        message += "; did you mean '" + escapeText(similar) + "'?";
    }
    return message;
  }
  static const Regex most("^Too many positional arguments specified!\nCan "
                          "specify at most ([0-9]+) positional argument");
  static const Regex ofValue("^for the (--?)([^ ]+) option: ");
  SmallVector<StringRef> parts;
  if (most.match(text, &parts))
    return ("expected at most " + parts[1] + " argument" +
            (parts[1] == "1" ? "" : "s") + " without dashes but got more")
        .str();
  if (ofValue.match(text, &parts)) {
    OptionHelp help = findOption(parts[2]);
    // The next fault, if there is one, begins in a line of its own.
    StringRef error = text.drop_front(parts[0].size());
    error = error.substr(0, error.find(("\n" + prefix).str())).rtrim('\n');
    return (parts[1] + parts[2] + ": " + describeValueError(error, &help))
        .str();
  }
  return text.split('\n').first.str();
}

bool quant_llm::parseCommandLine(ArrayRef<char *> arguments, StringRef overview,
                                 std::string &message) {
  std::string text, written;
  bool isRight;
  {
    // Errors of values go there in spite of the other stream.
    StreamText stream(errs());
    raw_string_ostream os(text);
    isRight = cl::ParseCommandLineOptions(static_cast<int>(arguments.size()),
                                          arguments.data(), overview, &os);
    written = stream.take();
  }
  if (isRight)
    errs() << written;
  else
    message = describeUsageError(
        written + text, (sys::path::filename(arguments.front()) + ": ").str());
  return isRight;
}
