//===- FewTokensCost.h - Time of a few-tokens kernel ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A model of the time that a kernel of the family FewTokens takes, in plain
// C++. It ranks configurations: selectKernels takes the cheapest.
// docs/FewTokensCost.md says what was measured and how well the model fits.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_FEWTOKENSCOST_H
#define QUANT_LLM_KERNELS_FEWTOKENSCOST_H

#include "quant-llm/Kernels/KernelSpec.h"

namespace quant_llm {

/// Microseconds. The parts overlap: each is the time of the kernel if it were
/// bound by that part alone.
struct FewTokensCost {
  /// Weights and X from memory.
  double memory = 0;
  /// Weights, and X once per tile of rows, from the L2 cache.
  double cache = 0;
  /// Instructions that the busiest multiprocessor issues.
  double instructions = 0;
  /// One CTA after the other, each waiting for its own copies and warps.
  double chain = 0;
  /// @{ What does not overlap: the first copies, the last stage and the sums;
  /// launch, waves, exchange between CTAs of a cluster.
  double ends = 0;
  double overhead = 0;
  /// @}

  double total = 0;
  /// The largest of the parts that overlap, for people: "memory", "cache", ...
  const char *bound = "";
};

/// Instructions of a warp that make operand A of a step of a strip, 16 x 16
/// weights, out of their codes.
double getDecodingInstructions(const KernelProblem &problem);

/// Registers that a thread needs without spilling, as the compiler was seen to
/// use them.
int64_t getFewTokensRegisters(const KernelProblem &problem,
                              const KernelConfig &config);

/// Registers that a thread may have where `ctas` CTAs of `threads` threads
/// share a multiprocessor.
int64_t getRegisterLimit(const ChipLimits &chip, int64_t threads, int64_t ctas);

/// CTAs of a multiprocessor that run at the same time, at most
/// `config.ctasPerSM`: shared memory, threads and registers.
int64_t getResidentCTAs(const KernelProblem &problem,
                        const KernelConfig &config, const ChipLimits &chip);

/// `config` is one that verifyKernel accepts; 1 <= tokens.
FewTokensCost estimateFewTokens(const KernelProblem &problem,
                                const KernelConfig &config,
                                const ChipLimits &chip, int64_t tokens);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_FEWTOKENSCOST_H
