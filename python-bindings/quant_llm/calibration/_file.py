# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calibration files: safetensors, written tensor by tensor."""

import json
import os
import struct
import tempfile

import numpy as np

from .._errors import QuantLLMError

SCHEMA = "quant_llm.calibration/1"

_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16", "float64": "F64"}
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}


def read_header(path):
    """({name: (type, shape, first byte, bytes)}, metadata)"""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        return {
            name: (_TYPES[e["dtype"]], e["shape"], 8 + length + e["data_offsets"][0], e["data_offsets"][1] - e["data_offsets"][0])
            for name, e in header.items()
        }, metadata
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise QuantLLMError(f"'{path}' is not a safetensors file of ours") from None


def read_tensor(path, entry):
    kind, shape, begin, count = entry
    with open(path, "rb") as file:
        file.seek(begin)
        data = file.read(count)
    if len(data) != count:
        raise QuantLLMError(f"'{path}' ends too early")
    return np.frombuffer(bytearray(data), dtype=kind).reshape(shape)


def write_tensors(path, tensors, metadata=()):
    """Writes {name: array, or (type, shape, function that returns the array)};
    the file appears complete or not at all."""
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = dict(metadata)
    for name, tensor in tensors.items():
        kind, shape = (tensor.dtype, tensor.shape) if isinstance(tensor, np.ndarray) else tensor[:2]
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        header[name] = {"dtype": _NAMES[kind.name], "shape": list(shape), "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header, sort_keys=False).encode()
    text += b" " * (-(8 + len(text)) % 64)
    directory = os.path.dirname(os.path.abspath(path))
    try:
        descriptor, staging = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    except OSError as error:
        raise QuantLLMError(f"cannot write '{path}': {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors.values():
                array = tensor if isinstance(tensor, np.ndarray) else tensor[2]()
                file.write(np.ascontiguousarray(array).tobytes())
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(staging, 0o666 & ~mask)
        os.replace(staging, path)
    except OSError as error:
        raise QuantLLMError(f"cannot write '{path}': {error.strerror}") from None
    finally:
        if os.path.exists(staging):
            os.remove(staging)


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
            own |= {s for s in self.statistics(self.aliases[parameter]) if s != "fisher"}
        return sorted(own)

    def read(self, statistic, parameter):
        """An array. Raises QuantLLMError if it is not in the file."""
        name = f"{statistic}/{parameter}"
        if name not in self._tensors and statistic != "fisher":
            name = f"{statistic}/{self.aliases.get(parameter)}"
        if name not in self._tensors:
            raise QuantLLMError(f"'{self.path}' has no statistic '{statistic}' of '{parameter}'")
        return read_tensor(self.path, self._tensors[name])
