# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_scaled_model.py make DIR: random statistics for the checkpoint DIR/model. check DIR NAME...: the errors in DIR/NAME.json are
those of DIR/NAME.safetensors under uint3, block = [1, 4] with an integer zero, on the statistics DIR/NAME-c.safetensors."""

import glob
import json
import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

action, directory, *names = sys.argv[1:]
path = lambda name: os.path.join(directory, name)
model = {}
for name in glob.glob(path("model/*.safetensors")):
    model.update(load_file(name))
OWNERS = {"q": "q", "k": "q", "v": "q", "o": "o", "gate": "gate", "up": "gate", "down": "down"}


def get_owner(name):
    part = name.split(".")[-2].removesuffix("_proj")
    return name.replace(f".{part}_proj.", f".{OWNERS[part]}_proj.")


linears = sorted(name for name in model if "_proj." in name)
if action == "make":
    random = np.random.default_rng(17)
    tensors = {}
    for name in linears:
        if get_owner(name) != name:
            continue
        k = model[name].shape[1]
        x = random.normal(size=(100, 3)) @ random.normal(size=(3, k)) + random.normal(size=(100, k))
        x = (x * np.exp(1.5 * random.normal(size=k))).astype(np.float32)
        tensors |= {f"absmax/{name}": np.abs(x).max(axis=0), f"absmean/{name}": np.abs(x).mean(axis=0), f"hessian/{name}": x.T @ x / np.float32(100)}
    metadata = {"schema": "quant_llm.calibration/1", "model": "0" * 64, "tokens": "100", "samples": "1", "length": "100", "seed": "0"}
    aliases = {name: get_owner(name) for name in linears if get_owner(name) != name}
    save_file(tensors, path("c.safetensors"), {**metadata, "aliases": json.dumps(aliases)})
    sys.exit()


def quantize(w):
    blocks = w.reshape(len(w), -1, 4)
    low, high = np.minimum(blocks.min(axis=2, keepdims=True), 0), np.maximum(blocks.max(axis=2, keepdims=True), 0)
    scale = ((high.astype(np.float64) - low) / 7).astype(np.float32)
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, 7)
    return ((np.clip(np.rint(blocks / scale + zero), 0, 7) - zero) * scale).reshape(w.shape)


def get_error(weights, statistics, name, rows=1.0):
    d = (quantize(weights[name]).astype(np.float64) - weights[name]) * rows
    return np.einsum("ni,ij,nj->", d, statistics["hessian/" + get_owner(name)].astype(np.float64), d)


old = load_file(path("c.safetensors"))
for name in names:
    report = json.load(open(path(name + ".json")))
    weights, new = load_file(path(name + ".safetensors")), load_file(path(name + "-c.safetensors"))
    assert [site["site"] for site in report["sites"]] == ["norm-attention", "value-output", "norm-mlp", "up-down"] * 2
    for site in report["sites"]:
        before = after = 0
        for parameter in site["parameters"]:
            before += get_error(model, old, parameter)
            # Rows that another site scales are no part of this one's error.
            rows = np.ones((len(weights[parameter]), 1))
            if parameter.endswith(("v_proj.weight", "up_proj.weight")):
                inputs = np.sqrt(np.diag(new["hessian/" + get_owner(parameter)]) / np.diag(old["hessian/" + get_owner(parameter)]))
                rows = np.median(model[parameter] / (weights[parameter] * inputs), axis=1, keepdims=True)
            after += get_error(weights, new, parameter, rows)
        assert abs(site["error_before"] / before - 1) < 2e-3, (name, site, before)
        assert abs(site["error_after"] / after - 1) < 2e-2, (name, site, after)
        if name == "awq":
            assert site["error_after"] <= site["error_before"]
    assert report["error_after"] < 0.9 * report["error_before"], report
outcomes = [entry["outcome"] for entry in json.load(open(path("fold.json")))["transforms"]]
assert len(outcomes) == 8 and set(outcomes) == {"folded"}, outcomes
