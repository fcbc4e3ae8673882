//===- Interfaces.td - Interface of layouts ----------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_INTERFACES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_INTERFACES_TD

include "mlir/IR/OpBase.td"

def QuantLLM_WeightLayoutAttrInterface
    : AttrInterface<"WeightLayoutAttrInterface"> {
  let cppNamespace = "::quant_llm";
  let description = [{
    How the codes, scales and zeros of a weight are ordered in memory, where that is not the
    canonical row-major storage: the third parameter of the weight type. A layout says which
    tensors a weight consists of; it does not change the weight's value.
  }];
  let methods = [
    InterfaceMethod<[{
        Whether a weight [n, k] under a scheme that is legal for it can have the
        layout; emits an error if not.
      }],
      "::llvm::LogicalResult", "verifyWeight",
      (ins "::llvm::function_ref<::mlir::InFlightDiagnostic()>":$emitError,
           "const ::quant_llm::Scheme &":$scheme, "int64_t":$n, "int64_t":$k)>,
    InterfaceMethod<[{
        The components of a verified weight, in their order.
      }],
      "::llvm::SmallVector<::quant_llm::WeightComponent>", "getComponents",
      (ins "const ::quant_llm::Scheme &":$scheme, "int64_t":$n, "int64_t":$k)>,
  ];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_INTERFACES_TD
