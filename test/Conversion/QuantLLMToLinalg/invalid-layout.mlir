// Weights in the layout of GPU kernels are refused by every lowering for the CPU.
// RUN: quant-opt %s -split-input-file -verify-diagnostics -convert-quant-llm-to-linalg
// RUN: quant-opt %s -split-input-file -verify-diagnostics -convert-quant-llm-to-cpu
// RUN: quant-opt %s -split-input-file -verify-diagnostics -quant-llm-to-cpu

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%x: tensor<?x64xf32>, %packed: tensor<4x1x1024xi8>, %scales: tensor<4x1x16xf16>, %output_scale: tensor<f32>) -> tensor<?x8xf32> {
  %w = quant_llm.assemble %packed, %scales, %output_scale : (tensor<4x1x1024xi8>, tensor<4x1x16xf16>, tensor<f32>) -> !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>
  // expected-error @below {{expected weights in canonical storage but got the layout #quant_llm.fragment_layout, which only GPU kernels read; lower the module as it was before quant-llm-prepack}}
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>) -> tensor<?x8xf32>
  return %0 : tensor<?x8xf32>
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @w from @model : !quant_llm.weight<8x64xf32, #int4, #quant_llm.fragment_layout>
func.func @f() -> tensor<8x64xf32> {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf32, #int4, #quant_llm.fragment_layout>
  // expected-error @below {{'quant_llm.dequantize' op expected weights in canonical storage}}
  %0 = quant_llm.dequantize %w : !quant_llm.weight<8x64xf32, #int4, #quant_llm.fragment_layout> -> tensor<8x64xf32>
  return %0 : tensor<8x64xf32>
}
