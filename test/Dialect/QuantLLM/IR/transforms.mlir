// RUN: quant-opt %s --verify-roundtrip | FileCheck %s
// RUN: quant-opt %s -mlir-print-op-generic | quant-opt | FileCheck %s
// RUN: quant-opt %s --canonicalize | FileCheck %s --check-prefix=CANON

// CHECK-LABEL: func.func @all
func.func @all(%x: tensor<?x24xf32>, %h: tensor<4x?x6xf16>, %s: tensor<24xf32>, %s2: tensor<4x6xf16>, %p: tensor<24xi32>,
               %r: tensor<12x12xf64>, %a: tensor<4x4xf64>, %b: tensor<6x6xf64>, %t: tensor<4xf64>)
    -> (tensor<?x24xf32>, tensor<4x?x6xf16>) {
  // CHECK: quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %0 = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  // CHECK: quant_llm.shift_channels inverse %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %1 = quant_llm.shift_channels inverse %0 by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  // CHECK: quant_llm.permute_channels %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xi32>
  %2 = quant_llm.permute_channels %1 by %p dims = [1] : tensor<?x24xf32>, tensor<24xi32>
  // CHECK: quant_llm.rotate %{{.*}} hadamard 24 dims = [1] : tensor<?x24xf32>
  %3 = quant_llm.rotate %2 hadamard 24 dims = [1] : tensor<?x24xf32>
  // CHECK: quant_llm.rotate inverse %{{.*}} hadamard 12 seed -7 dims = [1] : tensor<?x24xf32>
  %4 = quant_llm.rotate inverse %3 hadamard 12 seed -7 dims = [1] : tensor<?x24xf32>
  // CHECK: quant_llm.rotate %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>
  %5 = quant_llm.rotate %4 by %r dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>
  // CHECK: quant_llm.rotate %{{.*}} by %{{.*}}, %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<6x6xf64>
  %6 = quant_llm.rotate %5 by %a, %b dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<6x6xf64>
  // CHECK: quant_llm.affine %{{.*}} by %{{.*}}, %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>, tensor<12x12xf64>
  %7 = quant_llm.affine %6 by %r, %r dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>, tensor<12x12xf64>
  // CHECK: quant_llm.affine inverse %{{.*}} by %{{.*}}, %{{.*}} plus %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<4x4xf64>, tensor<4xf64>
  %8 = quant_llm.affine inverse %7 by %a, %a plus %t dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<4x4xf64>, tensor<4xf64>
  // CHECK: quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [0, 2] : tensor<4x?x6xf16>, tensor<4x6xf16>
  %9 = quant_llm.scale_channels %h by %s2 dims = [0, 2] : tensor<4x?x6xf16>, tensor<4x6xf16>
  // CHECK: return
  return %8, %9 : tensor<?x24xf32>, tensor<4x?x6xf16>
}

// A transform and its inverse, in either order.
// CANON-LABEL: func.func @pairs
// CANON-SAME:    (%[[X:.*]]: tensor<?x24xf32>, %{{.*}}: tensor<24xf32>, %{{.*}}: tensor<24xi64>, %{{.*}}: tensor<12x12xf64>)
// CANON-NEXT:    return %[[X]], %[[X]], %[[X]], %[[X]], %[[X]]
func.func @pairs(%x: tensor<?x24xf32>, %s: tensor<24xf32>, %p: tensor<24xi64>, %a: tensor<12x12xf64>)
    -> (tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>) {
  %0 = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %1 = quant_llm.scale_channels inverse %0 by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %2 = quant_llm.shift_channels inverse %x by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %3 = quant_llm.shift_channels %2 by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %4 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x24xf32>, tensor<24xi64>
  %5 = quant_llm.permute_channels inverse %4 by %p dims = [1] : tensor<?x24xf32>, tensor<24xi64>
  %6 = quant_llm.rotate %x hadamard 8 seed 3 dims = [1] : tensor<?x24xf32>
  %7 = quant_llm.rotate inverse %6 hadamard 8 seed 3 dims = [1] : tensor<?x24xf32>
  %8 = quant_llm.affine inverse %x by %a, %a dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>, tensor<12x12xf64>
  %9 = quant_llm.affine %8 by %a, %a dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>, tensor<12x12xf64>
  return %1, %3, %5, %7, %9 : tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>, tensor<?x24xf32>
}

// These are no pairs: other data, another seed, another order, other dimensions, twice the same.
// CANON-LABEL: func.func @not_pairs
// CANON-COUNT-2: quant_llm.shift_channels
// CANON-COUNT-8: quant_llm.rotate
func.func @not_pairs(%x: tensor<24x24xf32>, %s: tensor<24xf32>, %t: tensor<24xf32>)
    -> (tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>) {
  %0 = quant_llm.shift_channels %x by %s dims = [1] : tensor<24x24xf32>, tensor<24xf32>
  %1 = quant_llm.shift_channels inverse %0 by %t dims = [1] : tensor<24x24xf32>, tensor<24xf32>
  %2 = quant_llm.rotate %x hadamard 8 seed 3 dims = [1] : tensor<24x24xf32>
  %3 = quant_llm.rotate inverse %2 hadamard 8 seed 4 dims = [1] : tensor<24x24xf32>
  %4 = quant_llm.rotate %x hadamard 4 dims = [1] : tensor<24x24xf32>
  %5 = quant_llm.rotate inverse %4 hadamard 8 dims = [1] : tensor<24x24xf32>
  %6 = quant_llm.rotate %x hadamard 12 dims = [1] : tensor<24x24xf32>
  %7 = quant_llm.rotate inverse %6 hadamard 12 dims = [0] : tensor<24x24xf32>
  %8 = quant_llm.rotate %x hadamard 24 dims = [1] : tensor<24x24xf32>
  %9 = quant_llm.rotate %8 hadamard 24 dims = [1] : tensor<24x24xf32>
  return %1, %3, %5, %7, %9 : tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>, tensor<24x24xf32>
}

// CANON-LABEL: func.func @scales
// CANON-SAME:    (%[[X:.*]]: tensor<2x3xf32>, %[[A:.*]]: tensor<3xf32>, %[[B:.*]]: tensor<3xf32>, %[[C:.*]]: tensor<3xf16>)
// CANON-DAG:     %[[AB:.*]] = quant_llm.scale_channels %[[A]] by %[[B]] dims = [0] : tensor<3xf32>, tensor<3xf32>
// CANON-DAG:     %[[Q:.*]] = quant_llm.scale_channels inverse %[[A]] by %[[B]] dims = [0] : tensor<3xf32>, tensor<3xf32>
// CANON-DAG:     %[[R0:.*]] = quant_llm.scale_channels %[[X]] by %[[AB]] dims = [1]
// CANON-DAG:     %[[R1:.*]] = quant_llm.scale_channels inverse %[[X]] by %[[Q]] dims = [1]
// A product in f16 would be rounded.
// CANON-DAG:     %[[H:.*]] = quant_llm.scale_channels %[[X]] by %[[C]]
// CANON-DAG:     %[[R2:.*]] = quant_llm.scale_channels %[[H]] by %[[C]]
// CANON:         return %[[R0]], %[[R1]], %[[R2]], %[[X]]
func.func @scales(%x: tensor<2x3xf32>, %a: tensor<3xf32>, %b: tensor<3xf32>, %c: tensor<3xf16>)
    -> (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  %ones = arith.constant dense<1.0> : tensor<3xf32>
  %zeros = arith.constant dense<0.0> : tensor<3xf32>
  %id = arith.constant dense<[0, 1, 2]> : tensor<3xi32>
  %0 = quant_llm.scale_channels %x by %a dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %1 = quant_llm.scale_channels %0 by %b dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %2 = quant_llm.scale_channels inverse %x by %a dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %3 = quant_llm.scale_channels %2 by %b dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %4 = quant_llm.scale_channels %x by %c dims = [1] : tensor<2x3xf32>, tensor<3xf16>
  %5 = quant_llm.scale_channels %4 by %c dims = [1] : tensor<2x3xf32>, tensor<3xf16>
  %6 = quant_llm.scale_channels inverse %x by %ones dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %7 = quant_llm.shift_channels %6 by %zeros dims = [1] : tensor<2x3xf32>, tensor<3xf32>
  %8 = quant_llm.permute_channels %7 by %id dims = [1] : tensor<2x3xf32>, tensor<3xi32>
  return %1, %3, %5, %8 : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}
