//===- Stage.h - Stages of the compilation of a model -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_STAGE_H
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_STAGE_H

namespace quant_llm {

/// What has been done to a module; each stage includes the ones before it. The
/// contracts are those of the pass quant-llm-verify-stage.
enum class Stage {
  Raised,    ///< contractions with parameters are linears
  Chosen,    ///< linears have a scheme or a reason for having none
  Quantized, ///< parameters under a scheme are weights
};

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_STAGE_H
