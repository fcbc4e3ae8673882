# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Functions in upstream dialects alone, fast and reference, against NumPy."""

import subprocess
import sys

import numpy as np

directory = sys.argv[1]
rng = np.random.default_rng(7)

MODULE = """
#bhk = affine_map<(b, m, n, k) -> (b, m, k)>
#bnk = affine_map<(b, m, n, k) -> (b, n, k)>
#bmn = affine_map<(b, m, n, k) -> (b, m, n)>
#w3 = affine_map<(b, m, n) -> (b, m, n)>
#r3 = affine_map<(b, m, n) -> (b, m)>
func.func @loop(%x: tensor<?xf32>, %n: index) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%a = %x) -> tensor<?xf32> {
    %s = arith.addf %a, %a : tensor<?xf32>
    scf.yield %s : tensor<?xf32>
  }
  return %r : tensor<?xf32>
}
func.func @same(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
  return %x, %x : tensor<3xf32>, tensor<3xf32>
}
func.func @softmax(%x: tensor<2x300xf32>) -> tensor<2x300xf32> {
  %e = tensor.empty() : tensor<2x300xf32>
  %y = linalg.softmax dimension(1) ins(%x : tensor<2x300xf32>) outs(%e : tensor<2x300xf32>) -> tensor<2x300xf32>
  return %y : tensor<2x300xf32>
}
func.func @conv(%x: tensor<8xf32>, %k: tensor<3xf32>) -> tensor<6xf32> {
  %z = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<6xf32>
  %f = linalg.fill ins(%z : f32) outs(%e : tensor<6xf32>) -> tensor<6xf32>
  %y = linalg.conv_1d ins(%x, %k : tensor<8xf32>, tensor<3xf32>) outs(%f : tensor<6xf32>) -> tensor<6xf32>
  return %y : tensor<6xf32>
}
func.func @callee(%x: tensor<3xf32>) -> tensor<3xf32> {
  %y = arith.addf %x, %x : tensor<3xf32>
  return %y : tensor<3xf32>
}
func.func @caller(%x: tensor<3xf32>) -> tensor<3xf32> {
  %y = func.call @callee(%x) : (tensor<3xf32>) -> tensor<3xf32>
  %z = func.call @callee(%y) : (tensor<3xf32>) -> tensor<3xf32>
  return %z : tensor<3xf32>
}
func.func @transpose(%x: tensor<2x3xf32>) -> tensor<3x2xf32> {
  %e = tensor.empty() : tensor<3x2xf32>
  %y = linalg.transpose ins(%x : tensor<2x3xf32>) outs(%e : tensor<3x2xf32>) permutation = [1, 0]
  %p = tensor.cast %y : tensor<3x2xf32> to tensor<?x?xf32>
  %q = tensor.cast %p : tensor<?x?xf32> to tensor<3x2xf32>
  return %q : tensor<3x2xf32>
}
func.func @concat(%x: tensor<2x3xf32>, %z: tensor<2x?xf32>) -> tensor<2x?xf32> {
  %y = tensor.concat dim(1) %x, %z : (tensor<2x3xf32>, tensor<2x?xf32>) -> tensor<2x?xf32>
  return %y : tensor<2x?xf32>
}
// A column of a matrix has a stride: the kernel gets a copy.
func.func @column(%x: tensor<5x4xf32>) -> tensor<5xf32> {
  %c = tensor.extract_slice %x[0, 2] [5, 1] [1, 1] : tensor<5x4xf32> to tensor<5xf32>
  %y = arith.mulf %c, %c : tensor<5xf32>
  return %y : tensor<5xf32>
}
func.func @matmul(%x: tensor<?x40xf32>, %w: tensor<40x24xf32>, %c: tensor<?x24xf32>) -> tensor<?x24xf32> {
  %y = linalg.matmul ins(%x, %w : tensor<?x40xf32>, tensor<40x24xf32>) outs(%c : tensor<?x24xf32>) -> tensor<?x24xf32>
  return %y : tensor<?x24xf32>
}
func.func @attention(%q: tensor<3x?x64xf32>, %k: tensor<3x?x64xf32>, %v: tensor<3x?x64xf32>) -> tensor<3x?x64xf32> {
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant -3.0e+38 : f32
  %c1 = arith.constant 1 : index
  %m = tensor.dim %q, %c1 : tensor<3x?x64xf32>
  %n = tensor.dim %k, %c1 : tensor<3x?x64xf32>
  %e0 = tensor.empty(%m, %n) : tensor<3x?x?xf32>
  %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<3x?x?xf32>) -> tensor<3x?x?xf32>
  %s = linalg.batch_matmul indexing_maps = [#bhk, #bnk, #bmn]
    ins(%q, %k : tensor<3x?x64xf32>, tensor<3x?x64xf32>) outs(%f0 : tensor<3x?x?xf32>) -> tensor<3x?x?xf32>
  %e1 = tensor.empty(%m) : tensor<3x?xf32>
  %f1 = linalg.fill ins(%lowest : f32) outs(%e1 : tensor<3x?xf32>) -> tensor<3x?xf32>
  %f2 = linalg.fill ins(%zero : f32) outs(%e1 : tensor<3x?xf32>) -> tensor<3x?xf32>
  %max = linalg.generic {indexing_maps = [#w3, #r3], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%s : tensor<3x?x?xf32>) outs(%f1 : tensor<3x?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %t = arith.maximumf %a, %acc : f32
    linalg.yield %t : f32
  } -> tensor<3x?xf32>
  %p = linalg.generic {indexing_maps = [#w3, #r3, #w3], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%s, %max : tensor<3x?x?xf32>, tensor<3x?xf32>) outs(%e0 : tensor<3x?x?xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %t = arith.subf %a, %b : f32
    %u = math.exp %t : f32
    linalg.yield %u : f32
  } -> tensor<3x?x?xf32>
  %sum = linalg.generic {indexing_maps = [#w3, #r3], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%p : tensor<3x?x?xf32>) outs(%f2 : tensor<3x?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %t = arith.addf %a, %acc : f32
    linalg.yield %t : f32
  } -> tensor<3x?xf32>
  %e3 = tensor.empty(%m) : tensor<3x?x64xf32>
  %f3 = linalg.fill ins(%zero : f32) outs(%e3 : tensor<3x?x64xf32>) -> tensor<3x?x64xf32>
  %o = linalg.batch_matmul ins(%p, %v : tensor<3x?x?xf32>, tensor<3x?x64xf32>) outs(%f3 : tensor<3x?x64xf32>) -> tensor<3x?x64xf32>
  %y = linalg.generic {indexing_maps = [#w3, #r3, #w3], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%o, %sum : tensor<3x?x64xf32>, tensor<3x?xf32>) outs(%e3 : tensor<3x?x64xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %t = arith.divf %a, %b : f32
    linalg.yield %t : f32
  } -> tensor<3x?x64xf32>
  return %y : tensor<3x?x64xf32>
}
"""


def array(*shape):
    return rng.normal(0, 1, shape).astype("f4")


def softmax(s):
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def check(function, arguments, *expected):
    inputs = []
    for i, argument in enumerate(arguments):
        if isinstance(argument, int):
            inputs += ["--input", str(argument)]
        else:
            np.save(f"{directory}/{function}.{i}.npy", argument)
            inputs += ["--input", f"{directory}/{function}.{i}.npy"]
    for i, result in enumerate(expected):
        np.save(f"{directory}/{function}.out{i}.npy", np.ascontiguousarray(result, "f4"))
        inputs += ["--expect", f"{directory}/{function}.out{i}.npy"]
    for mode in ([], ["--reference"]):
        command = ["quant-run", f"{directory}/module.mlir", "-f", function, "--cache-dir", f"{directory}/cache", *mode, *inputs, "--max-relative-error", "2e-6"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            print("FAILED", *command, result.stdout, result.stderr, sep="\n")
            sys.exit(1)


with open(f"{directory}/module.mlir", "w") as file:
    file.write(MODULE)

x = array(7)
check("loop", [x, 3], 8 * x)
check("loop", [x, 0], x)
x = array(3)
check("same", [x], x, x)
check("caller", [x], 4 * x)
x = array(2, 300)
check("softmax", [x], softmax(x.astype("f8")))
x, k = array(8), array(3)
check("conv", [x, k], np.correlate(x.astype("f8"), k.astype("f8"), "valid"))
x = array(2, 3)
check("transpose", [x], x.T)
for n in (0, 1, 5):
    z = array(2, n)
    check("concat", [x, z], np.concatenate([x, z], 1))
x = array(5, 4)
check("column", [x], x[:, 2] ** 2)
for m in (1, 5, 64):
    x, w, c = array(m, 40), array(40, 24), array(m, 24)
    check("matmul", [x, w, c], c + x.astype("f8") @ w)
for m, n in ((1, 1), (1, 200), (5, 33), (40, 40)):
    q, k, v = array(3, m, 64) / 8, array(3, n, 64), array(3, n, 64)
    check("attention", [q, k, v], softmax(q.astype("f8") @ k.transpose(0, 2, 1)) @ v)
print("all equal")
