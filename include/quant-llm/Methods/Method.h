//===- Method.h - How the codes of a weight are chosen ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_METHODS_METHOD_H
#define QUANT_LLM_METHODS_METHOD_H

namespace quant_llm {

enum class QuantizationMethod {
  Nearest,       ///< quantize() of Numerics
  HalfQuadratic, ///< HalfQuadratic.h
  GPTQ,          ///< SecondOrder.h
  QuantEase,     ///< SecondOrder.h
};

/// True for the methods that need the Hessian of a weight's inputs.
inline bool needsHessian(QuantizationMethod method) {
  return method == QuantizationMethod::GPTQ ||
         method == QuantizationMethod::QuantEase;
}

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_METHOD_H
