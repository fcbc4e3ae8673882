//===- Recipe.cpp - Recipes as JSON ---------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Compile.h"

#include "Internal.h"

#include "quant-llm/Pipelines/Recipes.h"
#include "quant-llm/Support/Json.h"

using namespace quant_llm;

using Values = std::map<std::string, std::string>;

static Result<Values> parseValues(const char *json) {
  Result<nlohmann::json> parsed = parseJson(json);
  if (!parsed.ok())
    return parsed.status().withContext("the values are no JSON");
  if (!parsed->is_object())
    return Status::error("expected values as an object");
  Values values;
  for (auto &[name, value] : parsed->items()) {
    if (!value.is_string())
      return Status::error("expected a text as value of '" + name +
                           "' but got " + value.dump());
    values[name] = value.get<std::string>();
  }
  return values;
}

QuantLLMStatus quantLLMQuoteOption(const char *text, QuantLLMBuffer **quoted,
                                   QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(text, "text"), checkNotNull(quoted, "quoted")})
      if (!status.ok())
        return status;
    Result<std::string> result = quoteOption(text);
    if (!result.ok())
      return result.status();
    *quoted = new QuantLLMBuffer{result.take()};
    return {};
  });
}

QuantLLMStatus quantLLMCheckRecipe(const char *recipe, const char *values,
                                   QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    if (Status status = checkNotNull(recipe, "recipe"); !status.ok())
      return status;
    Result<Recipe> parsed = Recipe::parse(recipe);
    if (!parsed.ok() || !values)
      return parsed.status();
    Result<Values> given = parseValues(values);
    return given.ok() ? parsed->check(*given) : given.status();
  });
}

QuantLLMStatus quantLLMRenderRecipe(const char *recipe, const char *values,
                                    QuantLLMBuffer **pipeline,
                                    QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(recipe, "recipe"), checkNotNull(values, "values"),
          checkNotNull(pipeline, "pipeline")})
      if (!status.ok())
        return status;
    Result<Recipe> parsed = Recipe::parse(recipe);
    if (!parsed.ok())
      return parsed.status();
    Result<Values> given = parseValues(values);
    if (!given.ok())
      return given.status();
    Result<std::string> text = parsed->render(*given);
    if (!text.ok())
      return text.status();
    *pipeline = new QuantLLMBuffer{text.take()};
    return {};
  });
}
