// RUN: quant-opt %s -split-input-file -verify-diagnostics

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C4
// expected-error @below {{expected the layout of a weight such as #quant_llm.fragment_layout but got 3 : i32}}
func.func private @f(!quant_llm.weight<8x64xf16, #int4, 3 : i32>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C4
// expected-error @below {{expected the layout of a weight such as #quant_llm.fragment_layout but got #quant_llm.scheme<}}
func.func private @f(!quant_llm.weight<8x64xf16, #int4, #int4>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// expected-error @below {{expected '>'}}
func.func private @f(!quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout, 1>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 8], scale = f16>
// QL-WEIGHT-C5, QL-FRAGMENT-LAYOUT-C1
// expected-error @below {{expected blocks of at least 16 columns, or of all rows, but got block = [1, 8], which the packed layout does not have}}
func.func private @f(!quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>)

// -----

#int8 = #quant_llm.scheme<int8, block = [1, -1], scale = f16>
// The canonical weight is legal.
func.func private @f(!quant_llm.weight<1x288230376151711744xf16, #int8>)
// QL-WEIGHT-C5, QL-FRAGMENT-LAYOUT-C2
// expected-error @below {{expected fewer than 2^60 bytes of a packed weight but got a matrix of 1x288230376151711744}}
func.func private @g(!quant_llm.weight<1x288230376151711744xf16, #int8, #quant_llm.fragment_layout>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%packed: tensor<4x1x1024xi8>, %scales: tensor<4x1x16xf16>) {
  // QL-ASSEMBLE-C1
  // expected-error @below {{expected 3 components but got 2}}
  %0 = quant_llm.assemble %packed, %scales : (tensor<4x1x1024xi8>, tensor<4x1x16xf16>) -> !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%codes: tensor<8x32xi8>, %scales: tensor<4x1x16xf16>, %output_scale: tensor<f32>) {
  // QL-ASSEMBLE-C2
  // expected-error @below {{expected the component 'packed' to be 'tensor<4x1x1024xi8>' but got 'tensor<8x32xi8>'}}
  %0 = quant_llm.assemble %codes, %scales, %output_scale : (tensor<8x32xi8>, tensor<4x1x16xf16>, tensor<f32>) -> !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>) {
  // QL-COMPONENTS-C1
  // expected-error @below {{failed to infer returned types}}
  // expected-error @below {{'quant_llm.components' op inferred type(s) 'tensor<4x1x1024xi8>', 'tensor<4x1x16xf16>', 'tensor<f32>' are incompatible with return type(s) of operation 'tensor<8x32xi8>', 'tensor<8x1xf16>'}}
  %0:2 = quant_llm.components %w : (!quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>) -> (tensor<8x32xi8>, tensor<8x1xf16>)
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>) {
  // QL-DEQUANTIZE-C1
  // expected-error @below {{failed to infer returned types}}
  // expected-error @below {{are incompatible with return type(s) of operation 'tensor<4x1xf16>'}}
  %0 = quant_llm.dequantize %w : !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout> -> tensor<4x1xf16>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @model "model.safetensors"
// expected-note @below {{the parameter is declared here}}
quant_llm.parameter @w from @model : !quant_llm.weight<8x64xf16, #int4>
func.func @f() {
  // QL-GET-PARAMETER-C2: a layout makes another type.
  // expected-error @below {{expected the type of the parameter}}
  %0 = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4, #quant_llm.fragment_layout>
  return
}

// -----

#low_rank = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 4xf16>
// QL-WEIGHT-C5, QL-FRAGMENT-LAYOUT-C3
// expected-error @below {{expected a scheme without low_rank, which the packed layout and GPU kernels do not have; quantize without it, or run on the CPU}}
func.func private @f(!quant_llm.weight<8x64xf16, #low_rank, #quant_llm.fragment_layout>)
