// What an archive can get wrong is reported at the op that names it.
// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t
// RUN: cd %t && quant-opt %s -split-input-file -verify-diagnostics -quant-llm-choose-granularity=base-dir=%t -quant-llm-quantize='base-dir=%t output=%t/q.safetensors' -o /dev/null
// RUN: not test -e %t/q.safetensors

quant_llm.archive @a "nan.safetensors"
// expected-error @below {{cannot be quantized: tensor 'w' has nan at row 5, column 17}}
quant_llm.parameter @w from @a : tensor<32x512xf16>
func.func @f(%x: tensor<1x512xf32>) -> tensor<1x32xf32> {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// -----

// The scheme is there, so the first pass does not look; the second finds it.
#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "inf.safetensors"
// expected-error @below {{cannot be quantized: tensor 'w' has -inf at row 0, column 511}}
quant_llm.parameter @w from @a : tensor<32x512xf16>
func.func @f(%x: tensor<1x512xf32>) -> tensor<1x32xf32> {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %0 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// -----

// What stays dense has to be numbers, too; infinities may be meant.
quant_llm.archive @a "nan-dense-bf16.safetensors"
quant_llm.parameter @w from @a : tensor<32x512xf16>
// expected-error @below {{cannot be copied: tensor 'v' has nan at row 0, column 300; expected numbers}}
quant_llm.parameter @v from @a : tensor<512xbf16>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<512xbf16>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<512xbf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %v : tensor<1x32xf32>, tensor<512xbf16>
}

// -----

quant_llm.archive @a "nan-dense-f32.safetensors"
quant_llm.parameter @w from @a : tensor<32x512xf16>
// expected-error @below {{cannot be copied: tensor 'v' has nan at row 0, column 300; expected numbers}}
quant_llm.parameter @v from @a : tensor<512xf32>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<512xf32>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<512xf32>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %v : tensor<1x32xf32>, tensor<512xf32>
}

// -----

quant_llm.archive @a "nan-dense-f16.safetensors"
quant_llm.parameter @w from @a : tensor<32x512xf16>
// expected-error @below {{cannot be copied: tensor 'v' has nan at row 1, column 2; expected numbers}}
quant_llm.parameter @v from @a : tensor<2x8xf16>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<2x8xf16>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<2x8xf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %v : tensor<1x32xf32>, tensor<2x8xf16>
}

// -----

quant_llm.archive @a "nan-dense-f64.safetensors"
quant_llm.parameter @w from @a : tensor<32x512xf16>
// expected-error @below {{cannot be copied: tensor 'v' has nan at row 0, column 300; expected numbers}}
quant_llm.parameter @v from @a : tensor<512xf64>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<512xf64>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<512xf64>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %v : tensor<1x32xf32>, tensor<512xf64>
}

// -----

quant_llm.archive @a "other.safetensors"
// expected-error @below {{expected tensor 'w' of type 'f16' in the archive but got F32}}
quant_llm.parameter @w from @a : tensor<32x512xf16>
// expected-error @below {{expected tensor 'v' of shape [32, 512] in the archive but got [32, 500]}}
quant_llm.parameter @v from @a : tensor<32x512xf16>
// expected-error @below {{cannot be read: }}
quant_llm.parameter @u from @a : tensor<32x512xf16>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<1x32xf32>, tensor<1x32xf32>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<32x512xf16>
  %u = quant_llm.get_parameter @u : tensor<32x512xf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  %1 = quant_llm.linear %x, %v : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  %2 = quant_llm.linear %x, %u : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %1, %2 : tensor<1x32xf32>, tensor<1x32xf32>, tensor<1x32xf32>
}

// -----

// expected-error @below {{cannot be opened: }}
quant_llm.archive @a "missing.safetensors"
quant_llm.parameter @w from @a : tensor<32x512xf16>
func.func @f(%x: tensor<1x512xf32>) -> tensor<1x32xf32> {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %0 = quant_llm.linear %x, %w : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// -----

#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#h = #quant_llm.scheme<int4, block = [1, 32], scale = f16>
quant_llm.archive @a "model.safetensors"
quant_llm.parameter @layers.0.q_proj.weight from @a : tensor<32x512xf16>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<1x32xf32>) {
  %w = quant_llm.get_parameter @layers.0.q_proj.weight : tensor<32x512xf16>
  // expected-note @below {{the other linear is here}}
  %0 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  // expected-error @below {{that another linear of parameter "layers.0.q_proj.weight" has, but got}}
  %1 = quant_llm.linear %x, %w {scheme = #h} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %1 : tensor<1x32xf32>, tensor<1x32xf32>
}

// -----

#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// expected-note @below {{the weight is defined here}}
func.func @f(%x: tensor<1x512xf32>, %w: tensor<32x512xf16>) -> tensor<1x32xf32> {
  // expected-error @below {{has a scheme, but its weight is not a parameter of an archive}}
  %0 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0 : tensor<1x32xf32>
}

// -----

// Two parameters, one key, one file: the new archive cannot hold both under it, and the
// names of the parameters take its place; here one of them is taken as well.
#g = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "model.safetensors"
// expected-note @below {{which this parameter needs as well}}
quant_llm.parameter @w.codes from @a key "norm.weight" : tensor<512xf32>
// expected-error @below {{needs the tensor 'w.codes' in the new archive}}
quant_llm.parameter @w from @a key "layers.0.q_proj.weight" : tensor<32x512xf16>
quant_llm.parameter @v from @a key "layers.0.q_proj.weight" : tensor<32x512xf16>
quant_llm.parameter @n from @a key "norm.weight" : tensor<512xf32>
func.func @f(%x: tensor<1x512xf32>) -> (tensor<1x32xf32>, tensor<1x32xf32>) {
  %w = quant_llm.get_parameter @w : tensor<32x512xf16>
  %v = quant_llm.get_parameter @v : tensor<32x512xf16>
  %0 = quant_llm.linear %x, %w {scheme = #g} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  %1 = quant_llm.linear %x, %v {scheme = #g} : (tensor<1x512xf32>, tensor<32x512xf16>) -> tensor<1x32xf32>
  return %0, %1 : tensor<1x32xf32>, tensor<1x32xf32>
}
