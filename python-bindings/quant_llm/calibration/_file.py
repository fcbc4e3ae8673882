# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calibration files: safetensors, written tensor by tensor."""

import json
import math
import os

import numpy as np

from .._calibrate import OF_WEIGHTS
from .._errors import QuantLLMError
from .._safetensors import read_header, read_into, write

SCHEMA = "quant_llm.calibration/1"
# What linears with the same input have each their own of.
UNSHARED = (*OF_WEIGHTS, "residual-drift")

_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16", "float64": "F64"}
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}


def read_tensor(path, entry):
    data = bytearray(entry.size)
    read_into(path, entry, data)
    try:
        return np.frombuffer(data, dtype=_TYPES[entry.dtype]).reshape(entry.shape)
    except (KeyError, ValueError):
        raise QuantLLMError(f"'{path}' is not a safetensors file of ours") from None


def write_tensors(path, tensors, metadata=None):
    """Writes {name: array, or (type, shape, function that returns the array)};
    the file appears complete or not at all."""
    entries = []
    for name, tensor in tensors.items():
        dtype, shape, get = tensor if isinstance(tensor, tuple) else (_NAMES[tensor.dtype.name], tensor.shape, lambda tensor=tensor: tensor)
        size = math.prod(shape) * _TYPES[dtype].itemsize
        entries.append((name, dtype, shape, size, lambda get=get: np.ascontiguousarray(get()).reshape(-1).view(np.uint8)))
    write(path, entries, metadata)


class CalibrationFile:
    """Reads a calibration file; that of C++ checks more."""

    def __init__(self, path):
        self.path = os.fspath(path)
        self._tensors, self.metadata = read_header(self.path)
        if self.metadata.get("schema") != SCHEMA:
            raise QuantLLMError(f"'{path}' is no calibration file: expected the schema {SCHEMA} but got {self.metadata.get('schema')}")
        self.aliases = json.loads(self.metadata.get("aliases", "{}"))

    @property
    def parameters(self):
        return sorted({name.partition("/")[2] for name in self._tensors} | set(self.aliases))

    def statistics(self, parameter):
        """The statistics that are known of a parameter, sorted."""
        own = {name.partition("/")[0] for name in self._tensors if name.partition("/")[2] == parameter}
        if parameter in self.aliases:
            own |= {s for s in self.statistics(self.aliases[parameter]) if s not in UNSHARED}
        return sorted(own)

    def read(self, statistic, parameter):
        """An array. Raises QuantLLMError if it is not in the file."""
        name = f"{statistic}/{parameter}"
        if name not in self._tensors and statistic not in UNSHARED:
            name = f"{statistic}/{self.aliases.get(parameter)}"
        if name not in self._tensors:
            raise QuantLLMError(f"'{self.path}' has no statistic '{statistic}' of '{parameter}'")
        return read_tensor(self.path, self._tensors[name])
