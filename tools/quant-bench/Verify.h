//===- Verify.h - Are a kernel's numbers right? -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H
#define QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H

#include "EpilogueFormula.h"

#include "quant-llm/Runtime/CUDA/Module.h"

#include <cstdint>
#include <vector>

namespace quant_llm::bench {

/// What a launch reads beside the weights, on the host.
struct Input {
  int64_t m = 0;
  /// [m, k] of the activation type.
  std::vector<uint16_t> x;
  /// Of a grouped linear: where the tokens of each expert begin, and the end.
  std::vector<int32_t> offsets;
  /// The operands of the epilogue as bytes of their types.
  std::vector<std::vector<uint8_t>> operands;
};

/// A linear layer on the host: its weights as f32 numbers; of a grouped one
/// those of all experts.
class Reference {
public:
  static Result<Reference> create(const cuda::Artifact &artifact,
                                  size_t linear);

  const EpilogueFormula &getFormula() const { return formula; }

  /// Random numbers for m tokens; `offsets` are moved into it.
  Input makeInput(int64_t m, uint64_t seed, std::vector<int32_t> offsets) const;

  /// Compares y with float64 products. Some elements are compared one by one:
  /// `relativeError` is that of these, in the Frobenius norm, and must not
  /// exceed twice that of the product of weights rounded to the activation
  /// type (in f32 where that overflows). All others take part in projections of
  /// y on random signs: an error of any element shows. An epilogue is no linear
  /// function that one could project: with one, all elements are compared with
  /// f32 products. Elements that are not finite are errors.
  Status compare(const Input &input, const std::vector<uint8_t> &y,
                 uint64_t seed, double &relativeError) const;

private:
  using Doubles = std::vector<double>;

  void project();
  int64_t getExpert(const Input &input, int64_t token) const;
  /// The index of an operand's number for an element of y.
  int64_t getOperandIndex(size_t operand, const Input &input, int64_t token,
                          int64_t row) const;
  /// results[i] of sums[j * count + i] at (tokens[i], rows[i]).
  void applyEpilogue(const Input &input, const std::vector<int64_t> &tokens,
                     const std::vector<int64_t> &rows, const Doubles &sums,
                     Doubles &results) const;
  Status compareProjections(const Input &input, const std::vector<uint8_t> &y,
                            double sumOfSquares, double allowed) const;
  Status compareAll(const Input &input, const std::vector<uint8_t> &y,
                    double sumOfSquares, double allowed) const;

  static constexpr int64_t numVectors = 8;

  int64_t n = 0;
  int64_t k = 0;
  int64_t experts = 1;
  bool isGrouped = false;
  TensorType activation = TensorType::F16;
  TensorType output = TensorType::F16;
  std::vector<EpilogueOperand> operands;
  EpilogueFormula formula;
  /// One, or two of a gated pair.
  std::vector<std::vector<float>> weights;
  /// Bit v of element n is the sign of element n of random vector v; W^T times
  /// the vectors is [experts, k, numVectors].
  std::vector<uint8_t> signs;
  Doubles projected;
};

/// The offsets of m tokens that are sent to random experts.
std::vector<int32_t> routeTokens(int64_t experts, int64_t m, uint64_t seed);

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H
