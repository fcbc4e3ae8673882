//===- Runtime.cpp - Engines and tensors of the C API ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Runtime.h"

#include "Internal.h"

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include <nlohmann/json.hpp>

using namespace quant_llm;
using Json = nlohmann::ordered_json;

struct QuantLLMTensor {
  Tensor tensor;
};

struct QuantLLMEngine {
  std::unique_ptr<CpuEngine> engine;
};

QuantLLMTensorView quantLLMTensorGetView(const QuantLLMTensor *tensor) {
  if (!tensor)
    return {"", 0, nullptr, nullptr};
  // The names are literals, so they end in NUL.
  return {getDTypeName(tensor->tensor.dtype()).data(),
          tensor->tensor.shape().size(), tensor->tensor.shape().data(),
          tensor->tensor.data()};
}

size_t quantLLMTensorGetNumBytes(const QuantLLMTensor *tensor) {
  // Results have been checked, so there is a size.
  return tensor ? getByteSize(tensor->tensor.dtype(), tensor->tensor.shape())
                      .value_or(0)
                : 0;
}

void quantLLMTensorDestroy(QuantLLMTensor *tensor) { delete tensor; }

static CpuEngineOptions convertOptions(const QuantLLMEngineOptions *options) {
  CpuEngineOptions converted;
  if (!options)
    return converted;
  converted.reference = options->reference != 0;
  converted.threads = options->threads;
  converted.useCache = options->disableCache == 0;
  if (options->baseDirectory)
    converted.baseDirectory = options->baseDirectory;
  return converted;
}

static Outcome finish(Result<std::unique_ptr<CpuEngine>> created,
                      QuantLLMEngine **engine) {
  if (!created.ok())
    return created.status();
  *engine = new QuantLLMEngine{created.take()};
  return {};
}

QuantLLMStatus
quantLLMEngineCreateFromFile(const char *path,
                             const QuantLLMEngineOptions *options,
                             QuantLLMEngine **engine, QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(path, "path"), checkNotNull(engine, "engine")})
      if (!status.ok())
        return status;
    return finish(CpuEngine::fromFile(path, convertOptions(options)), engine);
  });
}

QuantLLMStatus
quantLLMEngineCreateFromMemory(const char *source, size_t sourceSize,
                               const char *name,
                               const QuantLLMEngineOptions *options,
                               QuantLLMEngine **engine, QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(source, "source"), checkNotNull(engine, "engine")})
      if (!status.ok())
        return status;
    return finish(CpuEngine::fromMemory(std::string_view(source, sourceSize),
                                        convertOptions(options),
                                        name ? name : "<memory>"),
                  engine);
  });
}

void quantLLMEngineDestroy(QuantLLMEngine *engine) { delete engine; }

static Json describe(const std::vector<ValueSignature> &values) {
  Json list = Json::array();
  for (const ValueSignature &value : values)
    list.push_back({{"dtype", std::string(getDTypeName(value.dtype))},
                    {"shape", value.shape},
                    {"scalar", value.isScalar}});
  return list;
}

QuantLLMStatus quantLLMEngineDescribe(const QuantLLMEngine *engine,
                                      QuantLLMBuffer **json,
                                      QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(engine, "engine"), checkNotNull(json, "json")})
      if (!status.ok())
        return status;
    Json functions = Json::array();
    for (const FunctionSignature &function : engine->engine->functions())
      functions.push_back({{"name", function.name},
                           {"arguments", describe(function.arguments)},
                           {"results", describe(function.results)},
                           {"aliases", function.resultAliases}});
    Json description = {{"functions", std::move(functions)},
                        {"from_cache", engine->engine->fromCache()},
                        {"compile_seconds", engine->engine->compileSeconds()}};
    *json = makeBuffer(description);
    return {};
  });
}

QuantLLMStatus quantLLMEngineGetNumResults(const QuantLLMEngine *engine,
                                           const char *function,
                                           size_t *numResults,
                                           QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(engine, "engine"), checkNotNull(function, "function"),
          checkNotNull(numResults, "numResults")})
      if (!status.ok())
        return status;
    const FunctionSignature *signature = engine->engine->findFunction(function);
    if (!signature)
      return Status::error("there is no function '" + std::string(function) +
                           "'");
    *numResults = signature->results.size();
    return {};
  });
}

QuantLLMStatus
quantLLMEngineInvoke(QuantLLMEngine *engine, const char *function,
                     const QuantLLMArgument *arguments, size_t numArguments,
                     QuantLLMTensor **results, size_t resultCapacity,
                     size_t *numResults, QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(engine, "engine"), checkNotNull(function, "function"),
          checkNotNull(numResults, "numResults")})
      if (!status.ok())
        return status;
    if (numArguments != 0 && !arguments)
      return checkNotNull(arguments, "arguments");

    const FunctionSignature *signature = engine->engine->findFunction(function);
    if (signature && resultCapacity < signature->results.size())
      return Status::error(
          "expected room for " + std::to_string(signature->results.size()) +
          " results but got room for " + std::to_string(resultCapacity));
    if (resultCapacity != 0 && !results)
      return checkNotNull(results, "results");

    std::vector<Argument> converted;
    converted.reserve(numArguments);
    for (size_t i = 0; i < numArguments; ++i) {
      const QuantLLMTensorView &view = arguments[i].tensor;
      std::optional<DType> dtype =
          view.dtype ? parseDType(view.dtype) : std::nullopt;
      if (!dtype)
        return Status::error(
            "argument " + std::to_string(i) +
            ": expected an element type such as F32 but got '" +
            (view.dtype ? view.dtype : "") + "'");
      if (view.rank != 0 && !view.shape)
        return checkNotNull(view.shape, "shape");
      std::vector<int64_t> shape(view.shape, view.shape + view.rank);
      std::optional<int64_t> count = getNumElements(shape);
      if (!count)
        return Status::error("argument " + std::to_string(i) +
                             ": expected a valid shape but got " +
                             shapeToString(shape));
      if (*count != 0 && !view.data)
        return checkNotNull(view.data, "data");
      converted.emplace_back(Tensor::wrap(*dtype, std::move(shape), view.data),
                             arguments[i].inPlace != 0);
    }

    Result<std::vector<Tensor>> tensors =
        engine->engine->invoke(function, converted);
    if (!tensors.ok())
      return tensors.status();
    // All or none: the handles are only given away when all of them exist.
    std::vector<std::unique_ptr<QuantLLMTensor>> handles;
    for (Tensor &tensor : *tensors)
      handles.push_back(std::unique_ptr<QuantLLMTensor>(
          new QuantLLMTensor{std::move(tensor)}));
    for (size_t i = 0; i < handles.size(); ++i)
      results[i] = handles[i].release();
    *numResults = handles.size();
    return {};
  });
}
