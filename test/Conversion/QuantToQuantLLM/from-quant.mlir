// RUN: quant-opt %s --convert-quant-to-quant-llm | FileCheck %s
// And back, to the types that it came from (upstream prints unsigned zero points of
// sub-channel types with a sign: -8 is 8).
// RUN: quant-opt %s --convert-quant-to-quant-llm --convert-quant-llm-to-quant --cse | FileCheck %s --check-prefix=BACK

// CHECK-DAG: #[[TENSOR:.*]] = #quant_llm.scheme<int4, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[AFFINE:.*]] = #quant_llm.scheme<uint4, block = [-1, -1], scale = f16, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[ROWS:.*]] = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[COLUMNS:.*]] = #quant_llm.scheme<uint8, block = [-1, 1], scale = f32, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[GROUPS:.*]] = #quant_llm.scheme<uint4, block = [1, 2], scale = f16, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[WIDE:.*]] = #quant_llm.scheme<int4, block = [-1, 2], scale = f16, rule = absmax, rounding = half_even>

// Codes 1 2 3 4 | 5 6 7 -8 as nibbles, low one first: 0x21 0x43 | 0x65 0x87.
// CHECK-LABEL: func.func @per_tensor
// CHECK-DAG:     %[[C:.*]] = arith.constant dense<{{\[\[}}33, 67], [101, -121]]> : tensor<2x2xi8>
// CHECK-DAG:     %[[S:.*]] = arith.constant dense<2.000000e+00> : tensor<1x1xf32>
// CHECK:         %[[W:.*]] = quant_llm.assemble %[[C]], %[[S]] : (tensor<2x2xi8>, tensor<1x1xf32>) -> !quant_llm.weight<2x4xf32, #[[TENSOR]]>
// CHECK-NEXT:    %[[D:.*]] = quant_llm.dequantize %[[W]]
// CHECK-NEXT:    return %[[D]]
// BACK-LABEL:  func.func @per_tensor
// BACK:          %[[C:.*]] = arith.constant dense<{{\[\[}}1, 2, 3, 4], [5, 6, 7, -8]]> : tensor<2x4xi4>
// BACK:          %[[Q:.*]] = quant.scast %[[C]] : tensor<2x4xi4> to tensor<2x4x!quant.uniform<i4:f32, 2.000000e+00>>
// BACK-NEXT:     %[[D:.*]] = quant.dcast %[[Q]]
// BACK-NEXT:     return %[[D]]
func.func @per_tensor() -> tensor<2x4xf32> {
  %c = arith.constant dense<[[1, 2, 3, 4], [5, 6, 7, -8]]> : tensor<2x4xi4>
  %0 = quant.scast %c : tensor<2x4xi4> to tensor<2x4x!quant.uniform<i4:f32, 2.0>>
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i4:f32, 2.0>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// CHECK-LABEL: func.func @affine
// CHECK-DAG:     %[[C:.*]] = arith.constant dense<-1> : tensor<2x2xi8>
// CHECK-DAG:     %[[S:.*]] = arith.constant dense<5.000000e-01> : tensor<1x1xf16>
// CHECK-DAG:     %[[Z:.*]] = arith.constant dense<13> : tensor<1x1xi8>
// CHECK:         quant_llm.assemble %[[C]], %[[S]], %[[Z]] : {{.*}} -> !quant_llm.weight<2x4xf16, #[[AFFINE]]>
// BACK-LABEL:  func.func @affine
// BACK:          quant.scast %{{.*}} : tensor<2x4xi4> to tensor<2x4x!quant.uniform<u4:f16, 5.000000e-01:13>>
func.func @affine() -> tensor<2x4xf16> {
  %c = arith.constant dense<15> : tensor<2x4xi4>
  %0 = quant.scast %c : tensor<2x4xi4> to tensor<2x4x!quant.uniform<u4:f16, 0.5:13>>
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<u4:f16, 0.5:13>> to tensor<2x4xf16>
  return %1 : tensor<2x4xf16>
}

// Storage of 8 bits is the codes, and need not be constant.
// CHECK-LABEL: func.func @per_row
// CHECK-SAME:    (%[[X:.*]]: tensor<2x4xi8>)
// CHECK:         %[[S:.*]] = arith.constant dense<{{\[\[}}1.000000e+00], [2.000000e+00]]> : tensor<2x1xf32>
// CHECK:         quant_llm.assemble %[[X]], %[[S]] : {{.*}} -> !quant_llm.weight<2x4xf32, #[[ROWS]]>
// BACK-LABEL:  func.func @per_row
// BACK-SAME:     (%[[X:.*]]: tensor<2x4xi8>)
// BACK:          quant.scast %[[X]] : tensor<2x4xi8> to tensor<2x4x!quant.uniform<i8:f32:0, {1.000000e+00,2.000000e+00}>>
func.func @per_row(%x: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %0 = quant.scast %x : tensor<2x4xi8> to tensor<2x4x!quant.uniform<i8<-127:127>:f32:0, {1.0, 2.0}>>
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i8<-127:127>:f32:0, {1.0, 2.0}>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// CHECK-LABEL: func.func @per_column
// CHECK-DAG:     %[[S:.*]] = arith.constant dense<{{\[\[}}1.000000e+00, 2.000000e+00]]> : tensor<1x2xf32>
// CHECK-DAG:     %[[Z:.*]] = arith.constant dense<{{\[\[}}0, -56]]> : tensor<1x2xi8>
// CHECK:         quant_llm.assemble %{{.*}}, %[[S]], %[[Z]] : {{.*}} -> !quant_llm.weight<4x2xf32, #[[COLUMNS]]>
// BACK-LABEL:  func.func @per_column
// BACK:          tensor<4x2x!quant.uniform<u8:f32:1, {1.000000e+00,2.000000e+00:200}>>
func.func @per_column(%x: tensor<4x2xi8>) -> tensor<4x2xf32> {
  %0 = quant.scast %x : tensor<4x2xi8> to tensor<4x2x!quant.uniform<u8:f32:1, {1.0, 2.0:200}>>
  %1 = quant.dcast %0 : tensor<4x2x!quant.uniform<u8:f32:1, {1.0, 2.0:200}>> to tensor<4x2xf32>
  return %1 : tensor<4x2xf32>
}

// A signed type with zero points: codes and zeros are moved by 8.
// CHECK-LABEL: func.func @sub_channel
// CHECK-DAG:     %[[C:.*]] = arith.constant dense<{{\[\[}}-87, -53], [-19, 15]]> : tensor<2x2xi8>
// CHECK-DAG:     %[[S:.*]] = arith.constant dense<{{\[\[}}1.000000e+00, 2.000000e+00], [3.000000e+00, 4.000000e+00]]> : tensor<2x2xf16>
// CHECK-DAG:     %[[Z:.*]] = arith.constant dense<{{\[\[}}9, 8], [8, 5]]> : tensor<2x2xi8>
// CHECK:         quant_llm.assemble %[[C]], %[[S]], %[[Z]] : {{.*}} -> !quant_llm.weight<2x4xf16, #[[GROUPS]]>
// BACK-LABEL:  func.func @sub_channel
// BACK:          tensor<2x4x!quant.uniform<u4:f16:{0:1, 1:2}, {{.}}{1.000000e+00:-7, 2.000000e+00:-8}, {3.000000e+00:-8, 4.000000e+00:5}}>>
!groups = !quant.uniform<i4:f16:{0:1, 1:2}, {{1.0:1, 2.0}, {3.0, 4.0:-3}}>
func.func @sub_channel() -> tensor<2x4xf16> {
  %c = arith.constant dense<[[1, 2, 3, 4], [5, 6, 7, -8]]> : tensor<2x4xi4>
  %0 = quant.scast %c : tensor<2x4xi4> to tensor<2x4x!groups>
  %1 = quant.dcast %0 : tensor<2x4x!groups> to tensor<2x4xf16>
  return %1 : tensor<2x4xf16>
}

// CHECK-LABEL: func.func @signed_bytes
// CHECK-SAME:    (%[[X:.*]]: tensor<2x4xi8>)
// CHECK-DAG:     %[[F:.*]] = arith.constant dense<-128> : tensor<2x4xi8>
// CHECK:         %[[C:.*]] = arith.xori %[[X]], %[[F]] : tensor<2x4xi8>
// CHECK:         %[[Z:.*]] = arith.constant dense<118> : tensor<1x1xi8>
// CHECK:         quant_llm.assemble %[[C]], %{{.*}}, %[[Z]]
func.func @signed_bytes(%x: tensor<2x4xi8>) -> tensor<2x4xf32> {
  %0 = quant.scast %x : tensor<2x4xi8> to tensor<2x4x!quant.uniform<i8:f32, 1.0:-10>>
  %1 = quant.dcast %0 : tensor<2x4x!quant.uniform<i8:f32, 1.0:-10>> to tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// An axis that is not named is one block.
// CHECK-LABEL: func.func @omitted_axis
// CHECK:         -> !quant_llm.weight<2x4xf16, #[[WIDE]]>
// BACK-LABEL:  func.func @omitted_axis
// BACK:          tensor<2x4x!quant.uniform<i4:f16:{0:2, 1:2}, {{.}}{1.000000e+00, 2.000000e+00}}>>
!wide = !quant.uniform<i4:f16:{1:2}, {{1.0, 2.0}}>
func.func @omitted_axis() -> tensor<2x4xf16> {
  %c = arith.constant dense<[[1, 2, 3, 4], [5, 6, 7, -8]]> : tensor<2x4xi4>
  %0 = quant.scast %c : tensor<2x4xi4> to tensor<2x4x!wide>
  %1 = quant.dcast %0 : tensor<2x4x!wide> to tensor<2x4xf16>
  return %1 : tensor<2x4xf16>
}
