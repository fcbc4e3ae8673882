// What version 3 of the dialect added: test/Compat has bytecode of this file.
// RUN: quant-opt %s | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s

// CHECK-DAG: #[[TOKEN:.*]] = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[TENSOR:.*]] = #quant_llm.scheme<uint8, block = [-1, -1], scale = f16, zero = int, rule = minmax, rounding = half_even>
// CHECK-DAG: #[[RANK:.*]] = #quant_llm.scheme<int4, block = [1, 32], scale = f16, low_rank = 2xbf16, rule = absmax, rounding = half_even>
#token = #quant_llm.scheme<int8, block = [1, -1], scale = f32>
#tensor = #quant_llm.scheme<uint8, block = [-1, -1], scale = f16, zero = int, rule = minmax>
#rank = #quant_llm.scheme<int4, block = [1, 32], scale = f16, low_rank = 2xbf16>

// CHECK: quant_llm.parameter @w from @file : !quant_llm.weight<16x64xf16, #[[RANK]]>
quant_llm.archive @file "model.safetensors"
quant_llm.parameter @w from @file : !quant_llm.weight<16x64xf16, #rank>

// CHECK-LABEL: func.func @activations
// CHECK-SAME: (%[[X:.*]]: tensor<?x64xf32>, %[[S:.*]]: tensor<f16>, %[[Z:.*]]: tensor<i8>, %[[O:.*]]: tensor<3xi32>
func.func @activations(%x: tensor<?x64xf32>, %s: tensor<f16>, %z: tensor<i8>, %o: tensor<3xi32>) -> (tensor<?x16xf32>, tensor<?x8xf32>) {
  // CHECK: %[[W:.*]] = quant_llm.get_parameter @w : !quant_llm.weight<16x64xf16, #[[RANK]]>
  %w = quant_llm.get_parameter @w : !quant_llm.weight<16x64xf16, #rank>
  // CHECK: %[[P:.*]] = quant_llm.quantize_activation %[[X]] clip 7.500000e-01 : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #[[TOKEN]]>
  %p = quant_llm.quantize_activation %x clip 0.75 : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #token>
  // CHECK: %[[Q:.*]] = quant_llm.quantize_activation %[[X]] static(%[[S]], %[[Z]] : tensor<f16>, tensor<i8>) : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #[[TENSOR]]>
  %q = quant_llm.quantize_activation %x static(%s, %z : tensor<f16>, tensor<i8>) : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #tensor>
  // CHECK: %[[Y:.*]] = quant_llm.linear %[[P]], %[[W]] {reason = "by hand", scheme = #[[RANK]]} : (!quant_llm.activation<?x64xf32, #[[TOKEN]]>, !quant_llm.weight<16x64xf16, #[[RANK]]>) -> tensor<?x16xf32>
  %y = quant_llm.linear %p, %w {scheme = #rank, reason = "by hand"} : (!quant_llm.activation<?x64xf32, #token>, !quant_llm.weight<16x64xf16, #rank>) -> tensor<?x16xf32>
  // CHECK: quant_llm.grouped_linear %[[Q]], %[[W]] offsets(%[[O]] : tensor<3xi32>) : (!quant_llm.activation<?x64xf32, #[[TENSOR]]>, !quant_llm.weight<16x64xf16, #[[RANK]]>) -> tensor<?x8xf32>
  %e = quant_llm.grouped_linear %q, %w offsets(%o : tensor<3xi32>) : (!quant_llm.activation<?x64xf32, #tensor>, !quant_llm.weight<16x64xf16, #rank>) -> tensor<?x8xf32>
  return %y, %e : tensor<?x16xf32>, tensor<?x8xf32>
}

// CHECK-LABEL: func.func @transforms
func.func @transforms(%x: tensor<?x24xf32>, %s: tensor<24xf32>, %p: tensor<24xi32>, %r: tensor<12x12xf64>, %a: tensor<4x4xf64>, %t: tensor<4xf64>) -> tensor<?x24xf32> {
  // CHECK: quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %0 = quant_llm.scale_channels %x by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  // CHECK: quant_llm.shift_channels inverse %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  %1 = quant_llm.shift_channels inverse %0 by %s dims = [1] : tensor<?x24xf32>, tensor<24xf32>
  // CHECK: quant_llm.permute_channels %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<24xi32>
  %2 = quant_llm.permute_channels %1 by %p dims = [1] : tensor<?x24xf32>, tensor<24xi32>
  // CHECK: quant_llm.rotate inverse %{{.*}} hadamard 12 seed -7 dims = [1] : tensor<?x24xf32>
  %3 = quant_llm.rotate inverse %2 hadamard 12 seed -7 dims = [1] : tensor<?x24xf32>
  // CHECK: quant_llm.rotate %{{.*}} by %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>
  %4 = quant_llm.rotate %3 by %r dims = [1] : tensor<?x24xf32>, tensor<12x12xf64>
  // CHECK: quant_llm.affine inverse %{{.*}} by %{{.*}}, %{{.*}} plus %{{.*}} dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<4x4xf64>, tensor<4xf64>
  %5 = quant_llm.affine inverse %4 by %a, %a plus %t dims = [1] : tensor<?x24xf32>, tensor<4x4xf64>, tensor<4x4xf64>, tensor<4xf64>
  return %5 : tensor<?x24xf32>
}
