// RUN: quant-opt %s -split-input-file -verify-diagnostics -quant-llm-verify-stage=stage=quantized -o /dev/null

#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>

// A module that keeps all contracts: the archive is not looked at.
quant_llm.archive @a "missing.safetensors"
quant_llm.parameter @w from @a : !quant_llm.weight<32x64xf16, #g>
quant_llm.parameter @v from @a : tensor<32x64xf16>
func.func @good(%x: tensor<1x64xf32>, %y: tensor<64x64xf32>, %o: tensor<1x64xf32>) -> (tensor<1x32xf32>, tensor<1x32xf32>, tensor<1x64xf32>) {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<32x64xf16, #g>
  %v = quant_llm.get_parameter @v : tensor<32x64xf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<32x64xf16, #g>) -> tensor<1x32xf32>
  %1 = quant_llm.linear %x, %v {reason = "dense"} : (tensor<1x64xf32>, tensor<32x64xf16>) -> tensor<1x32xf32>
  %2 = linalg.matmul ins(%x, %y : tensor<1x64xf32>, tensor<64x64xf32>) outs(%o : tensor<1x64xf32>) -> tensor<1x64xf32>
  return %0, %1, %2 : tensor<1x32xf32>, tensor<1x32xf32>, tensor<1x64xf32>
}

// -----

#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>
quant_llm.archive @a "missing.safetensors"
quant_llm.parameter @w from @a : tensor<64x64xf16>
func.func @not_raised(%x: tensor<1x64xf32>, %o: tensor<1x64xf32>) -> (tensor<1x64xf32>, tensor<1x64xf32>) {
  %w = quant_llm.get_parameter @w : tensor<64x64xf16>
  // expected-error @below {{is a contraction with a parameter; at stage 'raised' it must be a quant_llm.linear: run convert-linalg-to-quant-llm}}
  %0 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %w : tensor<1x64xf32>, tensor<64x64xf16>) outs(%o : tensor<1x64xf32>) -> tensor<1x64xf32>
  // expected-error @below {{is a contraction with a parameter that cannot be a quant_llm.linear, as stage 'raised' expects: the parameter is stored as [inputs, outputs]}}
  %1 = linalg.matmul ins(%x, %w : tensor<1x64xf32>, tensor<64x64xf16>) outs(%o : tensor<1x64xf32>) -> tensor<1x64xf32>
  return %0, %1 : tensor<1x64xf32>, tensor<1x64xf32>
}

// -----

#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "missing.safetensors"
quant_llm.parameter @w from @a : tensor<32x64xf16>
func.func @not_chosen(%x: tensor<1x64xf32>) -> (tensor<1x32xf32>, tensor<1x32xf32>) {
  %w = quant_llm.get_parameter @w : tensor<32x64xf16>
  // expected-error @below {{has neither a scheme nor a reason for having none, as stage 'chosen' expects: run quant-llm-choose-granularity}}
  // expected-note @below {{another scheme is here}}
  %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, tensor<32x64xf16>) -> tensor<1x32xf32>
  // expected-error @below {{expected the scheme of every linear of parameter "w" to be the same}}
  %1 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x64xf32>, tensor<32x64xf16>) -> tensor<1x32xf32>
  return %0, %1 : tensor<1x32xf32>, tensor<1x32xf32>
}

// -----

#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "missing.safetensors"
quant_llm.parameter @w from @a : tensor<32x64xf16>
func.func @not_quantized(%x: tensor<1x64xf32>) -> tensor<1x32xf32> {
  %w = quant_llm.get_parameter @w : tensor<32x64xf16>
  // expected-error @below {{has a scheme but weight 0 is still dense, at stage 'quantized': run quant-llm-quantize}}
  %0 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x64xf32>, tensor<32x64xf16>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// -----

#s = #quant_llm.scheme<int8, block = [-1, -1], scale = f32>
func.func @wrong_scales(%x: tensor<4x64xf32>) {
  %0 = arith.constant dense<-1.0> : tensor<f32>
  // expected-error @below {{expected given scales to be finite and not negative, at stage 'quantized', but got -1}}
  %1 = quant_llm.quantize_activation %x static(%0 : tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #s>
  %2 = arith.constant dense<0x7F800000> : tensor<f32>
  // expected-error @below {{expected given scales to be finite and not negative, at stage 'quantized', but got}}
  %3 = quant_llm.quantize_activation %x static(%2 : tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #s>
  return
}
