//===- KernelProblem.h - What a linear asks of a GPU kernel -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_KERNELPROBLEM_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_KERNELPROBLEM_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Kernels/KernelSpec.h"

namespace quant_llm {

/// What a kernel of the linear computes, beside the body of its epilogue. An
/// error for what no kernel does: dense weights, weights under different
/// schemes. Further rules are those of verifyKernel.
Result<KernelProblem> getKernelProblem(LinearOpInterface op);

/// Why a linear has no built kernels for the chip, and what to do if anything
/// can be done.
std::string explainMissingKernels(LinearOpInterface op, const ChipLimits &chip);

/// What getKernelProblem() is of a linear that has kernels, for which the error
/// is its own.
llvm::FailureOr<KernelProblem> getProblemOfKernels(LinearOpInterface op);

/// Whether all kernels of a linear can be built for the chip; if not, an error
/// of the linear says why.
llvm::LogicalResult verifyKernels(LinearOpInterface op,
                                  const KernelProblem &problem,
                                  const ChipLimits &chip);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_KERNELPROBLEM_H
