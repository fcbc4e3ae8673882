# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""The type stubs name what is there, with the same parameters."""

import ast
import importlib
import inspect
import os

import pytest
import quant_llm

PACKAGE = os.path.dirname(quant_llm.__file__)


def public(name):
    return not name.startswith("_") or name in ("__init__", "__call__", "__contains__")


def stub_parameters(function):
    a = function.args
    names = [p.arg for p in a.posonlyargs + a.args + ([a.vararg] if a.vararg else []) + a.kwonlyargs + ([a.kwarg] if a.kwarg else [])]
    optional = sum(d is not None for d in a.defaults + a.kw_defaults)
    return names, optional


def real_parameters(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters], sum(p.default is not p.empty for p in parameters)


def stub_members(body):
    """Functions and classes by name; of overloads the first."""
    members = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            members.setdefault(node.name, node)
    return members


def real_members(owner, module):
    return {
        name: value
        for name, value in vars(owner).items()
        if public(name) and (inspect.isclass(value) or callable(value) or isinstance(value, (property, classmethod)))
        and getattr(value, "__module__", module) == module
    }


def compare(stub, real, where):
    for name, node in stub.items():
        assert name in real, f"{where}{name} is only in the stub"
        value = real[name]
        if isinstance(node, ast.ClassDef):
            if node.bases and getattr(node.bases[0], "id", "") in ("NamedTuple", "TypedDict"):
                continue
            compare(stub_members(node.body), real_members(value, value.__module__), f"{where}{name}.")
        elif isinstance(value, property):
            assert any(getattr(d, "id", "") == "property" for d in node.decorator_list)
        else:
            function = value.__func__ if isinstance(value, classmethod) else inspect.unwrap(value)
            assert stub_parameters(node) == real_parameters(function), f"{where}{name}"
    for name in real:
        assert name in stub, f"{where}{name} is missing in the stub"


@pytest.mark.parametrize("name", ["__init__", "_errors", "runtime", "tokenizer", "model", "gpu", "torch"])
def test_stub(name):
    module = importlib.import_module("quant_llm" if name == "__init__" else f"quant_llm.{name}")
    with open(os.path.join(PACKAGE, f"{name}.pyi")) as file:
        stub = stub_members(ast.parse(file.read()).body)
    real = {k: v for k, v in real_members(module, module.__name__).items() if not (inspect.isclass(v) and v.__module__ != module.__name__)}
    if name == "model":
        stub.pop("Perplexity")  # the type of a dict
    if name == "torch":
        stub.pop("build_artifact")  # of another module
    compare(stub, real, f"{module.__name__}.")


def test_stub_of_calibration():
    """What the package gathers from its modules."""
    module = importlib.import_module("quant_llm.calibration")
    with open(os.path.join(PACKAGE, "calibration", "__init__.pyi")) as file:
        stub = stub_members(ast.parse(file.read()).body)
    compare(stub, {name: getattr(module, name) for name in module.__all__ if name != "STATISTICS"}, "quant_llm.calibration.")


def test_marker():
    assert os.path.exists(os.path.join(PACKAGE, "py.typed"))
