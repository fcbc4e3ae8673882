// RUN: quant-opt %s -allow-unregistered-dialect -split-input-file -verify-diagnostics

// expected-error @below {{expected a kernel family: few_tokens, multistage, wgmma}}
"test.op"() {config = #quant_llm.kernel_config<5>} : () -> ()

// -----

// expected-error @below {{expected a kernel family to be one of few_tokens, multistage, wgmma but got 'fast'}}
"test.op"() {config = #quant_llm.kernel_config<fast>} : () -> ()

// -----

// expected-error @below {{expected a kernel configuration to have the field 'tokens'}}
"test.op"() {config = #quant_llm.kernel_config<wgmma>} : () -> ()

// -----

// expected-error @below {{expected a kernel configuration to have the field 'copy'}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1>} : () -> ()

// -----

// expected-error @below {{expected a field of a kernel configuration: tokens, row_tile, token_tile, stage_k, stages, warps_rows, warps_k, split, ctas_per_sm, copy, but got 'size'}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, size = 4>} : () -> ()

// -----

// expected-error @below {{expected field 'split' only once}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, split = 4, split = 4>} : () -> ()

// -----

// expected-error @below {{expected split to be stream_k or 1 to 65536 but got 0}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, split = 0>} : () -> ()

// -----

// expected-error @below {{expected integer value}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, split = stream>} : () -> ()

// -----

// expected-error @below {{expected copy to be one of tensor, async16, element but got 'slow'}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, copy = slow>} : () -> ()

// -----

// expected-error @below {{expected integer value}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [*, 4]>} : () -> ()

// -----

// QL-KERNEL-CONFIG-C1
// expected-error @below {{expected row_tile to be 1 to 65536 but got -16}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [1, *], row_tile = -16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = element>} : () -> ()

// -----

// QL-KERNEL-CONFIG-C2
// expected-error @below {{expected tokens to be a range from 1 on but got [9, 8]}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [9, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = element>} : () -> ()

// -----

// QL-KERNEL-CONFIG-C3
// expected-error @below {{expected token_tile to be a multiple of 8 but got 9}}
"test.op"() {config = #quant_llm.kernel_config<wgmma, tokens = [1, *], row_tile = 16, token_tile = 9, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = element>} : () -> ()

// -----

// QL-KERNEL-CONFIG-C4
// expected-error @below {{expected warps that give at most 1024 threads but got 2048}}
"test.op"() {config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 8, warps_k = 8, copy = element>} : () -> ()

// -----

// QL-LINEAR-C11
#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @gap(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16> {
  // expected-error @below {{has wrong kernels: expected the last kernel to be for all tokens from 1 on but it ends at 8}}
  %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>]
  } : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

// -----

// QL-LINEAR-C11
#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @none(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16> {
  // expected-error @below {{has wrong kernels: expected at least one kernel}}
  %y = quant_llm.linear %x, %w {kernels = []} : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

// -----

// QL-LINEAR-C12
#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @symbols(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16> {
  // expected-error @below {{expected a symbol for each of 0 kernels but got 1}}
  %y = quant_llm.linear %x, %w {kernel_symbols = [@k]} : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

// -----

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @type(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16> {
  // expected-error @below {{attribute 'kernels' failed to satisfy constraint: array of kernel configurations}}
  %y = quant_llm.linear %x, %w {kernels = [1]} : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}
