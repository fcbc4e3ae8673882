# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""The package's own reader and writer of safetensors, against that of others."""

import json
import os
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from quant_llm import QuantLLMError, _safetensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "it's \u00e4 \"name\"": np.array([1.5, -2], np.float16),
    "none": np.zeros((0, 4), np.int64),
    "scalar": np.array(7, np.int64),
}
NAMES = {"float32": "F32", "float16": "F16", "int64": "I64"}


def write(path, tensors, metadata=None):
    _safetensors.write(path, [(name, NAMES[t.dtype.name], t.shape, t.nbytes, t.tobytes) for name, t in tensors.items()], metadata)


def test_what_is_written_can_be_read_by_others(tmp_path):
    path = tmp_path / "t.safetensors"
    write(path, TENSORS, {"schema": "x/1"})
    read = safetensors.numpy.load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape and (read[name] == tensor).all()
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"schema": "x/1"}
    assert (8 + struct.unpack("<Q", path.read_bytes()[:8])[0]) % 64 == 0
    assert os.listdir(tmp_path) == ["t.safetensors"] and oct(path.stat().st_mode & 0o111) == "0o0"


def test_what_others_write_can_be_read(tmp_path):
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file(TENSORS, path, {"schema": "x/1"})
    entries, metadata = _safetensors.read_header(path)
    assert metadata == {"schema": "x/1"} and entries.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        entry = entries[name]
        data = bytearray(entry.size)
        _safetensors.read_into(path, entry, data)
        assert (entry.dtype, entry.shape, bytes(data)) == (NAMES[tensor.dtype.name], tensor.shape, tensor.tobytes())


def test_errors(tmp_path):
    path = tmp_path / "t.safetensors"
    with pytest.raises(QuantLLMError, match="^cannot read '.*': No such file"):
        _safetensors.read_header(path)
    write(path, TENSORS)
    good = path.read_bytes()
    entry = _safetensors.read_header(path)[0]["scalar"]
    header = json.dumps({"a": {"dtype": "F32", "shape": [2]}}).encode()
    for bad in (b"", good[:7], good[:40], struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", len(header)) + header):
        path.write_bytes(bad)
        with pytest.raises(QuantLLMError, match="is not a safetensors file$"):
            _safetensors.read_header(path)
    path.write_bytes(good[:-1])
    with pytest.raises(QuantLLMError, match="it ends too early"):
        _safetensors.read_into(path, entry, bytearray(entry.size))
    path.unlink()
    with pytest.raises(QuantLLMError, match="^cannot read '.*': No such file"):
        _safetensors.read_into(path, entry, bytearray(entry.size))
    with pytest.raises(QuantLLMError, match="^cannot write '.*': No such file"):
        write(tmp_path / "none" / "t.safetensors", TENSORS)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "interrupt"])
def test_a_file_is_complete_or_the_old_one(tmp_path, error):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"old")

    def fail():
        raise error

    with pytest.raises((QuantLLMError, KeyboardInterrupt), match="cannot write '.*': No space left" if isinstance(error, OSError) else None):
        _safetensors.write(path, [("a", "F32", (1,), 4, fail)])
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["t.safetensors"]


def test_wrong_size(tmp_path):
    with pytest.raises(QuantLLMError, match="expected 8 bytes of 'a' but got 4"):
        _safetensors.write(tmp_path / "x", [("a", "F32", (2,), 8, lambda: bytes(4))])
    assert not os.listdir(tmp_path)
