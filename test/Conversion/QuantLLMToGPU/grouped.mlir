// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a --quant-llm-gpu-to-ptx=format=ptx | FileCheck %s --check-prefix=PTX
// RUN: not quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 2>&1 | FileCheck %s --check-prefix=CHIP

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#few = #quant_llm.kernel_config<few_tokens, tokens = [1, 64], row_tile = 32, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 2, warps_k = 1, split = 2, copy = tensor>
#some = #quant_llm.kernel_config<multistage, tokens = [65, 256], row_tile = 64, token_tile = 16, stage_k = 128, stages = 2, warps_rows = 4, warps_k = 1, copy = async16>
#many = #quant_llm.kernel_config<wgmma, tokens = [257, *], row_tile = 64, token_tile = 32, stage_k = 64, stages = 4, warps_rows = 1, warps_k = 1, copy = tensor>
#any = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 64, token_tile = 16, stage_k = 128, stages = 2, warps_rows = 4, warps_k = 1, copy = async16>

// CHIP: 'quant_llm.grouped_linear' op kernel 0 cannot be built: expected a chip with bulk copies

// Offsets are read by the kernel, which finds its expert among all lanes of a warp; nothing
// happens where there is none.
// CHECK-LABEL: llvm.func @grouped_linear_8x64x256_int4_few_tokens_32x8(
// CHECK-SAME:    %[[O:[a-z0-9]*]]: !llvm.ptr<1>, %{{[a-z0-9]*}}: !llvm.ptr<1>, %{{[a-z0-9]*}}: i32)
// CHECK-SAME:    args = ["tensor_map_x", "packed0", "packed_scales0", "output_scale0", "offsets", "y", "m"]
// CHECK-SAME:    grid = "tiles"
// CHECK-COUNT-5: nvvm.shfl.sync up
// CHECK:         nvvm.vote.sync ballot
// CHECK:         llvm.intr.cttz
// CHECK-COUNT-3: nvvm.shfl.sync idx
// CHECK:         scf.if
// CHECK:           nvvm.mbarrier.init
// CHECK:           nvvm.cluster.arrive
// CHECK:         llvm.return

// CHECK-LABEL: llvm.func @grouped_linear_8x64x256_int4_multistage_64x16(
// CHECK-SAME:    args = ["x", "packed0", "packed_scales0", "output_scale0", "offsets", "y", "m"]

// A CTA has one tile.
// CHECK-LABEL: llvm.func @grouped_linear_8x64x256_int4_wgmma_64x32(
// CHECK-SAME:    grid = "tiles"

// Offsets of 64 bits, another number of experts: other kernels.
// CHECK-LABEL: llvm.func @grouped_linear_8x64x256_int4_multistage_64x16_1(
// CHECK-LABEL: llvm.func @grouped_linear_300x8x256_int4_multistage_64x16(
// So many experts that a lane counts in a loop.
// CHECK:         scf.for
// CHECK:         nvvm.shfl.sync up
// CHECK-LABEL: llvm.func @grouped_gated_8x64x256_int4_multistage_64x16(
// CHECK-SAME:    args = ["x", "packed0", "packed_scales0", "output_scale0", "packed1", "packed_scales1", "output_scale1", "offsets", "y", "epilogue0", "m"]

// CHECK-LABEL: func @families
// CHECK:         kernel_symbols = [@quant_llm_kernels::@grouped_linear_8x64x256_int4_few_tokens_32x8, @quant_llm_kernels::@grouped_linear_8x64x256_int4_multistage_64x16, @quant_llm_kernels::@grouped_linear_8x64x256_int4_wgmma_64x32]
// PTX: .visible .entry grouped_linear_8x64x256_int4_few_tokens_32x8(
func.func @families(%x: tensor<?x256xf16>, %w: !quant_llm.weight<512x256xf16, #scheme>, %o: tensor<9xi32>) -> tensor<?x64xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<9xi32>) {kernels = [#few, #some, #many]} : (tensor<?x256xf16>, !quant_llm.weight<512x256xf16, #scheme>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

func.func @wide(%x: tensor<?x256xf16>, %w: !quant_llm.weight<512x256xf16, #scheme>, %o: tensor<9xi64>) -> tensor<?x64xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<9xi64>) {kernels = [#any]} : (tensor<?x256xf16>, !quant_llm.weight<512x256xf16, #scheme>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

func.func @many_experts(%x: tensor<?x256xf16>, %w: !quant_llm.weight<2400x256xf16, #scheme>, %o: tensor<301xi32>) -> tensor<?x8xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<301xi32>) {kernels = [#any]} : (tensor<?x256xf16>, !quant_llm.weight<2400x256xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

func.func @gated(%x: tensor<?x256xf16>, %g: !quant_llm.weight<512x256xf16, #scheme>, %u: !quant_llm.weight<512x256xf16, #scheme>, %o: tensor<9xi32>, %b: tensor<512xf32>) -> tensor<?x64xf32> {
  %y = quant_llm.grouped_linear %x, %g, %u offsets(%o : tensor<9xi32>) {kernels = [#any]} epilogue(%b : tensor<512xf32>) {
  ^bb0(%a: f32, %c: f32, %bias: f32):
    %0 = arith.addf %a, %bias : f32
    %1 = arith.mulf %0, %c : f32
    quant_llm.yield %1 : f32
  } : (tensor<?x256xf16>, !quant_llm.weight<512x256xf16, #scheme>, !quant_llm.weight<512x256xf16, #scheme>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
