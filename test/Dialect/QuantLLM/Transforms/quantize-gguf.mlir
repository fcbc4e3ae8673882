// Weights in the block types of a GGUF file and in a sharded safetensors archive are
// read like any other.
// RUN: rm -rf %t && %python %S/Inputs/make_gguf.py %t && cp %s %t/model.mlir
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='block=1,32 exclude=token_embd' -quant-llm-quantize='output=%t/q.safetensors' -quant-llm-verify-stage='stage=quantized check-archives' -o %t/q.mlir
// RUN: FileCheck %s < %t/q.mlir
// RUN: %python %S/Inputs/make_gguf.py %t --check

// CHECK: quant_llm.archive @quantized "q.safetensors"
// CHECK-DAG: quant_llm.parameter @a from @quantized key "blk.0.ffn_up.weight" : !quant_llm.weight<16x64xf16
// CHECK-DAG: quant_llm.parameter @token_embd.weight from @quantized : tensor<8x64xf16>
// CHECK-DAG: quant_llm.parameter @first from @quantized : !quant_llm.weight<16x64xf32
// CHECK-DAG: quant_llm.parameter @second from @quantized : !quant_llm.weight<16x64xbf16
module {
quant_llm.archive @gguf "model.gguf"
quant_llm.archive @shards "model.safetensors.index.json"
quant_llm.parameter @a from @gguf key "blk.0.ffn_up.weight" : tensor<16x64xf16>
quant_llm.parameter @token_embd.weight from @gguf : tensor<8x64xf16>
quant_llm.parameter @first from @shards : tensor<16x64xf32>
quant_llm.parameter @second from @shards : tensor<16x64xbf16>
func.func @f(%x: tensor<1x64xf32>) -> (tensor<1x16xf32>, tensor<1x16xf32>, tensor<1x16xf32>, tensor<1x8xf32>) {
  %a = quant_llm.get_parameter @a : tensor<16x64xf16>
  %b = quant_llm.get_parameter @first : tensor<16x64xf32>
  %c = quant_llm.get_parameter @second : tensor<16x64xbf16>
  %d = quant_llm.get_parameter @token_embd.weight : tensor<8x64xf16>
  %0 = quant_llm.linear %x, %a : (tensor<1x64xf32>, tensor<16x64xf16>) -> tensor<1x16xf32>
  %1 = quant_llm.linear %x, %b : (tensor<1x64xf32>, tensor<16x64xf32>) -> tensor<1x16xf32>
  %2 = quant_llm.linear %x, %c : (tensor<1x64xf32>, tensor<16x64xbf16>) -> tensor<1x16xf32>
  %3 = quant_llm.linear %x, %d : (tensor<1x64xf32>, tensor<8x64xf16>) -> tensor<1x8xf32>
  return %0, %1, %2, %3 : tensor<1x16xf32>, tensor<1x16xf32>, tensor<1x16xf32>, tensor<1x8xf32>
}
}
