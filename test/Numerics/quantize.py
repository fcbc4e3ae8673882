# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Whole matrices against the formulas of docs/Spec.md in NumPy, with ml_dtypes for the small types."""

import subprocess

import ml_dtypes
import numpy as np
import pytest


def dump(matrix, element, block, scale, zero, rule, rounding="half_even"):
    command = ["quant-numerics-dump", "quantize", *matrix.shape, element, *block, scale, zero, rule, rounding]
    result = subprocess.run([str(part) for part in command], input=matrix.tobytes(), capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def unpack(codes, bits, columns):
    """Rows of bytes to codes: bit i of a row is bit i % 8 of byte i / 8."""
    string = np.unpackbits(codes, axis=1, bitorder="little")
    assert not string[:, columns * bits :].any()
    string = string[:, : columns * bits].reshape(len(codes), columns, bits)
    return (string << np.arange(bits)).sum(2)


def blocks(matrix, block):
    """Slices of the blocks, row by row."""
    rows, columns = (size if b == -1 else b for b, size in zip(block, matrix.shape))
    for row in range(0, matrix.shape[0], rows):
        for column in range(0, matrix.shape[1], columns):
            yield np.s_[row : row + rows, column : column + columns]


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(0.02)


BLOCKS = [(1, 64), (1, -1), (1, 50), (-1, 1), (-1, -1), (4, 33)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("rule", ["absmax", "absmax_full"])
def test_symmetric_integers(bits, block, rule):
    matrix = normal((9, 150))
    stored = dump(matrix, f"int{bits}", block, "f16", "none", rule)
    row_bytes = (150 * bits + 7) // 8
    codes = unpack(np.frombuffer(stored, np.uint8, 9 * row_bytes).reshape(9, -1), bits, 150)
    codes = np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
    count = len(list(blocks(matrix, block)))
    scales = np.frombuffer(stored, np.float16, count, 9 * row_bytes)
    values = np.frombuffer(stored, np.float32, offset=9 * row_bytes + 2 * count).reshape(matrix.shape)
    divisor = np.float32((1 << (bits - 1)) - (rule == "absmax"))
    for where, scale in zip(blocks(matrix, block), scales):
        assert scale == np.float16(np.abs(matrix[where]).max() / divisor)
        wide = np.float32(scale)
        wanted = np.clip(np.rint(matrix[where] / wide), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        np.testing.assert_array_equal(codes[where], wanted)
        np.testing.assert_array_equal(values[where], wide * wanted.astype(np.float32))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("zero", ["int", "f16"])
def test_asymmetric_integers(bits, block, zero):
    matrix = normal((9, 150), 1) + np.float32(0.01)
    stored = dump(matrix, f"uint{bits}", block, "f16", zero, "minmax")
    row_bytes = (150 * bits + 7) // 8
    codes = unpack(np.frombuffer(stored, np.uint8, 9 * row_bytes).reshape(9, -1), bits, 150)
    count = len(list(blocks(matrix, block)))
    scales = np.frombuffer(stored, np.float16, count, 9 * row_bytes)
    kind = np.uint8 if zero == "int" else np.float16
    zeros = np.frombuffer(stored, kind, count, 9 * row_bytes + 2 * count).astype(np.float32)
    offset = 9 * row_bytes + count * (2 + kind().itemsize)
    values = np.frombuffer(stored, np.float32, offset=offset).reshape(matrix.shape)
    largest = (1 << bits) - 1
    for where, scale, z in zip(blocks(matrix, block), scales, zeros):
        low, high = np.float64(matrix[where].min()), np.float64(matrix[where].max())
        if zero == "int":
            low, high = min(low, 0.0), max(high, 0.0)
        assert scale == np.float16(np.float32((high - low) / largest))
        wide = np.float32(scale)
        if wide == 0:  # one element without extension to 0
            np.testing.assert_array_equal(values[where], z)
            continue
        if zero == "int":
            assert z == np.clip(np.rint(-np.float32(low) / wide), 0, largest)
            wanted = np.clip(np.rint(matrix[where] / wide + z), 0, largest).astype(np.float32)
            np.testing.assert_array_equal(values[where], wide * (wanted - z))
        else:
            assert z == np.float32(np.float16(low))
            wanted = np.clip(np.rint((matrix[where] - z) / wide), 0, largest).astype(np.float32)
            np.testing.assert_array_equal(values[where], wide * wanted + z)
        np.testing.assert_array_equal(codes[where], wanted)


@pytest.mark.parametrize(
    "element, kind, emax",
    [
        ("f4E2M1FN", ml_dtypes.float4_e2m1fn, 2),
        ("f6E2M3FN", ml_dtypes.float6_e2m3fn, 2),
        ("f6E3M2FN", ml_dtypes.float6_e3m2fn, 4),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn, 8),
        ("f8E5M2", ml_dtypes.float8_e5m2, 15),
    ],
)
def test_microscaling(element, kind, emax):
    matrix = normal((8, 96), 2)
    stored = dump(matrix, element, (1, 32), "f8E8M0FNU", "none", "absmax")
    bits = ml_dtypes.finfo(kind).bits
    scales = np.frombuffer(stored, np.uint8, 8 * 3, 8 * 96 * bits // 8).reshape(8, 3)
    groups = matrix.reshape(8, 3, 32)
    exponent = np.floor(np.log2(np.abs(groups).max(2))).astype(int) - emax
    np.testing.assert_array_equal(scales, exponent + 127)
    scale = np.exp2(exponent.astype(np.float32))[:, :, None]
    largest = np.float32(ml_dtypes.finfo(kind).max)
    wanted = np.clip(groups / scale, -largest, largest).astype(kind)
    values = np.frombuffer(stored, np.float32, 8 * 96, len(stored) - 8 * 96 * 4)
    np.testing.assert_array_equal(values, (wanted.astype(np.float32) * scale).ravel())
    codes = unpack(np.frombuffer(stored, np.uint8, 8 * 96 * bits // 8).reshape(8, -1), bits, 96)
    np.testing.assert_array_equal(codes, wanted.view(np.uint8).reshape(8, 96))


def test_nvfp4():
    matrix = normal((8, 64), 3)
    stored = dump(matrix, "f4E2M1FN", (1, 16), "f8E4M3FN:-1:-1:f32", "none", "absmax")
    groups = matrix.reshape(8, 4, 16)
    raw = (np.abs(groups).max(2).astype(np.float64) / 6).astype(np.float32)
    tensor = (raw.max().astype(np.float64) / 448).astype(np.float32)
    scale = (np.clip(raw / tensor, 0, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * tensor)[:, :, None]
    values = np.clip(groups / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale
    np.testing.assert_array_equal(np.frombuffer(stored, np.float32, 512, len(stored) - 2048), values.ravel())
    assert len(stored) == 256 + 32 + 4 + 2048


def test_nf4_with_double_quantization():
    matrix = normal((8, 256), 4)
    stored = dump(matrix, "nf4", (1, 64), "f8E4M3FN:8:-1:f32", "none", "absmax")
    assert len(stored) == 1024 + 32 + 4 + 8192
    values = np.frombuffer(stored, np.float32, 2048, len(stored) - 8192).reshape(matrix.shape)
    error = np.linalg.norm(values - matrix) / np.linalg.norm(matrix)
    assert 0.05 < error < 0.12


def test_bad_input_is_an_error():
    matrix = normal((2, 3), 5)
    matrix[1, 2] = np.nan
    command = "quant-numerics-dump quantize 2 3 int4 1 -1 f16 none absmax half_even".split()
    result = subprocess.run(command, input=matrix.tobytes(), capture_output=True)
    assert result.returncode == 1
    assert b"tensor 'stdin' has nan at row 1, column 2" in result.stderr
