# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && %python %src_root/test/Integration/CUDA/fake_gpu.py --artifact %t
# RUN: env QUANT_LLM_TEST_ARTIFACT=%t QUANT_LLM_CUDA_DRIVER=%lib_dir/libquant-llm-fake-cuda.so %pytest %s
"""The GPU runtime from Python, on a driver that computes on the host."""

import ctypes
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from quant_llm import QuantLLMError, gpu

ARTIFACT = os.environ["QUANT_LLM_TEST_ARTIFACT"]
N, K, GROUP = 72, 200, 32


def aligned(array):
    """A copy that begins at a multiple of 16 bytes."""
    memory = np.zeros(array.nbytes + 16, np.uint8)
    begin = -memory.ctypes.data % 16
    view = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def pair(array):
    return (array.ctypes.data, array.nbytes)


def read_tensors(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        data = file.read()
    types = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()}


def dense_weight():
    """The canonical weight in float64 (docs/Spec.md)."""
    tensors = read_tensors(os.path.join(ARTIFACT, "weights.safetensors"))
    codes = np.stack([tensors["w.codes"] & 15, tensors["w.codes"] >> 4], -1).reshape(N, -1)[:, :K].astype(np.int64)
    values = np.where(codes >= 8, codes - 16, codes)
    return values * np.repeat(tensors["w.scales"].astype(np.float64), GROUP, 1)[:, :K]


@pytest.fixture
def artifact():
    return gpu.Artifact(ARTIFACT)


def test_artifact(artifact):
    (linear,) = artifact.linears
    assert artifact.chip == "sm_90a" and artifact.weight_bytes > N * K // 2
    assert (linear.name, linear.n, linear.k, linear.activation, linear.output, linear.num_weights) == ("layer", N, K, "f16", "f16", 1)
    assert linear.scheme.startswith("int4, block = [1, 32], scale = f16")
    assert (linear.num_experts, linear.offsets) == (0, "")
    assert linear.epilogue == () and linear.variants == (gpu.Variant(1, 100, "product"),)
    assert linear.weight_bytes == (8 * 2 * 1024, 8 * 7 * 16 * 2, 0)
    assert artifact.find("layer") is linear
    assert gpu.Artifact(os.path.join(ARTIFACT, "manifest.json").encode()).linears == artifact.linears
    with pytest.raises(gpu.GPUError, match="expected the name of a linear of .* but got 'other'") as info:
        artifact.find("other")
    assert info.value.kind == "argument" and isinstance(info.value, QuantLLMError)


@pytest.mark.parametrize("own", [False, True])
def test_launch(artifact, own):
    module = gpu.Module(artifact, without_weights=own)
    assert module.device_name == "Fake GPU"
    weights = None
    if own:
        tensors = {name: aligned(value) for name, value in read_tensors(os.path.join(ARTIFACT, "packed.safetensors")).items()}
        weights = [gpu.Weight(pair(tensors["w.packed"]), pair(tensors["w.packed_scales"]), (0, 0), float(tensors["w.output_scale"]))]
    plan = module.plan("layer", 5)
    assert (plan.kernel, plan.m, plan.grid, plan.threads, plan.workspace_bytes) == ("product", 5, (2, 1, 1), 128, 0)
    random = np.random.default_rng(1)
    x, y = aligned(random.standard_normal((5, K)).astype(np.float16)), aligned(np.full((5, N), np.nan, np.float16))
    assert (plan.x_bytes, plan.y_bytes) == (x.nbytes, y.nbytes)
    module.launch(plan, pair(x), pair(y), weights=weights)
    expected = x.astype(np.float64) @ dense_weight().T
    assert np.linalg.norm(y - expected) < 1e-3 * np.linalg.norm(expected)
    nothing = module.plan(artifact.linears[0], 0)
    assert nothing.kernel is None
    module.launch(nothing, (0, 0), (0, 0), weights=weights)
    for change, message in (({"x": (x.ctypes.data, 10)}, "expected 'x' to have 2000 bytes"), ({"y": (y.ctypes.data + 2, y.nbytes)}, "not a multiple of 16"), ({"y": pair(x)}, "different memory"), ({"epilogue": [pair(x)]}, "expected 0 epilogue operands but got 1")):
        with pytest.raises(gpu.GPUError, match=message) as info:
            module.launch(plan, **{"x": pair(x), "y": pair(y), "weights": weights, **change})
        assert info.value.kind == "argument"
    if own:
        with pytest.raises(gpu.GPUError, match="expected weights with the launch of linear 'layer'"):
            module.launch(plan, pair(x), pair(y))
        with pytest.raises(gpu.GPUError, match="expected 1 weights but got 2"):
            module.launch(plan, pair(x), pair(y), weights=weights * 2)
    with pytest.raises(gpu.GPUError, match="but got 101"):
        module.plan("layer", 101)
    module.close()
    module.close()
    with pytest.raises(gpu.GPUError, match="null pointer"):
        module.launch(plan, pair(x), pair(y))


def test_launches_that_overlap(tmp_path):
    shutil.copytree(ARTIFACT, tmp_path, dirs_exist_ok=True)
    manifest = json.load(open(os.path.join(ARTIFACT, "manifest.json")))
    manifest["kernels"][0]["dependent_launch"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    module = gpu.Module(gpu.Artifact(tmp_path))
    plan = module.plan("layer", 5)
    x, y = aligned(np.ones((5, K), np.float16)), aligned(np.zeros((5, N), np.float16))
    tensors = {name: aligned(value) for name, value in read_tensors(os.path.join(ARTIFACT, "packed.safetensors")).items()}
    weights = [gpu.Weight(pair(tensors["w.packed"]), pair(tensors["w.packed_scales"]), (0, 0), float(tensors["w.output_scale"]))]
    driver = ctypes.CDLL(os.environ["QUANT_LLM_CUDA_DRIVER"])
    for options, overlaps in (
        ({}, 1),
        ({"plain": True}, 0),
        ({"weights": weights}, 0),
        ({"weights": weights, "constant_weights": True}, 1),
        ({"weights": weights, "constant_weights": True, "plain": True}, 0),
    ):
        y[:] = 0
        module.launch(plan, pair(x), pair(y), **options)
        assert driver.fakeCudaOverlaps() == overlaps and y.any(), options
    with pytest.raises(gpu.GPUError, match="expected 1 weights but got 0"):
        module.launch(plan, pair(x), pair(y), weights=[])


def test_module_outlives_artifact():
    module = gpu.Module(gpu.Artifact(ARTIFACT))
    gc.collect()
    assert module.plan("layer", 1).kernel == "product"


def test_memory_of_the_caller(artifact):
    memory = np.zeros(artifact.weight_bytes + 256, np.uint8)
    begin = memory.ctypes.data + -memory.ctypes.data % 256
    gpu.Module(artifact, weight_memory=(begin, artifact.weight_bytes))
    assert memory.any()
    with pytest.raises(gpu.GPUError, match="bytes of memory for the weights"):
        gpu.Module(artifact, weight_memory=(begin, 100))


def test_errors(tmp_path, artifact):
    def fails(make, kind, message):
        with pytest.raises(gpu.GPUError, match=message) as info:
            make()
        assert info.value.kind == kind

    fails(lambda: gpu.Artifact(tmp_path), "artifact", "cannot open")
    with pytest.raises(QuantLLMError, match="path: expected no NUL"):
        gpu.Artifact("a\0b")
    with pytest.raises(TypeError, match="path: expected a path"):
        gpu.Artifact(None)
    fails(lambda: gpu.Artifact(ARTIFACT, archive=tmp_path / "none"), "artifact", "none")
    copy = tmp_path / "copy"
    shutil.copytree(ARTIFACT, copy)
    (copy / "kernels.cubin").write_bytes(b"other")
    fails(lambda: gpu.Artifact(copy), "artifact", "SHA-256")
    fails(lambda: gpu.Module(artifact, driver="libno-driver.so"), "unavailable", "libno-driver.so")
    for wrong in (None, str(ARTIFACT)):
        with pytest.raises(TypeError, match="artifact: expected an Artifact but got"):
            gpu.Module(wrong)
    # ctypes would make other numbers of these.
    module = gpu.Module(artifact)
    (linear,) = artifact.linears
    fails(lambda: module.plan(linear, 2**64 + 5), "argument", "m: expected an integer from .* but got 18446744073709551621")
    with pytest.raises(TypeError, match="m: expected an integer but got float"):
        module.plan(linear, 1.5)
    plan, x, y = module.plan(linear, 5), (256, 5 * linear.k * 2), (1 << 20, 5 * linear.n * 2)
    fails(lambda: module.launch(plan, (256, -1), y), "argument", "bytes of x: expected an integer from 0 to 18446744073709551615 but got -1")
    fails(lambda: module.launch(plan, x, (2**64, y[1])), "argument", "address of y: expected an integer from 0 to 18446744073709551615 but got 18446744073709551616")
    for arguments, more, message in (
        ((None, x, y), {}, "plan: expected a Plan but got NoneType"),
        ((plan, None, y), {}, "x: expected a pair .address, bytes. but got NoneType"),
        ((plan, x, y), {"stream": "s"}, "stream: expected an integer but got str"),
        ((plan, x, y), {"workspace": 5}, "workspace: expected a pair .address, bytes. but got int"),
    ):
        with pytest.raises(TypeError, match=message):
            module.launch(*arguments, **more)
    fails(lambda: gpu.Module(artifact, 7), "unavailable", "expected a device below 1 .* but got 7")
    manifest = json.load(open(os.path.join(ARTIFACT, "manifest.json")))
    shutil.copy(os.path.join(ARTIFACT, "kernels.cubin"), copy)
    (copy / "manifest.json").write_text(json.dumps({**manifest, "chip": "sm_100a"}))
    fails(lambda: gpu.Module(gpu.Artifact(copy)), "unavailable", "expected a device of the chip sm_100a")


def test_kernels_without_weights(tmp_path):
    manifest = json.load(open(os.path.join(ARTIFACT, "manifest.json")))
    del manifest["linears"][0]["packed"]
    shutil.copy(os.path.join(ARTIFACT, "kernels.cubin"), tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    artifact = gpu.Artifact(tmp_path)
    assert artifact.weight_bytes == 0 and artifact.linears[0].weight_bytes[0] > 0


def test_grouped(tmp_path):
    """Experts of 36 rows each, in a kernel that does nothing."""
    shutil.copytree(ARTIFACT, tmp_path, dirs_exist_ok=True)
    code = b"\x7fELF product:8,8,8,4,8,8,4"
    (tmp_path / "kernels.cubin").write_bytes(code)
    manifest = json.load(open(os.path.join(ARTIFACT, "manifest.json")))
    manifest["kernels"][0].update(sha256=hashlib.sha256(code).hexdigest(), args=["x", "packed0", "packed_scales0", "output_scale0", "y", "offsets", "m"])
    manifest["linears"][0].update(n=N // 2, kind="grouped_linear", experts=2, offsets="i32")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    artifact = gpu.Artifact(tmp_path)
    assert (artifact.linears[0].num_experts, artifact.linears[0].offsets, artifact.linears[0].n) == (2, "i32", N // 2)
    module = gpu.Module(artifact)
    plan = module.plan("layer", 5)
    x, y, offsets = aligned(np.zeros((5, K), np.float16)), aligned(np.zeros((5, N // 2), np.float16)), aligned(np.array([0, 2, 5], np.int32))
    module.launch(plan, pair(x), pair(y), offsets=pair(offsets))
    with pytest.raises(gpu.GPUError, match="expected 'offsets' to have 12 bytes"):
        module.launch(plan, pair(x), pair(y), offsets=(offsets.ctypes.data, 8))
    with pytest.raises(gpu.GPUError, match="expected the weights of the module"):
        module.launch(plan, pair(x), pair(y), offsets=pair(offsets), weights=[])
    with pytest.raises(gpu.GPUError, match="grouped|offsets"):
        module.launch(plan, pair(x), pair(y))


def test_libraries(monkeypatch, tmp_path):
    assert gpu.load_library() is gpu.load_library()
    with pytest.raises(gpu.GPUError, match="cannot load the GPU runtime 'libno-runtime.so'") as info:
        gpu.load_library("libno-runtime.so")
    assert info.value.kind == "unavailable"
    with pytest.raises(gpu.GPUError, match="expected the GPU runtime of this version"):
        gpu.load_library(os.environ["QUANT_LLM_CUDA_DRIVER"])
    monkeypatch.setenv("QUANT_LLM_CUDA_RUNTIME", str(tmp_path / "none.so"))
    with pytest.raises(gpu.GPUError, match="none.so"):
        gpu.Artifact(ARTIFACT)


def test_nothing_else_is_imported():
    code = "import sys, quant_llm.gpu; print([name for name in ('torch', 'numpy', 'quant_llm._quant_llm') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_missing_compiler(tmp_path):
    """Without LLVM the GPU runtime works, and the compiler says what is missing."""
    package = tmp_path / "quant_llm"
    package.mkdir()
    for name in os.listdir(os.path.dirname(gpu.__file__)):
        if name.endswith(".py") or name.startswith("libQuantLLMRuntime"):
            shutil.copy(os.path.join(os.path.dirname(gpu.__file__), name), package)
    code = f"""
import quant_llm.gpu
print(len(quant_llm.gpu.Artifact({ARTIFACT!r}).linears))
try:
    quant_llm.parse("module {{}}")
except ImportError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}).stdout
    assert output.startswith("1\ncannot load the compiler of quant_llm, which needs LLVM and MLIR 22"), output


def test_the_structures_are_those_of_the_header():
    assert [ctypes.sizeof(struct) for struct in (gpu._Linear, gpu._Operand, gpu._Variant, gpu._WeightBytes, gpu._Options, gpu._Plan, gpu._Buffer, gpu._Operands, gpu._Weight, gpu._Grouping, gpu._LaunchOptions)] == [72, 16, 24, 24, 40, 72, 16, 64, 56, 24, 32]
