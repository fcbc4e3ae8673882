//===- Verify.h - Are a kernel's numbers right? -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H
#define QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H

#include "quant-llm/Runtime/CUDA/Module.h"

#include <cstdint>
#include <vector>

namespace quant_llm::bench {

/// A linear layer on the host: its weight as f32 numbers; of a grouped one
/// those of all experts.
class Reference {
public:
  static Result<Reference> create(const cuda::Artifact &artifact,
                                  size_t linear);

  int64_t getN() const { return n; }
  int64_t getK() const { return k; }

  /// Compares y with float64 products. Of a grouped linear, `offsets` say where
  /// the tokens of each expert begin, and the end. Some elements are compared
  /// one by one: `relativeError` is that of these, in the Frobenius norm, and
  /// must not exceed twice that of the product of weights rounded to the
  /// activation type. All others take part in projections of y on random signs:
  /// an error of any element shows. Elements that are not finite are errors.
  Status compare(const std::vector<uint16_t> &x, int64_t m,
                 TensorType activation, const std::vector<uint8_t> &y,
                 TensorType output, uint64_t seed,
                 const std::vector<int32_t> &offsets,
                 double &relativeError) const;

private:
  void project();

  static constexpr int64_t numVectors = 8;

  int64_t n = 0;
  int64_t k = 0;
  int64_t experts = 1;
  std::vector<float> weight;
  /// Bit v of element n is the sign of element n of random vector v; W^T times
  /// the vectors is [experts, k, numVectors].
  std::vector<uint8_t> signs;
  std::vector<double> projected;
};

/// The offsets of m tokens that are sent to random experts.
std::vector<int32_t> routeTokens(int64_t experts, int64_t m, uint64_t seed);

/// m * k numbers, about normal, of a type of 16 bits.
std::vector<uint16_t> makeActivations(int64_t count, TensorType type,
                                      uint64_t seed);

} // namespace quant_llm::bench

#endif // QUANT_LLM_TOOLS_QUANTBENCH_VERIFY_H
