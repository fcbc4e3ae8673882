// RUN: quant-opt %s --convert-quant-to-quant-llm -split-input-file -verify-diagnostics
// RUN: quant-opt %s --convert-quant-to-quant-llm=allow-unconverted --remarks-filter=convert-quant-to-quant-llm -split-input-file 2>&1 | FileCheck %s

// Left alone with a remark if that is allowed.
// CHECK-DAG: [Missed] not-converted | Category:convert-quant-to-quant-llm | Reason="expected a matrix with static positive dimensions but got 'tensor<?x4x!quant.uniform<i8:f32, 1.000000e+00>>'"
// CHECK-DAG: quant.dcast %{{.*}} : tensor<?x4x!quant.uniform<i8:f32, 1.000000e+00>> to tensor<?x4xf32>

func.func @dynamic(%x: tensor<?x4xi8>) -> tensor<?x4xf32> {
  %0 = quant.scast %x : tensor<?x4xi8> to tensor<?x4x!quant.uniform<i8:f32, 1.0>>
  // expected-error @below {{cannot be converted: expected a matrix with static positive dimensions but got 'tensor<?x4x!quant.uniform<i8:f32, 1.000000e+00>>'}}
  %1 = quant.dcast %0 : tensor<?x4x!quant.uniform<i8:f32, 1.0>> to tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// -----

func.func @scalar(%x: i8) -> f32 {
  %0 = quant.scast %x : i8 to !quant.uniform<i8:f32, 1.0>
  // expected-error @below {{expected a matrix with static positive dimensions but got '!quant.uniform<i8:f32, 1.000000e+00>'}}
  %1 = quant.dcast %0 : !quant.uniform<i8:f32, 1.0> to f32
  return %1 : f32
}

// -----

func.func @activation(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
  // expected-error @below {{its scales are fixed by the type, those of quant_llm.quantize follow from the values}}
  %0 = quant.qcast %x : tensor<2x4xf32> to tensor<2x4x!quant.uniform<i8:f32, 1.0>>
  // expected-error @below {{expected the operand to come from quant.scast}}
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i8:f32, 1.0>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// -----

func.func @wide_storage(%x: tensor<2x4xi16>) -> tensor<2x4xf32> {
  %0 = quant.scast %x : tensor<2x4xi16> to tensor<2x4x!quant.uniform<i16:f32, 1.0>>
  // expected-error @below {{expected storage of at most 8 bits but got 16}}
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i16:f32, 1.0>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// -----

func.func @expressed(%x: tensor<2x4xi8>) -> tensor<2x4xf64> {
  %0 = quant.scast %x : tensor<2x4xi8> to tensor<2x4x!quant.uniform<i8:f64, 1.0>>
  // expected-error @below {{expected the expressed type to be f16, bf16 or f32 but got 'f64'}}
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i8:f64, 1.0>> to tensor<2x4xf64>
  return %1 : tensor<2x4xf64>
}

// -----

func.func @variable_codes(%x: tensor<2x4xi4>) -> tensor<2x4xf32> {
  %0 = quant.scast %x : tensor<2x4xi4> to tensor<2x4x!quant.uniform<i4:f32, 1.0>>
  // expected-error @below {{expected codes of less than 8 bits to be an inline constant, which can be packed}}
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i4:f32, 1.0>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// -----

func.func @zero_point(%x: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %0 = quant.scast %x : tensor<2x4xi8> to tensor<2x4x!quant.uniform<u8:f32, 1.0:300>>
  // expected-error @below {{expected zero points within the storage, 0 to 255, but got 300}}
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<u8:f32, 1.0:300>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}
