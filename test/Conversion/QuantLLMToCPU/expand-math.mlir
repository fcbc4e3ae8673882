// RUN: quant-opt %s --pass-pipeline="builtin.module(func.func(quant-llm-expand-math))" | FileCheck %s

// CHECK-LABEL: func.func @clamp
// CHECK: %[[LOW:.*]] = arith.maximumf %arg0, %arg1
// CHECK: arith.minimumf %[[LOW]], %arg2
func.func @clamp(%x: f32, %low: f32, %high: f32) -> f32 {
  %0 = math.clampf %x to [%low, %high] : f32
  return %0 : f32
}

// CHECK-LABEL: func.func @infinite
// CHECK: %[[INFINITY:.*]] = arith.constant dense<0x7C00> : vector<4xf16>
// CHECK: arith.cmpf oeq, %{{.*}}, %[[INFINITY]] : vector<4xf16>
func.func @infinite(%x: vector<4xf16>) -> vector<4xi1> {
  %0 = math.isinf %x : vector<4xf16>
  return %0 : vector<4xi1>
}

// CHECK-LABEL: func.func @normal
// CHECK: arith.constant 2.22{{.*}}E-308 : f64
// CHECK: arith.cmpf oge
// CHECK: arith.cmpf olt
func.func @normal(%x: f64) -> i1 {
  %0 = math.isnormal %x : f64
  return %0 : i1
}

// CHECK-LABEL: func.func @powers
// CHECK: arith.extsi %arg1 : i8 to i32
// CHECK: math.fpowi %{{.*}} : f64, i32
// CHECK: arith.truncf %{{.*}} : f64 to f32
// CHECK: math.fpowi %{{.*}} : f64, i64
// CHECK: math.ipowi %{{.*}} : i32
// CHECK: arith.trunci %{{.*}} : i32 to i8
// CHECK: math.ipowi %{{.*}} : i64
// CHECK: arith.index_cast %{{.*}} : i64 to index
func.func @powers(%x: f32, %e: i8, %d: f64, %i: index) -> (f32, f64, i8, index) {
  %0 = math.fpowi %x, %e : f32, i8
  %1 = math.fpowi %d, %i : f64, index
  %2 = math.ipowi %e, %e : i8
  %3 = math.ipowi %i, %i : index
  return %0, %1, %2, %3 : f32, f64, i8, index
}

// From f64 to f16 through f32, whose last bit tells that something was lost.
// CHECK-LABEL: func.func @narrow
// CHECK: %[[NEAREST:.*]] = arith.truncf %arg0 : f64 to f32
// CHECK: arith.bitcast %[[NEAREST]]
// CHECK: arith.ori
// CHECK: arith.truncf %{{.*}} : f32 to f16
func.func @narrow(%x: f64) -> f16 {
  %0 = arith.truncf %x : f64 to f16
  return %0 : f16
}
