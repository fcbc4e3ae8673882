// The PTX of kernels that overlap reads and writes nothing but weights before it
// waits, on any path: every family, with a split, with experts, with
// operands and with scales of rows and columns.
// RUN: rm -rf %t && mkdir %t
// RUN: quant-opt %s --quant-llm-to-gpu="chip=sm_90a format=ptx output=%t" -o /dev/null
// RUN: %python %S/Inputs/overlap.py %t | FileCheck %s
// RUN: sed -i "s/griddepcontrol.wait;//" %t/kernels.ptx
// RUN: not %python %S/Inputs/overlap.py %t | FileCheck %s --check-prefix=NONE --implicit-check-not="waits before"

// What it cannot judge it does not pass: waits of some threads, jumps to nowhere,
// and nothing to look at.
// RUN: mkdir %t/if %t/nowhere %t/nothing && cp %t/manifest.json %t/if && cp %t/manifest.json %t/nowhere
// RUN: quant-opt %s --quant-llm-to-gpu="chip=sm_90a format=ptx output=%t/again" -o /dev/null
// RUN: sed 's/griddepcontrol.wait;/@%%p1 griddepcontrol.wait;/' %t/again/kernels.ptx > %t/if/kernels.ptx
// RUN: sed 's/griddepcontrol.wait;/bra Nowhere;/' %t/again/kernels.ptx > %t/nowhere/kernels.ptx
// RUN: sed 's/"dependent_launch": *1/"dependent_launch": 0/' %t/manifest.json > %t/nothing/manifest.json
// RUN: not %python %S/Inputs/overlap.py %t/if 2>&1 | FileCheck %s --check-prefix=IF
// IF: no idea who waits: @%p1 griddepcontrol.wait
// RUN: not %python %S/Inputs/overlap.py %t/nowhere 2>&1 | FileCheck %s --check-prefix=NOWHERE
// NOWHERE: no idea where this goes: bra Nowhere
// RUN: not %python %S/Inputs/overlap.py %t/nothing 2>&1 | FileCheck %s --check-prefix=NOTHING
// NOTHING: expected a kernel whose launches overlap
// RUN: not %python %S/Inputs/overlap.py

// One role copies, the other computes, and each waits; with experts all threads
// do at once.
// CHECK-DAG: grouped_linear_2x64x1024_int4_few_tokens_16x8: 1 waits before epilogue0, offsets, tensor_map_x, y
// CHECK-DAG: grouped_linear_2x64x1024_int4_wgmma_64x64: 1 waits before epilogue0, offsets, tensor_map_x, y
// CHECK-DAG: linear_64x1024_int4_few_tokens_16x8: 2 waits before epilogue0, epilogue1, tensor_map_x, y
// CHECK-DAG: linear_64x1024_int4_wgmma_64x64: {{[2-9]}} waits before epilogue0, epilogue1, tensor_map_x, y
// CHECK-DAG: linear_64x1024_int4_wgmma_64x128: {{[2-9]}} waits before epilogue0, epilogue1, tensor_map_x, workspace, y
// CHECK-DAG: linear_64x1024_int8_few_tokens_16x8: 2 waits before tensor_map_x, y
// CHECK-DAG: linear_64x1024_int8_wgmma_64x64: {{[2-9]}} waits before tensor_map_x, y
// CHECK-DAG: linear_64x1024_uint4_few_tokens_16x8: 2 waits before tensor_map_x, y
// CHECK-DAG: linear_64x1024_codebook_few_tokens_16x8: 2 waits before tensor_map_x, y
// CHECK-DAG: linear_64x1024_codebook_wgmma_64x128: {{[2-9]}} waits before tensor_map_x, workspace, y

// NONE-DAG: grouped_linear_2x64x1024_int4_wgmma_64x64: before it waits it touches what offsets points to
// NONE-DAG: linear_64x1024_int4_few_tokens_16x8: before it waits it touches what tensor_map_x points to
// NONE-DAG: linear_64x1024_int4_few_tokens_16x8: before it waits it touches what epilogue1 points to
// NONE-DAG: linear_64x1024_int4_wgmma_64x128: before it waits it touches what workspace points to
// NONE-DAG: linear_64x1024_int8_wgmma_64x64: before it waits it touches what y points to

#groups = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
#rows = #quant_llm.scheme<int8, block = [1, -1], scale = f16>
#columns = #quant_llm.scheme<uint4, block = [-1, 1], scale = f16, zero = int, rule = minmax>
#table = #quant_llm.scheme<codebook<4, [-1.0, -0.75, -0.5, -0.375, -0.25, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]>, block = [1, 64], scale = f16>
!weight = !quant_llm.weight<64x1024xf16, #groups>

func.func @operands(%x: tensor<?x1024xf16>, %w: !weight, %bias: tensor<64xf32>, %r: tensor<?x64xf16>) -> tensor<?x64xf16> {
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, split = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [9, 64], row_tile = 64, token_tile = 64, stage_k = 64, stages = 6, warps_rows = 1, warps_k = 1, split = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [65, *], row_tile = 64, token_tile = 128, stage_k = 64, stages = 6, warps_rows = 1, warps_k = 1, split = stream_k, copy = tensor>]}
      epilogue(%bias, %r : tensor<64xf32>, tensor<?x64xf16>) {
  ^bb0(%sum: f32, %b: f32, %more: f16):
    %biased = arith.addf %sum, %b : f32
    %wide = arith.extf %more : f16 to f32
    %all = arith.addf %biased, %wide : f32
    %result = arith.truncf %all : f32 to f16
    quant_llm.yield %result : f16
  } : (tensor<?x1024xf16>, !weight) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

!of_rows = !quant_llm.weight<64x1024xf16, #rows>
func.func @rows(%x: tensor<?x1024xf16>, %w: !of_rows) -> tensor<?x64xf16> {
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, split = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [9, *], row_tile = 64, token_tile = 64, stage_k = 64, stages = 6, warps_rows = 1, warps_k = 2, copy = tensor>]}
    : (tensor<?x1024xf16>, !of_rows) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

!of_columns = !quant_llm.weight<64x1024xf16, #columns>
func.func @columns(%x: tensor<?x1024xf16>, %w: !of_columns) -> tensor<?x64xf32> {
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 256, stages = 3, warps_rows = 1, warps_k = 2, copy = tensor>]}
    : (tensor<?x1024xf16>, !of_columns) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

!of_table = !quant_llm.weight<64x1024xf16, #table>
func.func @table(%x: tensor<?x1024xf16>, %w: !of_table) -> tensor<?x64xf16> {
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [9, *], row_tile = 64, token_tile = 128, stage_k = 64, stages = 6, warps_rows = 1, warps_k = 1, split = stream_k, copy = tensor>]}
    : (tensor<?x1024xf16>, !of_table) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

!experts = !quant_llm.weight<128x1024xf16, #groups>
func.func @experts(%x: tensor<?x1024xf16>, %w: !experts, %o: tensor<3xi32>, %bias: tensor<128xf32>) -> tensor<?x64xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 64], row_tile = 16, token_tile = 8, stage_k = 256, stages = 4, warps_rows = 1, warps_k = 2, split = 2, copy = tensor>,
      #quant_llm.kernel_config<wgmma, tokens = [65, *], row_tile = 64, token_tile = 64, stage_k = 64, stages = 4, warps_rows = 1, warps_k = 1, split = 2, copy = tensor>]}
      epilogue(%bias : tensor<128xf32>) {
  ^bb0(%sum: f32, %b: f32):
    %biased = arith.addf %sum, %b : f32
    %result = arith.truncf %biased : f32 to f16
    quant_llm.yield %result : f16
  } : (tensor<?x1024xf16>, !experts) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
