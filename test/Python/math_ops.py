# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Ops of math that upstream does not lower, or wrongly, on the CPU; what cannot be compiled is an exception."""

import ml_dtypes
import numpy as np
import pytest
import quant_llm
from quant_llm import QuantLLMError
from quant_llm.runtime import Engine

TYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
EXPONENTS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i48": 48, "i64": 64, "index": 64}
SHAPE = "tensor<?x{}>"


def cast(value, result, source, target, narrow, wide):
    if source == target:
        return f"{result} = tensor.cast {value} : {SHAPE.format(source)} to {SHAPE.format(source)}"
    op = "arith.index_cast" if "index" in (source, target) else narrow if source in ("i64", "f64") else wide
    return f"{result} = {op} {value} : {SHAPE.format(source)} to {SHAPE.format(target)}"


def float_cast(value, result, source, target):
    return cast(value, result, source, target, "arith.truncf", "arith.extf")


def wrap(number, bits):
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


BASES = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 1.1, -0.7, 1e-3, 250.0, np.inf, -np.inf, np.nan, 1e-7, 2.0**-24]
POWERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 8, 10, -10, 31, 100, -100, 127, -128, 1000]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("element", TYPES)
def test_powers_of_floats(element, exponent):
    engine = Engine(f"""func.func @power(%x: tensor<?xf64>, %e: tensor<?xi64>) -> tensor<?xf64> {{
      {float_cast("%x", "%a", "f64", element)}
      {cast("%e", "%b", "i64", exponent, "arith.trunci", "")}
      %p = math.fpowi %a, %b : {SHAPE.format(element)}, {SHAPE.format(exponent)}
      {float_cast("%p", "%r", element, "f64")}
      return %r : tensor<?xf64>
    }}""".encode(), cache=False)
    base, power = (v.ravel() for v in np.meshgrid(BASES, np.array(POWERS, np.int64)))
    (result,) = engine.invoke("power", base, power.astype(np.int64))
    with np.errstate(all="ignore"):
        base = base.astype(TYPES[element]).astype(np.float64)
        power = [wrap(int(p), EXPONENTS[exponent]) for p in power]
        expected = np.power(base, np.array(power, np.float64)).astype(TYPES[element]).astype(np.float64)
    # Those of f64 are products of products; all others are rounded once.
    np.testing.assert_allclose(result, expected, rtol=1e-12 if element == "f64" else 2e-7, atol=1e-45)
    np.testing.assert_array_equal(np.signbit(result[~np.isnan(result)]), np.signbit(expected[~np.isnan(result)]))


@pytest.mark.parametrize("element", EXPONENTS)
def test_powers_of_integers(element):
    engine = Engine(f"""func.func @power(%x: tensor<?xi64>, %e: tensor<?xi64>) -> tensor<?xi64> {{
      {cast("%x", "%a", "i64", element, "arith.trunci", "")}
      {cast("%e", "%b", "i64", element, "arith.trunci", "")}
      %p = math.ipowi %a, %b : {SHAPE.format(element)}
      {cast("%p", "%r", element, "i64", "", "arith.extsi")}
      return %r : tensor<?xi64>
    }}""".encode(), cache=False)
    bits = EXPONENTS[element]

    def exact(base, power):
        if power >= 0:
            return wrap(pow(base, power, 1 << bits), bits)
        return {1: 1, -1: -1 if power % 2 else 1}.get(base, 0)

    numbers = [0, 1, -1, 2, -2, 3, 5, -7, 11, 63, 64, 100, 127, -128, 1 << 31, -(1 << 62)]
    pairs = {(wrap(b, bits), wrap(p, bits)) for b in numbers for p in numbers}
    pairs = sorted((b, p) for b, p in pairs if b or p >= 0)
    base, power = (np.array(column, np.int64) for column in zip(*pairs))
    (result,) = engine.invoke("power", base, power)
    assert result.tolist() == [exact(b, p) for b, p in pairs]
    with pytest.raises(QuantLLMError, match="expected an exponent that is not negative of the base 0 in math.ipowi"):
        engine.invoke("power", np.array([3, 0], np.int64), np.array([1, -1], np.int64))


def test_a_power_in_a_loop():
    # The power does not depend on the loop, which may not run at all.
    engine = Engine(b"""func.func @power(%x: i32, %e: i32, %n: index) -> i32 {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %zero = arith.constant 0 : i32
      %r = scf.for %i = %c0 to %n step %c1 iter_args(%sum = %zero) -> i32 {
        %p = math.ipowi %x, %e : i32
        %s = arith.addi %sum, %p : i32
        scf.yield %s : i32
      }
      return %r : i32
    }""", cache=False)
    assert engine.invoke("power", np.int32(0), np.int32(-1), 0)[0] == 0
    assert engine.invoke("power", np.int32(3), np.int32(2), 4)[0] == 36
    with pytest.raises(QuantLLMError, match="base 0"):
        engine.invoke("power", np.int32(0), np.int32(-1), 1)


@pytest.mark.parametrize("element", TYPES)
def test_clamps_and_classes(element):
    shape = SHAPE.format(element)
    engine = Engine(f"""func.func @classes(%x: tensor<?xf64>, %low: tensor<?xf64>, %high: tensor<?xf64>)
        -> (tensor<?xf64>, tensor<?xi8>, tensor<?xi8>) {{
      {float_cast("%x", "%a", "f64", element)}
      {float_cast("%low", "%l", "f64", element)}
      {float_cast("%high", "%h", "f64", element)}
      %c = math.clampf %a to [%l, %h] : {shape}
      %i = math.isinf %a : {shape}
      %n = math.isnormal %a : {shape}
      {float_cast("%c", "%r", element, "f64")}
      %ri = arith.extui %i : tensor<?xi1> to tensor<?xi8>
      %rn = arith.extui %n : tensor<?xi1> to tensor<?xi8>
      return %r, %ri, %rn : tensor<?xf64>, tensor<?xi8>, tensor<?xi8>
    }}""".encode(), cache=False)
    least = float(ml_dtypes.finfo(TYPES[element]).smallest_normal)
    x = np.array([0, -0.0, 0.25, -0.75, 3, -5, np.inf, -np.inf, np.nan, least, -least, least / 2, -least / 2])
    clamped, infinite, normal = engine.invoke("classes", x, np.full_like(x, -0.5), np.full_like(x, 2))
    # Processors take subnormal numbers of bf16 for 0.
    some = x[:-2] if element == "bf16" else x
    np.testing.assert_array_equal(clamped[: len(some)], np.clip(some, -0.5, 2))
    np.testing.assert_array_equal(infinite, np.isinf(x))
    np.testing.assert_array_equal(normal, np.isfinite(x) & (np.abs(x) >= least))


def test_numbers_vectors_and_epilogues():
    engine = Engine(b"""func.func @number(%x: f32, %e: i16) -> f32 {
      %0 = math.fpowi %x, %e : f32, i16
      return %0 : f32
    }
    func.func @vector(%x: f32, %e: i16) -> f32 {
      %v = vector.broadcast %x : f32 to vector<2x4xf32>
      %w = vector.broadcast %e : i16 to vector<2x4xi16>
      %0 = math.fpowi %v, %w : vector<2x4xf32>, vector<2x4xi16>
      %1 = vector.extract %0[1, 2] : f32 from vector<2x4xf32>
      return %1 : f32
    }
    func.func @epilogue(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) -> tensor<?x4xf32> {
      %0 = quant_llm.linear %x, %w epilogue {
      ^bb0(%a: f32):
        %c3 = arith.constant 3 : i8
        %one = arith.constant 1.0 : f32
        %p = math.fpowi %a, %c3 : f32, i8
        %c = math.clampf %p to [%a, %one] : f32
        quant_llm.yield %c : f32
      } : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
      return %0 : tensor<?x4xf32>
    }""", cache=False)
    for name in "number", "vector":
        assert engine.invoke(name, np.float32(1.5), np.int16(-3))[0] == np.float32(1.5**-3)
    random = np.random.default_rng(0)
    x, w = (random.standard_normal((n, 8), np.float32) for n in (5, 4))
    (result,) = engine.invoke("epilogue", x, w)
    y = x @ w.T
    np.testing.assert_allclose(result, np.minimum(np.maximum(y**3, y), 1), rtol=1e-5)


@pytest.mark.parametrize("element, numpy_type", [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_doubles_are_rounded_once(element, numpy_type):
    engine = Engine(f"""func.func @narrow(%x: tensor<?xf64>) -> tensor<?xf64> {{
      %0 = arith.truncf %x : tensor<?xf64> to tensor<?x{element}>
      %1 = arith.extf %0 : tensor<?x{element}> to tensor<?xf64>
      return %1 : tensor<?xf64>
    }}""".encode(), cache=False)
    digits = ml_dtypes.finfo(numpy_type).nmant
    # Halfway between two numbers, and next to that by less than f32 has digits.
    half = 1 + 2.0 ** -(digits + 1)
    x = np.array([half, half + 2.0**-40, half - 2.0**-40, 3 * half, 0, -0.0, np.inf, np.nan, 1e300, -1e300, 5e-324])
    expected = [1, 1 + 2.0**-digits, 1]
    (result,) = engine.invoke("narrow", np.concatenate([x, -x]))
    assert result[:3].tolist() == expected and result[len(x) : len(x) + 3].tolist() == [-e for e in expected]
    if element == "f16":  # which NumPy rounds once, too
        random = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-10, 10).repeat(50)
        numbers = np.concatenate([x, random])
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(engine.invoke("narrow", numbers)[0], numbers.astype(np.float16))
    np.testing.assert_array_equal(engine.invoke("narrow", np.array([1e300, -1e300, 5e-324]))[0], [np.inf, -np.inf, 0])


SCALABLE = """func.func @f(%a: f32) -> f32 {
  return %a : f32
}
func.func @g(%a: vector<[4]xf32>) -> vector<[4]xf32> {
  %0 = arith.addf %a, %a : vector<[4]xf32>
  return %0 : vector<[4]xf32>
}"""


def test_scalable_vectors_are_refused():
    message = r"expected vectors of a fixed number of elements but got 'vector<\[4\]xf(32|64)>'"
    with pytest.raises(QuantLLMError, match=message):
        Engine(SCALABLE.encode(), cache=False)
    with pytest.raises(QuantLLMError, match=message):
        quant_llm.run_pipeline(SCALABLE, "quant-llm-verify-equivalence{pipeline=canonicalize}")


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("exponent", ["i16", "i32", "i64"])
def test_powers_are_compared(element, exponent):
    source = f"""func.func @f(%x: {element}, %e: {exponent}) -> {element} {{
      %0 = math.fpowi %x, %e : {element}, {exponent}
      return %0 : {element}
    }}"""
    assert "math.fpowi" in quant_llm.run_pipeline(source, "quant-llm-verify-equivalence{pipeline=canonicalize}")
