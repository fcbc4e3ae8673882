# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_row_parts.py DIR [quantized]: the parts of w in DIR/parts.safetensors, and their statistics in DIR/parts-c.safetensors, are rows of w in the
order of DIR/rows.mlir; quantized: the outputs z*.npy are near to y*.npy."""

import json
import os
import re
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

path = lambda name: os.path.join(sys.argv[1], name)
if len(sys.argv) > 2:
    for i in (0, 1):
        y, z = np.load(path(f"y{i}.npy")), np.load(path(f"z{i}.npy"))
        error = np.square(y - z).sum() / np.square(y).sum()
        # Codes of 2 bits have 0.12 of the square of normal values, and rows in another order 2.
        assert 1e-4 < error < 0.25, (i, error)
    sys.exit()
before, parts = load_file(path("a.safetensors")), load_file(path("parts.safetensors"))
statistics, after = load_file(path("rows.safetensors")), load_file(path("parts-c.safetensors"))
with safe_open(path("parts-c.safetensors"), "np") as file:
    aliases = json.loads(file.metadata()["aliases"])
order = [int(i) for i in re.search(r"arith.constant dense<\[(.*)\]> : tensor<24xi16>", open(path("rows.mlir")).read()).group(1).split(", ")]
names = ["w.rows"] + [f"w.rows_{i}" for i in range(1, 4)]
names = [name for name in names if name in parts]
assert len(names) > 1
assert (np.concatenate([parts[name] for name in names]) == before["w"][order]).all()
for statistic in ("fisher/", "row-fisher/"):
    assert (np.concatenate([after[statistic + name] for name in names]) == statistics[statistic + "w"][order]).all()
    assert all(len(after[statistic + name]) == len(parts[name]) for name in names)
(owner,) = [key for key in after if key.startswith("hessian/")]
assert (after[owner] == statistics["hessian/w"]).all()
assert all(("hessian/" + aliases.get(name, name)) == owner for name in names), (owner, aliases)
