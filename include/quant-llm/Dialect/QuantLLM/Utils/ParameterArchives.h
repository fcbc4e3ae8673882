//===- ParameterArchives.h - From parameters to their bytes -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The one place that knows what an archive must hold for a parameter.
// Everything a file can get wrong becomes a diagnostic at the op that named it.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARAMETERARCHIVES_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARAMETERARCHIVES_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Formats/Fingerprint.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallVector.h"

#include <memory>
#include <string>

namespace quant_llm {

/// The type in which archives hold elements of `type`, if any.
std::optional<DType> getStoredType(mlir::Type type);

/// A matrix in memory, as it is in its archive or dequantized from a block
/// type.
struct LoadedMatrix {
  MatrixView view;
  TensorBuffer buffer;
};

/// The archives of a module, opened when first asked for.
class ParameterArchives {
public:
  explicit ParameterArchives(llvm::StringRef baseDir = "") : baseDir(baseDir) {}

  /// The archive of a parameter; a failure has been diagnosed.
  mlir::FailureOr<const Archive *> open(ParameterOp op);

  /// The archive op of `module` that `path` is a file of (a shard or the index
  /// of a sharded one too), through links of any kind; null if there is none.
  /// Writing the file would replace what the module reads. Diagnoses nothing.
  ArchiveOp findArchiveOfFile(mlir::ModuleOp module, llvm::StringRef path);

  /// The stored tensor of a dense parameter, checked against its type.
  mlir::FailureOr<TensorInfo> find(ParameterOp op);

  /// The stored components of a parameter of weight type, in the order of
  /// WeightType::getComponentTypes, checked against it.
  mlir::FailureOr<llvm::SmallVector<TensorInfo>> findComponents(ParameterOp op);

  /// The elements of a parameter of type tensor<NxKxT> with T f16, bf16 or f32.
  mlir::FailureOr<LoadedMatrix> load(ParameterOp op, const TensorInfo &info);

  /// What tells the model of `module` apart from others: the Fingerprint of its
  /// parameters by symbol, of a weight by component ("<symbol>.codes").
  mlir::FailureOr<std::string> computeFingerprint(mlir::ModuleOp module);

  /// Adds what a parameter is to a fingerprint.
  llvm::LogicalResult addToFingerprint(ParameterOp op,
                                       Fingerprint &fingerprint);

  /// Gives the memory behind the tensor back to the system.
  void release(ParameterOp op, const TensorInfo &info);

private:
  mlir::FailureOr<TensorInfo> find(ParameterOp op, llvm::StringRef key,
                                   mlir::RankedTensorType type);

  std::string baseDir;
  llvm::DenseMap<mlir::Operation *, std::shared_ptr<Archive>> archives;
};

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_PARAMETERARCHIVES_H
