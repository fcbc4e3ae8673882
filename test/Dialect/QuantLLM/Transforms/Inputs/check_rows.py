# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_rows.py DIR NAME POWER: DIR/NAME.json and DIR/NAME.mlir of quant-llm-allocate-rows, on the weights of make_hessians.py with scales of f16:
the errors are true, every row has the best of its weight's schemes, and the budget is kept."""

import json
import os
import re
import sys

import numpy as np
from safetensors.numpy import load_file

directory, name, power = sys.argv[1], sys.argv[2], float(sys.argv[3])
weights = load_file(os.path.join(directory, "a.safetensors"))
statistics = load_file(os.path.join(directory, "rows.safetensors"))
hessian = statistics["hessian/w"].astype(np.float64)
f32 = np.float32


def conditional_moments():
    h, mean = hessian.copy(), np.diag(hessian)[np.diag(hessian) > 0].mean()
    h[np.diag_indices(96)] = np.where(np.diag(h) > 0, np.diag(h), mean) + 0.01 * mean
    order = sorted(range(96), key=lambda i: (-hessian[i, i], i))
    inverse = np.linalg.inv(h[np.ix_(order, order)])
    u = np.linalg.cholesky(inverse).T
    result = np.empty(96)
    result[order] = 1 / np.diag(u) ** 2
    assert hessian[7, 7] == 0
    return np.where(np.diag(hessian) > 0, result, 0)


moments = conditional_moments()


def round_to(values, table):
    table = np.sort(np.asarray(table, f32))
    return table[np.searchsorted((table[1:] + table[:-1]) / 2, values)]


def errors_of(w, element, group):
    """Of every row, after ranges are clipped by the diagonal of the Hessian."""
    blocks = w.astype(f32).reshape(len(w), -1, group)
    importance = np.diag(hessian).astype(f32).astype(np.float64).reshape(-1, group)
    best, values = None, None
    for i in range(6):
        ratio = f32(1 - i / 10)
        if not 1 - i / 10 > 0.4 + 1e-9:
            break
        if element.startswith("uint"):
            last = 2 ** int(element[4:]) - 1
            low = np.minimum(blocks.min(2), 0) * ratio
            high = np.maximum(blocks.max(2), 0) * ratio
            scale = ((high - low) / f32(last)).astype(np.float16).astype(f32)
            zero = np.clip(np.rint(-low / scale), 0, last)[..., None]
            rounded = (np.clip(np.rint(blocks / scale[..., None] + zero), 0, last) - zero) * scale[..., None]
        else:
            codebook = re.match(r"codebook<\d, \[(.*)\]>", element)
            if codebook:
                table = [float(x) for x in codebook.group(1).split(",")]
            else:
                bits = int(element[3:])
                table = range(-(2 ** (bits - 1)), 2 ** (bits - 1))
            scale = (np.abs(blocks).max(2) * ratio / f32(max(table))).astype(np.float16).astype(f32)[..., None]
            rounded = round_to(blocks / scale, table) * scale
        error = ((rounded.astype(np.float64) - blocks) ** 2 * importance).sum(2)
        if best is None:
            best, values = error, rounded
        better = error < best
        best, values = np.where(better, error, best), np.where(better[..., None], rounded, values)
    change = values.astype(np.float64).reshape(w.shape) - w.astype(np.float64)
    return (moments * change**2).sum(1)


def parse(scheme):
    element, group = re.match(r"#quant_llm.scheme<(.*), block = \[1, (\d+)\], scale = f16", scheme).groups()
    bits = int(re.search(r"\d", element).group())
    row_bytes = -(-96 * bits // 8) + 96 // int(group) * (3 if element.startswith("uint") else 2)
    return element, int(group), row_bytes


report = json.load(open(os.path.join(directory, name + ".json")))
text = open(os.path.join(directory, name + ".mlir")).read()
orders = [[int(i) for i in order.split(", ")] for order in re.findall(r"arith.constant dense<\[(.*)\]> : tensor<\d+xi16>", text)]
total, stored, error, split = 0, 0, 0.0, 0
for weight in report["weights"]:
    (parameter,) = weight["parameters"]
    w = weights[parameter]
    fisher = statistics["row-fisher/" + parameter].astype(np.float64)
    row_weights = fisher**power * fisher.sum() / (fisher**power).sum() / np.trace(hessian)
    parts = weight["parts"]
    tables = [(parse(part["scheme"]), row_weights * errors_of(w, *parse(part["scheme"])[:2])) for part in parts]
    if len(parts) == 1:
        assert parts[0]["rows"] is None
        rows_of = [list(range(len(w)))]
    else:
        order = orders[split]
        split += 1
        assert sorted(order) == list(range(len(w)))
        ends = np.cumsum([part["rows"] for part in parts])
        rows_of = np.split(np.array(order), ends[:-1])
        stored += 2 * len(w)
    for at, (part, rows) in enumerate(zip(parts, rows_of)):
        (_, _, cost), errors = tables[at]
        assert list(rows) == sorted(rows)
        assert abs(part["error"] / errors[rows].sum() - 1) < 1e-3, (parameter, part, errors[rows].sum())
        # Nothing else of the weight is as cheap and better.
        for (_, _, other_cost), others in tables:
            if other_cost <= cost:
                assert (others[rows] >= errors[rows] * (1 - 1e-3)).all(), (parameter, part)
        stored += cost * len(rows)
        error += part["error"]
    total += w.size
assert split == len(orders) >= 1, (split, len(orders))
assert stored == report["stored_bytes"] <= report["budget"] * total / 8, (stored, report["stored_bytes"])
assert abs(report["bits_per_weight"] - 8 * stored / total) < 1e-9
assert abs(report["error"] / error - 1) < 1e-9
