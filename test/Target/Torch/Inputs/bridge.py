# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Translates modules to PyTorch and loads the functions, with the tools under
test."""

import re
import subprocess

import torch
from safetensors.torch import load_file

BLOCKS = "builtin.module(convert-linalg-to-quant-llm,func.func(quant-llm-form-blocks))"


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def optimize(module, output, pipeline):
    run("quant-opt", module, f"--pass-pipeline={pipeline}", "-o", output)
    return output


def translate(module, *options):
    """The function that quant-translate makes of a module."""
    text = run("quant-translate", "--mlir-to-torch", module, *options)
    scope = {}
    exec(compile(text, "translated", "exec"), scope)
    function = scope[re.search(r"\ndef (\w+)\([^\n]*parameters", text)[1]]
    function.text = text
    return function


def load_parameters(path):
    return load_file(path)


def new_caches(module, capacity, dtype=torch.float32):
    with open(module) as file:
        layers, heads, size = map(int, re.search(r"%arg1: tensor<(\d+)x(\d+)x\?x(\d+)xf32>", file.read()).groups())
    # Rows that are not written yet must not matter.
    return [torch.full((layers, heads, capacity, size), 1e3, dtype=dtype) for _ in range(2)]


def relative_error(actual, expected):
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).norm() / expected.norm())
