//===- Metrics.h - How far a quantized matrix is off ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_METRICS_H
#define QUANT_LLM_NUMERICS_METRICS_H

#include "quant-llm/Numerics/GroupQuantizer.h"

namespace quant_llm {

/// Errors of an approximation A of W over all their elements, summed in float64
/// row by row and then over rows, so that they do not depend on the number of
/// threads.
struct ErrorMetrics {
  /// sum((A-W)^2) / (n*k)
  double mse = 0;
  /// ||A-W|| / ||W|| (Frobenius); 0 if both are 0, infinity if only ||W|| is.
  double relativeFrobenius = 0;
  /// max |A-W|
  double maxAbs = 0;
  /// 10*log10(sum(W^2) / sum((A-W)^2)): infinity without error.
  double sqnrDecibels = 0;
};

/// Compares `approximation`, n*k values, with `matrix`.
ErrorMetrics computeErrors(const MatrixView &matrix, const float *approximation,
                           int threads);

/// Compares a stored weight with what it was made of, without a dense copy.
/// Errors: those of dequantize, and different shapes.
Result<ErrorMetrics> computeErrors(const MatrixView &matrix,
                                   const QuantizedView &view,
                                   const Scheme &scheme, int threads);

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_METRICS_H
