# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_drift.py DIR NAME: the codes of NAME.safetensors are those of the weights that NumPy corrected, but where rounding is a tie
within float32, and the report has the size of the correction."""

import json
import os
import sys

import numpy as np
from safetensors.numpy import load_file

read = lambda name: load_file(os.path.join(sys.argv[1], name))
codes, corrected, original, wanted = (read(name + ".safetensors") for name in (sys.argv[2], sys.argv[2] + "-wanted", "a", sys.argv[2] + "-weights"))
assert codes.keys() == corrected.keys()
for name, value in codes.items():
    same = np.mean(value.view(np.uint8) == corrected[name].view(np.uint8))
    assert same > 0.99, (name, same)
with open(os.path.join(sys.argv[1], sys.argv[2] + ".json")) as file:
    weights = json.load(file)["weights"]
assert len(weights) == 2
for weight in weights:
    w = original[weight["name"]].astype(np.float64)
    change = np.linalg.norm(wanted[weight["name"]] - w) / np.linalg.norm(w)
    assert change > 0.01 and abs(weight["drift_change"] / change - 1) < 1e-5, (weight["drift_change"], change)
