# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Imports a checkpoint and runs the module, with the tools under test."""

import os
import re
import subprocess

import numpy as np


def run_tool(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def import_model(source, module, *options):
    result = run_tool("quant-import", source, "-o", module, *options)
    assert result.returncode == 0, result.stderr
    return module


class Module:
    """The function of an imported module, with caches of a given capacity."""

    def __init__(self, path, capacity):
        self.path = path
        with open(path) as file:
            text = file.read()
        shape = re.search(r"%arg1: tensor<(\d+)x(\d+)x\?x(\d+)xf32>", text)
        layers, heads, size = map(int, shape.groups())
        self.folder = path + ".run"
        self.results = os.path.join(self.folder, "results")
        os.makedirs(self.results, exist_ok=True)
        self.keys = os.path.join(self.folder, "1.npy")
        self.values = os.path.join(self.folder, "2.npy")
        for cache in (self.keys, self.values):
            # Rows that are not written yet must not matter.
            np.save(cache, np.full((layers, heads, capacity, size), 1e3, np.float32))

    def __call__(self, tokens, position):
        """The logits of the tokens; the caches are updated."""
        result = self.run(tokens, position)
        assert result.returncode == 0, result.stderr
        os.replace(os.path.join(self.results, "1.npy"), self.keys)
        os.replace(os.path.join(self.results, "2.npy"), self.values)
        return np.load(os.path.join(self.results, "0.npy"))

    def run(self, tokens, position):
        tokens_file = os.path.join(self.folder, "tokens.npy")
        np.save(tokens_file, np.asarray(tokens, np.int64))
        return run_tool(
            "quant-run", self.path, "--function", "forward", "--input", tokens_file,
            "--input", self.keys, "--input", self.values, f"--input={position}",
            "--output", self.results, "--cache-dir", os.path.join(self.folder, "cache"),
        )
