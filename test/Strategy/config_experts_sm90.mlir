// RUN: quant-opt %s --quant-llm-select-kernels=chip=sm_90a --remarks-filter=quant-llm-select-kernels 2> %t | FileCheck %s
// RUN: FileCheck %s --check-prefix=REMARK < %t

// What must stay true when the heuristics are tuned: the tile of tokens grows with the tokens
// of an expert, not with those of all.
#scheme = #quant_llm.scheme<int4, block = [1, 128], scale = f16>

// CHECK-LABEL: func @mixtral
// CHECK: kernels = [#quant_llm.kernel_config<few_tokens, tokens = [1, {{[0-9]+}}], row_tile = {{[0-9]+}}, token_tile = 8,
// CHECK-SAME: #quant_llm.kernel_config<few_tokens, tokens = [33, 72], row_tile = {{[0-9]+}}, token_tile = 16,
// CHECK-SAME: #quant_llm.kernel_config<wgmma, tokens = [{{[0-9]+}}, *], row_tile = {{[0-9]+}}, token_tile = {{64|96|128|192|256}}, stage_k = 64,
// REMARK: [Passed] kernel {{.*}}tokens: few_tokens
func.func @mixtral(%x: tensor<?x4096xf16>, %w: !quant_llm.weight<114688x4096xf16, #scheme>, %o: tensor<9xi32>) -> tensor<?x14336xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<9xi32>) : (tensor<?x4096xf16>, !quant_llm.weight<114688x4096xf16, #scheme>) -> tensor<?x14336xf16>
  return %y : tensor<?x14336xf16>
}

// CHECK-LABEL: func @deepseek
// CHECK: token_tile = 8,
// CHECK-SAME: #quant_llm.kernel_config<few_tokens, tokens = [257, 576], row_tile = {{[0-9]+}}, token_tile = 16,
func.func @deepseek(%x: tensor<?x2048xf16>, %w: !quant_llm.weight<90112x2048xf16, #scheme>, %o: tensor<65xi32>) -> tensor<?x1408xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<65xi32>) : (tensor<?x2048xf16>, !quant_llm.weight<90112x2048xf16, #scheme>) -> tensor<?x1408xf16>
  return %y : tensor<?x1408xf16>
}
