# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_low_rank.py DIR NEAREST PLAIN STEPS WEIGHTED GPTQ GPTQ_LOW: archives and reports of quant-llm-quantize with
low-rank parts of rank 4 beside uint4, block = [1, 32] and an integer zero. Writes inputs x.npy and what the weights
make of them, for the lowerings."""

import json
import os
import sys

import numpy as np
from safetensors.torch import load_file

directory, nearest, plain, steps, weighted, gptq, gptq_low = sys.argv[1:]
path = lambda name: os.path.join(directory, name)
load = lambda name: {key: tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy() for key, tensor in load_file(path(name)).items()}
weights = {name: array.astype(np.float64) for name, array in load("a.safetensors").items()}
hessian = load("both.safetensors")["hessian/w"].astype(np.float64)
x = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
np.save(path("x.npy"), x)


def codes_of(archive, name):
    packed = archive[name + ".codes"].view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float64)
    spread = lambda array: np.repeat(array.astype(np.float64), 32, axis=1)
    return spread(archive[name + ".scales"]) * (codes - spread(archive[name + ".zeros"].view(np.uint8)))


def norm(error, weighting):
    return np.sqrt(np.einsum("ni,ij,nj->", error, weighting, error))


identity = np.eye(96)
errors, outputs = {}, {}
for method in (nearest, plain, steps, weighted, gptq, gptq_low):
    archive = load(method + ".safetensors")
    report = json.load(open(path(method + ".json")))
    for entry in report["weights"]:
        name = entry["name"]
        n, k = weights[name].shape
        values = codes_of(archive, name)
        bits = (n * k // 2 + 3 * n * (k // 32)) * 8
        if "low_rank" in entry:
            a, b = (archive[f"{name}.low_rank.{part}"].astype(np.float64) for part in "ab")
            assert a.shape == (n, 4) and b.shape == (4, k)
            bits += (n + k) * 4 * (32 if method == steps else 16)
            left = weights[name] - values
            weighting = hessian / np.mean(np.diag(hessian)) + entry["damping"] * identity if "damping" in entry else identity
            remaining = norm(left - a @ b, weighting) / norm(left, weighting)
            assert abs(entry["low_rank"]["remaining_error"] / remaining - 1) < 1e-3, (method, entry, remaining)
            # Nothing of this rank leaves less of the error of these codes.
            singular = np.linalg.svd(left @ np.linalg.cholesky(weighting), compute_uv=False)
            best = np.sqrt(np.sum(singular[4:] ** 2) / np.sum(singular**2))
            assert remaining < 1.002 * best, (method, name, remaining, best)
            assert entry["low_rank"]["rank"] == 4
            values += a @ b
        else:
            assert method in (nearest, gptq)
        assert abs(entry["bits_per_weight"] - bits / (n * k)) < 1e-9, entry
        errors[method, name] = norm(weights[name] - values, identity)
        outputs[method, name] = norm(weights[name] - values, hessian)
        relative = errors[method, name] / norm(weights[name], identity)
        assert abs(entry["relative_frobenius"] / relative - 1) < 1e-3, (entry, relative)
        if "output_error" in entry:
            relative = outputs[method, name] / norm(weights[name], hessian)
            assert abs(entry["output_error"] / relative - 1) < 1e-3, (entry, relative)
        np.save(path(f"{method}.{name}.npy"), (x @ values.T).astype(np.float32))

for name in weights:
    assert errors[plain, name] < 0.95 * errors[nearest, name]
    assert errors[steps, name] < errors[plain, name]
    assert outputs[weighted, name] < 0.9 * outputs[plain, name]
    assert outputs[gptq_low, name] < 0.95 * outputs[gptq, name]
