// RUN: quant-opt %s --split-input-file --verify-diagnostics --convert-quant-llm-to-gpu=chip=sm_80
// RUN: not quant-opt /dev/null --convert-quant-llm-to-gpu=chip=sm_5 2>&1 | FileCheck %s
// CHECK: error: convert-quant-llm-to-gpu: invalid option 'chip': expected a chip out of {{.*}} but got 'sm_5'

!weight = !quant_llm.weight<128x64xf16, #quant_llm.scheme<int4, block = [1, 64], scale = f16>>
#config = #quant_llm.kernel_config<few_tokens, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = tensor>
func.func @chip(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  // expected-error @below {{kernel 0 cannot be built: expected a chip with bulk copies (sm_90 or later) for the family few_tokens but got sm_80}}
  %y = quant_llm.linear %x, %w {kernels = [#config]} : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// -----

#config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>
func.func @dense(%x: tensor<?x64xf16>, %w: tensor<128x64xf16>) -> tensor<?x128xf16> {
  // expected-error @below {{has kernels but expected quantized weights but got dense ones}}
  %y = quant_llm.linear %x, %w {kernels = [#config]} : (tensor<?x64xf16>, tensor<128x64xf16>) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// -----

!weight = !quant_llm.weight<128x64xf16, #quant_llm.scheme<int4, block = [1, 64], scale = f16>>
#config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>
func.func @twice(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  // expected-error @below {{has kernels already; expected the pass to run once}}
  %y = quant_llm.linear %x, %w {kernels = [#config], kernel_symbols = [@a::@b]} : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}
