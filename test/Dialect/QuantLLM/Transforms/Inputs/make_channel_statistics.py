# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_channel_statistics.py DIR: the archive of choose-channel-scales.mlir, and calibration files for it."""

import os
import sys

import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
random = np.random.default_rng(11)
shapes = {"embedding": (32, 8), "gain": (8,), "w_up": (16, 8), "w_gate": (16, 8), "down": (8, 16), "head": (32, 8)}
weights = {name: random.normal(size=shape).astype(np.float16 if name == "gain" else np.float32) for name, shape in shapes.items()}
weights["w_up"][:, 6] = weights["w_gate"][:, 6] = 0
save_file(weights, os.path.join(directory, "model.safetensors"))
weights["w_gate"][3, 4] = np.nan
save_file(weights, os.path.join(directory, "nan.safetensors"))

metadata = {"schema": "quant_llm.calibration/1", "model": "0" * 64, "tokens": "200", "samples": "2", "length": "100", "seed": "0"}


def measure(name, k, dead=()):
    x = random.normal(size=(200, 4)) @ random.normal(size=(4, k)) + random.normal(size=(200, k))
    x *= np.exp(1.5 * random.normal(size=k))
    x[:, dead] = 0
    return {
        f"absmax/{name}": np.abs(x).max(axis=0).astype(np.float32),
        f"absmean/{name}": np.abs(x).mean(axis=0).astype(np.float32),
        f"hessian/{name}": (x.T @ x / len(x)).astype(np.float32),
        f"mean/{name}": x.mean(axis=0).astype(np.float32),
        f"min/{name}": x.min(axis=0).astype(np.float32),
        f"max/{name}": x.max(axis=0).astype(np.float32),
        f"quantiles/{name}": np.quantile(np.abs(x), [0.5, 0.9], axis=0).astype(np.float32),
        f"inputs/{name}": x[:20].astype(np.float32),
    }


def write(name, tensors, aliases='{"w_gate": "w_up"}'):
    save_file(tensors, os.path.join(directory, name), {**metadata, "aliases": aliases, "quantiles": "0.5,0.9"})


statistics = {**measure("w_up", 8, dead=[2]), **measure("down", 16)}
fisher = {f"fisher/{name}": np.exp(random.normal(size=shapes[name])).astype(np.float32) for name in ("w_up", "w_gate", "down")}
fisher.update({f"row-fisher/{name}": np.exp(random.normal(size=shapes[name][0])).astype(np.float32) for name in ("w_up", "w_gate", "down")})
write("c.safetensors", {**statistics, **fisher})
write("no-hessian.safetensors", {name: value for name, value in statistics.items() if "hessian" not in name})
write("no-mean.safetensors", {name: value for name, value in statistics.items() if "absmean" not in name})
write("narrow.safetensors", {**statistics, "absmean/down": statistics["absmean/down"][:5].copy()})
write("nan-statistic.safetensors", {**statistics, "absmax/w_up": np.full(8, np.nan, np.float32)})
write("other.safetensors", measure("w", 8), "{}")
