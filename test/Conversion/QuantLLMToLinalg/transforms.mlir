// RUN: quant-opt %s --convert-quant-llm-to-linalg | FileCheck %s

// CHECK-LABEL: func.func @scale
// CHECK-SAME:    (%[[X:.*]]: tensor<4x?x6xf16>, %[[S:.*]]: tensor<4x6xf32>)
// CHECK:         linalg.generic {{.*}} ins(%[[X]], %[[S]] : tensor<4x?x6xf16>, tensor<4x6xf32>)
// CHECK-NEXT:    ^bb0(%[[A:.*]]: f16, %[[B:.*]]: f32, %{{.*}}: f16):
// CHECK-NEXT:      %[[W:.*]] = arith.extf %[[A]] : f16 to f32
// CHECK-NEXT:      %[[Q:.*]] = arith.divf %[[W]], %[[B]] : f32
// CHECK-NEXT:      %[[T:.*]] = arith.truncf %[[Q]] : f32 to f16
// CHECK-NEXT:      linalg.yield %[[T]] : f16
func.func @scale(%x: tensor<4x?x6xf16>, %s: tensor<4x6xf32>) -> tensor<4x?x6xf16> {
  %0 = quant_llm.scale_channels inverse %x by %s dims = [0, 2] : tensor<4x?x6xf16>, tensor<4x6xf32>
  return %0 : tensor<4x?x6xf16>
}

// With data of f64 everything is in f64.
// CHECK-LABEL: func.func @wide
// CHECK:         arith.addf %{{.*}}, %{{.*}} : f64
func.func @wide(%x: tensor<?x6xf32>, %d: tensor<6xf64>) -> tensor<?x6xf32> {
  %0 = quant_llm.shift_channels %x by %d dims = [1] : tensor<?x6xf32>, tensor<6xf64>
  return %0 : tensor<?x6xf32>
}

// CHECK-LABEL: func.func @permute_constant
// CHECK: %[[Q:.+]] = arith.constant dense<[2, 0, 3, 1]> : tensor<4xi32>
// CHECK-NOT: reduction
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel"]{{.*}} ins(%[[Q]] : tensor<4xi32>)
func.func @permute_constant(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %p = arith.constant dense<[1, 3, 0, 2]> : tensor<4xi32>
  %0 = quant_llm.permute_channels inverse %x by %p dims = [1] : tensor<?x4xf32>, tensor<4xi32>
  return %0 : tensor<?x4xf32>
}

// What only the folding of this pass makes a constant was verified by nobody:
// numbers out of range are nobody's place.
// CHECK-LABEL: func.func @permute_folded
// CHECK: arith.constant dense<[0, 1, 3, 0]> : tensor<4xi32>
func.func @permute_folded(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  cf.br ^bb2
^bb1:
  %0 = quant_llm.permute_channels inverse %x by %p dims = [1] : tensor<?x4xf32>, tensor<4xi32>
  return %0 : tensor<?x4xf32>
^bb2:
  %c = arith.constant dense<[1, 1, 7, 2]> : tensor<4xi32>
  %d = arith.constant dense<[-1, 0, 100000000, 0]> : tensor<4xi32>
  %p = arith.addi %c, %d : tensor<4xi32>
  cf.br ^bb1
}

// Indices are forced into the range.
// CHECK-LABEL: func.func @permute(
// CHECK:         arith.maxsi
// CHECK:         arith.minsi
// CHECK:         tensor.extract
func.func @permute(%x: tensor<?x6xf32>, %p: tensor<6xi32>) -> (tensor<?x6xf32>, tensor<?x6xf32>) {
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x6xf32>, tensor<6xi32>
  %1 = quant_llm.permute_channels inverse %x by %p dims = [1] : tensor<?x6xf32>, tensor<6xi32>
  return %0, %1 : tensor<?x6xf32>, tensor<?x6xf32>
}

// 1536 = 12 * 16 * 8: three small contractions.
// CHECK-LABEL: func.func @hadamard
// CHECK-DAG:     arith.constant {{.*}} : tensor<12x12xf32>
// CHECK-DAG:     arith.constant {{.*}} : tensor<16x16xf32>
// CHECK-DAG:     arith.constant {{.*}} : tensor<8x8xf32>
// CHECK:         tensor.expand_shape {{.*}} : tensor<?x1536xf32> into tensor<?x1x12x16x8xf32>
// CHECK-COUNT-3: iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel", "reduction"]
// CHECK:         tensor.collapse_shape {{.*}} : tensor<?x1x12x16x8xf32> into tensor<?x1536xf32>
func.func @hadamard(%x: tensor<?x1536xf32>) -> tensor<?x1536xf32> {
  %0 = quant_llm.rotate %x hadamard 1536 seed 5 dims = [1] : tensor<?x1536xf32>
  return %0 : tensor<?x1536xf32>
}

// CHECK-LABEL: func.func @kronecker
// CHECK:         tensor.expand_shape {{.*}} : tensor<2x24x3xf32> into tensor<2x2x4x3x3xf32>
func.func @kronecker(%x: tensor<2x24x3xf32>, %a: tensor<4x4xf32>, %b: tensor<3x3xf32>) -> tensor<2x24x3xf32> {
  %0 = quant_llm.rotate inverse %x by %a, %b dims = [1] : tensor<2x24x3xf32>, tensor<4x4xf32>, tensor<3x3xf32>
  return %0 : tensor<2x24x3xf32>
}

// CHECK-LABEL: func.func @affine
// CHECK:         arith.subf
// CHECK:         arith.mulf
func.func @affine(%x: tensor<?x6xf32>, %a: tensor<3x3xf32>, %b: tensor<3x3xf32>, %t: tensor<3xf32>) -> tensor<?x6xf32> {
  %0 = quant_llm.affine inverse %x by %a, %b plus %t dims = [1] : tensor<?x6xf32>, tensor<3x3xf32>, tensor<3x3xf32>, tensor<3xf32>
  return %0 : tensor<?x6xf32>
}
