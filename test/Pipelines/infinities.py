# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Infinite and undefined inputs of a linear: every path gives what IEEE
arithmetic on the weights gives (docs/Spec.md, section 5)."""

import subprocess
import sys

import numpy as np

directory = sys.argv[1]
rng = np.random.default_rng(5)
n, k, group = 40, 192, 64

MODULE = f"""
#scheme = #quant_llm.scheme<uint4, block = [1, {group}], scale = f32, zero = int, rule = minmax, rounding = half_even>
func.func @f(%x: tensor<?x{k}xf32>, %codes: tensor<{n}x{k // 2}xi8>, %scales: tensor<{n}x{k // group}xf32>, %zeros: tensor<{n}x{k // group}xi8>) -> tensor<?x{n}xf32> {{
  %w = quant_llm.assemble %codes, %scales, %zeros : (tensor<{n}x{k // 2}xi8>, tensor<{n}x{k // group}xf32>, tensor<{n}x{k // group}xi8>) -> !quant_llm.weight<{n}x{k}xf32, #scheme>
  %y = quant_llm.linear %x, %w : (tensor<?x{k}xf32>, !quant_llm.weight<{n}x{k}xf32, #scheme>) -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
"""

with open(f"{directory}/m.mlir", "w") as file:
    file.write(MODULE)
codes = rng.integers(0, 16, (n, k))
scales = rng.uniform(0.01, 0.2, (n, k // group)).astype("f4")
zeros = rng.integers(0, 16, (n, k // group)).astype(np.uint8)
weight = np.repeat(scales.astype("f8"), group, 1) * (codes - np.repeat(zeros.astype("f8"), group, 1))
assert (weight == 0).any()
for name, array in (("codes", (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)), ("scales", scales), ("zeros", zeros)):
    np.save(f"{directory}/{name}.npy", array)

for m in (1, 4, 40):
    x = rng.normal(0, 1, (m, k)).astype("f4")
    for row in range(m):
        special = ((np.inf,), (-np.inf,), (np.nan,), (np.inf, -np.inf), ())[row % 5]
        x[row, rng.choice(k, len(special), replace=False)] = special
    np.save(f"{directory}/x.npy", x)
    with np.errstate(invalid="ignore"):
        expected = (x.astype("f8")[:, None, :] * weight).sum(-1)
    finite = np.isfinite(expected)
    for mode in ([], ["--reference"]):
        inputs = [argument for name in ("x", "codes", "scales", "zeros") for argument in ("--input", f"{directory}/{name}.npy")]
        command = ["quant-run", f"{directory}/m.mlir", "--cache-dir", f"{directory}/cache", *mode, *inputs, "--output", f"{directory}/y.npy"]
        subprocess.run(command, check=True)
        actual = np.load(f"{directory}/y.npy")
        # Infinities with their signs, NaN, and numbers.
        np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=f"{m} {mode}")
        np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-4, atol=1e-4, err_msg=f"{m} {mode}")
