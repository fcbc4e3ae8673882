//===- RecipePipelines.cpp - Pipelines of recipe files --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Every recipe of the project becomes a pipeline `quant-llm-<name>`.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Pipelines.h"

#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"
#include "quant-llm/Pipelines/Recipes.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

#include <memory>

using namespace mlir;
using namespace quant_llm;

namespace {
/// The options of a recipe, all of them texts, with hyphens in their names.
struct RecipePipelineOptions : mlir::detail::PassOptions {
  explicit RecipePipelineOptions(const Recipe &recipe) {
    for (const RecipeFile &file : getRecipeFiles())
      if (recipe.uses(file.name))
        files.push_back({&file, add(file.name, "", file.help)});
    for (const RecipeOption &option : recipe.options)
      values.push_back(
          {&option, add(option.name, option.defaultValue, option.help)});
  }

  Option<std::string> *add(StringRef name, StringRef value, StringRef help) {
    names.push_back(std::make_unique<std::string>(name.str()));
    llvm::replace(*names.back(), '_', '-');
    options.push_back(std::make_unique<Option<std::string>>(
        *this, *names.back(), llvm::cl::desc(help), llvm::cl::init(value.str()),
        CheckOption{checkedOptions}));
    return options.back().get();
  }

  CheckedOptions checkedOptions;
  /// Options keep references to their names.
  std::vector<std::unique_ptr<std::string>> names;
  std::vector<std::unique_ptr<Option<std::string>>> options;
  std::vector<std::pair<const RecipeFile *, Option<std::string> *>> files;
  std::vector<std::pair<const RecipeOption *, Option<std::string> *>> values;
};
} // namespace

static LogicalResult
addRecipe(const Recipe &recipe, OpPassManager &pm, StringRef text,
          function_ref<LogicalResult(const Twine &)> emitError) {
  RecipePipelineOptions options(recipe);
  std::string name = "quant-llm-" + recipe.name;
  std::string message = findWrongAnchor(name, pm);
  if (message.empty())
    message = options.checkedOptions.findFault(name, text);
  if (!message.empty())
    return emitError(message);
  if (llvm::raw_string_ostream os(message);
      failed(options.parseFromString(text, os)))
    return emitError(message);
  auto fail = [&](const Twine &error) {
    return emitError(name + ": " + error);
  };
  std::map<std::string, std::string> values;
  for (auto &[file, option] : options.files) {
    values[file->name] = option->getValue();
    if (file->isRequired && option->getValue().empty())
      return fail("invalid option '" + Twine(option->getArgStr()) +
                  "': expected a path but got none");
  }
  for (auto &[declared, option] : options.values) {
    Result<std::string> value =
        declared->check(option->getValue(),
                        ("invalid option '" + option->getArgStr() + "'").str());
    if (!value.ok())
      return fail(value.message());
    values[declared->name] = value.take();
  }
  Result<std::string> pipeline = recipe.render(values);
  if (!pipeline.ok())
    return fail(pipeline.message());
  if (failed(parsePipeline(*pipeline, pm, message)))
    return emitError(message);
  return success();
}

void quant_llm::registerRecipePipelines() {
  for (const Recipe &recipe : getRecipes())
    registerPassPipeline(
        "quant-llm-" + recipe.name, recipe.summary,
        [&recipe](OpPassManager &pm, StringRef options,
                  function_ref<LogicalResult(const Twine &)> emitError) {
          return addRecipe(recipe, pm, options, emitError);
        },
        [&recipe](function_ref<void(const mlir::detail::PassOptions &)> show) {
          show(RecipePipelineOptions(recipe));
        });
}
