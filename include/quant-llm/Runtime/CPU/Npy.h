//===- Npy.h - Tensors in .npy files ----------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CPU_NPY_H
#define QUANT_LLM_RUNTIME_CPU_NPY_H

#include "quant-llm/Runtime/CPU/Tensor.h"

#include <string>

namespace quant_llm {

/// A copy of a .npy file (NpyFile of Formats/Npy.h).
Result<Tensor> readNpy(const std::string &path);
/// Writes a .npy file; an error for element types that NumPy lacks (bf16, f8).
Status writeNpy(const std::string &path, const Tensor &tensor);

} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CPU_NPY_H
