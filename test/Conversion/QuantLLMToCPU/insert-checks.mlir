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
