//===- TransformOps.td - Equivalence transforms ------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMOPS_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMOPS_TD

include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/CommonAttrConstraints.td"
include "mlir/IR/CommonTypeConstraints.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "quant-llm/Dialect/QuantLLM/IR/QuantLLMDialect.td"
include "quant-llm/Dialect/QuantLLM/IR/TransformInterfaces.td"

def QuantLLM_TransformPlainPred
    : CPred<"!::llvm::cast<::mlir::RankedTensorType>($_self).getEncoding()">;
def QuantLLM_TransformStaticPred
    : CPred<"::llvm::all_of(::llvm::cast<::mlir::RankedTensorType>($_self).getShape(), "
            "[](int64_t size) { return size > 0; })">;

/// What is transformed.
def QuantLLM_TransformInput
    : ConfinedType<RankedTensorOf<[F16, BF16, F32, F64]>, [QuantLLM_TransformPlainPred],
                   "ranked tensor of f16, bf16, f32 or f64 without encoding",
                   "::mlir::RankedTensorType">;
/// The numbers of a transform.
def QuantLLM_TransformData
    : ConfinedType<RankedTensorOf<[F16, BF16, F32, F64]>,
                   [QuantLLM_TransformPlainPred, QuantLLM_TransformStaticPred],
                   "ranked tensor of f16, bf16, f32 or f64 with static positive "
                   "dimensions and no encoding",
                   "::mlir::RankedTensorType">;
def QuantLLM_TransformMatrix
    : ConfinedType<2DTensorOf<[F16, BF16, F32, F64]>,
                   [QuantLLM_TransformPlainPred, QuantLLM_TransformStaticPred],
                   "2D tensor of f16, bf16, f32 or f64 with static positive dimensions "
                   "and no encoding",
                   "::mlir::RankedTensorType">;
def QuantLLM_TransformIndices
    : ConfinedType<1DTensorOf<[I16, I32, I64]>,
                   [QuantLLM_TransformPlainPred, QuantLLM_TransformStaticPred],
                   "1D tensor of i16, i32 or i64 with a static positive dimension and no encoding",
                   "::mlir::RankedTensorType">;

class QuantLLM_TransformOp<string mnemonic, list<Trait> traits = []>
    : Op<QuantLLM_Dialect, mnemonic, traits # [
        Pure, AllTypesMatch<["input", "result"]>,
        DeclareOpInterfaceMethods<QuantLLM_ChannelTransformOpInterface, ["getTransform"]>]> {
  let results = (outs QuantLLM_TransformInput:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def QuantLLM_ScaleChannelsOp : QuantLLM_TransformOp<"scale_channels"> {
  let summary = "Multiplies every channel by its scale";
  let description = [{
    With c the indices of an element along `dims`:

    ```
    y[..., c] = x[..., c] * s[c]
    y[..., c] = x[..., c] / s[c]     with `inverse`
    ```

    Computed in f32, or in f64 if an operand is of f64, and rounded once to the type of x. A
    pair of the op and its inverse is the identity, up to rounding, and is folded
    away; so are scales of a constant 1. Scales one after the other are merged.

    The same for all transforms: `dims` are increasing dimensions of static size (QL-TRANSFORM-C1);
    how transforms move is in `docs/Transforms.md`.

    Constraints:
    - QL-TRANSFORM-C1: `dims` is not empty, increases, and names dimensions of the input
      with a static positive size.
    - QL-SCALE-CHANNELS-C1: the shape of the scales is that of the input along `dims`.
    - QL-SCALE-CHANNELS-C2: scales that are a constant are finite and not 0.

    Example:
    ```mlir
    %y = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x576xf32>, tensor<576xf32>
    %z = quant_llm.scale_channels inverse %y by %s dims = [1] : tensor<?x576xf32>, tensor<576xf32>
    ```
  }];
  let arguments = (ins
    QuantLLM_TransformInput:$input,
    QuantLLM_TransformData:$scale,
    DenseI64ArrayAttr:$dims,
    UnitAttr:$inverse
  );
  let assemblyFormat = [{
    (`inverse` $inverse^)? $input `by` $scale `dims` `=` $dims attr-dict
    `:` qualified(type($input)) `,` qualified(type($scale))
  }];
  let hasCanonicalizer = 1;
}

def QuantLLM_ShiftChannelsOp : QuantLLM_TransformOp<"shift_channels"> {
  let summary = "Adds an offset to every channel";
  let description = [{
    With c the indices of an element along `dims`:

    ```
    y[..., c] = x[..., c] + d[c]
    y[..., c] = x[..., c] - d[c]     with `inverse`
    ```

    Computed in f32, or in f64 if an operand is of f64, and rounded once to the type of x.

    Constraints:
    - QL-TRANSFORM-C1, as for `scale_channels`.
    - QL-SHIFT-CHANNELS-C1: the shape of the offsets is that of the input along `dims`.
    - QL-SHIFT-CHANNELS-C2: offsets that are a constant are finite.

    Example:
    ```mlir
    %y = quant_llm.shift_channels %x by %d dims = [1] : tensor<?x576xf32>, tensor<576xf32>
    ```
  }];
  let arguments = (ins
    QuantLLM_TransformInput:$input,
    QuantLLM_TransformData:$offset,
    DenseI64ArrayAttr:$dims,
    UnitAttr:$inverse
  );
  let assemblyFormat = [{
    (`inverse` $inverse^)? $input `by` $offset `dims` `=` $dims attr-dict
    `:` qualified(type($input)) `,` qualified(type($offset))
  }];
}

def QuantLLM_PermuteChannelsOp : QuantLLM_TransformOp<"permute_channels"> {
  let summary = "Reorders channels";
  let description = [{
    With c the index of an element along the dimension in `dims`:

    ```
    y[..., c] = x[..., p[c]]
    y[..., p[c]] = x[..., c]         with `inverse`
    ```

    `p` holds every number from 0 to C-1 once; if it does not, the elements of the result are
    unspecified, but no memory outside of x is read.

    Constraints:
    - QL-TRANSFORM-C1, as for `scale_channels`.
    - QL-PERMUTE-CHANNELS-C1: `dims` has one entry, and `p` the size of that dimension.
    - QL-PERMUTE-CHANNELS-C2: a constant `p` holds every number from 0 to C-1 once.
    - QL-PERMUTE-CHANNELS-C3: the elements of `p` can hold C-1.

    Example:
    ```mlir
    %y = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x576xf32>, tensor<576xi32>
    ```
  }];
  let arguments = (ins
    QuantLLM_TransformInput:$input,
    QuantLLM_TransformIndices:$permutation,
    DenseI64ArrayAttr:$dims,
    UnitAttr:$inverse
  );
  let assemblyFormat = [{
    (`inverse` $inverse^)? $input `by` $permutation `dims` `=` $dims attr-dict
    `:` qualified(type($input)) `,` qualified(type($permutation))
  }];
}

def QuantLLM_RotateOp : QuantLLM_TransformOp<"rotate"> {
  let summary = "Multiplies blocks of channels by an orthogonal matrix";
  let description = [{
    The dimension in `dims` is a sequence of blocks of b channels, each a row vector
    x that is multiplied by an orthogonal matrix R of order b:

    ```
    y = x R
    y = x R^T                        with `inverse`
    ```

    R is one of
    - `hadamard b`: `R[i, j] = t[i] H[i, j] / sqrt(b)` with the Hadamard matrix H of order b
      and the signs t of the `seed`, all 1 without one (`docs/Spec.md`, section 4.1);
    - `by %r`: that matrix;
    - `by %a, %b`: their Kronecker product, `R[i n + j, k n + l] = A[i, k] B[j, l]` with n the order of B.

    Products and sums are in f32, or in f64 if an operand is of f64, in any order, and rounded
    at the end to the type of x. Hadamard matrices are multiplied factor by factor, in
    b (m + log2(b/m)) steps for a base of order m.

    Constraints:
    - QL-TRANSFORM-C1, as for `scale_channels`.
    - QL-ROTATE-C1: `dims` has one entry.
    - QL-ROTATE-C2: there is either the order of a Hadamard matrix, or one or two matrices.
    - QL-ROTATE-C3: there is a Hadamard matrix of that order among those of section 4.1.
    - QL-ROTATE-C4: `seed` stands with `hadamard`.
    - QL-ROTATE-C5: the matrices are square.
    - QL-ROTATE-C6: b divides the size of the dimension.
    - QL-ROTATE-C7: a matrix that is a constant is orthogonal, as far as its type can tell.

    Example:
    ```mlir
    %y = quant_llm.rotate %x hadamard 64 seed 7 dims = [1] : tensor<?x576xf32>
    %z = quant_llm.rotate inverse %x by %r dims = [1] : tensor<?x576xf32>, tensor<576x576xf64>
    %u = quant_llm.rotate %x by %a, %b dims = [1] : tensor<?x576xf32>, tensor<24x24xf64>, tensor<24x24xf64>
    ```
  }];
  let arguments = (ins
    QuantLLM_TransformInput:$input,
    Variadic<QuantLLM_TransformMatrix>:$matrices,
    DenseI64ArrayAttr:$dims,
    OptionalAttr<I64Attr>:$hadamard,
    OptionalAttr<I64Attr>:$seed,
    UnitAttr:$inverse
  );
  let assemblyFormat = [{
    (`inverse` $inverse^)? $input (`hadamard` $hadamard^)? (`seed` $seed^)? (`by` $matrices^)?
    `dims` `=` $dims attr-dict `:` qualified(type($input)) (`,` qualified(type($matrices))^)?
  }];
  let extraClassDeclaration = [{
    /// Channels of a block.
    int64_t getBlock();
  }];
}

def QuantLLM_AffineOp : QuantLLM_TransformOp<"affine"> {
  let summary = "Multiplies blocks of channels by an invertible matrix and adds an offset";
  let description = [{
    The dimension in `dims` is a sequence of blocks of b channels, each a row vector x:

    ```
    y = x A + t
    y = (x - t) A^-1                 with `inverse`
    ```

    The inverse matrix is an operand, so that nothing is inverted when a program runs; t is 0
    without an offset. Products and sums are in f32, or in f64 if an operand is of f64, in any
    order, and rounded at the end to the type of x.

    Constraints:
    - QL-TRANSFORM-C1, as for `scale_channels`.
    - QL-AFFINE-C1: `dims` has one entry.
    - QL-AFFINE-C2: the matrices are square and of one type.
    - QL-AFFINE-C3: b divides the size of the dimension.
    - QL-AFFINE-C4: the offset has b elements.
    - QL-AFFINE-C5: matrices that are both constant are inverses of each other, as far as
      their type can tell.
    - QL-AFFINE-C6: an offset that is a constant is finite.

    Example:
    ```mlir
    %y = quant_llm.affine %x by %a, %a_inverse plus %t dims = [1]
      : tensor<?x576xf32>, tensor<64x64xf64>, tensor<64x64xf64>, tensor<64xf64>
    ```
  }];
  let arguments = (ins
    QuantLLM_TransformInput:$input,
    QuantLLM_TransformMatrix:$matrix,
    QuantLLM_TransformMatrix:$inverse_matrix,
    Optional<QuantLLM_TransformData>:$offset,
    DenseI64ArrayAttr:$dims,
    UnitAttr:$inverse
  );
  let assemblyFormat = [{
    (`inverse` $inverse^)? $input `by` $matrix `,` $inverse_matrix (`plus` $offset^)?
    `dims` `=` $dims attr-dict `:` qualified(type($input)) `,` qualified(type($matrix))
    `,` qualified(type($inverse_matrix)) (`,` qualified(type($offset))^)?
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMOPS_TD
