// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_80 | FileCheck %s
// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_86 | FileCheck %s --check-prefix=SM89
// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_89 | FileCheck %s --check-prefix=SM89

// Ampere has one family; tiles grow with the tokens until there is one for
// every multiprocessor.
#scheme = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
!large = !quant_llm.weight<4096x4096xf16, #scheme>
!odd = !quant_llm.weight<1000x172xf16, #quant_llm.scheme<int4, block = [1, 32], scale = f16>>

// CHECK-LABEL: func @large
// CHECK-NOT: few_tokens
// CHECK-NOT: wgmma
// CHECK: #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = {{16|32|64}}, token_tile = 8,
// CHECK-SAME: #quant_llm.kernel_config<multistage, tokens = [{{[0-9]+}}, *], row_tile = 128, token_tile = 128,
// SM89-LABEL: func @large
// SM89: #quant_llm.kernel_config<multistage, tokens = [1, 8]
// SM89-SAME: #quant_llm.kernel_config<multistage, tokens = [{{[0-9]+}}, *], row_tile = 128, token_tile = 128, stage_k = 128, stages = 2,
func.func @large(%x: tensor<?x4096xf16>, %w: !large) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !large) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}

// Rows of 172 columns do not begin at multiples of 16 bytes.
// CHECK-LABEL: func @odd
// CHECK-NOT: copy = async16
// CHECK: copy = element>]
func.func @odd(%x: tensor<?x172xf16>, %w: !odd) -> tensor<?x1000xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x172xf16>, !odd) -> tensor<?x1000xf16>
  return %y : tensor<?x1000xf16>
}
