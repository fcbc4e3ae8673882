//===- Torch.h - From IR to PyTorch source ----------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Methods that need a model run on data, or differentiated, do so in PyTorch.
// The bridge is source text: a function, or some of its blocks, becomes a
// Python function over tensors that reads as a person would write it, and runs
// on any device, under autograd and torch.compile (docs/Torch.md).
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_TORCH_H
#define QUANT_LLM_TARGET_TORCH_H

#include "mlir/IR/BuiltinOps.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quant_llm {

/// On an argument of a function, a string: what people call it. Without it, the
/// name in the location of the argument is used, if there is one.
inline constexpr llvm::StringLiteral kNameAttrName = "quant_llm.name";

struct TorchOptions {
  /// Empty for the only function with a body.
  std::string function;
  /// What of the function: all of it, or with blocks (quant-llm-form-blocks)
  /// what is in front of them, some of them, or what is behind them.
  enum class Part { Whole, Front, Blocks, Back } part = Part::Whole;
  /// For Part::Blocks, the indices of the first and the last one.
  int64_t firstBlock = 0, lastBlock = 0;
  /// Let the input of every linear pass through an argument `tap`, a function
  /// of the weight's name and the input that returns the input to be used.
  bool tap = false;
};

/// An argument or a result of the Python function.
struct TorchValue {
  std::string name;
  /// Identifies the value among all parts of the function.
  int64_t id = 0;
  /// -1 for dynamic dimensions; no shape for numbers.
  std::optional<std::vector<int64_t>> shape;
  /// "float" (the type of the argument `dtype`), "int64" and so on.
  std::string dtype;
  /// Set for tensors such as caches, of which blocks read and write only some
  /// entries of the first dimension: the value is those alone, [begin, end).
  std::optional<std::pair<int64_t, int64_t>> slots;
};

struct TorchSource {
  std::string text;
  std::string functionName;
  std::vector<TorchValue> inputs, outputs;
  /// The keys that the function reads in its argument `parameters`, in the
  /// order of the first use.
  std::vector<std::string> parameters;
  /// Symbols of the weights of its linears, in the order of execution.
  std::vector<std::string> linears;
  /// The indices of all blocks of the function.
  std::vector<int64_t> blocks;
};

/// The source, or a failure that has been diagnosed at the op at fault.
mlir::FailureOr<TorchSource> translateToTorch(mlir::ModuleOp module,
                                              const TorchOptions &options);

} // namespace quant_llm

#endif // QUANT_LLM_TARGET_TORCH_H
