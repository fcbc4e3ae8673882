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

def FormBlocks : InterfacePass<"quant-llm-form-blocks", "::mlir::FunctionOpInterface"> {
  let summary = "Wraps the layers of a model into block and cross_block regions";
  let description = [{
    The names of parameters say which layer of the model an operation belongs to: with
    the pattern `model.layers.{}.` the parameter `model.layers.3.mlp.up_proj.weight`
    is of layer 3. An operation that uses a parameter of a layer is of this layer; what lies between
    two layers is divided where the fewest values cross the boundary, which is
    behind the hidden state. What no layer needs and no layer is needed
    for (embedding, tables of positions) stays in front of the blocks; the final norm
    and the head, which use parameters of no layer, stay behind them.

    The blocks are put into one `quant_llm.cross_block` with the given window and overlap, unless the window
    is 0. A function without parameters of layers is left as it is; one with
    effects on memory, with missing layers, or whose layers use parameters of other
    layers is an error.

    ```mlir
    %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
    %h1 = arith.mulf %h0, %w0 : tensor<4xf32>
    return %h1 : tensor<4xf32>
    // becomes
    %0 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<4xf32>) {
      %1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
        %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
        %h1 = arith.mulf %h0, %w0 : tensor<4xf32>
        quant_llm.yield %h1 : tensor<4xf32>
      }
      quant_llm.yield %1 : tensor<4xf32>
    }
    return %0 : tensor<4xf32>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    Option<"layerPattern", "layer-pattern", "std::string", "\"model.layers.{}.\"",
           "Start of the names of a layer's parameters, {} in the place of its number">,
    Option<"window", "window", "int64_t", "2",
           "Blocks that are optimized together; 0 forms blocks only">,
    Option<"overlap", "overlap", "int64_t", "1",
           "Blocks that neighbouring windows share">
  ];
}

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
