// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 --quant-llm-gpu-to-ptx | FileCheck %s --check-prefix=PTX

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
!weight = !quant_llm.weight<128x64xf16, #scheme>
!packed = !quant_llm.weight<128x64xf16, #scheme, #quant_llm.fragment_layout>
#few = #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>
#many = #quant_llm.kernel_config<multistage, tokens = [9, *], row_tile = 64, token_tile = 16, stage_k = 128, stages = 2, warps_rows = 4, warps_k = 1, copy = async16>

// Five different kernels: the first two serve three linears, another function
// in an epilogue or another operand makes another kernel.
// CHECK: gpu.module @quant_llm_kernels [#nvvm.target<chip = "sm_80", features = "+ptx78">] {
// CHECK: llvm.func @linear_128x64_int4_multistage_16x8(
// CHECK: quant_llm.launch = {args = ["x", "packed0", "packed_scales0", "output_scale0", "y", "m"]
// CHECK-SAME: tokens = [1, 8]
// CHECK: llvm.func @linear_128x64_int4_multistage_64x16(
// CHECK: tokens = [9, 9223372036854775807]
// CHECK: llvm.func @linear_128x64_int4_multistage_16x8_1(
// CHECK: llvm.func @linear_128x64_int4_multistage_64x16_1(
// CHECK: llvm.func @linear_128x64_int4_multistage_16x8_2(
// CHECK: llvm.func @linear_128x64_int4_multistage_64x16_2(
// CHECK: llvm.func @gated_128x64_int4_multistage_16x8(
// CHECK: args = ["x", "packed0", "packed_scales0", "output_scale0", "packed1", "packed_scales1", "output_scale1", "y", "epilogue0", "m"]
// CHECK-NOT: llvm.func @{{linear|gated}}
// CHECK-LABEL: func @plain
// CHECK: kernel_symbols = [@quant_llm_kernels::@linear_128x64_int4_multistage_16x8, @quant_llm_kernels::@linear_128x64_int4_multistage_64x16]
// PTX: gpu.binary @quant_llm_kernels
// PTX-SAME: #gpu.kernel_metadata<"gated_128x64_int4_multistage_16x8"
// PTX-SAME: .visible .entry linear_128x64_int4_multistage_16x8(
func.func @plain(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#few, #many]} : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// CHECK-LABEL: func @same
// CHECK-COUNT-2: kernel_symbols = [@quant_llm_kernels::@linear_128x64_int4_multistage_16x8, @quant_llm_kernels::@linear_128x64_int4_multistage_64x16]
func.func @same(%x: tensor<2x?x64xf16>, %v: !weight, %w: !packed) -> (tensor<2x?x128xf16>, tensor<2x?x128xf16>) {
  %y = quant_llm.linear %x, %v {kernels = [#few, #many]} : (tensor<2x?x64xf16>, !weight) -> tensor<2x?x128xf16>
  %z = quant_llm.linear %x, %w {kernels = [#few, #many]} : (tensor<2x?x64xf16>, !packed) -> tensor<2x?x128xf16>
  return %y, %z : tensor<2x?x128xf16>, tensor<2x?x128xf16>
}

// CHECK-LABEL: func @exp
// CHECK-COUNT-2: kernel_symbols = [@quant_llm_kernels::@linear_128x64_int4_multistage_16x8_1, @quant_llm_kernels::@linear_128x64_int4_multistage_64x16_1]
func.func @exp(%x: tensor<?x64xf16>, %w: !weight) -> (tensor<?x128xf16>, tensor<?x128xf16>) {
  %y = quant_llm.linear %x, %w {kernels = [#few, #many]} epilogue {
  ^bb0(%a: f32):
    %0 = math.exp %a : f32
    %1 = arith.truncf %0 : f32 to f16
    quant_llm.yield %1 : f16
  } : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  %z = quant_llm.linear %x, %w {kernels = [#few, #many]} epilogue {
  ^bb0(%acc: f32):
    %e = math.exp %acc : f32
    %t = arith.truncf %e : f32 to f16
    quant_llm.yield %t : f16
  } : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y, %z : tensor<?x128xf16>, tensor<?x128xf16>
}

// CHECK-LABEL: func @tanh
// CHECK: kernel_symbols = [@quant_llm_kernels::@linear_128x64_int4_multistage_16x8_2, @quant_llm_kernels::@linear_128x64_int4_multistage_64x16_2]
func.func @tanh(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#few, #many]} epilogue {
  ^bb0(%a: f32):
    %0 = math.tanh %a : f32
    %1 = arith.truncf %0 : f32 to f16
    quant_llm.yield %1 : f16
  } : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// CHECK-LABEL: func @gated
// CHECK: kernel_symbols = [@quant_llm_kernels::@gated_128x64_int4_multistage_16x8]
func.func @gated(%x: tensor<?x64xf16>, %g: !weight, %u: !weight, %r: tensor<?x128xf16>) -> tensor<?x128xf32> {
  %y = quant_llm.linear %x, %g, %u {kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>]} epilogue(%r : tensor<?x128xf16>) {
  ^bb0(%a: f32, %b: f32, %c: f16):
    %0 = arith.mulf %a, %b : f32
    %1 = arith.extf %c : f16 to f32
    %2 = arith.addf %0, %1 : f32
    quant_llm.yield %2 : f32
  } : (tensor<?x64xf16>, !weight, !weight) -> tensor<?x128xf32>
  return %y : tensor<?x128xf32>
}

// Without kernels nothing happens.
// CHECK-LABEL: func @none
// CHECK-NOT: kernel_symbols
func.func @none(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}
