// No IR that can be parsed makes a verifier crash: 'not' fails on signals, and every
// split ends with an error or is legal.
// RUN: not quant-opt %s -split-input-file > %t 2>&1
// RUN: grep -c 'error:' %t | FileCheck %s --check-prefix=COUNT
// COUNT: {{^}}38{{$}}

"quant_llm.linear"() <{operandSegmentSizes = array<i32: 0, 0, 0>}> ({}) : () -> ()
// -----
"quant_llm.linear"() ({}) : () -> (tensor<2xf32>)
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) {
  %0 = quant_llm.linear %x, %w {operandSegmentSizes = array<i32: 5, 5, 5>} : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) {
  %0 = quant_llm.linear %x, %w {operandSegmentSizes = array<i32: -1, 2, 1>} : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<*xf32>, %w: tensor<8x4xf32>) {
  %0 = quant_llm.linear %x, %w : (tensor<*xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<*xf32>) {
  %0 = quant_llm.linear %x, %w : (tensor<2x4xf32>, tensor<*xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: i32, %w: memref<4xf32>) {
  %0 = quant_llm.linear %x, %w : (i32, memref<4xf32>) -> i32
  return
}
// -----
func.func @f(%x: i32) {
  %0 = quant_llm.dequantize %x : i32 -> i32
  return
}
// -----
func.func @f(%x: i32) {
  %0 = quant_llm.quantize %x : i32 -> i32
  return
}
// -----
func.func @f(%x: i32) {
  %0:3 = quant_llm.components %x : (i32) -> (i32, i32, i32)
  return
}
// -----
func.func @f() {
  %0 = quant_llm.assemble : () -> i32
  return
}
// -----
#s = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f() {
  %0 = quant_llm.assemble : () -> !quant_llm.weight<4x4xf32, #s>
  return
}
// -----
"quant_llm.components"() : () -> ()
// -----
"quant_llm.block"() ({}) : () -> ()
// -----
"quant_llm.block"() <{index = 0 : i64, name = "x"}> ({^bb0(%a: i32): "quant_llm.yield"() : () -> ()}) : () -> ()
// -----
"quant_llm.block"() <{index = 0 : i64, name = "x"}> ({
^bb0:
  "quant_llm.yield"() : () -> ()
^bb1:
  "quant_llm.yield"() : () -> ()
}) : () -> ()
// -----
"quant_llm.cross_block"() <{window = 9223372036854775807 : i64, overlap = 9223372036854775806 : i64}> ({ "quant_llm.yield"() : () -> () }) : () -> ()
// -----
quant_llm.cross_block window = 9223372036854775807, overlap = 0 {
  quant_llm.block 9223372036854775807 "x" { quant_llm.yield }
  quant_llm.block 0 "x" { quant_llm.yield }
  quant_llm.yield
}
// -----
"quant_llm.archive"() : () -> ()
// -----
"quant_llm.archive"() {sym_name = 1, path = 2} : () -> ()
// -----
"quant_llm.parameter"() {sym_name = "x", archive = @a::@b, type = 2} : () -> ()
// -----
"quant_llm.parameter"() {sym_name = "x", archive = @a, type = tensor<0x9223372036854775807x4xf32>} : () -> ()
// -----
"quant_llm.get_parameter"() {parameter = @a} : () -> ()
// -----
"quant_llm.yield"() : () -> ()
// -----
%0 = "quant_llm.get_parameter"() {parameter = @a} : () -> tensor<4xf32>
// -----
func.func private @f(!quant_llm.weight<>)
// -----
func.func private @f(!quant_llm.weight<4x4x4, #quant_llm.scheme<int4, block=[1,1], scale=f16>>)
// -----
func.func private @f(!quant_llm.weight<4x4xf16>)
// -----
func.func private @f(!quant_llm.weight<99999999999999999999x4xf16, #quant_llm.scheme<int4, block=[1,1], scale=f16>>)
// -----
func.func private @f(!quant_llm.weight<576460752303423487x1xf32, #quant_llm.scheme<int8, block=[1,1], scale=f32>>)
// -----
func.func private @f(!quant_llm.nothing)
// -----
func.func private @f(tensor<4x!quant_llm.weight<4x4xf16, #quant_llm.scheme<int4, block=[1,1], scale=f16>>>)
// -----
module attributes {a = #quant_llm.scheme<>} {}
// -----
module attributes {a = #quant_llm.scheme<int4, block = [99999999999999999999, 1], scale = f16>} {}
// -----
module attributes {a = #quant_llm.element<codebook<-1, [1.0]>>} {}
// -----
module attributes {a = #quant_llm.element<codebook<2, [nan, 1.0]>>} {}
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) {
  %0 = quant_llm.linear %x, %w epilogue { } : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  %1 = "quant_llm.linear"(%x, %w) <{operandSegmentSizes = array<i32: 1, 1, 0>}> ({^bb0(%a: f32): }) : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) {
  %1 = "quant_llm.linear"(%x, %w) <{operandSegmentSizes = array<i32: 1, 1, 0>}> ({}, {}) : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) {
  %1 = "quant_llm.linear"(%x, %w) <{operandSegmentSizes = array<i32: 1, 1, 0>}> ({^bb0: quant_llm.yield}) : (tensor<2x4xf32>, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
// -----
func.func @f(%x: tensor<2x4xf32, "enc">, %w: tensor<8x4xf32>) {
  %1 = quant_llm.linear %x, %w : (tensor<2x4xf32, "enc">, tensor<8x4xf32>) -> tensor<2x8xf32>
  return
}
