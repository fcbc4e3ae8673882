// Modules that cannot be compared.
// RUN: split-file %s %t && cd %t

// RUN: not quant-opt types.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=TYPES
// TYPES: error: quant-llm-verify-equivalence: expected @f to have the type (f64 [4], i64) -> (f64 [4]) as before but got (f64 [5], i64) -> (f64 [5])
// RUN: not quant-opt gone.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=GONE
// GONE: error: quant-llm-verify-equivalence: found @f before but no public function of that name after
// RUN: not quant-opt empty.mlir --quant-llm-verify-equivalence=reference=empty.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: error: quant-llm-verify-equivalence: cannot run a module: {{.*}}has no function that can be called
// RUN: not quant-opt bits.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=BITS
// BITS: error: quant-llm-verify-equivalence: cannot compute a module in f64: {{.*}}it depends on the bits of a number
// RUN: not quant-opt codes.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=CODES
// CODES: error: quant-llm-verify-equivalence: cannot compute a module in f64: {{.*}}codes depend on roundings
// RUN: not quant-opt activations.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=CODES
// RUN: not quant-opt external.mlir --quant-llm-verify-equivalence=reference=external.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=EXTERNAL
// EXTERNAL: error: quant-llm-verify-equivalence: cannot run a module: {{.*}}g
// RUN: not quant-opt memref.mlir --quant-llm-verify-equivalence=reference=memref.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=MEMREF
// MEMREF: error: quant-llm-verify-equivalence:
// RUN: not quant-opt check.mlir --quant-llm-verify-equivalence=reference=check.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=CHECK
// CHECK: error: quant-llm-verify-equivalence: @f cannot be run before: {{.*}}the number is too small
// What is infinite after, and was not before.
// RUN: not quant-opt infinite.mlir --quant-llm-verify-equivalence=reference=before.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=INFINITE
// INFINITE: error: quant-llm-verify-equivalence: result 0 of @f has 4 elements that are not finite after in call 0; compare on other inputs

// Integers, truth values and functions that call others are compared as well.
// RUN: quant-opt calls.mlir --quant-llm-verify-equivalence=reference=calls.mlir -o /dev/null
// RUN: sed 's/dense<7>/dense<8>/' calls.mlir > other.mlir && not quant-opt other.mlir --quant-llm-verify-equivalence=reference=calls.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=CALLS
// CALLS: error: quant-llm-verify-equivalence: result 1 of @f differs by

//--- before.mlir
func.func @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

//--- activations.mlir
#token = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
func.func @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  %0 = quant_llm.quantize_activation %x : tensor<4xf32> -> !quant_llm.activation<4xf32, #token>
  %1 = quant_llm.dequantize %0 : !quant_llm.activation<4xf32, #token> -> tensor<4xf32>
  return %1 : tensor<4xf32>
}

//--- types.mlir
func.func @f(%x: tensor<5xf32>, %i: i64) -> tensor<5xf32> {
  return %x : tensor<5xf32>
}

//--- gone.mlir
func.func private @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
func.func @g(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

//--- empty.mlir
module {}

//--- bits.mlir
func.func @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  %0 = arith.bitcast %x : tensor<4xf32> to tensor<4xi32>
  %1 = arith.bitcast %0 : tensor<4xi32> to tensor<4xf32>
  return %1 : tensor<4xf32>
}

//--- codes.mlir
#int8 = #quant_llm.scheme<int8, block = [1, -1], scale = f32>
func.func @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  %0 = tensor.expand_shape %x [[0, 1]] output_shape [1, 4] : tensor<4xf32> into tensor<1x4xf32>
  %1 = quant_llm.quantize %0 : tensor<1x4xf32> -> !quant_llm.weight<1x4xf32, #int8>
  %2 = quant_llm.dequantize %1 : !quant_llm.weight<1x4xf32, #int8> -> tensor<1x4xf32>
  %3 = tensor.collapse_shape %2 [[0, 1]] : tensor<1x4xf32> into tensor<4xf32>
  return %3 : tensor<4xf32>
}

//--- external.mlir
func.func private @g(tensor<4xf32>) -> tensor<4xf32>
func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = call @g(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

//--- memref.mlir
func.func @f(%x: tensor<4xcomplex<f32>>) -> tensor<4xcomplex<f32>> {
  return %x : tensor<4xcomplex<f32>>
}

//--- check.mlir
func.func @f(%i: i64) -> i64 {
  %c9 = arith.constant 9 : i64
  %0 = arith.cmpi sgt, %i, %c9 : i64
  cf.assert %0, "the number is too small"
  return %i : i64
}

//--- infinite.mlir
func.func @f(%x: tensor<4xf32>, %i: i64) -> tensor<4xf32> {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %0 = arith.divf %x, %zero : tensor<4xf32>
  return %0 : tensor<4xf32>
}

//--- calls.mlir
func.func private @g(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xi32>) {
  %seven = arith.constant dense<7> : tensor<4xi32>
  %0 = arith.mulf %x, %x : tensor<4xf32>
  return %0, %seven : tensor<4xf32>, tensor<4xi32>
}
func.func @f(%x: tensor<4xf32>, %t: tensor<4xi1>) -> (tensor<4xf32>, tensor<4xi32>, tensor<4xi1>) {
  %0:2 = call @g(%x) : (tensor<4xf32>) -> (tensor<4xf32>, tensor<4xi32>)
  return %0#0, %0#1, %t : tensor<4xf32>, tensor<4xi32>, tensor<4xi1>
}
