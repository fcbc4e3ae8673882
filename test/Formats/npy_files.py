# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
""".npy files against NumPy, in both directions."""

import numpy as np
import pytest
from numpy.lib import format as npy_format

TYPES = ["bool", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
SHAPES = [(), (1,), (5,), (2, 3, 4), (0, 3), (1,) * 20]


def array_of(dtype, shape):
    count = int(np.prod(shape))
    data = np.random.default_rng(count).integers(0, 2, count * np.dtype(dtype).itemsize, dtype=np.uint8)
    return data.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", TYPES)
def test_round_trip(tool, tmp_path, dtype):
    for i, shape in enumerate(SHAPES):
        array = array_of(dtype, shape)
        np.save(tmp_path / "in.npy", array)
        tool.ok("npy", tmp_path / "in.npy", tmp_path / "out.npy")
        loaded = np.load(tmp_path / "out.npy")
        np.testing.assert_array_equal(loaded, array, strict=True)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(tool, tmp_path, version):
    array = array_of("<f4", (3, 4))
    with open(tmp_path / "in.npy", "wb") as file:
        npy_format.write_array(file, array, version=version)
    tool.ok("npy", tmp_path / "in.npy", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array, strict=True)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3), order="F"), "Fortran order"),
        (np.zeros(2, ">f4"), "big-endian"),
        (np.zeros(2, "<c16"), "'<c16'"),
        (np.zeros(2, "<U3"), "'<U3'"),
        (np.zeros(2, [("a", "<f4"), ("b", "<i4")]), "structured arrays"),
        (np.array(["a", 1], dtype=object), "'|O'"),
    ],
)
def test_refused(tool, tmp_path, array, message):
    np.save(tmp_path / "in.npy", array, allow_pickle=True)
    assert message in tool.error("npy", tmp_path / "in.npy", tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_archives_of_arrays_are_refused(tool, tmp_path):
    np.savez(tmp_path / "in.npz", a=np.zeros(3))
    assert ".npz" in tool.error("npy", tmp_path / "in.npz", tmp_path / "out.npy")
