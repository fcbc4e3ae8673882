//===- Tuning.h - Kernels chosen by measurement -----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A tuning file overrides the choice of selectKernels for single shapes.
// docs/KernelConfig.md describes the format.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_TUNING_H
#define QUANT_LLM_KERNELS_TUNING_H

#include "quant-llm/Kernels/KernelSpec.h"

#include <string_view>

namespace quant_llm {

/// The kernels of a shape on a chip.
struct TuningEntry {
  std::string chip;
  /// Text of the scheme attribute.
  std::string scheme;
  int64_t n = 0;
  int64_t k = 0;
  /// 1, or 2 for a gated pair.
  int64_t weights = 1;
  /// Of a grouped linear, of n outputs each; 0 for a linear.
  int64_t experts = 0;
  std::vector<KernelConfig> kernels;
};

/// Rejects configurations that do not cover the numbers of tokens from 1 on, in
/// their order, without gaps.
Status verifyCoverage(const std::vector<KernelConfig> &kernels);

/// Reads the text of a tuning file. Configurations have been through
/// verifyConfig and verifyCoverage; schemes are not looked at.
Result<std::vector<TuningEntry>> parseTuning(std::string_view text);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_TUNING_H
