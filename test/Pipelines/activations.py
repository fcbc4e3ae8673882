# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""Quantized activations: components bit for bit as the formulas of docs/Spec.md
in numpy, and linears within the error of their sums, on the reference and the
fast path."""

import subprocess
import sys

import ml_dtypes
import numpy as np

directory = sys.argv[1]
rng = np.random.default_rng(3)
F32 = np.float32
np.seterr(divide="ignore", invalid="ignore", over="ignore")
DTYPES = {"f32": F32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f8E4M3FN": ml_dtypes.float8_e4m3fn, "f8E5M2": ml_dtypes.float8_e5m2, "f4E2M1FN": ml_dtypes.float4_e2m1fn}
LARGEST = {"f8E4M3FN": 448.0, "f8E5M2": 57344.0, "f4E2M1FN": 6.0}


class Scheme:
    def __init__(self, element, rows, group, scale="f32", rule="absmax"):
        self.element, self.rows, self.group, self.scale, self.rule = element, rows, group, scale, rule
        self.has_zero = element.startswith("uint")
        if self.has_zero:
            self.rule = "minmax"
        if "int" in element:
            bits = int(element.split("int")[1])
            self.low, self.high = (0, 2**bits - 1) if self.has_zero else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def __str__(self):
        zero = ", zero = int" if self.has_zero else ""
        return f"#quant_llm.scheme<{self.element}, block = [{self.rows}, {self.group}], scale = {self.scale}{zero}, rule = {self.rule}, rounding = half_even>"

    def blocks(self, x):
        """x [tokens, K] as [tokens, groups, g] with zeros at the end."""
        g = x.shape[1] if self.group == -1 else self.group
        return np.pad(x, ((0, 0), (0, -x.shape[1] % g))).reshape(len(x), -1, g)

    def quantize(self, x, clip=None, given=None):
        """codes [tokens, K], scales and zeros as grids [tokens or 1, groups, 1]."""
        blocks = self.blocks(x.astype(F32))
        axis = 2 if self.rows == 1 else (0, 2)
        ratio = F32(1 if clip is None else clip)
        if given is None:
            if self.has_zero:
                low = np.minimum(blocks.min(axis, keepdims=True), 0).astype(F32)
                high = np.maximum(blocks.max(axis, keepdims=True), 0).astype(F32)
                spread, finite = ratio * (high - low), np.isfinite(low) & np.isfinite(high)
                scales = spread / F32(self.high - self.low)
            else:
                spread = np.abs(blocks).max(axis, keepdims=True)
                finite = np.isfinite(spread)
                largest = LARGEST.get(self.element) or (self.high + (self.rule == "absmax_full"))
                scales = ratio * spread / F32(largest)
            limit = F32(ml_dtypes.finfo(DTYPES[self.scale]).max)
            scales = np.where(finite, np.minimum(scales, limit), F32(np.nan)).astype(DTYPES[self.scale])
            zeros = np.zeros(scales.shape, np.uint8)
            if self.has_zero:
                zeros = np.nan_to_num(np.clip(np.rint(-(ratio * low) / scales.astype(F32)), 0, self.high), nan=0).astype(np.uint8)
        else:
            scales, zeros = given
        s = scales.astype(F32)
        u = np.where(s == 0, F32(0), blocks / s + zeros.astype(F32) if self.has_zero else blocks / s).astype(F32)
        if self.element in LARGEST:
            codes = np.clip(u, -LARGEST[self.element], LARGEST[self.element]).astype(DTYPES[self.element])
            values = codes.astype(F32)
            codes = codes.view(np.uint8)
        else:
            codes = np.nan_to_num(np.clip(np.rint(u), self.low, self.high), nan=0)
            values = codes.astype(F32)
            codes = codes.astype(np.uint8 if self.has_zero else np.int8)
        values = s * (values - zeros.astype(F32)) if self.has_zero else s * values
        flat = lambda array: array.reshape(len(x), -1)[:, : x.shape[1]]
        return flat(codes), scales, zeros, flat(values)

    def grid(self, leading, k):
        shape = list(leading) if self.rows == 1 else []
        return shape + ([-(-k // self.group)] if self.group != -1 else [])


def shape(sizes, element):
    return "x".join(["?" if size is None else str(size) for size in sizes] + [element])


def run(module, inputs, outputs, reference):
    with open(f"{directory}/m.mlir", "w") as file:
        file.write(module)
    command = ["quant-run", f"{directory}/m.mlir", "--cache-dir", f"{directory}/cache"] + (["--reference"] if reference else [])
    for i, array in enumerate(inputs):
        np.save(f"{directory}/in{i}.npy", array)
        command += ["--input", f"{directory}/in{i}.npy"]
    for i in range(outputs):
        command += ["--output", f"{directory}/out{i}.npy"]
    subprocess.run(command, check=True)
    return [np.load(f"{directory}/out{i}.npy") for i in range(outputs)]


def tokens(count, k, scale=1.0):
    x = rng.normal(0, scale, (count, k)) * np.exp(rng.normal(0, 1, k))
    x[0] = 0
    if count > 3:
        x[3] *= 1e-3
    return x


def check_components(scheme, leading, k, expressed="f32", clip=None, static=False, x=None):
    count = int(np.prod(leading, dtype=int))
    x = (tokens(count, k) if x is None else x).astype(DTYPES[expressed])
    given = None
    if static:
        # Also scales of 0, and ranges that most tokens exceed.
        sizes = (count if scheme.rows == 1 else 1, scheme.blocks(x).shape[1], 1)
        scales = rng.uniform(0.001, 0.05, sizes).astype(DTYPES[scheme.scale])
        scales[0, -1] = 0
        given = scales, rng.integers(0, 17, sizes).astype(np.uint8)
    codes, scales, zeros, values = scheme.quantize(x, clip, given)
    dynamic = [None] * len(leading)
    grid, grid_types = scheme.grid(leading, k), scheme.grid(dynamic, k)
    dense, scale_type = shape(dynamic + [k], expressed), f"tensor<{shape(grid_types, scheme.scale)}>"
    codes_type, zero_type = f"tensor<{shape(dynamic + [k], 'i8')}>", f"tensor<{shape(grid_types, 'i8')}>"
    kinds = [codes_type, scale_type] + [zero_type] * scheme.has_zero
    names = ["%codes", "%scales"] + ["%zeros"] * scheme.has_zero
    arguments, operand = [f"%x: tensor<{dense}>"], ""
    inputs = [x.reshape(*leading, k)]
    if static:
        arguments += [f"%s{i}: {kind}" for i, kind in enumerate(kinds[1:])]
        operand = f" static({', '.join(f'%s{i}' for i in range(len(kinds) - 1))} : {', '.join(kinds[1:])})"
        inputs += [given[0].reshape(grid)] + [given[1].reshape(grid).view(np.int8)] * scheme.has_zero
    activation = f"!quant_llm.activation<{dense}, #s>"
    # .npy files have no bf16.
    results, returned, widen = list(kinds), list(names), ""
    if scheme.scale == "bf16":
        results[1], returned[1] = f"tensor<{shape(grid_types, 'f32')}>", "%wide"
        widen = f"  %wide = arith.extf %scales : {scale_type} to {results[1]}\n"
    module = f"""#s = {scheme}
func.func @f({', '.join(arguments)}) -> ({', '.join(results)}, tensor<{dense}>) {{
  %q = quant_llm.quantize_activation %x{f' clip {clip}' if clip else ''}{operand} : tensor<{dense}> -> {activation}
  {', '.join(names)} = quant_llm.components %q : ({activation}) -> ({', '.join(kinds)})
  %y = quant_llm.dequantize %q : {activation} -> tensor<{dense}>
{widen}  return {', '.join(returned)}, %y : {', '.join(results)}, tensor<{dense}>
}}
"""
    for reference in (True, False):
        what = f"{scheme} {leading} {k} {expressed} {clip} {static} {reference}"
        out = run(module, inputs, len(kinds) + 1, reference)
        as_bytes = lambda array: array.view(np.uint8).reshape(-1)
        np.testing.assert_array_equal(out[1].astype(F32).reshape(-1), scales.astype(F32).reshape(-1), err_msg=what)
        if scheme.has_zero:
            np.testing.assert_array_equal(as_bytes(out[2]), zeros.reshape(-1), err_msg=what)
        finite = np.isfinite(x.astype(F32)).reshape(-1)
        np.testing.assert_array_equal(as_bytes(out[0])[finite], as_bytes(np.ascontiguousarray(codes))[finite], err_msg=what)
        np.testing.assert_array_equal(out[-1].astype(F32).reshape(-1), values.astype(DTYPES[expressed]).astype(F32).reshape(-1), err_msg=what)


def check_linear(scheme, count, k, weight_scheme=None, n=24, static=False, experts=0):
    """y = x W^T against float64; a weight of integers under another scheme, or dense."""
    x = tokens(count, k).astype(F32)
    rows = n * (experts or 1)
    given = None
    if static:
        given = np.array(0.02, F32).reshape(1, 1, 1), np.zeros((1, 1, 1), np.uint8)
    values = scheme.quantize(x, given=given)[3].astype("f8")
    inputs, arguments, body = [x], [f"%x: tensor<?x{k}xf32>"], ""
    if static:
        inputs.append(np.array(0.02, F32))
        arguments.append("%s: tensor<f32>")
    if weight_scheme:
        bits, group, has_zero = weight_scheme
        g = k if group == -1 else group
        groups = -(-k // g)
        low, high = (0, 2**bits - 1) if has_zero else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        codes = rng.integers(low, high + 1, (rows, k))
        scales = rng.uniform(0.001, 0.1, (rows, groups)).astype(F32)
        zeros = rng.integers(0, high + 1, (rows, groups)).astype(np.uint8) if has_zero else np.zeros((rows, groups), np.uint8)
        spread = lambda grid: np.repeat(grid.astype("f8"), g, 1)[:, :k]
        weight = spread(scales) * (codes - spread(zeros))
        packed = codes.astype(np.uint8)
        if bits == 4:
            packed = np.pad(packed & 15, ((0, 0), (0, k % 2)))
            packed = packed[:, ::2] | packed[:, 1::2] << 4
        kinds = [f"tensor<{rows}x{packed.shape[1]}xi8>", f"tensor<{rows}x{groups}xf32>"] + [f"tensor<{rows}x{groups}xi8>"] * has_zero
        inputs += [packed.view(np.int8), scales] + [zeros.view(np.int8)] * has_zero
        arguments += [f"%w{i}: {kind}" for i, kind in enumerate(kinds)]
        operands = ", ".join(f"%w{i}" for i in range(len(kinds)))
        kind = f"!quant_llm.weight<{rows}x{k}xf32, #w>"
        body = f"  %w = quant_llm.assemble {operands} : ({', '.join(kinds)}) -> {kind}\n"
        header = f"#w = #quant_llm.scheme<{'u' if has_zero else ''}int{bits}, block = [1, {group}], scale = f32{', zero = int' if has_zero else ''}, rule = {'minmax' if has_zero else 'absmax'}, rounding = half_even>\n"
    else:
        weight = rng.normal(0, 1, (rows, k)).astype(F32).astype("f8")
        inputs.append(weight.astype(F32))
        kind, header = f"tensor<{rows}x{k}xf32>", ""
        arguments.append(f"%w: {kind}")
    expected = values @ weight.T
    name, offsets = "linear", ""
    if experts:
        name, offsets = "grouped_linear", f" offsets(%o : tensor<{experts + 1}xi32>)"
        bounds = np.sort(np.append(rng.integers(0, count + 1, experts - 1), (0, count))).astype(np.int32)
        inputs.append(bounds)
        arguments.append(f"%o: tensor<{experts + 1}xi32>")
        expected = np.concatenate([values[a:b] @ weight[e * n : (e + 1) * n].T for e, (a, b) in enumerate(zip(bounds, bounds[1:]))])
    activation = f"!quant_llm.activation<?x{k}xf32, #s>"
    module = f"""#s = {scheme}
{header}func.func @f({', '.join(arguments)}) -> tensor<?x{n}xf32> {{
{body}  %q = quant_llm.quantize_activation %x{' static(%s : tensor<f32>)' if static else ''} : tensor<?x{k}xf32> -> {activation}
  %y = quant_llm.{name} %q, %w{offsets} : ({activation}, {kind}) -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
"""
    for reference in (True, False):
        (actual,) = run(module, inputs, 1, reference)
        error = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
        assert error < 3e-6, (str(scheme), weight_scheme, count, k, reference, error)


for scheme, options in (
    (Scheme("int8", 1, -1), {}),
    (Scheme("int8", 1, -1, rule="absmax_full"), {"clip": 0.75}),
    (Scheme("int4", 1, 32, scale="f16"), {"expressed": "f16"}),
    (Scheme("int4", 1, 48), {"clip": 0.9}),
    (Scheme("uint8", 1, -1), {"expressed": "f16"}),
    (Scheme("uint4", 1, 48, scale="bf16"), {"clip": 0.8}),
    (Scheme("f8E4M3FN", 1, -1), {}),
    (Scheme("f8E5M2", 1, 25), {}),
    (Scheme("f4E2M1FN", 1, 32), {}),
    (Scheme("int8", -1, -1), {}),
    (Scheme("int8", -1, 20), {}),
    (Scheme("uint8", -1, 30), {}),
    (Scheme("int8", -1, -1), {"static": True}),
    (Scheme("int8", -1, 20), {"static": True}),
    (Scheme("uint8", -1, -1), {"static": True}),
    (Scheme("int4", 1, -1), {"static": True}),
    (Scheme("f8E4M3FN", -1, -1), {"static": True}),
):
    check_components(scheme, (5,), 100, **options)
check_components(Scheme("int8", 1, -1), (2, 3), 33)
check_components(Scheme("int8", 1, 11), (), 33)
check_components(Scheme("uint8", -1, 16), (2, 3), 32)
# Scales that overflow f16, and that underflow it.
check_components(Scheme("int4", 1, -1, scale="f16"), (4,), 32, x=np.outer([1e7, 1e-9, 1, 0], rng.normal(0, 1, 32)))
# An infinity or a NaN spoils its token, or everything that shares its scale.
spoiled = rng.normal(0, 1, (5, 32))
spoiled[1, 7], spoiled[2, 9], spoiled[4, 31] = np.inf, np.nan, -np.inf
for element in ("int8", "uint8", "f8E4M3FN"):
    check_components(Scheme(element, 1, -1), (5,), 32, x=spoiled)
    check_components(Scheme(element, -1, -1), (5,), 32, x=spoiled)
# With given scales infinities are clipped, and a NaN is 0 or the element's.
check_components(Scheme("int8", -1, 16), (5,), 32, x=spoiled, static=True)

token, tensor = Scheme("int8", 1, -1), Scheme("int8", -1, -1)
for count in (1, 3, 40):
    check_linear(token, count, 192, (8, -1, False))
    check_linear(token, count, 192, (4, 64, True))
    check_linear(Scheme("int4", 1, 64), count, 192, (4, 64, False))
    check_linear(Scheme("int8", 1, 64), count, 192, (8, 32, True))
    check_linear(Scheme("uint8", 1, -1), count, 192, (8, -1, True))
    check_linear(tensor, count, 192, (8, -1, False), static=True)
check_linear(token, 7, 99, (8, -1, False), n=13)
check_linear(Scheme("int4", 1, 48), 7, 100, (4, 48, False), n=13)
check_linear(Scheme("int8", -1, 20), 7, 100, (8, 20, False))
check_linear(Scheme("f8E4M3FN", 1, -1), 7, 96, (8, -1, False))
check_linear(token, 7, 96)
check_linear(token, 20, 64, (8, -1, False), n=8, experts=4)
check_linear(Scheme("int4", 1, 32), 20, 64, (4, 32, True), n=8, experts=4)
check_linear(tensor, 20, 64, (8, -1, False), n=8, experts=4)


def check_largest(element, byte, weight_zero, k):
    """Codes may be any bytes, whatever the element: all as large as they can be,
    sums of whose products 32-bit integers only hold for few channels."""
    scheme, zero = Scheme(element, 1, -1), ", zero = int"
    inputs = [np.full((2, k), byte, np.uint8).view(np.int8), np.ones(2, F32)] + [np.zeros(2, np.int8)] * scheme.has_zero
    inputs += [np.full((3, k), 255, np.uint8).view(np.int8), np.ones((3, 1), F32)] + [np.zeros((3, 1), np.int8)] * weight_zero
    kinds = [f"tensor<{shape(array.shape, {'int8': 'i8', 'float32': 'f32'}[str(array.dtype)])}>" for array in inputs]
    names, split = [f"%a{i}" for i in range(len(kinds))], 2 + scheme.has_zero
    activation, weight = f"!quant_llm.activation<2x{k}xf32, #s>", f"!quant_llm.weight<3x{k}xf32, #w>"
    module = f"""#s = {scheme}
#w = #quant_llm.scheme<uint8, block = [1, -1], scale = f32{zero if weight_zero else ''}, rule = {'minmax' if weight_zero else 'absmax'}, rounding = half_even>
func.func @f({', '.join(map(': '.join, zip(names, kinds)))}) -> tensor<2x3xf32> {{
  %q = quant_llm.assemble {', '.join(names[:split])} : ({', '.join(kinds[:split])}) -> {activation}
  %w = quant_llm.assemble {', '.join(names[split:])} : ({', '.join(kinds[split:])}) -> {weight}
  %y = quant_llm.linear %q, %w : ({activation}, {weight}) -> tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}}
"""
    expected = float(inputs[0][0, 0] if not scheme.has_zero else byte) * 255.0 * k
    (actual,) = run(module, inputs, 1, False)
    assert np.allclose(actual, expected, rtol=1e-3), (element, k, actual, expected)


for k in (32767, 32768, 40000):
    check_largest("uint2", 255, True, k)
for k in (32767, 70000):
    check_largest("int2", 0x80, False, k)
print("all right")
