// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --mlir-print-op-generic | quant-opt | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
#int4_zero = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, rule = minmax>
#double = #quant_llm.scheme<nf4, block = [1, 64], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32>>

// CHECK-DAG: #[[INT4:.*]] = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[ZERO:.*]] = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[SCALES:.*]] = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[DOUBLE:.*]] = #quant_llm.scheme<nf4, block = [1, 64], scale = #[[SCALES]], rule = absmax, rounding = half_even>

// CHECK: quant_llm.archive @model "model.safetensors"
quant_llm.archive @model "model.safetensors"

// CHECK: quant_llm.parameter @model.layers.0.mlp.up_proj.weight from @model : tensor<1536x576xf16>
quant_llm.parameter @"model.layers.0.mlp.up_proj.weight" from @model : tensor<1536x576xf16>
// CHECK: quant_llm.parameter @renamed from @model key "model.norm.weight" : tensor<576xbf16>
quant_llm.parameter @renamed from @model key "model.norm.weight" : tensor<576xbf16>
// CHECK: quant_llm.parameter @quantized from @model {note = 1 : i32} : !quant_llm.weight<8x64xf16, #[[INT4]]>
quant_llm.parameter @quantized from @model {note = 1 : i32} : !quant_llm.weight<8x64xf16, #int4>

// CHECK-LABEL: func.func @parameters
func.func @parameters() -> (tensor<1536x576xf16>, !quant_llm.weight<8x64xf16, #int4>) {
  // CHECK: %model.layers.0.mlp.up_proj.weight = quant_llm.get_parameter @model.layers.0.mlp.up_proj.weight : tensor<1536x576xf16>
  %0 = quant_llm.get_parameter @"model.layers.0.mlp.up_proj.weight" : tensor<1536x576xf16>
  // CHECK: quant_llm.get_parameter @quantized : !quant_llm.weight<8x64xf16, #[[INT4]]>
  %1 = quant_llm.get_parameter @quantized : !quant_llm.weight<8x64xf16, #int4>
  return %0, %1 : tensor<1536x576xf16>, !quant_llm.weight<8x64xf16, #int4>
}

// CHECK-LABEL: func.func @weights
func.func @weights(%w: tensor<8x64xf16>, %codes: tensor<8x32xi8>, %scales: tensor<8x1xf16>) -> tensor<8x64xf16> {
  // CHECK: quant_llm.quantize %{{.*}} : tensor<8x64xf16> -> !quant_llm.weight<8x64xf16, #[[INT4]]>
  %0 = quant_llm.quantize %w : tensor<8x64xf16> -> !quant_llm.weight<8x64xf16, #int4>
  // CHECK: %codes, %scales = quant_llm.components %{{.*}} : (!quant_llm.weight<8x64xf16, #[[INT4]]>) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  %c, %s = quant_llm.components %0 : (!quant_llm.weight<8x64xf16, #int4>) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  // CHECK: quant_llm.assemble %codes, %scales : (tensor<8x32xi8>, tensor<8x1xf16>) -> !quant_llm.weight<8x64xf16, #[[INT4]]>
  %1 = quant_llm.assemble %c, %s : (tensor<8x32xi8>, tensor<8x1xf16>) -> !quant_llm.weight<8x64xf16, #int4>
  // CHECK: quant_llm.dequantize %{{.*}} : !quant_llm.weight<8x64xf16, #[[INT4]]> -> tensor<8x64xf16>
  %2 = quant_llm.dequantize %1 : !quant_llm.weight<8x64xf16, #int4> -> tensor<8x64xf16>
  return %2 : tensor<8x64xf16>
}

// CHECK-LABEL: func.func @zeros
func.func @zeros(%w: !quant_llm.weight<8x65xf32, #int4_zero>) {
  // Ragged: three blocks of 32, and 33 bytes for 65 codes.
  // CHECK: quant_llm.components %{{.*}} : (!quant_llm.weight<8x65xf32, #[[ZERO]]>) -> (tensor<8x33xi8>, tensor<8x3xf16>, tensor<8x3xi8>)
  %c:3 = quant_llm.components %w : (!quant_llm.weight<8x65xf32, #int4_zero>) -> (tensor<8x33xi8>, tensor<8x3xf16>, tensor<8x3xi8>)
  return
}

// CHECK-LABEL: func.func @double_quantized
func.func @double_quantized(%w: !quant_llm.weight<8x128xf32, #double>) {
  // CHECK: %codes, %scales.codes, %scales.scales = quant_llm.components %{{.*}} : (!quant_llm.weight<8x128xf32, #[[DOUBLE]]>) -> (tensor<8x64xi8>, tensor<8x2xi8>, tensor<1x1xf32>)
  %c:3 = quant_llm.components %w : (!quant_llm.weight<8x128xf32, #double>) -> (tensor<8x64xi8>, tensor<8x2xi8>, tensor<1x1xf32>)
  return
}

// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<?x64xf32>, %d: tensor<8x64xbf16>, %q: !quant_llm.weight<8x64xf16, #int4>, %b: tensor<8xf16>, %r: tensor<?x8xf32>) {
  // CHECK: quant_llm.linear %{{.*}}, %{{.*}} : (tensor<?x64xf32>, tensor<8x64xbf16>) -> tensor<?x8xf32>
  %0 = quant_llm.linear %x, %d : (tensor<?x64xf32>, tensor<8x64xbf16>) -> tensor<?x8xf32>
  // CHECK: quant_llm.linear %{{.*}}, %{{.*}} {reason = "error grows", scheme = #[[INT4]]} : (tensor<?x64xf32>, tensor<8x64xbf16>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %d {reason = "error grows", scheme = #int4} : (tensor<?x64xf32>, tensor<8x64xbf16>) -> tensor<?x8xf32>
  // CHECK: quant_llm.linear %{{.*}}, %{{.*}} epilogue(%{{.*}}, %{{.*}} : tensor<8xf16>, tensor<?x8xf32>) {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %{{.*}}: f16, %{{.*}}: f32):
  // CHECK-NEXT:   arith.extf
  // CHECK:        quant_llm.yield %{{.*}} : f32
  // CHECK-NEXT: } : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #[[INT4]]>) -> tensor<?x8xf32>
  %2 = quant_llm.linear %x, %q epilogue(%b, %r : tensor<8xf16>, tensor<?x8xf32>) {
  ^bb0(%acc: f32, %bias: f16, %res: f32):
    %3 = arith.extf %bias : f16 to f32
    %4 = arith.addf %acc, %3 : f32
    %5 = arith.addf %4, %res : f32
    quant_llm.yield %5 : f32
  } : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf32>
  // CHECK: quant_llm.linear %{{.*}}, %{{.*}}, %{{.*}} epilogue {
  // CHECK: } : (tensor<?x64xf32>, tensor<8x64xbf16>, !quant_llm.weight<8x64xf16, #[[INT4]]>) -> tensor<?x8xf16>
  %6 = quant_llm.linear %x, %d, %q epilogue {
  ^bb0(%gate: f32, %up: f32):
    %7 = math.tanh %gate : f32
    %8 = arith.mulf %7, %up : f32
    %9 = arith.truncf %8 : f32 to f16
    quant_llm.yield %9 : f16
  } : (tensor<?x64xf32>, tensor<8x64xbf16>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf16>
  return
}

// CHECK-LABEL: func.func @leading_dimensions
func.func @leading_dimensions(%v: tensor<64xf32>, %b: tensor<2x?x64xf16>, %d: tensor<8x64xf32>) {
  // CHECK: (tensor<64xf32>, tensor<8x64xf32>) -> tensor<8xf32>
  %0 = quant_llm.linear %v, %d : (tensor<64xf32>, tensor<8x64xf32>) -> tensor<8xf32>
  // CHECK: (tensor<2x?x64xf16>, tensor<8x64xf32>) -> tensor<2x?x8xbf16>
  %1 = quant_llm.linear %b, %d : (tensor<2x?x64xf16>, tensor<8x64xf32>) -> tensor<2x?x8xbf16>
  return
}

// CHECK-LABEL: func.func @blocks
func.func @blocks(%h: tensor<4xf32>) -> tensor<4xf32> {
  // CHECK: quant_llm.cross_block window = 2, overlap = 1 -> (tensor<4xf32>) {
  %0 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<4xf32>) {
    // CHECK: quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
    %1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
      %2 = math.tanh %h : tensor<4xf32>
      // CHECK: quant_llm.yield %{{.*}} : tensor<4xf32>
      quant_llm.yield %2 : tensor<4xf32>
    }
    // CHECK: quant_llm.block 1 "model.layers.1" -> (tensor<4xf32>) attributes {note} {
    %3 = quant_llm.block 1 "model.layers.1" -> (tensor<4xf32>) attributes {note} {
      %2 = math.tanh %1 : tensor<4xf32>
      quant_llm.yield %2 : tensor<4xf32>
    }
    quant_llm.yield %3 : tensor<4xf32>
  }
  // CHECK: quant_llm.block 7 "empty" {
  quant_llm.block 7 "empty" {
    // CHECK: quant_llm.yield
    quant_llm.yield
  }
  return %0 : tensor<4xf32>
}
