// RUN: rm -rf %t && mkdir -p %t
// RUN: %python -c "import numpy as n; a = n.arange(12, dtype='f4').reshape(3, 4); n.save(r'%t/a.npy', a); n.save(r'%t/e.npy', 2 * a)"
// RUN: quant-run %s -f add --cache-dir %t/cache --input %t/a.npy --input %t/a.npy --print --expect %t/e.npy --verbose | FileCheck %s
// RUN: quant-run %s -f add --cache-dir %t/cache --input %t/a.npy --input %t/a.npy --output %t/o.npy --verbose | FileCheck %s --check-prefix=CACHED
// RUN: %python -c "import numpy as n; assert n.array_equal(n.load(r'%t/o.npy'), n.load(r'%t/e.npy'))"
// RUN: not quant-run %s -f add --no-cache --input %t/a.npy --input %t/a.npy --expect %t/a.npy | FileCheck %s --check-prefix=DIFFERENT

// CHECK: compiled in
// CHECK: result 0: f32 [3, 4] = 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22
// CHECK: result 0: equal (relative Frobenius error 0,
// CACHED: compiled object from the cache
// DIFFERENT: result 0: DIFFERENT (relative Frobenius error 1, largest difference 11 at 11, 11 of 12 outside tolerance)

// Wrong input gives one message and exit code 2.
// RUN: not quant-run %s -f add --no-cache --input %t/a.npy 2>&1 | FileCheck %s --check-prefix=COUNT
// COUNT: quant-run: error: function 'add' expects 2 --input (f32 [?, 4], f32 [?, 4]) but got 1
// RUN: not quant-run %s -f sub --no-cache 2>&1 | FileCheck %s --check-prefix=NAME
// NAME: quant-run: error: there is no function 'sub' that can be called; expected one of: add, scale
// RUN: not quant-run %s --no-cache 2>&1 | FileCheck %s --check-prefix=CHOOSE
// CHOOSE: quant-run: error: the module has 3 functions that can be called; choose one with --function
// RUN: not quant-run %s -f add --no-cache --input zeros:3x5 --input %t/a.npy 2>&1 | FileCheck %s --check-prefix=SHAPE
// SHAPE: quant-run: error: function 'add': argument 0: expected f32 [?, 4] but got f32 [3, 5]
// RUN: not quant-run %t/missing.mlir 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: quant-run: error: {{.*}}missing.mlir
// RUN: not quant-run %s -f scale --no-cache --input %t/a.npy --input x 2>&1 | FileCheck %s --check-prefix=SCALAR
// SCALAR: quant-run: error: input 1: expected a number for an argument of type f32 but got 'x'
// RUN: not quant-run %s -f add --no-cache --input %t/a.npy --input %t/a.txt 2>&1 | FileCheck %s --check-prefix=FILE
// FILE: quant-run: error: input 1: expected a .npy file, FILE.safetensors:KEY, a number or zeros:SHAPE but got

// RUN: quant-run %s -f scale --no-cache --input zeros:2 --input 3.5 --print --repeat 3 | FileCheck %s --check-prefix=TIME
// TIME: time in ms of 3 runs: min {{[0-9.]+}}, median {{[0-9.]+}}, max {{[0-9.]+}}
// TIME: result 0: f32 [2] = 3.5, 3.5
// Numbers of every type of floats; what does not fit is no infinity.
// RUN: quant-run %s -f half --no-cache --input 1.5 --input -2.25 --print | FileCheck %s --check-prefix=HALF
// HALF: = -0.75
// RUN: not quant-run %s -f half --no-cache --input 70000 --input 1 2>&1 | FileCheck %s --check-prefix=FITS
// RUN: not quant-run %s -f half --no-cache --input 1 --input 1e39 2>&1 | FileCheck %s --check-prefix=FITS
// FITS: quant-run: error: input {{[01]}}: expected a number that fits for an argument of type {{f16 but got '70000'|bf16 but got '1e39'}}
// RUN: quant-run %s -f half --no-cache --input inf --input 1 --print | FileCheck %s --check-prefix=INF
// INF: = inf

#map = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0) -> (d0)>

func.func @add(%a: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %d = tensor.dim %a, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%d) : tensor<?x4xf32>
  %r = linalg.generic {indexing_maps = [#map, #map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%a, %b : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  } -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

func.func @scale(%a: tensor<2xf32>, %s: f32) -> tensor<2xf32> {
  %e = tensor.empty() : tensor<2xf32>
  %r = linalg.generic {indexing_maps = [#row, #row], iterator_types = ["parallel"]}
      ins(%a : tensor<2xf32>) outs(%e : tensor<2xf32>) {
  ^bb0(%x: f32, %z: f32):
    %t = math.exp %x : f32
    %u = arith.mulf %t, %s : f32
    linalg.yield %u : f32
  } -> tensor<2xf32>
  return %r : tensor<2xf32>
}

func.func @half(%a: f16, %b: bf16) -> f32 {
  %0 = arith.extf %a : f16 to f32
  %1 = arith.extf %b : bf16 to f32
  %2 = arith.addf %0, %1 : f32
  return %2 : f32
}
