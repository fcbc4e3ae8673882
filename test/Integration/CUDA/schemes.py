# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Schemes, dequantization and the packed layout, in torch.

Written from docs/Spec.md and from the description of the layout alone, so that it can judge the C++ code: nothing here calls into the
project. Needs torch and the standard library only. Everything works on the CPU and on a GPU.
"""

import math
import statistics
import struct
from dataclasses import dataclass, field
from typing import Optional

import torch

FLOAT_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
SMALL_FLOATS = {  # bits: exponent, mantissa, bias
    "f4E2M1FN": (2, 1, 1),
    "f6E2M3FN": (2, 3, 1),
    "f6E3M2FN": (3, 2, 3),
    "f8E4M3FN": (4, 3, 7),
    "f8E5M2": (5, 2, 15),
}


# ---------------------------------------------------------------------------
# Schemes
# ---------------------------------------------------------------------------


def split_top(text):
    """Splits at commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "<[(") - (char in ">])")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    if current.strip():
        parts.append(current.strip())
    return parts


@dataclass
class Scheme:
    element: str
    bits: int
    table: list  # value of every code, as floats
    block_n: int = 1
    block_k: int = -1
    scale: str = "f16"
    scale_scheme: Optional["Scheme"] = None
    zero: str = "none"  # "none", "int" or a float type

    @staticmethod
    def parse(text):
        """`int4, block = [1, 128], scale = f16, ...`, with or without `#quant_llm.scheme<...>` around it."""
        text = text.strip()
        for prefix in ("#quant_llm.scheme<", "scheme<"):
            if text.startswith(prefix) and text.endswith(">"):
                text = text[len(prefix) : -1]
        parts = split_top(text)
        element, bits, table = parse_element(parts[0])
        scheme = Scheme(element, bits, table)
        for part in parts[1:]:
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name == "block":
                scheme.block_n, scheme.block_k = (int(piece) for piece in value.strip("[]").split(","))
            elif name == "scale":
                if "scheme<" in value:
                    scheme.scale_scheme = Scheme.parse(value)
                else:
                    scheme.scale = value
            elif name == "zero":
                scheme.zero = value
            elif name not in ("rule", "rounding"):
                raise ValueError(f"unknown field '{name}' in scheme '{text}'")
        return scheme

    @property
    def is_integer(self):
        return self.element == "ternary" or self.element.startswith(("int", "uint"))

    def grid(self, n, k):
        block_n = n if self.block_n == -1 else self.block_n
        block_k = k if self.block_k == -1 else self.block_k
        return block_n, block_k, -(-n // block_n), -(-k // block_k)


def parse_element(name):
    if name == "ternary":
        return name, 2, [0.0, 1.0, -2.0, -1.0]
    if name == "nf4":
        return name, 4, nf4_table()
    if name in SMALL_FLOATS:
        bits = 1 + sum(SMALL_FLOATS[name][:2])
        return name, bits, [decode_small_float(name, code) for code in range(1 << bits)]
    if name.startswith("codebook<"):
        bits, values = name[len("codebook<") : -1].split(",", 1)
        table = [to_f32(float(value)) for value in values.strip().strip("[]").split(",")]
        if len(table) != 1 << int(bits):
            raise ValueError(f"expected {1 << int(bits)} values in '{name}'")
        return "codebook", int(bits), table
    for prefix, signed in (("uint", False), ("int", True)):
        if name.startswith(prefix):
            bits = int(name[len(prefix) :])
            half = 1 << (bits - 1)
            return name, bits, [float(code - 2 * half if signed and code >= half else code) for code in range(1 << bits)]
    raise ValueError(f"unknown element '{name}'")


def to_f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def decode_small_float(name, code):
    exponent_bits, mantissa_bits, bias = SMALL_FLOATS[name]
    mantissa = code & ((1 << mantissa_bits) - 1)
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    sign = -1.0 if code >> (mantissa_bits + exponent_bits) else 1.0
    if name == "f8E4M3FN" and exponent == 15 and mantissa == 7:
        return math.nan
    if name == "f8E5M2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


def nf4_table():
    quantile = statistics.NormalDist().inv_cdf
    p = 0.9677083
    positive = [quantile(p + (0.5 - p) * i / 8) for i in range(8)]
    negative = [-quantile(p + (0.5 - p) * i / 7) for i in range(7)]
    return [to_f32(value / quantile(p)) for value in sorted(negative + [0.0] + positive)]


# ---------------------------------------------------------------------------
# Scales and zeros: values and stored bytes
# ---------------------------------------------------------------------------


def decode_floats(raw, kind):
    """A tensor of stored scales or zeros (bytes for the 8-bit types) as f32."""
    if kind in FLOAT_TYPES:
        return raw.float()
    if kind == "f8E8M0FNU":
        # 2^(code - 127); ldexp of f32 is exact down to the subnormal 2^-127.
        return torch.ldexp(torch.ones_like(raw, dtype=torch.float64), raw.to(torch.float64) - 127).float()
    if kind == "f8E4M3FN":
        table = torch.tensor(parse_element(kind)[2], dtype=torch.float32, device=raw.device)
        return table[raw.long()]
    raise ValueError(f"unknown type '{kind}'")


@dataclass
class Weight:
    """The components of a stored weight: raw codes [N, K], and scales and zeros on the grid of blocks."""

    n: int
    k: int
    scheme: Scheme
    codes: torch.Tensor
    scales: torch.Tensor = None  # of the stored type; bytes for 8-bit floats
    scale_weight: Optional["Weight"] = None  # under double quantization
    zeros: Optional[torch.Tensor] = None
    cache: dict = field(default_factory=dict)

    @property
    def device(self):
        return self.codes.device

    def scale_values(self):
        """f32 scales on the grid."""
        if self.scale_weight is not None:
            return self.scale_weight.dequantize()
        return decode_floats(self.scales, self.scheme.scale)

    def zero_values(self):
        if self.zeros is None:
            return None
        return self.zeros.float() if self.scheme.zero == "int" else decode_floats(self.zeros, self.scheme.zero)

    def expand(self, grid):
        """From the grid of blocks to [N, K]."""
        block_n, block_k, _, _ = self.scheme.grid(self.n, self.k)
        rows = torch.arange(self.n, device=self.device) // block_n
        columns = torch.arange(self.k, device=self.device) // block_k
        return grid[rows][:, columns]

    def dequantize(self):
        """docs/Spec.md, section 3, in f32."""
        table = torch.tensor(self.scheme.table, dtype=torch.float32, device=self.device)
        value = table[self.codes.int()]
        scale = self.expand(self.scale_values())
        if self.zeros is None:
            return value.mul_(scale)
        zero = self.expand(self.zero_values())
        if self.scheme.zero == "int":
            return value.sub_(zero).mul_(scale)
        return value.mul_(scale).add_(zero)


    def terms(self, column):
        """The most that is added up for the weights of a column with a float zero, without signs. Kernels may count codes from elsewhere."""
        table = torch.tensor(self.scheme.table)
        largest = float(table[torch.isfinite(table)].abs().max())
        scale, zero = self.expand(self.scale_values())[:, column], self.expand(self.zero_values())[:, column]
        return largest * scale.abs() + zero.abs()


def random_weight(n, k, scheme, generator, device="cpu"):
    """Random codes (all that an encoder may produce), scales of about the size of a trained layer, and zeros."""

    def uniform(shape, low, high):
        return torch.rand(shape, generator=generator, device=device) * (high - low) + low

    table = torch.tensor(scheme.table)
    used = torch.isfinite(table)
    if scheme.element == "ternary":
        used[2] = False
    used = torch.nonzero(used).flatten().to(torch.uint8).to(device)
    codes = used[torch.randint(len(used), (n, k), generator=generator, device=device)]
    finite = table[torch.isfinite(table)]
    largest = max(float(finite.abs().max()), 1e-30)
    _, _, grid_n, grid_k = scheme.grid(n, k)
    shape = (grid_n, grid_k)
    weight = Weight(n, k, scheme, codes)
    if scheme.scale_scheme is not None:
        # Positive scales: the scale of a scale must not change its sign, so keep to codes of positive values.
        inner = random_weight(*shape, scheme.scale_scheme, generator, device)
        values = torch.tensor(scheme.scale_scheme.table)
        positive = torch.nonzero(torch.isfinite(values) & (values > 0)).flatten().to(torch.uint8).to(device)
        if inner.zeros is None:
            inner.codes = positive[torch.randint(len(positive), shape, generator=generator, device=device)]
        weight.scale_weight = inner
        magnitude = float(inner.dequantize().abs().max()) * largest
        factor = 2.0 ** -round(math.log2(magnitude / 0.05)) if magnitude > 0 else 1.0
        if inner.scales is not None and inner.scheme.scale in FLOAT_TYPES:
            inner.scales = (inner.scales.float() * factor).to(inner.scales.dtype)
    elif scheme.scale in FLOAT_TYPES:
        weight.scales = uniform(shape, 0.01 / largest, 0.06 / largest).to(FLOAT_TYPES[scheme.scale])
    elif scheme.scale == "f8E8M0FNU":
        middle = 127 + round(math.log2(0.03 / largest))
        weight.scales = torch.randint(middle - 3, middle + 2, shape, generator=generator, device=device).to(torch.uint8)
    elif scheme.scale == "f8E4M3FN":
        weight.scales = torch.randint(0x04, 0x31, shape, generator=generator, device=device).to(torch.uint8)
    else:
        raise ValueError(f"unknown scale type '{scheme.scale}'")
    if scheme.zero == "int":
        weight.zeros = torch.randint(0, 1 << scheme.bits, shape, generator=generator, device=device).to(torch.uint8)
    elif scheme.zero != "none":
        spread = weight.scale_values() * largest
        zeros = spread * uniform(shape, -1.0, 1.0)
        weight.zeros = zeros.to(torch.float8_e4m3fn).view(torch.uint8) if scheme.zero == "f8E4M3FN" else zeros.to(FLOAT_TYPES[scheme.zero])
    return weight


def unpack_codes(data, k, bits):
    """Rows of the canonical storage (bytes [N, ceil(K*b/8)]) as one code per byte."""
    n = data.shape[0]
    bit = (data.unsqueeze(-1) >> torch.arange(8, device=data.device, dtype=torch.uint8)) & 1
    bit = bit.reshape(n, -1)[:, : k * bits].reshape(n, k, bits).int()
    return (bit << torch.arange(bits, device=data.device, dtype=torch.int32)).sum(-1).to(torch.uint8)


def pack_codes(codes, bits):
    """Inverse of unpack_codes."""
    n, k = codes.shape
    bit = (codes.int().unsqueeze(-1) >> torch.arange(bits, device=codes.device, dtype=torch.int32)) & 1
    bit = torch.nn.functional.pad(bit.reshape(n, k * bits), (0, -k * bits % 8)).reshape(n, -1, 8)
    return (bit << torch.arange(8, device=codes.device, dtype=torch.int32)).sum(-1).to(torch.uint8)


# ---------------------------------------------------------------------------
# The packed layout
# ---------------------------------------------------------------------------


def planes(bits):
    """(width, shift) of the planes of a code, in their order."""
    if bits == 8:
        return [(8, 0)]
    result, shift = [], 0
    if bits >= 4:
        result.append((4, 0))
        shift = 4
    for width in (2, 1):
        if bits & width:
            result.append((width, shift))
            shift += width
    return result


def num_strips(n):
    return 4 * -(-n // 64)


def num_units(k):
    return -(-k // 128)


def position(width, step, register, half):
    """(word of the lane, bit in the word) of the element (step j, register r, half e) of a plane."""
    if width == 8:
        return 2 * step + (register >> 1), (3 + 8 * (register & 1) + 16 * half) % 32
    per_word = 4 // width
    slot = 4 * (step % per_word) + register
    return step // per_word, (7 - width * (slot & 1) + 2 * width * (slot >> 1) + 16 * half) % 32


def stored_codes(weight):
    """Codes as they are packed: signed integers in offset binary."""
    if weight.scheme.element == "ternary" or weight.scheme.element.startswith("int"):
        return weight.codes ^ (1 << (weight.scheme.bits - 1))
    return weight.codes


def padding_code(scheme):
    """The stored code of value 0, for padding."""
    if scheme.element == "ternary" or scheme.element.startswith("int"):
        return 1 << (scheme.bits - 1)
    return scheme.table.index(0.0) if 0.0 in scheme.table else 0


def padded_codes(weight):
    """Stored codes [16 S, 128 U]."""
    n, k = weight.n, weight.k
    rows, columns = 16 * num_strips(n), 128 * num_units(k)
    result = torch.full((rows, columns), padding_code(weight.scheme), dtype=torch.uint8, device=weight.device)
    result[:n, :k] = stored_codes(weight)
    if weight.scheme.zero == "int":
        # Columns beyond K belong to the last group and have the value 0 under its zero.
        block_n, _, _, grid_k = weight.scheme.grid(n, k)
        last = weight.zeros[torch.arange(n, device=weight.device) // block_n, grid_k - 1]
        result[:n, k:] = last.unsqueeze(1)
    return result


def pack_fragments(padded, bits):
    """Stored codes [16 S, 128 U] to bytes [S, U, 256 * bits]."""
    strips, units = padded.shape[0] // 16, padded.shape[1] // 128
    # row = 16 s + 8 r0 + g, k = 128 u + 16 j + 8 r1 + 2 c + e.
    fragments = padded.reshape(strips, 2, 8, units, 8, 2, 4, 2).permute(0, 3, 2, 6, 4, 5, 1, 7)
    fragments = fragments.reshape(strips, units, 32, 8, 2, 2, 2)  # s, u, lane, j, r1, r0, e
    result = []
    for width, shift in planes(bits):
        words = torch.zeros((strips, units, 32, 2 * width), dtype=torch.int32, device=padded.device)
        for step in range(8):
            for register in range(4):
                for half in range(2):
                    value = fragments[:, :, :, step, register >> 1, register & 1, half].int()
                    value = (value >> shift) & ((1 << width) - 1)
                    word, bit = position(width, step, register, half)
                    words[..., word] |= value << bit
                    if bit + width > 32:
                        words[..., word] |= value >> (32 - bit)
        vector = min(4, 2 * width)
        words = words.reshape(strips, units, 32, 2 * width // vector, vector).permute(0, 1, 3, 2, 4)
        result.append(words.contiguous().view(torch.uint8).reshape(strips, units, 256 * width))
    return torch.cat(result, dim=2)


def pack_grid(weight, grid, fill):
    """Values on the grid of blocks to [S, G, 16], expanded along the rows; index 2 * (row % 8) + row / 8."""
    n = weight.n
    block_n, _, _, grid_k = weight.scheme.grid(n, weight.k)
    rows = torch.full((16 * num_strips(n), grid_k), fill, dtype=grid.dtype, device=grid.device)
    rows[:n] = grid[torch.arange(n, device=grid.device) // block_n]
    return rows.reshape(-1, 2, 8, grid_k).permute(0, 3, 2, 1).reshape(-1, grid_k, 16).contiguous()


@dataclass
class Packed:
    packed: torch.Tensor
    scales: torch.Tensor
    scale_type: str
    zeros: Optional[torch.Tensor]
    output_scale: float


def shift_of(largest):
    """The smallest t with largest * 2^-t < 2^-6."""
    return math.frexp(largest)[1] + 6 if largest > 0 else 0


def pack_weight(weight):
    scheme = weight.scheme
    packed = pack_fragments(padded_codes(weight), scheme.bits)
    zeros = weight.zeros
    shift, output_scale = 0, 1.0
    if scheme.scale_scheme is not None:
        inner = scheme.scale_scheme
        # A float zero is added beside the product with the inner scale, which no scale behind the sum would fit.
        one_level = scheme.zero in ("none", "int") and inner.scale_scheme is None and inner.zero == "none"
        if inner.element == "f8E4M3FN" and inner.block_n == -1 and inner.block_k == -1 and one_level:
            scales, kind = weight.scale_weight.codes, "f8E4M3FN"
            output_scale = float(weight.scale_weight.scale_values().flatten()[0])
        else:
            scales, kind = weight.scale_values(), "f32"
    else:
        scales, kind = weight.scales, scheme.scale
        if kind == "f8E4M3FN" and scheme.element == "f8E5M2":
            # Products of both types are beyond f16: the scales are shifted, in a type that holds them exactly.
            scales, kind = decode_floats(scales, kind).half(), "f16"
    if kind != "f8E4M3FN":
        largest = float(decode_floats(scales, kind).abs().max())
        shift = shift_of(largest)
        output_scale = 2.0**shift
        if kind == "f8E8M0FNU":
            scales = (scales.int() - shift).clamp(min=0).to(torch.uint8)
        else:
            scales = (scales.double() * 2.0**-shift).to(scales.dtype)
    if zeros is not None and scheme.zero != "int":
        # Zeros of 8 bits become f16.
        zeros = (decode_floats(zeros, scheme.zero).double() / output_scale).to(FLOAT_TYPES.get(scheme.zero, torch.float16))
    _, block_k, _, _ = scheme.grid(weight.n, weight.k)
    if block_k < 16 and weight.k > block_k:
        if scheme.block_n != -1:
            raise ValueError("blocks of fewer than 16 columns need the whole of N as block")

        def spread(grid):
            columns = torch.arange(128 * num_units(weight.k), device=grid.device)
            row = grid[0][(columns // block_k).clamp(max=grid.shape[1] - 1)]
            row[weight.k :] = 0
            return row.contiguous()

        return Packed(packed, spread(scales), kind, None if zeros is None else spread(zeros), output_scale)
    return Packed(packed, pack_grid(weight, scales, 0), kind, None if zeros is None else pack_grid(weight, zeros, 0), output_scale)


# ---------------------------------------------------------------------------
# Self-test on the CPU: the index map, element by element, against the vectorized code
# ---------------------------------------------------------------------------


def unpack_one(data, bits, n, k):
    """The stored code of element (n, k), found by the words of the layout's description."""
    strip, row = divmod(n, 16)
    unit, column = divmod(k, 128)
    half_row, group = divmod(row, 8)
    step, rest = divmod(column, 16)
    upper, rest = divmod(rest, 8)
    lane, half = 4 * group + rest // 2, rest % 2
    register = half_row + 2 * upper
    unit_bytes = bytes(data[strip, unit].tolist())
    code, begin = 0, 0
    for width, shift in planes(bits):
        word, bit = position(width, step, register, half)
        vector = min(4, 2 * width)
        offset = begin + ((word // vector) * 32 + lane) * 4 * vector + 4 * (word % vector)
        value = int.from_bytes(unit_bytes[offset : offset + 4], "little")
        rotated = ((value >> bit) | (value << (32 - bit))) & 0xFFFFFFFF
        code |= (rotated & ((1 << width) - 1)) << shift
        begin += 256 * width
    return code


def self_test():
    generator = torch.Generator().manual_seed(1)
    for bits in range(1, 9):
        # Every bit of a unit belongs to exactly one element.
        used = set()
        for width, shift in planes(bits):
            for step in range(8):
                for register in range(4):
                    for half in range(2):
                        word, bit = position(width, step, register, half)
                        for i in range(width):
                            used.add((width, word, (bit + i) % 32))
        assert len(used) == 64 * bits, bits
        for n, k in ((1, 1), (17, 130), (65, 172)):
            weight = random_weight(n, k, Scheme.parse(f"uint{bits}, block = [1, 32], scale = f16, zero = int"), generator)
            packed = pack_weight(weight)
            assert packed.packed.shape == (num_strips(n), num_units(k), 256 * bits)
            padded = padded_codes(weight)
            for row in range(0, padded.shape[0], 3):
                for column in range(0, padded.shape[1], 7):
                    assert unpack_one(packed.packed, bits, row, column) == int(padded[row, column]), (bits, n, k, row, column)
            assert torch.equal(unpack_codes(pack_codes(weight.codes, bits), k, bits), weight.codes)
            groups = -(-k // 32)
            assert packed.scales.shape == (num_strips(n), groups, 16)
            for row in range(0, n, 5):
                for group in range(groups):
                    stored = packed.scales[row // 16, group, 2 * (row % 8) + row % 16 // 8]
                    assert float(stored) * packed.output_scale == float(weight.scales[row, group])
    # A few values by hand.
    assert parse_element("f4E2M1FN")[2][:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert parse_element("f8E4M3FN")[2][0x7E] == 448 and parse_element("f8E5M2")[2][0x7B] == 57344
    assert parse_element("int4")[2][15] == -1 and parse_element("ternary")[2][3] == -1
    assert nf4_table()[0] == -1 and nf4_table()[7] == 0 and nf4_table()[15] == 1
    assert shift_of(2.0**-6) == 1 and shift_of(2.0**-6 * 0.999) == 0 and shift_of(1.0) == 7 and shift_of(2.0**-20) == -13
    for text, value in (("int4, block = [1, 2], scale = f16", -3.5), ("uint4, block = [1, 2], scale = f16, zero = int", 3.5)):
        scheme = Scheme.parse(text)
        codes = torch.tensor([[9, 1]], dtype=torch.uint8)
        zeros = torch.tensor([[2]], dtype=torch.uint8) if scheme.zero == "int" else None
        weight = Weight(1, 2, scheme, codes, torch.tensor([[0.5]], dtype=torch.float16), None, zeros)
        assert float(weight.dequantize()[0, 0]) == value
    scheme = Scheme.parse("#quant_llm.scheme<f4E2M1FN, block = [1, 16], scale = #quant_llm.scheme<f8E4M3FN, block = [-1, -1], scale = f32>>")
    weight = random_weight(40, 80, scheme, generator)
    packed = pack_weight(weight)
    assert packed.scale_type == "f8E4M3FN" and packed.scales.shape == (4, 5, 16)
    inner = weight.scale_weight
    expected = decode_floats(inner.codes, "f8E4M3FN") * inner.scale_values()
    assert torch.equal(weight.scale_values(), expected)
    for text in ("ternary, block = [1, -1], scale = bf16", "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = f32>", "f8E4M3FN, block = [128, 128], scale = f8E8M0FNU", "int8, block = [-1, 1], scale = f32", "codebook<2, [-1, 0, 0.5, 1]>, block = [-1, -1], scale = f16", "uint5, block = [1, 24], scale = bf16, zero = bf16", "int3, block = [1, 64], scale = f8E8M0FNU, zero = f8E4M3FN"):
        weight = random_weight(40, 172, Scheme.parse(text), generator)
        values = weight.dequantize()
        assert torch.isfinite(values).all() and 1e-3 < float(values.abs().max()) < 10, text
        pack_weight(weight)
    print("schemes and layout: ok")


if __name__ == "__main__":
    self_test()
