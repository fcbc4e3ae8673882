// RUN: quant-opt %s --quant-llm-decompose-weights --convert-quant-llm-to-cpu=vector-bits=256 | FileCheck %s

// Scales of 8 bits are read as bytes through a parameter of their own, whose name is
// free even where the module has the obvious one.
// CHECK-DAG: quant_llm.parameter @w.scales.bytes from @a key "other" : tensor<3xf32>
// CHECK-DAG: quant_llm.parameter @[[BYTES:w.scales.bytes_[0-9]+]] from @a key "w.scales" : tensor<8x1xi8>
// CHECK-NOT: quant_llm.parameter {{.*}} : tensor<8x1xi8>
// CHECK-LABEL: func.func @f
// CHECK: quant_llm.get_parameter @[[BYTES]] : tensor<8x1xi8>
// CHECK: quant_llm.get_parameter @[[BYTES]] : tensor<8x1xi8>
#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f8E8M0FNU, rule = absmax, rounding = half_even>
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : !quant_llm.weight<8x64xf16, #scheme>
quant_llm.parameter @w.scales.bytes from @a key "other" : tensor<3xf32>
func.func @f(%x: tensor<?x64xf32>) -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<3xf32>) {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #scheme>
  %v = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #scheme>
  %o = quant_llm.get_parameter @w.scales.bytes : tensor<3xf32>
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf32>
  %1 = quant_llm.linear %x, %v : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #scheme>) -> tensor<?x8xf32>
  return %0, %1, %o : tensor<?x8xf32>, tensor<?x8xf32>, tensor<3xf32>
}
