// Weights with a low-rank part, as they are printed, and what becomes of them.
// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-linalg | FileCheck %s --check-prefix=LINALG
// RUN: quant-opt %s --convert-quant-llm-to-cpu | FileCheck %s --check-prefix=CPU

#scheme = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, low_rank = 2xbf16, rule = minmax>
!weight = !quant_llm.weight<8x64xf16, #scheme>

// CHECK: #[[S:.*]] = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, low_rank = 2xbf16, rule = minmax, rounding = half_even>

// CHECK-LABEL: func.func @components(
// CHECK-SAME: %[[W:.*]]: !quant_llm.weight<8x64xf16, #[[S]]>
// CHECK: %[[CODES:.*]], %[[SCALES:.*]], %[[ZEROS:.*]], %[[A:low_rank.a]], %[[B:low_rank.b]] = quant_llm.components %[[W]] : (!quant_llm.weight<8x64xf16, #[[S]]>) -> (tensor<8x32xi8>, tensor<8x2xf16>, tensor<8x2xi8>, tensor<8x2xbf16>, tensor<2x64xbf16>)
// CHECK: quant_llm.assemble %[[CODES]], %[[SCALES]], %[[ZEROS]], %[[A]], %[[B]]
func.func @components(%w: !weight) -> !weight {
  %0:5 = quant_llm.components %w : (!weight) -> (tensor<8x32xi8>, tensor<8x2xf16>, tensor<8x2xi8>, tensor<8x2xbf16>, tensor<2x64xbf16>)
  %1 = quant_llm.assemble %0#0, %0#1, %0#2, %0#3, %0#4 : (tensor<8x32xi8>, tensor<8x2xf16>, tensor<8x2xi8>, tensor<8x2xbf16>, tensor<2x64xbf16>) -> !weight
  return %1 : !weight
}

// The product is added to the values of the codes.
// LINALG-LABEL: func.func @dequantize(
// LINALG: %[[CODES:.*]] = linalg.generic
// LINALG: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]} ins(%{{.*}}, %{{.*}} : tensor<8x2xbf16>, tensor<2x64xbf16>) outs(%[[CODES]] : tensor<8x64xf32>)
// LINALG: arith.mulf
// LINALG: arith.addf
func.func @dequantize(%w: !weight) -> tensor<8x64xf16> {
  %0 = quant_llm.dequantize %w : !weight -> tensor<8x64xf16>
  return %0 : tensor<8x64xf16>
}

// Two thin products, and a kernel for the codes that adds what they yield.
// CPU-LABEL: func.func @linear(
// CPU-SAME: %[[X:.*]]: tensor<?x64xf32>, %[[CODES:.*]]: tensor<8x32xi8>, %[[SCALES:.*]]: tensor<8x2xf16>, %[[ZEROS:.*]]: tensor<8x2xi8>, %[[A:.*]]: tensor<8x2xbf16>, %[[B:.*]]: tensor<2x64xbf16>
// CPU: %[[T:.*]] = quant_llm.dispatch @[[KB:.*]] ins(%[[X]], %[[B]] : {{.*}}) outs(%{{.*}} : tensor<?x2xf32>)
// CPU: %[[U:.*]] = quant_llm.dispatch @[[KA:.*]] ins(%[[T]], %[[A]] : {{.*}}) outs(%{{.*}} : tensor<?x8xf32>)
// CPU: quant_llm.dispatch @[[KW:.*]] ins(%[[X]], %[[CODES]], %[[SCALES]], %[[ZEROS]], %[[U]] : {{.*}}) outs(%{{.*}} : tensor<?x8xf16>)
// CPU-NOT: quant_llm.assemble
func.func @linear(%x: tensor<?x64xf32>, %codes: tensor<8x32xi8>, %scales: tensor<8x2xf16>, %zeros: tensor<8x2xi8>, %a: tensor<8x2xbf16>, %b: tensor<2x64xbf16>) -> tensor<?x8xf16> {
  %w = quant_llm.assemble %codes, %scales, %zeros, %a, %b : (tensor<8x32xi8>, tensor<8x2xf16>, tensor<8x2xi8>, tensor<8x2xbf16>, tensor<2x64xbf16>) -> !weight
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !weight) -> tensor<?x8xf16>
  return %0 : tensor<?x8xf16>
}
