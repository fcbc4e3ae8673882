//===- Recipes.cpp - Methods as pipelines with placeholders ---------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Pipelines/Recipes.h"

#include "quant-llm/Support/Json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/ErrorHandling.h"

#include <cmath>
#include <tuple>

using namespace llvm;
using namespace quant_llm;

using Json = nlohmann::json;

ArrayRef<RecipeFile> quant_llm::getRecipeFiles() {
  static const RecipeFile files[] = {
      {"output", "The safetensors file to write; required", true},
      {"report", "JSON file to write with schemes, reasons and errors", false},
      {"calibration", "Calibration file; required", true},
      {"behind",
       "Calibration file with what was measured behind quantized layers; "
       "required",
       true},
      {"scratch", "Directory for files that are of no use afterwards; required",
       true},
  };
  return files;
}

ArrayRef<Recipe> quant_llm::getRecipes() {
  static const std::vector<Recipe> recipes = [] {
    std::vector<Recipe> parsed;
    for (const char *text : {
#include "Recipes.inc"
         }) {
      Result<Recipe> recipe = Recipe::parse(text);
      if (!recipe.ok()) // a fault of the build
        report_fatal_error(Twine("recipes/: ") + recipe.message());
      parsed.push_back(recipe.take());
    }
    return parsed;
  }();
  return recipes;
}

//===----------------------------------------------------------------------===//
// Options
//===----------------------------------------------------------------------===//

Result<std::string> RecipeOption::check(StringRef value,
                                        StringRef shownName) const {
  auto fail = [&](const Twine &expected, const Twine &got) {
    return Status::error(
        (shownName + ": expected " + expected + " but got " + got).str());
  };
  const char *what = "a number";
  double number = 0.0;
  std::string text = value.str();
  switch (kind) {
  case Kind::Boolean:
    if (!value.equals_insensitive("true") && !value.equals_insensitive("false"))
      return fail("true or false", "'" + value + "'");
    return value.lower();
  case Kind::Integer: {
    what = "an integer";
    int64_t integer;
    if (value.getAsInteger(10, integer))
      return fail(what, "'" + value + "'");
    number = static_cast<double>(integer);
    text = std::to_string(integer); // it may be a part of a name, as in int04
    break;
  }
  case Kind::Number:
    if (value.getAsDouble(number) || !std::isfinite(number))
      return fail(what, "'" + value + "'");
    break;
  case Kind::Text:
    break;
  }
  if (!choices.empty()) {
    // A number may be written in other ways.
    auto choice = find_if(choices, [&](StringRef choice) {
      double other;
      return kind == Kind::Number
                 ? !choice.getAsDouble(other) && other == number
                 : choice == text;
    });
    if (choice == choices.end())
      return fail("one of " + join(choices, ", "), "'" + value + "'");
    text = *choice;
  }
  if ((minimum && number < *minimum) || (maximum && number > *maximum))
    return fail(what + range, value);
  return text;
}

Result<std::string> quant_llm::quoteOption(StringRef text) {
  if (!text.empty() && all_of(text, [](char c) {
        return isAlnum(c) || StringRef("_.,:+/-").contains(c);
      }))
    return text.str();
  for (char mark : {'\'', '"'})
    if (!text.contains(mark))
      return mark + text.str() + mark;
  return Status::error(
      ("expected at most one kind of quotation marks but got " + text).str());
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

static std::string toText(const Json &value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

static std::optional<RecipeOption::Kind> getKind(const Json &value) {
  using Kind = RecipeOption::Kind;
  if (value.is_boolean())
    return Kind::Boolean;
  if (value.is_number_integer())
    return Kind::Integer;
  if (value.is_number_float())
    return Kind::Number;
  if (value.is_string())
    return Kind::Text;
  return std::nullopt;
}

/// The text at `key` of an object.
static Result<std::string> getText(const Json &object, const char *key) {
  auto found = object.find(key);
  if (found == object.end() || !found->is_string())
    return Status::error(std::string("expected a text at '") + key + "'");
  return found->get<std::string>();
}

static Result<RecipeOption> parseOption(const Json &entry) {
  if (!entry.is_object())
    return Status::error("expected an object per option");
  Result<std::string> name = getText(entry, "name");
  if (!name.ok())
    return name.status();
  RecipeOption option;
  option.name = name.take();
  std::string where = "options." + option.name + ": ";
  auto fail = [&](const std::string &message) {
    return Status::error(where + message);
  };
  Result<std::string> help = getText(entry, "help");
  if (!help.ok())
    return fail(help.message());
  option.help = help.take();
  auto given = entry.find("default");
  std::optional<RecipeOption::Kind> kind;
  if (given != entry.end())
    kind = getKind(*given);
  if (!kind)
    return fail("expected a default: a number, a text, true or false");
  option.kind = *kind;
  option.defaultValue = toText(*given);
  for (auto [key, bound, word] :
       {std::tuple("minimum", &option.minimum, " from "),
        std::tuple("maximum", &option.maximum, " up to ")}) {
    auto found = entry.find(key);
    if (found == entry.end())
      continue;
    if (!found->is_number() || getKind(*found) != kind)
      return fail(std::string(key) +
                  ": expected a number of the kind of the default but got " +
                  found->dump());
    *bound = found->get<double>();
    option.range += word + found->dump();
  }
  if (auto found = entry.find("choices"); found != entry.end()) {
    if (!found->is_array())
      return fail("choices: expected a list but got " + found->dump());
    for (const Json &choice : *found) {
      if (getKind(choice) != kind)
        return fail("choices: expected values of the kind of the default but "
                    "got " +
                    choice.dump());
      option.choices.push_back(toText(choice));
    }
  }
  Result<std::string> checked =
      option.check(option.defaultValue, where + "default");
  if (!checked.ok())
    return checked.status();
  return option;
}

static bool isPartOfName(char c) { return isAlnum(c) || c == '_'; }

/// Calls `use` with the name of every placeholder in `text`.
template <typename Use>
static void forEachPlaceholder(StringRef text, Use use) {
  for (size_t at = text.find('$'); at != StringRef::npos;
       at = text.find('$', at + 1))
    use(text.substr(at + 1).take_while(isPartOfName));
}

/// Splits a pipeline into words, each an option of a pass with its value or
/// what is between them, and calls `use` with each.
template <typename Use>
static void forEachWord(StringRef pipeline, Use use) {
  while (!pipeline.empty()) {
    StringRef word = pipeline.take_until(
        [](char c) { return StringRef(" {}").contains(c); });
    if (word.empty())
      word = pipeline.take_front(1);
    pipeline = pipeline.drop_front(word.size());
    use(word);
  }
}

/// Without comments, and with one space where there are some or a new line.
static std::string normalize(StringRef pipeline) {
  SmallVector<StringRef> lines, words;
  pipeline.split(lines, '\n');
  for (StringRef line : lines)
    SplitString(line.split('#').first, words);
  return join(words, " ");
}

Result<Recipe> Recipe::parse(StringRef json) {
  Result<Json> parsed = parseJson(json);
  if (!parsed.ok())
    return parsed.status().withContext("the recipe is no JSON");
  if (!parsed->is_object())
    return Status::error("expected a recipe as an object");
  Recipe recipe;
  for (auto [key, text] :
       {std::pair("name", &recipe.name), std::pair("summary", &recipe.summary),
        std::pair("pipeline", &recipe.pipeline)}) {
    Result<std::string> found = getText(*parsed, key);
    if (!found.ok())
      return found.status();
    *text = found.take();
  }
  recipe.pipeline = normalize(recipe.pipeline);
  if (auto options = parsed->find("options"); options != parsed->end())
    for (const Json &entry : *options) {
      Result<RecipeOption> option = parseOption(entry);
      if (!option.ok())
        return option.status();
      StringRef name = option->name;
      if (any_of(getRecipeFiles(),
                 [&](const RecipeFile &file) { return file.name == name; }))
        return Status::error("options." + option->name +
                             ": expected another name than that of a file of "
                             "the command");
      if (any_of(recipe.options,
                 [&](const RecipeOption &other) { return other.name == name; }))
        return Status::error("options." + option->name +
                             ": expected different names of options");
      recipe.options.push_back(option.take());
    }

  std::vector<std::string> known, unknown, vain, missing;
  for (const RecipeOption &option : recipe.options) {
    known.push_back(option.name);
    if (!recipe.uses(option.name))
      vain.push_back(option.name);
  }
  std::string files;
  for (const RecipeFile &file : getRecipeFiles()) {
    known.push_back(file.name);
    files += std::string(files.empty() ? "$" : ", $") + file.name;
  }
  forEachPlaceholder(recipe.pipeline, [&](StringRef name) {
    std::string shown = "$" + name.str();
    if (!is_contained(known, name) && !is_contained(unknown, shown))
      unknown.push_back(shown);
  });
  if (!unknown.empty())
    return Status::error("pipeline: expected placeholders of options, or " +
                         files + ", but got " + join(unknown, ", "));
  if (!vain.empty())
    return Status::error("options: the pipeline does not use " +
                         join(vain, ", "));
  for (const char *name : {"output", "report"})
    if (!recipe.uses(name))
      missing.push_back(std::string("$") + name);
  if (!missing.empty())
    return Status::error("pipeline: expected " + join(missing, " and ") +
                         " in it");
  auto calibration = parsed->find("calibration");
  if (calibration != parsed->end() &&
      (recipe.uses("calibration") || recipe.uses("behind")) !=
          (*calibration == true))
    return Status::error("expected a table [calibration] if the pipeline uses "
                         "$calibration or $behind, and only then");
  bool hasOutside = false;
  forEachWord(recipe.pipeline, [&](StringRef word) {
    hasOutside |= word.split('=').first.contains('$');
  });
  if (hasOutside)
    return Status::error("pipeline: expected placeholders in values of options "
                         "of passes only");
  return recipe;
}

bool Recipe::uses(StringRef placeholder) const {
  bool found = false;
  forEachPlaceholder(pipeline,
                     [&](StringRef name) { found |= name == placeholder; });
  return found;
}

//===----------------------------------------------------------------------===//
// Rendering
//===----------------------------------------------------------------------===//

Status Recipe::check(const std::map<std::string, std::string> &values) const {
  for (auto &[name, value] : values) {
    auto option = find_if(options, [name = StringRef(name)](const auto &o) {
      return o.name == name;
    });
    if (option == options.end()) {
      std::vector<std::string> known;
      for (const RecipeOption &o : options)
        known.push_back(o.name);
      return Status::error("the recipe '" + this->name + "' has no option '" +
                           name + "'; it has " +
                           (known.empty() ? "none" : join(known, ", ")));
    }
    Result<std::string> checked = option->check(value, name);
    if (!checked.ok())
      return checked.status();
  }
  return Status::success();
}

Result<std::string>
Recipe::render(const std::map<std::string, std::string> &values) const {
  std::map<std::string, std::string> ofOptions, given;
  for (auto &[name, value] : values)
    if (any_of(getRecipeFiles(), [name = StringRef(name)](const auto &file) {
          return file.name == name;
        }))
      given[name] = value;
    else
      ofOptions[name] = value;
  if (Status status = check(ofOptions); !status.ok())
    return status;
  for (const RecipeOption &option : options) {
    auto found = ofOptions.find(option.name);
    given[option.name] =
        option
            .check(found == ofOptions.end() ? option.defaultValue
                                            : found->second,
                   option.name)
            .take();
  }
  std::string result;
  Status status;
  forEachWord(pipeline, [&](StringRef word) {
    auto [key, value] = word.split('=');
    if (!value.contains('$')) {
      // No second space where an option was left out.
      if (word != " " || !StringRef(result).ends_with(" "))
        result += word;
      return;
    }
    std::string text;
    while (!value.empty()) {
      StringRef plain;
      std::tie(plain, value) = value.split('$');
      text += plain;
      StringRef placeholder = value.take_while(isPartOfName);
      value = value.drop_front(placeholder.size());
      if (placeholder.empty())
        continue;
      auto found = given.find(placeholder.str());
      if (found == given.end())
        status = Status::error("the recipe '" + name + "' needs " +
                               placeholder.str() + ", which is not given");
      else
        text += found->second;
    }
    if (text.empty())
      return;
    Result<std::string> quoted = quoteOption(text);
    if (quoted.ok())
      result += key.str() + "=" + *quoted;
    else
      status = quoted.status();
  });
  if (!status.ok())
    return status;
  return result;
}
