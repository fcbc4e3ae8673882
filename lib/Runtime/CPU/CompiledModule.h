//===- CompiledModule.h - What compilation hands to the engine --*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_RUNTIME_CPU_COMPILEDMODULE_H
#define QUANT_LLM_LIB_RUNTIME_CPU_COMPILEDMODULE_H

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm::cpu {

/// A tensor of an archive that generated code refers to by a symbol.
struct ParameterBinding {
  std::string symbol;
  /// The path as written in the module.
  std::string archive;
  std::string key;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
};

using ParameterBindings = std::vector<ParameterBinding>;

/// Objects and everything needed to link and call them.
struct CompiledModule {
  std::vector<FunctionSignature> functions;
  ParameterBindings parameters;
  /// Names of the kernels that a profile counts, by number.
  std::vector<std::string> kernels;
  /// Messages of the checks in the code, by number.
  std::vector<std::string> checks;
  /// Relocatable ELF objects.
  std::vector<std::string> objects;
};

/// Parses, lowers and compiles. `bufferName` names the source in diagnostics.
/// Asks `checkParameters` before what takes long.
Result<CompiledModule> compileModule(
    std::string_view source, const std::string &bufferName,
    const CpuEngineOptions &options,
    const std::function<Status(const ParameterBindings &)> &checkParameters);

/// The symbol of the entry point that the engine calls for `function`: it takes
/// an array of pointers, one to each scalar or memref descriptor, the last one
/// to the results.
std::string getEntrySymbol(std::string_view function);

/// Makes LLVM know this processor; harmless when repeated.
void initializeTarget();

/// A text that differs between builds and machines whose objects differ.
std::string getCompilerIdentity();

/// One file for one compiled module.
std::string serialize(const CompiledModule &module);
Result<CompiledModule> deserialize(std::string_view bytes);

} // namespace quant_llm::cpu

#endif // QUANT_LLM_LIB_RUNTIME_CPU_COMPILEDMODULE_H
