// RUN: quant-opt %s --quant-llm-bufferize | FileCheck %s
// RUN: quant-opt %s --quant-llm-bufferize --quant-llm-lower-dispatch | FileCheck %s --check-prefix=CALL
// RUN: quant-opt %s --quant-llm-bufferize --quant-llm-lower-dispatch=profile | FileCheck %s --check-prefix=PROFILE

quant_llm.archive @model "model.safetensors"
quant_llm.parameter @"model.w" from @model key "w" : tensor<8xf16>

// CHECK: module attributes {quant_llm.parameters = [{archive = "model.safetensors", key = "w", symbol = "__quant_llm_parameter_model.w", type = memref<8xf16>}]}
// CHECK: memref.global @__quant_llm_parameter_model.w : memref<8xf16>

func.func private @k(memref<8xf16>, memref<?x8xf32, strided<[?, 1], offset: ?>>) attributes {quant_llm.kernel}

func.func private @k2(memref<?x8xf32, strided<[?, 1], offset: ?>>, memref<?x8xf32, strided<[?, 1], offset: ?>>) attributes {quant_llm.kernel}

// The cache is updated where it is, returned as what it was, and the second
// result is an allocation of the function.
// CHECK-LABEL: func.func @append(
// CHECK-SAME: %[[C:.*]]: memref<2x?x8xf32>, %[[P:.*]]: index, %[[N:.*]]: index) -> memref<?x8xf32>
// CHECK-SAME: quant_llm.result_aliases = array<i64: 0, -1>
// CHECK: %[[W:.*]] = memref.get_global @__quant_llm_parameter_model.w
// CHECK: %[[V:.*]] = memref.subview %[[C]][1, %[[P]], 0] [1, %[[N]], 8]
// CHECK: quant_llm.dispatch @k ins(%[[W]] : memref<8xf16>) outs(%[[V]]
// CHECK: %[[A:.*]] = memref.alloc
// CHECK: quant_llm.dispatch @k ins(%[[W]] : memref<8xf16>) outs(%[[A]]
// CHECK-NOT: memref.copy
// CHECK-NOT: dealloc
// CHECK: return %[[A]]

// CALL-LABEL: func.func @append(
// CALL: %[[V:.*]] = memref.subview
// CALL: %[[CAST:.*]] = memref.cast %[[V]] : memref<?x8xf32, strided<[8, 1], offset: ?>> to memref<?x8xf32, strided<[?, 1], offset: ?>>
// CALL: call @k(%{{.*}}, %[[CAST]])

// PROFILE: quant_llm.profiled_kernels = ["copy", "k", "k2"]
// PROFILE-LABEL: func.func @append(
// PROFILE: call @__quant_llm_profile_begin
// PROFILE: call @k(
// PROFILE: call @__quant_llm_profile_end
func.func @append(%cache: tensor<2x?x8xf32>, %p: index, %n: index) -> (tensor<2x?x8xf32>, tensor<?x8xf32>) {
  %w = quant_llm.get_parameter @"model.w" : tensor<8xf16>
  %s = tensor.extract_slice %cache[1, %p, 0] [1, %n, 8] [1, 1, 1] : tensor<2x?x8xf32> to tensor<?x8xf32>
  %r = quant_llm.dispatch @k ins(%w : tensor<8xf16>) outs(%s : tensor<?x8xf32>) -> tensor<?x8xf32>
  %new = tensor.insert_slice %r into %cache[1, %p, 0] [1, %n, 8] [1, 1, 1] : tensor<?x8xf32> into tensor<2x?x8xf32>
  %e = tensor.empty(%n) : tensor<?x8xf32>
  %y = quant_llm.dispatch @k ins(%w : tensor<8xf16>) outs(%e : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %new, %y : tensor<2x?x8xf32>, tensor<?x8xf32>
}

// An argument that is not returned is not written either.
// CHECK-LABEL: func.func @keep(
// CHECK-SAME: %[[X:.*]]: memref<?x8xf32>
// CHECK: %[[A:.*]] = memref.alloc
// CHECK: memref.copy %[[X]], %[[A]]
// CHECK: quant_llm.dispatch @k {{.*}} outs(%[[A]]
// CALL-LABEL: func.func @keep(
// CALL: call @copy
func.func @keep(%x: tensor<?x8xf32>) -> f32 {
  %c0 = arith.constant 0 : index
  %w = quant_llm.get_parameter @"model.w" : tensor<8xf16>
  %y = quant_llm.dispatch @k ins(%w : tensor<8xf16>) outs(%x : tensor<?x8xf32>) -> tensor<?x8xf32>
  %v = tensor.extract %y[%c0, %c0] : tensor<?x8xf32>
  return %v : f32
}

// What the kernel reads before it is overwritten keeps its order.
// CHECK-LABEL: func.func @readers(
// CHECK: %[[OLD:.*]] = memref.subview
// CHECK: quant_llm.dispatch @k2 ins(%[[OLD]]
// CHECK: quant_llm.dispatch @k {{.*}} outs(%[[OLD]]
func.func @readers(%cache: tensor<4x8xf32>, %n: index) -> (tensor<4x8xf32>, tensor<?x8xf32>) {
  %w = quant_llm.get_parameter @"model.w" : tensor<8xf16>
  %old = tensor.extract_slice %cache[0, 0] [%n, 8] [1, 1] : tensor<4x8xf32> to tensor<?x8xf32>
  %e = tensor.empty(%n) : tensor<?x8xf32>
  %t = quant_llm.dispatch @k2 ins(%old : tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) -> tensor<?x8xf32>
  %r = quant_llm.dispatch @k ins(%w : tensor<8xf16>) outs(%old : tensor<?x8xf32>) -> tensor<?x8xf32>
  %new = tensor.insert_slice %r into %cache[0, 0] [%n, 8] [1, 1] : tensor<?x8xf32> into tensor<4x8xf32>
  return %new, %t : tensor<4x8xf32>, tensor<?x8xf32>
}
