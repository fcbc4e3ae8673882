//===- Recipes.h - Methods as pipelines with placeholders -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A recipe is a pass pipeline as text with placeholders ($group) in the values
// of pass options; docs/Recipes.md has the rules. This is the only place that
// knows them, for recipes of the project and, through the C API, of users.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_PIPELINES_RECIPES_H
#define QUANT_LLM_PIPELINES_RECIPES_H

#include "quant-llm/Support/Status.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace quant_llm {

/// One option of a recipe. Values are texts, as those of passes are.
struct RecipeOption {
  enum class Kind { Boolean, Integer, Number, Text };

  std::string name;
  Kind kind;
  std::string defaultValue, help;
  std::vector<std::string> choices; // none: all
  std::optional<double> minimum, maximum;
  std::string range; // of these, for messages

  /// The text for a pass, or an error that begins with `shownName`.
  Result<std::string> check(llvm::StringRef value,
                            llvm::StringRef shownName) const;
};

/// What a recipe gets from who runs it, beside its options.
struct RecipeFile {
  const char *name, *help;
  bool isRequired;
};
llvm::ArrayRef<RecipeFile> getRecipeFiles();

struct Recipe {
  std::string name, summary, pipeline;
  std::vector<RecipeOption> options;

  /// From a JSON object with `name`, `summary`, `pipeline`, `options` (a list
  /// of objects with `name`, `default`, `help` and perhaps `choices`, `minimum`
  /// and `maximum`) and `calibration`, whether a calibration file is needed.
  static Result<Recipe> parse(llvm::StringRef json);

  bool uses(llvm::StringRef placeholder) const;

  /// That `values` are values of options.
  Status check(const std::map<std::string, std::string> &values) const;

  /// The pass pipeline with `values` for options and files; other options have
  /// their defaults. An option of a pass whose value is empty is left out.
  Result<std::string>
  render(const std::map<std::string, std::string> &values) const;
};

/// The recipes of the project, sorted by name. FineQuant, which is a pipeline
/// of its own, is not among them.
llvm::ArrayRef<Recipe> getRecipes();

/// A text as the value of a pass option. Quotation marks cannot be escaped
/// there.
Result<std::string> quoteOption(llvm::StringRef text);

} // namespace quant_llm

#endif // QUANT_LLM_PIPELINES_RECIPES_H
