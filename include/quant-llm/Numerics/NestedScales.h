//===- NestedScales.h - Other ways to store scales of scales ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// quantize() stores scales that have a scheme of their own by that scheme's
// rule, so that the stored scale of a block depends on those of the others. A
// search that compares blocks one by one needs stored scales that do not.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_NESTEDSCALES_H
#define QUANT_LLM_NUMERICS_NESTEDSCALES_H

#include "quant-llm/Numerics/GroupQuantizer.h"

#include <functional>
#include <string>

namespace quant_llm {

/// Stores scales, [gridN, gridK], under the scheme that they have.
using StoreScales =
    std::function<Result<QuantizedMatrix>(const MatrixView &scales)>;

/// quantize() with scales that `storeScales` stores, if `scheme` has scales
/// with a scheme of their own. Without codes, which take most of the time,
/// those of the result are 0. Errors: those of quantize() and of `storeScales`.
Result<QuantizedMatrix> quantizeWithScales(const MatrixView &matrix,
                                           const Scheme &scheme,
                                           const StoreScales &storeScales,
                                           const std::string &tensorName,
                                           int threads, bool withCodes = true);

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_NESTEDSCALES_H
