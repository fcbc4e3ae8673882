// RUN: quant-opt -allow-unregistered-dialect %s | FileCheck %s
// RUN: quant-opt -allow-unregistered-dialect %s | quant-opt -allow-unregistered-dialect | FileCheck %s
// RUN: quant-opt -allow-unregistered-dialect %s --mlir-print-op-generic | quant-opt -allow-unregistered-dialect | FileCheck %s
// RUN: quant-opt -allow-unregistered-dialect %s --emit-bytecode | quant-opt -allow-unregistered-dialect | FileCheck %s

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>

// Every field, with the others' order and defaults.
// CHECK: #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 1024, stages = 4, warps_rows = 1, warps_k = 8, split = 1, ctas_per_sm = 2, copy = tensor>
"test.op"() {config = #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 1024, stages = 4, warps_rows = 1, warps_k = 8, ctas_per_sm = 2, copy = tensor>} : () -> ()
// CHECK: #quant_llm.kernel_config<wgmma, tokens = [9, *], row_tile = 128, token_tile = 256, stage_k = 64, stages = 5, warps_rows = 2, warps_k = 1, split = 2, ctas_per_sm = 1, copy = tensor>
"test.op"() {config = #quant_llm.kernel_config<wgmma, copy = tensor, split = 2, stages = 5, stage_k = 64, warps_k = 1, warps_rows = 2, token_tile = 256, row_tile = 128, tokens = [9, *]>} : () -> ()
// CHECK: #quant_llm.kernel_config<wgmma, {{.*}} warps_k = 1, split = stream_k, ctas_per_sm = 1, copy = tensor>
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [9, *], row_tile = 128, token_tile = 256, stage_k = 64, stages = 5, warps_rows = 2, warps_k = 1, split = stream_k, copy = tensor>} : () -> ()
// CHECK: #quant_llm.kernel_config<multistage, {{.*}} copy = element>
"test.op"() {config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = element>} : () -> ()
// CHECK: #quant_llm.kernel_config<wgmma, {{.*}} copy = async16>
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>} : () -> ()

// CHECK-LABEL: func @linear
// CHECK: quant_llm.linear
// CHECK-SAME: kernel_symbols = [@k::@a, @k::@b], kernels = [#quant_llm.kernel_config<multistage, tokens = [1, 8]
// CHECK-SAME: #quant_llm.kernel_config<multistage, tokens = [9, *]
func.func @linear(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16> {
  %y = quant_llm.linear %x, %w {
    kernels = [
      #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>,
      #quant_llm.kernel_config<multistage, tokens = [9, *], row_tile = 16, token_tile = 16, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>],
    kernel_symbols = [@k::@a, @k::@b]
  } : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}
