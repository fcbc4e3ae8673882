# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""safetensors files, for what is simpler or must be possible without the
compiler. Standard library only. Files of others are checked by the compiler or
the runtime before they come here."""

import contextlib
import json
import os
import struct
import tempfile
from typing import NamedTuple

from ._errors import QuantLLMError


class Entry(NamedTuple):
    """Where a tensor is: `dtype` is a name of the format, `begin` and `size` are
    bytes of the file."""

    dtype: str
    shape: tuple
    begin: int
    size: int


def read_header(path):
    """({name: Entry}, metadata). Raises QuantLLMError."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > os.fstat(file.fileno()).st_size:
                raise ValueError
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        entries = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            entries[name] = Entry(entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
        return entries, metadata
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise QuantLLMError(f"'{path}' is not a safetensors file") from None


def read_into(path, entry, buffer):
    """Reads the bytes of a tensor into a writable buffer of that size."""
    try:
        with open(path, "rb") as file:
            file.seek(entry.begin)
            count = file.readinto(buffer) if entry.size else 0
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    if count != entry.size:
        raise QuantLLMError(f"cannot read '{path}': it ends too early")


def write(path, tensors, metadata=None):
    """Writes a file of (name, dtype, shape, size in bytes, function that returns
    the bytes), one tensor after the other; the data begin at a multiple of 64
    bytes. It appears complete or not at all. Raises QuantLLMError."""
    header, offset = {"__metadata__": dict(metadata)} if metadata else {}, 0
    for name, dtype, shape, size, _ in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with _replaced(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, size, data in tensors:
            content = memoryview(data())
            if content.nbytes != size:
                raise QuantLLMError(f"cannot write '{path}': expected {size} bytes of '{name}' but got {content.nbytes}")
            file.write(content)


@contextlib.contextmanager
def _replaced(path):
    """A new file that gets its name when the block ends."""
    staging = None
    try:
        descriptor, staging = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(os.path.abspath(path)))
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(staging, 0o666 & ~mask)
        os.replace(staging, path)
    except OSError as error:
        raise QuantLLMError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        if staging and os.path.exists(staging):
            os.remove(staging)
