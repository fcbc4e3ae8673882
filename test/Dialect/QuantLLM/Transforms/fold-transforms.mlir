// RUN: rm -rf %t && mkdir %t
// RUN: quant-opt %s --quant-llm-fold-transforms -split-input-file | FileCheck %s
// Folding a second time changes nothing.
// RUN: quant-opt %s --quant-llm-fold-transforms -split-input-file -o %t/once.mlir
// RUN: quant-opt %t/once.mlir --quant-llm-fold-transforms -split-input-file -o %t/twice.mlir
// RUN: diff %t/once.mlir %t/twice.mlir

#tc = affine_map<(d0, d1) -> (d0, d1)>
#t = affine_map<(d0, d1) -> (d0)>
#c = affine_map<(d0, d1) -> (d1)>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @gain from @model : tensor<8xf32>
quant_llm.parameter @bias from @model : tensor<8xf32>
quant_llm.parameter @q from @model : tensor<4x8xf32>
quant_llm.parameter @qbias from @model : tensor<4xf32>
quant_llm.parameter @k from @model : tensor<2x8xf32>

// The gain and the bias of a norm absorb the transform, two weights its inverse.
// CHECK-LABEL: func.func @norm
// CHECK-SAME:    (%[[X:.*]]: tensor<?x8xf32>, %[[R:.*]]: tensor<?xf32>, %[[E:.*]]: tensor<?x8xf32>)
// CHECK-DAG:     %[[S:.*]] = arith.constant
// CHECK-DAG:     %[[G:.*]] = quant_llm.get_parameter @gain
// CHECK-DAG:     %[[B:.*]] = quant_llm.get_parameter @bias
// CHECK-DAG:     %[[Q:.*]] = quant_llm.get_parameter @q
// CHECK-DAG:     %[[K:.*]] = quant_llm.get_parameter @k
// CHECK-DAG:     %[[G1:.*]] = quant_llm.scale_channels inverse %[[G]] by %[[S]] dims = [0]
// CHECK-DAG:     %[[B1:.*]] = quant_llm.scale_channels inverse %[[B]] by %[[S]] dims = [0]
// CHECK:         %[[N:.*]] = linalg.generic {{.*}} ins(%[[X]], %[[R]], %[[G1]], %[[B1]] :
// CHECK-DAG:     %[[Q1:.*]] = quant_llm.scale_channels %[[Q]] by %[[S]] dims = [1]
// CHECK-DAG:     %[[K1:.*]] = quant_llm.scale_channels %[[K]] by %[[S]] dims = [1]
// CHECK-DAG:     quant_llm.linear %[[N]], %[[Q1]]
// CHECK-DAG:     quant_llm.linear %[[N]], %[[K1]]
func.func @norm(%x: tensor<?x8xf32>, %r: tensor<?xf32>, %e: tensor<?x8xf32>) -> (tensor<?x4xf32>, tensor<?x2xf32>) {
  %s = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> : tensor<8xf32>
  %g = quant_llm.get_parameter @gain : tensor<8xf32>
  %b = quant_llm.get_parameter @bias : tensor<8xf32>
  %q = quant_llm.get_parameter @q : tensor<4x8xf32>
  %k = quant_llm.get_parameter @k : tensor<2x8xf32>
  %0 = linalg.generic {indexing_maps = [#tc, #t, #c, #c, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%x, %r, %g, %b : tensor<?x8xf32>, tensor<?xf32>, tensor<8xf32>, tensor<8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%a: f32, %rr: f32, %gg: f32, %bb: f32, %o: f32):
    %m = arith.mulf %a, %rr : f32
    %n = arith.mulf %m, %gg : f32
    %p = arith.addf %n, %bb : f32
    linalg.yield %p : f32
  } -> tensor<?x8xf32>
  %1 = quant_llm.scale_channels inverse %0 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %2 = quant_llm.scale_channels %1 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %3 = quant_llm.linear %2, %q : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  %4 = quant_llm.linear %2, %k : (tensor<?x8xf32>, tensor<2x8xf32>) -> tensor<?x2xf32>
  return %3, %4 : tensor<?x4xf32>, tensor<?x2xf32>
}

// A shift goes from bias to bias: that of the norm is shifted, and so is that of the linear, by what the
// linear makes of the offset.
// CHECK-LABEL: func.func @shift
// CHECK:         %[[S:.*]] = arith.constant
// CHECK:         %[[Q:.*]] = quant_llm.get_parameter @q
// CHECK:         %[[D:.*]] = quant_llm.linear %[[S]], %[[Q]] : (tensor<8xf32>, tensor<4x8xf32>) -> tensor<4xf32>
// CHECK:         %[[B1:.*]] = quant_llm.shift_channels inverse %{{.*}} by %[[S]] dims = [0]
// CHECK:         linalg.generic {{.*}} ins({{.*}}, %[[B1]] :
// CHECK:         %[[Y:.*]] = quant_llm.linear
// CHECK:         %[[C1:.*]] = quant_llm.shift_channels %{{.*}} by %[[D]] dims = [0] : tensor<4xf32>, tensor<4xf32>
// CHECK:         linalg.generic {{.*}} ins(%[[Y]], %[[C1]] :
func.func @shift(%x: tensor<?x8xf32>, %e: tensor<?x8xf32>, %f: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %s = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> : tensor<8xf32>
  %b = quant_llm.get_parameter @bias : tensor<8xf32>
  %q = quant_llm.get_parameter @q : tensor<4x8xf32>
  %c = quant_llm.get_parameter @qbias : tensor<4xf32>
  %0 = linalg.generic {indexing_maps = [#tc, #c, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%x, %b : tensor<?x8xf32>, tensor<8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%a: f32, %bb: f32, %o: f32):
    %t = math.tanh %a : f32
    %p = arith.addf %t, %bb : f32
    linalg.yield %p : f32
  } -> tensor<?x8xf32>
  %1 = quant_llm.shift_channels inverse %0 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %2 = quant_llm.shift_channels %1 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %3 = quant_llm.linear %2, %q : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  %4 = linalg.generic {indexing_maps = [#tc, #c, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%3, %c : tensor<?x4xf32>, tensor<4xf32>) outs(%f : tensor<?x4xf32>) {
  ^bb0(%a: f32, %bb: f32, %o: f32):
    %p = arith.addf %a, %bb : f32
    linalg.yield %p : f32
  } -> tensor<?x4xf32>
  return %4 : tensor<?x4xf32>
}

// -----

#tc = affine_map<(d0, d1) -> (d0, d1)>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @gate from @model : tensor<8x4xf32>
quant_llm.parameter @up from @model : tensor<8x4xf32>
quant_llm.parameter @down from @model : tensor<4x8xf32>

// A scale passes the factor that it is linear in.
// CHECK-LABEL: func.func @gated_scale
// CHECK-DAG:     %[[G:.*]] = quant_llm.get_parameter @gate
// CHECK-DAG:     %[[U:.*]] = quant_llm.get_parameter @up
// CHECK-DAG:     %[[D:.*]] = quant_llm.get_parameter @down
// CHECK-DAG:     quant_llm.linear %{{.*}}, %[[G]] :
// CHECK-DAG:     %[[U1:.*]] = quant_llm.scale_channels inverse %[[U]] by %{{.*}} dims = [0]
// CHECK-DAG:     quant_llm.linear %{{.*}}, %[[U1]] :
// CHECK-DAG:     %[[D1:.*]] = quant_llm.scale_channels %[[D]] by %{{.*}} dims = [1]
// CHECK-DAG:     quant_llm.linear %{{.*}}, %[[D1]] :
// CHECK:         return

// A permutation passes all of them.
// CHECK-LABEL: func.func @gated_permutation
// CHECK-COUNT-2: quant_llm.permute_channels %{{.*}} by %{{.*}} dims = [0] : tensor<8x4xf32>
// CHECK:         quant_llm.permute_channels %{{.*}} by %{{.*}} dims = [1] : tensor<4x8xf32>
// CHECK:         return

// A rotation does not pass; it stays, and its inverse goes.
// CHECK-LABEL: func.func @gated_rotation
// CHECK:         %[[Z:.*]] = linalg.generic
// CHECK:         %[[R:.*]] = quant_llm.rotate %[[Z]] hadamard 8 dims = [1] {quant_llm.online} : tensor<?x8xf32>
// CHECK:         %[[D1:.*]] = quant_llm.rotate %{{.*}} hadamard 8 dims = [1] : tensor<4x8xf32>
// CHECK:         quant_llm.linear %[[R]], %[[D1]] :
func.func @gated_scale(%x: tensor<?x4xf32>, %e: tensor<?x8xf32>) -> tensor<?x4xf32> {
  %s = arith.constant dense<2.0> : tensor<8xf32>
  %g = quant_llm.get_parameter @gate : tensor<8x4xf32>
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %g : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %2 = linalg.generic {indexing_maps = [#tc, #tc, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%0, %1 : tensor<?x8xf32>, tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %t = math.tanh %a : f32
    %m = arith.mulf %t, %b : f32
    linalg.yield %m : f32
  } -> tensor<?x8xf32>
  %3 = quant_llm.scale_channels inverse %2 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %4 = quant_llm.scale_channels %3 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %5 = quant_llm.linear %4, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %5 : tensor<?x4xf32>
}

func.func @gated_permutation(%x: tensor<?x4xf32>, %e: tensor<?x8xf32>) -> tensor<?x4xf32> {
  %p = arith.constant dense<[7, 6, 5, 4, 3, 2, 1, 0]> : tensor<8xi64>
  %g = quant_llm.get_parameter @gate : tensor<8x4xf32>
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %g : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %2 = linalg.generic {indexing_maps = [#tc, #tc, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%0, %1 : tensor<?x8xf32>, tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %t = math.tanh %a : f32
    %m = arith.mulf %t, %b : f32
    linalg.yield %m : f32
  } -> tensor<?x8xf32>
  %3 = quant_llm.permute_channels %2 by %p dims = [1] : tensor<?x8xf32>, tensor<8xi64>
  %4 = quant_llm.permute_channels inverse %3 by %p dims = [1] : tensor<?x8xf32>, tensor<8xi64>
  %5 = quant_llm.linear %4, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %5 : tensor<?x4xf32>
}

func.func @gated_rotation(%x: tensor<?x4xf32>, %e: tensor<?x8xf32>) -> tensor<?x4xf32> {
  %g = quant_llm.get_parameter @gate : tensor<8x4xf32>
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %g : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %2 = linalg.generic {indexing_maps = [#tc, #tc, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%0, %1 : tensor<?x8xf32>, tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %t = math.tanh %a : f32
    %m = arith.mulf %t, %b : f32
    linalg.yield %m : f32
  } -> tensor<?x8xf32>
  %3 = quant_llm.rotate %2 hadamard 8 dims = [1] : tensor<?x8xf32>
  %4 = quant_llm.rotate inverse %3 hadamard 8 dims = [1] : tensor<?x8xf32>
  %5 = quant_llm.linear %4, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %5 : tensor<?x4xf32>
}

// A fused gated pair: the second weight alone.
// CHECK-LABEL: func.func @fused
// CHECK-DAG:     %[[G:.*]] = quant_llm.get_parameter @gate
// CHECK-DAG:     %[[U:.*]] = quant_llm.get_parameter @up
// CHECK-DAG:     %[[U1:.*]] = quant_llm.scale_channels inverse %[[U]] by %{{.*}} dims = [0]
// CHECK:         quant_llm.linear %{{.*}}, %[[G]], %[[U1]] epilogue
func.func @fused(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %s = arith.constant dense<2.0> : tensor<8xf32>
  %g = quant_llm.get_parameter @gate : tensor<8x4xf32>
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %g, %u epilogue {
  ^bb0(%a: f32, %b: f32):
    %t = math.tanh %a : f32
    %m = arith.mulf %t, %b : f32
    quant_llm.yield %m : f32
  } : (tensor<?x4xf32>, tensor<8x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.scale_channels inverse %0 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %2 = quant_llm.scale_channels %1 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %3 = quant_llm.linear %2, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %3 : tensor<?x4xf32>
}

// A general matrix: its inverse times the columns of a weight is the transpose of it.
// CHECK-LABEL: func.func @matrix
// CHECK-DAG:     %[[A:.*]] = arith.constant dense<{{.*}}2.0{{.*}}> : tensor<2x2xf64>
// CHECK-DAG:     %[[I:.*]] = arith.constant dense<{{.*}}-2.5{{.*}}> : tensor<2x2xf64>
// CHECK-DAG:     %[[AT:.*]] = linalg.transpose ins(%[[A]] :
// CHECK-DAG:     %[[IT:.*]] = linalg.transpose ins(%[[I]] :
// CHECK:         %[[U:.*]] = quant_llm.affine %{{.*}} by %[[A]], %[[I]] dims = [0] : tensor<8x4xf32>
// CHECK:         %[[Y:.*]] = quant_llm.linear %{{.*}}, %[[U]]
// CHECK:         %[[D:.*]] = quant_llm.affine inverse %{{.*}} by %[[AT]], %[[IT]] dims = [1] : tensor<4x8xf32>
// CHECK:         quant_llm.linear %[[Y]], %[[D]]
func.func @matrix(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %a = arith.constant dense<[[2.0, 1.0], [0.0, 2.0]]> : tensor<2x2xf64>
  %i = arith.constant dense<[[0.5, -0.25], [0.0, 0.5]]> : tensor<2x2xf64>
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.affine %0 by %a, %i dims = [1] : tensor<?x8xf32>, tensor<2x2xf64>, tensor<2x2xf64>
  %2 = quant_llm.affine inverse %1 by %a, %i dims = [1] : tensor<?x8xf32>, tensor<2x2xf64>, tensor<2x2xf64>
  %3 = quant_llm.linear %2, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %3 : tensor<?x4xf32>
}

// Data that the program computes: nothing can store what they make of a weight.
// CHECK-LABEL: func.func @computed
// CHECK:         quant_llm.linear
// CHECK:         quant_llm.scale_channels %
// CHECK:         quant_llm.scale_channels inverse
// CHECK:         quant_llm.linear
func.func @computed(%x: tensor<?x4xf32>, %s: tensor<8xf32>) -> tensor<?x4xf32> {
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.scale_channels %0 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %2 = quant_llm.scale_channels inverse %1 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf32>
  %3 = quant_llm.linear %2, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %3 : tensor<?x4xf32>
}

// Nothing absorbs the inverse: the pair is taken out.
// CHECK-LABEL: func.func @useless
// CHECK-NOT:     quant_llm.rotate
func.func @useless(%x: tensor<?x4xf32>) -> tensor<?x8xf32> {
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %0 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.rotate %0 hadamard 8 dims = [1] : tensor<?x8xf32>
  %2 = quant_llm.rotate inverse %1 hadamard 8 dims = [1] : tensor<?x8xf32>
  %3 = math.tanh %2 : tensor<?x8xf32>
  return %3 : tensor<?x8xf32>
}

// One of two users cannot take the inverse: it gets an op of its own.
// CHECK-LABEL: func.func @one_left
// CHECK:         %[[Y:.*]] = quant_llm.linear
// CHECK:         %[[B:.*]] = quant_llm.rotate inverse %[[Y]] hadamard 8 dims = [1] {quant_llm.online}
// CHECK:         math.tanh %[[B]]
// CHECK:         quant_llm.linear %[[Y]],
func.func @one_left(%x: tensor<?x4xf32>) -> (tensor<?x8xf32>, tensor<?x4xf32>) {
  %u = quant_llm.get_parameter @up : tensor<8x4xf32>
  %d = quant_llm.get_parameter @down : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %u : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x8xf32>
  %1 = quant_llm.rotate %0 hadamard 8 dims = [1] : tensor<?x8xf32>
  %2 = quant_llm.rotate inverse %1 hadamard 8 dims = [1] : tensor<?x8xf32>
  %3 = math.tanh %2 : tensor<?x8xf32>
  %4 = quant_llm.linear %2, %d : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %3, %4 : tensor<?x8xf32>, tensor<?x4xf32>
}

// Quantized weights stay as they are.
// CHECK-LABEL: func.func @quantized
// CHECK-NOT:     quant_llm.rotate
func.func @quantized(%x: tensor<?x8xf32>, %w: !quant_llm.weight<4x8xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>) -> tensor<?x4xf32> {
  %0 = quant_llm.rotate %x hadamard 8 dims = [1] : tensor<?x8xf32>
  %1 = quant_llm.rotate inverse %0 hadamard 8 dims = [1] : tensor<?x8xf32>
  %2 = quant_llm.linear %1, %w : (tensor<?x8xf32>, !quant_llm.weight<4x8xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>) -> tensor<?x4xf32>
  return %2 : tensor<?x4xf32>
}
