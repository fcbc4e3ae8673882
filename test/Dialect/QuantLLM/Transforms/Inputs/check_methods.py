# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_methods.py DIR NEAREST METHOD...: what archives and reports of quant-llm-quantize under uint4, block = [1, 32], an
integer zero say of the error of the outputs is true, and smaller than that of rounding to nearest."""

import json
import os
import sys

import numpy as np
from safetensors.numpy import load_file

directory, *methods = sys.argv[1:]
path = lambda name: os.path.join(directory, name)
weights = load_file(path("a.safetensors"))
hessian = load_file(path("both.safetensors"))["hessian/w"].astype(np.float64)


def dequantize(archive, name):
    packed = archive[name + ".codes"].view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float64)
    spread = lambda array: np.repeat(array.astype(np.float64), 32, axis=1)
    return spread(archive[name + ".scales"]) * (codes - spread(archive[name + ".zeros"]))


def get_error(archive, name):
    weight = weights[name].astype(np.float64)
    square = lambda a: np.einsum("ni,ij,nj->", a, hessian, a)
    return np.sqrt(square(dequantize(archive, name) - weight) / square(weight))


errors = {}
for method in methods:
    archive = load_file(path(method + ".safetensors"))
    report = json.load(open(path(method + ".json")))
    assert report["method"] == method.split("-")[0], report["method"]
    for weight in report["weights"]:
        error = errors[method, weight["name"]] = get_error(archive, weight["name"])
        if method == "nearest":
            assert "output_error" not in weight
            continue
        nearest = errors["nearest", weight["name"]]
        assert abs(weight["output_error"] / error - 1) < 1e-3, (method, weight, error)
        assert abs(weight["nearest_output_error"] / nearest - 1) < 1e-3, (method, weight, nearest)
        assert error < 0.75 * nearest, (method, weight["name"], error, nearest)
        print(method, weight["name"], f"{error / nearest:.3f}")
