//===- Epilogue.h - Epilogues of layers for the occasion --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUE_H
#define QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUE_H

#include "quant-llm/Support/Status.h"

#include <string>
#include <vector>

namespace quant_llm::bench {

/// Steps that are applied to the sums one after the other.
struct Epilogue {
  enum class Kind { Bias, Residual, Scale, Activation, Gate };
  struct Step {
    Kind kind;
    /// Of an activation, also that of a gate: "silu".
    std::string function;
    /// Of a scale.
    double factor = 1;
  };
  std::vector<Step> steps;

  /// Two weights, of which one goes through an activation.
  bool isGated() const {
    return !steps.empty() && steps.front().kind == Kind::Gate;
  }
};

/// "bias, silu, residual": what --epilogue says in getUsage().
Result<Epilogue> parseEpilogue(const std::string &text);

/// The block of the region: operands are those of the steps bias and residual,
/// in their order, and of the type of the result.
std::string getEpilogueBlock(const Epilogue &epilogue, const std::string &type);

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUE_H
