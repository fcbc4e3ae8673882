// Linears of every kind over the archive of make_archive.py.
module {
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @layers.0.q_proj.weight from @model : tensor<32x512xf16>
quant_llm.parameter @k from @model key "layers.0.k_proj.weight" : tensor<32x512xf16>
quant_llm.parameter @layers.0.gate_proj.weight from @model : tensor<16x512xf16>
quant_llm.parameter @layers.0.up_proj.weight from @model : tensor<16x512xf16>
quant_llm.parameter @embed_tokens.weight from @model : tensor<8x512xf16>
quant_llm.parameter @norm.weight from @model : tensor<512xf32>

func.func @forward(%x: tensor<?x512xf32>, %token: index) -> (tensor<?x32xf32>, tensor<?x32xf32>, tensor<?x16xf32>, tensor<?x8xf32>, tensor<1x512xf16>, tensor<512xf32>) {
  %q = quant_llm.get_parameter @layers.0.q_proj.weight : tensor<32x512xf16>
  %k = quant_llm.get_parameter @k : tensor<32x512xf16>
  %gate = quant_llm.get_parameter @layers.0.gate_proj.weight : tensor<16x512xf16>
  %up = quant_llm.get_parameter @layers.0.up_proj.weight : tensor<16x512xf16>
  %embed = quant_llm.get_parameter @embed_tokens.weight : tensor<8x512xf16>
  %norm = quant_llm.get_parameter @norm.weight : tensor<512xf32>
  %0 = quant_llm.linear %x, %q : (tensor<?x512xf32>, tensor<32x512xf16>) -> tensor<?x32xf32>
  %1 = quant_llm.linear %x, %k : (tensor<?x512xf32>, tensor<32x512xf16>) -> tensor<?x32xf32>
  %2 = quant_llm.linear %x, %gate, %up epilogue {
  ^bb0(%a: f32, %b: f32):
    %5 = arith.mulf %a, %b : f32
    quant_llm.yield %5 : f32
  } : (tensor<?x512xf32>, tensor<16x512xf16>, tensor<16x512xf16>) -> tensor<?x16xf32>
  %3 = quant_llm.linear %x, %embed : (tensor<?x512xf32>, tensor<8x512xf16>) -> tensor<?x8xf32>
  %4 = tensor.extract_slice %embed[%token, 0] [1, 512] [1, 1] : tensor<8x512xf16> to tensor<1x512xf16>
  return %0, %1, %2, %3, %4, %norm : tensor<?x32xf32>, tensor<?x32xf32>, tensor<?x16xf32>, tensor<?x8xf32>, tensor<1x512xf16>, tensor<512xf32>
}
}
