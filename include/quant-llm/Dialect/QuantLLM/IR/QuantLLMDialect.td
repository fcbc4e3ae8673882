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

    The CPU lowering marks functions and modules with attributes. They have one form,
    whoever writes them:

    - QL-ATTR-C1: `quant_llm.kernel`, `quant_llm.parallel_if` and `quant_llm.result_aliases`
      are attributes of functions; `quant_llm.checks`, `quant_llm.parameters` and
      `quant_llm.profiled_kernels` of modules.
    - QL-ATTR-C2: `quant_llm.kernel` is a unit, and no argument of the function is a tensor.
    - QL-ATTR-C3: `quant_llm.parallel_if` is an array of i64 that are not negative: the
      least work, a factor, and pairs of the number of an argument and a dimension.
      `quant_llm.result_aliases` is an array of i64, numbers of arguments or -1.
    - QL-ATTR-C4: `quant_llm.checks` and `quant_llm.profiled_kernels` are arrays of strings,
      `quant_llm.parameters` is one of dictionaries with the strings symbol, archive
      and key and the type of a static memref.
  }];

  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
  let hasOperationAttrVerify = 1;
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_QUANTLLMDIALECT_TD
