//===- RecipePipelines.cpp - Pipelines of recipe files --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A recipe is a pass pipeline as text with placeholders ($group) in the values
// of pass options. Here every recipe of the project becomes a pipeline
// `quant-llm-<name>`; docs/Recipes.md has the rules.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Pipelines.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/ADT/StringExtras.h"

#include <memory>
#include <tuple>

using namespace mlir;

namespace quant_llm {

ArrayRef<Recipe> getRecipes() {
  static const std::vector<Recipe> recipes = {
#include "Recipes.inc"
  };
  return recipes;
}

/// What a recipe gets from who runs it, beside its options.
static constexpr std::pair<const char *, const char *> kFiles[] = {
    {"output", "The safetensors file to write; required"},
    {"report", "JSON file to write with schemes, reasons and errors"},
    {"calibration", "Calibration file; required"},
    {"scratch", "Directory for files that are of no use afterwards; required"},
};

static bool isPartOfName(char c) { return llvm::isAlnum(c) || c == '_'; }

static bool uses(const Recipe &recipe, StringRef name) {
  StringRef text = recipe.pipeline;
  for (size_t at = text.find('$'); at != StringRef::npos;
       at = text.find('$', at + 1))
    if (text.substr(at + 1).take_while(isPartOfName) == name)
      return true;
  return false;
}

/// The value of a pass option; quotation marks cannot be escaped there.
static FailureOr<std::string> quoteOption(StringRef text) {
  if (llvm::all_of(text, [](char c) {
        return isPartOfName(c) || StringRef(".,:+/-").contains(c);
      }))
    return text.str();
  for (char mark : {'\'', '"'})
    if (!text.contains(mark))
      return mark + text.str() + mark;
  return failure();
}

FailureOr<std::string>
renderRecipe(const Recipe &recipe, const llvm::StringMap<std::string> &values,
             function_ref<LogicalResult(const Twine &)> emitError) {
  std::string result;
  StringRef rest = recipe.pipeline;
  while (!rest.empty()) {
    // One word: an option of a pass with its value, or what is between them.
    StringRef word =
        rest.take_while([](char c) { return !StringRef(" {}").contains(c); });
    if (word.empty()) {
      result += rest.front();
      rest = rest.drop_front();
      continue;
    }
    rest = rest.drop_front(word.size());
    auto [key, value] = word.split('=');
    if (!value.contains('$')) {
      result += word;
      continue;
    }
    std::string text;
    while (!value.empty()) {
      StringRef plain;
      std::tie(plain, value) = value.split('$');
      text += plain;
      StringRef name = value.take_while(isPartOfName);
      auto given = values.find(name);
      text += given == values.end() ? "" : given->second;
      value = value.drop_front(name.size());
    }
    if (text.empty())
      continue;
    FailureOr<std::string> quoted = quoteOption(text);
    if (failed(quoted))
      return emitError("expected at most one kind of quotation marks but got " +
                       text);
    result += key.str() + "=" + *quoted;
  }
  return result;
}

namespace {
/// The options of a recipe, all of them texts.
struct RecipeOptions : mlir::detail::PassOptions {
  explicit RecipeOptions(const Recipe &recipe) {
    for (auto [name, help] : kFiles)
      if (uses(recipe, name))
        add(name, "", help);
    for (const RecipeOption &option : recipe.options)
      add(option.name, option.defaultValue, option.help);
  }

  void add(StringRef name, StringRef value, StringRef help) {
    names.push_back(std::make_unique<std::string>(name.str()));
    llvm::replace(*names.back(), '_', '-');
    options.emplace_back(name, std::make_unique<Option<std::string>>(
                                   *this, *names.back(), llvm::cl::desc(help),
                                   llvm::cl::init(value.str())));
  }

  /// Options keep references to their names.
  std::vector<std::unique_ptr<std::string>> names;
  std::vector<std::pair<StringRef, std::unique_ptr<Option<std::string>>>>
      options;
};
} // namespace

static LogicalResult
addRecipe(const Recipe &recipe, OpPassManager &pm, StringRef text,
          function_ref<LogicalResult(const Twine &)> emitError) {
  RecipeOptions options(recipe);
  std::string message;
  llvm::raw_string_ostream os(message);
  if (failed(options.parseFromString(text, os)))
    return emitError(message);
  llvm::StringMap<std::string> values;
  for (auto &[name, option] : options.options) {
    values[name] = option->getValue();
    bool isRequired =
        name == "output" || name == "calibration" || name == "scratch";
    if (isRequired && values[name].empty())
      return emitError("quant-llm-" + Twine(recipe.name) +
                       ": expected the option '" + name + "'");
  }
  FailureOr<std::string> pipeline = renderRecipe(recipe, values, emitError);
  if (failed(pipeline))
    return failure();
  if (failed(parsePassPipeline(*pipeline, pm, os)))
    return emitError(message);
  return success();
}

void registerRecipePipelines() {
  for (const Recipe &recipe : getRecipes())
    registerPassPipeline(
        "quant-llm-" + std::string(recipe.name), recipe.summary,
        [&recipe](OpPassManager &pm, StringRef options,
                  function_ref<LogicalResult(const Twine &)> emitError) {
          return addRecipe(recipe, pm, options, emitError);
        },
        [&recipe](function_ref<void(const mlir::detail::PassOptions &)> show) {
          show(RecipeOptions(recipe));
        });
}

} // namespace quant_llm
