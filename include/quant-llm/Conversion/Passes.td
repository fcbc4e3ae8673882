//===- Passes.td - Conversions to and from quant_llm -------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_PASSES_TD
#define QUANT_LLM_CONVERSION_PASSES_TD

include "mlir/Pass/PassBase.td"

// In alphabetical order of the argument.

def ConvertLinalgToQuantLLM : Pass<"convert-linalg-to-quant-llm"> {
  let summary = "Raise linalg contractions with a parameter to quant_llm.linear";
  let description = [{
    Turns every linalg op that computes `y[..., n] = init + sum_k x[..., k] * W[n, k]`, with
    `W` a parameter, into a `quant_llm.linear`, whatever its form: `linalg.matmul`
    with any indexing maps, `batch_matmul`, `vecmat`, `matvec`, `linalg.generic`. The
    parameter may pass through transposes, broadcasts, unit dimensions and widening casts
    on its way. An activation or a result in another order of dimensions is
    transposed. An `init` that is not filled with zeros becomes an operand of the
    epilogue, one value per output if it repeats a vector. Reshapes of leading
    dimensions around a linear are removed where the result undoes them.

    The sum is then in f32, whatever the type of the accumulator was. A parameter that is
    stored as `[K, N]` is not raised: a linear reads `[N, K]`, and this pass does not
    copy parameters. Remarks (category `convert-linalg-to-quant-llm`) say what was
    raised, and which contractions with a parameter were not and why.

    Example (`test/Conversion/LinalgToQuantLLM/raise.mlir`):
    ```mlir
    %w = quant_llm.get_parameter @w : tensor<64x256xf16>
    %0 = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x64xf32>) -> tensor<?x64xf32>
    %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
      ins(%x, %w : tensor<?x256xf32>, tensor<64x256xf16>)
      outs(%0 : tensor<?x64xf32>) -> tensor<?x64xf32>
    // becomes
    %1 = quant_llm.linear %x, %w : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect", "::quant_llm::QuantLLMDialect",
  ];
  let options = [
    Option<"allValues", "all-values", "bool", "false",
           "Also take arguments of functions and constants that are matrices for "
           "weights">,
  ];
  let statistics = [
    Statistic<"numLinears", "linears", "Number of linears after the pass">,
    Statistic<"numNotRaised", "not-raised",
              "Number of contractions with a parameter that are no linears">,
  ];
}

#endif // QUANT_LLM_CONVERSION_PASSES_TD
