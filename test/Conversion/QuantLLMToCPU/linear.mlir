// RUN: quant-opt %s --convert-quant-llm-to-cpu=vector-bits=256 | FileCheck %s
// RUN: not quant-opt %s --convert-quant-llm-to-cpu=vector-bits=100 2>&1 | FileCheck %s --check-prefix=BITS

// RUN: not quant-opt %s --convert-quant-llm-to-cpu="vector-bits=512 features=+avx2" 2>&1 | FileCheck %s --check-prefix=FEATURES
// RUN: quant-opt %s --convert-quant-llm-to-cpu="features=+avx2,+avx512f" | FileCheck %s --check-prefix=WIDE
// RUN: quant-opt %s --convert-quant-llm-to-cpu="features=+avx2" | FileCheck %s --check-prefix=NARROW
// RUN: not quant-opt %s --convert-quant-llm-to-cpu="features=+avx2,avx512f" 2>&1 | FileCheck %s --check-prefix=SIGN
// RUN: not quant-opt %s --convert-quant-llm-to-cpu="features=+avx2,-nope" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// SIGN: convert-quant-llm-to-cpu: invalid option 'features': expected names with + or - before them but got 'avx512f'
// UNKNOWN: convert-quant-llm-to-cpu: invalid option 'features': expected features of processors of this machine's kind, in the names that llc -mattr=help lists, but got 'nope'
// FEATURES: expected a processor with avx512f for vector-bits=512 of convert-quant-llm-to-cpu; choose 128 or 256
// WIDE: vector<16xf32>
// NARROW-NOT: vector<16xf32>
// NARROW: vector<8xf32>
// NARROW-NOT: vector<16xf32>

// BITS: convert-quant-llm-to-cpu: invalid option 'vector-bits': expected 128, 256 or 512 but got 100

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f8E8M0FNU, rule = absmax, rounding = half_even>
#mk = affine_map<(b, m, n, k) -> (b, m, k)>
#nk = affine_map<(b, m, n, k) -> (b, n, k)>
#mn = affine_map<(b, m, n, k) -> (b, m, n)>

// Two equal linears share a kernel; scales of 8 bits are read as bytes.
// CHECK-LABEL: func.func @two
// CHECK-SAME: %[[X:.*]]: tensor<?x64xf32>, %[[C:.*]]: tensor<8x32xi8>, %[[S:.*]]: tensor<8x1xf8E8M0FNU>
// CHECK: %[[B:.*]] = arith.bitcast %[[S]] : tensor<8x1xf8E8M0FNU> to tensor<8x1xi8>
// CHECK: %[[E:.*]] = tensor.empty
// CHECK: quant_llm.dispatch @[[K:.*]] ins(%[[X]], %[[C]], %[[B]] : {{.*}}) outs(%[[E]] : tensor<?x8xf32>) -> tensor<?x8xf32>
// CHECK: quant_llm.dispatch @[[K]] ins(
func.func @two(%x: tensor<?x64xf32>, %codes: tensor<8x32xi8>, %scales: tensor<8x1xf8E8M0FNU>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %w = quant_llm.assemble %codes, %scales : (tensor<8x32xi8>, tensor<8x1xf8E8M0FNU>) -> !quant_llm.weight<8x64xf16, #scheme>
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf32>
  return %0, %1 : tensor<?x8xf32>, tensor<?x8xf32>
}

// Leading dimensions are rows.
// CHECK-LABEL: func.func @leading
// CHECK: tensor.collapse_shape
// CHECK: quant_llm.dispatch
// CHECK: tensor.expand_shape
func.func @leading(%x: tensor<2x?x64xf32>, %w: tensor<8x64xbf16>) -> tensor<2x?x8xf32> {
  %0 = quant_llm.linear %x, %w : (tensor<2x?x64xf32>, tensor<8x64xbf16>) -> tensor<2x?x8xf32>
  return %0 : tensor<2x?x8xf32>
}

// CHECK-LABEL: func.func @attention
// CHECK-NOT: linalg.batch_matmul
// CHECK: quant_llm.dispatch @{{.*}} ins(%{{.*}}, %{{.*}} : tensor<3x?x64xf32>, tensor<3x?x64xf32>) outs(%{{.*}} : tensor<3x?x?xf32>)
func.func @attention(%q: tensor<3x?x64xf32>, %k: tensor<3x?x64xf32>, %m: index, %n: index) -> tensor<3x?x?xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty(%m, %n) : tensor<3x?x?xf32>
  %i = linalg.fill ins(%zero : f32) outs(%e : tensor<3x?x?xf32>) -> tensor<3x?x?xf32>
  %s = linalg.batch_matmul indexing_maps = [#mk, #nk, #mn]
    ins(%q, %k : tensor<3x?x64xf32>, tensor<3x?x64xf32>) outs(%i : tensor<3x?x?xf32>) -> tensor<3x?x?xf32>
  return %s : tensor<3x?x?xf32>
}

// The kernels come last.
// CHECK: func.func private @[[K]](
// CHECK-SAME: memref<?x64xf32, strided<[?, 1], offset: ?>>, %{{.*}}: memref<8x32xi8>, %{{.*}}: memref<8x1xi8>, %{{.*}}: memref<?x8xf32, strided<[?, 1], offset: ?>>
// CHECK-SAME: quant_llm.kernel
