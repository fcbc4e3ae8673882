//===- TransformStatistics.h - Statistics of a changed model ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Where the columns of a weight W become t(W), the inputs of the linear have
// become t^-T(x), or it would compute something else. So the weights alone tell
// how the statistics of their inputs change.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMSTATISTICS_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMSTATISTICS_H

#include "TransformEvaluator.h"

#include "quant-llm/Formats/CalibrationFile.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringSet.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

class TransformStatistics {
public:
  TransformStatistics(llvm::StringRef passName,
                      std::shared_ptr<const CalibrationFile> file)
      : passName(passName), file(std::move(file)) {}

  /// Finds what becomes of the statistics of all linears; `getName` is the name
  /// that the parameter of a weight will have.
  llvm::LogicalResult
  plan(mlir::ModuleOp module,
       llvm::function_ref<std::string(mlir::Value)> getName);

  /// Writes the file of the model with this fingerprint, while the ops of the
  /// transforms are still there. It appears at finish().
  llvm::LogicalResult write(const std::string &path,
                            const std::string &fingerprint,
                            ParameterArchives &archives);
  llvm::LogicalResult finish();

private:
  mlir::InFlightDiagnostic fail(const Status &status) {
    return module.emitError() << passName << ": " << status.message();
  }

  /// A weight of the new model.
  struct Entry {
    std::string name;
    ParameterOp source;
    LinearOp linear;
    /// From the parameter on.
    llvm::SmallVector<mlir::Operation *> columns, rows;
    /// The entry whose inputs have the same statistics.
    std::string owner;
  };
  llvm::LogicalResult addWeight(LinearOp linear, mlir::Value weight,
                                const std::string &name);
  /// Whether a statistic is known after the transforms of an entry.
  static bool survives(const Entry &entry, std::string_view statistic);
  llvm::LogicalResult transform(const Entry &entry, std::string_view statistic,
                                std::vector<float> &values,
                                llvm::ArrayRef<int64_t> shape,
                                Evaluator &evaluator);

  llvm::StringRef passName;
  std::shared_ptr<const CalibrationFile> file;
  mlir::ModuleOp module;
  std::vector<Entry> entries;
  /// Of whose inputs something is not known.
  llvm::StringSet<> warned;
  std::optional<SafetensorsWriter> writer;
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMSTATISTICS_H
