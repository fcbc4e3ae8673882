// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_90a --quant-llm-gpu-to-ptx=format=ptx | FileCheck %s --check-prefix=PTX

#scheme = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
!weight = !quant_llm.weight<64x1024xf16, #scheme>

// The next grid may start as soon as all CTAs are there. One of few tokens asks
// for weights, waits for what is before it in the stream, and asks for x; what
// uses the sums waits on its own. Its shared memory is more than the ring
// needs: a multiprocessor takes one CTA, as the configuration says.
// CHECK-LABEL: llvm.func @linear_64x1024_int4_few_tokens_16x8(
// CHECK-SAME: dependent_launch = 1 : i32
// CHECK-SAME: shared_bytes = 116736 : i32
// CHECK: nvvm.griddepcontrol launch_dependents
// CHECK: nvvm.cp.async.bulk.shared.cluster.global
// CHECK: nvvm.griddepcontrol wait
// CHECK: nvvm.cp.async.bulk.tensor
// CHECK: nvvm.griddepcontrol wait
// CHECK: nvvm.mma.sync
// PTX: .entry linear_64x1024_int4_few_tokens_16x8(
// PTX-NOT: griddepcontrol.wait
// PTX: griddepcontrol.launch_dependents;
// PTX-NOT: {{cp.async.bulk.tensor|griddepcontrol.wait}}
// PTX: cp.async.bulk.shared::cluster.global
// PTX-NOT: cp.async.bulk.tensor
// PTX: griddepcontrol.wait;
// PTX: cp.async.bulk.tensor
// PTX: .entry linear_64x1024_int4_wgmma_64x64(
// PTX: griddepcontrol.launch_dependents;
// PTX-NOT: cp.async.bulk.tensor
// PTX: griddepcontrol.wait;
// PTX: cp.async.bulk.tensor

// CHECK-LABEL: llvm.func @linear_64x1024_int4_wgmma_64x64(
// CHECK-SAME: dependent_launch = 1 : i32
// CHECK: nvvm.griddepcontrol launch_dependents
// CHECK: nvvm.cp.async.bulk.shared.cluster.global
// CHECK: nvvm.griddepcontrol wait
// CHECK: nvvm.cp.async.bulk.tensor
// CHECK: nvvm.griddepcontrol wait
// CHECK: wgmma.mma_async

// All warps copy both, and the family is also for chips that cannot wait.
// CHECK-LABEL: llvm.func @linear_64x1024_int4_multistage_64x16(
// CHECK-NOT: griddepcontrol
// CHECK-NOT: dependent_launch
// CHECK-LABEL: llvm.func @grouped_linear_2x64x1024_int4_few_tokens_16x8(
// Which weights a CTA needs is in the offsets, so everything waits.
// CHECK: nvvm.griddepcontrol launch_dependents
// CHECK-NEXT: nvvm.griddepcontrol wait
// CHECK: llvm.load
// CHECK-NOT: griddepcontrol
func.func @f(%x: tensor<?x1024xf16>, %w: !weight) -> tensor<?x64xf16> {
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [9, 64], row_tile = 64, token_tile = 64, stage_k = 64, stages = 6, warps_rows = 1, warps_k = 1, copy = tensor>,
      #quant_llm.kernel_config<multistage, tokens = [65, *], row_tile = 64, token_tile = 16, stage_k = 128, stages = 3, warps_rows = 4, warps_k = 1, copy = async16>]}
    : (tensor<?x1024xf16>, !weight) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

!experts = !quant_llm.weight<128x1024xf16, #scheme>
func.func @g(%x: tensor<?x1024xf16>, %w: !experts, %o: tensor<3xi32>) -> tensor<?x64xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, copy = tensor>]}
    : (tensor<?x1024xf16>, !experts) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
