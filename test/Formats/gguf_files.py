# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""GGUF files of the Python package: metadata and exact dequantization."""

import math
import zlib

import gguf
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from gguf import GGMLQuantizationType as T
from gguf import quants

READABLE = [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1]
BLOCKS = ("Q8_0", "Q4_0", "Q4_1")


def data_of(generator, shape, dtype):
    values = (generator.standard_normal(shape) * np.exp2(generator.integers(-12, 8, shape))).astype(np.float32)
    return quants.quantize(values, dtype)


def raw_blocks(generator, rows, dtype):
    """Blocks of random bits, with finite scales, that no quantizer would write."""
    data = generator.integers(0, 256, (rows, 3 * gguf.GGML_QUANT_SIZES[dtype][1]), dtype=np.uint8)
    size = gguf.GGML_QUANT_SIZES[dtype][1]
    data[:, 1::size] &= 0xBB
    data[:, 3::size] &= 0xBB
    return data


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    generator = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("x.u8", 255)
    writer.add_int8("x.i8", -128)
    writer.add_uint16("x.u16", 65535)
    writer.add_int16("x.i16", -32768)
    writer.add_uint32("x.u32", 2**32 - 1)
    writer.add_int32("x.i32", -(2**31))
    writer.add_uint64("x.u64", 2**64 - 1)
    writer.add_int64("x.i64", -(2**63))
    writer.add_float32("x.f32", 1e-5)
    writer.add_float64("x.f64", math.pi)
    writer.add_bool("x.bool", True)
    writer.add_string("x.text", "a\"\\\n\u00e4\U0001f600")
    writer.add_array("x.strings", ["", "b\u0120", "<0x0A>"])
    writer.add_array("x.ints", [1, -2, 3])
    writer.add_array("x.floats", [0.5, -1e30])
    writer.add_array("x.bools", [True, False])
    writer.add_custom_alignment(64)
    tensors = {}
    for dtype in READABLE:
        for shape in ((3, 96), (2, 5, 64), (32,)):
            name = f"{dtype.name}.{len(shape)}"
            data = data_of(generator, shape, dtype)
            tensors[name] = (data, dtype, shape)
        if dtype.name in BLOCKS:
            tensors[f"{dtype.name}.raw"] = (raw_blocks(generator, 50, dtype), dtype, (50, 96))
    for name, (data, dtype, shape) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors


def test_metadata(tool, model):
    path, _ = model
    ours = tool.list(path)["metadata"]
    reader = gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(ours) == list(theirs)
    assert ours == theirs
    assert ours["x.f32"] == float(np.float32(1e-5))
    assert ours["general.alignment"] == 64


def test_listing(tool, model):
    path, tensors = model
    listing = {t["name"]: t for t in tool.list(path)["tensors"]}
    assert set(listing) == set(tensors)
    for name, (data, dtype, shape) in tensors.items():
        entry = listing[name]
        assert tuple(entry["shape"]) == shape
        if dtype.name in BLOCKS:
            assert (entry["dtype"], entry["block"]) == ("F16", dtype.name)
            with np.errstate(over="ignore"):
                data = quants.dequantize(data, dtype).astype(np.float16)
        else:
            assert (entry["dtype"], entry["block"]) == (dtype.name, "")
        assert entry["crc"] == zlib.crc32(data.tobytes())


def test_dequantized_values_are_those_of_the_package(tool, model, tmp_path):
    path, tensors = model
    tool.ok("copy", path, tmp_path / "f32", "f32")
    tool.ok("copy", path, tmp_path / "own")
    as_f32 = safetensors.numpy.load_file(tmp_path / "f32")
    own = safetensors.torch.load_file(tmp_path / "own")  # NumPy has no bf16
    for name, (data, dtype, shape) in tensors.items():
        expected = quants.dequantize(data, dtype)
        assert as_f32[name].shape == shape
        np.testing.assert_array_equal(as_f32[name], expected, strict=True)
        if dtype.name in BLOCKS:
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(own[name].numpy(), expected.astype(np.float16), strict=True)
        else:
            np.testing.assert_array_equal(own[name].float().numpy(), expected, strict=True)


def write_one(path, dtype, data, **kwargs):
    writer = gguf.GGUFWriter(path, "llama", **kwargs)
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", [t for t in T if t not in READABLE], ids=lambda t: t.name)
def test_other_types_are_named(tool, tmp_path, dtype):
    plain = {T.I8: np.int8, T.I16: np.int16, T.I32: np.int32, T.I64: np.int64, T.F64: np.float64}
    if dtype in plain:
        data = np.zeros((2, 4), plain[dtype])
    else:
        data = np.zeros((2, gguf.GGML_QUANT_SIZES[dtype][1]), np.uint8)
    write_one(tmp_path / "m", dtype, data)
    message = tool.error("copy", tmp_path / "m", tmp_path / "out")
    assert f"tensor 'blk.0.ffn_up.weight' has ggml type {dtype.name}, which is not supported" in message
    assert not (tmp_path / "out").exists()


def test_big_endian_is_refused(tool, tmp_path):
    write_one(tmp_path / "m", T.F32, np.zeros((2, 2), np.float32), endianess=gguf.GGUFEndian.BIG)
    assert "big-endian GGUF files are not supported" in tool.error("list", tmp_path / "m")


def test_every_truncation_is_refused(tool, tmp_path, model):
    path, _ = model
    whole = path.read_bytes()
    for size in [0, 3, 4, 23, 24, *range(30, len(whole), len(whole) // 40), len(whole) - 64]:
        (tmp_path / "m").write_bytes(whole[:size])
        tool.error("list", tmp_path / "m")
