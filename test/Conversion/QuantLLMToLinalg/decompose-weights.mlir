// RUN: quant-opt %s --quant-llm-decompose-weights | FileCheck %s

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
#zero = #quant_llm.scheme<uint4, block = [2, -1], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>, zero = int, rule = minmax, rounding = half_even>

quant_llm.archive @model "model.safetensors"
// CHECK-NOT: quant_llm.parameter @w from
// CHECK: quant_llm.parameter @w.codes from @model key "w.codes" : tensor<8x32xi8>
// CHECK: quant_llm.parameter @w.scales from @model key "w.scales" : tensor<8x1xf16>
quant_llm.parameter @w from @model : !quant_llm.weight<8x64xf16, #scheme>
// CHECK: quant_llm.parameter @z.codes from @model key "other.codes" : tensor<8x32xi8>
// CHECK: quant_llm.parameter @z.scales.codes from @model key "other.scales.codes" : tensor<4x1xi8>
// CHECK: quant_llm.parameter @z.scales.scales from @model key "other.scales.scales" : tensor<1x1xf32>
// CHECK: quant_llm.parameter @z.zeros from @model key "other.zeros" : tensor<4x1xi8>
quant_llm.parameter @z from @model key "other" : !quant_llm.weight<8x64xf16, #zero>
// CHECK: quant_llm.parameter @dense from @model : tensor<8xf32>
quant_llm.parameter @dense from @model : tensor<8xf32>

// CHECK-LABEL: func.func @f
// CHECK: %[[C:.*]] = quant_llm.get_parameter @w.codes
// CHECK: %[[S:.*]] = quant_llm.get_parameter @w.scales
// CHECK: quant_llm.assemble %[[C]], %[[S]]
func.func @f() -> (!quant_llm.weight<8x64xf16, #scheme>, !quant_llm.weight<8x64xf16, #zero>, tensor<8xf32>) {
  %0 = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #scheme>
  %1 = quant_llm.get_parameter @z : !quant_llm.weight<8x64xf16, #zero>
  %2 = quant_llm.get_parameter @dense : tensor<8xf32>
  return %0, %1, %2 : !quant_llm.weight<8x64xf16, #scheme>, !quant_llm.weight<8x64xf16, #zero>, tensor<8xf32>
}
