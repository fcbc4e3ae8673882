// RUN: quant-opt %s --verify-roundtrip | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s
// RUN: quant-opt %s --canonicalize | FileCheck %s --check-prefix=CANON

// CHECK-DAG: #[[TOKEN:.*]] = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[GROUP:.*]] = #quant_llm.scheme<int4, block = [1, 48], scale = f16, rule = absmax_full, rounding = half_even>
// CHECK-DAG: #[[TENSOR:.*]] = #quant_llm.scheme<uint8, block = [-1, -1], scale = f32, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[CHANNELS:.*]] = #quant_llm.scheme<f8E4M3FN, block = [-1, 64], scale = bf16, rule = absmax, rounding = half_even>
#token = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
#group = #quant_llm.scheme<int4, block = [1, 48], scale = f16, rule = absmax_full, rounding = half_even>
#tensor = #quant_llm.scheme<uint8, block = [-1, -1], scale = f32, zero = int, rule = minmax, rounding = half_even>
#channels = #quant_llm.scheme<f8E4M3FN, block = [-1, 64], scale = bf16, rule = absmax, rounding = half_even>

// CHECK-LABEL: @token
func.func @token(%x: tensor<?x64xf32>, %w: tensor<8x64xf16>) -> tensor<?x8xf32> {
  // CHECK: %[[Q:.*]] = quant_llm.quantize_activation %{{.*}} : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #[[TOKEN]]>
  %q = quant_llm.quantize_activation %x : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
  // CHECK: quant_llm.linear %[[Q]], %{{.*}} : (!quant_llm.activation<?x64xf32, #[[TOKEN]]>, tensor<8x64xf16>) -> tensor<?x8xf32>
  %y = quant_llm.linear %q, %w : (!quant_llm.activation<?x64xf32, #token>, tensor<8x64xf16>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// The last group of 100 channels has 4 of them.
// CHECK-LABEL: @group
func.func @group(%x: tensor<2x?x100xf16>) -> (tensor<2x?x100xi8>, tensor<2x?x3xf16>) {
  // CHECK: quant_llm.quantize_activation %{{.*}} clip 7.500000e-01 : tensor<2x?x100xf16> -> !quant_llm.activation<2x?x100xf16, #[[GROUP]]>
  %q = quant_llm.quantize_activation %x clip 0.75 : tensor<2x?x100xf16> -> !quant_llm.activation<2x?x100xf16, #group>
  // CHECK: %codes, %scales = quant_llm.components
  %codes, %scales = quant_llm.components %q : (!quant_llm.activation<2x?x100xf16, #group>) -> (tensor<2x?x100xi8>, tensor<2x?x3xf16>)
  return %codes, %scales : tensor<2x?x100xi8>, tensor<2x?x3xf16>
}

// CHECK-LABEL: @static
func.func @static(%x: tensor<?x64xf32>, %s: tensor<f32>, %z: tensor<i8>) -> tensor<?x64xf32> {
  // CHECK: quant_llm.quantize_activation %{{.*}} static(%{{.*}}, %{{.*}} : tensor<f32>, tensor<i8>) : tensor<?x64xf32>
  %q = quant_llm.quantize_activation %x static(%s, %z : tensor<f32>, tensor<i8>) : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #tensor>
  // CHECK: quant_llm.dequantize %{{.*}} : !quant_llm.activation<?x64xf32, #[[TENSOR]]> -> tensor<?x64xf32>
  %y = quant_llm.dequantize %q : !quant_llm.activation<?x64xf32, #tensor> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: @assembled
func.func @assembled(%codes: tensor<4x128xi8>, %scales: tensor<2xbf16>) -> tensor<4x128xbf16> {
  // CHECK: quant_llm.assemble %{{.*}}, %{{.*}} : (tensor<4x128xi8>, tensor<2xbf16>) -> !quant_llm.activation<4x128xbf16, #[[CHANNELS]]>
  %q = quant_llm.assemble %codes, %scales : (tensor<4x128xi8>, tensor<2xbf16>) -> !quant_llm.activation<4x128xbf16, #channels>
  %y = quant_llm.dequantize %q : !quant_llm.activation<4x128xbf16, #channels> -> tensor<4x128xbf16>
  return %y : tensor<4x128xbf16>
}

// CHECK-LABEL: @experts
func.func @experts(%x: tensor<?x64xf32>, %w: tensor<16x64xf16>, %o: tensor<3xi32>) -> tensor<?x8xf32> {
  %q = quant_llm.quantize_activation %x : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
  // CHECK: quant_llm.grouped_linear %{{.*}} : (!quant_llm.activation<?x64xf32, #[[TOKEN]]>, tensor<16x64xf16>) -> tensor<?x8xf32>
  %y = quant_llm.grouped_linear %q, %w offsets(%o : tensor<3xi32>) : (!quant_llm.activation<?x64xf32, #token>, tensor<16x64xf16>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// CANON-LABEL: @whole_clip
func.func @whole_clip(%x: tensor<64xf32>) -> tensor<64xf32> {
  // CANON: quant_llm.quantize_activation %{{.*}} : tensor<64xf32>
  // CANON-NOT: clip
  %q = quant_llm.quantize_activation %x clip 1.0 : tensor<64xf32> -> !quant_llm.activation<64xf32, #token>
  %y = quant_llm.dequantize %q : !quant_llm.activation<64xf32, #token> -> tensor<64xf32>
  return %y : tensor<64xf32>
}

// CANON-LABEL: @unused
func.func @unused(%x: tensor<64xf32>) {
  // CANON-NOT: quantize_activation
  %q = quant_llm.quantize_activation %x : tensor<64xf32> -> !quant_llm.activation<64xf32, #token>
  return
}

// CANON-LABEL: @apart_and_together
func.func @apart_and_together(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // CANON: %[[Q:.*]] = quant_llm.quantize_activation
  // CANON-NEXT: quant_llm.dequantize %[[Q]]
  %q = quant_llm.quantize_activation %x : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
  %codes, %scales = quant_llm.components %q : (!quant_llm.activation<?x64xf32, #token>) -> (tensor<?x64xi8>, tensor<?xf32>)
  %r = quant_llm.assemble %codes, %scales : (tensor<?x64xi8>, tensor<?xf32>) -> !quant_llm.activation<?x64xf32, #token>
  %y = quant_llm.dequantize %r : !quant_llm.activation<?x64xf32, #token> -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CANON-LABEL: @together_and_apart
func.func @together_and_apart(%codes: tensor<?x64xi8>, %scales: tensor<?xf32>) -> tensor<?xf32> {
  // CANON-NEXT: return %{{.*}} : tensor<?xf32>
  %q = quant_llm.assemble %codes, %scales : (tensor<?x64xi8>, tensor<?xf32>) -> !quant_llm.activation<?x64xf32, #token>
  %c, %s = quant_llm.components %q : (!quant_llm.activation<?x64xf32, #token>) -> (tensor<?x64xi8>, tensor<?xf32>)
  return %s : tensor<?xf32>
}
