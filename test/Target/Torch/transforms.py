# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Channel transforms as PyTorch source: the numbers of the reference path, gradients,
and that an op and its inverse are the identity."""

import subprocess
import sys

import numpy as np
import torch

directory = sys.argv[1]
rng = np.random.default_rng(1)


def load(text):
    path = f"{directory}/m.mlir"
    with open(path, "w") as file:
        file.write(text)
    result = subprocess.run(["quant-translate", "--mlir-to-torch", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = {}
    exec(compile(result.stdout, "m.py", "exec"), loaded)
    return loaded["f"]


def check(ops, k, *given, inverse=None):
    """`ops` on %x of [tokens, k], with the tensors `given` as %a and so on."""
    arguments = "".join(f", %{name}: tensor<{'x'.join(map(str, a.shape))}x{f'i{8 * a.itemsize}' if a.dtype.kind == 'i' else 'f32'}>" for name, a in zip("abc", given))
    text = f"func.func @f(%x: tensor<?x{k}xf32>{arguments}) -> tensor<?x{k}xf32> {{\n  {ops}\n  return %y : tensor<?x{k}xf32>\n}}\n"
    x = rng.normal(size=(5, k)).astype(np.float32)
    function = load(text)
    tensors = [torch.from_numpy(a) for a in (x, *given)]
    tensors[0].requires_grad_(True)
    y = function(*tensors, parameters={})
    command = ["quant-run", f"{directory}/m.mlir", "--reference", "--output", f"{directory}/y.npy"]
    for i, array in enumerate((x, *given)):
        np.save(f"{directory}/{i}.npy", array)
        command += ["--input", f"{directory}/{i}.npy"]
    subprocess.run(command, check=True)
    expected = np.load(f"{directory}/y.npy")
    assert np.linalg.norm(y.detach().numpy() - expected) < 1e-5 * np.linalg.norm(expected), ops
    # Linear up to an offset: the gradient of |y|^2 / 2 is y times the matrix.
    (y * y).sum().backward()
    step = 1e-2 * rng.normal(size=x.shape).astype(np.float32)
    with torch.no_grad():
        ahead, behind = (function(torch.from_numpy(x + s), *tensors[1:], parameters={}).double().square().sum().item() for s in (step, -step))
    slope = (tensors[0].grad.double().numpy() * step).sum()
    assert abs(ahead - behind - 2 * slope) < 1e-3 * max(1, abs(slope)), (ops, ahead - behind, 2 * slope)
    return x, y.detach().numpy()


vector = lambda k: rng.uniform(0.5, 2, k).astype(np.float32)
for op in ("scale_channels", "shift_channels"):
    for mode in ("", "inverse "):
        check(f"%y = quant_llm.{op} {mode}%x by %a dims = [1] : tensor<?x24xf32>, tensor<24xf32>", 24, vector(24))
order = rng.permutation(24).astype(np.int32)
x, y = check("%y = quant_llm.permute_channels %x by %a dims = [1] : tensor<?x24xf32>, tensor<24xi32>", 24, order)
np.testing.assert_array_equal(y, x[:, order])
for bits in (16, 32, 64):
    x, y = check(f"%y = quant_llm.permute_channels inverse %x by %a dims = [1] : tensor<?x24xf32>, tensor<24xi{bits}>", 24, order.astype(f"int{bits}"))
    np.testing.assert_array_equal(y[:, order], x)
orthogonal = lambda n: np.linalg.qr(rng.normal(size=(n, n)))[0].astype(np.float32)
r = orthogonal(8)
x, y = check("%y = quant_llm.rotate %x by %a dims = [1] : tensor<?x24xf32>, tensor<8x8xf32>", 24, r)
np.testing.assert_allclose(y.reshape(5, 3, 8), x.reshape(5, 3, 8) @ r, rtol=1e-4, atol=1e-5)
check("%y = quant_llm.rotate inverse %x by %a, %b dims = [1] : tensor<?x24xf32>, tensor<4x4xf32>, tensor<6x6xf32>", 24, orthogonal(4), orthogonal(6))
# A base of order 12 times 2^5, without blocks and with signs; 2^6 in blocks.
for k, order, seed in ((384, 384, ""), (384, 384, " seed 7"), (192, 64, " seed 3"), (36, 36, " seed 0")):
    for mode in ("", "inverse "):
        x, y = check(f"%y = quant_llm.rotate {mode}%x hadamard {order}{seed} dims = [1] : tensor<?x{k}xf32>", k)
        assert np.isclose(np.linalg.norm(x), np.linalg.norm(y), rtol=1e-5)
    x, y = check(
        f"%0 = quant_llm.rotate %x hadamard {order}{seed} dims = [1] : tensor<?x{k}xf32>\n"
        f"  %y = quant_llm.rotate inverse %0 hadamard {order}{seed} dims = [1] : tensor<?x{k}xf32>",
        k,
    )
    np.testing.assert_allclose(y, x, atol=1e-5)
a, t = (np.eye(6) + 0.1 * rng.normal(size=(6, 6))).astype(np.float32), vector(6)
types = "tensor<?x24xf32>, tensor<6x6xf32>, tensor<6x6xf32>, tensor<6xf32>"
x, y = check(f"%y = quant_llm.affine %x by %a, %b plus %c dims = [1] : {types}", 24, a, np.linalg.inv(a), t)
np.testing.assert_allclose(y.reshape(5, 4, 6), x.reshape(5, 4, 6) @ a + t, rtol=1e-4, atol=1e-4)
check(f"%y = quant_llm.affine inverse %x by %a, %b plus %c dims = [1] : {types}", 24, a, np.linalg.inv(a), t)
