//===- Interfaces.td - Interfaces of quant_llm -------------*- tablegen -*-===//
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

def QuantLLM_LinearOpInterface : OpInterface<"LinearOpInterface"> {
  let cppNamespace = "::quant_llm";
  let description = [{
    What `linear` and `grouped_linear` have in common: weights that are multiplied with an input,
    an epilogue, and the notes of the passes that quantize weights and choose kernels.
  }];
  let methods = [
    InterfaceMethod<"The input, one row per token: a tensor or an activation.",
      "::mlir::Value", "getInput">,
    InterfaceMethod<"One weight, or two of a gated pair.",
      "::mlir::OperandRange", "getWeights">,
    InterfaceMethod<"The weights, to be replaced.",
      "::mlir::MutableOperandRange", "getWeightsMutable">,
    InterfaceMethod<"The number of experts whose rows a weight has; 1 of a `linear`.",
      "int64_t", "getNumExperts", (ins), "", "return 1;">,
    InterfaceMethod<"The operands of the epilogue.",
      "::mlir::OperandRange", "getEpilogueOperands">,
    InterfaceMethod<"The region of the epilogue; empty if there is none.",
      "::mlir::Region &", "getEpilogue">,
    InterfaceMethod<"The result.", "::mlir::Value", "getResult">,
    InterfaceMethod<"The scheme chosen for the weights; null if none is.",
      "::quant_llm::SchemeAttr", "getSchemeAttr">,
    InterfaceMethod<"Sets the scheme.",
      "void", "setSchemeAttr", (ins "::quant_llm::SchemeAttr":$scheme)>,
    InterfaceMethod<"Why the scheme, or none, was chosen; may be null.",
      "::mlir::StringAttr", "getReasonAttr">,
    InterfaceMethod<"Sets the reason.",
      "void", "setReasonAttr", (ins "::mlir::StringAttr":$reason)>,
    InterfaceMethod<"The configurations of kernels; may be null.",
      "::mlir::ArrayAttr", "getKernelsAttr">,
    InterfaceMethod<"Sets the configurations of kernels.",
      "void", "setKernelsAttr", (ins "::mlir::ArrayAttr":$kernels)>,
    InterfaceMethod<"The generated kernels; may be null.",
      "::mlir::ArrayAttr", "getKernelSymbolsAttr">,
    InterfaceMethod<"Sets the generated kernels.",
      "void", "setKernelSymbolsAttr", (ins "::mlir::ArrayAttr":$symbols)>,
  ];
  let extraSharedClassDeclaration = [{
    bool hasEpilogue() { return !$_op.getEpilogue().empty(); }
    /// The type of the input, of an activation that of the dense tensor.
    ::mlir::RankedTensorType getInputType() {
      return ::quant_llm::getDenseType($_op.getInput().getType());
    }
    /// Outputs and inputs of the weights, of one expert.
    int64_t getN() {
      return ::quant_llm::getWeightShape($_op.getWeights().front().getType())[0] /
             $_op.getNumExperts();
    }
    int64_t getK() {
      return ::quant_llm::getWeightShape($_op.getWeights().front().getType())[1];
    }
    /// True if every weight has a quantized type.
    bool isQuantized() {
      return ::llvm::all_of($_op.getWeights().getTypes(), [](::mlir::Type type) {
        return ::llvm::isa<::quant_llm::WeightType>(type);
      });
    }
    /// The configurations in `kernels`; none if there are none.
    ::llvm::SmallVector<::quant_llm::KernelConfig> getKernelConfigs() {
      ::llvm::SmallVector<::quant_llm::KernelConfig> configs;
      if (::mlir::ArrayAttr kernels = $_op.getKernelsAttr())
        for (auto kernel : kernels.getAsRange<::quant_llm::KernelConfigAttr>())
          configs.push_back(kernel.getConfig());
      return configs;
    }
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_INTERFACES_TD
