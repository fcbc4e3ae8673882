# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The parameters of a module as tensors of PyTorch, read when asked for."""

import torch

from .. import describe_archive, describe_module
from .._errors import QuantLLMError
from .._safetensors import read_header, read_into

_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}


class Parameters:
    """Reads parameters by the keys that translated functions use: the symbol of
    a parameter, for a quantized weight with ".codes" and so on."""

    def __init__(self, module, *, name=None):
        description = describe_module(module, name=name)
        paths = {archive["name"]: archive["path"] for archive in description["archives"]}
        self._owners = {p["name"]: (paths[p["archive"]], p["key"]) for p in description["parameters"]}
        self._archives = {}

    def __contains__(self, key):
        return self._find(key) is not None

    def _find(self, key):
        """(archive, key in it)"""
        if key in self._owners:
            return self._owners[key]
        # The components of a weight.
        for end in range(len(key) - 1, 0, -1):
            if key[end] == "." and key[:end] in self._owners:
                path, stored = self._owners[key[:end]]
                return path, stored + key[end:]
        return None

    def read(self, key, *, device=None, dtype=None):
        """The tensor; floats in `dtype` if that is given."""
        found = self._find(key)
        if found is None:
            raise QuantLLMError(f"expected a parameter of the module but got '{key}'")
        path, stored = found
        tensors = self._open(path)
        if stored not in tensors:
            raise QuantLLMError(f"'{path}' has no tensor '{stored}'")
        file, entry = tensors[stored]
        data = torch.empty(entry.size, dtype=torch.uint8)
        read_into(file, entry, memoryview(data.numpy()))
        tensor = data.view(_TYPES[entry.dtype]).reshape(entry.shape)
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() and tensor.element_size() > 1 else None)

    def load(self, keys, *, device=None, dtype=None):
        return {key: self.read(key, device=device, dtype=dtype) for key in keys}

    def _open(self, path):
        """{key: (file, Entry)} of an archive, which the library has checked."""
        if path not in self._archives:
            description = describe_archive(path)
            if description["format"] == "gguf":
                raise QuantLLMError(f"expected weights in safetensors files but '{path}' is GGUF; import the model first")
            files = description["files"]
            names = {tensor["name"] for tensor in description["tensors"]}
            tensors = {}
            for file in files if description["format"] == "safetensors" else files[1:]:
                for key, entry in read_header(file)[0].items():
                    if key in names and entry.dtype in _TYPES:
                        tensors[key] = (file, entry)
            self._archives[path] = tensors
        return self._archives[path]
