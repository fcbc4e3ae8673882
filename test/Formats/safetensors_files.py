# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""safetensors files against the Python package, in both directions."""

import json
import random
import resource
import signal
import struct
import subprocess
import zlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

TORCH_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def raw(tensor):
    """The bytes of a tensor of any type."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def random_tensor(dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    size = torch.empty((), dtype=dtype).element_size()
    count = int(np.prod(shape)) * size
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


@pytest.fixture
def tensors():
    shapes = [(3, 5), (), (0, 4), (7,), (2, 1, 3)]
    return {
        f"{name}.{i}": random_tensor(dtype, shape, 10 * k + i)
        for k, (name, dtype) in enumerate(TORCH_TYPES.items())
        for i, shape in enumerate(shapes)
    }


def check_listing(listing, tensors):
    assert {t["name"] for t in listing["tensors"]} == set(tensors)
    for entry in listing["tensors"]:
        tensor = tensors[entry["name"]]
        assert TORCH_TYPES[entry["dtype"]] == tensor.dtype
        assert tuple(entry["shape"]) == tuple(tensor.shape)
        assert entry["crc"] == zlib.crc32(raw(tensor))


def test_reads_what_python_writes(tool, tmp_path, tensors):
    path = tmp_path / "m.safetensors"
    metadata = {"format": "pt", "text": "a\"\\\n\u00e4\U0001f600"}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    listing = tool.list(path)
    assert listing["metadata"] == metadata
    check_listing(listing, tensors)


def test_python_reads_what_we_write(tool, tmp_path, tensors):
    path, copy, again = (tmp_path / name for name in ("m.safetensors", "copy", "again"))
    metadata = {"k\u0001": "v\u00df\t\"", "a": ""}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    tool.ok("copy", path, copy)
    loaded = safetensors.torch.load_file(copy)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert raw(loaded[name]) == raw(tensor)
    with safetensors.safe_open(copy, "pt") as file:
        assert file.metadata() == metadata
    # The bytes are ours alone: a copy of the copy is the same.
    tool.ok("copy", copy, again)
    assert copy.read_bytes() == again.read_bytes()


def test_values_as_f32(tool, tmp_path):
    generator = np.random.default_rng(1)
    values = generator.standard_normal((10, 33)) * np.exp2(generator.integers(-30, 16, (10, 33)))
    tensors = {
        "f64": torch.tensor(values),
        "f32": torch.tensor(values, dtype=torch.float32),
        "f16": torch.tensor(values, dtype=torch.float16),
        "bf16": torch.tensor(values, dtype=torch.bfloat16),
    }
    safetensors.torch.save_file(tensors, tmp_path / "m")
    tool.ok("copy", tmp_path / "m", tmp_path / "f32", "f32")
    for name, tensor in safetensors.torch.load_file(tmp_path / "f32").items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[name].float()), name


def test_empty_file(tool, tmp_path):
    safetensors.torch.save_file({}, tmp_path / "m")
    assert tool.list(tmp_path / "m") == {"metadata": {}, "tensors": []}


def write_sharded(folder, shards):
    weight_map = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        safetensors.torch.save_file(tensors, folder / name)
        weight_map.update({key: name for key in tensors})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}, indent=2))
    return index


def test_sharded(tool, tmp_path, tensors):
    names = sorted(tensors)
    index = write_sharded(tmp_path, [{n: tensors[n] for n in names[i::3]} for i in range(3)])
    check_listing(tool.list(index), tensors)
    tool.ok("copy", index, tmp_path / "copy")
    loaded = safetensors.torch.load_file(tmp_path / "copy")
    assert {n: raw(t) for n, t in loaded.items()} == {n: raw(t) for n, t in tensors.items()}


def test_sharded_errors(tool, tmp_path):
    index = write_sharded(tmp_path, [{"a": torch.zeros(2)}, {"b": torch.ones(2)}])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors': No such file or directory" in tool.error("list", index)
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))
    assert 'without ".."' in tool.error("list", index)


def test_errors_leave_no_output(tool, tmp_path):
    path, out = tmp_path / "m", tmp_path / "out"
    safetensors.torch.save_file({"i": torch.zeros(2, dtype=torch.int32)}, path)
    assert "expected floating-point elements" in tool.error("copy", path, out, "f32")
    assert "No such file or directory" in tool.error("copy", tmp_path / "none", out)
    assert "No such file or directory" in tool.error("copy", path, tmp_path / "none" / "out")
    assert "but got a directory" in tool.error("copy", path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_full_disk(tool, tmp_path):
    path, out = tmp_path / "m", tmp_path / "out"
    safetensors.torch.save_file({"a": torch.zeros(1 << 20)}, path)
    out.write_bytes(b"old")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    result = subprocess.run([tool.path, "copy", path, out], preexec_fn=limit, capture_output=True)
    assert result.returncode == 1
    assert result.stderr.decode() == f"quant-formats-dump: error: cannot write '{out}': File too large\n"
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "out"]


def test_damaged_files_never_mean_something_else(tool, tmp_path):
    """What we accept of a damaged file, Python accepts too and reads alike."""
    rng = random.Random(5)
    path = tmp_path / "m"
    safetensors.numpy.save_file(
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int8)}, path
    )
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    accepted = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2))):
            data[rng.randrange(header)] = rng.choice(b'0123456789abF{}[]",: \x00\xff')
        path.write_bytes(data)
        result = tool.run("list", path)
        assert result.returncode in (0, 1)
        if result.returncode == 1:
            continue
        accepted += 1
        ours = json.loads(result.stdout)
        theirs = safetensors.numpy.load_file(path)
        assert {t["name"] for t in ours["tensors"]} == set(theirs)
        for entry in ours["tensors"]:
            array = theirs[entry["name"]]
            assert tuple(entry["shape"]) == array.shape
            assert entry["crc"] == zlib.crc32(array.tobytes())
    assert accepted > 0  # spaces and names can be replaced
