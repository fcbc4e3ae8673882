// Contractions with a parameter that stay as they are, and the reason that a remark
// gives for each.
// RUN: quant-opt %s -convert-linalg-to-quant-llm -remarks-filter=convert-linalg-to-quant-llm 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK
// RUN: quant-opt %s -convert-linalg-to-quant-llm | FileCheck %s

#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<64x64xf16>
quant_llm.parameter @experts from @a : tensor<4x64x64xf16>
quant_llm.parameter @wide from @a : tensor<64x64xf64>

// CHECK-LABEL: func @input_major
// CHECK:         linalg.matmul
// REMARK: not-raised.mlir:[[#@LINE+5]]:{{.*}} remark: [Missed] not raised
// REMARK-SAME: the parameter is stored as [inputs, outputs]; a linear needs [outputs, inputs], and this pass does not copy parameters
func.func @input_major(%x: tensor<3x64xf32>) -> tensor<3x64xf32> {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %zero = arith.constant dense<0.0> : tensor<3x64xf32>
  %1 = linalg.matmul ins(%x, %w : tensor<3x64xf32>, tensor<64x64xf16>) outs(%zero : tensor<3x64xf32>) -> tensor<3x64xf32>
  return %1 : tensor<3x64xf32>
}

// CHECK-LABEL: func @batched_weight
// CHECK:         linalg.batch_matmul
// REMARK: the weight is not a matrix of static shape
func.func @batched_weight(%x: tensor<4x3x64xf32>) -> tensor<4x3x64xf32> {
  %w = quant_llm.get_parameter @experts : tensor<4x64x64xf16>
  %zero = arith.constant dense<0.0> : tensor<4x3x64xf32>
  %1 = linalg.batch_matmul ins(%x, %w : tensor<4x3x64xf32>, tensor<4x64x64xf16>) outs(%zero : tensor<4x3x64xf32>) -> tensor<4x3x64xf32>
  return %1 : tensor<4x3x64xf32>
}

// CHECK-LABEL: func @double
// CHECK:         linalg.matmul
// REMARK: an operand has element type other than f16, bf16 or f32
func.func @double(%x: tensor<3x64xf64>) -> tensor<3x64xf64> {
  %w = quant_llm.get_parameter @wide : tensor<64x64xf64>
  %zero = arith.constant dense<0.0> : tensor<3x64xf64>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<3x64xf64>, tensor<64x64xf64>) outs(%zero : tensor<3x64xf64>) -> tensor<3x64xf64>
  return %1 : tensor<3x64xf64>
}

// CHECK-LABEL: func @difference
// CHECK:         linalg.generic
// REMARK: its body is not a sum of products of the two operands
func.func @difference(%x: tensor<3x64xf16>, %zero: tensor<3x64xf16>) -> tensor<3x64xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %1 = linalg.generic {indexing_maps = [#mk, #nk, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x64xf16>, tensor<64x64xf16>) outs(%zero : tensor<3x64xf16>) {
  ^bb0(%a: f16, %b: f16, %acc: f16):
    %3 = arith.subf %a, %b : f16
    %4 = arith.addf %acc, %3 : f16
    linalg.yield %4 : f16
  } -> tensor<3x64xf16>
  return %1 : tensor<3x64xf16>
}

// A function of the weight that is more than a widening.
// CHECK-LABEL: func @exponential_of_weight
// CHECK:         linalg.generic
// REMARK: its body is not a sum of products of the two operands
func.func @exponential_of_weight(%x: tensor<3x64xf16>, %zero: tensor<3x64xf16>) -> tensor<3x64xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %1 = linalg.generic {indexing_maps = [#mk, #nk, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x64xf16>, tensor<64x64xf16>) outs(%zero : tensor<3x64xf16>) {
  ^bb0(%a: f16, %b: f16, %acc: f16):
    %2 = math.exp %b : f16
    %3 = arith.mulf %a, %2 : f16
    %4 = arith.addf %acc, %3 : f16
    linalg.yield %4 : f16
  } -> tensor<3x64xf16>
  return %1 : tensor<3x64xf16>
}

// CHECK-LABEL: func @sum_over_both
// CHECK:         linalg.generic
// REMARK: it sums over 2 dimensions instead of one
func.func @sum_over_both(%x: tensor<3x64x64xf16>, %zero: tensor<3xf16>) -> tensor<3xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %1 = linalg.generic {
      indexing_maps = [affine_map<(m, n, k) -> (m, n, k)>, #nk, affine_map<(m, n, k) -> (m)>],
      iterator_types = ["parallel", "reduction", "reduction"]}
      ins(%x, %w : tensor<3x64x64xf16>, tensor<64x64xf16>) outs(%zero : tensor<3xf16>) {
  ^bb0(%a: f16, %b: f16, %acc: f16):
    %3 = arith.mulf %a, %b : f16
    %4 = arith.addf %acc, %3 : f16
    linalg.yield %4 : f16
  } -> tensor<3xf16>
  return %1 : tensor<3xf16>
}

// The output dimension indexes the activation as well: not a matrix product.
// CHECK-LABEL: func @row_wise_dot
// CHECK:         linalg.generic
// REMARK: the other operand is not indexed by the inputs of the parameter alone
func.func @row_wise_dot(%x: tensor<64x64xf16>, %zero: tensor<64xf16>) -> tensor<64xf16> {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %1 = linalg.generic {
      indexing_maps = [affine_map<(n, k) -> (n, k)>, affine_map<(n, k) -> (n, k)>, affine_map<(n, k) -> (n)>],
      iterator_types = ["parallel", "reduction"]}
      ins(%x, %w : tensor<64x64xf16>, tensor<64x64xf16>) outs(%zero : tensor<64xf16>) {
  ^bb0(%a: f16, %b: f16, %acc: f16):
    %3 = arith.mulf %a, %b : f16
    %4 = arith.addf %acc, %3 : f16
    linalg.yield %4 : f16
  } -> tensor<64xf16>
  return %1 : tensor<64xf16>
}

// Neither an attention product nor an elementwise use of a parameter concerns us.
// CHECK-LABEL: func @no_weight
// CHECK-COUNT-1: linalg.matmul
// REMARK-NOT: remark: [Missed]
func.func @no_weight(%x: tensor<3x64xf32>, %y: tensor<64x64xf32>) -> (tensor<3x64xf32>, tensor<64x64xf16>) {
  %zero = arith.constant dense<0.0> : tensor<3x64xf32>
  %1 = linalg.matmul ins(%x, %y : tensor<3x64xf32>, tensor<64x64xf32>) outs(%zero : tensor<3x64xf32>) -> tensor<3x64xf32>
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  %e = tensor.empty() : tensor<64x64xf16>
  %2 = linalg.add ins(%w, %w : tensor<64x64xf16>, tensor<64x64xf16>) outs(%e : tensor<64x64xf16>) -> tensor<64x64xf16>
  return %1, %2 : tensor<3x64xf32>, tensor<64x64xf16>
}
