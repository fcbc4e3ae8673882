//===- Compile.cpp - Modules as bytes in and out --------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Compile.h"

#include "Context.h"

#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

using namespace mlir;
using namespace quant_llm;

/// A list of passes is short for those passes on the module.
static Result<OpPassManager> parsePipeline(StringRef text) {
  registerEveryPass();
  text = text.trim();
  std::string wrapped = text.starts_with("builtin.module(")
                            ? text.str()
                            : ("builtin.module(" + text + ")").str();
  std::string message;
  FailureOr<OpPassManager> pipeline;
  if (failed(buildPipeline(wrapped, message, [&](std::string &errors) {
        llvm::raw_string_ostream os(errors);
        pipeline = parsePassPipeline(wrapped, os);
        return LogicalResult(pipeline);
      })))
    return Status::error("invalid pass pipeline '" + text.str() +
                         "': " + message);
  return std::move(*pipeline);
}

QuantLLMStatus quantLLMCompile(const char *source, size_t sourceSize,
                               const QuantLLMCompileOptions *options,
                               QuantLLMBuffer **module, QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    QuantLLMCompileOptions defaults = {};
    const QuantLLMCompileOptions &chosen = options ? *options : defaults;
    for (Status status :
         {checkNotNull(source, "source"), checkNotNull(module, "module")})
      if (!status.ok())
        return status;

    CollectingContext context(chosen.handlers);
    OwningOpRef<ModuleOp> parsed =
        context.parse(source, sourceSize, chosen.name);
    if (!parsed)
      return context.failure("the module cannot be parsed");
    // What passes write is no use without the module.
    FileTransaction files;
    if (chosen.pipeline && *chosen.pipeline) {
      Result<OpPassManager> pipeline = parsePipeline(chosen.pipeline);
      if (!pipeline.ok())
        return pipeline.status();
      PassManager pm(context.get());
      static_cast<OpPassManager &>(pm) = pipeline.take();
      if (failed(context.run(pm, *parsed)))
        return context.failure("the pipeline '" + std::string(chosen.pipeline) +
                               "' failed");
    }
    QuantLLMBuffer *printed = nullptr;
    Outcome outcome = context.print(*parsed, chosen.bytecode != 0, &printed);
    std::unique_ptr<QuantLLMBuffer> owned(printed);
    if (!outcome.status.ok())
      return outcome;
    if (Status kept = context.commit(files); !kept.ok())
      return kept;
    *module = owned.release();
    return {};
  });
}

QuantLLMStatus quantLLMCheckPipeline(const char *pipeline,
                                     QuantLLMError **error) {
  return runGuarded(error, [&]() -> Outcome {
    if (Status status = checkNotNull(pipeline, "pipeline"); !status.ok())
      return status;
    Result<OpPassManager> parsed = parsePipeline(pipeline);
    if (!parsed.ok())
      return parsed.status();
    CollectingContext context(QuantLLMHandlers{});
    if (failed(context.initialize(parsed.take())))
      return context.failure("the pipeline '" + std::string(pipeline) +
                             "' cannot be run");
    return {};
  });
}
