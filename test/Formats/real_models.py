# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: shared-data
# RUN: %pytest %s
"""The checkpoints beside the project, against the Python package."""

import os
import pathlib
import zlib

import pytest
from safetensors.numpy import load_file

MODELS = sorted(pathlib.Path(os.environ.get("QUANT_LLM_SHARED", ".")).glob("models/*/*.safetensors"))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_reads_alike(tool, path, tmp_path):
    expected = load_file(path)
    listing = tool.list(path)["tensors"]
    assert {t["name"]: (tuple(t["shape"]), t["crc"]) for t in listing} == {
        name: (array.shape, zlib.crc32(array.tobytes())) for name, array in expected.items()
    }
    tool.ok("copy", path, tmp_path / "copy")
    copied = load_file(tmp_path / "copy")
    assert {n: a.tobytes() for n, a in copied.items()} == {n: a.tobytes() for n, a in expected.items()}
