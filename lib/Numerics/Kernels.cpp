//===- Kernels.cpp - Baseline inner loops and their choice ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelsImpl.inc"

#if defined(__x86_64__)
namespace quant_llm {
extern const Kernels *const kernelsAVX2;
extern const Kernels *const kernelsAVX512;
} // namespace quant_llm
#endif

const Kernels *quant_llm::getBaselineKernels() { return &kernels; }

const Kernels *quant_llm::getAVX2Kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
    return kernelsAVX2;
#endif
  return nullptr;
}

const Kernels *quant_llm::getAVX512Kernels() {
#if defined(__x86_64__)
  if (getAVX2Kernels() && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return kernelsAVX512;
#endif
  return nullptr;
}

const Kernels &quant_llm::getKernels() {
  static const Kernels *const best = [] {
    if (const Kernels *avx512 = getAVX512Kernels())
      return avx512;
    if (const Kernels *avx2 = getAVX2Kernels())
      return avx2;
    return getBaselineKernels();
  }();
  return *best;
}
