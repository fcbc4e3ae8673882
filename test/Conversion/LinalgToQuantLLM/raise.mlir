// RUN: quant-opt %s -convert-linalg-to-quant-llm -split-input-file | FileCheck %s

#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<64x256xf16>

// The form of the importer: mixed types, transposed by the indexing map.
// CHECK-LABEL: func @matmul_transposed_b
// CHECK-SAME:    %[[X:.*]]: tensor<?x256xf32>
// CHECK:         %[[W:.*]] = quant_llm.get_parameter @w
// CHECK:         %[[Y:.*]] = quant_llm.linear %[[X]], %[[W]] : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
// CHECK-NOT:     linalg.
// CHECK:         return %[[Y]]
func.func @matmul_transposed_b(%x: tensor<?x256xf32>, %m: index) -> tensor<?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty(%m) : tensor<?x64xf32>
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<?x256xf32>, tensor<64x256xf16>) outs(%0 : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// The form of torch-mlir: a transpose of the parameter, then a plain matmul.
// CHECK-LABEL: func @transpose_then_matmul
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<3x256xf16>, tensor<64x256xf16>) -> tensor<3x64xf16>
// CHECK-NOT:     linalg.
func.func @transpose_then_matmul(%x: tensor<3x256xf16>) -> tensor<3x64xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %e = tensor.empty() : tensor<256x64xf16>
  %t = linalg.transpose ins(%w : tensor<64x256xf16>) outs(%e : tensor<256x64xf16>) permutation = [1, 0]
  %zero = arith.constant dense<0.0> : tensor<3x64xf16>
  %1 = linalg.matmul ins(%x, %t : tensor<3x256xf16>, tensor<256x64xf16>) outs(%zero : tensor<3x64xf16>) -> tensor<3x64xf16>
  return %1 : tensor<3x64xf16>
}

// Widening as a generic op and as arith.extf, transpose as a generic op.
#t = affine_map<(d0, d1) -> (d1, d0)>
#id = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-LABEL: func @widened
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<3x256xf32>, tensor<64x256xf16>) -> tensor<3x64xf32>
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<3x256xf32>, tensor<64x256xf16>) -> tensor<3x64xf32>
// CHECK-NOT:     linalg.
func.func @widened(%x: tensor<3x256xf32>) -> (tensor<3x64xf32>, tensor<3x64xf32>) {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %e = tensor.empty() : tensor<256x64xf32>
  %t = linalg.generic {indexing_maps = [#t, #id], iterator_types = ["parallel", "parallel"]}
      ins(%w : tensor<64x256xf16>) outs(%e : tensor<256x64xf32>) {
  ^bb0(%a: f16, %out: f32):
    %b = arith.extf %a : f16 to f32
    linalg.yield %b : f32
  } -> tensor<256x64xf32>
  %zero = arith.constant dense<0.0> : tensor<3x64xf32>
  %0 = linalg.matmul ins(%x, %t : tensor<3x256xf32>, tensor<256x64xf32>) outs(%zero : tensor<3x64xf32>) -> tensor<3x64xf32>
  %f = arith.extf %w : tensor<64x256xf16> to tensor<64x256xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %f : tensor<3x256xf32>, tensor<64x256xf32>) outs(%zero : tensor<3x64xf32>) -> tensor<3x64xf32>
  return %0, %1 : tensor<3x64xf32>, tensor<3x64xf32>
}

// A batch dimension that the parameter is repeated along.
// CHECK-LABEL: func @batch_matmul
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<2x?x256xf32>, tensor<64x256xf16>) -> tensor<2x?x64xf32>
// CHECK-NOT:     linalg.
func.func @batch_matmul(%x: tensor<2x?x256xf32>, %init: tensor<2x?x64xf32>) -> tensor<2x?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %e = tensor.empty() : tensor<256x64xf16>
  %t = linalg.transpose ins(%w : tensor<64x256xf16>) outs(%e : tensor<256x64xf16>) permutation = [1, 0]
  %be = tensor.empty() : tensor<2x256x64xf16>
  %b = linalg.broadcast ins(%t : tensor<256x64xf16>) outs(%be : tensor<2x256x64xf16>) dimensions = [0]
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%init : tensor<2x?x64xf32>) -> tensor<2x?x64xf32>
  %1 = linalg.batch_matmul ins(%x, %b : tensor<2x?x256xf32>, tensor<2x256x64xf16>) outs(%0 : tensor<2x?x64xf32>) -> tensor<2x?x64xf32>
  return %1 : tensor<2x?x64xf32>
}

// A unit batch dimension that is added to the parameter.
// CHECK-LABEL: func @unit_dimension
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<1x5x256xf32>, tensor<64x256xf16>) -> tensor<1x5x64xf32>
func.func @unit_dimension(%x: tensor<1x5x256xf32>) -> tensor<1x5x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %b = tensor.expand_shape %w [[0, 1], [2]] output_shape [1, 64, 256] : tensor<64x256xf16> into tensor<1x64x256xf16>
  %zero = arith.constant dense<0.0> : tensor<1x5x64xf32>
  %1 = linalg.batch_matmul
    indexing_maps = [affine_map<(b, m, n, k) -> (b, m, k)>, affine_map<(b, m, n, k) -> (b, n, k)>, affine_map<(b, m, n, k) -> (b, m, n)>]
    ins(%x, %b : tensor<1x5x256xf32>, tensor<1x64x256xf16>) outs(%zero : tensor<1x5x64xf32>) -> tensor<1x5x64xf32>
  return %1 : tensor<1x5x64xf32>
}

// CHECK-LABEL: func @vectors
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<256xf16>, tensor<64x256xf16>) -> tensor<64xf16>
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<256xf16>, tensor<64x256xf16>) -> tensor<64xf16>
// CHECK-NOT:     linalg.
func.func @vectors(%x: tensor<256xf16>) -> (tensor<64xf16>, tensor<64xf16>) {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %zero = arith.constant dense<0.0> : tensor<64xf16>
  %0 = linalg.matvec ins(%w, %x : tensor<64x256xf16>, tensor<256xf16>) outs(%zero : tensor<64xf16>) -> tensor<64xf16>
  %e = tensor.empty() : tensor<256x64xf16>
  %t = linalg.transpose ins(%w : tensor<64x256xf16>) outs(%e : tensor<256x64xf16>) permutation = [1, 0]
  %1 = linalg.vecmat ins(%x, %t : tensor<256xf16>, tensor<256x64xf16>) outs(%zero : tensor<64xf16>) -> tensor<64xf16>
  return %0, %1 : tensor<64xf16>, tensor<64xf16>
}

// y^T = W x^T: activation and result are transposed around the linear.
// CHECK-LABEL: func @weight_first
// CHECK-SAME:    %[[X:.*]]: tensor<256x?xf32>
// CHECK:         %[[XT:.*]] = linalg.transpose ins(%[[X]] : tensor<256x?xf32>) outs(%{{.*}} : tensor<?x256xf32>) permutation = [1, 0]
// CHECK:         %[[Y:.*]] = quant_llm.linear %[[XT]], %{{.*}} -> tensor<?x64xf32>
// CHECK:         %[[YT:.*]] = linalg.transpose ins(%[[Y]] : tensor<?x64xf32>) outs(%{{.*}} : tensor<64x?xf32>) permutation = [1, 0]
// CHECK:         return %[[YT]]
func.func @weight_first(%x: tensor<256x?xf32>, %e: tensor<64x?xf32>) -> tensor<64x?xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<64x?xf32>) -> tensor<64x?xf32>
  %1 = linalg.matmul ins(%w, %x : tensor<64x256xf16>, tensor<256x?xf32>) outs(%0 : tensor<64x?xf32>) -> tensor<64x?xf32>
  return %1 : tensor<64x?xf32>
}

// CHECK-LABEL: func @generic
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} : (tensor<2x?x256xbf16>, tensor<64x256xf16>) -> tensor<2x?x64xf32>
// CHECK-NOT:     linalg.
func.func @generic(%x: tensor<2x?x256xbf16>, %e: tensor<2x?x64xf32>) -> tensor<2x?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<2x?x64xf32>) -> tensor<2x?x64xf32>
  %1 = linalg.generic {
      indexing_maps = [affine_map<(b, n, k, m) -> (n, k)>, affine_map<(b, n, k, m) -> (b, m, k)>, affine_map<(b, n, k, m) -> (b, m, n)>],
      iterator_types = ["parallel", "parallel", "reduction", "parallel"]}
      ins(%w, %x : tensor<64x256xf16>, tensor<2x?x256xbf16>) outs(%0 : tensor<2x?x64xf32>) {
  ^bb0(%a: f16, %b: bf16, %acc: f32):
    %2 = arith.extf %a : f16 to f32
    %3 = arith.extf %b : bf16 to f32
    %4 = arith.mulf %3, %2 : f32
    %5 = arith.addf %4, %acc : f32
    linalg.yield %5 : f32
  } -> tensor<2x?x64xf32>
  return %1 : tensor<2x?x64xf32>
}

// CHECK-LABEL: func @fma
// CHECK:         quant_llm.linear
// CHECK-NOT:     linalg.
func.func @fma(%x: tensor<256xf32>, %zero: tensor<64xf32>) -> tensor<64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %c = arith.constant 0.0 : f32
  %zeros = tensor.splat %c : tensor<64xf32>
  %1 = linalg.generic {
      indexing_maps = [affine_map<(n, k) -> (k)>, affine_map<(n, k) -> (n, k)>, affine_map<(n, k) -> (n)>],
      iterator_types = ["parallel", "reduction"]}
      ins(%x, %w : tensor<256xf32>, tensor<64x256xf16>) outs(%zeros : tensor<64xf32>) {
  ^bb0(%a: f32, %b: f16, %acc: f32):
    %3 = arith.extf %b : f16 to f32
    %4 = math.fma %3, %a, %acc : f32
    linalg.yield %4 : f32
  } -> tensor<64xf32>
  return %1 : tensor<64xf32>
}

// An accumulator that starts at something else is added by the epilogue.
// CHECK-LABEL: func @residual
// CHECK-SAME:    %[[X:[^:]*]]: tensor<?x256xf32>, %[[R:[^:]*]]: tensor<?x64xf32>
// CHECK:         quant_llm.linear %[[X]], %{{.*}} epilogue(%[[R]] : tensor<?x64xf32>) {
// CHECK:         ^bb0(%[[ACC:.*]]: f32, %[[E:.*]]: f32):
// CHECK:           %[[SUM:.*]] = arith.addf %[[ACC]], %[[E]] : f32
// CHECK:           quant_llm.yield %[[SUM]] : f32
// CHECK:         } : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
func.func @residual(%x: tensor<?x256xf32>, %r: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<?x256xf32>, tensor<64x256xf16>) outs(%r : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// CHECK-LABEL: func @broadcast_bias
// CHECK-SAME:    %[[X:[^:]*]]: tensor<3x256xf16>, %[[B:[^:]*]]: tensor<64xf16>
// CHECK:         quant_llm.linear %[[X]], %{{.*}} epilogue(%[[B]] : tensor<64xf16>) {
// CHECK:         ^bb0(%[[ACC:.*]]: f32, %[[E:.*]]: f16):
// CHECK:           %[[WIDE:.*]] = arith.extf %[[E]] : f16 to f32
// CHECK:           %[[SUM:.*]] = arith.addf %[[ACC]], %[[WIDE]] : f32
// CHECK:           %[[OUT:.*]] = arith.truncf %[[SUM]] : f32 to f16
// CHECK:           quant_llm.yield %[[OUT]] : f16
// CHECK-NOT:     linalg.
func.func @broadcast_bias(%x: tensor<3x256xf16>, %bias: tensor<64xf16>) -> tensor<3x64xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %e = tensor.empty() : tensor<3x64xf16>
  %b = linalg.broadcast ins(%bias : tensor<64xf16>) outs(%e : tensor<3x64xf16>) dimensions = [0]
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<3x256xf16>, tensor<64x256xf16>) outs(%b : tensor<3x64xf16>) -> tensor<3x64xf16>
  return %1 : tensor<3x64xf16>
}

// Shapes that are known to different degrees.
// CHECK-LABEL: func @casts
// CHECK:         %[[X:.*]] = tensor.cast %{{.*}} : tensor<?x?xf32> to tensor<?x256xf32>
// CHECK:         %[[Y:.*]] = quant_llm.linear %[[X]], %{{.*}} -> tensor<?x64xf32>
// CHECK:         tensor.cast %[[Y]] : tensor<?x64xf32> to tensor<4x?xf32>
func.func @casts(%x: tensor<?x?xf32>, %e: tensor<4x?xf32>) -> tensor<4x?xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<4x?xf32>) -> tensor<4x?xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<?x?xf32>, tensor<64x256xf16>) outs(%0 : tensor<4x?xf32>) -> tensor<4x?xf32>
  return %1 : tensor<4x?xf32>
}

// Front ends flatten the batch for the matmul; a linear does not need that.
// CHECK-LABEL: func @flattened_batch
// CHECK-SAME:    %[[X:[^:]*]]: tensor<2x?x256xf32>
// CHECK-NOT:     tensor.collapse_shape
// CHECK:         %[[Y:.*]] = quant_llm.linear %[[X]], %{{.*}} : (tensor<2x?x256xf32>, tensor<64x256xf16>) -> tensor<2x?x64xf32>
// CHECK-NOT:     tensor.expand_shape
// CHECK:         return %[[Y]]
func.func @flattened_batch(%x: tensor<2x?x256xf32>, %e: tensor<?x64xf32>, %t: index) -> tensor<2x?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %flat = tensor.collapse_shape %x [[0, 1], [2]] : tensor<2x?x256xf32> into tensor<?x256xf32>
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%flat, %w : tensor<?x256xf32>, tensor<64x256xf16>) outs(%0 : tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = tensor.expand_shape %1 [[0, 1], [2]] output_shape [2, %t, 64] : tensor<?x64xf32> into tensor<2x?x64xf32>
  return %2 : tensor<2x?x64xf32>
}

// Two unknown sizes: nothing says that the result is split as the input was.
// CHECK-LABEL: func @unknown_batch
// CHECK:         tensor.collapse_shape
// CHECK:         quant_llm.linear
// CHECK:         tensor.expand_shape
func.func @unknown_batch(%x: tensor<?x?x256xf32>, %e: tensor<?x64xf32>, %b: index, %t: index) -> tensor<?x?x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x256xf16>
  %flat = tensor.collapse_shape %x [[0, 1], [2]] : tensor<?x?x256xf32> into tensor<?x256xf32>
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?x64xf32>) -> tensor<?x64xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%flat, %w : tensor<?x256xf32>, tensor<64x256xf16>) outs(%0 : tensor<?x64xf32>) -> tensor<?x64xf32>
  %2 = tensor.expand_shape %1 [[0, 1], [2]] output_shape [%b, %t, 64] : tensor<?x64xf32> into tensor<?x?x64xf32>
  return %2 : tensor<?x?x64xf32>
}
