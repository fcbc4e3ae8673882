// RUN: quant-opt %s --pass-pipeline="builtin.module(func.func(quant-llm-approximate-math))" | FileCheck %s
// RUN: quant-opt %s --pass-pipeline="builtin.module(func.func(quant-llm-approximate-math{approximate=false}))" | FileCheck %s --check-prefix=EXACT
// RUN: quant-opt %s --pass-pipeline="builtin.module(func.func(quant-llm-approximate-math{approximate=false}))" --dump-pass-pipeline 2>&1 >/dev/null | FileCheck %s --check-prefix=DUMP

// DUMP: quant-llm-approximate-math{approximate=false}

// CHECK-LABEL: func.func @exp
// CHECK-NOT: math.exp
// CHECK: return
// EXACT-LABEL: func.func @exp
// EXACT: math.exp
func.func @exp(%x: f32) -> f32 {
  %0 = math.exp %x : f32
  return %0 : f32
}

// CHECK-LABEL: func.func @sin
// CHECK: math.sin
func.func @sin(%x: f32) -> f32 {
  %0 = math.sin %x : f32
  return %0 : f32
}

// CHECK-LABEL: func.func @narrow
// CHECK-NOT: arith.truncf
// CHECK: return
// EXACT-LABEL: func.func @narrow
// EXACT-NOT: arith.truncf
// EXACT: return
func.func @narrow(%x: f32) -> bf16 {
  %0 = arith.truncf %x : f32 to bf16
  return %0 : bf16
}
