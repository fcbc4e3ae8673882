//===- Attributes.td - Element and scheme attributes -------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTES_TD

include "mlir/IR/AttrTypeBase.td"
include "quant-llm/Dialect/QuantLLM/IR/Interfaces.td"
include "quant-llm/Dialect/QuantLLM/IR/QuantLLMDialect.td"

class QuantLLM_Attr<string name, string attrMnemonic>
    : AttrDef<QuantLLM_Dialect, name> {
  let mnemonic = attrMnemonic;
  let genVerifyDecl = 1;
  let hasCustomAssemblyFormat = 1;
}

def QuantLLM_ElementAttr : QuantLLM_Attr<"Element", "element"> {
  let summary = "the grid that a code is an index into";
  let description = [{
    `v(q)` is the value of the code `q`, before scale and zero.

    | spelling | bits | values |
    | --- | --- | --- |
    | `int1` .. `int8` | 1..8 | two's complement, -2^(b-1) .. 2^(b-1)-1 |
    | `uint1` .. `uint8` | 1..8 | 0 .. 2^b-1 |
    | `ternary` | 2 | -1, 0, 1 in two's complement; code 2 does not occur |
    | `f4E2M1FN` `f6E2M3FN` `f6E3M2FN` `f8E4M3FN` `f8E5M2` | 4, 6, 6, 8, 8 | those of the builtin type of that name |
    | `nf4` | 4 | the 16 normal quantiles of QLoRA |
    | `codebook<b, [...]>` | 1..8 | the 2^b given values, in the order of the codes |

    Constraints:
    - QL-ELEMENT-C1: the width is within the bounds of the table.
    - QL-ELEMENT-C2: a codebook has 2^b values.
    - QL-ELEMENT-C3: the values of a codebook are finite.

    Example:
    ```mlir
    #quant_llm.element<int4>
    #quant_llm.element<codebook<1, [-1.0, 1.0]>>
    ```
  }];
  let parameters = (ins
    "::quant_llm::ElementKind":$kind,
    "unsigned":$bits,
    "::mlir::DenseF32ArrayAttr":$table
  );
  let builders = [
    AttrBuilder<(ins "::quant_llm::ElementKind":$kind, "unsigned":$bits), [{
      return $_get($_ctxt, kind, bits, ::mlir::DenseF32ArrayAttr());
    }]>
  ];
  let extraClassDeclaration = [{
    /// The MLIR-free form.
    ::quant_llm::ElementFormat toNumerics() const;
    static ElementAttr fromNumerics(::mlir::MLIRContext *context,
                                    const ::quant_llm::ElementFormat &element);
    /// Parse and print what stands between the angle brackets, `int4`.
    static ::mlir::FailureOr<ElementAttr> parseBare(::mlir::AsmParser &parser);
    void printBare(::mlir::AsmPrinter &printer) const;
  }];
}

def QuantLLM_SchemeAttr : QuantLLM_Attr<"Scheme", "scheme"> {
  let summary = "what the stored bits of a weight mean";
  let description = [{
    Orthogonal fields that together give every stored bit of a matrix `[N, K]`
    (N outputs, K inputs) a value. With `q` the code, `s` the scale and `z` the
    zero of the block that holds the element, the value is computed in f32:

    | zero | value |
    | --- | --- |
    | none | `s * v(q)` |
    | `int` | `s * (v(q) - z)`, z an unsigned integer in the range of the element |
    | a float type | `s * v(q) + z` (one multiplication, one addition, each rounded to f32) |

    - `block = [n, k]`: elements that share a scale along N and along K; -1 is the
      whole dimension. `[1, 128]` are groups, `[1, -1]` is per output channel,
      `[-1, -1]` per tensor. The last block of a dimension may be smaller.
    - `scale`: a type, or a scheme under which the matrix of scales is itself
      stored (double quantization).
    - `zero`: nothing, `int`, or a type. With `int` the zeros have the block of the scales.
    - `low_rank = RxT`: the product `A B` of matrices `[N, R]` and `[R, K]` of the type T is added to the
      values above, what R singular vectors can mend of the error of the codes (docs/Spec.md, section 3.3).
    - `rule`: how `quantize` computes a scale: `absmax_full` is max|w| / 2^(b-1),
      `absmax` is max|w| divided by the largest value of the element, `minmax` is
      (max-min) divided by the range of the element, `mse` is the clip of these that minimizes the squared error
      (docs/Spec.md, section 3.1).
    - `rounding`: of the quotient `w / s` (or `w / s + z`) to the nearest code;
      `half_even` or `half_away` from zero at ties.

    `rule` and `rounding` say how codes came about; `dequantize` does not need them.

    Constraints:
    - QL-SCHEME-C1: an entry of `block` is -1 or positive.
    - QL-SCHEME-C2: `scale` is f16, bf16, f32, f8E8M0FNU, f8E4M3FN or a scheme.
    - QL-SCHEME-C3: the scheme of the scales has a type as its scale (one nesting level).
    - QL-SCHEME-C4: the scheme of the scales has no zero.
    - QL-SCHEME-C5: `zero = int` needs an element `uintN`.
    - QL-SCHEME-C6: a float `zero` is f16, bf16, f32 or f8E4M3FN, and the element has two
      different values.
    - QL-SCHEME-C7: `rule = absmax_full` needs an element `intN` and no zero.
    - QL-SCHEME-C8: `rule = absmax`, and `mse` without a zero, need an element with a
      positive value (not `int1`); `absmax` needs no zero.
    - QL-SCHEME-C9: `rule = minmax` needs a zero.
    - QL-SCHEME-C10: `rounding = half_away` needs an element of integers.
    - QL-SCHEME-C11: an element without a value 0 needs a zero or a scale that can be 0
      (not f8E8M0FNU), else a block of zeros could not be stored.
    - QL-SCHEME-C12: `low_rank` has a positive rank and the type f16, bf16 or f32.
    - QL-SCHEME-C13: the scheme of the scales has no `low_rank`.

    Example:
    ```mlir
    #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
    #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, rule = minmax, rounding = half_even>
    #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 8xf16, rule = absmax, rounding = half_even>
    ```
    The order of the fields is free on input; `rule` and `rounding` default to
    `absmax` and `half_even`.
  }];
  let parameters = (ins
    "::quant_llm::ElementAttr":$element,
    "int64_t":$blockN,
    "int64_t":$blockK,
    "::mlir::Attribute":$scale,
    "::quant_llm::ZeroKind":$zeroKind,
    "::mlir::Type":$zeroType,
    "::quant_llm::ScaleRule":$rule,
    "::quant_llm::Rounding":$rounding,
    "int64_t":$lowRank,
    "::mlir::Type":$lowRankType
  );
  let builders = [
    AttrBuilderWithInferredContext<(ins "::quant_llm::ElementAttr":$element,
        "int64_t":$blockN, "int64_t":$blockK, "::mlir::Type":$scaleType,
        CArg<"::quant_llm::ScaleRule", "::quant_llm::ScaleRule::AbsMax">:$rule,
        CArg<"::quant_llm::Rounding", "::quant_llm::Rounding::HalfEven">:$rounding), [{
      return $_get(element.getContext(), element, blockN, blockK,
                   ::mlir::TypeAttr::get(scaleType), ::quant_llm::ZeroKind::None,
                   ::mlir::Type(), rule, rounding, /*lowRank=*/0,
                   ::mlir::Type());
    }]>
  ];
  let extraClassDeclaration = [{
    /// The type of plain scales; null if the scales have a scheme.
    ::mlir::FloatType getScaleType() const;
    /// The scheme of the scales; null if they have a plain type.
    SchemeAttr getScaleScheme() const;
    bool hasZero() const { return getZeroKind() != ::quant_llm::ZeroKind::None; }
    /// The scheme without its low-rank part.
    SchemeAttr withoutLowRank() const;

    /// The MLIR-free form.
    ::quant_llm::Scheme toNumerics() const;
    /// The attribute of a legal scheme.
    static SchemeAttr fromNumerics(::mlir::MLIRContext *context,
                                   const ::quant_llm::Scheme &scheme);
    /// The attribute of any scheme; null after `emitError` if it is not legal.
    static SchemeAttr fromNumericsChecked(
        ::llvm::function_ref<::mlir::InFlightDiagnostic()> emitError,
        ::mlir::MLIRContext *context, const ::quant_llm::Scheme &scheme);
  }];
}

def QuantLLM_FragmentLayoutAttr
    : AttrDef<QuantLLM_Dialect, "FragmentLayout",
              [DeclareAttrInterfaceMethods<QuantLLM_WeightLayoutAttrInterface>]> {
  let mnemonic = "fragment_layout";
  let summary = "weights in the order of tensor-core fragments";
  let description = [{
    The packed layout of GPU kernels (`docs/Weights.md`): codes in the order in which the lanes of
    a warp hold operand A of `mma.m16n8k16`, scales and zeros expanded along N, rows and columns
    padded. With S = 4*ceil(N/64) strips of 16 rows, U = ceil(K/128) units of 128 columns, G groups
    along K and b bits a code, the components are

    | component | type |
    | --- | --- |
    | `packed` | `tensor<S x U x 256*b x i8>` |
    | `packed_scales` | `tensor<S x G x 16 x scale type>` |
    | `packed_zeros`, if any | `tensor<S x G x 16>` of i8 or of the zero type (f16 for f8E4M3FN) |
    | `output_scale` | `tensor<f32>` |

    Scales and float zeros are stored divided by `output_scale`, a power of two. Scales that
    are stored under a scheme are f32 here; but f8E4M3FN codes with one scale for the whole matrix stay as they
    are, and that scale is the `output_scale`. Blocks of fewer than 16 columns over all rows
    have one scale for each column, `tensor<128*U>`.

    Constraints:
    - QL-FRAGMENT-LAYOUT-C1: a block has at least 16 columns, or all columns, or all rows.
    - QL-FRAGMENT-LAYOUT-C2: every component has fewer than 2^60 bytes.
    - QL-FRAGMENT-LAYOUT-C3: the scheme has no `low_rank`.

    Example:
    ```mlir
    !quant_llm.weight<1536x576xf16, #scheme, #quant_llm.fragment_layout>
    ```
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_ATTRIBUTES_TD
