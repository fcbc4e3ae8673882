// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-expand-gpu-math | FileCheck %s

// Instructions stay, and f16 is computed in f32 where f16 has none.
// CHECK-LABEL: func @native
// CHECK-NOT: arith
// CHECK: math.fma %{{.*}} : vector<2xf16>
// CHECK-NEXT: math.sqrt %{{.*}} : f32
// CHECK-NEXT: math.absf %{{.*}} : bf16
// CHECK-NEXT: math.floor %{{.*}} : f64
// CHECK-NEXT: %[[WIDE:.*]] = arith.extf %{{.*}} : f16 to f32
// CHECK-NEXT: %[[ROOT:.*]] = math.sqrt %[[WIDE]] : f32
// CHECK-NEXT: arith.truncf %[[ROOT]] : f32 to f16
// CHECK-NEXT: %[[WIDE2:.*]] = arith.extf %{{.*}} : f16 to f32
// CHECK-NEXT: math.isnan %[[WIDE2]] : f32
// CHECK-NEXT: return
func.func @native(%a: f16, %b: bf16, %c: f32, %d: f64, %v: vector<2xf16>) -> (vector<2xf16>, f32, bf16, f64, f16, i1) {
  %0 = math.fma %v, %v, %v : vector<2xf16>
  %1 = math.sqrt %c : f32
  %2 = math.absf %b : bf16
  %3 = math.floor %d : f64
  %4 = math.sqrt %a : f16
  %5 = math.isnan %a : f16
  return %0, %1, %2, %3, %4, %5 : vector<2xf16>, f32, bf16, f64, f16, i1
}

// -----

// What is normal is that of the type, not of the wider one that is computed in.
// CHECK-LABEL: func @classes
// CHECK-NOT: math.is
// CHECK: arith.constant 0x7F800000 : f32
// CHECK: arith.cmpf oeq, %{{.*}} : f32
// CHECK: arith.constant 2.22{{.*}}E-308 : f64
// CHECK: arith.cmpf olt, %{{.*}} : f64
// CHECK: arith.extf %{{.*}} : f16 to f32
// CHECK: arith.constant 6.10{{.*}}E-5 : f32
// CHECK-NOT: math.is
// CHECK: return
func.func @classes(%a: f32, %b: f64, %c: f16) -> (i1, i1, i1) {
  %0 = math.isinf %a : f32
  %1 = math.isnormal %b : f64
  %2 = math.isnormal %c : f16
  return %0, %1, %2 : i1, i1, i1
}

// -----

// Nothing of math is left but instructions.
// CHECK-LABEL: func @functions
// CHECK-NOT: math.{{exp|tanh|erf|log|pow|sin|cos}}
// CHECK: return
func.func @functions(%x: f32, %h: bf16) -> (f32, bf16, f32, f32) {
  %0 = math.exp %x : f32
  %1 = math.tanh %h : bf16
  %2 = math.powf %x, %0 : f32
  %3, %4 = math.sincos %x : f32
  %5 = math.erf %3 : f32
  %6 = math.log %4 : f32
  return %2, %1, %5, %6 : f32, bf16, f32, f32
}

// -----

func.func @double(%x: f64) -> f64 {
  // expected-error @below {{has no form for GPUs; expected a function of floating-point scalars of f16, bf16 or f32}}
  %0 = math.exp %x : f64
  return %0 : f64
}

// -----

func.func @vector(%x: vector<4xf32>) -> vector<4xf32> {
  // expected-error @below {{has no form for GPUs}}
  %0 = math.exp %x : vector<4xf32>
  return %0 : vector<4xf32>
}

// -----

func.func @integer(%x: i32) -> i32 {
  // expected-error @below {{has no form for GPUs}}
  %0 = math.ipowi %x, %x : i32
  return %0 : i32
}
