// RUN: quant-opt %s --canonicalize | FileCheck %s

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#int8 = #quant_llm.scheme<int8, block = [1, 64], scale = f16>
!int4 = !quant_llm.weight<8x64xf16, #int4>
!int8 = !quant_llm.weight<8x64xf16, #int8>

// CHECK-LABEL: func.func @assemble_of_components
// CHECK-SAME:    (%[[W:.*]]: !quant_llm.weight
// CHECK-NEXT:    return %[[W]]
func.func @assemble_of_components(%w: !int4) -> !int4 {
  %c, %s = quant_llm.components %w : (!int4) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  %0 = quant_llm.assemble %c, %s : (tensor<8x32xi8>, tensor<8x1xf16>) -> !int4
  return %0 : !int4
}

// The bits would mean something else.
// CHECK-LABEL: func.func @assemble_under_another_scheme
// CHECK:         quant_llm.components
// CHECK:         quant_llm.assemble
!away = !quant_llm.weight<8x64xf16, #quant_llm.scheme<int4, block = [1, 64], scale = f16, rounding = half_away>>
func.func @assemble_under_another_scheme(%w: !int4) -> !away {
  %c, %s = quant_llm.components %w : (!int4) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  %0 = quant_llm.assemble %c, %s : (tensor<8x32xi8>, tensor<8x1xf16>) -> !away
  return %0 : !away
}

// CHECK-LABEL: func.func @assemble_of_mixed_components
// CHECK:         quant_llm.assemble
func.func @assemble_of_mixed_components(%w: !int4, %v: !int4) -> !int4 {
  %c, %s = quant_llm.components %w : (!int4) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  %d, %t = quant_llm.components %v : (!int4) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  %0 = quant_llm.assemble %c, %t : (tensor<8x32xi8>, tensor<8x1xf16>) -> !int4
  return %0 : !int4
}

// CHECK-LABEL: func.func @components_of_assemble
// CHECK-SAME:    (%[[C:.*]]: tensor<8x32xi8>, %[[S:.*]]: tensor<8x1xf16>)
// CHECK-NEXT:    return %[[C]], %[[S]]
func.func @components_of_assemble(%c: tensor<8x32xi8>, %s: tensor<8x1xf16>) -> (tensor<8x32xi8>, tensor<8x1xf16>) {
  %0 = quant_llm.assemble %c, %s : (tensor<8x32xi8>, tensor<8x1xf16>) -> !int4
  %d, %t = quant_llm.components %0 : (!int4) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  return %d, %t : tensor<8x32xi8>, tensor<8x1xf16>
}

// Quantization loses information.
// CHECK-LABEL: func.func @dequantize_of_quantize
// CHECK-NEXT:    quant_llm.quantize
// CHECK-NEXT:    quant_llm.dequantize
// CHECK-NEXT:    return
func.func @dequantize_of_quantize(%w: tensor<8x64xf16>) -> tensor<8x64xf16> {
  %0 = quant_llm.quantize %w : tensor<8x64xf16> -> !int4
  %1 = quant_llm.dequantize %0 : !int4 -> tensor<8x64xf16>
  return %1 : tensor<8x64xf16>
}

// CHECK-LABEL: func.func @unused
// CHECK-NEXT:    return
func.func @unused(%w: tensor<8x64xf16>, %x: tensor<2x64xf32>) {
  %0 = quant_llm.quantize %w : tensor<8x64xf16> -> !int4
  %1 = quant_llm.linear %x, %0 : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  return
}

// CHECK-LABEL: func.func @identity_epilogue
// CHECK-NEXT:    %[[Y:.*]] = quant_llm.linear %{{.*}}, %{{.*}} {reason = "kept"} : (tensor<2x64xf32>, !quant_llm.weight<8x64xf16, #{{.*}}>) -> tensor<2x8xf32>
// CHECK-NEXT:    return %[[Y]]
func.func @identity_epilogue(%w: !int4, %x: tensor<2x64xf32>) -> tensor<2x8xf32> {
  %1 = quant_llm.linear %x, %w {reason = "kept"} epilogue {
  ^bb0(%acc: f32):
    quant_llm.yield %acc : f32
  } : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  return %1 : tensor<2x8xf32>
}

// CHECK-LABEL: func.func @rounding_epilogue
// CHECK-NEXT:    quant_llm.linear %{{.*}}, %{{.*}} : (tensor<2x64xf32>, !quant_llm.weight<8x64xf16, #{{.*}}>) -> tensor<2x8xbf16>
func.func @rounding_epilogue(%w: !int4, %x: tensor<2x64xf32>) -> tensor<2x8xbf16> {
  %1 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %2 = arith.truncf %acc : f32 to bf16
    quant_llm.yield %2 : bf16
  } : (tensor<2x64xf32>, !int4) -> tensor<2x8xbf16>
  return %1 : tensor<2x8xbf16>
}

// Only half to even is what a linear without epilogue does.
// CHECK-LABEL: func.func @other_rounding_epilogue
// CHECK:         epilogue
func.func @other_rounding_epilogue(%w: !int4, %x: tensor<2x64xf32>) -> tensor<2x8xbf16> {
  %1 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %2 = arith.truncf %acc toward_zero : f32 to bf16
    quant_llm.yield %2 : bf16
  } : (tensor<2x64xf32>, !int4) -> tensor<2x8xbf16>
  return %1 : tensor<2x8xbf16>
}

// CHECK-LABEL: func.func @unused_operand
// CHECK-SAME:    %[[B:.*]]: tensor<8xf32>, %[[R:.*]]: tensor<2x8xf32>
// CHECK-NEXT:    quant_llm.linear %{{.*}}, %{{.*}} epilogue(%[[R]] : tensor<2x8xf32>) {
// CHECK-NEXT:    ^bb0(%[[ACC:.*]]: f32, %[[RES:.*]]: f32):
// CHECK-NEXT:      arith.addf %[[ACC]], %[[RES]]
func.func @unused_operand(%w: !int4, %x: tensor<2x64xf32>, %b: tensor<8xf32>, %r: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %1 = quant_llm.linear %x, %w epilogue(%b, %r : tensor<8xf32>, tensor<2x8xf32>) {
  ^bb0(%acc: f32, %bias: f32, %res: f32):
    %2 = arith.addf %acc, %res : f32
    quant_llm.yield %2 : f32
  } : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  return %1 : tensor<2x8xf32>
}

// Constants stay in the epilogue, which is isolated.
// CHECK-LABEL: func.func @constant
// CHECK-NEXT:    quant_llm.linear
// CHECK-NEXT:    ^bb0(%[[ACC:.*]]: f32):
// CHECK-NEXT:      %[[C:.*]] = arith.constant 3.000000e+00 : f32
// CHECK-NEXT:      arith.addf %[[ACC]], %[[C]]
func.func @constant(%w: !int4, %x: tensor<2x64xf32>) -> tensor<2x8xf32> {
  %1 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %c1 = arith.constant 1.0 : f32
    %c2 = arith.constant 2.0 : f32
    %c3 = arith.addf %c1, %c2 : f32
    %2 = arith.addf %acc, %c3 : f32
    quant_llm.yield %2 : f32
  } : (tensor<2x64xf32>, !int4) -> tensor<2x8xf32>
  return %1 : tensor<2x8xf32>
}
