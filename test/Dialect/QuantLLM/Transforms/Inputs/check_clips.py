# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_clips.py DIR: what quant-llm-quantize stores with clips, under uint4, block = [1, 32], an integer zero: what a clip
makes small is smaller than without, and no larger than with the other clips; a method keeps the scales."""

import json
import os
import sys

import numpy as np
from safetensors.numpy import load_file

directory = sys.argv[1]
path = lambda name: os.path.join(directory, name)
weights = load_file(path("a.safetensors"))
statistics = load_file(path("fisher.safetensors"))
hessian = statistics["hessian/w"].astype(np.float64)
blocks = [slice(i, i + 32) for i in range(0, 96, 32)]
archives = {name: load_file(path(name + ".safetensors")) for name in ("nearest", "diagonal", "output", "fine", "clip-gptq", "clip-ease", "clip-w", "ends")}
archives["fisher"] = load_file(path("clip-fisher.safetensors"))


def get_errors(archive, name):
    packed = archive[name + ".codes"].view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float64)
    spread = lambda array: np.repeat(array.astype(np.float64), 32, axis=1)
    d = spread(archive[name + ".scales"]) * (codes - spread(archive[name + ".zeros"])) - weights[name].astype(np.float64)
    return {
        "diagonal": (d**2 * np.diag(hessian)).sum(),
        "output": sum(np.einsum("ni,ij,nj->", d[:, b], hessian[b, b], d[:, b]) for b in blocks),
        "fisher": (d**2 * statistics["fisher/" + name]).sum(),
        "whole": np.einsum("ni,ij,nj->", d, hessian, d),
    }


for name in ("w", "v"):
    errors = {key: get_errors(archive, name) for key, archive in archives.items()}
    for clip in ("diagonal", "output", "fisher"):
        assert errors[clip][clip] < 0.97 * errors["nearest"][clip], (name, clip, errors)
        for other in ("diagonal", "output", "fisher"):
            assert errors[clip][clip] <= errors[other][clip] * (1 + 1e-3), (name, clip, other, errors)
    assert errors["fine"]["output"] < errors["output"]["output"], errors
    assert errors["ends"]["diagonal"] < 0.99 * errors["diagonal"]["diagonal"], errors
    for method in ("clip-gptq", "clip-ease"):
        assert errors[method]["whole"] < 0.75 * errors["output"]["whole"], (name, method, errors)
        for component in (".scales", ".zeros"):
            assert (archives[method][name + component] == archives["output"][name + component]).all(), (name, method)
for component in (".codes", ".scales", ".zeros"):
    assert (archives["clip-w"]["w" + component] == archives["output"]["w" + component]).all()
    assert (archives["clip-w"]["v" + component] == archives["nearest"]["v" + component]).all()
for key in ("diagonal", "output", "fisher"):
    assert json.load(open(path(key + ".json")))["clip"] == key
assert json.load(open(path("nearest.json")))["clip"] == "none"
