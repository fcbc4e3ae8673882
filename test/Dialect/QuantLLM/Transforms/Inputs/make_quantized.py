# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes archives of small quantized weights, most of them damaged: make_quantized.py DIRECTORY."""

import os
import sys

import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
rng = np.random.default_rng(3)


def save(name, **changes):
    tensors = {
        "w.codes": rng.integers(0, 256, (8, 32)).astype(np.uint8),
        "w.scales": rng.uniform(0.01, 0.02, (8, 1)).astype(np.float16),
        "v.codes": rng.integers(0, 256, (8, 32)).astype(np.uint8),
        "v.scales": rng.uniform(0.01, 0.02, (8, 1)).astype(np.float16),
        "z.codes": rng.integers(0, 256, (8, 32)).astype(np.uint8),
        "z.scales": rng.uniform(0.01, 0.02, (8, 2)).astype(np.float16),
        "z.zeros": rng.integers(0, 16, (8, 2)).astype(np.uint8),
    }
    tensors.update({key.replace("_", "."): value for key, value in changes.items()})
    save_file({key: value for key, value in tensors.items() if value is not None}, os.path.join(directory, name + ".safetensors"))


def with_value(array, index, value):
    array[index] = value
    return array


save("good")
save("nan", w_scales=with_value(np.full((8, 1), 0.01, np.float16), (5, 0), np.nan))
save("underflow", w_scales=with_value(np.full((8, 1), 1.0, np.float16), (5, 0), 3 * 2.0**-24))
save("zero", z_zeros=with_value(np.zeros((8, 2), np.uint8), (1, 1), 16))
save("shape", w_codes=np.zeros((8, 31), np.uint8))
save("type", w_scales=np.ones((8, 1), np.float32))
save("missing", w_scales=None)
