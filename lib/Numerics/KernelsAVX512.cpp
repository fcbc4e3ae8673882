//===- KernelsAVX512.cpp - Inner loops for AVX-512 ------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelsImpl.inc"

namespace quant_llm {
extern const Kernels *const kernelsAVX512;
const Kernels *const kernelsAVX512 = &kernels;
} // namespace quant_llm
