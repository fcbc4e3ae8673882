# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: env PYTHONPATH=%S/../Integration/CUDA %pytest %s
"""Packed weights, byte for byte, against the implementation in Python that the GPU checks use."""

import struct
import subprocess

import pytest
import schemes
import torch

SCHEMES = [
    "int1, block = [1, 32], scale = f16, rule = absmax_full",
    *[f"int{bits}, block = [1, 32], scale = f16" for bits in range(2, 9)],
    *[f"uint{bits}, block = [1, 64], scale = bf16, zero = int" for bits in range(1, 9)],
    "ternary, block = [1, -1], scale = f32",
    "nf4, block = [1, 64], scale = f16",
    "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = f32>",
    "f4E2M1FN, block = [1, 32], scale = f8E8M0FNU",
    "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, -1], scale = f32>",
    "f6E2M3FN, block = [1, 48], scale = f16",
    "f6E3M2FN, block = [-1, 32], scale = bf16",
    "f8E4M3FN, block = [128, 128], scale = f32",
    "f8E5M2, block = [-1, -1], scale = f16",
    "int8, block = [-1, 1], scale = f16",
    "int4, block = [1, 32], scale = f8E4M3FN",
    "uint8, block = [-1, 8], scale = f16, zero = f16",
    "uint4, block = [1, 32], scale = f16, zero = f16",
    "codebook<3, [-1, -0.5, -0.25, 0, 0.25, 0.5, 1, 2]>, block = [1, 128], scale = f16",
]


def raw(tensor):
    return b"" if tensor is None else tensor.contiguous().view(torch.uint8).numpy().tobytes()


def stored(weight):
    """The components of a weight in the order of quant-packing-dump."""
    inner = weight.scale_weight
    scales = raw(weight.scales) if inner is None else raw(schemes.pack_codes(inner.codes, inner.scheme.bits)) + raw(inner.scales)
    return raw(schemes.pack_codes(weight.codes, weight.scheme.bits)) + scales + raw(weight.zeros)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("n, k", [(1, 1), (17, 172), (72, 576), (65, 130)])
def test_packed_bytes(text, n, k):
    weight = schemes.random_weight(n, k, schemes.Scheme.parse(text), torch.Generator().manual_seed(n * k))
    result = subprocess.run(["quant-packing-dump", text, str(n), str(k)], input=stored(weight), capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    packed = schemes.pack_weight(weight)
    expected = raw(packed.packed) + raw(packed.scales) + raw(packed.zeros) + struct.pack("<f", packed.output_scale)
    assert result.stdout == expected
