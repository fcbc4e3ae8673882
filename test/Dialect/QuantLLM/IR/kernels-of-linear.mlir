// RUN: quant-opt %s | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>

// CHECK-LABEL: func @linears
// CHECK: quant_llm.linear
// CHECK-SAME: kernel_symbols = [@k::@a, @k::@b], kernels = [#quant_llm.kernel_config<multistage, tokens = [1, 8]
// CHECK-SAME: #quant_llm.kernel_config<multistage, tokens = [9, *]
// CHECK-SAME: reason = "by hand"
// CHECK: quant_llm.linear %{{[^:]*}} {scheme = #scheme} : (
func.func @linears(%x: tensor<?x64xf16>, %w: !quant_llm.weight<64x64xf16, #scheme>) -> tensor<?x64xf16> {
  %y = quant_llm.linear %x, %w {
    kernels = [
      #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>,
      #quant_llm.kernel_config<multistage, tokens = [9, *], row_tile = 16, token_tile = 16, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>],
    kernel_symbols = [@k::@a, @k::@b], reason = "by hand"
  } : (tensor<?x64xf16>, !quant_llm.weight<64x64xf16, #scheme>) -> tensor<?x64xf16>
  %z = quant_llm.linear %y, %w {scheme = #scheme} : (tensor<?x64xf16>, !quant_llm.weight<64x64xf16, #scheme>) -> tensor<?x64xf16>
  return %z : tensor<?x64xf16>
}
