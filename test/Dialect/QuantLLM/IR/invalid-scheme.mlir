// RUN: quant-opt %s -split-input-file -verify-diagnostics

// QL-ELEMENT-C1
// expected-error @below {{expected an element of 1 to 8 bits but got 9}}
module attributes {test.e = #quant_llm.element<int9>} {}

// -----

// expected-error @below {{expected an element of 1 to 8 bits but got -1}}
module attributes {test.e = #quant_llm.element<codebook<-1, [1.0]>>} {}

// -----

// expected-error @below {{expected an element of 1 to 8 bits but got 18446744073709551616}}
module attributes {test.e = #quant_llm.element<codebook<18446744073709551616, [1.0]>>} {}

// -----

// QL-ELEMENT-C1
// expected-error @below {{expected an element of 1 to 8 bits but got 0}}
module attributes {test.e = #quant_llm.element<uint0>} {}

// -----

// expected-error @below {{expected an element such as 'int4', 'uint4', 'codebook<4, [...]>', 'ternary'}}
module attributes {test.e = #quant_llm.element<int04>} {}

// -----

// expected-error @below {{but got 'int99999999999999999999'}}
module attributes {test.e = #quant_llm.element<int99999999999999999999>} {}

// -----

// expected-error @below {{but got 'f16'}}
module attributes {test.e = #quant_llm.element<f16>} {}

// -----

// expected-error @below {{expected an element such as 'int4', 'nf4' or 'codebook<4, [...]>'}}
module attributes {test.e = #quant_llm.element<4>} {}

// -----

// QL-ELEMENT-C2
// expected-error @below {{expected 4 values in a codebook of 2 bits but got 3}}
module attributes {test.e = #quant_llm.element<codebook<2, [0.0, 1.0, 2.0]>>} {}

// -----

// QL-ELEMENT-C1
// expected-error @below {{expected an element of 1 to 8 bits but got 4294967296}}
module attributes {test.e = #quant_llm.element<codebook<4294967296, [0.0]>>} {}

// -----

// QL-ELEMENT-C3
// expected-error @below {{expected finite values in a codebook but value 1 is infinite}}
module attributes {test.e = #quant_llm.element<codebook<1, [0.0, 0x7F800000]>>} {}

// -----

// QL-SCHEME-C1
// expected-error @below {{expected block sizes of at least 1, or -1 for the whole dimension, but got [1, 0]}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 0], scale = f16>} {}

// -----

// QL-SCHEME-C1
// expected-error @below {{expected block sizes of at least 1, or -1 for the whole dimension, but got [-9223372036854775808, 1]}}
module attributes {test.s = #quant_llm.scheme<int4, block = [-9223372036854775808, 1], scale = f16>} {}

// -----

// expected-error @below {{expected a block of two sizes, [n, k], but got 1}}
module attributes {test.s = #quant_llm.scheme<int4, block = [64], scale = f16>} {}

// -----

// QL-SCHEME-C2
// expected-error @below {{expected scale to be f16, bf16, f32, f8E8M0FNU, f8E4M3FN or a scheme but got f64}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f64>} {}

// -----

// QL-SCHEME-C2
// expected-error @below {{expected scale to be f16, bf16, f32, f8E8M0FNU, f8E4M3FN or a scheme but got 1.000000e+00 : f64}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = 1.0>} {}

// -----

// QL-SCHEME-C3
#inner = #quant_llm.scheme<int8, block = [1, 64], scale = #quant_llm.scheme<int8, block = [1, 64], scale = f16>>
// expected-error @below {{expected a scale scheme with a floating-point scale but its scale is again a scheme; only one level is supported}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = #inner>} {}

// -----

// QL-SCHEME-C4
#inner = #quant_llm.scheme<uint8, block = [1, 64], scale = f16, zero = int, rule = minmax>
// expected-error @below {{expected a scale scheme without zero}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = #inner>} {}

// -----

// QL-SCHEME-C5
// expected-error @below {{expected an element uintN with an integer zero but got nf4; use a float zero}}
module attributes {test.s = #quant_llm.scheme<nf4, block = [1, 64], scale = f16, zero = int, rule = minmax>} {}

// -----

// QL-SCHEME-C6
// expected-error @below {{expected zero to be int, f16, bf16, f32 or f8E4M3FN but got 'i8'}}
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, zero = i8, rule = minmax>} {}

// -----

// QL-SCHEME-C6
// expected-error @below {{expected a zero of type f16, bf16, f32 or f8E4M3FN but got f8E8M0FNU, which has no sign and no 0}}
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, zero = f8E8M0FNU, rule = minmax>} {}

// -----

// QL-SCHEME-C6
// expected-error @below {{expected an element with two different values for a float zero but got codebook<1, [}}
module attributes {test.s = #quant_llm.scheme<codebook<1, [1.0, 1.0]>, block = [1, 64], scale = f16, zero = f16, rule = minmax>} {}

// -----

// QL-SCHEME-C7
// expected-error @below {{expected an element intN with rule absmax_full but got uint4; use absmax}}
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, rule = absmax_full>} {}

// -----

// QL-SCHEME-C7
// expected-error @below {{expected no zero with rule absmax_full; use minmax or mse}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, zero = int, rule = absmax_full>} {}

// -----

// QL-SCHEME-C8
// expected-error @below {{expected no zero with rule absmax; use minmax or mse}}
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, zero = int>} {}

// -----

// QL-SCHEME-C8
// expected-error @below {{expected an element with a positive value for rule absmax but got int1; use absmax_full}}
module attributes {test.s = #quant_llm.scheme<int1, block = [1, 64], scale = f16>} {}

// -----

// QL-SCHEME-C9
// expected-error @below {{expected an integer or float zero with rule minmax; use absmax for a symmetric scheme}}
module attributes {test.s = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, rule = minmax>} {}

// -----

// QL-SCHEME-C10
// expected-error @below {{expected rounding half_even with element nf4, which has its own rule for ties; half_away is for integers}}
module attributes {test.s = #quant_llm.scheme<nf4, block = [1, 64], scale = f16, rounding = half_away>} {}

// -----

// QL-SCHEME-C11
// expected-error @below {{expected a scale that can be 0 with element codebook<1, [}}
module attributes {test.s = #quant_llm.scheme<codebook<1, [-1.0, 1.0]>, block = [1, 64], scale = f8E8M0FNU>} {}

// -----

// expected-error @below {{expected a scheme to have the field 'block'}}
module attributes {test.s = #quant_llm.scheme<int4, scale = f16>} {}

// -----

// expected-error @below {{expected a scheme to have the field 'scale'}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64]>} {}

// -----

// expected-error @below {{expected field 'scale' only once}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, scale = f32>} {}

// -----

// expected-error @below {{expected a field of a scheme: 'block', 'scale', 'zero', 'low_rank', 'rule' or 'rounding' but got 'group'}}
module attributes {test.s = #quant_llm.scheme<int4, group = 64, scale = f16>} {}

// -----

// expected-error @below {{expected a field of a scheme: 'block', 'scale', 'zero', 'low_rank', 'rule' or 'rounding'}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], >} {}

// -----

// expected-error @below {{expected rule to be one of 'absmax_full', 'absmax', 'minmax', 'mse' but got 'max'}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = max>} {}

// -----

// expected-error @below {{expected rounding to be one of 'half_even', 'half_away' but got 'down'}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rounding = down>} {}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C1
// expected-error @below {{expected a weight of 2 dimensions but got 3}}
func.func private @f(!quant_llm.weight<2x8x64xf16, #int4>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C1
// expected-error @below {{expected static positive dimensions of a weight but got 0}}
func.func private @f(!quant_llm.weight<0x64xf16, #int4>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C1
// expected-error @below {{expected static shape}}
func.func private @f(!quant_llm.weight<?x64xf16, #int4>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C2
// expected-error @below {{expected the expressed type to be f16, bf16 or f32 but got 'i8'}}
func.func private @f(!quant_llm.weight<8x64xi8, #int4>)

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
// QL-WEIGHT-C3
// expected-error @below {{expected a matrix of fewer than 2^59 elements but got 4294967296x4294967296}}
func.func private @f(!quant_llm.weight<4294967296x4294967296xf16, #int4>)

// -----

// expected-error @below {{invalid kind of attribute specified}}
func.func private @f(!quant_llm.weight<8x64xf16, 4 : i32>)

// -----

// QL-SCHEME-C12
// expected-error @below {{expected low_rank to be a positive rank and a type, such as 8xf16}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 0xf16>} {}

// -----

// QL-SCHEME-C12
// expected-error @below {{expected low_rank to be a positive rank and a type, such as 8xf16}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 8x4xf16>} {}

// -----

// QL-SCHEME-C12
// expected-error @below {{expected low_rank to be a positive rank and a type, such as 8xf16}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = f16>} {}

// -----

// QL-SCHEME-C12
// expected-error @below {{expected low_rank to have a positive rank and the type f16, bf16 or f32 but got 8x'i8'}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 8xi8>} {}

// -----

// QL-SCHEME-C12
// expected-error @below {{expected low_rank of type f16, bf16 or f32 but got f8E4M3FN}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 8xf8E4M3FN>} {}

// -----

// expected-error @below {{expected field 'low_rank' only once}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 8xf16, low_rank = 4xf16>} {}

// -----

// QL-SCHEME-C13
#inner = #quant_llm.scheme<uint8, block = [1, 64], scale = f16, low_rank = 1xf16>
// expected-error @below {{expected a scale scheme without low_rank}}
module attributes {test.s = #quant_llm.scheme<int4, block = [1, 64], scale = #inner>} {}

// -----

#low_rank = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 9xf16>
// QL-WEIGHT-C6
// expected-error @below {{expected the rank of low_rank to be at most 8 for a 8x64 weight but got 9}}
func.func private @f(!quant_llm.weight<8x64xf16, #low_rank>)
