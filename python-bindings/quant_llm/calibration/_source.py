# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Functions of modules as functions of PyTorch."""

import hashlib
import json
import linecache

import torch

from .. import _quant_llm
from .._check import check_source
from .._errors import QuantLLMError

_PARTS = {"whole": 0, "front": 1, "blocks": 2, "back": 3}


class Part:
    """A function of PyTorch made from a module.

    `source` is its text; `inputs` and `outputs` are dicts with "name", "id" (the
    same value has the same in all parts of a function), "shape" (-1 for dynamic
    dimensions; None for numbers), "dtype" and "slots" (of a cache, the entries
    [begin, end) that the part has of it, else None). `parameters` are the keys
    that it reads, `linears` the parameters that are weights of its linears, and
    `blocks` the indices of all blocks of the function.
    """

    def __init__(self, description):
        self.source = description["source"]
        self.inputs = description["inputs"]
        self.outputs = description["outputs"]
        self.parameters = description["parameters"]
        self.linears = description["linears"]
        self.blocks = description["blocks"]
        # Tracebacks and debuggers show the lines.
        file = f"<quant_llm {description['function']} {hashlib.sha256(self.source.encode()).hexdigest()[:12]}>"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)
        scope = {}
        exec(compile(self.source, file, "exec"), scope)
        self.function = scope[description["function"]]

    def __call__(self, *inputs, parameters, dtype=torch.float32, **others):
        """The results, always as a tuple."""
        results = self.function(*inputs, parameters=parameters, dtype=dtype, **others)
        return results if isinstance(results, tuple) else (results,)


def translate(module, *, name=None, function=None, part="whole", blocks=None, tap=False):
    """Translates a function of a module (str or bytes), or a part of it, to
    PyTorch: "whole", what is in the "front" of its blocks or at their "back", or
    the `blocks` (first, last). With `tap` the function takes an argument of this
    name, through which the input of every linear passes: `tap(weight, x)`
    returns what takes the place of x. Raises QuantLLMError."""
    if blocks is not None:
        part = "blocks"
    if part not in _PARTS or (part == "blocks" and blocks is None):
        raise QuantLLMError(f"expected a part among whole, front and back, or blocks, but got {part!r}")
    first, last = blocks if blocks is not None else (0, 0)
    return Part(json.loads(_quant_llm.translate_to_torch(check_source(module), name, function, _PARTS[part], first, last, bool(tap))))
