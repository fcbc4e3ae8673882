// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s

// Fields in any order; defaults; the printer writes every field.
// CHECK-DAG: = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16>} {}
// CHECK-DAG: = #quant_llm.scheme<int8, block = [-1, -1], scale = bf16, rule = absmax_full, rounding = half_away>
module attributes {test.s = #quant_llm.scheme<int8, rounding = half_away, rule = absmax_full, scale = bf16, block = [-1, -1]>} {}
// CHECK-DAG: = #quant_llm.scheme<uint3, block = [1, 128], scale = f32, zero = int, rule = minmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<uint3, block = [1, 128], scale = f32, zero = int, rule = minmax>} {}
// CHECK-DAG: = #quant_llm.scheme<uint2, block = [-1, 1], scale = f16, zero = f16, rule = mse, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<uint2, block = [-1, 1], scale = f16, zero = f16, rule = mse>} {}
// CHECK-DAG: = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, low_rank = 8xbf16, rule = minmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 32], rule = minmax, low_rank = 8xbf16, scale = f16, zero = int>} {}
// CHECK-DAG: = #quant_llm.scheme<f4E2M1FN, block = [1, 32], scale = f8E8M0FNU, rule = absmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<f4E2M1FN, block = [1, 32], scale = f8E8M0FNU>} {}
// CHECK-DAG: = #quant_llm.scheme<codebook<1, [0.000000e+00, 1.000000e+00]>, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<codebook<1, [0.0, 1.0]>, block = [1, -1], scale = f32>} {}
// CHECK-DAG: #[[INNER:.*]] = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: = #quant_llm.scheme<f4E2M1FN, block = [1, 16], scale = #[[INNER]], rule = absmax, rounding = half_even>
module attributes {test.s = #quant_llm.scheme<f4E2M1FN, block = [1, 16], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32>>} {}

// Every element.
module attributes {
  // CHECK: test.e01 = #quant_llm.element<int1>
  test.e01 = #quant_llm.element<int1>,
  // CHECK-SAME: test.e02 = #quant_llm.element<int8>
  test.e02 = #quant_llm.element<int8>,
  // CHECK-SAME: test.e03 = #quant_llm.element<uint1>
  test.e03 = #quant_llm.element<uint1>,
  // CHECK-SAME: test.e04 = #quant_llm.element<uint8>
  test.e04 = #quant_llm.element<uint8>,
  // CHECK-SAME: test.e05 = #quant_llm.element<ternary>
  test.e05 = #quant_llm.element<ternary>,
  // CHECK-SAME: test.e06 = #quant_llm.element<f4E2M1FN>
  test.e06 = #quant_llm.element<f4E2M1FN>,
  // CHECK-SAME: test.e07 = #quant_llm.element<f6E2M3FN>
  test.e07 = #quant_llm.element<f6E2M3FN>,
  // CHECK-SAME: test.e08 = #quant_llm.element<f6E3M2FN>
  test.e08 = #quant_llm.element<f6E3M2FN>,
  // CHECK-SAME: test.e09 = #quant_llm.element<f8E4M3FN>
  test.e09 = #quant_llm.element<f8E4M3FN>,
  // CHECK-SAME: test.e10 = #quant_llm.element<f8E5M2>
  test.e10 = #quant_llm.element<f8E5M2>,
  // CHECK-SAME: test.e11 = #quant_llm.element<nf4>
  test.e11 = #quant_llm.element<nf4>,
  // Values are printed with all their digits, so that they come back exactly.
  // CHECK-SAME: test.e12 = #quant_llm.element<codebook<2, [-1.000000e+00, -0.000000e+00, 0.333333343, 3.40282347E+38]>>
  test.e12 = #quant_llm.element<codebook<2, [-1.0, -0.0, 0.333333343, 0x7F7FFFFF]>>
} {}
