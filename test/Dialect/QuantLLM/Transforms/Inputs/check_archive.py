# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_archive.py DENSE QUANTIZED REPORT: decodes int4 weights with numpy alone and compares
them with the dense ones and with the errors that the report claims."""

import json
import sys

import numpy as np
from safetensors.numpy import load_file

dense, stored = load_file(sys.argv[1]), load_file(sys.argv[2])
with open(sys.argv[3]) as file:
    report = json.load(file)

assert report["version"] == 1 and report["archive"] == "q.safetensors"
names = {"layers.0.q_proj.weight": -1, "k": 64, "layers.0.gate_proj.weight": 64, "layers.0.up_proj.weight": 64}
assert {w["name"]: w["block"][1] for w in report["weights"]} == names, report["weights"]
assert [w["kind"] for w in report["weights"]] == ["q_proj", "k_proj", "gate_proj", "up_proj"]

expected = set()
total = 0
for weight in report["weights"]:
    key = {"k": "layers.0.k_proj.weight"}.get(weight["name"], weight["name"])
    original = dense[key].astype(np.float64)
    n, k = weight["shape"]
    assert original.shape == (n, k)
    codes, scales = stored[key + ".codes"], stored[key + ".scales"]
    expected |= {key + ".codes", key + ".scales"}
    low = (codes & 15).astype(np.int8)
    high = (codes >> 4).astype(np.int8)
    q = np.stack([low, high], -1).reshape(n, k)
    q = np.where(q > 7, q - 16, q)
    group = k if weight["block"][1] < 0 else weight["block"][1]
    s = np.repeat(scales.astype(np.float64), group, 1)[:, :k]
    value = q * s
    # The scale is the largest magnitude over 7, in f16, and every code is the nearest.
    blocks = np.abs(original).reshape(n, k // group, group).max(-1)
    assert np.array_equal(scales, (blocks / 7).astype(np.float32).astype(np.float16)), key
    assert (np.abs(value - original) <= s * 0.5 * 1.001).all() or (np.abs(q).max() == 7)
    assert np.array_equal(q, np.clip(np.rint(original / s), -8, 7)), key
    mse = ((value - original) ** 2).mean()
    assert np.isclose(weight["mse"], mse), (weight["mse"], mse)
    assert np.isclose(weight["relative_frobenius"], np.linalg.norm(value - original) / np.linalg.norm(original))
    assert np.isclose(weight["max_error"], np.abs(value - original).max())
    assert np.isclose(weight["sqnr_db"], 10 * np.log10((original**2).sum() / ((value - original) ** 2).sum()))
    bytes_ = codes.nbytes + scales.nbytes
    assert weight["stored_bytes"] == bytes_ and np.isclose(weight["bits_per_weight"], 8 * bytes_ / (n * k))
    assert weight["dense_bytes"] == 2 * n * k
    total += bytes_

for entry in report["dense"]:
    assert np.array_equal(dense[entry["name"]], stored[entry["name"]])
    assert entry["bytes"] == stored[entry["name"]].nbytes
    expected.add(entry["name"])
assert set(stored) == expected, set(stored) ^ expected
totals = report["totals"]
assert totals["stored_bytes"] == total
assert totals["bytes_before"] == sum(t.nbytes for t in dense.values())
assert totals["bytes_after"] == sum(t.nbytes for t in stored.values())
