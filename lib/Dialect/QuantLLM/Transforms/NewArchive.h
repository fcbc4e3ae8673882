//===- NewArchive.h - Passes that move weights to a new file ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What quant-llm-quantize and quant-llm-prepack have in common. Both work in
// three phases, because the header of a safetensors file comes first: the types
// alone say how large every component will be, so the file is declared before
// any weight is read; it is then written front to back with one weight in
// memory; the module is changed last, when nothing can fail any more.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_NEWARCHIVE_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_NEWARCHIVE_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"

#include <optional>
#include <string>
#include <vector>

namespace quant_llm {

/// A parameter that becomes a weight of another type in the new archive.
struct MovedWeight {
  ParameterOp parameter;
  /// The linears that have it as a weight and shall have the new one.
  llvm::SmallVector<LinearOpInterface> linears;
  WeightType type;
  /// In the new archive.
  std::string key;
  /// Something else uses the parameter as it is now.
  bool keepOld = false;
};

/// Sets keepOld of the weights that `find` returns for parameters with a use
/// that is not as weight of one of their linears.
void findOtherUses(mlir::ModuleOp module,
                   llvm::function_ref<MovedWeight *(ParameterOp)> find);

/// A parameter that goes to the new archive as it is: one tensor, or the
/// components of a weight.
struct CopiedParameter {
  ParameterOp parameter;
  llvm::SmallVector<TensorInfo> infos;
  /// In the new archive: those of the tensors, and that of the parameter.
  llvm::SmallVector<std::string> keys;
  std::string key;

  /// Of all its tensors.
  uint64_t getBytes() const;
};

/// Looks up the tensors of a parameter that is to be copied.
mlir::FailureOr<CopiedParameter> findCopied(ParameterArchives &archives,
                                            ParameterOp parameter);

/// Options that the passes share, by the names that their users know.
struct NewArchiveOptions {
  llvm::StringRef passName;
  std::string output;
  std::string report;
  std::string archiveName;
  std::string moduleDir;
  std::string baseDir;
};

class NewArchive {
public:
  NewArchive(mlir::ModuleOp module, NewArchiveOptions options)
      : module(module), options(std::move(options)) {}

  /// An error of the pass that belongs to no op.
  mlir::InFlightDiagnostic fail() {
    return module.emitError() << options.passName << ": ";
  }
  mlir::InFlightDiagnostic invalid(llvm::StringRef option,
                                   const llvm::Twine &message) {
    return emitOptionError(module.getLoc(), options.passName, option, message);
  }

  /// No file or symbol that the module has may be replaced.
  llvm::LogicalResult verifyOptions(ParameterArchives &archives,
                                    llvm::ArrayRef<OptionFile> inputs = {});

  //===--------------------------------------------------------------------===//
  // Declaring
  //===--------------------------------------------------------------------===//

  /// Announces a parameter of the new archive. Keys stay what they were, unless
  /// parameters of several archives share one; so all are announced before the
  /// first key is asked for.
  void addParameter(ParameterOp op) { ++keyUses[op.getArchiveKey()]; }
  std::string getNewKey(ParameterOp op) {
    llvm::StringRef key = op.getArchiveKey();
    return (keyUses[key] > 1 ? op.getSymName() : key).str();
  }

  /// Adds a tensor, or the components of a weight for which `filter` holds.
  llvm::LogicalResult declare(ParameterOp op, const std::string &name,
                              DType dtype, llvm::ArrayRef<int64_t> shape);
  llvm::LogicalResult declare(
      const MovedWeight &weight,
      llvm::function_ref<bool(llvm::StringRef)> filter = [](llvm::StringRef) {
        return true;
      });

  /// Adds parameters that are copied and gives them their keys. Sorts them by
  /// the width of their elements, the widest first: all tensors are then
  /// aligned to their type.
  llvm::LogicalResult declare(std::vector<CopiedParameter> &copies);

  //===--------------------------------------------------------------------===//
  // Writing
  //===--------------------------------------------------------------------===//

  llvm::LogicalResult open();
  /// Appends to a tensor; in the order of the declarations.
  llvm::LogicalResult append(llvm::StringRef name, const void *data,
                             size_t bytes);
  /// Appends the tensors of a parameter as they are; `advance` gets the key and
  /// the bytes of each.
  llvm::LogicalResult
  append(const CopiedParameter &copy, ParameterArchives &archives,
         llvm::function_ref<llvm::LogicalResult(const std::string &, uint64_t)>
             advance);
  /// Makes the file visible, and the report, if one was asked for.
  llvm::LogicalResult finish(llvm::function_ref<std::string()> makeReport);

  //===--------------------------------------------------------------------===//
  // Rewriting
  //===--------------------------------------------------------------------===//

  /// Creates the new archive's op.
  void beginRewrite();
  /// Makes a parameter one of the new archive.
  void move(ParameterOp op, llvm::StringRef key);
  /// Gives the linears the new weight; if the parameter is kept, that is
  /// another parameter, whose name ends with `suffix`.
  void move(const MovedWeight &weight, llvm::StringRef suffix);
  /// Removes what is not used any more and makes the paths of the other
  /// archives relative to the directory of the new module.
  void endRewrite();

private:
  /// The directory that the module will be stored in.
  std::string getModuleDirectory() const;

  mlir::ModuleOp module;
  NewArchiveOptions options;
  llvm::StringMap<unsigned> keyUses;
  std::vector<TensorDeclaration> declarations;
  llvm::StringMap<ParameterOp> declaredBy;
  std::optional<AtomicFile> reportFile;
  std::optional<SafetensorsWriter> writer;
  llvm::SmallVector<ArchiveOp> oldArchives;
  mlir::FlatSymbolRefAttr newArchive;
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_NEWARCHIVE_H
