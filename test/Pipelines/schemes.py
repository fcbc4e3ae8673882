# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Linears of random schemes, and of experts: the fast path, the reference path and NumPy agree.

NumPy evaluates the formula of the scheme in float64 on codes that it unpacks
itself, so nothing is shared with what is tested.
"""

import subprocess
import sys

import ml_dtypes
import numpy as np

directory = sys.argv[1]
rng = np.random.default_rng(20261122)

INT = {f"int{b}": b for b in range(1, 9)}
UINT = {f"uint{b}": b for b in range(1, 9)}
SMALL = {
    "f4E2M1FN": (4, ml_dtypes.float4_e2m1fn),
    "f6E2M3FN": (6, ml_dtypes.float6_e2m3fn),
    "f6E3M2FN": (6, ml_dtypes.float6_e3m2fn),
    "f8E4M3FN": (8, ml_dtypes.float8_e4m3fn),
}
SCALES = {
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8E8M0FNU": ml_dtypes.float8_e8m0fnu,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn,
}


def values_of(element):
    """Width and the value of every code."""
    if element in INT:
        bits = INT[element]
        codes = np.arange(2**bits)
        return bits, np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes).astype("f8")
    if element in UINT:
        return UINT[element], np.arange(2 ** UINT[element]).astype("f8")
    if element == "codebook":
        return 3, np.array([-2.5, -1.0, -0.25, 0.0, 0.125, 0.5, 1.5, 3.0])
    bits, dtype = SMALL[element]
    table = np.arange(2**bits).astype(np.uint8).view(dtype).astype("f8")
    return bits, np.nan_to_num(table)


def pack(codes, bits):
    n, k = codes.shape
    stream = (codes[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(stream.reshape(n, k * bits).astype(np.uint8), axis=1, bitorder="little")


def random_scale(shape, name):
    scale = rng.uniform(0.01, 0.2, shape)
    if name == "f8E8M0FNU":
        scale = 2.0 ** rng.integers(-6, -1, shape)
    return scale.astype(SCALES[name])


def expand(matrix, bn, bk, n, k):
    return np.repeat(np.repeat(matrix, bn, 0), bk, 1)[:n, :k]


def run(case, element, n, k, m, block, scale, zero, recursive=False, epilogue=False, leading=(), experts=None):
    """`experts`, if given, are the numbers of tokens of experts, m in all, that share the n rows of the weight."""
    bits, table = values_of(element)
    bn, bk = (n if block[0] == -1 else block[0]), (k if block[1] == -1 else block[1])
    grid = (-(-n // bn), -(-k // bk))
    codes = rng.integers(0, 2**bits, (n, k))
    if element == "f8E4M3FN":
        codes[(codes & 0x7F) == 0x7F] = 0  # NaN
    value = table[codes]
    arrays = [pack(codes, bits)]
    types = [f"tensor<{n}x{arrays[0].shape[1]}xi8>"]
    g = f"{grid[0]}x{grid[1]}"
    if recursive:
        inner = rng.integers(0, 256, grid)
        inner[(inner & 0x7F) == 0x7F] = 0
        outer = np.full((1, 1), 0.01, np.float32)
        arrays += [inner.astype(np.uint8), outer]
        types += [f"tensor<{g}xi8>", "tensor<1x1xf32>"]
        s = inner.astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype("f8") * np.float64(outer[0, 0])
        scale_text = "#quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32, rule = absmax, rounding = half_even>"
    else:
        stored = random_scale(grid, scale)
        s = stored.astype("f8")
        arrays.append(stored)
        types.append(f"tensor<{g}x{scale}>")
        scale_text = scale
    s = expand(s, bn, bk, n, k)
    zero_text = ""
    if zero == "int":
        z = rng.integers(0, 2**bits, grid).astype(np.uint8)
        arrays.append(z)
        types.append(f"tensor<{g}xi8>")
        weight = s * (value - expand(z.astype("f8"), bn, bk, n, k))
        zero_text = ", zero = int"
    elif zero:
        z = rng.normal(0, 0.1, grid).astype(SCALES[zero])
        arrays.append(z)
        types.append(f"tensor<{g}x{zero}>")
        weight = s * value + expand(z.astype("f8"), bn, bk, n, k)
        zero_text = f", zero = {zero}"
    else:
        weight = s * value
    x = rng.normal(0, 1, (*leading, m, k)).astype("f4")
    if experts is None:
        y = x.astype("f8") @ weight.T
        outputs, owner, rows = n, None, slice(None)
    else:
        outputs, owner = n // len(experts), np.repeat(np.arange(len(experts)), experts)
        rows = owner[:, None] * outputs + np.arange(outputs)
        y = np.einsum("tk,tnk->tn", x.astype("f8"), weight[rows])
    name = element if element != "codebook" else "codebook<3, [-2.5, -1.0, -0.25, 0.0, 0.125, 0.5, 1.5, 3.0]>"
    scheme = f"#quant_llm.scheme<{name}, block = [{block[0]}, {block[1]}], scale = {scale_text}{zero_text}, rule = mse, rounding = half_even>"
    extra, region = "", ""
    lead = "".join(f"{d}x" for d in leading)
    if epilogue:
        bias = rng.normal(0, 1, n).astype("f4")
        residual = rng.normal(0, 1, y.shape).astype("f4")
        arrays += [bias, residual]
        types += [f"tensor<{n}xf32>", f"tensor<{lead}?x{outputs}xf32>"]
        a = len(arrays)
        y = np.tanh(y + bias[rows]) + residual
        region = f"""epilogue(%a{a - 2}, %a{a - 1} : {types[-2]}, {types[-1]}) {{
  ^bb0(%acc: f32, %b: f32, %r: f32):
    %1 = arith.addf %acc, %b : f32
    %2 = math.tanh %1 : f32
    %3 = arith.addf %2, %r : f32
    quant_llm.yield %3 : f32
  }} """
    parts = 2 + recursive + bool(zero)
    op, offsets = "linear", ""
    if experts is not None:
        op, offsets = "grouped_linear", f"offsets(%a{len(arrays)} : tensor<{len(experts) + 1}xi32>) "
        arrays.append(np.cumsum([0] + experts).astype("i4"))
        types.append(f"tensor<{len(experts) + 1}xi32>")
    arguments = "".join(f", %a{i}: {t}" for i, t in enumerate(types))
    weights = ", ".join(f"%a{i}" for i in range(parts))
    module = f"""#s = {scheme}
func.func @main(%x: tensor<{lead}?x{k}xf32>{arguments}) -> tensor<{lead}?x{outputs}xf32> {{
  %w = quant_llm.assemble {weights} : ({", ".join(types[:parts])}) -> !quant_llm.weight<{n}x{k}xf16, #s>
  %y = quant_llm.{op} %x, %w {offsets}{region}: (tensor<{lead}?x{k}xf32>, !quant_llm.weight<{n}x{k}xf16, #s>) -> tensor<{lead}?x{outputs}xf32>
  return %y : tensor<{lead}?x{outputs}xf32>
}}
"""
    path = f"{directory}/{case}"
    with open(path + ".mlir", "w") as file:
        file.write(module)
    tensors = {"x": x, "y": y.astype("f4")}
    inputs = ["--input", f"{path}.safetensors:x"]
    raw = {}
    for i, array in enumerate(arrays):
        raw[f"a{i}"] = array
        inputs += ["--input", f"{path}.safetensors:a{i}"]
    save(path + ".safetensors", {**tensors, **raw})
    for mode in ([], ["--reference"]):
        command = ["quant-run", path + ".mlir", "--no-cache", *mode, *inputs, "--expect", f"{path}.safetensors:y", "--max-relative-error", "2e-6"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            print("FAILED", case, scheme, mode, result.stdout, result.stderr, sep="\n")
            sys.exit(1)


def save(path, tensors):
    """safetensors with the types that its NumPy half lacks."""
    import json
    import struct

    names = {
        "float32": "F32", "int32": "I32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8",
        "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fn": "F8_E4M3",
    }
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype.name], "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


run("int4", "int4", 48, 128, 5, (1, 64), "f16", None)
run("int4_ragged", "int4", 7, 50, 3, (2, 16), "bf16", None)
run("uint4_zero", "uint4", 33, 96, 1, (1, 32), "f16", "int")
run("int3", "int3", 18, 70, 2, (1, -1), "f32", None)
run("int8_tensor", "int8", 16, 40, 9, (-1, -1), "f32", "f32")
run("uint5_float_zero", "uint5", 20, 64, 4, (4, 8), "f16", "f16")
run("mx", "f4E2M1FN", 32, 64, 17, (1, 32), "f8E8M0FNU", None)
run("nv", "f4E2M1FN", 32, 64, 1, (1, 16), "f8E4M3FN", None)
run("f8", "f8E4M3FN", 24, 48, 2, (1, -1), "f32", None)
run("f6", "f6E3M2FN", 12, 36, 2, (1, 12), "bf16", None)
run("codebook", "codebook", 17, 30, 2, (3, 7), "f16", None)
run("recursive", "int4", 40, 64, 3, (1, 16), None, None, recursive=True)
run("epilogue", "int4", 48, 64, 6, (1, 64), "f16", None, epilogue=True)
run("batch", "int4", 24, 32, 3, (1, 32), "f16", None, leading=(2, 2))
run("empty", "int4", 24, 32, 0, (1, 32), "f16", None)
run("experts", "int4", 4 * 48, 64, 11, (1, 64), "f16", None, experts=[3, 0, 7, 1])
run("experts_one", "uint4", 20, 48, 5, (1, 16), "f16", "int", experts=[5])
run("experts_epilogue", "int4", 3 * 17, 50, 6, (1, 32), "bf16", None, epilogue=True, experts=[0, 6, 0])
run("experts_blocks", "int8", 4 * 12, 40, 9, (4, 16), "f32", "f32", experts=[2, 2, 2, 3])
run("experts_shared_blocks", "int4", 4 * 9, 40, 9, (6, 16), "f16", None, experts=[9, 0, 0, 0])
run("experts_tensor", "int8", 60 * 3, 24, 70, (-1, -1), "f32", None, experts=50 * [1] + 10 * [2])
run("experts_mx", "f4E2M1FN", 8 * 16, 64, 20, (1, 32), "f8E8M0FNU", None, experts=[20] + 7 * [0])
run("experts_recursive", "int4", 5 * 8, 64, 8, (1, 16), None, None, recursive=True, experts=[1, 2, 0, 4, 1])
run("experts_empty", "int4", 64, 32, 0, (1, 32), "f16", None, experts=[0, 0])
print("all equal")
