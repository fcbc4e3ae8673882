# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""quant-llm-quantize and quant-llm-prepack on models larger than the memory that they may use, interrupted, and
on a disk that is full: memory is bounded by one weight, and there is a whole archive or none."""

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), *[".."] * 3, "Inputs"))
from processes import accept_signals

N, K = 2048, 8192  # 32 MiB in f16
CHOOSE = "-quant-llm-choose-granularity"


def write_model(directory, count):
    """A module with `count` linears and its archive, written tensor by tensor."""
    size = 2 * N * K
    header = {f"w{i}": {"dtype": "F16", "shape": [N, K], "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    # Bits of finite f16 numbers below 2 in magnitude.
    data = (rng.integers(0, 1 << 16, (N, K), dtype=np.uint16) & 0xBFFF).tobytes()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(count):
            file.write(data)
    lines = ['quant_llm.archive @a "model.safetensors"']
    lines += [f"quant_llm.parameter @w{i} from @a : tensor<{N}x{K}xf16>" for i in range(count)]
    lines.append(f"func.func @f(%x: tensor<1x{K}xf32>) {{")
    for i in range(count):
        lines.append(f"  %w{i} = quant_llm.get_parameter @w{i} : tensor<{N}x{K}xf16>")
        lines.append(f"  %y{i} = quant_llm.linear %x, %w{i} : (tensor<1x{K}xf32>, tensor<{N}x{K}xf16>) -> tensor<1x{N}xf32>")
        lines.append(f'  "test.use"(%y{i}) : (tensor<1x{N}xf32>) -> ()')
    lines += ["  return", "}"]
    (directory / "model.mlir").write_text("\n".join(lines) + "\n")


def start(directory, *options, module="model.mlir", output=os.devnull, **arguments):
    command = ["quant-opt", module, "-allow-unregistered-dialect", *options, "-o", output]
    return subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True, **arguments)


def peak_memory(directory, *options, **arguments):
    process = start(directory, *options, **arguments)
    process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


def peak_of_one(directory, *options, **arguments):
    """Of several runs: now and then one is done with the pages of a weight before it has those of the next."""
    return max(peak_memory(directory, *options, **arguments) for _ in range(3))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directories = []
    for count in (1, 6):
        directory = tmp_path_factory.mktemp(f"model{count}")
        write_model(directory, count)
        directories.append(directory)
    return directories


@pytest.mark.parametrize("choose", ["block=1,64", "sizes=64"])
def test_memory_is_bounded_by_one_weight(models, choose):
    options = [f"{CHOOSE}={choose}", "-quant-llm-quantize=output=q.safetensors report=r.json"]
    one, six = peak_of_one(models[0], *options), peak_memory(models[1], *options)
    weight = 2 * N * K
    assert six < one + weight // 2, (one, six)
    assert one < 128 * 2**20 + 3 * weight, one
    for directory in models:
        for name in ("q.safetensors", "r.json"):
            os.remove(directory / name)


def test_prepack_memory_is_bounded_by_one_weight(models):
    peaks = []
    for directory, measure in zip(models, (peak_of_one, peak_memory)):
        peak_memory(directory, f"{CHOOSE}=block=1,64", "-quant-llm-quantize=output=q.safetensors", output="q.mlir")
        peaks.append(measure(directory, "-quant-llm-prepack=output=p.safetensors", module="q.mlir"))
        for name in ("q.safetensors", "q.mlir", "p.safetensors"):
            os.remove(directory / name)
    one, six = peaks
    weight = N * K // 2
    assert six < one + weight, (one, six)
    # The stored weight, the packed and the unpacked one.
    assert one < 128 * 2**20 + 4 * weight, one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_interrupt_leaves_nothing(models, number, delay):
    directory = models[1]
    before = sorted(os.listdir(directory))
    process = start(
        directory,
        f"{CHOOSE}=block=1,64 rule=mse",
        "-quant-llm-quantize=output=q.safetensors report=r.json",
        preexec_fn=accept_signals,
    )
    time.sleep(delay)
    process.send_signal(number)
    process.stderr.read()
    assert process.wait() == -number
    assert sorted(os.listdir(directory)) == before


def test_full_disk(models):
    directory = models[1]
    before = sorted(os.listdir(directory))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = start(directory, f"{CHOOSE}=block=1,64", "-quant-llm-quantize=output=q.safetensors report=r.json", preexec_fn=limit)
    message = process.stderr.read()
    assert process.wait() == 1
    assert "error: quant-llm-quantize: cannot write 'q.safetensors'" in message, message
    assert sorted(os.listdir(directory)) == before
