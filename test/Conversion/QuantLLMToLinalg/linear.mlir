// RUN: quant-opt %s --convert-quant-llm-to-linalg | FileCheck %s

#int3 = #quant_llm.scheme<int3, block = [1, 4], scale = f16, rule = absmax, rounding = half_even>
#e8m0 = #quant_llm.scheme<uint4, block = [1, 8], scale = f8E8M0FNU, zero = int, rule = minmax, rounding = half_even>

// CHECK-LABEL: func.func @dense
// CHECK-SAME: %[[X:.*]]: tensor<?x8xf32>, %[[W:.*]]: tensor<4x8xf16>
// CHECK: %[[INIT:.*]] = linalg.fill
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]
// CHECK-SAME: ins(%[[X]], %[[W]]
// CHECK: %[[WIDE:.*]] = arith.extf
// CHECK: %[[P:.*]] = arith.mulf %{{.*}}, %[[WIDE]]
// CHECK: arith.addf %{{.*}}, %[[P]]
// CHECK-NOT: quant_llm
func.func @dense(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>) -> tensor<?x4xf32> {
  %0 = quant_llm.linear %x, %w : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// A code of three bits may lie in two bytes.
// CHECK-LABEL: func.func @dequantize
// CHECK-SAME: %[[CODES:.*]]: tensor<4x3xi8>, %[[SCALES:.*]]: tensor<4x2xf16>
// CHECK-DAG: arith.constant dense<[0.000000e+00, 1.000000e+00, 2.000000e+00, 3.000000e+00, -4.000000e+00, -3.000000e+00, -2.000000e+00, -1.000000e+00]>
// CHECK: tensor.extract %[[CODES]]
// CHECK: tensor.extract %[[CODES]]
// CHECK: arith.ori
// CHECK: %[[S:.*]] = tensor.extract %[[SCALES]]
// CHECK: %[[SF:.*]] = arith.extf %[[S]]
// CHECK: arith.mulf %[[SF]]
// CHECK: arith.truncf
func.func @dequantize(%codes: tensor<4x3xi8>, %scales: tensor<4x2xf16>) -> tensor<4x8xf16> {
  %w = quant_llm.assemble %codes, %scales : (tensor<4x3xi8>, tensor<4x2xf16>) -> !quant_llm.weight<4x8xf16, #int3>
  %0 = quant_llm.dequantize %w : !quant_llm.weight<4x8xf16, #int3> -> tensor<4x8xf16>
  return %0 : tensor<4x8xf16>
}

// CHECK-LABEL: func.func @epilogue
// CHECK: arith.bitcast %{{.*}} : f8E8M0FNU to i8
// CHECK: %[[Z:.*]] = arith.uitofp
// CHECK: arith.subf %{{.*}}, %[[Z]]
// CHECK: iterator_types = ["parallel", "parallel", "parallel", "reduction"]
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "parallel"]
// CHECK: math.tanh
func.func @epilogue(%x: tensor<2x?x8xf32>, %codes: tensor<4x4xi8>, %scales: tensor<4x1xf8E8M0FNU>, %zeros: tensor<4x1xi8>, %bias: tensor<4xf32>) -> tensor<2x?x4xf16> {
  %w = quant_llm.assemble %codes, %scales, %zeros : (tensor<4x4xi8>, tensor<4x1xf8E8M0FNU>, tensor<4x1xi8>) -> !quant_llm.weight<4x8xf16, #e8m0>
  %0 = quant_llm.linear %x, %w epilogue(%bias : tensor<4xf32>) {
  ^bb0(%acc: f32, %b: f32):
    %1 = arith.addf %acc, %b : f32
    %2 = math.tanh %1 : f32
    %3 = arith.truncf %2 : f32 to f16
    quant_llm.yield %3 : f16
  } : (tensor<2x?x8xf32>, !quant_llm.weight<4x8xf16, #e8m0>) -> tensor<2x?x4xf16>
  return %0 : tensor<2x?x4xf16>
}
