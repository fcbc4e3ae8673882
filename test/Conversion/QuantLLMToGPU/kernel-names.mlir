// Names of kernels are names in PTX whatever the element is called.
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 --quant-llm-gpu-to-ptx | FileCheck %s

#scheme = #quant_llm.scheme<codebook<2, [-4.0, -0.5, 0.5, 2.0]>, block = [1, 64], scale = f16, zero = f16, rule = minmax>
!weight = !quant_llm.weight<128x64xf16, #scheme>
#few = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>

// CHECK: .visible .entry linear_128x64_codebook_multistage_16x8(
func.func @codebook(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#few]} : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}
