// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_90a | FileCheck %s
// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_120a | FileCheck %s --check-prefix=SM120
// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_100a | FileCheck %s --check-prefix=SM100

// What must stay true when the heuristics are tuned: few tokens have the family
// that is made for them, many tokens have wgmma; an H100 has 132
// multiprocessors.
#scheme = #quant_llm.scheme<int4, block = [1, 128], scale = f16>
!w4096 = !quant_llm.weight<4096x4096xf16, #scheme>
!w6144 = !quant_llm.weight<6144x4096xf16, #scheme>
!w28672 = !quant_llm.weight<28672x4096xf16, #scheme>
!w1280 = !quant_llm.weight<1280x8192xf16, #scheme>
!w5120 = !quant_llm.weight<5120x5120xf16, #scheme>

// CHECK-LABEL: func @n4096
// CHECK: kernels = [#quant_llm.kernel_config<few_tokens, tokens = [1, {{[0-9]+}}], row_tile = {{16|32}}, token_tile = 8,
// CHECK-SAME: #quant_llm.kernel_config<wgmma, tokens = [{{[0-9]+}}, *], row_tile = {{128|256}}, token_tile = {{128|256}}, stage_k = 64,
// SM120-LABEL: func @n4096
// SM120: few_tokens, tokens = [1, 8]
// SM120-NOT: wgmma
// SM120: multistage, tokens = [{{[0-9]+}}, *]
// SM100-LABEL: func @n4096
// SM100: few_tokens, tokens = [1, 8]
// SM100-NOT: wgmma
// SM100: multistage, tokens = [{{[0-9]+}}, *]
func.func @n4096(%x: tensor<?x4096xf16>, %w: !w4096) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !w4096) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}

// 128 tiles of 48 rows fill 132 multiprocessors better than any other.
// CHECK-LABEL: func @n6144
// CHECK: few_tokens, tokens = [1, {{[0-9]+}}], row_tile = 48, token_tile = 8,
func.func @n6144(%x: tensor<?x4096xf16>, %w: !w6144) -> tensor<?x6144xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !w6144) -> tensor<?x6144xf16>
  return %y : tensor<?x6144xf16>
}

// The rows are spread evenly: all tiles run at once, one or two of them on a
// multiprocessor.
// CHECK-LABEL: func @n28672
// CHECK: few_tokens, tokens = [{{[0-9]+}}, 32], row_tile = {{112|128|224}}, token_tile = 32,
func.func @n28672(%x: tensor<?x4096xf16>, %w: !w28672) -> tensor<?x28672xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !w28672) -> tensor<?x28672xf16>
  return %y : tensor<?x28672xf16>
}

// Too few rows for all multiprocessors: several of them share the columns.
// CHECK-LABEL: func @n1280
// CHECK: few_tokens, tokens = [{{[0-9]+}}, 32], {{[a-z0-9_=, ]*}}split = {{[2-8]}},
// 80 tiles of 128 x 128 for 1024 tokens: they are dealt out by their columns.
// CHECK: wgmma, tokens = [{{[0-9]+}}, 1280], {{[a-z0-9_=, ]*}}split = stream_k,
// SM120-LABEL: func @n1280
// SM120-NOT: stream_k
func.func @n1280(%x: tensor<?x8192xf16>, %w: !w1280) -> tensor<?x1280xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x8192xf16>, !w1280) -> tensor<?x1280xf16>
  return %y : tensor<?x1280xf16>
}

// Tiles that fill a wave for 384 tokens need two for 512, so neither of the two
// token counts is served by the other's kernel.
// CHECK-LABEL: func @n5120
// CHECK: wgmma, tokens = [321, 384], {{[a-z0-9_=, ]*}}>, #quant_llm.kernel_config<wgmma, tokens = [385, 512],
func.func @n5120(%x: tensor<?x5120xf16>, %w: !w5120) -> tensor<?x5120xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x5120xf16>, !w5120) -> tensor<?x5120xf16>
  return %y : tensor<?x5120xf16>
}
