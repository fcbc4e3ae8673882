//===- ClipSearch.h - Ranges of blocks by weighted errors -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Rule mse of a scheme shrinks the range of a block as long as the squared
// error of its elements falls. Here the error is one that knows what the
// elements do: with d = Q - W of a row of the block, one of
//
//     sum_j h_j d_j^2       columns: h_j = E x_j^2, the diagonal of H
//     sum_j F_nj d_nj^2     elements: F the Fisher diagonal
//     d H_gg d^T            hessian: the squared error of what the block adds
//                           to the outputs, H_gg the part of H of its columns
//                           (AWQ's clip search, arXiv:2306.00978)
//
// The ranges that are tried are those of the scheme's rule (docs/Spec.md
// section 3; minmax or absmax in the place of mse) times c = 1 - i / grid for
// i = 0, 1, ... as long as c > 1 - shrink. Ties: the largest c. Scales with a
// scheme of their own are stored under its scales for c = 1, for every c.
//
// EasyQuant (Tang et al., arXiv:2403.02775) descends without data along the
// gradient of the plain squared error with respect to the scale of a block,
//     dE/ds = 2 sum (Q(w) - w) q,   q the code's value,
// by Adam. Here that is done relative to the scale of the rule, s = t s_0, with
// steps of `rate` in t, and the best scale seen is kept; its outliers, stored
// apart, are not a part of this.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_CLIPSEARCH_H
#define QUANT_LLM_METHODS_CLIPSEARCH_H

#include "quant-llm/Methods/SecondOrder.h"

#include <string>

namespace quant_llm {

/// What the errors of elements count; one of the three.
struct ClipImportance {
  /// k values.
  const float *columns = nullptr;
  /// n * k values.
  const float *elements = nullptr;
  HessianView hessian;
};

/// What passes take as ClipOptions::grid at most: finer steps only take time.
inline constexpr int kMostClipSteps = 1000;

/// AWQ's defaults.
struct ClipOptions {
  int grid = 20;       ///< at least 1
  double shrink = 0.5; ///< in (0, 1]
  /// Then the lower end alone is tried at every c, and last the upper one. Of
  /// no effect on schemes without zeros, whose ranges have one end.
  bool eachEnd = false;
};

/// Quantizes `matrix` to nearest under `scheme` with the best ranges. Errors:
/// those of quantize() and verifyHessian(), none or several importances, or one
/// that is negative or not finite, and options out of range; all begin with the
/// tensor's name.
Result<QuantizedMatrix>
quantizeClipped(const MatrixView &matrix, const Scheme &scheme,
                const ClipImportance &importance, const ClipOptions &options,
                const std::string &tensorName, int threads);

struct EasyQuantOptions {
  int steps = 100;     ///< at least 1
  double rate = 0.005; ///< in (0, 1)
};

/// Whether a scheme has what is learned: scales of floats that are not powers
/// of two, and no zero.
Status verifyEasyQuantScheme(const Scheme &scheme);

/// Quantizes `matrix` under `scheme` with scales of least squared error found
/// by descent. Errors: those of quantize() and verifyEasyQuantScheme(), options
/// out of range.
Result<QuantizedMatrix> quantizeEasyQuant(const MatrixView &matrix,
                                          const Scheme &scheme,
                                          const EasyQuantOptions &options,
                                          const std::string &tensorName,
                                          int threads);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_CLIPSEARCH_H
