//===- ModelBuilder.h - IR of a model of the Llama family -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Builds one function that serves prefill and decode alike:
//
//   func.func @forward(%tokens: tensor<?xi64>,
//                      %keys: tensor<LxGx?xDxf32>, %values:
//                      tensor<LxGx?xDxf32>, %position: i64)
//       -> (tensor<?xVxf32>, tensor<LxGx?xDxf32>, tensor<LxGx?xDxf32>)
//
// with L layers, G key-value heads of size D and a vocabulary of V. The tokens
// are appended at `position` of a cache whose capacity C is the dynamic
// dimension; the results are the logits of all tokens and the updated caches.
// All arithmetic is in float32; weights keep the type of their file.
//
// What a caller can get wrong is asserted (cf.assert): caches of one size,
// tokens of the vocabulary, and 0 <= position <= C - number of tokens.
//
// Only upstream dialects are used, besides the archive, parameter and
// get_parameter ops of quant_llm, so that passes see what they would see of a
// module from another front end.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_IMPORT_MODELBUILDER_H
#define QUANT_LLM_IMPORT_MODELBUILDER_H

#include "quant-llm/Import/Checkpoint.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace quant_llm {

/// Registers the dialects that buildModel uses.
void loadModelDialects(mlir::MLIRContext &context);

/// Builds the module of `config`, whose tensors are `tensors` (in the order of
/// listTensors) in the archive file `archivePath`.
mlir::OwningOpRef<mlir::ModuleOp>
buildModel(mlir::MLIRContext &context, const ModelConfig &config,
           llvm::ArrayRef<StoredTensor> tensors, llvm::StringRef archivePath);

} // namespace quant_llm

#endif // QUANT_LLM_IMPORT_MODELBUILDER_H
