// RUN: quant-opt %s --quant-llm-insert-checks --canonicalize --cse | FileCheck %s

#id = affine_map<(d0, d1) -> (d0, d1)>

// CHECK: quant_llm.checks = ["{{.*}}shapes do not fit together{{.*}}", "{{.*}}

// CHECK-LABEL: func.func @add
// CHECK-DAG: %[[N:.*]] = tensor.dim %arg0
// CHECK-DAG: %[[M:.*]] = tensor.dim %arg1
// CHECK: %[[WRONG:.*]] = arith.cmpi ne, %[[N]], %[[M]]
// CHECK: scf.if %[[WRONG]] {
// CHECK-NEXT: func.call @__quant_llm_fail_check
// CHECK-NOT: scf.if
// CHECK: return
func.func @add(%a: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %a, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %0 = linalg.add ins(%a, %b : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
  %1 = linalg.mul ins(%0, %b : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @slice
// CHECK: arith.cmpi slt, %{{.*}}, %{{.*}} : index
// CHECK: arith.subi
func.func @slice(%a: tensor<?x4xf32>, %p: index, %n: index) -> tensor<?x4xf32> {
  %0 = tensor.extract_slice %a[%p, 0] [%n, 4] [1, 1] : tensor<?x4xf32> to tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @static
// CHECK-NOT: scf.if
// CHECK: return
func.func @static(%a: tensor<8x4xf32>) -> tensor<2x4xf32> {
  %0 = tensor.extract_slice %a[1, 0] [2, 4] [1, 1] : tensor<8x4xf32> to tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// An extent of a new tensor is compared once, as an unsigned number.
// CHECK-LABEL: func.func @empty
// CHECK: %[[BAD:.*]] = arith.cmpi ugt, %arg0
// CHECK-NEXT: scf.if %[[BAD]]
// CHECK-NOT: scf.if
// CHECK: return
func.func @empty(%n: index) -> (tensor<?xf32>, tensor<?xf32>, tensor<?x0xf32>) {
  %c3 = arith.constant 3 : index
  %0 = tensor.empty(%n) : tensor<?xf32>
  %1 = tensor.empty(%n) : tensor<?xf32>
  %2 = tensor.empty(%c3) : tensor<?x0xf32>
  return %0, %1, %2 : tensor<?xf32>, tensor<?xf32>, tensor<?x0xf32>
}

// CHECK-LABEL: func.func @assert
// CHECK-NOT: cf.assert
// CHECK: scf.if
// CHECK-NEXT: func.call @__quant_llm_fail_check
// CHECK: linalg.generic
// CHECK: %[[CHECK:.*]] = arith.select
// CHECK: func.call @__quant_llm_require(%[[CHECK]], %{{.*}}, %{{.*}})
func.func @assert(%x: tensor<4xf32>, %ok: i1) -> tensor<4xf32> {
  cf.assert %ok, "not good"
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4xf32>
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
      ins(%x : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %positive = arith.cmpf oge, %a, %zero : f32
    cf.assert %positive, "negative"
    linalg.yield %a : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// A comparison of integers is told with its numbers.
// CHECK-LABEL: func.func @comparison
// CHECK: %[[GOT:.*]] = arith.extui %arg0 : i8 to i64
// CHECK: scf.if
// CHECK-NEXT: func.call @__quant_llm_fail_check(%{{.*}}, %[[GOT]], %{{.*}})
func.func @comparison(%x: i8) {
  %c9 = arith.constant 9 : i8
  %ok = arith.cmpi ule, %x, %c9 : i8
  cf.assert %ok, "large"
  return
}

// CHECK-LABEL: func.func @divide
// CHECK: %[[ZERO:.*]] = arith.cmpi eq, %arg1
// CHECK: arith.ori %[[ZERO]]
// CHECK: scf.if
// CHECK: arith.divsi %arg0, %arg1
// CHECK-NOT: scf.if
// CHECK: return
func.func @divide(%x: i32, %y: i32) -> (i32, i32, i32) {
  %c3 = arith.constant 3 : i32
  %0 = arith.divsi %x, %y : i32
  %1 = arith.divsi %x, %c3 : i32
  %2 = arith.remui %x, %c3 : i32
  return %0, %1, %2 : i32, i32, i32
}

// Elementwise ops on tensors are compared like linalg ops, and pass extents on.
// CHECK-LABEL: func.func @elementwise
// CHECK-DAG: %[[N:.*]] = tensor.dim %arg0
// CHECK-DAG: %[[M:.*]] = tensor.dim %arg1
// CHECK: %[[WRONG:.*]] = arith.cmpi ne, %[[N]], %[[M]]
// CHECK: scf.if %[[WRONG]] {
// CHECK-NOT: scf.if
// CHECK: return
func.func @elementwise(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = arith.addf %a, %b : tensor<?xf32>
  %1 = math.exp %0 : tensor<?xf32>
  %2 = arith.mulf %1, %b : tensor<?xf32>
  return %2 : tensor<?xf32>
}

// Rows from i + 2 j: both counters at their last value must be inside.
// CHECK-LABEL: func.func @window
// CHECK-DAG: %[[E:.*]] = tensor.dim %arg0
// CHECK: %[[TWICE:.*]] = arith.muli %{{.*}}, %c2
// CHECK: %[[LAST:.*]] = arith.addi %{{.*}}, %[[TWICE]] : index
// CHECK: %[[OUTSIDE:.*]] = arith.cmpi sge, %[[LAST]], %[[E]]
// CHECK: %[[WRONG:.*]] = arith.andi %{{.*}}, %[[OUTSIDE]]
// CHECK: scf.if %[[WRONG]]
func.func @window(%a: tensor<?xf32>, %d: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %0 = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i + 2 * j)>, #id], iterator_types = ["parallel", "parallel"]}
      ins(%a : tensor<?xf32>) outs(%d : tensor<?x?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}

// CHECK-LABEL: func.func @flags
// CHECK-NOT: overflow
// CHECK: return
func.func @flags(%a: index, %b: i32) -> (index, i32) {
  %0 = arith.addi %a, %a overflow<nsw> : index
  %1 = arith.shli %b, %b overflow<nuw> : i32
  return %0, %1 : index, i32
}
