// RUN: quant-opt %s -split-input-file -verify-diagnostics

// QL-TRANSFORM-C1
func.func @f(%x: tensor<?x4xf32>, %s: tensor<4xf32>) {
  // expected-error @below {{expected at least one dimension in 'dims'}}
  %0 = quant_llm.scale_channels %x by %s dims = [] : tensor<?x4xf32>, tensor<4xf32>
  return
}

// -----

// QL-TRANSFORM-C1
func.func @f(%x: tensor<?x4xf32>, %s: tensor<4xf32>) {
  // expected-error @below {{expected 'dims' to be increasing dimensions of 'tensor<?x4xf32>' but got [2]}}
  %0 = quant_llm.shift_channels %x by %s dims = [2] : tensor<?x4xf32>, tensor<4xf32>
  return
}

// -----

// QL-TRANSFORM-C1
func.func @f(%x: tensor<4x4xf32>, %s: tensor<4x4xf32>) {
  // expected-error @below {{expected 'dims' to be increasing dimensions of 'tensor<4x4xf32>' but got [1, 0]}}
  %0 = quant_llm.scale_channels %x by %s dims = [1, 0] : tensor<4x4xf32>, tensor<4x4xf32>
  return
}

// -----

// QL-TRANSFORM-C1
func.func @f(%x: tensor<?x4xf32>) {
  // expected-error @below {{expected 'dims' to be increasing dimensions of 'tensor<?x4xf32>' but got [-1]}}
  %0 = quant_llm.rotate %x hadamard 4 dims = [-1] : tensor<?x4xf32>
  return
}

// -----

// QL-TRANSFORM-C1
func.func @f(%x: tensor<?x4xf32>, %s: tensor<4xf32>) {
  // expected-error @below {{expected dimension 0 of 'tensor<?x4xf32>' to have a static positive size}}
  %0 = quant_llm.scale_channels %x by %s dims = [0] : tensor<?x4xf32>, tensor<4xf32>
  return
}

// -----

// QL-TRANSFORM-C1
func.func @f(%x: tensor<2x0xf32>) {
  // expected-error @below {{expected dimension 1 of 'tensor<2x0xf32>' to have a static positive size}}
  %0 = quant_llm.rotate %x hadamard 4 dims = [1] : tensor<2x0xf32>
  return
}

// -----

// QL-SCALE-CHANNELS-C1
func.func @f(%x: tensor<?x4x3xf32>, %s: tensor<3x4xf32>) {
  // expected-error @below {{expected scales of the shape of the input along 'dims', [4, 3], but got 'tensor<3x4xf32>'}}
  %0 = quant_llm.scale_channels %x by %s dims = [1, 2] : tensor<?x4x3xf32>, tensor<3x4xf32>
  return
}

// -----

// QL-SCALE-CHANNELS-C2
func.func @f(%x: tensor<?x3xf32>) {
  %s = arith.constant dense<[1.0, 0.0, 2.0]> : tensor<3xf32>
  // expected-error @below {{expected scales that are finite and not 0 but element 1 is 0}}
  %0 = quant_llm.scale_channels inverse %x by %s dims = [1] : tensor<?x3xf32>, tensor<3xf32>
  return
}

// -----

// QL-SCALE-CHANNELS-C2
func.func @f(%x: tensor<?x3xf32>) {
  %s = arith.constant dense<[1.0, 1.0, 0x7F800000]> : tensor<3xf32>
  // expected-error @below {{expected scales that are finite and not 0 but element 2 is INF}}
  %0 = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x3xf32>, tensor<3xf32>
  return
}

// -----

// QL-SHIFT-CHANNELS-C1
func.func @f(%x: tensor<?x4xf32>, %s: tensor<5xf32>) {
  // expected-error @below {{expected offsets of the shape of the input along 'dims', [4], but got 'tensor<5xf32>'}}
  %0 = quant_llm.shift_channels %x by %s dims = [1] : tensor<?x4xf32>, tensor<5xf32>
  return
}

// -----

// QL-SHIFT-CHANNELS-C2
func.func @f(%x: tensor<?x2xf32>) {
  %s = arith.constant dense<[0.0, 0x7FC0]> : tensor<2xbf16>
  // expected-error @below {{expected offsets that are finite but element 1 is nan}}
  %0 = quant_llm.shift_channels %x by %s dims = [1] : tensor<?x2xf32>, tensor<2xbf16>
  return
}

// -----

// QL-PERMUTE-CHANNELS-C1
func.func @f(%x: tensor<?x4xf32>, %p: tensor<3xi32>) {
  // expected-error @below {{expected a permutation of 4 channels but got 'tensor<3xi32>'}}
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x4xf32>, tensor<3xi32>
  return
}

// -----

// QL-PERMUTE-CHANNELS-C3
func.func @f(%x: tensor<?x32769xf32>, %p: tensor<32769xi16>) {
  // expected-error @below {{expected integers that hold 32768 but got 'tensor<32769xi16>'}}
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x32769xf32>, tensor<32769xi16>
  return
}

// -----

// QL-PERMUTE-CHANNELS-C1
func.func @f(%x: tensor<3x4xf32>, %p: tensor<3xi32>) {
  // expected-error @below {{expected one dimension in 'dims' but got [0, 1]}}
  %0 = quant_llm.permute_channels %x by %p dims = [0, 1] : tensor<3x4xf32>, tensor<3xi32>
  return
}

// -----

// QL-PERMUTE-CHANNELS-C2
func.func @f(%x: tensor<?x3xf32>) {
  %p = arith.constant dense<[0, 2, 0]> : tensor<3xi64>
  // expected-error @below {{expected a permutation that holds every number from 0 to 2 once but it repeats 0}}
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x3xf32>, tensor<3xi64>
  return
}

// -----

// QL-PERMUTE-CHANNELS-C2
func.func @f(%x: tensor<?x3xf32>) {
  %p = arith.constant dense<[0, 3, 1]> : tensor<3xi32>
  // expected-error @below {{expected a permutation that holds every number from 0 to 2 once but it holds 3}}
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x3xf32>, tensor<3xi32>
  return
}

// -----

// QL-ROTATE-C1
func.func @f(%x: tensor<4x4xf32>) {
  // expected-error @below {{expected one dimension in 'dims' but got [0, 1]}}
  %0 = quant_llm.rotate %x hadamard 4 dims = [0, 1] : tensor<4x4xf32>
  return
}

// -----

// QL-ROTATE-C2
func.func @f(%x: tensor<?x4xf32>) {
  // expected-error @below {{expected either 'hadamard' with an order, or 'by' with one or two matrices}}
  %0 = quant_llm.rotate %x dims = [1] : tensor<?x4xf32>
  return
}

// -----

// QL-ROTATE-C2
func.func @f(%x: tensor<?x4xf32>, %r: tensor<4x4xf32>) {
  // expected-error @below {{expected either 'hadamard' with an order, or 'by' with one or two matrices}}
  %0 = quant_llm.rotate %x hadamard 4 by %r dims = [1] : tensor<?x4xf32>, tensor<4x4xf32>
  return
}

// -----

// QL-ROTATE-C2
func.func @f(%x: tensor<?x8xf32>, %r: tensor<2x2xf32>) {
  // expected-error @below {{expected either 'hadamard' with an order, or 'by' with one or two matrices}}
  %0 = quant_llm.rotate %x by %r, %r, %r dims = [1] : tensor<?x8xf32>, tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
  return
}

// -----

// QL-ROTATE-C3
func.func @f(%x: tensor<?x172xf32>) {
  // expected-error @below {{expected an order with a known Hadamard matrix (a power of two, or m times one with m = 12, 20, 28, 36, ...) but got 172; the largest one that divides it is 4}}
  %0 = quant_llm.rotate %x hadamard 172 dims = [1] : tensor<?x172xf32>
  return
}

// -----

// QL-ROTATE-C3
func.func @f(%x: tensor<?x4xf32>) {
  // expected-error @below {{but got -4}}
  %0 = quant_llm.rotate %x hadamard -4 dims = [1] : tensor<?x4xf32>
  return
}

// -----

// QL-ROTATE-C4
func.func @f(%x: tensor<?x4xf32>, %r: tensor<4x4xf32>) {
  // expected-error @below {{expected 'seed' only with 'hadamard'}}
  %0 = quant_llm.rotate %x seed 1 by %r dims = [1] : tensor<?x4xf32>, tensor<4x4xf32>
  return
}

// -----

// QL-ROTATE-C5
func.func @f(%x: tensor<?x4xf32>, %r: tensor<4x2xf32>) {
  // expected-error @below {{expected a square matrix but got 'tensor<4x2xf32>'}}
  %0 = quant_llm.rotate %x by %r dims = [1] : tensor<?x4xf32>, tensor<4x2xf32>
  return
}

// -----

// QL-ROTATE-C6
func.func @f(%x: tensor<?x20xf32>) {
  // expected-error @below {{expected the order 8 to divide the size of dimension 1, 20}}
  %0 = quant_llm.rotate %x hadamard 8 dims = [1] : tensor<?x20xf32>
  return
}

// -----

// QL-ROTATE-C7
func.func @f(%x: tensor<?x2xf32>) {
  %r = arith.constant dense<[[0.6, 0.8], [0.8, 0.6]]> : tensor<2x2xf64>
  // expected-error @below {{expected an orthogonal matrix but R R^T differs from the identity by 9.60e-01}}
  %0 = quant_llm.rotate %x by %r dims = [1] : tensor<?x2xf32>, tensor<2x2xf64>
  return
}

// -----

// The tolerance is that of the type.
func.func @f(%x: tensor<?x2xf32>) {
  %r = arith.constant dense<[[0.6, 0.8], [-0.8, 0.6]]> : tensor<2x2xf16>
  %0 = quant_llm.rotate %x by %r dims = [1] : tensor<?x2xf32>, tensor<2x2xf16>
  return
}

// -----

// QL-AFFINE-C1
func.func @f(%x: tensor<4x4xf32>, %a: tensor<4x4xf32>) {
  // expected-error @below {{expected one dimension in 'dims' but got [0, 1]}}
  %0 = quant_llm.affine %x by %a, %a dims = [0, 1] : tensor<4x4xf32>, tensor<4x4xf32>, tensor<4x4xf32>
  return
}

// -----

// QL-AFFINE-C2
func.func @f(%x: tensor<?x4xf32>, %a: tensor<4x4xf32>, %b: tensor<4x4xf64>) {
  // expected-error @below {{expected matrix and inverse of one type but got 'tensor<4x4xf32>' and 'tensor<4x4xf64>'}}
  %0 = quant_llm.affine %x by %a, %b dims = [1] : tensor<?x4xf32>, tensor<4x4xf32>, tensor<4x4xf64>
  return
}

// -----

// QL-AFFINE-C3
func.func @f(%x: tensor<?x6xf32>, %a: tensor<4x4xf32>) {
  // expected-error @below {{expected the order 4 to divide the size of dimension 1, 6}}
  %0 = quant_llm.affine %x by %a, %a dims = [1] : tensor<?x6xf32>, tensor<4x4xf32>, tensor<4x4xf32>
  return
}

// -----

// QL-AFFINE-C4
func.func @f(%x: tensor<?x8xf32>, %a: tensor<4x4xf32>, %t: tensor<8xf32>) {
  // expected-error @below {{expected an offset of 4 elements but got 'tensor<8xf32>'}}
  %0 = quant_llm.affine %x by %a, %a plus %t dims = [1] : tensor<?x8xf32>, tensor<4x4xf32>, tensor<4x4xf32>, tensor<8xf32>
  return
}

// -----

// QL-AFFINE-C6
func.func @f(%x: tensor<?x2xf32>, %a: tensor<2x2xf32>) {
  %t = arith.constant dense<[0.0, 0x7F800000]> : tensor<2xf32>
  // expected-error @below {{expected finite offsets but got}}
  %0 = quant_llm.affine %x by %a, %a plus %t dims = [1] : tensor<?x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>, tensor<2xf32>
  return
}

// -----

// QL-AFFINE-C5
func.func @f(%x: tensor<?x2xf32>) {
  %a = arith.constant dense<[[2.0, 1.0], [0.0, 2.0]]> : tensor<2x2xf32>
  %b = arith.constant dense<[[0.5, 0.25], [0.0, 0.5]]> : tensor<2x2xf32>
  // expected-error @below {{expected matrices that are inverses of each other but their product differs from the identity by 1.00e+00}}
  %0 = quant_llm.affine %x by %a, %b dims = [1] : tensor<?x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xi8>, %s: tensor<4xf32>) {
  // expected-error @below {{must be ranked tensor of f16, bf16, f32 or f64 without encoding}}
  %0 = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x4xi8>, tensor<4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %p: tensor<4xi8>) {
  // expected-error @below {{must be 1D tensor of i16, i32 or i64 with a static positive dimension and no encoding}}
  %0 = quant_llm.permute_channels %x by %p dims = [1] : tensor<?x4xf32>, tensor<4xi8>
  return
}
