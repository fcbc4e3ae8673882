# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_statistics.py DIR KIND: the calibration files that quant-llm-materialize-transforms wrote beside NAME.safetensors in DIR
are what the transformed model has. KIND: scaled (by channels) or rotated (the input of down)."""

import json
import os
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

directory, kind = sys.argv[1:]
path = lambda name: os.path.join(directory, name)
before, after = ({k: v.astype(np.float64) for k, v in load_file(path(name)).items()} for name in ("model.safetensors", kind + ".safetensors"))
old, new = ({k: v.astype(np.float64) for k, v in load_file(path(name)).items()} for name in ("c.safetensors", kind + "-c.safetensors"))
metadata = [safe_open(path(name), "np").metadata() for name in ("c.safetensors", kind + "-c.safetensors")]
for key in ("schema", "tokens", "samples", "length", "seed", "quantiles"):
    assert metadata[0][key] == metadata[1][key], key
assert json.loads(metadata[1]["aliases"]) == {"w_gate": "w_up"}


def close(a, b):
    assert np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()), (a, b)


# The second moments of the outputs stay, but for scales of the outputs.
moments = lambda weights, statistics, name, owner: np.diag(weights[name] @ statistics["hessian/" + owner] @ weights[name].T)
for name, owner in (("w_gate", "w_up"), ("down", "down")):
    close(moments(after, new, name, owner), moments(before, old, name, owner))
    close(new["inputs/" + owner] @ after[name].T, old["inputs/" + owner] @ before[name].T)
    close(new["mean/" + owner] @ after[name].T, old["mean/" + owner] @ before[name].T)
if kind == "rotated":
    assert not np.allclose(new["hessian/down"], old["hessian/down"])
    assert set(old) - set(new) == {s + "/down" for s in ("absmax", "absmean", "min", "max", "quantiles", "fisher")}, set(old) - set(new)
    for key in new:
        if not key.endswith("/down"):
            assert (new[key] == old[key]).all(), key
else:
    # Lengths of inputs with other scales are others.
    names = ("w_up", "w_gate", "down")
    assert set(old) - set(new) == {"row-fisher/" + name for name in names} and set(new) < set(old)
    s = {"w_up": (after["w_gate"] / np.where(before["w_gate"] == 0, 1, before["w_gate"]))[0], "down": (after["down"] / before["down"])[0]}
    s["w_up"][s["w_up"] == 0] = np.nan  # a column of zeros does not tell its scale
    for owner, scale in s.items():
        for name in ("absmax", "absmean", "min", "max", "quantiles"):
            known = ~np.isnan(scale)
            close((new[f"{name}/{owner}"] * scale)[..., known], old[f"{name}/{owner}"][..., known])
        assert np.ptp(scale[~np.isnan(scale)]) > 0.1
    # The gradient of a scaled element is scaled back, whether by columns or by rows.
    for name in names:
        close(new["fisher/" + name] * after[name] ** 2, old["fisher/" + name] * before[name] ** 2)
