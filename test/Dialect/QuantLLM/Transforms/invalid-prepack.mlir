// What quant-llm-prepack cannot pack is one message, and nothing is written.
// RUN: rm -rf %t && %python %S/Inputs/make_quantized.py %t && ls %t > %t.before
// RUN: quant-opt %s -split-input-file -verify-diagnostics -quant-llm-prepack='base-dir=%t output=%t/p.safetensors' -o /dev/null
// RUN: ls %t | diff %t.before -

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "nan.safetensors"
// expected-error @below {{cannot be packed: expected finite scales but got nan in block (5, 0)}}
quant_llm.parameter @w from @a : !quant_llm.weight<8x64xf16, #int4>
func.func @f(%x: tensor<1x64xf32>) -> tensor<1x8xf32> {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4>
  %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  return %0 : tensor<1x8xf32>
}

// -----

#zero = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, rule = minmax>
quant_llm.archive @a "zero.safetensors"
// expected-error @below {{cannot be packed: expected zeros between 0 and 15 but zero 3 is 16}}
quant_llm.parameter @z from @a : !quant_llm.weight<8x64xf16, #zero>
func.func @f(%x: tensor<1x64xf32>) -> tensor<1x8xf32> {
  %z = quant_llm.get_parameter @z : !quant_llm.weight<8x64xf16, #zero>
  %0 = quant_llm.linear %x, %z : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #zero>) -> tensor<1x8xf32>
  return %0 : tensor<1x8xf32>
}

// -----

// All parameters are looked at before anything is done.
#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @shape "shape.safetensors"
quant_llm.archive @type "type.safetensors"
quant_llm.archive @missing "missing.safetensors"
// expected-error @below {{expected tensor 'w.codes' of shape [8, 32] in the archive but got [8, 31]}}
quant_llm.parameter @u from @shape key "w" : !quant_llm.weight<8x64xf16, #int4>
// expected-error @below {{expected tensor 'w.scales' of type 'f16' in the archive but got F32}}
quant_llm.parameter @v from @type key "w" : !quant_llm.weight<8x64xf16, #int4>
// expected-error @below {{cannot be read: }}
quant_llm.parameter @w from @missing : !quant_llm.weight<8x64xf16, #int4>
func.func @f(%x: tensor<1x64xf32>) -> (tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>) {
  %u = quant_llm.get_parameter @u : !quant_llm.weight<8x64xf16, #int4>
  %v = quant_llm.get_parameter @v : !quant_llm.weight<8x64xf16, #int4>
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4>
  %0 = quant_llm.linear %x, %u : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  %1 = quant_llm.linear %x, %v : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  %2 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  return %0, %1, %2 : tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>
}

// -----

#small = #quant_llm.scheme<int4, block = [1, 8], scale = f16>
quant_llm.archive @a "good.safetensors"
// expected-error @below {{cannot be packed: expected blocks of at least 16 columns, or of all rows, but got block = [1, 8], which the packed layout does not have}}
quant_llm.parameter @w from @a : !quant_llm.weight<8x64xf16, #small>
func.func @f(%x: tensor<1x64xf32>) -> tensor<1x8xf32> {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #small>
  %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #small>) -> tensor<1x8xf32>
  return %0 : tensor<1x8xf32>
}

// -----

// expected-error @below {{quant-llm-prepack: no linear has a parameter in canonical storage as its weight; run quant-llm-quantize first}}
module {
  func.func @f(%x: tensor<1x64xf32>, %w: tensor<8x64xf16>) -> tensor<1x8xf32> {
    %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, tensor<8x64xf16>) -> tensor<1x8xf32>
    return %0 : tensor<1x8xf32>
  }
}

// -----

// Names of parameters take the place of a key that two of them share; here one is taken.
#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "good.safetensors"
quant_llm.archive @b "underflow.safetensors"
// expected-note @below {{which this parameter needs as well}}
quant_llm.parameter @v from @a key "w" : !quant_llm.weight<8x64xf16, #int4>
quant_llm.parameter @w from @b : !quant_llm.weight<8x64xf16, #int4>
// expected-error @below {{needs the tensor 'v.packed' in the new archive}}
quant_llm.parameter @u from @b key "v" : !quant_llm.weight<8x64xf16, #int4>
func.func @f(%x: tensor<1x64xf32>) -> (tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>) {
  %u = quant_llm.get_parameter @u : !quant_llm.weight<8x64xf16, #int4>
  %v = quant_llm.get_parameter @v : !quant_llm.weight<8x64xf16, #int4>
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4>
  %0 = quant_llm.linear %x, %v : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  %1 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  %2 = quant_llm.linear %x, %u : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  return %0, %1, %2 : tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>
}
