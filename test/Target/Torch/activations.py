# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Quantized activations as PyTorch source: the numbers of the reference path,
gradients through the rounding, and what is refused."""

import subprocess
import sys

import numpy as np
import torch

directory = sys.argv[1]
rng = np.random.default_rng(1)


def scheme(element, rows, group, scale="f32", rule="absmax"):
    zero, rule = (", zero = int", "minmax") if element.startswith("uint") else ("", rule)
    return f"#quant_llm.scheme<{element}, block = [{rows}, {group}], scale = {scale}{zero}, rule = {rule}, rounding = half_even>"


def module(text, k, extra="", given="", dtype="f32"):
    activation = f"!quant_llm.activation<2x?x{k}x{dtype}, #s>"
    return f"""#s = {text}
func.func @f(%x: tensor<2x?x{k}x{dtype}>{extra}) -> tensor<2x?x{k}x{dtype}> {{
  %q = quant_llm.quantize_activation %x{given} : tensor<2x?x{k}x{dtype}> -> {activation}
  %y = quant_llm.dequantize %q : {activation} -> tensor<2x?x{k}x{dtype}>
  return %y : tensor<2x?x{k}x{dtype}>
}}
"""


def translate(text):
    path = f"{directory}/m.mlir"
    with open(path, "w") as file:
        file.write(text)
    return subprocess.run(["quant-translate", "--mlir-to-torch", path], capture_output=True, text=True)


def load(text):
    result = translate(text)
    assert result.returncode == 0, result.stderr
    # Not from a file: Python would take its compiled form for that of the next
    # one of the same second and size.
    loaded = {}
    exec(compile(result.stdout, "m.py", "exec"), loaded)
    return loaded["f"]


def check(text, x, *given):
    arrays = [x, *given]
    function = load(text)
    tensors = [torch.from_numpy(array) for array in arrays]
    tensors[0].requires_grad_(True)
    actual = function(*tensors, parameters={}, dtype=tensors[0].dtype)
    command = ["quant-run", f"{directory}/m.mlir", "--reference", "--output", f"{directory}/y.npy"]
    for i, array in enumerate(arrays):
        np.save(f"{directory}/in{i}.npy", array)
        command += ["--input", f"{directory}/in{i}.npy"]
    subprocess.run(command, check=True)
    expected = np.load(f"{directory}/y.npy")
    assert actual.dtype == tensors[0].dtype
    np.testing.assert_array_equal(actual.detach().numpy(), expected, err_msg=text)
    if np.isfinite(x).all():
        (gradient,) = torch.autograd.grad(actual.sum(), tensors[0])
        assert torch.isfinite(gradient).all()
        # What has the scale 0 has no gradient.
        assert (gradient != 0).any() or (expected == 0).all()


x = rng.normal(0, 1, (2, 5, 32)).astype("f4")
x[0, 1] = 0
for element in ("int8", "int4", "uint8", "uint4", "f8E4M3FN", "f8E5M2"):
    for rows, group in ((1, -1), (1, 8), (1, 12), (-1, -1), (-1, 8)):
        check(module(scheme(element, rows, group), 32), x)
check(module(scheme("int4", 1, -1, "f16", "absmax_full"), 32, given=" clip 0.75"), x)
check(module(scheme("int8", -1, -1), 32, ", %s: tensor<f32>", " static(%s : tensor<f32>)"), x, np.array(0.01, "f4"))
check(module(scheme("uint8", -1, 8), 32, ", %s: tensor<4xf32>, %z: tensor<4xi8>", " static(%s, %z : tensor<4xf32>, tensor<4xi8>)"), x, np.full(4, 0.02, "f4"), np.array([0, 100, -56, 7], "i1"))
spoiled = x.copy()
spoiled[0, 2, 3], spoiled[1, 0, 0] = np.inf, np.nan
check(module(scheme("int8", 1, -1), 32), spoiled)
for element in ("int8", "uint8"):
    check(module(scheme(element, 1, -1), 32), spoiled)
    given = (", %s: tensor<f32>", " static(%s : tensor<f32>)", np.array(0.01, "f4"))
    if element == "uint8":
        given = (", %s: tensor<f32>, %z: tensor<i8>", " static(%s, %z : tensor<f32>, tensor<i8>)", np.array(0.01, "f4"), np.array(7, "i1"))
    check(module(scheme(element, -1, -1), 32, *given[:2]), spoiled, *given[2:])

# In f32, whatever the tokens are, and however large.
for element in ("int8", "uint8", "f8E4M3FN"):
    for rows, scale in ((1, "f32"), (-1, "f16")):
        check(module(scheme(element, rows, 8, scale), 32, dtype="f16"), x.astype("f2"))
        check(module(scheme(element, rows, 8, scale), 32, dtype="f16"), (6e4 * np.tanh(x)).astype("f2"))
        check(module(scheme(element, rows, 8, scale), 32), (3e38 * np.tanh(x)).astype("f4"))
        check(module(scheme(element, rows, 8, scale), 32), (1e-40 * x).astype("f4"))

text = translate(module(scheme("int8", 1, -1), 32)).stdout
assert "quantize_activation(arg0, (-128, 127), 127, 32, True, torch.float32)" in text, text
refused = translate(module(scheme("f4E2M1FN", 1, -1), 32))
assert refused.returncode == 1 and "expected an element intN, uintN, f8E4M3FN or f8E5M2" in refused.stderr, refused.stderr
