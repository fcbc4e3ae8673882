// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 --quant-llm-gpu-to-ptx | FileCheck %s --check-prefix=PTX

#nf4 = #quant_llm.scheme<nf4, block = [1, 64], scale = f16>
#three = #quant_llm.scheme<codebook<3, [-1.0, -0.5, -0.25, 0.0, 0.125, 0.25, 0.5, 1.0]>, block = [1, 64], scale = f16>
#config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>

// Up to 16 values: a table of all pairs, with a copy for every lane, so that
// one instruction makes an address of the codes of a register and one load its
// values.
// CHECK-LABEL: llvm.func @linear_128x256_nf4_multistage_16x8(
// CHECK: nvvm.dot.accumulate.2way
// PTX: .visible .entry linear_128x256_nf4_multistage_16x8(
// PTX: dp2a.lo.u32.u32
func.func @nf4(%x: tensor<?x256xf16>, %w: !quant_llm.weight<128x256xf16, #nf4>) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#config]} : (tensor<?x256xf16>, !quant_llm.weight<128x256xf16, #nf4>) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// CHECK-LABEL: llvm.func @linear_128x256_codebook_multistage_16x8(
// CHECK: nvvm.dot.accumulate.2way
func.func @three(%x: tensor<?x256xf16>, %w: !quant_llm.weight<128x256xf16, #three>) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#config]} : (tensor<?x256xf16>, !quant_llm.weight<128x256xf16, #three>) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}
