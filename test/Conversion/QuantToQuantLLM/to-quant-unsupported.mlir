// RUN: quant-opt %s --convert-quant-llm-to-quant -split-input-file -verify-diagnostics

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>
func.func @not_assembled(%w: !w) -> tensor<2x4xf32> {
  // expected-error @below {{cannot be converted: expected the weight to come from quant_llm.assemble of constants}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>
func.func @variable_scales(%c: tensor<2x4xi8>, %s: tensor<2x1xf32>) -> tensor<2x4xf32> {
  %w = quant_llm.assemble %c, %s : (tensor<2x4xi8>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected scales and zeros to be inline constants, as they are literals of a quant type}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int4, block = [1, -1], scale = f32>>
func.func @variable_codes(%c: tensor<2x2xi8>) -> tensor<2x4xf32> {
  %s = arith.constant dense<1.0> : tensor<2x1xf32>
  %w = quant_llm.assemble %c, %s : (tensor<2x2xi8>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected codes of less than 8 bits to be an inline constant, which can be unpacked}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<nf4, block = [1, -1], scale = f32>>
func.func @element(%c: tensor<2x2xi8>) -> tensor<2x4xf32> {
  %s = arith.constant dense<1.0> : tensor<2x1xf32>
  %w = quant_llm.assemble %c, %s : (tensor<2x2xi8>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected an integer element, which is all that quant has}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int8, block = [1, -1], scale = #quant_llm.scheme<uint8, block = [-1, -1], scale = f32>>>
func.func @scales_of_scales(%c: tensor<2x4xi8>, %sc: tensor<2x1xi8>, %ss: tensor<1x1xf32>) -> tensor<2x4xf32> {
  %w = quant_llm.assemble %c, %sc, %ss : (tensor<2x4xi8>, tensor<2x1xi8>, tensor<1x1xf32>) -> !w
  // expected-error @below {{expected a type as the scale; quant has no scales of scales}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<uint8, block = [1, -1], scale = f32, zero = f32, rule = minmax>>
func.func @float_zero(%c: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %s = arith.constant dense<1.0> : tensor<2x1xf32>
  %w = quant_llm.assemble %c, %s, %s : (tensor<2x4xi8>, tensor<2x1xf32>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected no zero or integers; quant has no float zeros}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int8, block = [1, 3], scale = f32>>
func.func @ragged(%c: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %s = arith.constant dense<1.0> : tensor<2x2xf32>
  %w = quant_llm.assemble %c, %s : (tensor<2x4xi8>, tensor<2x2xf32>) -> !w
  // expected-error @below {{expected the blocks to divide the matrix, which quant demands, but [1, 3] does not divide 2x4}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>
func.func @zero_scale(%c: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %s = arith.constant dense<[[1.0], [0.0]]> : tensor<2x1xf32>
  %w = quant_llm.assemble %c, %s : (tensor<2x4xi8>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected positive finite scales, which quant demands, but that of block [1, 0] is not}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

!w = !quant_llm.weight<2x4xf16, #quant_llm.scheme<int8, block = [1, -1], scale = f32>>
func.func @wide_scale(%c: tensor<2x4xi8>) -> tensor<2x4xf16> {
  %s = arith.constant dense<0.1> : tensor<2x1xf32>
  %w = quant_llm.assemble %c, %s : (tensor<2x4xi8>, tensor<2x1xf32>) -> !w
  // expected-error @below {{expected scales that the expressed type 'f16' holds exactly}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf16>
  return %0 : tensor<2x4xf16>
}

// -----

!w = !quant_llm.weight<2x4xf32, #quant_llm.scheme<uint4, block = [1, -1], scale = f32, zero = int, rule = minmax>>
func.func @zero_range() -> tensor<2x4xf32> {
  %c = arith.constant dense<0> : tensor<2x2xi8>
  %s = arith.constant dense<1.0> : tensor<2x1xf32>
  %z = arith.constant dense<16> : tensor<2x1xi8>
  %w = quant_llm.assemble %c, %s, %z : (tensor<2x2xi8>, tensor<2x1xf32>, tensor<2x1xi8>) -> !w
  // expected-error @below {{expected zeros within the element, 0 to 15, but got 16}}
  %0 = quant_llm.dequantize %w : !w -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

#s = #quant_llm.scheme<int8, block = [1, -1], scale = f32>
func.func @others(%w: tensor<2x4xf32>, %x: tensor<?x4xf32>) -> tensor<?x2xf32> {
  // expected-error @below {{its scales follow from the values, those of a quant type are literals}}
  %q = quant_llm.quantize %w : tensor<2x4xf32> -> !quant_llm.weight<2x4xf32, #s>
  // expected-error @below {{it uses the unrounded values of a weight; quant has no such product}}
  %y = quant_llm.linear %x, %q : (tensor<?x4xf32>, !quant_llm.weight<2x4xf32, #s>) -> tensor<?x2xf32>
  return %y : tensor<?x2xf32>
}

// -----

// Components in the layout of kernels are not codes in rows.
#s = #quant_llm.scheme<int4, block = [1, -1], scale = f32>
!w = !quant_llm.weight<64x128xf32, #s, #quant_llm.fragment_layout>
func.func @packed() -> tensor<64x128xf32> {
  %c = arith.constant dense<0> : tensor<4x1x1024xi8>
  %s = arith.constant dense<1.0> : tensor<4x1x16xf32>
  %o = arith.constant dense<2.0> : tensor<f32>
  %w = quant_llm.assemble %c, %s, %o : (tensor<4x1x1024xi8>, tensor<4x1x16xf32>, tensor<f32>) -> !w
  // expected-error @below {{expected a weight in the canonical layout but got one packed for kernels; convert before quant-llm-prepack}}
  %0 = quant_llm.dequantize %w : !w -> tensor<64x128xf32>
  return %0 : tensor<64x128xf32>
}
