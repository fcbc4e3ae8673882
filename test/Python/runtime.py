# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Compiled modules on NumPy arrays: results, in-place arguments, errors."""

import itertools
import threading

import numpy as np
import pytest
from quant_llm import QuantLLMError
from quant_llm.runtime import Engine

MODULE = b"""
#id = affine_map<(d0) -> (d0)>
func.func @add(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %a, %c0 : tensor<?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %0 = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel"]}
    ins(%a, %b : tensor<?xf32>, tensor<?xf32>) outs(%e : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @put(%cache: tensor<?xf32>, %row: tensor<1xf32>, %where: i64) -> tensor<?xf32> {
  %i = arith.index_cast %where : i64 to index
  %0 = tensor.insert_slice %row into %cache[%i] [1] [1] : tensor<1xf32> into tensor<?xf32>
  return %0 : tensor<?xf32>
}
"""


@pytest.fixture(scope="module")
def engine():
    return Engine(MODULE, cache=False)


def test_signature(engine):
    assert list(engine.functions) == ["add", "put"]
    add, put = engine.functions.values()
    assert [v.shape for v in add.arguments] == [(-1,), (-1,)] and add.results[0].dtype == "F32"
    assert put.arguments[2].scalar and put.arguments[2].dtype == "I64"
    assert add.aliases == (-1,) and put.aliases == (0,)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_modules_in_memory(kind):
    assert list(Engine(kind(MODULE), cache=False).functions) == ["add", "put"]


def test_result(engine):
    a = np.arange(5, dtype=np.float32)
    (result,) = engine.invoke("add", a, 2 * a)
    np.testing.assert_array_equal(result, 3 * a)
    (empty,) = engine.invoke("add", a[:0], a[:0])
    assert empty.shape == (0,)


def test_strided_and_read_only_arguments(engine):
    a = np.arange(10, dtype=np.float32)[::2]
    b = np.ones(5, np.float32)
    b.flags.writeable = False
    (result,) = engine.invoke("add", a, b)
    np.testing.assert_array_equal(result, a + 1)


def test_in_place_only_if_allowed(engine):
    cache, row = np.zeros(4, np.float32), np.array([7], np.float32)
    (copied,) = engine.invoke("put", cache, row, 2)
    np.testing.assert_array_equal(copied, [0, 0, 7, 0])
    np.testing.assert_array_equal(cache, 0)
    (same,) = engine.invoke("put", cache, row, np.int64(2), in_place=(0,))
    assert same is cache
    np.testing.assert_array_equal(cache, [0, 0, 7, 0])


def test_many_results():
    # More than fit into any fixed array.
    count = 100
    types, values = ", ".join(["tensor<2xf32>"] * count), ", ".join(f"%{i}" for i in range(count))
    body = "\n".join(f"%{i} = arith.constant dense<{i}.0> : tensor<2xf32>" for i in range(count))
    source = f"func.func @f() -> ({types}) {{\n{body}\nreturn {values} : {types}\n}}"
    results = Engine(source.encode(), cache=False).invoke("f")
    np.testing.assert_array_equal(results, np.repeat(np.arange(count, dtype=np.float32), 2).reshape(count, 2))


UPDATES = b"""
#id = affine_map<(d0) -> (d0)>
// The second kernel starts from rows of the updated cache and must not write them.
func.func @other_rows(%cache: tensor<8xf32>, %x: tensor<4xf32>) -> (tensor<8xf32>, tensor<4xf32>) {
  %rows = tensor.extract_slice %cache[0] [4] [1] : tensor<8xf32> to tensor<4xf32>
  %new = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
    ins(%x : tensor<4xf32>) outs(%rows : tensor<4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %a : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  %updated = tensor.insert_slice %new into %cache[0] [4] [1] : tensor<4xf32> into tensor<8xf32>
  %others = tensor.extract_slice %updated[4] [4] [1] : tensor<8xf32> to tensor<4xf32>
  %sum = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
    ins(%x : tensor<4xf32>) outs(%others : tensor<4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %updated, %sum : tensor<8xf32>, tensor<4xf32>
}
// A version of the cache that is read after the next one exists.
func.func @two_versions(%cache: tensor<4xf32>, %x: tensor<1xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %first = tensor.insert_slice %x into %cache[0] [1] [1] : tensor<1xf32> into tensor<4xf32>
  %second = tensor.insert_slice %x into %first[2] [1] [1] : tensor<1xf32> into tensor<4xf32>
  %empty = tensor.empty() : tensor<4xf32>
  %twice = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
    ins(%first : tensor<4xf32>) outs(%empty : tensor<4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %a : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %second, %twice : tensor<4xf32>, tensor<4xf32>
}
"""


@pytest.mark.parametrize("reference", [False, True])
def test_updates_leave_everything_else(reference):
    engine = Engine(UPDATES, cache=False, reference=reference)
    x = np.array([1, 2, 3, 4], np.float32)
    cache = np.zeros(8, np.float32)
    updated, total = engine.invoke("other_rows", cache, x)
    np.testing.assert_array_equal(updated, [2, 4, 6, 8, 0, 0, 0, 0])
    np.testing.assert_array_equal(total, x)
    np.testing.assert_array_equal(cache, 0)
    cache = np.zeros(4, np.float32)
    second, twice = engine.invoke("two_versions", cache, x[:1])
    np.testing.assert_array_equal(second, [1, 0, 1, 0])
    np.testing.assert_array_equal(twice, [2, 0, 0, 0])
    np.testing.assert_array_equal(cache, 0)


def test_results_outlive_the_engine():
    engine = Engine(MODULE, cache=False)
    (result,) = engine.invoke("add", np.ones(1000, np.float32), np.ones(1000, np.float32))
    del engine
    np.testing.assert_array_equal(result, 2)


def test_calls_from_threads(engine):
    failures = []

    def work(value):
        for _ in range(50):
            (result,) = engine.invoke("add", np.full(300, value, np.float32), np.zeros(300, np.float32))
            if not (result == value).all():
                failures.append(value)

    threads = [threading.Thread(target=work, args=(v,)) for v in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        ("none", (), "expected a function among add, put but got 'none'"),
        ("add", (np.zeros(1, np.float32),), "'add': expected 2 arguments but got 1"),
        ("add", (np.zeros(1), np.zeros(1)), "expected .*f32.* but got .*"),
        ("add", (np.zeros((1, 1), np.float32), np.zeros(1, np.float32)), "expected .*"),
        ("add", (np.array(["x"]), np.zeros(1, np.float32)), "argument 0: expected F32 but got an array of <U1"),
        ("add", (np.zeros(2, ">f4"), np.zeros(2, np.float32)), "argument 0: expected F32"),
        ("add", ("abc", [1]), "argument 0: expected an array of F32 but got 'abc'"),
        ("add", (None, [1]), "argument 0: expected an array of F32 but got None"),
        ("add", ([[1], [2, 3]], [1]), "argument 0: expected an array of F32 but got .*"),
        ("add", ([1j], [1]), "argument 0: expected an array of F32 but got .*"),
        ("add", ([1e39], [1]), r"argument 0: expected an array of F32 but got \[1e\+39\]"),
        ("put", ([0.0], [1.0], 0.5), "argument 2: expected an array of I64 but got 0.5"),
        ("put", ([0.0], [1.0], 2**63), f"argument 2: expected an array of I64 but got {2**63}"),
        ("put", ([0.0], [1.0], np.uint64(2**63)), f"argument 2: expected an array of I64 but got .*{2**63}"),
    ],
)
def test_bad_calls(engine, function, arguments, message):
    with pytest.raises(QuantLLMError, match=message):
        engine.invoke(function, *arguments)


def test_numbers_and_lists(engine):
    (result,) = engine.invoke("add", [1, 2], [0.5, True])
    np.testing.assert_array_equal(result, np.array([1.5, 3], np.float32))
    (result,) = engine.invoke("put", [0.0] * 3, [7], np.uint8(1))
    np.testing.assert_array_equal(result, [0, 7, 0])
    (result,) = engine.invoke("add", [np.inf, 1e-50], [1, 0])
    np.testing.assert_array_equal(result, [np.inf, 0])
    (result,) = engine.invoke("add", [], [])
    assert result.shape == (0,)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda e: e.invoke(5), TypeError, r"function: expected text \(str\) but got int"),
        (lambda e: e.invoke("put", [0.0], [1.0], 0, in_place=(3,)), QuantLLMError, "'put': in_place: expected an integer from 0 to 2 but got 3"),
        (lambda e: e.invoke("put", [0.0], [1.0], 0, in_place="0"), TypeError, "'put': in_place: expected an integer but got str"),
        (lambda e: e.invoke("put", [0.0], [1.0], 0, in_place=None), TypeError, "'put': in_place: expected a list of positions of arguments but got NoneType"),
        (lambda e: Engine(5), TypeError, r"source: expected a path \(str, bytes or os.PathLike\) but got int"),
        (lambda e: Engine(MODULE, threads="2"), TypeError, "threads: expected an integer but got str"),
        (lambda e: Engine(MODULE, threads=-1), QuantLLMError, "threads: expected an integer from 0 to 4096 but got -1"),
        (lambda e: Engine(MODULE, threads=2**40), QuantLLMError, "threads: expected an integer from 0 to 4096"),
        (lambda e: Engine(MODULE, reference=None), TypeError, "reference: expected True or False but got NoneType"),
        (lambda e: Engine(MODULE, cache=1), TypeError, "cache: expected True or False but got int"),
        (lambda e: Engine(MODULE, name=b"x"), TypeError, r"name: expected text \(str\) but got bytes"),
        (lambda e: Engine(MODULE, base_directory=5), TypeError, "base_directory: expected a path"),
    ],
)
def test_wrong_arguments(engine, call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(engine)


def test_in_place_needs_a_writable_array(engine):
    cache = np.zeros(8, np.float32)[::2]
    with pytest.raises(QuantLLMError, match="argument 0: expected a contiguous, writable array"):
        engine.invoke("put", cache, np.ones(1, np.float32), 0, in_place=(0,))
    with pytest.raises(QuantLLMError, match="argument 0: expected a NumPy array to be updated in place but got list"):
        engine.invoke("put", [0.0, 0.0], np.ones(1, np.float32), 0, in_place=(0,))


def test_in_place_needs_memory_of_its_own(engine):
    cache = np.zeros(4, np.float32)
    for row in (cache[3:], cache):
        with pytest.raises(QuantLLMError, match="arguments 0 and 1: expected arrays that share no memory, since argument 0 is updated in place; copy one"):
            engine.invoke("put", cache, row, 0, in_place=(0,))
    np.testing.assert_array_equal(cache, 0)
    both = np.zeros(8, np.float32)
    engine.invoke("put", both[:4], both[4:5], 0, in_place=(0,))


NAMES = """
func.func @sinf(%a: tensor<?xf32>) -> tensor<?xf32> {
  %r = math.sin %a : tensor<?xf32>
  return %r : tensor<?xf32>
}
func.func @cosf(%a: f32) -> f32 {
  %c = arith.constant 100.0 : f32
  return %c : f32
}
func.func private @powf(%a: f32, %b: f32) -> f32 {
  return %a : f32
}
func.func @exp(%a: f64) -> f64 {
  return %a : f64
}
memref.global "private" constant @memcpy : memref<2xf32> = dense<[3.0, 4.0]>
func.func @h(%a: f32, %b: f64, %t: tensor<4096xf32>) -> (f32, f32, f32, f64, f32, tensor<4096xf32>) {
  %c1 = arith.constant 1 : index
  %cos = math.cos %a : f32
  %pow = math.powf %a, %a : f32
  %own = call @powf(%a, %a) : (f32, f32) -> f32
  %exp = call @exp(%b) : (f64) -> f64
  %global = memref.get_global @memcpy : memref<2xf32>
  %four = memref.load %global[%c1] : memref<2xf32>
  return %cos, %pow, %own, %exp, %four, %t : f32, f32, f32, f64, f32, tensor<4096xf32>
}
"""


@pytest.mark.parametrize("reference", [False, True])
def test_functions_with_names_of_the_c_library(reference):
    engine = Engine(NAMES.encode(), cache=False, reference=reference)
    assert list(engine.functions) == ["sinf", "cosf", "exp", "h"]
    angles = np.linspace(-3, 3, 7, dtype=np.float32)
    np.testing.assert_allclose(engine.invoke("sinf", angles)[0], np.sin(angles), rtol=1e-5, atol=1e-6)
    assert engine.invoke("cosf", 0.5)[0] == 100
    big = np.arange(4096, dtype=np.float32)
    *numbers, same = engine.invoke("h", 0.5, 2.0, big)
    np.testing.assert_allclose(numbers, [np.cos(0.5), 0.5**0.5, 0.5, 2.0, 4.0], rtol=1e-6)
    np.testing.assert_array_equal(same, big)


def write_counter(name, counter, keyword=""):
    """A function that counts the turns of a loop."""
    return f"""
func.func @{name}(%from: {counter}, %to: {counter}, %by: {counter}) -> i64 {{
  %one = arith.constant 1 : i64
  %zero = arith.constant 0 : i64
  %n = scf.for {keyword} %i = %from to %to step %by iter_args(%s = %zero) -> i64 : {counter} {{
    %t = arith.addi %s, %one : i64
    scf.yield %t : i64
  }}
  return %n : i64
}}
"""


WIDE = """
func.func @wide(%n: i64) -> i64 {
  %from = arith.constant -1 : i128
  %by = arith.constant 3 : i128
  %to = arith.extsi %n : i64 to i128
  %one = arith.constant 1 : i64
  %zero = arith.constant 0 : i64
  %k = scf.for %i = %from to %to step %by iter_args(%s = %zero) -> i64 : i128 {
    %t = arith.addi %s, %one : i64
    scf.yield %t : i64
  }
  return %k : i64
}
"""
COUNTERS = write_counter("index", "index") + write_counter("short", "i8") + write_counter("unsigned", "i8", "unsigned") + WIDE


def test_counters_that_pass_the_end():
    """A counter is compared with what Python's integers say."""
    engine = Engine(COUNTERS.encode(), cache=False)
    most = 2**63 - 1
    cases = [("index", most, *case) for case in [(0, most, 5 * 10**18), (0, most, most), (most - 10, most, 4), (most - 8, most, 4), (5, 5, most), (7, 5, most), (-most, most, most), (0, 10, 3)]]
    values = (-128, -127, -1, 0, 1, 5, 120, 126, 127)
    cases += [("short", 127, *case) for case in itertools.product(values, values, (1, 2, 3, 100, 127))]
    cases += [("unsigned", 255, *case) for case in itertools.product((0, 1, 127, 128, 250, 255), (0, 1, 128, 254, 255), (1, 2, 3, 100, 127, 128, 200, 255))]
    refused = 0
    for name, largest, begin, end, step in cases:
        numbers = range(begin, end, step)
        wrap = lambda v: v - 256 if name == "unsigned" and v > 127 else v
        call = lambda: engine.invoke(name, *(np.int64(v) if name == "index" else np.int8(wrap(v)) for v in (begin, end, step)))[0]
        if len(numbers) and numbers[-1] + step > largest:
            refused += 1
            with pytest.raises(QuantLLMError, match="expected a counter of scf.for that does not pass the largest number of its type"):
                call()
        else:
            assert call() == len(numbers), (name, begin, end, step)
    assert 50 < refused < len(cases) - 50
    assert [engine.invoke("wide", np.int64(n))[0] for n in (-5, 0, 9)] == [0, 1, 4]


@pytest.mark.parametrize(
    "source, message",
    [
        (b"func.func @f(", "<memory>:1:"),
        ("no/such/file.mlir", "no/such/file.mlir"),
        ("with\0zero", "source: expected no NUL"),
    ],
)
def test_bad_modules(source, message):
    with pytest.raises(QuantLLMError, match=message):
        Engine(source)
