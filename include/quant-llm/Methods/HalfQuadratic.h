//===- HalfQuadratic.h - Zeros that ignore outliers -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
// Models", 2023): without data, the zeros of a weight that make a robust norm
// of its error small,
//
//     minimize over z  sum |w - (s v(q) + z)|^p,  p < 1,
//
// by half-quadratic splitting; scales are those of the scheme's rule. With the
// error r = w - (s v(q) + z), each iteration has the steps
//
//     e = sign(r) max(|r| - |r|^(p-1) / beta, 0)
//     z = mean over the block of (w - e - s v(q)),    beta = kappa beta
//
// and stops when mean |r| no longer falls; the best zeros are kept. All in
// float64 but the codes, which are those under the stored scale and zero.
//
// The first z decides which zeros are found. The authors begin with one under
// which the weight 0 has a code if elements have 4 bits, and with that of the
// rule if not. Here it is the first for every width: most weights are near 0.
// It is taken also where the rule's has the smaller error, so that a block may
// have a larger one than under rounding to nearest, but for rounding of the
// stored zero not than under integer zeros: perplexities follow where the
// weight 0 is, and not these errors.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_HALFQUADRATIC_H
#define QUANT_LLM_METHODS_HALFQUADRATIC_H

#include "quant-llm/Numerics/GroupQuantizer.h"

#include <string>

namespace quant_llm {

/// The authors' defaults, for 4 bits, but for the iterations: theirs are 20.
/// Zeros that are followed further have smaller errors of weights and larger
/// perplexities (docs/Recipes.md).
struct HalfQuadraticOptions {
  double norm = 0.7;   ///< p, in (0, 1]
  double beta = 10.0;  ///< positive
  double kappa = 1.01; ///< at least 1
  int iterations = 4;  ///< the most of a block; at least 1
};

/// Whether a scheme has what is chosen: a float zero.
Status verifyHalfQuadraticScheme(const Scheme &scheme);

/// Quantizes `matrix` under `scheme`, which has a float zero. Errors: those
/// of quantize(), another scheme, options out of range.
Result<QuantizedMatrix>
quantizeHalfQuadratic(const MatrixView &matrix, const Scheme &scheme,
                      const HalfQuadraticOptions &options,
                      const std::string &tensorName, int threads);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_HALFQUADRATIC_H
