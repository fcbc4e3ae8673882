//===- Model.cpp - Models in the C API ------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Model.h"

#include "Context.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Import/Import.h"
#include "quant-llm/Pipelines/Recipes.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <nlohmann/json.hpp>

using namespace mlir;
using namespace quant_llm;
using Json = nlohmann::ordered_json;

QuantLLMStatus quantLLMImportModel(const char *input, const char *output,
                                   const QuantLLMImportOptions *options,
                                   QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    QuantLLMImportOptions defaults = {};
    const QuantLLMImportOptions &chosen = options ? *options : defaults;
    for (Status status :
         {checkNotNull(input, "input"), checkNotNull(output, "output")})
      if (!status.ok())
        return status;

    const QuantLLMHandlers &handlers = chosen.handlers;
    ImportOptions converted;
    converted.blockType =
        chosen.blocksAsF32 ? StorageType::F32 : StorageType::F16;
    CollectingContext context(handlers);
    converted.progress = [&](uint64_t done, uint64_t total) {
      if (handlers.progress)
        handlers.progress(handlers.userData, "converting weights", "", done,
                          total);
      return context.checkStop();
    };
    if (handlers.diagnostic)
      converted.warn = [&](const std::string &message) {
        QuantLLMDiagnostic diagnostic = {QUANT_LLM_WARNING, input,
                                         message.c_str()};
        handlers.diagnostic(handlers.userData, &diagnostic);
      };
    FileTransaction files;
    Status status = importModel(*context.get(), input, output, converted);
    if (status.ok())
      status = context.commit(files);
    if (status.ok())
      return {};
    Outcome outcome = context.failure(status.message());
    outcome.status = status;
    return outcome;
  });
}

static std::string getPipelineName(const QuantLLMQuantizeOptions &options) {
  return std::string("quant-llm-") +
         (options.recipe ? options.recipe : "finequant");
}

/// Adds the pipeline that `chosen` names, with the files to write, to `pm`.
static Status addPipeline(OpPassManager &pm,
                          const QuantLLMQuantizeOptions &chosen,
                          const std::string &directory) {
  registerEveryPass();
  const std::string name = getPipelineName(chosen),
                    options = chosen.options ? chosen.options : "";
  const PassPipelineInfo *info = PassPipelineInfo::lookup(name);
  if (!info)
    return Status::error("there is no pipeline '" + name +
                         "'; expected a recipe such as finequant");
  Result<std::string> archive = quoteOption(directory + "/model.safetensors");
  Result<std::string> report = quoteOption(directory + "/report.json");
  for (const Result<std::string> *path : {&archive, &report})
    if (!path->ok())
      return path->status();
  std::string text = options + " output=" + *archive + " report=" + *report;
  std::string message;
  LogicalResult added = info->addToPipeline(pm, text, [&](const Twine &error) {
    message = error.str();
    return failure();
  });
  if (succeeded(added))
    return Status::success();
  return Status::error(message.empty() ? "invalid options '" + options +
                                             "' of '" + name + "'"
                                       : message);
}

static Status writeText(ModuleOp module, const std::string &path) {
  std::string text;
  llvm::raw_string_ostream os(text);
  module.print(os);
  os << "\n";
  return writeFileAtomically(path, text.data(), text.size());
}

QuantLLMStatus quantLLMQuantizeModel(const char *input, const char *output,
                                     const QuantLLMQuantizeOptions *options,
                                     QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    QuantLLMQuantizeOptions defaults = {};
    const QuantLLMQuantizeOptions &chosen = options ? *options : defaults;
    for (Status status :
         {checkNotNull(input, "input"), checkNotNull(output, "output")})
      if (!status.ok())
        return status;
    auto source = llvm::MemoryBuffer::getFile(input);
    if (!source)
      return Status::error("cannot read '" + std::string(input) +
                           "': " + source.getError().message());

    CollectingContext context(chosen.handlers);
    OwningOpRef<ModuleOp> module = context.parse(
        (*source)->getBufferStart(), (*source)->getBufferSize(), input);
    if (!module)
      return context.failure("the module cannot be parsed");
    PassManager pm(context.get(), ModuleOp::getOperationName());
    Status added = addPipeline(pm, chosen, output);
    if (!added.ok())
      return added;
    // The pass looks after the files that it writes; this one may be a link.
    std::string path = std::string(output) + "/model.mlir";
    ParameterArchives archives;
    if (failed(verifyOutputFile(*module, archives, {"output", path},
                                {{"input", input}},
                                [&] { return module->emitError(); })))
      return context.failure("the module would be lost");
    // Weights without the module that tells what they mean are no use.
    FileTransaction files;
    if (failed(context.run(pm, *module)))
      return context.failure("the pipeline '" + getPipelineName(chosen) +
                             "' failed");
    if (Status status = writeText(*module, path); !status.ok())
      return status;
    if (Status status = context.commit(files); !status.ok())
      return status;
    return {};
  });
}

QuantLLMStatus
quantLLMCheckQuantizeOptions(const QuantLLMQuantizeOptions *options,
                             QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    QuantLLMQuantizeOptions defaults = {};
    OpPassManager pipeline(ModuleOp::getOperationName());
    Status added = addPipeline(pipeline, options ? *options : defaults, ".");
    if (!added.ok())
      return added;
    CollectingContext context(QuantLLMHandlers{});
    if (failed(context.initialize(std::move(pipeline))))
      return context.failure("the options cannot be used");
    return {};
  });
}

/// A type or an attribute.
template <typename T>
static std::string print(T value) {
  std::string text;
  llvm::raw_string_ostream os(text);
  value.print(os);
  return text;
}

QuantLLMStatus quantLLMDescribeModule(const char *source, size_t sourceSize,
                                      const char *name, QuantLLMBuffer **json,
                                      QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    for (Status status :
         {checkNotNull(source, "source"), checkNotNull(json, "json")})
      if (!status.ok())
        return status;
    CollectingContext context(QuantLLMHandlers{});
    OwningOpRef<ModuleOp> module = context.parse(source, sourceSize, name);
    if (!module)
      return context.failure("the module cannot be parsed");

    Json archives = Json::array(), parameters = Json::array(),
         functions = Json::array();
    // What linears are to quantize dense weights to.
    llvm::DenseMap<Operation *, SchemeAttr> planned;
    SymbolTableCollection tables;
    module->walk([&](LinearOpInterface linear) {
      SchemeAttr scheme = linear.getSchemeAttr();
      if (!scheme)
        return;
      for (Value weight : linear.getWeights())
        if (ParameterOp parameter = getParameterOf(weight, &tables))
          planned.try_emplace(parameter, scheme);
    });
    for (Operation &op : module->getOps()) {
      if (auto archive = dyn_cast<ArchiveOp>(op)) {
        archives.push_back({{"name", archive.getSymName().str()},
                            {"path", resolveArchivePath(archive)}});
      } else if (auto parameter = dyn_cast<ParameterOp>(op)) {
        Json entry = {{"name", parameter.getSymName().str()},
                      {"archive", parameter.getArchive().str()},
                      {"key", parameter.getArchiveKey().str()},
                      {"planned_scheme", nullptr}};
        if (auto weight = dyn_cast<WeightType>(parameter.getType())) {
          entry.update({{"shape", weight.getShape().vec()},
                        {"element_type", print(weight.getElementType())},
                        {"scheme", print(Attribute(weight.getScheme()))},
                        {"bytes", weight.getStorageBytes()}});
        } else {
          auto tensor = cast<RankedTensorType>(parameter.getType());
          entry.update({{"shape", tensor.getShape().vec()},
                        {"element_type", print(tensor.getElementType())},
                        {"scheme", nullptr},
                        {"bytes", tensor.getNumElements() *
                                      tensor.getElementTypeBitWidth() / 8}});
          if (SchemeAttr scheme = planned.lookup(parameter))
            entry["planned_scheme"] = print(Attribute(scheme));
        }
        parameters.push_back(std::move(entry));
      } else if (auto function = dyn_cast<func::FuncOp>(op)) {
        functions.push_back({{"name", function.getSymName().str()},
                             {"type", print(function.getFunctionType())}});
      }
    }
    Json description = {{"archives", std::move(archives)},
                        {"parameters", std::move(parameters)},
                        {"functions", std::move(functions)}};
    *json = makeBuffer(description);
    return {};
  });
}
