//===- QuantLLMDialect.td - The quant_llm dialect ----------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLMDIALECT_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLMDIALECT_TD

include "mlir/IR/DialectBase.td"

def QuantLLM_Dialect : Dialect {
  let name = "quant_llm";
  let cppNamespace = "::quant_llm";
  let summary = "Quantized weights of large language models";
  let description = [{
    What quantization needs beside the upstream dialects: a *scheme* that gives
    every stored bit a value, a *weight* type that is a matrix stored under a
    scheme, named parameters that stay in their file, and the linear layer over
    any of them. The model around it stays in `func`, `linalg`, `tensor`,
    `arith` and `math`.

    Rules are numbered (`QL-LINEAR-C1`); each has a test in
    `test/Dialect/QuantLLM/IR/invalid.mlir`. `RationaleQuantLLM.md` has the design
    reasons and the non-goals.
  }];

  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLMDIALECT_TD
