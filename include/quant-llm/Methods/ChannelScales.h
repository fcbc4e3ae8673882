//===- ChannelScales.h - Scales of channels that spare weights --*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A linear computes the same when its input channels are divided by numbers
// s_j and the columns of its weight multiplied by them:
//     x W^T = (x / s) (W diag(s))^T.
// The methods here choose s by the magnitudes of inputs and weights; several
// linears that share an input share s.
//
// SmoothQuant (Xiao et al., arXiv:2211.10438), with a strength 0 <= a <= 1:
//     s_j = max |x_j|^a / max |W_j|^(1-a)
// SmoothQuant+ (Pan et al., arXiv:2312.03788) takes the same s with the one
// strength for the whole model that has the smallest loss.
// AWQ (Lin et al., arXiv:2306.00978), with an exponent 0 <= r <= 1:
//     s_j = mean |x_j|^r,  duo:  mean |x_j|^r / mean(|W_j| / group max)^(1-r)
// divided by sqrt(max s * min s); r is the one with the smallest error of the
// outputs.
//
// A channel whose inputs were always 0, or whose weights are all 0, says
// nothing about its scale: it gets the scale 1. All scales are in [1e-5, 1e5].
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_CHANNELSCALES_H
#define QUANT_LLM_METHODS_CHANNELSCALES_H

#include "quant-llm/Methods/SecondOrder.h"

#include <string>
#include <vector>

namespace quant_llm {

/// The scales of SmoothQuant from max |x_j| and max |W_j|. Errors: different
/// lengths, values that are negative or not finite, a strength out of range.
Result<std::vector<float>>
computeSmoothScales(const std::vector<float> &inputs,
                    const std::vector<float> &weights, double strength);

/// The scales of AWQ from mean |x_j|, and mean(|W_j| / group max) or nothing.
/// Errors as above.
Result<std::vector<float>> computeAWQScales(const std::vector<float> &inputs,
                                            const std::vector<float> &weights,
                                            double exponent);

/// maxima[j] = max(maxima[j], max |W_j|), for k maxima. Errors: NaN or infinity
/// (verifyFinite).
Status mergeColumnMaxima(const MatrixView &matrix, std::vector<float> &maxima,
                         const std::string &tensorName, int threads);

/// sums[j] += sum over the rows of |W_j| / max |W| of its block under `scheme`.
/// Errors as above.
Status addRelativeMagnitudes(const MatrixView &matrix, const Scheme &scheme,
                             std::vector<double> &sums,
                             const std::string &tensorName, int threads);

/// tr(D H D^T) with D = Q(W diag(s)) diag(1/s) - W: the squared error of the
/// outputs of a linear whose weight is scaled, quantized to nearest, and
/// scaled back; H the meter's. Without scales, s = 1. Errors: those of
/// quantize().
Result<double> computeScaledError(const MatrixView &matrix,
                                  const Scheme &scheme,
                                  const std::vector<float> &scales,
                                  const OutputErrorMeter &meter,
                                  const std::string &tensorName, int threads);

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_CHANNELSCALES_H
