# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Modules for which the parser of MLIR would end the process are exceptions
(docs/UpstreamIssues.md), and the process goes on as before."""

import itertools
import signal
import threading

import pytest

import quant_llm

UNARY = "exp log abs ceil floor negf reciprocal round sqrt rsqrt square tanh erf".split()
BINARY = "add sub mul div div_unsigned max_signed min_signed max_unsigned min_unsigned powf".split()
TYPES = ["f32", "f16", "i1", "i32", "si8", "index", "complex<f32>"]
FAULT = "expected a module that the parser of MLIR 22.1 can read but it failed in itself"
GOOD = b"func.func @f(%x: f32) -> f32 { return %x : f32 }"


def write_elementwise(kind, inputs, result):
    names = [f"%a{i}" for i in range(len(inputs))]
    shapes = [f"tensor<4x{t}>" for t in (*inputs, result)]
    arguments = ", ".join(f"{name}: {shape}" for name, shape in zip([*names, "%o"], shapes))
    return (
        f"func.func @f({arguments}) -> {shapes[-1]} {{\n"
        f"  %0 = linalg.elementwise kind=#linalg.elementwise_kind<{kind}> ins({', '.join(names)} : {', '.join(shapes[:-1])})"
        f" outs(%o : {shapes[-1]}) -> {shapes[-1]}\n"
        f"  return %0 : {shapes[-1]}\n}}"
    ).encode()


def write_matmul(op, types):
    a, b, c = (f"tensor<2x4x4x{t}>" for t in types)
    c = c.replace("2x", "", 1) if "reduce" in op else c
    return (
        f"func.func @f(%a: {a}, %b: {b}, %c: {c}) -> {c} {{\n"
        f"  %0 = linalg.{op} ins(%a, %b : {a}, {b}) outs(%c : {c}) -> {c}\n"
        f"  return %0 : {c}\n}}"
    ).encode()


def classify(source):
    """Whether a module is read, refused with a message, or a fault of the parser."""
    try:
        quant_llm.run_pipeline(source, "canonicalize")
        return "read"
    except quant_llm.QuantLLMError as error:
        assert str(error)
        return "fault" if FAULT in str(error) else "refused"


def test_every_kind_of_every_type():
    outcomes = {}
    for kind, t in itertools.product(UNARY, TYPES):
        outcomes[kind, t] = classify(write_elementwise(kind, [t], t))
    for kind, t, u in itertools.product(BINARY, TYPES, TYPES):
        outcomes[kind, t, u] = classify(write_elementwise(kind, [t, u], t))
    for op, types in itertools.product(("batch_matmul", "batch_reduce_matmul"), itertools.product(TYPES, repeat=3)):
        outcomes[op, *types] = classify(write_matmul(op, types))
    assert {outcomes[kind, "f32"] for kind in UNARY} == {"read"}
    assert {outcomes[kind, "i32", "i32"] for kind in BINARY} == {"read", "refused"}  # powf is of floats
    assert outcomes["exp", "i32"] == outcomes["add", "f32", "i32"] == outcomes["batch_matmul", "index", "f32", "f32"] == "fault"
    assert classify(GOOD) == "read"


def test_threads_and_signal_handlers():
    before = [signal.getsignal(s) for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGINT)]
    bad = write_elementwise("exp", ["i32"], "i32")
    seen = []
    run = lambda source, expected: seen.extend(classify(source) == expected for _ in range(20))
    threads = [threading.Thread(target=run, args=case) for case in [(bad, "fault"), (GOOD, "read")] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 120 and all(seen)
    assert [signal.getsignal(s) for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGINT)] == before
