# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_hessians.py DIR: an archive with w [24, 96] and v [40, 96], and the Hessians of inputs that go together."""

import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
random = np.random.default_rng(5)
save_file(
    {name: random.normal(size=(n, 96)).astype(np.float16) for name, n in (("w", 24), ("v", 40))},
    os.path.join(directory, "a.safetensors"),
)
metadata = {
    "schema": "quant_llm.calibration/1", "model": "0" * 64, "tokens": "1024", "samples": "2", "length": "512", "seed": "0",
}
x = random.normal(size=(1024, 8)) @ random.normal(size=(8, 96)) + random.normal(size=(1024, 96))
x *= np.exp(random.normal(size=96))
x[:, 7] = 0
hessian = (x.T @ x / len(x)).astype(np.float32)
write = lambda name, tensors, **more: save_file(tensors, os.path.join(directory, name), {**metadata, **more})
write("both.safetensors", {"hessian/w": hessian}, aliases='{"v": "w"}')
write("wrong.safetensors", {"hessian/w": hessian[:95, :95].copy(), "hessian/v": hessian.astype(np.float64)})
token = np.arange(96, dtype=np.float32) % 7 - 3
write("token.safetensors", {"hessian/w": np.outer(token, token)}, aliases='{"v": "w"}')
write("token-drift.safetensors", {"hessian/w": np.outer(token, token), "drift/w": np.outer(token, token) / 8}, aliases='{"v": "w"}')
write("large-drift.safetensors", {"hessian/w": hessian, "drift/w": 1e3 * hessian}, aliases='{"v": "w"}')
write("one.safetensors", {"hessian/w": hessian})
write("dead.safetensors", {"hessian/w": 0 * hessian, "hessian/v": hessian})
indefinite = hessian.copy()
indefinite[0, 1] = indefinite[1, 0] = 1e20
write("indefinite.safetensors", {"hessian/w": indefinite}, aliases='{"v": "w"}')
fisher = {f"fisher/{name}": np.exp(2 * random.normal(size=(n, 96))).astype(np.float32) for name, n in (("w", 24), ("v", 40))}
fisher.update({f"row-fisher/{name}": np.exp(2 * random.normal(size=n)).astype(np.float32) for name, n in (("w", 24), ("v", 40))})
write("fisher.safetensors", {"hessian/w": hessian, **fisher}, aliases='{"v": "w"}')
write("half-fisher.safetensors", {"hessian/w": hessian, **{name: values for name, values in fisher.items() if name.endswith("/w")}}, aliases='{"v": "w"}')
write("huge.safetensors", {"hessian/w": (hessian * np.float32(1e33)).astype(np.float32)}, aliases='{"v": "w"}')
write("only-fisher.safetensors", fisher)
tiny = {name: values * np.float32(1e-30) for name, values in fisher.items()}
write("tiny-fisher.safetensors", {"hessian/w": (hessian * np.float32(1e30)).astype(np.float32), **tiny}, aliases='{"v": "w"}')
write("no-gradients.safetensors", {"hessian/w": hessian, **{name: 0 * values for name, values in fisher.items()}}, aliases='{"v": "w"}')
# Rows that matter by far more or less than others.
rows = {name: (values * np.exp(2 * random.normal(size=(len(values),) + (1,) * (values.ndim - 1)))).astype(np.float32) for name, values in fisher.items()}
write("rows.safetensors", {"hessian/w": hessian, **rows}, aliases='{"v": "w"}')
# Inputs y behind quantized layers, which drifted from x, and what weights would have to be there.
y = (0.9 * x + 0.2 * np.roll(x, 1, axis=1) * np.exp(random.normal(size=96)) + 0.05 * random.normal(size=x.shape)) * (np.arange(96) != 7)
moments = {"hessian/w": (y.T @ y / len(y)).astype(np.float32), "drift/w": ((x - y).T @ y / len(y)).astype(np.float32)}
moments["hessian/w"] = (moments["hessian/w"] + moments["hessian/w"].T) / 2
lack = 0.3 * y[:, :40] @ random.normal(size=(40, 24)) + random.normal(size=(len(y), 24))
residual = (lack.T @ y / len(y)).astype(np.float32)
write("drift-statistics.safetensors", {**moments, "residual-drift/w": residual}, aliases='{"v": "w"}')
write("wrong-residual.safetensors", {**moments, "residual-drift/w": residual[:, :95].copy()}, aliases='{"v": "w"}')
write("wrong-drift.safetensors", {**moments, "drift/w": moments["drift/w"][:95].copy()}, aliases='{"v": "w"}')
damaged = moments["drift/w"].copy()
damaged[0, 7] = np.nan
write("nan-drift.safetensors", {**moments, "drift/w": damaged}, aliases='{"v": "w"}')
h, drift = moments["hessian/w"].astype(np.float64), moments["drift/w"].astype(np.float64)
diagonal = np.diag(h)
damping = 0.02 * diagonal[diagonal > 0].mean()
damped = h + np.diag(np.where(diagonal > 0, damping, diagonal[diagonal > 0].mean() + damping))
original = load_file(os.path.join(directory, "a.safetensors"))


def correct(strength, of_residual, name):
    """Of 'v' nothing is added to anything."""
    corrected = {key: w.astype(np.float64) for key, w in original.items()}
    for key, w in corrected.items():
        wanted = strength * w @ drift + (of_residual * residual if key == "w" else 0)
        corrected[key] = (w + wanted @ np.linalg.inv(damped)).astype(np.float32)
    save_file(corrected, os.path.join(directory, name))


correct(0.5, 0, "drift-weights.safetensors")
correct(0.25, 0.75, "residual-weights.safetensors")
