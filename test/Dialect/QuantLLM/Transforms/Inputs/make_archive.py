# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the archives that the tests of this folder read: make_archive.py DIRECTORY."""

import json
import os
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
rng = np.random.default_rng(7)


def normal(n, k):
    return rng.standard_normal((n, k)).astype(np.float16)


# Normal numbers, and the same with one large weight in row 3: FineQuant leaves the
# first alone and splits the second until the outlier sits in a small group.
plain = normal(32, 512)
outlier = plain.copy()
outlier[3, 100] = 40.0
tensors = {
    "layers.0.q_proj.weight": plain,
    "layers.0.k_proj.weight": outlier,
    "layers.0.gate_proj.weight": normal(16, 512),
    "layers.0.up_proj.weight": outlier[:16].copy(),
    "embed_tokens.weight": normal(8, 512),
    "norm.weight": rng.standard_normal(512).astype(np.float32),
}
save_file(tensors, os.path.join(directory, "model.safetensors"))

# The same in two shards.
sharded = os.path.join(directory, "sharded")
os.makedirs(sharded, exist_ok=True)
weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
for shard in set(weight_map.values()):
    save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, os.path.join(sharded, shard))
with open(os.path.join(sharded, "model.safetensors.index.json"), "w") as index:
    json.dump({"weight_map": weight_map}, index)

bad = plain.copy()
bad[5, 17] = np.nan
save_file({"w": bad}, os.path.join(directory, "nan.safetensors"))
infinite = plain.copy()
infinite[0, 511] = -np.inf
save_file({"w": infinite}, os.path.join(directory, "inf.safetensors"))
# Parameters that stay dense: an infinity may be meant.
vector = np.zeros(512, np.float32)
vector[3], vector[300] = np.inf, np.nan
for name, v in (("f32", vector), ("bf16", vector.astype(ml_dtypes.bfloat16)), ("f16", np.stack([vector[:8], vector[298:306]]).astype(np.float16)), ("f64", vector.astype(np.float64))):
    save_file({"w": plain, "v": v}, os.path.join(directory, f"nan-dense-{name}.safetensors"))
save_file({"w": plain.astype(np.float32), "v": plain[:, :500].copy()}, os.path.join(directory, "other.safetensors"))
