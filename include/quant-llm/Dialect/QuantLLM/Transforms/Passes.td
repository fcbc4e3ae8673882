//===- Passes.td - Passes on quant_llm ---------------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

// In alphabetical order of the argument.

def InlineBlocks : Pass<"quant-llm-inline-blocks"> {
  let summary = "Replaces block and cross_block regions by their operations";
  let description = [{
    The regions only mark which operations belong together, so this changes
    nothing about the execution.

    ```mlir
    %h1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
      %0 = math.tanh %h0 : tensor<4xf32>
      quant_llm.yield %0 : tensor<4xf32>
    }
    // becomes
    %0 = math.tanh %h0 : tensor<4xf32>
    ```
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD
