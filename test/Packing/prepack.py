# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""quant-llm-prepack against the packed layout of docs/Weights.md, written a second time in NumPy."""

import json
import math
import random
import subprocess

import ml_dtypes
import numpy as np
import pytest

# Scale and zero types: NumPy type and name in an archive.
FLOATS = {
    "f16": (np.float16, "F16"),
    "bf16": (ml_dtypes.bfloat16, "BF16"),
    "f32": (np.float32, "F32"),
    "f8E4M3FN": (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
    "f8E8M0FNU": (ml_dtypes.float8_e8m0fnu, "F8_E8M0"),
}
# Bits, and the code of value 0.
ELEMENTS = {
    "ternary": (2, 0),
    "f4E2M1FN": (4, 0),
    "f6E2M3FN": (6, 0),
    "f6E3M2FN": (6, 0),
    "f8E4M3FN": (8, 0),
    "f8E5M2": (8, 0),
    "nf4": (4, 7),
    "codebook<3, [-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]>": (3, 4),
    "codebook<1, [-1.0, 1.0]>": (1, 0),
    **{f"int{bits}": (bits, 0) for bits in range(1, 9)},
    **{f"uint{bits}": (bits, 0) for bits in range(1, 9)},
}


# ---------------------------------------------------------------------------
# Archives
# ---------------------------------------------------------------------------


def write_archive(path, tensors):
    """tensors: name -> (type, array)."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        stored = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_archive(path):
    """name -> (type, shape, bytes), and the first byte of each in the file."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    tensors, offsets = {}, {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = entry["dtype"], tuple(entry["shape"]), data[begin + first : begin + last]
        offsets[name] = begin + first
    return tensors, offsets


def pack_rows(codes, bits):
    """Canonical storage of codes [N, K]: each row a bit string, least significant bit first."""
    string = (codes[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(string.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little")


# ---------------------------------------------------------------------------
# The layout
# ---------------------------------------------------------------------------


def pack_codes(stored, bits):
    """Stored codes [16 S, 128 U] to bytes [S, U, 256 * bits], bit by bit."""
    strips, units = stored.shape[0] // 16, stored.shape[1] // 128
    n, k = np.indices(stored.shape)
    g, column = n % 8, k % 128
    j, c, e = column // 16, column % 8 // 2, column % 2
    r = n % 16 // 8 + 2 * (column % 16 // 8)
    lane = 4 * g + c
    out = np.zeros((strips, units, 256 * bits * 8), np.uint8)
    shift = 0
    for w in [8] if bits == 8 else [w for w in (4, 2, 1) if bits & w]:
        if w == 8:
            i, first = 2 * j + (r >> 1), 3 + 8 * (r & 1) + 16 * e
        else:
            slot = 4 * (j % (4 // w)) + r
            i, first = j // (4 // w), 7 - w * (slot & 1) + 2 * w * (slot >> 1) + 16 * e
        v = min(4, 2 * w)
        byte = 256 * shift + ((i // v) * 32 + lane) * 4 * v + 4 * (i % v)
        for bit in range(w):
            out[n // 16, k // 128, 8 * byte + (first + bit) % 32] = (stored >> (shift + bit)) & 1
        shift += w
    return np.packbits(out, axis=2, bitorder="little")


def expand(grid, case, fill):
    """A grid of blocks to [S, G, 16], or to one entry for each padded column."""
    n, k = case.shape
    if case.has_column_scales():
        columns = np.full(128 * math.ceil(k / 128), fill, grid.dtype)
        columns[:k] = grid[0, np.arange(k) // case.block_k]
        return columns
    rows = np.full((64 * math.ceil(n / 64), grid.shape[1]), fill, grid.dtype)
    rows[:n] = grid[np.arange(n) // case.block_n]
    result = np.empty((len(rows) // 16, grid.shape[1], 16), grid.dtype)
    for row in range(16):
        result[:, :, 2 * (row % 8) + row // 8] = rows[row::16]
    return result


class Case:
    """A stored weight under a random scheme."""

    def __init__(self, seed):
        pick = random.Random(seed)
        rng = np.random.default_rng(seed)
        while True:
            self.shape = n, k = pick.choice([1, 17, 64, 100]), pick.choice([1, 17, 64, 172, 576])
            self.element = pick.choice(list(ELEMENTS))
            self.bits, self.zero_code = ELEMENTS[self.element]
            self.block = pick.choice([1, 1, 2, 16, -1]), pick.choice([16, 24, 64, 128, -1, 1, 3])
            self.block_n, self.block_k = (size if b < 0 else min(b, size) for b, size in zip(self.block, self.shape))
            self.grid = -(-n // self.block_n), -(-k // self.block_k)
            self.scale = pick.choice(list(FLOATS))
            self.inner = pick.choice([None, None, ("f8E4M3FN", (-1, -1)), ("f8E4M3FN", (1, -1)), ("uint6", (1, 2))])
            self.zero = pick.choice([None, None, "int", "f16", "bf16", "f32", "f8E4M3FN"])
            if self.zero == "int" and not self.element.startswith("uint"):
                continue
            # A block of zeros needs a zero, and absmax a positive value.
            if self.zero is None and (self.element == "int1" or "[-1.0, 1.0]" in self.element and self.scale == "f8E8M0FNU"):
                continue
            if seed == 0 and (self.element, self.scale, self.inner) != ("f8E5M2", "f8E4M3FN", None):
                continue
            if self.grid[1] == 1 or self.block_k >= 16 or self.grid[0] == 1:
                break

        def floats(kind, shape):
            # Few bits: exact after any division.
            values = (4 + rng.integers(0, 4, shape)) / 4 * 2.0 ** rng.integers(-4, 2, shape)
            if kind != "f8E8M0FNU":
                values *= rng.choice([-1, 1, 1, 1], shape)
            else:
                values = 2.0 ** rng.integers(-4, 2, shape)
            return values.astype(FLOATS[kind][0])

        self.codes = rng.integers(0, 1 << self.bits, self.shape).astype(np.uint8)
        self.tensors = {"codes": ("U8", pack_rows(self.codes, self.bits))}
        if self.inner:
            element, block = self.inner
            bits = 8 if element == "f8E4M3FN" else 6
            self.scale_codes = rng.integers(0, 64, self.grid).astype(np.uint8)
            inner_grid = [1 if b < 0 else -(-size // b) for b, size in zip(block, self.grid)]
            self.scales = floats(self.scale, inner_grid)
            self.tensors["scales.codes"] = "U8", pack_rows(self.scale_codes, bits)
            self.tensors["scales.scales"] = FLOATS[self.scale][1], self.scales
        else:
            self.scales = floats(self.scale, self.grid)
            self.tensors["scales"] = FLOATS[self.scale][1], self.scales
        if self.zero == "int":
            self.zeros = rng.integers(0, 1 << self.bits, self.grid).astype(np.uint8)
            self.tensors["zeros"] = "U8", self.zeros
        elif self.zero:
            self.zeros = floats(self.zero, self.grid)
            self.tensors["zeros"] = FLOATS[self.zero][1], self.zeros

    def has_column_scales(self):
        return self.grid[1] > 1 and self.block_k < 16

    def type(self):
        scale = self.scale
        if self.inner:
            element, block = self.inner
            scale = f"#quant_llm.scheme<{element}, block = {list(block)}, scale = {scale}>"
        zero = f", zero = {self.zero}, rule = minmax" if self.zero else ""
        scheme = f"#quant_llm.scheme<{self.element}, block = {list(self.block)}, scale = {scale}{zero}>"
        return f"!quant_llm.weight<{self.shape[0]}x{self.shape[1]}xf16, {scheme}>"

    def pack(self):
        """The packed components: name -> (type, array)."""
        n, k = self.shape
        flip = 1 << (self.bits - 1) if self.element.startswith("int") or self.element == "ternary" else 0
        stored = np.full((64 * math.ceil(n / 64), 128 * math.ceil(k / 128)), self.zero_code ^ flip, np.uint8)
        if self.zero == "int" and not self.has_column_scales():
            stored[:n] = self.zeros[np.arange(n) // self.block_n, -1:]
        stored[:n, :k] = self.codes ^ flip
        packed = {"packed": ("U8", pack_codes(stored, self.bits))}

        scales, kind, output_scale = self.scales, self.scale, 1.0
        if self.inner:
            element, block = self.inner
            if block == (-1, -1) and element == "f8E4M3FN" and self.zero in (None, "int"):
                output_scale = float(scales[0, 0])
                scales, kind = self.scale_codes.view(ml_dtypes.float8_e4m3fn), "f8E4M3FN"
            else:
                values = self.scale_codes.astype(np.float32)
                if element == "f8E4M3FN":
                    values = self.scale_codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
                row, column = np.indices(self.grid)
                column = column * 0 if block[1] < 0 else column // block[1]
                row = row * 0 if block[0] < 0 else row // block[0]
                scales, kind = scales.astype(np.float32)[row, column] * values, "f32"
        if kind == "f8E4M3FN" and not self.inner and self.element == "f8E5M2":
            kind = "f16"
        if kind != "f8E4M3FN":
            largest = float(np.abs(scales.astype(np.float64)).max())
            output_scale = 2.0 ** (math.frexp(largest)[1] + 6) if largest else 1.0
            assert not largest or 2.0**-7 <= largest / output_scale < 2.0**-6
            scales = (scales.astype(np.float64) / output_scale).astype(FLOATS[kind][0])
        packed["packed_scales"] = FLOATS[kind][1], expand(scales.view(np.uint8 if scales.itemsize == 1 else scales.dtype), self, 0)
        if self.zero == "int":
            packed["packed_zeros"] = "U8", expand(self.zeros, self, 0)
        elif self.zero:
            zero = "f16" if self.zero == "f8E4M3FN" else self.zero
            divisor = output_scale if kind != "f8E4M3FN" else 1.0
            zeros = (self.zeros.astype(np.float64) / divisor).astype(FLOATS[zero][0])
            packed["packed_zeros"] = FLOATS[zero][1], expand(zeros, self, 0)
        packed["output_scale"] = "F32", np.float32(output_scale)
        return packed


# ---------------------------------------------------------------------------
# Tests
# ---------------------------------------------------------------------------

CASES = [Case(seed) for seed in range(160)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepack")
    write_archive(
        directory / "q.safetensors",
        {f"w{i}.{name}": tensor for i, case in enumerate(CASES) for name, tensor in case.tensors.items()},
    )
    lines = ['quant_llm.archive @q "q.safetensors"']
    for i, case in enumerate(CASES):
        n, k = case.shape
        lines += [
            f"quant_llm.parameter @w{i} from @q : {case.type()}",
            f"func.func @f{i}(%x: tensor<?x{k}xf16>) -> tensor<?x{n}xf16> {{",
            f"  %w = quant_llm.get_parameter @w{i} : {case.type()}",
            f"  %y = quant_llm.linear %x, %w : (tensor<?x{k}xf16>, {case.type()}) -> tensor<?x{n}xf16>",
            f"  return %y : tensor<?x{n}xf16>",
            "}",
        ]
    (directory / "q.mlir").write_text("\n".join(lines) + "\n")
    command = ["quant-opt", "q.mlir", "-quant-llm-prepack=output=p.safetensors", "-quant-llm-verify-stage=check-archives", "-o", "p.mlir"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return read_archive(directory / "p.safetensors")


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index].type())
def test_packed_components(archives, index):
    tensors, offsets = archives
    wanted = CASES[index].pack()
    found = {name.split(".", 1)[1] for name in tensors if name.startswith(f"w{index}.")}
    assert found == set(wanted)
    for name, (dtype, array) in wanted.items():
        stored_type, shape, data = tensors[f"w{index}.{name}"]
        assert stored_type == dtype, name
        assert shape == array.shape, name
        if data != array.tobytes():
            stored = np.frombuffer(data, array.dtype).reshape(array.shape)
            where = np.argwhere(stored != array)[0]
            pytest.fail(f"{name}{list(where)}: expected {array[tuple(where)]} but got {stored[tuple(where)]}")
        if name != "output_scale":
            assert offsets[f"w{index}.{name}"] % 64 == 0, name


def test_cases_cover_the_layout():
    assert {case.bits for case in CASES} == set(range(1, 9))
    assert {case.element for case in CASES} == set(ELEMENTS)
    assert {case.zero for case in CASES} == {None, "int", "f16", "bf16", "f32", "f8E4M3FN"}
    assert {case.inner is None for case in CASES} == {True, False}
    assert {case.has_column_scales() for case in CASES} == {True, False}
