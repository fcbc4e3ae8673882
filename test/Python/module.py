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


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: quant_llm.parse(5), TypeError, r"source: expected a module as text \(str or bytes\) or bytecode \(bytes\) but got int"),
        (lambda: quant_llm.parse("\udce9"), quant_llm.QuantLLMError, "source: expected UTF-8 but got .* at character 0"),
        (lambda: quant_llm.parse("", name=5), TypeError, r"name: expected text \(str\) but got int"),
        (lambda: quant_llm.parse("", bytecode="yes"), TypeError, "bytecode: expected True or False but got str"),
        (lambda: quant_llm.run_pipeline("", None), TypeError, r"pipeline: expected text \(str\) but got NoneType"),
        (lambda: quant_llm.run_pipeline("", ["cse"]), TypeError, r"pipeline: expected text \(str\) but got list"),
        (lambda: quant_llm.run_pipeline("", "cse\0no-such-pass"), quant_llm.QuantLLMError, "pipeline: expected no NUL"),
        (lambda: quant_llm.run_pipeline("", "cse", progress=1), TypeError, "progress: expected a function or None but got int"),
        (lambda: quant_llm.run_pipeline("", "cse", diagnostic="x"), TypeError, "diagnostic: expected a function or None but got str"),
        (lambda: quant_llm.describe_module(None), TypeError, "source: expected a module as text"),
        (lambda: quant_llm.describe_archive(5), TypeError, r"path: expected a path \(str, bytes or os.PathLike\) but got int"),
        (lambda: quant_llm.read_gguf_metadata(None), TypeError, "path: expected a path"),
        (lambda: quant_llm.import_model("x", 5), TypeError, "output: expected a path"),
        (lambda: quant_llm.import_model("x", "y.mlir", blocks_as_f32=1), TypeError, "blocks_as_f32: expected True or False but got int"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_errors_do_not_print_the_module():
    with pytest.raises(quant_llm.QuantLLMError) as info:
        quant_llm.run_pipeline(GOOD, "quant-llm-choose-granularity{alpha=3}")
    assert str(info.value).endswith("expected a number in (0, 2] but got 3")
    assert len(info.value.diagnostics) == 1


def test_empty_is_an_empty_module():
    assert quant_llm.parse("") == "module {\n}\n"


def test_planned_schemes():
    """What linears are to quantize dense weights to; nothing for those that are quantized, or have no scheme."""
    scheme = "#quant_llm.scheme<int4, block = [1, 4], scale = f16, rule = absmax, rounding = half_even>"
    weight = f"!quant_llm.weight<4x8xf32, {scheme}>"
    linear = "(tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>"
    text = f"""quant_llm.archive @a "a.safetensors"
quant_llm.parameter @planned from @a : tensor<4x8xf32>
quant_llm.parameter @dense from @a : tensor<4x8xf32>
quant_llm.parameter @quantized from @a : {weight}
quant_llm.parameter @one from @a : tensor<4x8xf32>
func.func @f(%x: tensor<?x8xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {{
  %planned = quant_llm.get_parameter @planned : tensor<4x8xf32>
  %dense = quant_llm.get_parameter @dense : tensor<4x8xf32>
  %quantized = quant_llm.get_parameter @quantized : {weight}
  %one = quant_llm.get_parameter @one : tensor<4x8xf32>
  %0 = quant_llm.linear %x, %planned {{scheme = {scheme}}} : {linear}
  %1 = quant_llm.linear %x, %dense : {linear}
  %2 = quant_llm.linear %x, %quantized, %one {{scheme = {scheme}}} epilogue {{
  ^bb0(%a: f32, %b: f32):
    %3 = arith.mulf %a, %b : f32
    quant_llm.yield %3 : f32
  }} : (tensor<?x8xf32>, {weight}, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %0, %1, %2 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}}"""
    parameters = {p["name"]: p for p in quant_llm.describe_module(text)["parameters"]}
    assert {name: (p["scheme"], p["planned_scheme"]) for name, p in parameters.items()} == {
        "planned": (None, scheme), "dense": (None, None), "quantized": (scheme, None), "one": (None, scheme),
    }
