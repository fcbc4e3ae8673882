// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a --quant-llm-gpu-to-ptx | FileCheck %s --check-prefix=PTX

#scheme = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
!weight = !quant_llm.weight<1280x8192xf16, #scheme>

// Tiles of a last wave that is not full are dealt out by their units: at most 8
// CTAs share a tile, each leaves at most one part of 128 x 128 sums.
// CHECK: llvm.func @linear_1280x8192_int4_wgmma_128x128(
// CHECK-SAME: quant_llm.launch = {args = ["tensor_map_x", "packed0", "packed_scales0", "output_scale0", "workspace", "y", "m"], cluster = 1 : i32
// CHECK-SAME: grid = "persistent"
// CHECK-SAME: split = 8 : i32
// CHECK-SAME: workspace_bytes = 16384 : i64, workspace_bytes_per_cta = 65536 : i64
// A part is left, and then said to be; whoever ends the tile waits for it,
// and sets the flag back.
// CHECK-DAG: llvm.inline_asm has_side_effects asm_dialect = att "st.release.gpu.global.u32
// CHECK-DAG: llvm.inline_asm has_side_effects asm_dialect = att "{\0A.reg .pred unset;

// PTX: .visible .entry linear_1280x8192_int4_wgmma_128x128(
// PTX-DAG: ld.acquire.gpu.global.u32
// PTX-DAG: st.relaxed.gpu.global.u32
// PTX-DAG: st.release.gpu.global.u32
func.func @dealt(%x: tensor<?x8192xf16>, %w: !weight) -> tensor<?x1280xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#quant_llm.kernel_config<wgmma, tokens = [1, *], row_tile = 128, token_tile = 128, stage_k = 64, stages = 6, warps_rows = 2, warps_k = 1, split = stream_k, copy = tensor>]} : (tensor<?x8192xf16>, !weight) -> tensor<?x1280xf16>
  return %y : tensor<?x1280xf16>
}
