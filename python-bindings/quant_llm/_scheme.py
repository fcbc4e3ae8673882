# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Schemes as text, and what docs/Weights.md says of weights packed under them.
Standard library only."""

import functools
import math
import re
import statistics
import struct
from dataclasses import dataclass

from ._errors import QuantLLMError

# Exponent bits, mantissa bits, bias.
_SMALL_FLOATS = {"f4E2M1FN": (2, 1, 1), "f6E2M3FN": (2, 3, 1), "f6E3M2FN": (3, 2, 3), "f8E4M3FN": (4, 3, 7), "f8E5M2": (5, 2, 15)}

FLOAT_BYTES = {"f16": 2, "bf16": 2, "f32": 4, "f8E8M0FNU": 1, "f8E4M3FN": 1}


@dataclass(frozen=True)
class Scheme:
    """`text` is canonical, without rule and rounding (empty for the defaults),
    which do not change what codes mean."""

    text: str
    element: str
    bits: int
    signed: bool
    block_n: int
    block_k: int
    scale: str
    inner: "Scheme | None"
    zero: str
    rule: str
    rounding: str

    @property
    def attribute(self):
        """As an attribute of MLIR, with rule and rounding."""
        # The default, absmax, has no zeros.
        rule = self.rule or ("" if self.zero == "none" else "minmax")
        more = (f", rule = {rule}" if rule else "") + (f", rounding = {self.rounding}" if self.rounding else "")
        return f"#quant_llm.scheme<{self._fields(True)}{more}>"

    def _fields(self, attribute):
        element, scale = self.element, self.scale
        if attribute and element.startswith("codebook"):
            # Numbers of a codebook must not look like integers there.
            element = f"codebook<{self.bits}, [{', '.join(f'{value:.9e}' for value in self.table)}]>"
        if self.inner:
            scale = self.inner.attribute if attribute else f"scheme<{self.inner.text}>"
        zero = "" if self.zero == "none" else f", zero = {self.zero}"
        return f"{element}, block = [{self.block_n}, {self.block_k}], scale = {scale}{zero}"

    @functools.cached_property
    def table(self):
        """The value of every stored code (docs/Weights.md: signed integers are in
        offset binary)."""
        return _element_values(self.element, self.bits)

    @property
    def packed_scale_type(self):
        if self.inner is None:
            return self.scale
        # One scale for all scales (NVFP4) goes into the output scale.
        is_scalar = self.inner.element == "f8E4M3FN" and (self.inner.block_n, self.inner.block_k) == (-1, -1)
        return "f8E4M3FN" if is_scalar and self.zero in ("none", "int") else "f32"

    @property
    def packed_zero_type(self):
        """"none", "int" or a type of floats."""
        return "f16" if self.zero == "f8E4M3FN" else self.zero

    def has_column_scales(self, n, k):
        """Whether there is one scale for every column."""
        return self.block_size_k(k) < 16 and k > self.block_size_k(k) and (self.block_n == -1 or self.block_n >= n)

    def block_size_k(self, k):
        return k if self.block_k == -1 else min(self.block_k, k)

    def packed_shapes(self, n, k):
        """Shapes of packed, packed_scales and packed_zeros (None if there are
        none) as bytes: the last dimension holds the bytes of the elements."""
        strips, units = 4 * -(-n // 64), -(-k // 128)
        grid = (128 * units,) if self.has_column_scales(n, k) else (strips, -(-k // self.block_size_k(k)), 16)

        def of_bytes(size):
            return grid[:-1] + (grid[-1] * size,)

        zeros = None if self.zero == "none" else of_bytes(1 if self.zero == "int" else FLOAT_BYTES[self.packed_zero_type])
        return (strips, units, 256 * self.bits), of_bytes(FLOAT_BYTES[self.packed_scale_type]), zeros


def _split(text):
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "<[") - (char in ">]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


@functools.lru_cache(maxsize=1024)
def parse_scheme(text):
    """The Scheme of a text such as `int4, block = [1, 128], scale = f16`, with or
    without `#quant_llm.scheme<...>` around it. Raises QuantLLMError."""
    body = text.strip()
    wrapped = re.fullmatch(r"(?:#quant_llm\.)?scheme<(.*)>", body, re.DOTALL)
    parts = _split(wrapped.group(1) if wrapped else body)
    fields = {"block": "[1, -1]", "scale": "f16", "zero": "none", "rule": "", "rounding": ""}
    for part in parts[1:]:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in fields or not equals or (name in ("rule", "rounding") and not re.fullmatch(r"\w+", value)):
            raise QuantLLMError(f"expected fields block, scale, zero, rule and rounding but got '{part}' in the scheme '{text}'")
        fields[name] = value
    element, bits, signed = _parse_element(parts[0], text)
    block = re.fullmatch(r"\[\s*(-1|[1-9]\d*)\s*,\s*(-1|[1-9]\d*)\s*\]", fields["block"])
    if not block:
        raise QuantLLMError(f"expected a block of two sizes, or -1 for a whole dimension, but got '{fields['block']}' in the scheme '{text}'")
    scale, inner = fields["scale"], None
    if "scheme<" in scale:
        inner = parse_scheme(scale)
        scale = ""
    elif scale not in FLOAT_BYTES:
        raise QuantLLMError(f"expected a scale of {', '.join(FLOAT_BYTES)} or a scheme but got '{scale}' in the scheme '{text}'")
    zero = fields["zero"]
    if zero not in ("none", "int", "f16", "bf16", "f32", "f8E4M3FN"):
        raise QuantLLMError(f"expected a zero of none, int, f16, bf16, f32 or f8E4M3FN but got '{zero}' in the scheme '{text}'")
    scheme = Scheme("", element, bits, signed, int(block.group(1)), int(block.group(2)), scale, inner, zero, fields["rule"], fields["rounding"])
    object.__setattr__(scheme, "text", scheme._fields(False))
    return scheme


def _parse_element(name, text):
    integer = re.fullmatch(r"(u?)int([1-8])", name)
    if integer:
        return name, int(integer.group(2)), not integer.group(1)
    if name == "ternary":
        return name, 2, True
    if name == "nf4":
        return name, 4, False
    if name in _SMALL_FLOATS:
        return name, 1 + sum(_SMALL_FLOATS[name][:2]), False
    codebook = re.fullmatch(r"codebook<\s*([1-8])\s*,\s*\[(.*)\]\s*>", name, re.DOTALL)
    if codebook:
        bits = int(codebook.group(1))
        try:
            values = [_round_to_f32(float(value)) for value in codebook.group(2).split(",")]
        except (ValueError, OverflowError):
            values = []
        if len(values) != 1 << bits:
            raise QuantLLMError(f"expected {1 << bits} values in a codebook of {bits} bits in the scheme '{text}'")
        return f"codebook<{bits}, [{', '.join(f'{value:.9g}' for value in values)}]>", bits, False
    raise QuantLLMError(f"expected an element such as int4, uint8, ternary, nf4, f4E2M1FN or codebook<...> but got '{name}' in the scheme '{text}'")


def _element_values(element, bits):
    codes = range(1 << bits)
    if element == "nf4":
        return _nf4()
    if element in _SMALL_FLOATS:
        return tuple(_small_float(element, code) for code in codes)
    if element.startswith("codebook"):
        return tuple(_round_to_f32(float(value)) for value in element[element.index("[") + 1 : -2].split(","))
    offset = 0 if element.startswith("uint") else 1 << (bits - 1)
    return tuple(float(code - offset) for code in codes)


def _round_to_f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def _small_float(name, code):
    exponent_bits, mantissa_bits, bias = _SMALL_FLOATS[name]
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent, mantissa = code >> mantissa_bits & ((1 << exponent_bits) - 1), code & ((1 << mantissa_bits) - 1)
    if name == "f8E4M3FN" and (exponent, mantissa) == (15, 7):
        return math.nan
    if name == "f8E5M2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)


@functools.lru_cache(maxsize=None)
def _nf4():
    """Quantiles of the normal distribution (docs/Spec.md)."""
    quantile, last = statistics.NormalDist().inv_cdf, 0.9677083
    positive = [quantile(last + (0.5 - last) * i / 8) for i in range(8)]
    negative = [-quantile(last + (0.5 - last) * i / 7) for i in range(7)]
    return tuple(_round_to_f32(value / quantile(last)) for value in sorted(negative + [0.0] + positive))
