# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Channel transforms, run on the CPU, against NumPy."""

import subprocess
import sys
from pathlib import Path

import numpy as np

out = Path(sys.argv[1])
rng = np.random.default_rng(0)


def splitmix(seed, count):
    """The signs of seed, from the definition of SplitMix64."""
    mask = (1 << 64) - 1
    signs, state = [], seed & mask
    while len(signs) < count:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        signs += [-1 if z >> i & 1 else 1 for i in range(64)]
    return np.array(signs[:count])


def hadamard(order):
    """Sylvester's and, for orders q + 1 with a prime q, Paley's matrix."""
    m = order
    while m % 2 == 0 and m not in (12, 20):
        m //= 2
    base = np.ones((1, 1))
    if m > 1:
        q = m - 1
        squares = {i * i % q for i in range(1, q)}
        character = np.array([[0 if i == j else 1 if (i - j) % q in squares else -1 for j in range(q)] for i in range(q)])
        base = np.eye(m)
        base[0, 1:] = 1
        base[1:, 0] = -1
        base[1:, 1:] += character
    while base.shape[0] < order:
        base = np.kron(base, np.array([[1, 1], [1, -1]]))
    assert np.array_equal(base @ base.T, order * np.eye(order))
    return base


arguments, body, results, files, checks = [], "", [], [], []


def add(value):
    """A further argument of the function; its name and type."""
    name, path = f"%a{len(files)}", out / f"in{len(files)}.npy"
    shape = "x".join(map(str, value.shape))
    kind = f"tensor<{shape}x{value.dtype.kind}{8 * value.itemsize}>"
    np.save(path, value)
    files.append(path)
    arguments.append(f"{name}: {kind}")
    return name, kind


def run(name, attributes, x, data, expected, tolerance=2e-6):
    """The transform of x, and the inverse of that, are to be as expected."""
    global body
    names, kinds = zip(*[add(value) for value in [x, *data]])
    source = names[0]
    for inverse, wanted in (("", expected), ("inverse ", x)):
        target = f"%r{len(results)}"
        body += f"  {target} = quant_llm.{name} {inverse}{source} {attributes.format(*names[1:])} : {', '.join(kinds)}\n"
        results.append(f"{target}: {kinds[0]}")
        checks.append((name + " " + inverse + attributes, np.asarray(wanted, np.float64), tolerance))
        source = target


def normal(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


x = normal(5, 48)
s = (np.abs(normal(48)) + 0.5).astype(np.float32)
run("scale_channels", "by {} dims = [1]", x, [s], x * s)
run("shift_channels", "by {} dims = [1]", x, [s], x + s)
h = normal(3, 5, 4)
s2 = (np.abs(normal(3, 4)) + 0.5).astype(np.float32)
run("scale_channels", "by {} dims = [0, 2]", h, [s2], h * s2[:, None, :])
p = rng.permutation(48).astype(np.int32)
run("permute_channels", "by {} dims = [1]", x, [p], x[:, p], 1e-30)
p = rng.permutation(5).astype(np.int64)
run("permute_channels", "by {} dims = [0]", x, [p], x[p], 1e-30)

for order in (1, 2, 12, 16, 24, 48):
    r = hadamard(order) / np.sqrt(order)
    for seed in (None, 9, -1):
        signed = r if seed is None else splitmix(seed, order)[:, None] * r
        text = f"hadamard {order} " + ("" if seed is None else f"seed {seed} ")
        blocks = x.reshape(5, -1, order).astype(np.float64)
        run("rotate", text + "dims = [1]", x, [], (blocks @ signed).reshape(5, 48))
big = normal(2, 640)
run("rotate", "hadamard 640 dims = [1]", big, [], big @ hadamard(640) / np.sqrt(640))
columns = normal(40, 3)
run("rotate", "hadamard 20 dims = [0]", columns, [], (np.kron(np.eye(2), hadamard(20) / np.sqrt(20)).T @ columns))

q, _ = np.linalg.qr(rng.standard_normal((16, 16)))
run("rotate", "by {} dims = [1]", x, [q], (x.reshape(5, 3, 16) @ q).reshape(5, 48))
a, _ = np.linalg.qr(rng.standard_normal((6, 6)))
b, _ = np.linalg.qr(rng.standard_normal((4, 4)))
run("rotate", "by {}, {} dims = [1]", x, [a, b], (x.reshape(5, 2, 24) @ np.kron(a, b)).reshape(5, 48))
m = np.eye(16) + 0.2 * rng.standard_normal((16, 16))
t = rng.standard_normal(16)
blocks = x.reshape(5, 3, 16).astype(np.float64)
run("affine", "by {}, {} dims = [1]", x, [m, np.linalg.inv(m)], (blocks @ m).reshape(5, 48))
run("affine", "by {}, {} plus {} dims = [1]", x, [m, np.linalg.inv(m), t], (blocks @ m + t).reshape(5, 48))

half = normal(7, 16, dtype=np.float16)
run("rotate", "hadamard 16 dims = [1]", half, [], half.astype(np.float64) @ hadamard(16) / 4, 2e-3)

values, types = zip(*[result.split(": ") for result in results])
(out / "m.mlir").write_text(f"func.func @f({', '.join(arguments)}) -> ({', '.join(types)}) {{\n{body}  return {', '.join(values)} : {', '.join(types)}\n}}\n")
subprocess.run(["quant-opt", out / "m.mlir", "--convert-quant-llm-to-linalg", "-o", out / "low.mlir"], check=True)
for flags in ([], ["--reference"]):
    target = out / f"results{len(flags)}"
    target.mkdir()
    subprocess.run(["quant-run", out / "low.mlir", *flags, *[f"--input={f}" for f in files], f"--output={target}"], check=True)
    for i, (what, wanted, tolerance) in enumerate(checks):
        got = np.load(target / f"{i}.npy").astype(np.float64)
        assert got.shape == wanted.shape, what
        error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        assert error < tolerance, (what, flags, error)
