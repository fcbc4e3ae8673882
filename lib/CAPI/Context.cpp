//===- Context.cpp - An MLIR context that collects diagnostics ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Context.h"

#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"
#include "quant-llm/Parser/ParseSafely.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Progress.h"

#include "mlir/Bytecode/BytecodeWriter.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/ThreadPool.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>

using namespace mlir;
using namespace quant_llm;

static QuantLLMSeverity convertSeverity(DiagnosticSeverity severity) {
  switch (severity) {
  case DiagnosticSeverity::Error:
    return QUANT_LLM_ERROR;
  case DiagnosticSeverity::Warning:
    return QUANT_LLM_WARNING;
  case DiagnosticSeverity::Remark:
    return QUANT_LLM_REMARK;
  case DiagnosticSeverity::Note:
    break;
  }
  return QUANT_LLM_NOTE;
}

/// `file:line:column` where that is known, else the location as MLIR prints it.
static std::string printLocation(Location location) {
  if (isa<UnknownLoc>(location))
    return "";
  std::string text;
  llvm::raw_string_ostream os(text);
  if (auto file = location->findInstanceOf<FileLineColLoc>())
    os << file.getFilename().getValue() << ':' << file.getLine() << ':'
       << file.getColumn();
  else
    location.print(os);
  return text;
}

namespace {

/// LLVM's pool, for tasks that belong to the work of the thread that queues
/// them, such as passes on nested modules.
class ThreadPool : public llvm::ThreadPoolInterface {
public:
  void wait() override { pool.wait(); }
  void wait(llvm::ThreadPoolTaskGroup &group) override { pool.wait(group); }
  unsigned getMaxConcurrency() const override {
    return pool.getMaxConcurrency();
  }

private:
  void asyncEnqueue(llvm::unique_function<void()> task,
                    llvm::ThreadPoolTaskGroup *group) override {
    auto work = [task = std::move(task),
                 files = FileTransaction::current()]() mutable {
      FileTransactionMember member(files);
      task();
    };
    if (group)
      pool.async(*group, std::move(work));
    else
      pool.async(std::move(work));
  }

  llvm::DefaultThreadPool pool;
};

} // namespace

CollectingContext::CollectingContext(const QuantLLMHandlers &handlers)
    : threads(std::make_unique<ThreadPool>()),
      context(MLIRContext::Threading::DISABLED), handlers(handlers) {
  context.setThreadPool(*threads);
  DialectRegistry registry;
  registerEveryDialect(registry);
  context.appendDialectRegistry(registry);
  // The operation of an error may be the whole model.
  context.printOpOnDiagnostic(false);
  context.getDiagEngine().registerHandler([this](Diagnostic &diagnostic) {
    StoredDiagnostic stored{convertSeverity(diagnostic.getSeverity()),
                            printLocation(diagnostic.getLocation()),
                            diagnostic.str()};
    if (this->handlers.diagnostic && stored.severity != QUANT_LLM_ERROR) {
      QuantLLMDiagnostic view{stored.severity, stored.location.c_str(),
                              stored.message.c_str()};
      this->handlers.diagnostic(this->handlers.userData, &view);
    }
    diagnostics.push_back(std::move(stored));
    for (Diagnostic &note : diagnostic.getNotes())
      diagnostics.push_back(
          {QUANT_LLM_NOTE, printLocation(note.getLocation()), note.str()});
  });
}

CollectingContext::~CollectingContext() = default;

OwningOpRef<ModuleOp> CollectingContext::parse(const char *source, size_t size,
                                               const char *name) {
  llvm::SourceMgr sourceManager;
  // The parser wants a NUL after the last byte, which callers may lack.
  sourceManager.AddNewSourceBuffer(
      llvm::MemoryBuffer::getMemBufferCopy(llvm::StringRef(source, size),
                                           name ? name : "<memory>"),
      llvm::SMLoc());
  OwningOpRef<ModuleOp> module;
  Status status = parseSafely(std::string_view(source, size), [&] {
    module = parseSourceFile<ModuleOp>(sourceManager, &context);
  });
  if (!status.ok())
    emitError(FileLineColLoc::get(&context, name ? name : "<memory>", 0, 0))
        << status.message();
  return module;
}

LogicalResult CollectingContext::run(PassManager &pm, ModuleOp module) {
  if (std::string fault = findUnknownAnchor(pm, &context); !fault.empty())
    return emitError(UnknownLoc::get(&context)) << fault;
  ProgressListener listener;
  if (handlers.progress)
    listener = [this](const Progress &progress) {
      handlers.progress(handlers.userData, progress.stage.c_str(),
                        progress.item.c_str(), progress.done, progress.total);
    };
  ProgressScope scope(std::move(listener), [this] { return shouldStop(); });
  return pm.run(module);
}

bool CollectingContext::shouldStop() const {
  return handlers.shouldStop && handlers.shouldStop(handlers.userData) != 0;
}

Status CollectingContext::checkStop() const {
  return shouldStop() ? Status::error("stopped by the caller")
                      : Status::success();
}

Status CollectingContext::commit(FileTransaction &files) const {
  if (Status status = checkStop(); !status.ok())
    return status;
  return files.commit();
}

LogicalResult CollectingContext::initialize(OpPassManager pipeline) {
  // All passes are initialized before one is run, and on the modules in an
  // empty module none is.
  PassManager pm(&context, ModuleOp::getOperationName());
  pm.nest<ModuleOp>() = std::move(pipeline);
  OwningOpRef<ModuleOp> empty = ModuleOp::create(UnknownLoc::get(&context));
  return run(pm, *empty);
}

Outcome CollectingContext::print(ModuleOp module, bool bytecode,
                                 QuantLLMBuffer **buffer) {
  auto printed = std::make_unique<QuantLLMBuffer>();
  llvm::raw_string_ostream os(printed->bytes);
  if (!bytecode)
    module.print(os);
  else if (failed(writeBytecodeToFile(module, os)))
    return failure("the module cannot be written as bytecode");
  *buffer = printed.release();
  return {};
}

Outcome CollectingContext::failure(const std::string &fallback) {
  std::string message;
  for (size_t i = 0; i < diagnostics.size() && message.empty(); ++i) {
    if (diagnostics[i].severity != QUANT_LLM_ERROR)
      continue;
    message = diagnostics[i].location;
    message += (message.empty() ? "" : ": ") + diagnostics[i].message;
    for (size_t j = i + 1; j < diagnostics.size(); ++j) {
      if (diagnostics[j].severity != QUANT_LLM_NOTE)
        break;
      message += "\nnote: " + diagnostics[j].message;
    }
  }
  Outcome outcome(Status::error(message.empty() ? fallback : message));
  outcome.diagnostics = std::move(diagnostics);
  diagnostics.clear();
  return outcome;
}
