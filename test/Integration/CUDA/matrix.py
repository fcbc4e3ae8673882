# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Prints cases for quant-bench --cases: what the GPU checks compile and run.

    matrix.py smoke | schemes | shapes | random [COUNT [SEED]] | bench
"""

import json
import random
import sys

G128 = "int4, block = [1, 128], scale = f16"
SCHEMES = [
    "int1, block = [1, 64], scale = f16, rule = absmax_full",
    *[f"int{bits}, block = [1, 64], scale = f16" for bits in (2, 3, 4, 5, 6, 7, 8)],
    *[f"uint{bits}, block = [1, 64], scale = f16, zero = int" for bits in (1, 2, 3, 4, 5, 6, 7, 8)],
    "ternary, block = [1, -1], scale = f16",
    "nf4, block = [1, 64], scale = f16",
    "codebook<4, [-1, -0.75, -0.5, -0.375, -0.25, -0.125, -0.0625, 0, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1]>, block = [1, 32], scale = f16",
    "f4E2M1FN, block = [1, 32], scale = f8E8M0FNU",
    "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, -1], scale = f32>",
    "f6E2M3FN, block = [1, 32], scale = f8E8M0FNU",
    "f6E3M2FN, block = [1, 32], scale = f8E8M0FNU",
    "f8E4M3FN, block = [1, 32], scale = f8E8M0FNU",
    "f8E5M2, block = [1, 128], scale = bf16",
    "f8E4M3FN, block = [128, 128], scale = f32",
    "int4, block = [1, 64], scale = bf16",
    "int4, block = [1, 64], scale = f32",
    "int4, block = [1, 32], scale = f8E4M3FN",
    "int8, block = [-1, -1], scale = f32",
    "int8, block = [1, -1], scale = f16",
    "int8, block = [-1, 1], scale = f16",
    "int4, block = [1, 16], scale = f16",
    "int4, block = [1, 24], scale = f16",
    "int4, block = [1, 1000], scale = f16",
    "uint4, block = [1, 64], scale = f16, zero = f16",
    "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = f32>",
]
EXTENTS = [1, 17, 64, 172, 192, 576, 1000, 1536, 4096, 7392, 10944, 11008]
TOKENS = [1, 2, 3, 7, 8, 16, 17, 33, 64, 100, 128, 257, 1024]
BENCH = [(4096, 4096), (28672, 4096), (8192, 8192), (1280, 8192)]


def case(n, k, scheme=G128, act="f16", m=TOKENS):
    return {"n": n, "k": k, "scheme": scheme, "act": act, "m": m}


def cases(name, count, seed):
    if name == "smoke":
        return [case(192, 576), case(17, 172), case(1000, 1000, act="bf16"), case(192, 576, SCHEMES[11])]
    if name == "schemes":
        return [case(192, 576, scheme, act) for scheme in SCHEMES for act in ("f16", "bf16")]
    if name == "shapes":
        return [case(n, k) for n in EXTENTS for k in EXTENTS]
    if name == "bench":
        return [case(n, k, m=[1, 16, 64, 256, 1024, 4096]) for n, k in BENCH]
    if name == "random":
        generator = random.Random(seed)
        result = []
        for _ in range(count):
            extents = [generator.choice([generator.randint(1, 300), generator.randint(1, 4000), 16 * generator.randint(1, 300)]) for _ in range(2)]
            tokens = sorted({generator.randint(1, 20), generator.randint(1, 300)})
            result.append(case(*extents, generator.choice(SCHEMES), generator.choice(["f16", "bf16"]), tokens))
        return result
    raise SystemExit(f"unknown matrix '{name}'")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    numbers = [int(piece) for piece in sys.argv[2:]] + [100, 1][len(sys.argv) - 2 :]
    json.dump(cases(sys.argv[1], *numbers), sys.stdout, indent=1)
