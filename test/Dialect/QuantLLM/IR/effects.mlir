// RUN: quant-opt %s --loop-invariant-code-motion | FileCheck %s --check-prefix=LICM
// RUN: quant-opt %s --cse | FileCheck %s --check-prefix=CSE

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#token = #quant_llm.scheme<int8, block = [1, -1], scale = f32>
#tensor = #quant_llm.scheme<int8, block = [-1, -1], scale = f32>
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

// Where extents can disagree at run time, which is undefined, an op stays behind the
// branches that it is in: components of an activation, and operands of the result's shape.
// LICM-LABEL: func.func @extents
// LICM:         quant_llm.quantize_activation {{.*}} static({{.*}} : tensor<f32>)
// LICM-NEXT:    quant_llm.assemble {{.*}} : (tensor<?x64xi8>, tensor<f32>)
// LICM-NEXT:    quant_llm.quantize_activation %{{[a-z0-9]+}} : tensor<?x64xf32>
// LICM-NEXT:    quant_llm.linear {{.*}} epilogue(%{{[a-z0-9]+}} : tensor<8xf32>)
// LICM:         quant_llm.yield
// LICM:         scf.for
// LICM-NEXT:      quant_llm.quantize_activation {{.*}} static({{.*}} : tensor<?xf32>)
// LICM-NEXT:      quant_llm.assemble {{.*}} : (tensor<?x64xi8>, tensor<?xf32>)
// LICM-NEXT:      quant_llm.linear {{.*}} epilogue(%{{[a-z0-9]+}} : tensor<?x8xf32>)
// LICM:           quant_llm.grouped_linear {{.*}} epilogue(%{{[a-z0-9]+}} : tensor<?x8xf32>)
func.func @extents(%x: tensor<?x64xf32>, %s: tensor<?xf32>, %t: tensor<f32>, %codes: tensor<?x64xi8>, %w: tensor<8x64xf16>,
                   %b: tensor<8xf32>, %e: tensor<?x8xf32>, %o: tensor<2xi32>, %n: index, %m: index) {
  scf.for %i = %n to %m step %n {
    %0 = quant_llm.quantize_activation %x static(%t : tensor<f32>) : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #tensor>
    %1 = quant_llm.assemble %codes, %t : (tensor<?x64xi8>, tensor<f32>) -> !quant_llm.activation<?x64xf32, #tensor>
    %2 = quant_llm.quantize_activation %x : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
    %3 = quant_llm.linear %x, %w epilogue(%b : tensor<8xf32>) {
    ^bb0(%acc: f32, %bias: f32):
      %sum = arith.addf %acc, %bias : f32
      quant_llm.yield %sum : f32
    } : (tensor<?x64xf32>, tensor<8x64xf16>) -> tensor<?x8xf32>
    %4 = quant_llm.quantize_activation %x static(%s : tensor<?xf32>) : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
    %5 = quant_llm.assemble %codes, %s : (tensor<?x64xi8>, tensor<?xf32>) -> !quant_llm.activation<?x64xf32, #token>
    %6 = quant_llm.linear %x, %w epilogue(%e : tensor<?x8xf32>) {
    ^bb0(%acc: f32, %other: f32):
      %sum = arith.addf %acc, %other : f32
      quant_llm.yield %sum : f32
    } : (tensor<?x64xf32>, tensor<8x64xf16>) -> tensor<?x8xf32>
    %7 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<2xi32>) epilogue(%e : tensor<?x8xf32>) {
    ^bb0(%acc: f32, %other: f32):
      %sum = arith.addf %acc, %other : f32
      quant_llm.yield %sum : f32
    } : (tensor<?x64xf32>, tensor<8x64xf16>) -> tensor<?x8xf32>
  }
  return
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
