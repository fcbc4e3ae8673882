//===- LowRank.h - What singular vectors mend of a rounding -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Low-rank compensation (LoRC: Yao et al., arXiv:2303.08302): the low-rank part
// A B of a scheme is that of the error E = W - W_q of the codes,
//     min |E - A B|_F,    or    min |(E - A B) L|_F   with H + damping I = L
//     L^T
// if there is a Hessian of the inputs, so that the error of the outputs is what
// becomes small. With E L = U S V^T,
//     A = U_r S_r^1/2,    B = S_r^1/2 V_r^T L^-1,
// each pair of vectors then scaled to equal norms and rounded to its type.
//
// The singular vectors are those of E L in a block Krylov space (Musco and
// Musco, arXiv:1504.05477), computed in binary64. It is the whole space for
// matrices with a side of at most 72 + 9 r; else the error is that of the
// best A B up to a small part, whatever the gaps between singular values.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_LOWRANK_H
#define QUANT_LLM_METHODS_LOWRANK_H

#include "quant-llm/Methods/SecondOrder.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include <cstdint>
#include <string>

namespace quant_llm {

/// What addLowRank did, for reports.
struct LowRankReport {
  /// |(E - A B) L|_F / |E L|_F, with A and B as stored; 0 if E is 0.
  double remainingError = 0;
  /// |(E - A B) L|_F, with H scaled to a mean diagonal of 1.
  double error = 0;
  /// The damping that was used at last, as a part of the mean diagonal.
  double damping = 0;
};

/// Computes the low-rank part of `scheme`, which has one, for what the other
/// components of `stored` leave of `matrix`. `hessian` may be null; `damping`,
/// from 0 to kMostDamping, is added to its diagonal as a part of the mean. The
/// result does not depend on `threads`. Errors: those of verifyStorage,
/// verifyHessian and verifyFinite, a damping out of range, and a Hessian that
/// cannot be factored with ten thousand times the damping; all begin with the
/// tensor's name.
Status addLowRank(const MatrixView &matrix, const Scheme &scheme,
                  const HessianView *hessian, double damping,
                  const std::string &tensorName, int threads,
                  QuantizedMatrix &stored, LowRankReport *report = nullptr);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_LOWRANK_H
