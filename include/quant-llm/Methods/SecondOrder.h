//===- SecondOrder.h - Rounding by the error of the outputs -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Codes of a weight W [n, k] that make the error of its outputs small, not that
// of its elements:
//
//     minimize  tr((Q - W) H (Q - W)^T),   H = X^T X [k, k],
//
// X the inputs of the linear over calibration tokens, Q the stored weight. Rows
// of W are independent of each other, so that they are worked on in parallel;
// results do not depend on the number of threads.
//
// quantizeGPTQ (Frantar et al., arXiv:2210.17323): columns are rounded one
// after another; the error of each is spread over the columns that follow,
//     e = (w_i - q_i) / U_ii,    w_j -= U_ij e   (j > i),
// with U the upper triangular factor U^T U = (H + damping I)^-1.
//
// quantizeQuantEase (Behdin et al., arXiv:2309.01885): cyclic coordinate
// descent on the same objective,
//     q_j = round(q_j - ((Q - W) H)_j / H_jj),
// without an inverse, any number of sweeps. Sweeps that leave the columns
// unrounded come in between, as in the authors' code.
//
// A column of inputs that is always zero (H_jj = 0) is rounded to nearest.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_SECONDORDER_H
#define QUANT_LLM_METHODS_SECONDORDER_H

#include "quant-llm/Numerics/GroupQuantizer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

/// H = X^T X of the inputs of a linear: k * k binary32 values, row-major and
/// symmetric, scaled by any positive number. Only its upper triangle is read.
struct HessianView {
  const float *data = nullptr;
  int64_t k = 0;

  float at(int64_t i, int64_t j) const {
    return i <= j ? data[i * k + j] : data[j * k + i];
  }
};

struct GPTQOptions {
  /// Added to the diagonal of H, as a part of its mean.
  double damping = 0.01;
  /// Columns in the order of falling H_ii; scales are then those of the
  /// original groups (staticGroups).
  bool actOrder = false;
  /// Scales and zeros from the original weight, and not from the one that the
  /// errors of earlier columns have changed. Always so for recursive scales and
  /// for blocks of several rows.
  bool staticGroups = false;
  /// Whether the errors of a report are wanted. They take a product of the
  /// matrix with the Hessian each.
  bool measureErrors = true;
};

struct QuantEaseOptions {
  /// Sweeps over all columns, at least 1.
  int sweeps = 30;
  /// Every third of the first 26 sweeps leaves the columns unrounded.
  bool relax = true;
  /// Start from the codes of GPTQ instead of the nearest ones, on its scales.
  bool startFromGPTQ = false;
  /// For that start; `measureErrors` is for all.
  GPTQOptions gptq;
};

/// The largest damping: with more, nothing of the Hessian is left.
inline constexpr double kMostDamping = 1e6;

/// Checks that a damping is from 0 to kMostDamping.
Status verifyDamping(double damping);

/// What a method did, for reports.
struct SecondOrderReport {
  /// tr((Q - W) H (Q - W)^T) / tr(W H W^T), square root: the relative error of
  /// the outputs on the calibration tokens; of rounding to nearest on the
  /// original scales (of `start`, if there is one), and of the result. 0 if all
  /// outputs are 0 or the errors are not wanted, NaN if they are out of the
  /// range of numbers.
  double nearestError = 0;
  double error = 0;
  /// The damping that was used at last, as a part of the mean diagonal, and how
  /// many times it had to be raised.
  double damping = 0;
  int dampingRetries = 0;
  /// Inputs that are always zero.
  int64_t deadColumns = 0;
};

/// Checks a Hessian by itself and against the columns of a weight: k, finite
/// values, a diagonal that is not negative.
Status verifyHessian(const HessianView &hessian, int64_t k,
                     const std::string &tensorName);

/// What the rounding error of an input's column adds to the error of the
/// outputs in quantizeGPTQ, per square of the error: D_i = 1 / U_ii^2, in the
/// order of the columns of the matrix (arXiv:2210.17323, section 3.3: the error
/// of column i that later columns cannot mend; arXiv:2307.13304, the D of
/// H = L D L^T). sum_i D_i e_i^2 of rounding errors e of a row is about
/// dw H dw^T after GPTQ. 0 for inputs that are always zero. Errors as of
/// quantizeGPTQ.
Result<std::vector<double>> getConditionalMoments(const HessianView &hessian,
                                                  const GPTQOptions &options,
                                                  const std::string &tensorName,
                                                  int threads);

/// Quantizes `matrix` under `scheme`. With `start`, a stored weight under the
/// scheme, its scales and zeros are kept, and QuantEase starts from its codes.
/// Errors: those of quantize(), verifyStorage() and verifyHessian(), options
/// out of range, and a Hessian that cannot be factored with ten thousand times
/// the damping; all begin with the tensor's name.
Result<QuantizedMatrix> quantizeGPTQ(const MatrixView &matrix,
                                     const Scheme &scheme,
                                     const HessianView &hessian,
                                     const GPTQOptions &options,
                                     const std::string &tensorName, int threads,
                                     SecondOrderReport *report = nullptr,
                                     const QuantizedMatrix *start = nullptr);

Result<QuantizedMatrix>
quantizeQuantEase(const MatrixView &matrix, const Scheme &scheme,
                  const HessianView &hessian, const QuantEaseOptions &options,
                  const std::string &tensorName, int threads,
                  SecondOrderReport *report = nullptr,
                  const QuantizedMatrix *start = nullptr);

struct DriftReport {
  /// The Frobenius norm of what is added, as a part of the weight's.
  double change = 0;
  /// As in SecondOrderReport.
  double damping = 0;
  int dampingRetries = 0;
};

/// What a weight makes good for behind quantized layers, and how far.
struct Drift {
  /// E[(x - y)^T y] of inputs, k * k values, row-major, and a strength from 0
  /// to 1. Without values the strength is 0.
  const float *inputs = nullptr;
  double inputStrength = 0;
  /// E[(u - v)^T y] of what the outputs are added to, n * k values, row-major,
  /// and its strength, in the same way.
  const float *residual = nullptr;
  double residualStrength = 0;
};

/// The weight [n, k], as binary32, that does on inputs y behind quantized
/// layers what `matrix` does on the inputs x of the original model, as far as a
/// linear map can tell x from y, and adds what v, to which its outputs are
/// added, lacks of u there:
///     W + (s W E[(x - y)^T y] + t E[(u - v)^T y]) (H + d I)^-1
/// with H = E[y^T y], d = damping mean(diag H) and the strengths s and t. With
/// both 1 and no damping this is argmin_V E|v + V y - (u + W x)|^2; rounding it
/// by H follows, with t = 0, the asymmetric objective of Li et al.,
/// arXiv:2504.02692. Errors: a strength beyond [0, 1], those of verifyDamping()
/// and verifyHessian(), a Hessian that cannot be factored with any damping, a
/// weight or a drift that is not finite, and a result that is too large.
Result<std::vector<float>> correctForDrift(const MatrixView &matrix,
                                           const HessianView &hessian,
                                           const Drift &drift, double damping,
                                           const std::string &tensorName,
                                           int threads,
                                           DriftReport *report = nullptr);

/// tr(D H D^T) for one H and many D, with half the multiplications that D H
/// takes. Keeps a copy of the Hessian.
class OutputErrorMeter {
public:
  explicit OutputErrorMeter(const HessianView &hessian, int threads = 1);

  /// D is A - W for n * k values A, or W itself without them. The result does
  /// not depend on the number of threads.
  double compute(const MatrixView &matrix, const float *approximation,
                 int threads) const;

private:
  int64_t k;
  /// H = 2^exponent (U + U^T) / 2: the upper triangle with its elements beside
  /// the diagonal doubled, row-major.
  std::vector<float> upper;
  int exponent;
};

/// tr((A - W) H (A - W)^T) and tr(W H W^T) for n * k values A.
struct OutputError {
  double error = 0;
  double reference = 0;
};
OutputError computeOutputError(const MatrixView &matrix,
                               const float *approximation,
                               const HessianView &hessian, int threads);
/// sqrt(error / reference) of an output error; NaN if one is not finite.
double getRelativeError(const OutputError &error);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_SECONDORDER_H
