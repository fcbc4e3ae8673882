//===- Ops.td - The operations of quant_llm ----------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_OPS_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_OPS_TD

include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/CommonAttrConstraints.td"
include "mlir/IR/CommonTypeConstraints.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/OpBase.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "quant-llm/Dialect/QuantLLM/IR/DispatchOps.td"
include "quant-llm/Dialect/QuantLLM/IR/KernelAttributes.td"
include "quant-llm/Dialect/QuantLLM/IR/TransformOps.td"
include "quant-llm/Dialect/QuantLLM/IR/Types.td"

class QuantLLM_Op<string mnemonic, list<Trait> traits = []>
    : Op<QuantLLM_Dialect, mnemonic, traits>;

//===----------------------------------------------------------------------===//
// Constraints
//===----------------------------------------------------------------------===//

def QuantLLM_PlainPred
    : CPred<"!::llvm::cast<::mlir::RankedTensorType>($_self).getEncoding()">;
def QuantLLM_PositiveShapePred
    : CPred<"::llvm::all_of(::llvm::cast<::mlir::RankedTensorType>($_self).getShape(), "
            "[](int64_t size) { return size > 0; })">;

/// A matrix of floats with two static positive dimensions.
def QuantLLM_Matrix
    : ConfinedType<2DTensorOf<[F16, BF16, F32]>,
                   [QuantLLM_PlainPred, QuantLLM_PositiveShapePred],
                   "2D tensor of f16, bf16 or f32 with static positive dimensions and no encoding",
                   "::mlir::RankedTensorType">;
/// A component of a weight or an activation.
def QuantLLM_Component
    : ConfinedType<RankedTensorOf<[AnyType]>, [QuantLLM_PlainPred],
                   "ranked tensor without encoding", "::mlir::RankedTensorType">;
/// A tensor of floats: an input, a result, or an operand of an epilogue.
def QuantLLM_FloatTensor
    : ConfinedType<RankedTensorOf<[F16, BF16, F32]>, [QuantLLM_PlainPred],
                   "ranked tensor of f16, bf16 or f32 without encoding",
                   "::mlir::RankedTensorType">;
/// Where the tokens of each expert begin, and where those of the last one end.
def QuantLLM_Offsets
    : ConfinedType<1DTensorOf<[I32, I64]>,
                   [QuantLLM_PlainPred,
                    CPred<"::llvm::cast<::mlir::RankedTensorType>($_self).getDimSize(0) >= 2">],
                   "1D tensor of i32 or i64 with at least two elements, a static number, and no encoding",
                   "::mlir::RankedTensorType">;
def QuantLLM_AnyWeight
    : AnyTypeOf<[QuantLLM_Matrix, QuantLLM_WeightType]>;
/// What a linear multiplies with its weights.
def QuantLLM_AnyInput
    : AnyTypeOf<[QuantLLM_FloatTensor, QuantLLM_ActivationType]>;
/// What is stored under a scheme.
def QuantLLM_Quantized
    : AnyTypeOf<[QuantLLM_WeightType, QuantLLM_ActivationType]>;

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

def QuantLLM_ArchiveOp : QuantLLM_Op<"archive", [Symbol]> {
  let summary = "A file that holds parameters";
  let description = [{
    Names a safetensors file, the `*.index.json` of a sharded one, or a GGUF file.
    A relative path is relative to the directory of the `.mlir` file that the op
    came from (its location), or to the working directory if there is none
    (standard input); passes and tools take the option `base-dir` instead.
    Nothing is opened when IR is parsed or verified.

    Constraints:
    - QL-ARCHIVE-C1: the path is not empty and has no zero byte.

    Example:
    ```mlir
    quant_llm.archive @model "model.safetensors"
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$path);
  let assemblyFormat = "$sym_name $path attr-dict";
  let hasVerifier = 1;
}

def QuantLLM_ParameterOp : QuantLLM_Op<"parameter", [
    Symbol, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "A tensor or a weight that stays in its archive";
  let description = [{
    Declares the tensor that an archive holds under a key; the key is the symbol's name
    unless given. A parameter of weight type stands for the components of the
    weight, under `<key>.codes`, `<key>.scales` and so on (`<key>.packed` and so on if it has a layout).

    Constraints:
    - QL-PARAMETER-C1: the archive is a symbol that names a `quant_llm.archive`.
    - QL-PARAMETER-C2: the type is a weight, or a ranked tensor with static shape,
      no encoding and an element type that archives hold (f16, bf16, f32, f64,
      f8E4M3FN, f8E5M2, f8E8M0FNU, i8, i16, i32, i64).
    - QL-PARAMETER-C3: its size in bytes is less than 2^63.
    - QL-PARAMETER-C4: the key is not empty.

    Example:
    ```mlir
    quant_llm.parameter @"model.norm.weight" from @model : tensor<576xf16>
    quant_llm.parameter @w from @model key "model.layers.0.w" : tensor<4x4xf32>
    ```
  }];
  let arguments = (ins
    SymbolNameAttr:$sym_name,
    FlatSymbolRefAttr:$archive,
    OptionalAttr<StrAttr>:$key,
    TypeAttr:$type
  );
  let assemblyFormat = "$sym_name `from` $archive (`key` $key^)? attr-dict `:` $type";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// The key in the archive.
    ::llvm::StringRef getArchiveKey() {
      return getKey() ? *getKey() : getSymName();
    }
  }];
}

def QuantLLM_GetParameterOp : QuantLLM_Op<"get_parameter", [
    Pure, DeclareOpInterfaceMethods<SymbolUserOpInterface>,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "The value of a parameter";
  let description = [{
    Parameters do not change while a program runs, so the op is pure.

    Constraints:
    - QL-GET-PARAMETER-C1: the symbol names a `quant_llm.parameter`.
    - QL-GET-PARAMETER-C2: the type is that of the parameter.

    Example:
    ```mlir
    %w = quant_llm.get_parameter @"model.norm.weight" : tensor<576xf16>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$parameter);
  let results = (outs AnyTypeOf<[AnyRankedTensor, QuantLLM_WeightType]>:$result);
  let assemblyFormat = "$parameter attr-dict `:` qualified(type($result))";
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

def QuantLLM_QuantizeOp : QuantLLM_Op<"quantize", [NoMemoryEffect]> {
  let summary = "Quantizes a matrix under a scheme";
  let description = [{
    Computes the scales and zeros of each block by the rule of the scheme, rounds them to
    their stored type, and then the codes with what is stored, in f32:

    | zero | code |
    | --- | --- |
    | none | the code whose value is nearest to `w / s` |
    | `int` | the code whose value is nearest to `w / s + z` |
    | float | the code whose value is nearest to `(w - z) / s` |

    Ties are resolved by the scheme's rounding; values outside the grid become its
    nearest end. A NaN or an infinity in the operand is undefined behaviour in a program (the
    passes that quantize archives report it as an error), therefore the op may be removed
    or merged but not speculated, and `dequantize(quantize(w))` is not folded: it is not `w`.

    Constraints:
    - QL-QUANTIZE-C1: the shapes of operand and result are equal.
    - QL-QUANTIZE-C2: the operand's element type is the expressed type of the result.
    - QL-QUANTIZE-C3: the scheme has no `low_rank`, which passes on archives compute.

    Example:
    ```mlir
    %q = quant_llm.quantize %w : tensor<8x64xf16> -> !quant_llm.weight<8x64xf16, #scheme>
    ```
  }];
  let arguments = (ins QuantLLM_Matrix:$source);
  let results = (outs QuantLLM_WeightType:$result);
  let assemblyFormat = "$source attr-dict `:` qualified(type($source)) `->` qualified(type($result))";
  let hasVerifier = 1;
}

def QuantLLM_DequantizeOp : QuantLLM_Op<"dequantize", [Pure, InferTypeOpAdaptor]> {
  let summary = "The dense matrix of a weight, or tensor of an activation";
  let description = [{
    The value of each element by the formula of the scheme, computed in f32 and rounded
    once, half to even, to the expressed type.

    Constraints:
    - QL-DEQUANTIZE-C1: the result is the dense matrix or tensor of the operand's type.

    Example:
    ```mlir
    %w = quant_llm.dequantize %q : !quant_llm.weight<8x64xf16, #scheme> -> tensor<8x64xf16>
    ```
  }];
  let arguments = (ins QuantLLM_Quantized:$source);
  let results = (outs QuantLLM_FloatTensor:$result);
  let assemblyFormat = "$source attr-dict `:` qualified(type($source)) `->` qualified(type($result))";
}

def QuantLLM_AssembleOp : QuantLLM_Op<"assemble", [
    NoMemoryEffect, DeclareOpInterfaceMethods<ConditionallySpeculatable>]> {
  let summary = "A weight or an activation from its components";
  let description = [{
    The operands are the components in the order of the type. Bits that pad a row of
    codes are not read. A code or a zero that the scheme does not use (code 2 of
    `ternary`, a zero above 2^b-1) gives the value of the formula. Components of an activation whose
    dynamic extents do not fit together are undefined behaviour (the CPU pipeline reports them as an error): where
    two of them have some, the op may be removed or merged but not speculated.

    Constraints:
    - QL-ASSEMBLE-C1: there is one operand for each component of the result's type.
    - QL-ASSEMBLE-C2: each operand has the type of its component.

    Example:
    ```mlir
    %q = quant_llm.assemble %codes, %scales : (tensor<8x32xi8>, tensor<8x1xf16>) -> !quant_llm.weight<8x64xf16, #scheme>
    ```
  }];
  let arguments = (ins Variadic<QuantLLM_Component>:$components);
  let results = (outs QuantLLM_Quantized:$result);
  let assemblyFormat = "$components attr-dict `:` functional-type($components, $result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def QuantLLM_ComponentsOp : QuantLLM_Op<"components", [
    Pure, InferTypeOpAdaptor,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "The components of a weight or an activation";
  let description = [{
    Constraints:
    - QL-COMPONENTS-C1: the results are the components of the operand's type, in order.

    Example:
    ```mlir
    %codes, %scales = quant_llm.components %q : (!quant_llm.weight<8x64xf16, #scheme>) -> (tensor<8x32xi8>, tensor<8x1xf16>)
    ```
  }];
  let arguments = (ins QuantLLM_Quantized:$source);
  let results = (outs Variadic<QuantLLM_Component>:$components);
  let assemblyFormat = "$source attr-dict `:` functional-type($source, $components)";
  let hasFolder = 1;
}

def QuantLLM_QuantizeActivationOp : QuantLLM_Op<"quantize_activation", [
    NoMemoryEffect, DeclareOpInterfaceMethods<ConditionallySpeculatable>]> {
  let summary = "Quantizes tokens while a program runs";
  let description = [{
    Stores the operand x under the scheme of the result. The ranges of the blocks are those of the
    operand (*dynamic*), or are given as scales and zeros (*static*). With `a`, `lo` and `hi` the largest
    magnitude, the least value and the greatest value of a block, the latter two extended to hold 0, `c` the ratio of
    `clip` (1 if absent), V the largest value of the element, all in f32:

    ```
    s = (c * a) / V                       absmax
    s = (c * a) / 2^(b-1)                 absmax_full
    s = (c * (hi - lo)) / (V - vmin)      minmax, with vmin the least value of the element: 2^b - 1 for integers
    z = clamp(roundeven((-c * lo) / s), 0, 2^b - 1)
    ```

    s is rounded to the type of the scales, half to even, at most to its largest finite value. A block that holds an
    infinity or a NaN has the scale NaN, and thereby only values that are NaN; tokens with scales of their
    own do not see each other's. The codes are

    ```
    u = x / s, or x / s + z with a zero; 0 where s is 0
    q = the code whose value is nearest to u; the nearest end of the grid where u is outside of it
    ```

    with ties to the even code. Where u is NaN, q is the NaN of the element, if it has one,
    else 0 (which happens with given scales, or where s is NaN). A block of zeros has the scale 0 and codes 0.
    Given scales are used as they are, also negative ones and those that are not finite.

    Given components whose dynamic extents are not those of the operand are undefined behaviour (the CPU pipeline reports
    them as an error): where they have some, the op may be removed or merged but not speculated.

    Constraints:
    - QL-QUANTIZE-ACTIVATION-C1: the shapes of operand and result are equal.
    - QL-QUANTIZE-ACTIVATION-C2: the operand's element type is the expressed type of the result.
    - QL-QUANTIZE-ACTIVATION-C3: what is given are all components of the result but the codes, or nothing.
    - QL-QUANTIZE-ACTIVATION-C4: `clip` is more than 0 and at most 1, and stands without given scales.

    Example:
    ```mlir
    %q = quant_llm.quantize_activation %x : tensor<?x576xf32> -> !quant_llm.activation<?x576xf32, #scheme>
    %r = quant_llm.quantize_activation %x clip 0.9 : tensor<?x576xf32> -> !quant_llm.activation<?x576xf32, #scheme>
    %t = quant_llm.quantize_activation %x static(%s : tensor<f32>) : tensor<?x576xf32> -> !quant_llm.activation<?x576xf32, #per_tensor>
    ```
  }];
  let arguments = (ins
    QuantLLM_FloatTensor:$source,
    Variadic<QuantLLM_Component>:$given,
    OptionalAttr<F32Attr>:$clip
  );
  let results = (outs QuantLLM_ActivationType:$result);
  let assemblyFormat = [{
    $source (`clip` $clip^)? (`static` `(` $given^ `:` type($given) `)`)? attr-dict
    `:` qualified(type($source)) `->` qualified(type($result))
  }];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    /// Whether scales (and zeros) are operands.
    bool isStatic() { return !getGiven().empty(); }
  }];
}

def QuantLLM_LinearOp : QuantLLM_Op<"linear", [
    NoMemoryEffect, DeclareOpInterfaceMethods<ConditionallySpeculatable>,
    IsolatedFromAbove, AttrSizedOperandSegments, QuantLLM_LinearOpInterface]> {
  let summary = "The linear layer, with an epilogue";
  let description = [{
    For every index m of the leading dimensions of the input x and every output n:

    ```
    acc_j[m, n] = sum over k of f32(x[m, k]) * f32(W_j[n, k])
    y[m, n]     = epilogue(acc_0[m, n] [, acc_1[m, n]], e_0, e_1, ...)
    ```

    `f32(W[n, k])` is the value of the scheme's formula, *not* rounded to the expressed type;
    of a dense weight it is the element; of an input that is an activation, `f32(x[m, k])` is likewise the
    value of its scheme's formula. Products and sums are in f32, in any order and with or
    without fused multiply-add, and where a run of k has one scale in the input and one in the weight,
    the product of the two scales may multiply the sum of the products of codes. The input may have any number of leading dimensions.

    With two weights (a gated pair) both products have the same input, and the epilogue
    combines the two accumulators. An operand of the epilogue is either one value per
    output (`tensor<NxT>`, `e[n]`) or has the shape of the result (`e[m, n]`); the region's
    arguments are the accumulators (f32) and one element of each operand. Without
    an epilogue the accumulator is rounded, half to even, to the result's element type.
    An operand of the shape of the result whose dynamic extents are others is undefined behaviour (the CPU pipeline
    reports it as an error): where there are such extents, the op may be removed or merged but not speculated.

    `scheme` is the scheme chosen for the weights of this op and `reason` says why; both
    are notes for the passes that quantize and do not change the meaning.
    `kernels` are the configurations of the GPU kernels that compute the op, each for a range of
    token counts (the product of the leading dimensions), and `kernel_symbols` names the
    generated kernels, once there are any.

    Constraints:
    - QL-LINEAR-C1: there are one or two weights.
    - QL-LINEAR-C2: the weights have the same shape `[N, K]`.
    - QL-LINEAR-C3: the input has at least one dimension and the last one is K, static.
    - QL-LINEAR-C4: the result's shape is the input's with N in the place of K.
    - QL-LINEAR-C5: two weights, or operands of the epilogue, need an epilogue.
    - QL-LINEAR-C6: an operand of the epilogue has the shape `[N]` or that of the result.
    - QL-LINEAR-C7: the region's arguments are one f32 per weight, then the element
      type of each operand.
    - QL-LINEAR-C8: the region holds only pure scalar operations of `arith` and `math`.
    - QL-LINEAR-C9: the region yields one value of the result's element type.
    - QL-LINEAR-C10: if `scheme` is given, a quantized weight has this scheme; the rank of
      its `low_rank` is at most N and K.
    - QL-LINEAR-C11: `kernels`, if given, cover the token counts from 1 on in their order,
      without gaps.
    - QL-LINEAR-C12: `kernel_symbols`, if given, has one symbol for each of `kernels`.

    Example:
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x576xf32>, tensor<1536x576xf16>) -> tensor<?x1536xf32>
    %z = quant_llm.linear %x, %w epilogue(%b : tensor<1536xf32>) {
    ^bb0(%acc: f32, %bias: f32):
      %0 = arith.addf %acc, %bias : f32
      quant_llm.yield %0 : f32
    } : (tensor<?x576xf32>, !quant_llm.weight<1536x576xf16, #scheme>) -> tensor<?x1536xf32>
    ```
  }];
  let arguments = (ins
    QuantLLM_AnyInput:$input,
    Variadic<QuantLLM_AnyWeight>:$weights,
    Variadic<QuantLLM_FloatTensor>:$epilogue_operands,
    OptionalAttr<QuantLLM_SchemeAttr>:$scheme,
    OptionalAttr<StrAttr>:$reason,
    OptionalAttr<QuantLLM_KernelConfigArrayAttr>:$kernels,
    OptionalAttr<SymbolRefArrayAttr>:$kernel_symbols
  );
  let results = (outs QuantLLM_FloatTensor:$result);
  let regions = (region MaxSizedRegion<1>:$epilogue);
  let builders = [
    // Without an epilogue.
    OpBuilder<(ins "::mlir::Type":$result, "::mlir::Value":$input,
                   "::mlir::ValueRange":$weights,
                   CArg<"::quant_llm::SchemeAttr", "{}">:$scheme,
                   CArg<"::mlir::StringAttr", "{}">:$reason)>,
    // With an epilogue that `body` builds and yields; its arguments are the
    // accumulators and one element of each operand.
    OpBuilder<(ins "::mlir::Type":$result, "::mlir::Value":$input,
                   "::mlir::ValueRange":$weights, "::mlir::ValueRange":$epilogueOperands,
                   "::llvm::function_ref<void(::mlir::OpBuilder &, ::mlir::Location, ::mlir::ValueRange)>":$body,
                   CArg<"::quant_llm::SchemeAttr", "{}">:$scheme,
                   CArg<"::mlir::StringAttr", "{}">:$reason)>
  ];
  let skipDefaultBuilders = 1;
  // Version 1 of the dialect had no kernels.
  let useCustomPropertiesEncoding = 1;
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
  let hasCanonicalizer = 1;
}

def QuantLLM_GroupedLinearOp : QuantLLM_Op<"grouped_linear", [
    NoMemoryEffect, DeclareOpInterfaceMethods<ConditionallySpeculatable>,
    IsolatedFromAbove, AttrSizedOperandSegments, QuantLLM_LinearOpInterface]> {
  let summary = "The linear layers of experts, each on its own tokens";
  let description = [{
    The layer of a mixture of experts. Tokens (rows of the input x) are sorted by expert:
    expert e has the tokens `offsets[e]` to before `offsets[e+1]`, any number of them, also
    none. The weights of the E experts stand on top of each other: rows e*N to before
    (e+1)*N of a weight are those of expert e. For every token t of expert e and output n:

    ```
    acc_j[t, n] = sum over k of f32(x[t, k]) * f32(W_j[e*N + n, k])
    y[t, n]     = epilogue(acc_0[t, n] [, acc_1[t, n]], ...)
    ```

    Values of weights, sums, epilogue, rounding and speculation are those of `quant_llm.linear`; a scheme holds for the
    weight as a whole, so that `block = [-1, -1]` is one scale for all experts. An operand of the epilogue is either one value for every row of the
    weight, such as a bias of each expert (`tensor<E*N x T>`, `e[e*N + n]`), or has the shape of the result.

    `offsets` must ascend from 0 to the number of tokens. If they do not, elements of the
    result are unspecified, but nothing outside of the operands is read. The
    number of tokens may be 0.

    `scheme`, `reason`, `kernels` and `kernel_symbols` are as in `quant_llm.linear`; the
    token counts of kernels are those of all experts together.

    Constraints:
    - QL-GROUPED-LINEAR-C1: there are one or two weights.
    - QL-GROUPED-LINEAR-C2: the weights have the same shape.
    - QL-GROUPED-LINEAR-C3: `offsets` has E+1 elements, and E divides the rows of a weight: its shape is `[E*N, K]`.
    - QL-GROUPED-LINEAR-C4: the input has two dimensions, and the last one is K, static.
    - QL-GROUPED-LINEAR-C5: the result's shape is the input's with N in the place of K.
    - QL-GROUPED-LINEAR-C6: two weights, or operands of the epilogue, need an epilogue.
    - QL-GROUPED-LINEAR-C7: an operand of the epilogue has the shape `[E*N]` or that of the result.
    - QL-GROUPED-LINEAR-C8: the region's arguments are one f32 per weight, then the element
      type of each operand.
    - QL-GROUPED-LINEAR-C9: the region holds only pure scalar operations of `arith` and `math`.
    - QL-GROUPED-LINEAR-C10: the region yields one value of the result's element type.
    - QL-GROUPED-LINEAR-C11: if `scheme` is given, a quantized weight has this scheme; the rank of
      its `low_rank` is at most E*N and K.
    - QL-GROUPED-LINEAR-C12: `kernels`, if given, cover the token counts from 1 on in their order,
      without gaps.
    - QL-GROUPED-LINEAR-C13: `kernel_symbols`, if given, has one symbol for each of `kernels`.

    Example:
    ```mlir
    %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<9xi32>) : (tensor<?x64xf16>, !quant_llm.weight<128x64xf16, #scheme>) -> tensor<?x16xf16>
    %z = quant_llm.grouped_linear %x, %gate, %up offsets(%o : tensor<9xi32>) epilogue {
    ^bb0(%g: f32, %u: f32):
      %0 = arith.mulf %g, %u : f32
      quant_llm.yield %0 : f32
    } : (tensor<?x64xf16>, tensor<128x64xf16>, tensor<128x64xf16>) -> tensor<?x16xf32>
    ```
  }];
  let arguments = (ins
    QuantLLM_AnyInput:$input,
    Variadic<QuantLLM_AnyWeight>:$weights,
    QuantLLM_Offsets:$offsets,
    Variadic<QuantLLM_FloatTensor>:$epilogue_operands,
    OptionalAttr<QuantLLM_SchemeAttr>:$scheme,
    OptionalAttr<StrAttr>:$reason,
    OptionalAttr<QuantLLM_KernelConfigArrayAttr>:$kernels,
    OptionalAttr<SymbolRefArrayAttr>:$kernel_symbols
  );
  let results = (outs QuantLLM_FloatTensor:$result);
  let regions = (region MaxSizedRegion<1>:$epilogue);
  let builders = [
    // `body` builds and yields the epilogue; none if it is null.
    OpBuilder<(ins "::mlir::Type":$result, "::mlir::Value":$input,
                   "::mlir::ValueRange":$weights, "::mlir::Value":$offsets,
                   CArg<"::mlir::ValueRange", "{}">:$epilogueOperands,
                   CArg<"::llvm::function_ref<void(::mlir::OpBuilder &, ::mlir::Location, ::mlir::ValueRange)>", "{}">:$body,
                   CArg<"::quant_llm::SchemeAttr", "{}">:$scheme,
                   CArg<"::mlir::StringAttr", "{}">:$reason)>
  ];
  let skipDefaultBuilders = 1;
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    int64_t getNumExperts() { return getOffsets().getType().getDimSize(0) - 1; }
  }];
}

//===----------------------------------------------------------------------===//
// Regions
//===----------------------------------------------------------------------===//

class QuantLLM_RegionOp<string mnemonic, list<Trait> traits = []>
    : QuantLLM_Op<mnemonic, traits # [
        SingleBlock, NoRegionArguments, RecursiveMemoryEffects,
        RecursivelySpeculatable,
        DeclareOpInterfaceMethods<RegionBranchOpInterface>]>;

def QuantLLM_BlockOp : QuantLLM_RegionOp<"block"> {
  let summary = "A transformer block";
  let description = [{
    Executes its region once and yields its values: transparent to execution. It marks which
    operations belong to which block of the model, for methods that work block by block.
    The region may use values from outside.

    Constraints:
    - QL-BLOCK-C1: the index is not negative.
    - QL-BLOCK-C2: the yielded types are the result types.
    - QL-BLOCK-C3: the region ends with `quant_llm.yield`.

    Example:
    ```mlir
    %h1 = quant_llm.block 0 "model.layers.0" -> (tensor<?x576xf32>) {
      %0 = math.tanh %h0 : tensor<?x576xf32>
      quant_llm.yield %0 : tensor<?x576xf32>
    }
    ```
  }];
  let arguments = (ins
    ConfinedAttr<I64Attr, [IntNonNegative]>:$index,
    StrAttr:$name
  );
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $index $name (`->` `(` type($results)^ `)`)? attr-dict-with-keyword $body
  }];
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    YieldOp getYield();
  }];
}

def QuantLLM_CrossBlockOp : QuantLLM_RegionOp<"cross_block"> {
  let summary = "Consecutive blocks, optimized together in a sliding window";
  let description = [{
    Executes its region once and yields its values: transparent to execution. The region is
    a run of consecutive `quant_llm.block`s over which a window of `window` blocks
    slides; neighbouring windows share `overlap` blocks. With window 2 and overlap 1 the
    windows over the blocks 0..3 are (0, 1), (1, 2), (2, 3); the last window ends with the last
    block and may therefore share more.

    Constraints:
    - QL-CROSS-BLOCK-C1: the window is positive.
    - QL-CROSS-BLOCK-C2: the overlap is not negative and less than the window.
    - QL-CROSS-BLOCK-C3: the region holds only blocks, at least one.
    - QL-CROSS-BLOCK-C4: the indices of the blocks are consecutive.
    - QL-CROSS-BLOCK-C5: the yielded types are the result types.
    - QL-CROSS-BLOCK-C6: the region ends with `quant_llm.yield`.

    Example:
    ```mlir
    %h2 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<?x576xf32>) {
      %h1 = quant_llm.block 0 "model.layers.0" -> (tensor<?x576xf32>) {
        %0 = math.tanh %h0 : tensor<?x576xf32>
        quant_llm.yield %0 : tensor<?x576xf32>
      }
      %1 = quant_llm.block 1 "model.layers.1" -> (tensor<?x576xf32>) {
        %0 = math.tanh %h1 : tensor<?x576xf32>
        quant_llm.yield %0 : tensor<?x576xf32>
      }
      quant_llm.yield %1 : tensor<?x576xf32>
    }
    ```
  }];
  let arguments = (ins
    ConfinedAttr<I64Attr, [IntPositive]>:$window,
    ConfinedAttr<I64Attr, [IntNonNegative]>:$overlap
  );
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    `window` `=` $window `,` `overlap` `=` $overlap
    (`->` `(` type($results)^ `)`)? attr-dict-with-keyword $body
  }];
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    /// The blocks, in order.
    ::llvm::SmallVector<::quant_llm::BlockOp> getBlocks();
    /// Positions in getBlocks() of the first and last block of every window.
    ::llvm::SmallVector<std::pair<int64_t, int64_t>> getWindows();
    YieldOp getYield();
  }];
}

def QuantLLM_YieldOp : QuantLLM_Op<"yield", [
    Pure, ReturnLike, Terminator,
    ParentOneOf<["LinearOp", "GroupedLinearOp", "BlockOp", "CrossBlockOp"]>]> {
  let summary = "Ends an epilogue or a block";
  let description = [{
    Example:
    ```mlir
    quant_llm.yield %0 : f32
    ```
  }];
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "($values^ `:` type($values))? attr-dict";
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_OPS_TD
