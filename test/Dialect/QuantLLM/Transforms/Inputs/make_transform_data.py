# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_transform_data.py DIR: a Llama with biases everywhere in DIR/model, a Qwen3 with norms of heads in DIR/heads, rotations of its residual stream that are orthogonal (good.safetensors)
or not (bad, nan), a permutation for down_proj (i16), and affine.safetensors with a weight w, a matrix a and its inverse b, and d, twice the identity."""

import os
import sys

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "..", "..", "Import", "Inputs"))
from oracle import make_model

directory = sys.argv[1]
model = make_model(os.path.join(directory, "model"), "llama", hidden_size=32, num_attention_heads=4, num_key_value_heads=4, attention_bias=True, mlp_bias=True)
make_model(os.path.join(directory, "heads"), "qwen3", hidden_size=32)
random = np.random.default_rng(1)
rotation = np.linalg.qr(random.normal(size=(32, 32)))[0].astype(np.float32)
write = lambda name, **tensors: save_file(tensors, os.path.join(directory, name + ".safetensors"))
write("good", **{"residual.channel_rotation": rotation})
write("bad", **{"residual.channel_rotation": rotation * np.float32(1.01)})
write("i16", **{"model.layers.0.mlp.down_proj.weight.channel_permutation": random.permutation(80).astype(np.int16)})
missing = rotation.copy()
missing[3, 5] = np.nan
write("nan", **{"residual.channel_rotation": missing})
matrix = random.normal(size=(4, 4)) + 3 * np.eye(4)
write("affine", w=random.normal(size=(8, 4)).astype(np.float32), a=matrix.astype(np.float32), b=np.linalg.inv(matrix).astype(np.float32), d=2 * np.eye(4, dtype=np.float32))
