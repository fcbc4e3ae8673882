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
  EasyQuant,     ///< ClipSearch.h
};

/// How scales of channels are chosen (ChannelScales.h).
enum class ChannelScaleMethod { SmoothQuant, SmoothQuantPlus, AWQ };

/// Whether AWQ's scales depend on the weights as well.
enum class DuoScaling { No, Yes, Both };

/// By which error the ranges of blocks are shrunk (ClipSearch.h).
enum class ClipObjective {
  None,     ///< by none, or by the rule of the scheme
  Diagonal, ///< squared errors times the second moments of the inputs
  Output,   ///< of what each block adds to the outputs
  Fisher,   ///< squared errors times the Fisher diagonal
};

/// What has a scale of its own in an activation.
enum class ActivationGranularity {
  Token,  ///< a token
  Group,  ///< a group of channels of a token, or of all tokens if static
  Tensor, ///< everything
};

/// Where the ranges of activations come from.
enum class ActivationRange {
  Dynamic, ///< the data
  Static,  ///< a calibration file
};

/// What schemes are compared by.
enum class SchemeError {
  Weight,         ///< squared error of the elements
  Output,         ///< squared error of the outputs
  RelativeOutput, ///< the same, divided by the square of the outputs
  Fisher,         ///< squared errors times the Fisher diagonal
  FisherOutput,   ///< squared errors of outputs times their squared gradients
};

/// True for the methods that need the Hessian of a weight's inputs.
inline bool needsHessian(QuantizationMethod method) {
  return method == QuantizationMethod::GPTQ ||
         method == QuantizationMethod::QuantEase;
}

} // namespace quant_llm

#endif // QUANT_LLM_METHODS_METHOD_H
