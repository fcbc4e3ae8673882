// Matrices that are arguments or constants, on request.
// RUN: quant-opt %s -convert-linalg-to-quant-llm=all-values | FileCheck %s
// RUN: quant-opt %s -convert-linalg-to-quant-llm | FileCheck %s --check-prefix=DEFAULT

#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>

// CHECK-LABEL: func @argument
// CHECK-SAME:    %[[X:.*]]: tensor<?x8xf32>, %[[W:.*]]: tensor<4x8xf16>
// CHECK:         quant_llm.linear %[[X]], %[[W]]
// DEFAULT-LABEL: func @argument
// DEFAULT:         linalg.matmul
func.func @argument(%x: tensor<?x8xf32>, %w: tensor<4x8xf16>, %e: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<?x8xf32>, tensor<4x8xf16>) outs(%0 : tensor<?x4xf32>) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// CHECK-LABEL: func @constant
// CHECK:         %[[W:.*]] = arith.constant dense<1.0
// CHECK:         quant_llm.linear %{{.*}}, %[[W]]
func.func @constant(%x: tensor<?x8xf32>, %r: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %w = arith.constant dense<1.0> : tensor<4x8xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<?x8xf32>, tensor<4x8xf32>) outs(%r : tensor<?x4xf32>) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// The pass runs on anything, here on functions; its options print and parse again.
// RUN: quant-opt %s -pass-pipeline='builtin.module(func.func(convert-linalg-to-quant-llm{all-values=true}))' -dump-pass-pipeline 2>&1 | FileCheck %s --check-prefix=PIPELINE
// PIPELINE: convert-linalg-to-quant-llm{all-values=true}
