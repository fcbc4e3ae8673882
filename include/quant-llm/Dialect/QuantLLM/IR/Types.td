//===- Types.td - The weight type --------------------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_TYPES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_TYPES_TD

include "mlir/IR/AttrTypeBase.td"
include "quant-llm/Dialect/QuantLLM/IR/Attributes.td"

def QuantLLM_WeightType : TypeDef<QuantLLM_Dialect, "Weight"> {
  let mnemonic = "weight";
  let summary = "a matrix stored under a scheme";
  let description = [{
    `!quant_llm.weight<NxKxT, #scheme>` is a logical dense matrix of N rows
    (outputs) and K columns (inputs) of the expressed type T. How it is stored is
    the scheme's matter; its parts are the *components*, tensors that
    `quant_llm.components` yields and `quant_llm.assemble` takes, in this order:

    | component | type |
    | --- | --- |
    | `codes` | `tensor<N x ceil(K*b/8) x i8>` |
    | `scales` | `tensor<ceil(N/bn) x ceil(K/bk) x scale type>` |
    | `zeros`, if any | the same grid, of i8 (one unsigned integer per zero) or of the zero type |
    | `low_rank.a`, `low_rank.b`, if any | `tensor<N x R x T>`, `tensor<R x K x T>` of `low_rank = RxT` |

    Code k of a row occupies the bits `[k*b, (k+1)*b)` of the row's bit string, where bit i is
    bit `i % 8` of byte `i / 8`; each row is padded with zero bits to whole bytes.
    If the scales have a scheme, two components stand in the place of `scales`:
    `scales.codes` and `scales.scales`, those of the matrix of scales under that scheme.

    `!quant_llm.weight<NxKxT, #scheme, #layout>` is the same matrix with the components of an attribute
    that implements `WeightLayoutAttrInterface`. Such a weight has the same value, up to scales that underflow
    when they are packed (`quant-llm-prepack` reports them).

    Constraints:
    - QL-WEIGHT-C1: the shape is two static positive dimensions.
    - QL-WEIGHT-C2: the expressed type is f16, bf16 or f32.
    - QL-WEIGHT-C3: N * K is less than 2^59.
    - QL-WEIGHT-C4: the layout, if any, is an attribute that implements `WeightLayoutAttrInterface`.
    - QL-WEIGHT-C5: the layout has weights of this scheme and shape.
    - QL-WEIGHT-C6: the rank of `low_rank` is at most N and K.

    Example:
    ```mlir
    !quant_llm.weight<1536x576xf16, #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>>
    !quant_llm.weight<1536x576xf16, #scheme, #quant_llm.fragment_layout>
    ```
  }];
  let parameters = (ins
    ArrayRefParameter<"int64_t">:$shape,
    "::mlir::Type":$elementType,
    "::quant_llm::SchemeAttr":$scheme,
    OptionalParameter<"::quant_llm::WeightLayoutAttrInterface">:$layout
  );
  let builders = [
    TypeBuilderWithInferredContext<(ins "::llvm::ArrayRef<int64_t>":$shape,
        "::mlir::Type":$elementType, "::quant_llm::SchemeAttr":$scheme,
        CArg<"::quant_llm::WeightLayoutAttrInterface", "{}">:$layout), [{
      return $_get(elementType.getContext(), shape, elementType, scheme, layout);
    }]>
  ];
  let genVerifyDecl = 1;
  let hasCustomAssemblyFormat = 1;
  let extraClassDeclaration = [{
    int64_t getN() const { return getShape()[0]; }
    int64_t getK() const { return getShape()[1]; }
    /// Number of blocks along N and along K.
    int64_t getGridN() const;
    int64_t getGridK() const;

    /// The dense matrix: `tensor<NxKxT>`.
    ::mlir::RankedTensorType getDenseType() const;
    /// The components, in the order of the table above, or those of the layout.
    ::llvm::SmallVector<::quant_llm::WeightComponent> getComponents() const;
    ::llvm::SmallVector<::mlir::RankedTensorType> getComponentTypes() const;
    /// Their names in an archive, each to be put after "<key>.".
    ::llvm::SmallVector<::llvm::StringRef> getComponentNames() const;
    /// Bytes of all components.
    int64_t getStorageBytes() const;
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_TYPES_TD
