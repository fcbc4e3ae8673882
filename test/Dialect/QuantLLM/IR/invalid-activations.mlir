// RUN: quant-opt %s -split-input-file -verify-diagnostics

// QL-ACTIVATION-C1
// expected-error @below {{expected the last dimension of an activation, its channels, to be static and positive}}
func.func private @f(!quant_llm.activation<f32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C1
// expected-error @below {{expected the last dimension of an activation, its channels, to be static and positive}}
func.func private @f(!quant_llm.activation<4x?xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C1
// expected-error @below {{expected the last dimension of an activation, its channels, to be static and positive}}
func.func private @f(!quant_llm.activation<4x0xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C2
// expected-error @below {{expected the expressed type to be f16, bf16 or f32 but got 'f64'}}
func.func private @f(!quant_llm.activation<?x64xf64, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C3
// expected-error @below {{expected the block of an activation to have 1 row, a token, or -1, all of them, but got 2}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [2, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C3
// expected-error @below {{expected the scales of an activation to be f16, bf16 or f32 but got f8E8M0FNU}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f8E8M0FNU, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C3
// expected-error @below {{expected the scales of an activation to be f16, bf16 or f32 but got #quant_llm.scheme}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C4
// expected-error @below {{expected the element of an activation to be an integer of at least 2 bits or a float but got}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<nf4, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C4
// expected-error @below {{expected the element of an activation to be an integer of at least 2 bits or a float but got}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<ternary, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C4
// expected-error @below {{expected the element of an activation to be an integer of at least 2 bits or a float but got}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int1, block = [1, -1], scale = f32, rule = absmax_full, rounding = half_even>>)

// -----

// QL-ACTIVATION-C5
// expected-error @below {{expected the zero of an activation to be int, or none, but got 'f16'}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<uint8, block = [1, -1], scale = f32, zero = f16, rule = minmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C5
// expected-error @below {{expected an activation without a low-rank part}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, low_rank = 2xf16, rule = absmax, rounding = half_even>>)

// -----

// QL-ACTIVATION-C6
// expected-error @below {{expected the rule of an activation to be absmax, absmax_full or minmax but got mse}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = mse, rounding = half_even>>)

// -----

// QL-ACTIVATION-C6
// expected-error @below {{expected the rounding of an activation to be half_even but got half_away}}
func.func private @f(!quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_away>>)

// -----

func.func @f(%x: tensor<4x64xf32>) {
  // QL-QUANTIZE-ACTIVATION-C1
  // expected-error @below {{expected operand and result of equal shape but got 'tensor<4x64xf32>' and 'tensor<?x64xf32>'}}
  %q = quant_llm.quantize_activation %x : tensor<4x64xf32> -> !quant_llm.activation<?x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>) {
  // QL-QUANTIZE-ACTIVATION-C2
  // expected-error @below {{expected the operand's element type to be the expressed type 'f16' but got 'f32'}}
  %q = quant_llm.quantize_activation %x : tensor<4x64xf32> -> !quant_llm.activation<4x64xf16, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>, %s: tensor<f32>) {
  // QL-QUANTIZE-ACTIVATION-C3
  // expected-error @below {{expected 2 given components, scales and zeros, but got 1}}
  %q = quant_llm.quantize_activation %x static(%s : tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<uint8, block = [-1, -1], scale = f32, zero = int, rule = minmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>, %s: tensor<f32>) {
  // QL-QUANTIZE-ACTIVATION-C3
  // expected-error @below {{expected 1 given components, scales, but got 2}}
  %q = quant_llm.quantize_activation %x static(%s, %s : tensor<f32>, tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>, %s: tensor<f32>) {
  // QL-QUANTIZE-ACTIVATION-C3
  // expected-error @below {{expected the given scales to be 'tensor<4xf32>' but got 'tensor<f32>'}}
  %q = quant_llm.quantize_activation %x static(%s : tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>) {
  // QL-QUANTIZE-ACTIVATION-C4
  // expected-error @below {{expected a clip of more than 0 and at most 1 but got}}
  %q = quant_llm.quantize_activation %x clip 0.0 : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>) {
  // QL-QUANTIZE-ACTIVATION-C4
  // expected-error @below {{expected a clip of more than 0 and at most 1 but got}}
  %q = quant_llm.quantize_activation %x clip 1.5 : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>) {
  // QL-QUANTIZE-ACTIVATION-C4
  // expected-error @below {{expected a clip of more than 0 and at most 1 but got}}
  %q = quant_llm.quantize_activation %x clip 0x7FC00000 : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: tensor<4x64xf32>, %s: tensor<f32>) {
  // QL-QUANTIZE-ACTIVATION-C4
  // expected-error @below {{expected no clip beside given scales}}
  %q = quant_llm.quantize_activation %x clip 0.5 static(%s : tensor<f32>) : tensor<4x64xf32> -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%x: !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, %w: tensor<8x32xf32>) {
  // QL-LINEAR-C3
  // expected-error @below {{expected the last dimension of the input to be 32, the inputs of the weight, but got 'tensor<4x64xf32>'}}
  %y = quant_llm.linear %x, %w : (!quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, tensor<8x32xf32>) -> tensor<4x8xf32>
  return
}

// -----

func.func @f(%x: !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C4
  // expected-error @below {{expected the result to have the shape 'tensor<4x8xf32>' but got 'tensor<5x8xf32>'}}
  %y = quant_llm.linear %x, %w : (!quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, tensor<8x64xf32>) -> tensor<5x8xf32>
  return
}

// -----

func.func @f(%x: !quant_llm.activation<2x4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C4
  // expected-error @below {{expected an input of two dimensions but got 'tensor<2x4x64xf32>'}}
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) : (!quant_llm.activation<2x4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>, tensor<8x64xf32>) -> tensor<2x4x4xf32>
  return
}

// -----

func.func @f(%c: tensor<4x64xi8>) {
  // QL-ASSEMBLE-C1
  // expected-error @below {{expected 2 components but got 1}}
  %q = quant_llm.assemble %c : (tensor<4x64xi8>) -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%c: tensor<4x64xi8>, %s: tensor<4x1xf32>) {
  // QL-ASSEMBLE-C2
  // expected-error @below {{expected the component 'scales' to be 'tensor<4xf32>' but got 'tensor<4x1xf32>'}}
  %q = quant_llm.assemble %c, %s : (tensor<4x64xi8>, tensor<4x1xf32>) -> !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>
  return
}

// -----

func.func @f(%q: !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>>) {
  // QL-DEQUANTIZE-C1
  // expected-error @below {{failed to infer returned types}}
  // expected-error @below {{op inferred type(s) 'tensor<4x64xf32>' are incompatible with return type(s) of operation 'tensor<4x64xf16>'}}
  %y = quant_llm.dequantize %q : !quant_llm.activation<4x64xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>> -> tensor<4x64xf16>
  return
}
