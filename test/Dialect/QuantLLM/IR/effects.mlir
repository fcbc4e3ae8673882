// RUN: quant-opt %s --loop-invariant-code-motion | FileCheck %s --check-prefix=LICM
// RUN: quant-opt %s --cse | FileCheck %s --check-prefix=CSE

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
!int4 = !quant_llm.weight<8x64xf16, #int4>

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @w from @file : tensor<8x64xf16>

// A linear may move out of a loop that is perhaps never entered; a quantization of a
// matrix with a NaN is undefined, so it may not.
// LICM-LABEL: func.func @speculation
// LICM:         quant_llm.get_parameter
// LICM:         quant_llm.linear
// LICM:         scf.for
// LICM-NOT:       quant_llm.linear
// LICM:           quant_llm.quantize
func.func @speculation(%x: tensor<2x64xf32>, %n: index, %s: index, %init: !int4) -> (tensor<2x8xf32>, !int4) {
  %zero = arith.constant dense<0.0> : tensor<2x8xf32>
  %0:2 = scf.for %i = %n to %s step %s iter_args(%a = %zero, %b = %init) -> (tensor<2x8xf32>, !int4) {
    %w = quant_llm.get_parameter @w : tensor<8x64xf16>
    %1 = quant_llm.linear %x, %w : (tensor<2x64xf32>, tensor<8x64xf16>) -> tensor<2x8xf32>
    %q = quant_llm.quantize %w : tensor<8x64xf16> -> !int4
    scf.yield %1, %q : tensor<2x8xf32>, !int4
  }
  return %0#0, %0#1 : tensor<2x8xf32>, !int4
}

// CSE-LABEL: func.func @common
// CSE-COUNT-1: quant_llm.get_parameter
// CSE-COUNT-1: quant_llm.quantize
// CSE-COUNT-1: quant_llm.linear
// CSE-NOT:     quant_llm.linear
// CSE:         return
func.func @common(%x: tensor<2x64xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %w = quant_llm.get_parameter @w : tensor<8x64xf16>
  %q = quant_llm.quantize %w : tensor<8x64xf16> -> !int4
  %y = quant_llm.linear %x, %q : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  %v = quant_llm.get_parameter @w : tensor<8x64xf16>
  %p = quant_llm.quantize %v : tensor<8x64xf16> -> !int4
  %z = quant_llm.linear %x, %p : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  return %y, %z : tensor<2x8xf32>, tensor<2x8xf32>
}
