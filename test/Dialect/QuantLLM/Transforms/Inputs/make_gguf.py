# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_gguf.py DIRECTORY [--check]: writes a GGUF file with block types and a sharded safetensors
archive; with --check compares what quant-llm-quantize made of them with NumPy."""

import json
import os
import sys

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
rng = np.random.default_rng(3)
up = rng.standard_normal((16, 64)).astype(np.float32)
embedding = rng.standard_normal((8, 64)).astype(np.float32)
first = torch.from_numpy(rng.standard_normal((16, 64)).astype(np.float32))
second = torch.from_numpy(rng.standard_normal((16, 64)).astype(np.float32)).bfloat16()
q4 = gguf.quantize(up, gguf.GGMLQuantizationType.Q4_1)
q8 = gguf.quantize(embedding, gguf.GGMLQuantizationType.Q8_0)

if "--check" not in sys.argv:
    writer = gguf.GGUFWriter(os.path.join(directory, "model.gguf"), "llama")
    writer.add_tensor("blk.0.ffn_up.weight", q4, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("token_embd.weight", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({"first": first}, os.path.join(directory, "model-1.safetensors"))
    save_file({"second": second}, os.path.join(directory, "model-2.safetensors"))
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": {"first": "model-1.safetensors", "second": "model-2.safetensors"}}, file)
    sys.exit()

stored = load_file(os.path.join(directory, "q.safetensors"))
half = np.float16
dense = {
    "blk.0.ffn_up.weight": gguf.dequantize(q4, gguf.GGMLQuantizationType.Q4_1).astype(half),
    "first": first.numpy(),
    "second": second.float().numpy(),
}
assert np.array_equal(stored["token_embd.weight"], gguf.dequantize(q8, gguf.GGMLQuantizationType.Q8_0).astype(half))
for key, weight in dense.items():
    codes, scales, zeros = (stored[f"{key}.{part}"] for part in ("codes", "scales", "zeros"))
    q = np.stack([codes & 15, codes >> 4], -1).reshape(weight.shape).astype(np.float64)
    s, z = (np.repeat(part.astype(np.float64), 32, 1) for part in (scales, zeros))
    error = np.abs(s * (q - z) - weight.astype(np.float64))
    # Half a step, and another half at the ends, where the rounded zero moves the grid.
    assert (error <= s * 1.01).all() and (error <= s * 0.501).mean() > 0.9, key
    groups = weight.astype(np.float64).reshape(16, 2, 32)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    assert np.array_equal(scales, ((high - low) / 15).astype(np.float32).astype(half)), key
