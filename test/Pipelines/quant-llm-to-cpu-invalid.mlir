// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-to-cpu
// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-to-cpu=reference

#s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
func.func @argument(%x: tensor<?x64xf32>, %w: !quant_llm.weight<8x64xf16, #s>) -> tensor<?x8xf32> {
  // expected-error @+1 {{expected the weight of 'quant_llm.components' to be a parameter or assembled from its components}}
  %y = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #s>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

#s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
func.func @quantize(%m: tensor<8x64xf16>) -> tensor<8x64xf16> {
  // expected-error @+1 {{expected the weight of 'quant_llm.quantize' to be a parameter or assembled from its components}}
  %w = quant_llm.quantize %m : tensor<8x64xf16> -> !quant_llm.weight<8x64xf16, #s>
  %y = quant_llm.dequantize %w : !quant_llm.weight<8x64xf16, #s> -> tensor<8x64xf16>
  return %y : tensor<8x64xf16>
}

// -----

func.func @unranked(%x: tensor<*xf32>) -> tensor<*xf32> {
  // expected-error @+1 {{expected tensors and buffers of known rank in 'func.return'}}
  return %x : tensor<*xf32>
}
