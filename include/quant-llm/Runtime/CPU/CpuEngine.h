//===- CpuEngine.h - Compile a module and run its functions -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The engine behind quant-run, the C API and Python: a module goes in as text,
// bytecode or a file; its public functions can then be called with tensors. The
// interface is plain C++, so that callers need neither MLIR nor LLVM.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CPU_CPUENGINE_H
#define QUANT_LLM_RUNTIME_CPU_CPUENGINE_H

#include "quant-llm/Runtime/CPU/Tensor.h"
#include "quant-llm/Support/Status.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// How a module is compiled and run.
struct CpuEngineOptions {
  /// Use the exact reference lowering instead of the fast kernels.
  bool reference = false;
  /// Print the time spent in each kernel to stderr when the engine goes away.
  bool profile = false;
  /// Threads of the kernels; 0 is resolved by resolveThreadCount(). The last
  /// engine to run decides for the process.
  int threads = 0;
  /// Effort of LLVM, 0 to 3.
  unsigned optLevel = 3;
  /// Directory to which relative paths of archives refer; empty means that of
  /// the module's file, or the working directory for a module from memory.
  std::string baseDirectory;
  /// Keep compiled objects on disk and use those of earlier runs.
  bool useCache = true;
  /// Where; empty means $QUANT_LLM_CACHE_DIR, else $XDG_CACHE_HOME/quant-llm,
  /// else ~/.cache/quant-llm. A directory that belongs to somebody else, or
  /// that others may write to, is not used: its files would be executed.
  std::string cacheDirectory;
  /// Upper bound of the size of that directory; the oldest entries go first.
  uint64_t cacheLimitBytes = uint64_t(1) << 30;
};

/// The type of an argument or a result.
struct ValueSignature {
  bool isScalar = false;
  DType dtype = DType::F32;
  /// -1 marks a dynamic extent.
  std::vector<int64_t> shape;

  /// `f32 [?, 576]`, for messages.
  std::string describe() const;
};

/// The type of a function.
struct FunctionSignature {
  std::string name;
  std::vector<ValueSignature> arguments;
  std::vector<ValueSignature> results;
  /// For each result the index of the argument that is updated in place and
  /// returned as this result, or -1.
  std::vector<int64_t> resultAliases;
};

/// One argument of a call.
struct Argument {
  Argument(Tensor tensor, bool inPlace = false)
      : tensor(std::move(tensor)), inPlace(inPlace) {}

  Tensor tensor;
  /// Allow an argument that a result aliases (see resultAliases) to be
  /// overwritten; the result then is the same memory. Otherwise the engine
  /// copies the argument first.
  bool inPlace;
};

/// A compiled module with its parameters bound. Calls on one engine exclude
/// each other; different engines are independent but share the threads of
/// OpenMP.
class CpuEngine {
public:
  /// Compiles a `.mlir` or `.mlirbc` file.
  static Result<std::unique_ptr<CpuEngine>>
  fromFile(const std::string &path, const CpuEngineOptions &options = {});
  /// Compiles a module held in memory, text or bytecode. `name` stands for the
  /// file in messages.
  static Result<std::unique_ptr<CpuEngine>>
  fromMemory(std::string_view source, const CpuEngineOptions &options = {},
             const std::string &name = "<memory>");

  ~CpuEngine();

  /// The public functions, in the order of the module.
  const std::vector<FunctionSignature> &functions() const;
  /// Null if there is no such function.
  const FunctionSignature *findFunction(std::string_view name) const;

  /// Calls a function. Arguments are checked against the signature; a failed
  /// check inside the function (extents that do not fit together, an index out
  /// of range) is an error as well, after which arguments passed `inPlace` have
  /// unspecified contents. These share no memory with other arguments.
  Result<std::vector<Tensor>> invoke(std::string_view function,
                                     const std::vector<Argument> &arguments);

  /// Whether `path` leads, through links of any kind, to a file that parameters
  /// are read from; such a file must not be written.
  bool readsFile(const std::string &path) const;

  /// Seconds spent in parsing and compiling, 0 if the cache had the object.
  double compileSeconds() const;
  /// True if the object came from the cache.
  bool fromCache() const;

private:
  struct Impl;
  explicit CpuEngine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

/// Bytes that generated code holds at the moment, the results of calls
/// included, and the highest value so far; for tests and reports.
struct RuntimeMemoryUse {
  int64_t live = 0;
  int64_t peak = 0;
};
RuntimeMemoryUse getRuntimeMemoryUse();

} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CPU_CPUENGINE_H
