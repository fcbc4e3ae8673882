# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_zeros.py DIR FLOAT INT HQQ: under uint4, block = [1, 32], the last archive has the scales of the first, which is
rounded to nearest with a float zero, other zeros, and a smaller mean absolute error than the second, which is rounded to nearest
with an integer one."""

import os
import sys

import numpy as np
from safetensors.numpy import load_file

directory, *names = sys.argv[1:]
weights, nearest, integer, other = (load_file(os.path.join(directory, name + ".safetensors")) for name in ["a", *names])


def get_error(archive, name):
    packed = archive[name + ".codes"].view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float64)
    spread = lambda array: np.repeat(array.astype(np.float64), 32, axis=1)
    scales, zeros = spread(archive[name + ".scales"]), spread(archive[name + ".zeros"])
    values = scales * (codes - zeros) if archive is integer else scales * codes + zeros
    return np.abs(values - weights[name].astype(np.float64)).mean()


for name in weights:
    assert np.array_equal(nearest[name + ".scales"], other[name + ".scales"]), name
    assert np.mean(nearest[name + ".zeros"] != other[name + ".zeros"]) > 0.1, name
    before, after = get_error(integer, name), get_error(other, name)
    assert 0 < after < before < 0.2, (name, before, after)
    print(name, before, after)
