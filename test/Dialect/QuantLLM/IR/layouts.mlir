// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --mlir-print-op-generic | quant-opt | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s

#int4 = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
#zero = #quant_llm.scheme<uint5, block = [1, 32], scale = bf16, zero = int, rule = minmax>
#float_zero = #quant_llm.scheme<uint3, block = [2, 64], scale = f32, zero = f8E4M3FN, rule = minmax>
#columns = #quant_llm.scheme<int8, block = [-1, 1], scale = f32>
#nvfp4 = #quant_llm.scheme<f4E2M1FN, block = [1, 16], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32>>
#double = #quant_llm.scheme<nf4, block = [1, 64], scale = #quant_llm.scheme<int8, block = [1, -1], scale = f16>>

// CHECK: quant_llm.archive @model
quant_llm.archive @model "model.safetensors"
// CHECK: quant_llm.parameter @w from @model : !quant_llm.weight<100x172xf16, #[[INT4:.*]], #quant_llm.fragment_layout>
quant_llm.parameter @w from @model : !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>

// The components of every kind of scheme: 100 rows are 8 strips, 172 columns 2 units.
// CHECK-LABEL: func.func @components
func.func @components(
    %int4: !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>,
    %zero: !quant_llm.weight<100x172xf16, #zero, #quant_llm.fragment_layout>,
    %float_zero: !quant_llm.weight<100x172xbf16, #float_zero, #quant_llm.fragment_layout>,
    %columns: !quant_llm.weight<100x172xf16, #columns, #quant_llm.fragment_layout>,
    %nvfp4: !quant_llm.weight<100x172xf16, #nvfp4, #quant_llm.fragment_layout>,
    %double: !quant_llm.weight<100x172xf16, #double, #quant_llm.fragment_layout>) {
  // CHECK: %packed, %packed_scales, %output_scale = quant_llm.components %{{.*}} : (!quant_llm.weight<100x172xf16, #[[INT4]], #quant_llm.fragment_layout>) -> (tensor<8x2x1024xi8>, tensor<8x2x16xf16>, tensor<f32>)
  %0:3 = quant_llm.components %int4 : (!quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>) -> (tensor<8x2x1024xi8>, tensor<8x2x16xf16>, tensor<f32>)
  // CHECK: %packed_0, %packed_scales_1, %packed_zeros, %output_scale_2 = quant_llm.components %{{.*}} -> (tensor<8x2x1280xi8>, tensor<8x6x16xbf16>, tensor<8x6x16xi8>, tensor<f32>)
  %1:4 = quant_llm.components %zero : (!quant_llm.weight<100x172xf16, #zero, #quant_llm.fragment_layout>) -> (tensor<8x2x1280xi8>, tensor<8x6x16xbf16>, tensor<8x6x16xi8>, tensor<f32>)
  // CHECK: quant_llm.components %{{.*}} -> (tensor<8x2x768xi8>, tensor<8x3x16xf32>, tensor<8x3x16xf16>, tensor<f32>)
  %2:4 = quant_llm.components %float_zero : (!quant_llm.weight<100x172xbf16, #float_zero, #quant_llm.fragment_layout>) -> (tensor<8x2x768xi8>, tensor<8x3x16xf32>, tensor<8x3x16xf16>, tensor<f32>)
  // CHECK: quant_llm.components %{{.*}} -> (tensor<8x2x2048xi8>, tensor<256xf32>, tensor<f32>)
  %3:3 = quant_llm.components %columns : (!quant_llm.weight<100x172xf16, #columns, #quant_llm.fragment_layout>) -> (tensor<8x2x2048xi8>, tensor<256xf32>, tensor<f32>)
  // CHECK: quant_llm.components %{{.*}} -> (tensor<8x2x1024xi8>, tensor<8x11x16xf8E4M3FN>, tensor<f32>)
  %4:3 = quant_llm.components %nvfp4 : (!quant_llm.weight<100x172xf16, #nvfp4, #quant_llm.fragment_layout>) -> (tensor<8x2x1024xi8>, tensor<8x11x16xf8E4M3FN>, tensor<f32>)
  // CHECK: quant_llm.components %{{.*}} -> (tensor<8x2x1024xi8>, tensor<8x3x16xf32>, tensor<f32>)
  %5:3 = quant_llm.components %double : (!quant_llm.weight<100x172xf16, #double, #quant_llm.fragment_layout>) -> (tensor<8x2x1024xi8>, tensor<8x3x16xf32>, tensor<f32>)
  return
}

// CHECK-LABEL: func.func @uses
func.func @uses(%x: tensor<?x172xf16>, %packed: tensor<8x2x1024xi8>, %scales: tensor<8x2x16xf16>, %output_scale: tensor<f32>) -> (tensor<?x100xf16>, tensor<100x172xf16>) {
  // CHECK: %[[W:.*]] = quant_llm.get_parameter @w : !quant_llm.weight<100x172xf16, #[[INT4]], #quant_llm.fragment_layout>
  %w = quant_llm.get_parameter @w : !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>
  // CHECK: quant_llm.linear %{{.*}}, %[[W]] : (tensor<?x172xf16>, !quant_llm.weight<100x172xf16, #[[INT4]], #quant_llm.fragment_layout>) -> tensor<?x100xf16>
  %0 = quant_llm.linear %x, %w : (tensor<?x172xf16>, !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>) -> tensor<?x100xf16>
  // CHECK: %[[A:.*]] = quant_llm.assemble %{{.*}} : (tensor<8x2x1024xi8>, tensor<8x2x16xf16>, tensor<f32>) -> !quant_llm.weight<100x172xf16, #[[INT4]], #quant_llm.fragment_layout>
  %1 = quant_llm.assemble %packed, %scales, %output_scale : (tensor<8x2x1024xi8>, tensor<8x2x16xf16>, tensor<f32>) -> !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout>
  // CHECK: quant_llm.dequantize %[[A]] : !quant_llm.weight<100x172xf16, #[[INT4]], #quant_llm.fragment_layout> -> tensor<100x172xf16>
  %2 = quant_llm.dequantize %1 : !quant_llm.weight<100x172xf16, #int4, #quant_llm.fragment_layout> -> tensor<100x172xf16>
  return %0, %2 : tensor<?x100xf16>, tensor<100x172xf16>
}
