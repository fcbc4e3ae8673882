# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Modules through the Python package: text and bytecode, passes, errors."""

import pytest
import quant_llm

GOOD = """
func.func @f(%a: i32) -> i32 {
  %0 = arith.addi %a, %a : i32
  %1 = arith.addi %a, %a : i32
  %2 = arith.muli %0, %1 : i32
  return %2 : i32
}
"""


def test_parse_prints_the_module():
    text = quant_llm.parse(GOOD)
    assert text.startswith("module {") and text.count("arith.addi") == 2
    assert quant_llm.parse(text) == text


def test_bytecode_round_trip():
    bytecode = quant_llm.parse(GOOD, bytecode=True)
    assert bytecode[:4] == b"ML\xefR"
    assert quant_llm.parse(bytecode) == quant_llm.parse(GOOD)


def test_pipeline():
    assert quant_llm.run_pipeline(GOOD, "cse").count("arith.addi") == 1
    assert quant_llm.run_pipeline(GOOD, "builtin.module(func.func(cse))").count("arith.addi") == 1


def test_syntax_error_names_the_place():
    with pytest.raises(quant_llm.QuantLLMError, match="^some/model.mlir:1:") as info:
        quant_llm.parse("func.func @f(", name="some/model.mlir")
    (diagnostic,) = info.value.diagnostics
    assert diagnostic.severity == "error"
    assert diagnostic.location.startswith("some/model.mlir:1:")
    assert str(diagnostic) == f"{diagnostic.location}: error: {diagnostic.message}"


def test_unknown_pass():
    with pytest.raises(quant_llm.QuantLLMError, match="no-such-pass"):
        quant_llm.run_pipeline(GOOD, "no-such-pass")


@pytest.mark.parametrize("source", [b"\xff\xfe", b"ML\xefR", b"ML\xefR\x00\x01garbage", b"module\x00", "module {"])
def test_garbage_is_an_error(source):
    with pytest.raises(quant_llm.QuantLLMError):
        quant_llm.parse(source)


def test_empty_is_an_empty_module():
    assert quant_llm.parse("") == "module {\n}\n"
