//===- Torch.cpp - Translation to PyTorch in the C API --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Torch.h"

#include "Context.h"

#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Target/Torch.h"

#include <nlohmann/json.hpp>

using namespace mlir;
using namespace quant_llm;
using Json = nlohmann::ordered_json;

static Json describe(const TorchValue &value) {
  Json entry = {{"name", value.name},
                {"id", value.id},
                {"shape", nullptr},
                {"dtype", value.dtype},
                {"slots", nullptr}};
  if (value.shape)
    entry["shape"] = *value.shape;
  if (value.slots)
    entry["slots"] = {value.slots->first, value.slots->second};
  return entry;
}

QuantLLMStatus quantLLMTranslateToTorch(const char *source, size_t sourceSize,
                                        const char *name,
                                        const QuantLLMTorchOptions *options,
                                        QuantLLMBuffer **json,
                                        QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    QuantLLMTorchOptions defaults = {};
    const QuantLLMTorchOptions &chosen = options ? *options : defaults;
    for (Status status :
         {checkNotNull(source, "source"), checkNotNull(json, "json")})
      if (!status.ok())
        return status;
    TorchOptions converted;
    converted.function = chosen.function ? chosen.function : "";
    converted.firstBlock = chosen.firstBlock;
    converted.lastBlock = chosen.lastBlock;
    converted.tap = chosen.tap != 0;
    switch (chosen.part) {
    case QUANT_LLM_TORCH_WHOLE:
      break;
    case QUANT_LLM_TORCH_FRONT:
      converted.part = TorchOptions::Part::Front;
      break;
    case QUANT_LLM_TORCH_BLOCKS:
      converted.part = TorchOptions::Part::Blocks;
      break;
    case QUANT_LLM_TORCH_BACK:
      converted.part = TorchOptions::Part::Back;
      break;
    default:
      return Status::error("expected a part of a function but got " +
                           std::to_string(chosen.part));
    }

    CollectingContext context(QuantLLMHandlers{});
    OwningOpRef<ModuleOp> module = context.parse(source, sourceSize, name);
    if (!module)
      return context.failure("the module cannot be parsed");
    FailureOr<TorchSource> result = translateToTorch(*module, converted);
    if (failed(result))
      return context.failure("the function cannot be translated");
    Json inputs = Json::array(), outputs = Json::array();
    for (const TorchValue &value : result->inputs)
      inputs.push_back(describe(value));
    for (const TorchValue &value : result->outputs)
      outputs.push_back(describe(value));
    Json description = {
        {"source", result->text},           {"function", result->functionName},
        {"inputs", std::move(inputs)},      {"outputs", std::move(outputs)},
        {"parameters", result->parameters}, {"linears", result->linears},
        {"blocks", result->blocks}};
    *json = makeBuffer(description);
    return {};
  });
}

QuantLLMStatus quantLLMFingerprintModel(const char *source, size_t sourceSize,
                                        const char *name, QuantLLMBuffer **text,
                                        QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(source, "source"), checkNotNull(text, "text")})
      if (!status.ok())
        return status;
    CollectingContext context(QuantLLMHandlers{});
    OwningOpRef<ModuleOp> module = context.parse(source, sourceSize, name);
    if (!module)
      return context.failure("the module cannot be parsed");
    ParameterArchives archives;
    FailureOr<std::string> fingerprint = archives.computeFingerprint(*module);
    if (failed(fingerprint))
      return context.failure("the parameters cannot be read");
    *text = new QuantLLMBuffer{*fingerprint};
    return {};
  });
}
