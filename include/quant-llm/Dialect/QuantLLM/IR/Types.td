//===- Types.td - The types of weights and activations -----*- tablegen -*-===//
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

def QuantLLM_ActivationType : TypeDef<QuantLLM_Dialect, "Activation"> {
  let mnemonic = "activation";
  let summary = "a tensor of tokens stored under a scheme";
  let description = [{
    `!quant_llm.activation<...xKxT, #scheme>` is a logical dense tensor of the expressed type T. Its
    last dimension are the K channels of a token, which the columns of a scheme's block
    divide; all other indices together number the tokens, which are its rows:

    | block | a scale for |
    | --- | --- |
    | `[1, -1]` | each token |
    | `[1, g]` | each token and group of g channels |
    | `[-1, -1]` | the tensor |
    | `[-1, g]` | each group of g channels, of all tokens |

    The components are, in this order:

    | component | type |
    | --- | --- |
    | `codes` | `tensor<...xKxi8>`: a code a byte, `intN` in two's complement, else unsigned |
    | `scales` | `tensor<[...][x ceil(K/g)] x scale type>`, without the leading dimensions if all tokens share it, without the last one if all channels do |
    | `zeros`, if any | the same shape, of i8 (one unsigned integer per zero) |

    Codes are not packed to bits: an activation lives from one kernel to the next, and products of
    8-bit integers take bytes.

    Constraints:
    - QL-ACTIVATION-C1: there is at least one dimension; the last one is static and positive.
    - QL-ACTIVATION-C2: the expressed type is f16, bf16 or f32.
    - QL-ACTIVATION-C3: the block has 1 or -1 rows, and scales are f16, bf16 or f32.
    - QL-ACTIVATION-C4: the element is an integer of at least 2 bits or a float.
    - QL-ACTIVATION-C5: the zero is `none` or `int`, and there is no low-rank part.
    - QL-ACTIVATION-C6: the rule is `absmax`, `absmax_full` or `minmax`, which need no search, and the
      rounding `half_even`.

    Example:
    ```mlir
    !quant_llm.activation<?x576xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
    ```
  }];
  let parameters = (ins
    ArrayRefParameter<"int64_t">:$shape,
    "::mlir::Type":$elementType,
    "::quant_llm::SchemeAttr":$scheme
  );
  let builders = [
    TypeBuilderWithInferredContext<(ins "::llvm::ArrayRef<int64_t>":$shape,
        "::mlir::Type":$elementType, "::quant_llm::SchemeAttr":$scheme), [{
      return $_get(elementType.getContext(), shape, elementType, scheme);
    }]>
  ];
  let genVerifyDecl = 1;
  let hasCustomAssemblyFormat = 1;
  let extraClassDeclaration = [{
    int64_t getK() const { return getShape().back(); }
    /// Whether each token has scales of its own.
    bool isPerToken() const { return getScheme().getBlockN() == 1; }
    /// Channels that share a scale: K, or the size of a group.
    int64_t getGroup() const;
    int64_t getNumGroups() const;
    bool isGrouped() const { return getScheme().getBlockK() != -1; }

    /// The dense tensor.
    ::mlir::RankedTensorType getDenseType() const;
    /// The components, in the order of the table above.
    ::llvm::SmallVector<::quant_llm::WeightComponent> getComponents() const;
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_TYPES_TD
