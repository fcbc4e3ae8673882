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

// A power has no effect, so that it may be moved in front of the check: it never divides by zero.
// CHECK-LABEL: func.func @power
// CHECK: %[[ZERO:.*]] = arith.cmpi eq, %arg0
// CHECK: %[[NEGATIVE:.*]] = arith.cmpi slt, %arg1
// CHECK: %[[WRONG:.*]] = arith.andi %[[ZERO]], %[[NEGATIVE]]
// CHECK: scf.if %[[WRONG]]
// CHECK: %[[EXPONENT:.*]] = arith.select %[[WRONG]], %{{.*}}, %arg1
// CHECK: math.ipowi %arg0, %[[EXPONENT]]
// CHECK-NOT: scf.if
// CHECK: return
func.func @power(%x: i32, %y: i32) -> (i32, i32, i32) {
  %c2 = arith.constant 2 : i32
  %0 = math.ipowi %x, %y : i32
  %1 = math.ipowi %c2, %y : i32
  %2 = math.ipowi %x, %c2 : i32
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

// A conversion to an integer gives the nearest that there is, 0 of a NaN.
// CHECK-LABEL: func.func @integer
// CHECK-SAME: (%[[X:.*]]: f32)
// CHECK-DAG: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
// CHECK-DAG: %[[BOUND:.*]] = arith.constant 2.14748365E+9 : f32
// CHECK-DAG: %[[LOWER:.*]] = arith.constant -2.14748365E+9 : f32
// CHECK-DAG: %[[MOST:.*]] = arith.constant 2147483647 : i32
// CHECK-DAG: %[[LEAST:.*]] = arith.constant -2147483648 : i32
// CHECK: %[[HIGH:.*]] = arith.cmpf oge, %[[X]], %[[BOUND]]
// CHECK: %[[LOW:.*]] = arith.cmpf ole, %[[X]], %[[LOWER]]
// CHECK: %[[NAN:.*]] = arith.cmpf uno, %[[X]], %[[X]]
// CHECK: arith.ori %[[HIGH]], %[[LOW]]
// CHECK: %[[OUT:.*]] = arith.ori %{{.*}}, %[[NAN]]
// CHECK: %[[SAFE:.*]] = arith.select %[[OUT]], %[[ZERO]], %[[X]]
// CHECK: %[[I:.*]] = arith.fptosi %[[SAFE]]
// CHECK: %[[J:.*]] = arith.select %[[LOW]], %[[LEAST]], %[[I]]
// CHECK: %[[K:.*]] = arith.select %[[HIGH]], %[[MOST]], %[[J]]
// CHECK: return %[[K]]
func.func @integer(%x: f32) -> i32 {
  %0 = arith.fptosi %x : f32 to i32
  return %0 : i32
}

// Vectors too; in an epilogue; in a linalg op for tensors, and where a named op has it.
// CHECK-LABEL: func.func @vector
// CHECK: arith.cmpf oge, %{{.*}}, %{{.*}} : vector<4xf64>
// CHECK: arith.fptoui
// CHECK-LABEL: func.func @epilogue
// CHECK: quant_llm.linear
// CHECK: arith.select
// CHECK: arith.fptosi
// CHECK-LABEL: func.func @tensor
// CHECK: linalg.generic
// CHECK: arith.select
// CHECK: arith.fptosi
// CHECK-LABEL: func.func @named
// CHECK: linalg.generic
// CHECK-COUNT-2: arith.fptosi
// CHECK-NOT: linalg.matmul
func.func @vector(%x: vector<4xf64>) -> vector<4xi8> {
  %0 = arith.fptoui %x : vector<4xf64> to vector<4xi8>
  return %0 : vector<4xi8>
}
func.func @epilogue(%x: tensor<?x4xf32>, %w: tensor<4x4xf32>) -> tensor<?x4xf32> {
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %i = arith.fptosi %acc : f32 to i8
    %f = arith.sitofp %i : i8 to f32
    quant_llm.yield %f : f32
  } : (tensor<?x4xf32>, tensor<4x4xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}
func.func @tensor(%x: tensor<?xf16>) -> tensor<?xi32> {
  %0 = arith.fptosi %x : tensor<?xf16> to tensor<?xi32>
  return %0 : tensor<?xi32>
}
func.func @named(%x: tensor<2x3xf32>, %y: tensor<3x4xf32>, %z: tensor<2x4xi32>) -> tensor<2x4xi32> {
  %0 = linalg.matmul ins(%x, %y : tensor<2x3xf32>, tensor<3x4xf32>) outs(%z : tensor<2x4xi32>) -> tensor<2x4xi32>
  return %0 : tensor<2x4xi32>
}

// Promises about numbers are dropped.
// CHECK-LABEL: func.func @promises
// CHECK: arith.addf %{{[a-z0-9]+}}, %{{[a-z0-9]+}} fastmath<reassoc,nsz> : f32
// CHECK: math.exp %{{[a-z0-9]+}} : f32
// CHECK: arith.addi %{{[a-z0-9]+}}, %{{[a-z0-9]+}} : i32
func.func @promises(%x: f32, %i: i32) -> (f32, i32) {
  %0 = arith.addf %x, %x fastmath<reassoc,nnan,ninf,nsz> : f32
  %1 = math.exp %0 fastmath<nnan> : f32
  %2 = arith.addi %i, %i overflow<nsw> : i32
  return %1, %2 : f32, i32
}
