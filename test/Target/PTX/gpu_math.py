# RUN: %python %s %t | FileCheck %s
# CHECK: all functions: ok
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The arithmetic that stands for functions of math on a GPU, executed on the CPU, where it gives the same bits: errors in units in the last
place of f32 over the whole range, and what C says of infinities, NaN and zeros."""

import math
import pathlib
import subprocess
import sys

import numpy as np
from scipy import special

# Function, reference in f64, largest error in ulp, and the range of the argument where it is not everything.
UNARY = {
    "exp": (np.exp, 1.5, None),
    "exp2": (np.exp2, 1.5, None),
    "expm1": (np.expm1, 2.0, None),
    "tanh": (np.tanh, 3.0, None),
    "log": (np.log, 1.5, None),
    "erf": (special.erf, 1.5, None),
    "erfc": (special.erfc, 0.6, None),
    "log1p": (np.log1p, 0.6, None),
    "log2": (np.log2, 0.6, None),
    "log10": (np.log10, 0.6, None),
    "sin": (np.sin, 0.6, 2.0**50),
    "cos": (np.cos, 0.6, 2.0**50),
    "tan": (np.tan, 0.6, 2.0**50),
    "asin": (np.arcsin, 0.6, None),
    "acos": (np.arccos, 0.6, None),
    "atan": (np.arctan, 0.6, None),
    "sinh": (np.sinh, 0.6, None),
    "cosh": (np.cosh, 0.6, None),
    "asinh": (np.arcsinh, 0.6, None),
    "acosh": (np.arccosh, 0.6, None),
    "atanh": (np.arctanh, 0.6, None),
    "cbrt": (np.cbrt, 0.6, None),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5, None),
}
BINARY = {"powf": (np.power, 0.6), "atan2": (np.arctan2, 0.6)}


def arguments():
    """Numbers of every binade, dense around 0 to 100, and the special ones."""
    generator = np.random.default_rng(7)
    bits = generator.integers(0, 2**32, 120_000, dtype=np.uint32)
    near = np.concatenate([generator.uniform(-104, 104, 60_000), generator.normal(0, 1, 60_000), generator.uniform(0.9, 1.1, 20_000)])
    special_values = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, math.inf, -math.inf, math.nan, 88.7228, 88.73, -87.33655, -103.97, -104.1, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]
    return np.concatenate([bits.view(np.float32), near.astype(np.float32), np.array(special_values, np.float32)])


def module():
    lines = ["#map = affine_map<(d0) -> (d0)>"]
    for name in [*UNARY, *BINARY]:
        operands = ["%x"] if name in UNARY else ["%x", "%z"]
        parameters = ", ".join(f"{o}: tensor<?xf32>" for o in operands)
        block = ", ".join(f"%{chr(97 + i)}: f32" for i in range(len(operands)))
        inner = ", ".join(f"%{chr(97 + i)}" for i in range(len(operands)))
        maps = ", ".join(["#map"] * (len(operands) + 1))
        types = ", ".join(["tensor<?xf32>"] * len(operands))
        lines.append(f"""
func.func @f_{name}({parameters}) -> tensor<?xf32> {{
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %y = linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel"]}}
      ins({", ".join(operands)} : {types}) outs(%e : tensor<?xf32>) {{
  ^bb0({block}, %out: f32):
    %r = math.{name} {inner} : f32
    linalg.yield %r : f32
  }} -> tensor<?xf32>
  return %y : tensor<?xf32>
}}""")
    return "\n".join(lines)


def ulps(result, exact):
    """Errors of finite results in units in the last place of the exact result; infinite where the kind of number differs."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.minimum(np.abs(rounded), np.float32(2.0**127))).astype(np.float64)
        error = np.abs(result.astype(np.float64) - exact) / unit
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    error = np.where(same, np.where(np.isfinite(error), error, 0), error)
    # At the edge of overflow either neighbour is within the error.
    edge = np.isinf(result) & (np.abs(exact) > 3.402e38)
    error = np.where(edge | (np.isinf(rounded) & (np.abs(result) > 3.402e38)), 0, error)
    return np.where(np.isnan(error), np.inf, error)


def run(path, name, inputs, directory):
    command = ["quant-run", path, "--function", f"f_{name}"]
    for i, values in enumerate(inputs):
        np.save(directory / f"in{i}.npy", values)
        command += ["--input", directory / f"in{i}.npy"]
    subprocess.run([str(c) for c in [*command, "--output", directory / "out.npy"]], check=True)
    return np.load(directory / "out.npy")


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "math.mlir").write_text(module())
    expanded = directory / "expanded.mlir"
    subprocess.run(["quant-opt", "--quant-llm-expand-gpu-math", str(directory / "math.mlir"), "-o", str(expanded)], check=True)
    x = arguments()
    worst = {}
    for name, (reference, limit, bound) in UNARY.items():
        with np.errstate(all="ignore"):
            exact = reference(x.astype(np.float64))
        if bound:
            exact = np.where(np.abs(x) < bound, exact, np.nan)
        error = ulps(run(expanded, name, [x], directory), exact)
        worst[name] = (error, x, limit, exact)
    generator = np.random.default_rng(8)
    pairs = [np.concatenate([x[:100_000], x[120_000:]]), np.concatenate([generator.permutation(x)[:100_000], x[120_000:][::-1]])]
    for values in (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 3.0, 2.5, -3.0, 0.5):
        special_values = x[-22:]
        pairs = [np.concatenate([pairs[0], special_values]), np.concatenate([pairs[1], np.full(22, values, np.float32)])]
    for name, (reference, limit) in BINARY.items():
        with np.errstate(all="ignore"):
            exact = reference(pairs[0].astype(np.float64), pairs[1].astype(np.float64))
        worst[name] = (ulps(run(expanded, name, pairs, directory), exact), pairs[0], limit, exact)
    failed = False
    for name, (error, argument, limit, exact) in worst.items():
        at = int(np.argmax(error))
        fine = error[at] <= limit
        failed |= not fine
        print(f"{name}: {error[at]:.3f} ulp at {argument[at]!r} (exact {exact[at]!r}), at most {limit}" + ("" if fine else " EXCEEDED"))
    print("all functions:", "EXCEEDED" if failed else "ok")


main()
