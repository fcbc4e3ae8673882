# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Every code of every format against ml_dtypes, nf4 against scipy, and rounding against both."""

import subprocess

import ml_dtypes
import numpy as np
import pytest
import scipy.stats

SMALL_FLOATS = {
    "f4E2M1FN": ml_dtypes.float4_e2m1fn,
    "f6E2M3FN": ml_dtypes.float6_e2m3fn,
    "f6E3M2FN": ml_dtypes.float6_e3m2fn,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn,
    "f8E5M2": ml_dtypes.float8_e5m2,
}
SCALES = {
    "f16": (np.float16, np.uint16),
    "bf16": (ml_dtypes.bfloat16, np.uint16),
    "f8E8M0FNU": (ml_dtypes.float8_e8m0fnu, np.uint8),
    "f8E4M3FN": (ml_dtypes.float8_e4m3fn, np.uint8),
}


def dump(*arguments, data=b"", dtype=np.float32):
    result = subprocess.run(["quant-numerics-dump", *map(str, arguments)], input=data, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return np.frombuffer(result.stdout, dtype)


def encode(element, values, rounding="half_even"):
    return dump("encode", element, rounding, data=np.asarray(values, np.float32).tobytes(), dtype=np.uint8)


def same(ours, theirs):
    """Equal bits, all NaN being one."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    numbers = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


def boundaries(values):
    """All values, the middles between neighbours, and the f32 numbers next to these."""
    values = np.unique(values[np.isfinite(values)].astype(np.float64))
    middles = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, middles]).astype(np.float32)
    return np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))])


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_small_float_codes(name):
    bits = ml_dtypes.finfo(SMALL_FLOATS[name]).bits
    codes = np.arange(1 << bits, dtype=np.uint8)
    theirs = codes.view(SMALL_FLOATS[name]).astype(np.float32)
    same(dump("decode", name), theirs)
    np.testing.assert_array_equal(dump("used", name, dtype=np.uint8), np.isfinite(theirs))


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_small_float_rounding(name):
    kind = SMALL_FLOATS[name]
    largest = np.float32(ml_dtypes.finfo(kind).max)
    random = np.random.default_rng(1)
    values = np.concatenate(
        [
            boundaries(dump("decode", name)),
            random.normal(size=20000).astype(np.float32) * np.exp2(random.integers(-20, 20, 20000)).astype(np.float32),
            np.float32([0.0, -0.0, np.inf, -np.inf, 3e38, 1e-45]),
        ]
    )
    theirs = np.clip(values, -largest, largest).astype(kind).view(np.uint8)
    np.testing.assert_array_equal(encode(name, values), theirs)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("sign", ["int", "uint"])
def test_integer_codes(sign, bits):
    codes = np.arange(1 << bits)
    theirs = codes if sign == "uint" else np.where(codes < 1 << (bits - 1), codes, codes - (1 << bits))
    kind = getattr(ml_dtypes, f"{sign}{bits}", None)
    if kind is not None:  # sub-byte types of ml_dtypes: convert from the value and back
        np.testing.assert_array_equal(theirs.astype(kind).astype(np.int32), theirs)
        assert ml_dtypes.iinfo(kind).min == theirs.min() and ml_dtypes.iinfo(kind).max == theirs.max()
    same(dump("decode", f"{sign}{bits}"), theirs)
    values = boundaries(theirs.astype(np.float32))
    clipped = np.clip(values, theirs.min(), theirs.max()).astype(np.float64)
    mask = (1 << bits) - 1
    even = np.rint(clipped).astype(np.int64) & mask
    away = (np.sign(clipped) * np.floor(np.abs(clipped) + 0.5)).astype(np.int64) & mask
    np.testing.assert_array_equal(encode(f"{sign}{bits}", values), even)
    np.testing.assert_array_equal(encode(f"{sign}{bits}", values, "half_away"), away)


def test_ternary_codes():
    same(dump("decode", "ternary"), [0, 1, -2, -1])
    np.testing.assert_array_equal(dump("used", "ternary", dtype=np.uint8), [1, 1, 0, 1])
    np.testing.assert_array_equal(encode("ternary", [-9, -0.6, -0.5, 0.4, 0.5, 0.51, 9]), [3, 3, 0, 0, 0, 1, 1])


def test_nf4_is_its_formula():
    offset = 0.9677083
    positive = scipy.stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([positive, [0.0], negative]))
    values = (values / values.max()).astype(np.float32)
    ours = dump("decode", "nf4")
    np.testing.assert_allclose(ours, values, rtol=1.2e-7, atol=0)
    points = boundaries(ours)
    distance = np.abs(points[:, None].astype(np.float64) - ours[None].astype(np.float64))
    np.testing.assert_array_equal(encode("nf4", points), distance.argmin(1))  # the first of two: the smaller


def test_quantiles():
    p = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 4001), 10.0 ** -np.arange(1, 300)])
    ours = dump("quantile", data=p.tobytes(), dtype=np.float64)
    np.testing.assert_allclose(ours, scipy.stats.norm.ppf(p), rtol=1e-12, atol=1e-15)


def test_codebook():
    table = [1.5, -2.0, 0.0, 0.125]
    name = "codebook<2, [1.5, -2, 0, 0.125]>"
    same(dump("decode", name), table)
    np.testing.assert_array_equal(encode(name, [9, 0.8125, 0.82, 0.0625, 0.07, -1, -0.99]), [0, 3, 0, 2, 3, 1, 2])


@pytest.mark.parametrize("name", SCALES)
def test_scale_types(name):
    kind, bits = SCALES[name]
    codes = np.arange(1 << (8 * np.dtype(bits).itemsize)).astype(bits)
    with np.errstate(invalid="ignore"):
        theirs = codes.view(kind).astype(np.float32)
    same(dump("load", name), theirs)
    finite = theirs[np.isfinite(theirs)]
    values = boundaries(finite)
    values = values[np.abs(values) <= finite.max()]
    if name == "f8E8M0FNU":  # ml_dtypes rounds subnormal f32 numbers up, not to nearest
        values = values[(values == finite.min()) | (values >= np.finfo(np.float32).smallest_normal)]
    ours = dump("store", name, data=values.tobytes(), dtype=bits)
    np.testing.assert_array_equal(ours, values.astype(kind).view(bits))
