# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes one function per kind of quant type over random storage, and its values."""

import sys

import numpy as np

out = sys.argv[1]
rng = np.random.default_rng(7)
N, K = 6, 12


def grid(values, text):
    return "{" + ", ".join("{" + ", ".join(text(v) for v in row) + "}" for row in values) + "}"


def write(name, signed, bits, block_n, block_k, zeros):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = rng.integers(low, high + 1, (N, K))
    shape = (N // block_n, K // block_k)
    # Multiples of 1/64 are exact in every type.
    scales = rng.integers(1, 200, shape) / 64
    points = rng.integers(low, high + 1, shape) if zeros else np.zeros(shape, int)
    spread = lambda a: np.repeat(np.repeat(a, block_n, 0), block_k, 1)
    values = ((codes - spread(points)) * spread(scales)).astype(np.float32)

    # Literals of the storage type have its sign bit.
    wrap = lambda a: np.where(a > 2 ** (bits - 1) - 1, a - 2**bits, a)
    pair = lambda p: f"{p[0]!r}:{p[1]}"
    pairs = [[(float(s), int(z)) for s, z in zip(*row)] for row in zip(scales, wrap(points))]
    literal = "[" + ", ".join(str(row.tolist()) for row in wrap(codes)) + "]"
    type = f"!quant.uniform<{'i' if signed else 'u'}{bits}:f32:{{0:{block_n}, 1:{block_k}}}, {grid(pairs, pair)}>"
    matrix = f"tensor<{N}x{K}x{type}>"
    with open(f"{out}/{name}.mlir", "w") as file:
        file.write(f"""func.func @f() -> tensor<{N}x{K}xf32> {{
  %c = arith.constant dense<{literal}> : tensor<{N}x{K}xi{bits}>
  %0 = quant.scast %c : tensor<{N}x{K}xi{bits}> to {matrix}
  %1 = quant.dcast %0 : {matrix} to tensor<{N}x{K}xf32>
  return %1 : tensor<{N}x{K}xf32>
}}
""")
    np.save(f"{out}/{name}.npy", values)


write("signed", True, 4, 1, 4, False)
write("signed_zeros", True, 4, 2, 3, True)
write("unsigned_zeros", False, 3, 1, 6, True)
write("bytes", True, 8, 3, 12, True)
