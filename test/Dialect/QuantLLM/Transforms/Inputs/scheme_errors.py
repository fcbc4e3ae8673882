# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Errors of the weights of make_hessians.py, rounded to nearest under uintN with an integer zero and scales of f16."""

import os

import numpy as np
from safetensors.numpy import load_file


def quantize(w, bits, rows, columns):
    n, k = w.shape
    rows, columns = (n if rows < 0 else rows), (k if columns < 0 else columns)
    blocks = w.astype(np.float32).reshape(n // rows, rows, k // columns, columns)
    low, high = np.minimum(blocks.min(axis=(1, 3), keepdims=True), 0), np.maximum(blocks.max(axis=(1, 3), keepdims=True), 0)
    last = 2**bits - 1
    exact = ((high.astype(np.float64) - low) / last).astype(np.float32)
    scale = exact.astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, last)
    return ((np.clip(np.rint(blocks / scale + zero), 0, last) - zero) * scale).reshape(n, k)


class Errors:
    def __init__(self, directory):
        self.weights = load_file(os.path.join(directory, "a.safetensors"))
        self.statistics = load_file(os.path.join(directory, "fisher.safetensors"))

    def get(self, kind, name, bits, rows, columns):
        w = self.weights[name].astype(np.float64)
        d = quantize(self.weights[name], bits, rows, columns) - w
        h = self.statistics["hessian/w"].astype(np.float64)
        square = lambda a: np.einsum("ni,ij,nj->", a, h, a)
        if kind == "weight":
            return (d**2).sum()
        if kind == "fisher":
            return (d**2 * self.statistics["fisher/" + name]).sum()
        if kind == "fisher-output":
            f = self.statistics["row-fisher/" + name].astype(np.float64)
            return np.einsum("n,ni,ij,nj->", f, d, h, d) / np.trace(h)
        return square(d) / (square(w) if kind == "relative-output" else 1)
