// RUN: quant-opt %s -quant-llm-fuse-epilogues | FileCheck %s
// RUN: quant-opt %s -quant-llm-fuse-epilogues='residual=false gated=false' | FileCheck %s --check-prefix=OFF

#mn = affine_map<(m, n) -> (m, n)>
#n = affine_map<(m, n) -> (n)>
#m = affine_map<(m, n) -> (m)>

// CHECK-LABEL: func @bias
// CHECK-SAME:    %[[X:[^:]*]]: tensor<?x64xf32>, %[[W:[^:]*]]: tensor<32x64xf16>, %[[B:[^:]*]]: tensor<32xf16>
// CHECK:         %[[Y:.*]] = quant_llm.linear %[[X]], %[[W]] {reason = "r"} epilogue(%[[B]] : tensor<32xf16>) {
// CHECK:         ^bb0(%[[A:.*]]: f32, %[[E:.*]]: f16):
// CHECK:           %[[WIDE:.*]] = arith.extf %[[E]] : f16 to f32
// CHECK:           %[[SUM:.*]] = arith.addf %[[A]], %[[WIDE]] : f32
// CHECK:           quant_llm.yield %[[SUM]] : f32
// CHECK:         } : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
// CHECK-NOT:     linalg.
// CHECK:         return %[[Y]]
func.func @bias(%x: tensor<?x64xf32>, %w: tensor<32x64xf16>, %b: tensor<32xf16>, %e: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %0 = quant_llm.linear %x, %w {reason = "r"} : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
  %1 = linalg.generic {indexing_maps = [#mn, #n, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%0, %b : tensor<?x32xf32>, tensor<32xf16>) outs(%e : tensor<?x32xf32>) {
  ^bb0(%a: f32, %c: f16, %out: f32):
    %2 = arith.extf %c : f16 to f32
    %3 = arith.addf %a, %2 : f32
    linalg.yield %3 : f32
  } -> tensor<?x32xf32>
  return %1 : tensor<?x32xf32>
}

// A bias that is broadcast first, then a residual, both as named ops; the second is
// fused into the epilogue that the first has made.
// CHECK-LABEL: func @bias_and_residual
// CHECK-SAME:    %[[B:[^:]*]]: tensor<32xf32>, %[[R:[^:]*]]: tensor<4x32xf32>
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} epilogue(%[[B]], %[[R]] : tensor<32xf32>, tensor<4x32xf32>) {
// CHECK:         ^bb0(%[[A:.*]]: f32, %[[E:.*]]: f32, %[[F:.*]]: f32):
// CHECK:           %[[SUM:.*]] = arith.addf %[[A]], %[[E]] : f32
// CHECK:           %[[SUM2:.*]] = arith.addf %[[F]], %[[SUM]] : f32
// CHECK:           quant_llm.yield %[[SUM2]] : f32
// CHECK-NOT:     linalg.
// OFF-LABEL: func @bias_and_residual
// OFF:         quant_llm.linear {{.*}} epilogue(%{{.*}} : tensor<32xf32>)
// OFF:         linalg.add
func.func @bias_and_residual(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>, %b: tensor<32xf32>, %r: tensor<4x32xf32>) -> tensor<4x32xf32> {
  %e = tensor.empty() : tensor<4x32xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = linalg.broadcast ins(%b : tensor<32xf32>) outs(%e : tensor<4x32xf32>) dimensions = [0]
  %2 = linalg.add ins(%0, %1 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %3 = linalg.add ins(%r, %2 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %3 : tensor<4x32xf32>
}

// silu(x Wg^T) * (x Wu^T) as the importer writes it.
// CHECK-LABEL: func @gated
// CHECK-SAME:    %[[X:[^:]*]]: tensor<?x64xf32>, %[[G:[^:]*]]: tensor<32x64xf16>, %[[U:[^:]*]]: tensor<32x64xf16>
// CHECK:         quant_llm.linear %[[X]], %[[G]], %[[U]] epilogue {
// CHECK:         ^bb0(%[[A:.*]]: f32, %[[B:.*]]: f32):
// CHECK:           %[[NEG:.*]] = arith.negf %[[A]] : f32
// CHECK:           %[[EXP:.*]] = math.exp %[[NEG]] : f32
// CHECK:           %[[ONE:.*]] = arith.constant 1.0
// CHECK:           %[[SUM:.*]] = arith.addf %[[EXP]], %[[ONE]] : f32
// CHECK:           %[[SILU:.*]] = arith.divf %[[A]], %[[SUM]] : f32
// CHECK:           %[[OUT:.*]] = arith.mulf %[[SILU]], %[[B]] : f32
// CHECK:           quant_llm.yield %[[OUT]] : f32
// CHECK-NOT:     linalg.
// OFF-LABEL: func @gated
// OFF-COUNT-2: quant_llm.linear
// OFF:         linalg.generic
func.func @gated(%x: tensor<?x64xf32>, %g: tensor<32x64xf16>, %u: tensor<32x64xf16>, %e: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %one = arith.constant 1.0 : f32
  %0 = quant_llm.linear %x, %g : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
  %1 = quant_llm.linear %x, %u : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
  %2 = linalg.generic {indexing_maps = [#mn, #mn, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%0, %1 : tensor<?x32xf32>, tensor<?x32xf32>) outs(%e : tensor<?x32xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %3 = arith.negf %a : f32
    %4 = math.exp %3 : f32
    %5 = arith.addf %4, %one : f32
    %6 = arith.divf %a, %5 : f32
    %7 = arith.mulf %6, %b : f32
    linalg.yield %7 : f32
  } -> tensor<?x32xf32>
  return %2 : tensor<?x32xf32>
}

// The same as torch-mlir writes it: sigmoid, product and product in three ops, in f16. The
// roundings between the ops stay.
// CHECK-LABEL: func @gated_in_pieces
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}}, %{{.*}} epilogue {
// CHECK:         ^bb0(%[[A:.*]]: f32, %[[B:.*]]: f32):
// CHECK-DAG:       %[[AH:.*]] = arith.truncf %[[A]] : f32 to f16
// CHECK-DAG:       %[[NEG:.*]] = arith.negf %[[AH]] : f16
// CHECK-DAG:       %[[EXP:.*]] = math.exp %[[NEG]] : f16
// CHECK-DAG:       %[[SIG:.*]] = arith.divf %{{.*}}, %{{.*}} : f16
// CHECK-DAG:       %[[SILU:.*]] = arith.mulf %[[SIG]], %[[AH]] : f16
// CHECK-DAG:       %[[BH:.*]] = arith.truncf %[[B]] : f32 to f16
// CHECK:           %[[OUT:.*]] = arith.mulf %[[SILU]], %[[BH]] : f16
// CHECK:           quant_llm.yield %[[OUT]] : f16
// CHECK-NOT:     linalg.
func.func @gated_in_pieces(%x: tensor<?x64xf16>, %g: tensor<32x64xf16>, %u: tensor<32x64xf16>, %e: tensor<?x32xf16>) -> tensor<?x32xf16> {
  %one = arith.constant 1.0 : f16
  %0 = quant_llm.linear %x, %g : (tensor<?x64xf16>, tensor<32x64xf16>) -> tensor<?x32xf16>
  %1 = linalg.generic {indexing_maps = [#mn, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%0 : tensor<?x32xf16>) outs(%e : tensor<?x32xf16>) {
  ^bb0(%a: f16, %out: f16):
    %3 = arith.negf %a : f16
    %4 = math.exp %3 : f16
    %5 = arith.addf %4, %one : f16
    %6 = arith.divf %one, %5 : f16
    linalg.yield %6 : f16
  } -> tensor<?x32xf16>
  %2 = linalg.generic {indexing_maps = [#mn, #mn, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%1, %0 : tensor<?x32xf16>, tensor<?x32xf16>) outs(%e : tensor<?x32xf16>) {
  ^bb0(%a: f16, %b: f16, %out: f16):
    %3 = arith.mulf %a, %b : f16
    linalg.yield %3 : f16
  } -> tensor<?x32xf16>
  %7 = quant_llm.linear %x, %u : (tensor<?x64xf16>, tensor<32x64xf16>) -> tensor<?x32xf16>
  %8 = linalg.mul ins(%2, %7 : tensor<?x32xf16>, tensor<?x32xf16>) outs(%e : tensor<?x32xf16>) -> tensor<?x32xf16>
  return %8 : tensor<?x32xf16>
}

// Named ops all the way: neg, exp, ... each is an op of its own.
// CHECK-LABEL: func @named_silu
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} epilogue {
// CHECK:           arith.negf
// CHECK:           math.exp
// CHECK:           arith.divf
// CHECK:         } :
// CHECK-NOT:     linalg.
func.func @named_silu(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>) -> tensor<4x32xf32> {
  %e = tensor.empty() : tensor<4x32xf32>
  %one = arith.constant 1.0 : f32
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = linalg.negf ins(%0 : tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %2 = linalg.exp ins(%1 : tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %3 = linalg.generic {indexing_maps = [#mn, affine_map<(m, n) -> ()>, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%2, %one : tensor<4x32xf32>, f32) outs(%e : tensor<4x32xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %5 = arith.addf %a, %b : f32
    linalg.yield %5 : f32
  } -> tensor<4x32xf32>
  %4 = linalg.div ins(%0, %3 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %4 : tensor<4x32xf32>
}

// The second op does not read the result of the first, it only takes its shape: the two cannot
// become one, so they stay what they are, named ops.
// CHECK-LABEL: func @joined_by_shape_only
// CHECK:         %[[Y:.*]] = quant_llm.linear %{{.*}}, %{{.*}} :
// CHECK:         %[[NEG:.*]] = linalg.negf ins(%[[Y]] : tensor<4x32xf32>)
// CHECK:         %[[EXP:.*]] = linalg.exp ins(%[[Y]] : tensor<4x32xf32>) outs(%[[NEG]] : tensor<4x32xf32>)
// CHECK:         return %[[EXP]]
func.func @joined_by_shape_only(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>) -> tensor<4x32xf32> {
  %e = tensor.empty() : tensor<4x32xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = linalg.negf ins(%0 : tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %2 = linalg.exp ins(%0 : tensor<4x32xf32>) outs(%1 : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %2 : tensor<4x32xf32>
}

// Of three users one is of that kind; the others are fused around it.
// CHECK-LABEL: func @two_of_three
// CHECK:         %[[Y:.*]] = quant_llm.linear %{{.*}}, %{{.*}} :
// CHECK:         %[[NEG:.*]] = linalg.negf ins(%[[Y]] : tensor<4x32xf32>)
// CHECK:         linalg.generic {{.*}} ins(%[[Y]]{{.*}} outs(%[[NEG]] : tensor<4x32xf32>)
// CHECK:           math.exp
// CHECK:           arith.addf
func.func @two_of_three(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>) -> tensor<4x32xf32> {
  %e = tensor.empty() : tensor<4x32xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = linalg.negf ins(%0 : tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %2 = linalg.exp ins(%0 : tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  %3 = linalg.add ins(%2, %0 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%1 : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %3 : tensor<4x32xf32>
}

// A second use of the result keeps everything as it is.
// CHECK-LABEL: func @two_uses
// CHECK:         %[[Y:.*]] = quant_llm.linear %{{.*}}, %{{.*}} :
// CHECK:         linalg.add
func.func @two_uses(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>, %r: tensor<4x32xf32>) -> (tensor<4x32xf32>, tensor<4x32xf32>) {
  %e = tensor.empty() : tensor<4x32xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = linalg.add ins(%r, %0 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %0, %1 : tensor<4x32xf32>, tensor<4x32xf32>
}

// Linears with other inputs, or of other schemes, make no pair: one of them is the residual of
// the other.
// CHECK-LABEL: func @no_pair
// CHECK:         %[[B:.*]] = quant_llm.linear %{{.*}}, %{{.*}} :
// CHECK:         quant_llm.linear %{{.*}}, %{{.*}} epilogue(%[[B]] : tensor<4x32xf32>)
func.func @no_pair(%x: tensor<4x64xf32>, %y: tensor<4x64xf32>, %w: tensor<32x64xf16>) -> tensor<4x32xf32> {
  %e = tensor.empty() : tensor<4x32xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = quant_llm.linear %y, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %2 = linalg.mul ins(%0, %1 : tensor<4x32xf32>, tensor<4x32xf32>) outs(%e : tensor<4x32xf32>) -> tensor<4x32xf32>
  return %2 : tensor<4x32xf32>
}

// One value per row, a reduction, a transposed result: not an epilogue.
// CHECK-LABEL: func @not_an_epilogue
// CHECK-COUNT-3: quant_llm.linear %{{.*}}, %{{.*}} :
// CHECK:         linalg.generic
// CHECK:         linalg.reduce
// CHECK:         linalg.transpose
func.func @not_an_epilogue(%x: tensor<4x64xf32>, %w: tensor<32x64xf16>, %r: tensor<4xf32>) -> (tensor<4x32xf32>, tensor<4xf32>, tensor<32x4xf32>) {
  %e = tensor.empty() : tensor<4x32xf32>
  %t = tensor.empty() : tensor<32x4xf32>
  %0 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %1 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %2 = quant_llm.linear %x, %w : (tensor<4x64xf32>, tensor<32x64xf16>) -> tensor<4x32xf32>
  %3 = linalg.generic {indexing_maps = [#mn, #m, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%0, %r : tensor<4x32xf32>, tensor<4xf32>) outs(%e : tensor<4x32xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %6 = arith.addf %a, %b : f32
    linalg.yield %6 : f32
  } -> tensor<4x32xf32>
  %4 = linalg.reduce ins(%1 : tensor<4x32xf32>) outs(%r : tensor<4xf32>) dimensions = [1]
    (%in: f32, %acc: f32) {
      %7 = arith.addf %in, %acc : f32
      linalg.yield %7 : f32
    }
  %5 = linalg.transpose ins(%2 : tensor<4x32xf32>) outs(%t : tensor<32x4xf32>) permutation = [1, 0]
  return %3, %4, %5 : tensor<4x32xf32>, tensor<4xf32>, tensor<32x4xf32>
}
