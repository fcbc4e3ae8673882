# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_activations.py DIR: an archive with weights q, k [4, 8], which have one
input, down [8, 4] and head [4, 8], and calibration files for them."""

import os
import sys

import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
METADATA = {
    "schema": "quant_llm.calibration/1", "model": "0" * 64, "tokens": "16", "samples": "2", "length": "8", "seed": "0",
    "aliases": '{"k": "q"}', "quantiles": "0.5,0.99",
}


def write(name, tensors, **metadata):
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, os.path.join(directory, name), {key: value for key, value in {**METADATA, **metadata}.items() if value})


shapes = {"q": (4, 8), "k": (4, 8), "down": (8, 4), "head": (4, 8), "dead": (4, 8)}
save_file({name: np.ones(shape, np.float16) for name, shape in shapes.items()}, os.path.join(directory, "a.safetensors"))
good = {"absmax/dead": np.zeros(8), "min/dead": np.zeros(8), "max/dead": np.zeros(8), "quantiles/dead": np.zeros((2, 8))}
# The first token of `down` is a hundred times as large as the others.
for name, channels, outlier in (("q", 8, 1.0), ("down", 4, 100.0)):
    largest = np.linspace(0.635, 1.27, channels)
    good["absmax/" + name] = largest * outlier
    good["quantiles/" + name] = np.stack([largest / 2, largest * 0.8])
    good["min/" + name] = -largest / 4
    good["max/" + name] = largest
write("good.safetensors", good)
write("plain.safetensors", {name: value for name, value in good.items() if name.startswith("absmax")}, quantiles="")
write("narrow.safetensors", {"absmax/q": np.ones(4)})
# The first channels were always 0, the others not; nearly always 0.
write("partly.safetensors", {"absmax/q": np.array([0, 0, 0, 0, 1.27, 0.5, 0, 0]), "min/q": np.array([0, 0, 0, 0, -1.27, 0, 0, 0]), "max/q": np.array([0, 0, 0, 0, 1.28, 0, 0, 0])})
write("tiny.safetensors", {"absmax/q": np.full(8, 1e-9)})
write("other.safetensors", {"absmax/u": np.ones(8)}, aliases="{}")
