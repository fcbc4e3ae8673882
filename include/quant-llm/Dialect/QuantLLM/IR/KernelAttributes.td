//===- KernelAttributes.td - Configurations of kernels -----*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_KERNELATTRIBUTES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_KERNELATTRIBUTES_TD

include "mlir/IR/CommonAttrConstraints.td"
include "quant-llm/Dialect/QuantLLM/IR/Attributes.td"

def QuantLLM_KernelConfigAttr : QuantLLM_Attr<"KernelConfig", "kernel_config"> {
  let summary = "how a GPU kernel of a linear is built";
  let description = [{
    A kernel family with its sizes, for a range of token counts (`docs/KernelConfig.md`):

    | field | meaning |
    | --- | --- |
    | the family | `few_tokens`, `multistage` or `wgmma` |
    | `tokens = [min, max]` | the token counts it is meant for; `*` for no upper end |
    | `row_tile`, `token_tile` | rows of the weight and tokens of a tile |
    | `stage_k`, `stages` | columns of a stage, and stages of the ring in shared memory |
    | `warps_rows`, `warps_k` | warps along the rows and along k (`wgmma`: warpgroups) |
    | `split` | CTAs of a cluster that share the columns of a tile, or `stream_k`; 1 by default |
    | `ctas_per_sm` | CTAs that must fit on a multiprocessor, and of `few_tokens` and `wgmma` the most that may; 1 by default |
    | `copy` | how activations are copied: `tensor`, `async16` or `element` |

    The order of the fields is free on input. What a configuration asks of problem and chip is
    verified where both are known (`quant-llm-select-kernels`).

    Constraints:
    - QL-KERNEL-CONFIG-C1: sizes are 1 to 65536; `split` may be `stream_k` instead.
    - QL-KERNEL-CONFIG-C2: `tokens` is a range from 1 on.
    - QL-KERNEL-CONFIG-C3: `row_tile` is a multiple of 16, `token_tile` of 8, `stage_k` of 64.
    - QL-KERNEL-CONFIG-C4: a CTA has at most 1024 threads.

    Example:
    ```mlir
    #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 1024, stages = 4, warps_rows = 1, warps_k = 8, split = 1, ctas_per_sm = 2, copy = tensor>
    ```
  }];
  let parameters = (ins "::quant_llm::KernelConfig":$config);
}

def QuantLLM_KernelConfigArrayAttr
    : TypedArrayAttrBase<QuantLLM_KernelConfigAttr,
                         "array of kernel configurations">;

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_KERNELATTRIBUTES_TD
