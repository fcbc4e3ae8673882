// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t && cp %S/Inputs/model.mlir %t && mkdir %t/out
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='block=1,64' -quant-llm-quantize='output=%t/q.safetensors' -o %t/q.mlir
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/out/p.safetensors' -quant-llm-verify-stage='stage=quantized check-archives' -o %t/out/p.mlir
// RUN: FileCheck %s < %t/out/p.mlir
// The archives are found beside the module, by a second process as well.
// RUN: quant-opt %t/out/p.mlir -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null

// The dense parameters stay where they are.
// CHECK:     quant_llm.archive @quantized "../q.safetensors"
// CHECK:     quant_llm.archive @packed "p.safetensors"
// CHECK:     quant_llm.parameter @layers.0.q_proj.weight from @packed : !quant_llm.weight<32x512xf16, #[[S:.*]], #quant_llm.fragment_layout>
// CHECK:     quant_llm.parameter @k from @packed key "layers.0.k_proj.weight" : !quant_llm.weight<32x512xf16, #[[S]], #quant_llm.fragment_layout>
// CHECK:     quant_llm.parameter @embed_tokens.weight from @quantized : tensor<8x512xf16>
// CHECK:     %[[Q:.*]] = quant_llm.get_parameter @layers.0.q_proj.weight : !quant_llm.weight<32x512xf16, #[[S]], #quant_llm.fragment_layout>
// CHECK-NOT: quant_llm.get_parameter @k : !quant_llm.weight<32x512xf16, #[[S]]>
// CHECK:     quant_llm.linear %{{.*}}, %[[Q]] {{.*}} : (tensor<?x512xf32>, !quant_llm.weight<32x512xf16, #[[S]], #quant_llm.fragment_layout>)
// Both weights of a gated pair.
// CHECK:     quant_llm.linear %{{.*}}, %{{.*}}, %{{.*}} epilogue
// CHECK:     (tensor<?x512xf32>, !quant_llm.weight<16x512xf16, #[[S]], #quant_llm.fragment_layout>, !quant_llm.weight<16x512xf16, #[[S]], #quant_llm.fragment_layout>)

// The same bytes for any number of threads, checked or not.
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/p1.safetensors threads=1' -o /dev/null
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/p7.safetensors threads=7 verify=false' -o /dev/null
// RUN: cmp %t/p1.safetensors %t/p7.safetensors
// RUN: cmp %t/p1.safetensors %t/out/p.safetensors

// Names and places of the caller's choice; a second pass finds nothing to do.
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/out/x.safetensors module-dir=%t archive-name=fragments' -o %t/x.mlir
// RUN: FileCheck %s --check-prefix=DIR < %t/x.mlir
// DIR: quant_llm.archive @quantized "q.safetensors"
// DIR: quant_llm.archive @fragments "out/x.safetensors"
// RUN: not quant-opt %t/x.mlir -quant-llm-prepack='output=%t/y.safetensors' 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: error: quant-llm-prepack: no linear has a weight left to pack; leave the pass out

// Choices are remarks.
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/r.safetensors' --remarks-filter='quant-llm-prepack' -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// REMARK: remark: [Passed] packed | Category:quant-llm-prepack
// REMARK-SAME: parameter=layers.0.q_proj.weight

// A weight that something else uses as well is stored both ways. Weights that are no
// parameters, and dense ones, stay as they are.
// RUN: %python %S/Inputs/make_quantized.py %t
// RUN: quant-opt %s -quant-llm-prepack='base-dir=%t output=%t/b.safetensors' -quant-llm-verify-stage=check-archives | FileCheck %s --check-prefix=BOTH
// BOTH:      quant_llm.archive @good "good.safetensors"
// BOTH:      quant_llm.archive @packed "b.safetensors"
// BOTH:      quant_llm.parameter @w from @good : !quant_llm.weight<8x64xf16, #[[S:.*]]>
// BOTH-NEXT: quant_llm.parameter @w.packed from @packed key "w" : !quant_llm.weight<8x64xf16, #[[S]], #quant_llm.fragment_layout>
// BOTH:      quant_llm.parameter @z from @packed : !quant_llm.weight<8x64xf16, #[[Z:.*]], #quant_llm.fragment_layout>
// BOTH:      %[[P:.*]] = quant_llm.get_parameter @w.packed
// BOTH:      %[[W:.*]] = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #[[S]]>
// BOTH:      quant_llm.linear %{{.*}}, %[[P]]
// BOTH:      quant_llm.dequantize %[[W]]
// BOTH:      quant_llm.linear %{{.*}}, %arg1 : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #[[S]]>)
// A gated pair is packed whole or not at all.
// BOTH:      quant_llm.linear %{{.*}}, %[[W]], %arg1 epilogue
// BOTH:      (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #[[S]]>, !quant_llm.weight<8x64xf16, #[[S]]>)
#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#zero = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, rule = minmax>
quant_llm.archive @good "good.safetensors"
quant_llm.parameter @w from @good : !quant_llm.weight<8x64xf16, #int4>
quant_llm.parameter @z from @good : !quant_llm.weight<8x64xf16, #zero>
func.func @f(%x: tensor<?x64xf32>, %other: !quant_llm.weight<8x64xf16, #int4>) -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<8x64xf16>, tensor<?x8xf32>, tensor<?x8xf32>) {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4>
  %z = quant_llm.get_parameter @z : !quant_llm.weight<8x64xf16, #zero>
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %z : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #zero>) -> tensor<?x8xf32>
  %2 = quant_llm.dequantize %w : !quant_llm.weight<8x64xf16, #int4> -> tensor<8x64xf16>
  %3 = quant_llm.linear %x, %other : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf32>
  %4 = quant_llm.linear %x, %w, %other epilogue {
  ^bb0(%a: f32, %b: f32):
    %p = arith.mulf %a, %b : f32
    quant_llm.yield %p : f32
  } : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf32>
  return %0, %1, %2, %3, %4 : tensor<?x8xf32>, tensor<?x8xf32>, tensor<8x64xf16>, tensor<?x8xf32>, tensor<?x8xf32>
}
