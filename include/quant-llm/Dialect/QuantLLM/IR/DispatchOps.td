//===- DispatchOps.td - Calls of generated kernels ---------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_DISPATCHOPS_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_DISPATCHOPS_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/DestinationStyleOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "quant-llm/Dialect/QuantLLM/IR/QuantLLMDialect.td"

def QuantLLM_DispatchOp : Op<QuantLLM_Dialect, "dispatch", [
    AttrSizedOperandSegments,
    DestinationStyleOpInterface,
    DeclareOpInterfaceMethods<MemoryEffectsOpInterface>,
    DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "A call of a kernel in destination style";
  let description = [{
    Calls a function whose arguments are memrefs and scalars and that returns
    nothing: the inputs, then the outputs. The op itself is in destination style, on
    tensors before bufferization and on memrefs after it; the kernel reads the
    inputs and may read and must write the outputs, and nothing else.
    The lowering to the CPU makes these ops; one kernel serves every op that needs
    the same code.

    A memref whose layout is not that of the argument is cast if the layouts
    are compatible and copied if not, when the op is lowered to a call.

    Constraints:
    - QL-DISPATCH-C1: the kernel is a `func.func` without results.
    - QL-DISPATCH-C2: it has one argument for each input and output.
    - QL-DISPATCH-C3: a tensor or memref has rank, element type and compatible
      extents of its argument, which is a memref; a scalar has the argument's type.
    - QL-DISPATCH-C4: on tensors there is one result of the same type for each
      output; on memrefs there are none.

    Example:
    ```mlir
    %1 = quant_llm.dispatch @kernel ins(%x, %codes, %scales : tensor<?x64xf32>, tensor<8x32xi8>, tensor<8x1xf16>)
      outs(%0 : tensor<?x8xf32>) -> tensor<?x8xf32>
    ```
  }];
  let arguments = (ins
    FlatSymbolRefAttr:$kernel,
    Variadic<AnyType>:$inputs,
    Variadic<AnyTypeOf<[AnyRankedTensor, AnyStridedMemRef]>>:$outputs
  );
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let assemblyFormat = [{
    $kernel (`ins` `(` $inputs^ `:` type($inputs) `)`)?
    (`outs` `(` $outputs^ `:` type($outputs) `)`)? attr-dict
    (`->` type($results)^)?
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::MutableOperandRange getDpsInitsMutable() { return getOutputsMutable(); }
  }];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_DISPATCHOPS_TD
