//===- EpilogueFormula.h - What an epilogue computes ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The field `formula` of a linear in a manifest, and its value in float64: what
// a kernel's numbers are compared with.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUEFORMULA_H
#define QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUEFORMULA_H

#include "quant-llm/Runtime/CUDA/Manifest.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm::bench {

/// The epilogue of a linear as a function of real numbers: conversions of type
/// do not round.
class EpilogueFormula {
public:
  /// Where a step takes a number from.
  struct Argument {
    enum class Kind {
      Step,    ///< the result of the earlier step `index`
      Sum,     ///< the sum over k, of weight `index`
      Operand, ///< of the epilogue
    };
    Kind kind = Kind::Step;
    size_t index = 0;
  };

  /// An op by its name in the IR.
  struct Step {
    std::string op;
    std::vector<Argument> arguments;
    /// Of arith.constant.
    double value = 0;
    /// Of arith.cmpf.
    std::string predicate;
  };

  /// An error for an epilogue that the manifest does not describe, or describes
  /// wrongly, and for ops whose meaning is not known here.
  static Result<EpilogueFormula> create(const cuda::LinearDescription &linear);

  /// Whether the result is the sum itself.
  bool isIdentity() const { return steps.empty(); }

  /// The ops that are more than constants and conversions: "addf, relu".
  std::string getSummary() const;

  /// results[i] of sums[j][i], of each weight, and operands[j][i], of each
  /// operand, for all i < count.
  void evaluate(const std::vector<const double *> &sums,
                const std::vector<const double *> &operands, int64_t count,
                double *results) const;

private:
  /// The last one is quant_llm.yield.
  std::vector<Step> steps;
};

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_EPILOGUEFORMULA_H
