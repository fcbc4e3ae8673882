//===- Options.cpp - What is wrong with options of passes -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Options.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace quant_llm;

/// Calls `use` with every `option=value`: there are spaces between them, and
/// perhaps within quotation marks and braces.
static void forEachOption(StringRef text,
                          llvm::function_ref<void(StringRef)> use) {
  size_t begin = 0;
  unsigned depth = 0;
  char mark = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    char c = i < text.size() ? text[i] : ' ';
    if (mark) {
      if (c == mark)
        mark = 0;
    } else if (c == '\'' || c == '"') {
      mark = c;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && depth > 0) {
      --depth;
    } else if (c == ' ' && depth == 0) {
      if (i > begin)
        use(text.slice(begin, i));
      begin = i + 1;
    }
  }
}

static LogicalResult add(const PassRegistryEntry &entry, StringRef options,
                         OpPassManager &pm) {
  return entry.addToPipeline(pm, options,
                             [](const Twine &) { return failure(); });
}

static OpPassManager makePipeline() {
  return OpPassManager(ModuleOp::getOperationName(),
                       OpPassManager::Nesting::Implicit);
}

/// The value that the option of a pass has by default, as an example.
static std::string getDefault(const PassInfo &pass, StringRef option) {
  OpPassManager pm = makePipeline();
  if (failed(add(pass, "", pm)))
    return "";
  std::string text, value;
  llvm::raw_string_ostream os(text);
  pm.printAsTextualPipeline(os);
  StringRef options =
      StringRef(text).split((pass.getPassArgument() + "{").str()).second;
  options = options.rtrim(')');
  options.consume_back("}");
  forEachOption(options, [&](StringRef given) {
    auto [name, shown] = given.split('=');
    if (name == option)
      value = shown.str();
  });
  return value;
}

std::string quant_llm::explainOptions(StringRef name, StringRef text) {
  const PassInfo *pass = PassInfo::lookup(name);
  const PassRegistryEntry *entry = pass;
  if (!entry)
    entry = PassPipelineInfo::lookup(name);
  if (!entry)
    return "";
  std::string message;
  forEachOption(text, [&](StringRef option) {
    OpPassManager pm = makePipeline();
    if (!message.empty() || succeeded(add(*entry, option, pm)))
      return;
    auto [key, value] = option.split('=');
    message =
        ("the option '" + key + "' of '" + name + "' cannot be '" + value + "'")
            .str();
    std::string usual = pass ? getDefault(*pass, key) : "";
    if (!usual.empty())
      message += "; expected a value of the kind of its default, " + usual;
  });
  return message;
}

std::string quant_llm::explainPipelineError(StringRef message) {
  // MLIR's words, of the innermost list of passes first.
  StringRef rest = message.split("failed to add `").second;
  auto [name, after] = rest.split("` with options `");
  StringRef options = after.split("`\n").first;
  options.consume_back("`");
  return explainOptions(name, options);
}
