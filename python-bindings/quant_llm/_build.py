# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Weights and kernels for the GPU, by the compiler."""

import hashlib
import json
import math
import os
import re
import tempfile
from typing import NamedTuple

from . import _compiler, _safetensors, describe_module, recipe as recipes, run_pipeline
from ._check import check_path, check_text
from ._errors import QuantLLMError
from ._scheme import parse_scheme

CHIPS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120a")


class Problem(NamedTuple):
    """What a set of kernels computes: y [m, n] = x [m, k] W^T, plus a bias [n] of
    the type of x if `bias`. `scheme` is the text of a Scheme."""

    scheme: str
    n: int
    k: int
    activation: str
    output: str
    bias: bool


class PackedWeight(NamedTuple):
    """A weight in an archive of packed weights."""

    name: str
    n: int
    k: int
    scheme: str


# ---------------------------------------------------------------------------
# Text of modules and pipelines
# ---------------------------------------------------------------------------


def quote_string(text):
    """A string of MLIR."""
    return '"' + "".join(char if char.isprintable() and char.isascii() and char not in '"\\' else "".join(f"\\{byte:02X}" for byte in char.encode()) for char in text) + '"'


def quote_option(value):
    """The value of an option of a pass."""
    return _compiler().quote_option(str(value)).decode()


def options_of(options):
    """Options of a pass, without those that are None."""
    return " ".join(f"{name}={quote_option(value)}" for name, value in options.items() if value is not None)


def linear_text(function, problem, weight, operand="", attributes="", body=""):
    """A function with one linear. `operand` and `body` get its weight."""
    x, y = f"tensor<?x{problem.k}x{problem.activation}>", f"tensor<?x{problem.n}x{problem.output}>"
    arguments, epilogue = f"%x: {x}{operand}", ""
    if problem.bias:
        bias = f"tensor<{problem.n}x{problem.activation}>"
        arguments += f", %bias: {bias}"
        truncated = "%sum" if problem.output == "f32" else "%y"
        epilogue = (
            f" epilogue(%bias : {bias}) {{\n  ^bb0(%acc: f32, %b: {problem.activation}):\n    %wide = arith.extf %b : {problem.activation} to f32\n    %sum = arith.addf %acc, %wide : f32\n"
            + ("" if problem.output == "f32" else f"    %y = arith.truncf %sum : f32 to {problem.output}\n")
            + f"    quant_llm.yield {truncated} : {problem.output}\n  }}"
        )
    return f"func.func @{quote_string(function)}({arguments}) -> {y} {{\n{body}  %r = quant_llm.linear %x, %w{attributes}{epilogue} : ({x}, {weight}) -> {y}\n  return %r : {y}\n}}\n"


# ---------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------


def compiler_identity():
    """Changes with the compiler: kernels of another one are other kernels."""
    global _identity
    if _identity is None:
        _compiler()
        digest = hashlib.sha256()
        # The library is found by the loader; here it is.
        with open("/proc/self/maps") as maps:
            paths = sorted({line.split(None, 5)[5].strip() for line in maps if "/libQuantLLMC.so" in line})
        for path in paths:
            with open(path, "rb") as file:
                digest.update(file.read())
        _identity = digest.hexdigest()[:16]
    return _identity


_identity = None


def compile_kernels(problem, chip, directory):
    """Writes an artifact without weights whose only linear is `problem`."""
    scheme = parse_scheme(problem.scheme)
    weight = f"!quant_llm.weight<{problem.n}x{problem.k}x{problem.activation}, {scheme.attribute}, #quant_llm.fragment_layout>"
    text = linear_text("linear", problem, weight, operand=f", %w: {weight}")
    run_pipeline(text, f"builtin.module(quant-llm-to-gpu{{{options_of({'chip': chip, 'output': directory})}}})")
    path = os.path.join(directory, "manifest.json")
    manifest = _read_manifest(path)
    (linear,) = manifest["linears"]
    linear["name"] = "linear"
    del linear["packed"]
    _note_bias(linear, problem.bias)
    _write_manifest(path, manifest)


def _read_manifest(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _write_manifest(path, manifest):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)


def _note_bias(linear, bias):
    """The manifest has the types of operands, not what becomes of them."""
    if bias:
        linear["epilogue_steps"] = ["bias"]


# ---------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------

# Types of floats: their names in safetensors files, and their bytes.
_DTYPES = {"f16": ("F16", 2), "bf16": ("BF16", 2), "f32": ("F32", 4)}


# Passes that change nothing but weights, so that one at a time will do.
_WEIGHT_PASSES = {"convert-linalg-to-quant-llm", "quant-llm-verify-stage", "quant-llm-choose-granularity", "quant-llm-quantize", "quant-llm-fuse-epilogues", "quant-llm-finequant"}


# Matches no name of a weight.
_NO_NAME = "^$"


def find_recipe(recipe):
    """The Recipe of that name or file, or a Recipe, for weights alone; None for what
    names none."""
    if isinstance(recipe, recipes.Recipe):
        return recipe
    check_text(recipe, "recipe")
    if recipe not in recipes.names() and not recipe.endswith(".toml"):
        return None
    found = recipes.load(recipe)
    passes = set(re.split(r"[\s,()]+", re.sub(r"\{[^{}]*\}", "", found.pipeline).strip())) - {"builtin.module"}
    reason = None
    if found.calibration is not None:
        reason = "reads a calibration file"
    elif not passes <= _WEIGHT_PASSES:
        reason = f"changes more than weights ({', '.join(sorted(passes - _WEIGHT_PASSES))})"
    elif "low-rank" in found.pipeline:
        reason = "has low-rank parts, which no kernel computes"
    if reason:
        raise QuantLLMError(f"expected a recipe for weights alone but '{found.name}' {reason}; quantize the checkpoint with it (quant-llm quantize), then load_quantized(model, DIRECTORY)")
    return found


def is_scheme(recipe):
    return any(mark in recipe for mark in ",=<")


def finequant_options(recipe, options):
    """(the options of quant-llm-finequant, a scheme): one of both is None.
    `recipe` is an element such as int4, or a whole scheme."""
    if not is_scheme(recipe):
        return {"element": recipe, **(options or {})}, None
    if options:
        raise QuantLLMError(f"expected no options beside a whole scheme but got {', '.join(options)}")
    return None, parse_scheme(recipe)


def quantize_weights(weights, directory, recipe, options=None, *, progress=None, diagnostic=None):
    """Quantizes dense weights and packs them: `weights` are (name, type, shape,
    function that returns the bytes), all of which are quantized. Returns the path
    of the archive of packed weights and a list of PackedWeight."""
    found = find_recipe(recipe)
    # Which weights are meant is decided: their names say nothing.
    if found:
        options, scheme = found.check_options({**(options or {}), **({"exclude": _NO_NAME} if "exclude" in found.options else {})}), None
    else:
        options, scheme = finequant_options(recipe, options)
        if not scheme:
            options["exclude"] = _NO_NAME
    dense = os.path.join(directory, "dense.safetensors")
    entries = [(name, _DTYPES[kind][0], shape, math.prod(shape) * _DTYPES[kind][1], data) for name, kind, shape, data in weights]
    _safetensors.write(dense, entries)
    text = f"quant_llm.archive @dense {quote_string(dense)}\n"
    for i, (name, kind, (n, k), _) in enumerate(weights):
        symbol, weight = f"@{quote_string(name)}", f"tensor<{n}x{k}x{kind}>"
        text += f"quant_llm.parameter {symbol} from @dense : {weight}\n"
        attributes = f" {{scheme = {scheme.attribute}}}" if scheme else ""
        text += linear_text(f"linear{i}", Problem("", n, k, "f32", "f32", False), weight, attributes=attributes, body=f"  %w = quant_llm.get_parameter {symbol} : {weight}\n")
    codes, packed = os.path.join(directory, "codes.safetensors"), os.path.join(directory, "packed.safetensors")
    if found:
        quantize = found.render(options, output=codes, report=os.path.join(directory, "report.json"), scratch=directory, calibration="")
    else:
        quantize = f"{'quant-llm-quantize' if scheme else 'quant-llm-finequant'}{{{options_of({**(options or {}), 'output': codes})}}}"
    result = run_pipeline(text, f"builtin.module({quantize},quant-llm-prepack{{{options_of({'output': packed})}}})", name=os.path.join(directory, "weights.mlir"), progress=progress, diagnostic=diagnostic)
    os.remove(dense)
    os.remove(codes)
    return packed, list_quantized(describe_module(result, name=os.path.join(directory, "weights.mlir")))


def list_quantized(description):
    """The quantized matrices of a module's description."""
    return [PackedWeight(parameter["name"], *parameter["shape"], parse_scheme(parameter["scheme"]).text) for parameter in description["parameters"] if parameter["scheme"] and len(parameter["shape"]) == 2]


def read_module(source):
    """Text and description of the model.mlir of a directory that `quant-llm
    quantize` wrote."""
    path = os.path.join(check_path(source, "source"), "model.mlir")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise QuantLLMError(f"expected a directory that quant-llm quantize wrote but cannot read '{path}': {error.strerror}") from None
    return describe_module(text, name=path)


def pack_model(source, directory, *, chip=None, activation="f16", progress=None, diagnostic=None):
    """Packs the quantized weights of a directory that `quant-llm quantize` wrote
    to `directory`/packed.safetensors, and compiles their kernels and a manifest
    if there is a chip. Returns path and list as quantize_weights."""
    description = read_module(source)
    weights = list_quantized(description)
    if not weights:
        raise QuantLLMError(f"expected quantized weights in '{source}'; quantize the model first (quant-llm quantize)")
    parameters = {parameter["name"]: parameter for parameter in description["parameters"]}
    text = "".join(f"quant_llm.archive @{quote_string(archive['name'])} {quote_string(os.path.abspath(archive['path']))}\n" for archive in description["archives"])
    biases = {}
    for i, (name, n, k, scheme) in enumerate(weights):
        parameter = parameters[name]
        weight = f"!quant_llm.weight<{n}x{k}x{activation}, {parse_scheme(scheme).attribute}>"
        symbol = f"@{quote_string(name)}"
        text += f"quant_llm.parameter {symbol} from @{quote_string(parameter['archive'])} key {quote_string(parameter['key'])} : {weight}\n"
        bias = name.removesuffix(".weight") + ".bias"
        biases[name] = bias in parameters and parameters[bias]["shape"] == [n]
        text += linear_text(f"linear{i}", Problem(scheme, n, k, activation, activation, biases[name]), weight, body=f"  %w = quant_llm.get_parameter {symbol} : {weight}\n")
    packed = os.path.join(directory, "packed.safetensors")
    pipeline = f"quant-llm-prepack{{{options_of({'output': packed})}}}"
    if chip:
        pipeline += f",quant-llm-to-gpu{{{options_of({'chip': chip, 'output': directory})}}}"
    run_pipeline(text, f"builtin.module({pipeline})", name=os.path.join(directory, "weights.mlir"), progress=progress, diagnostic=diagnostic)
    if chip:
        path = os.path.join(directory, "manifest.json")
        manifest = _read_manifest(path)
        for linear in manifest["linears"]:
            _note_bias(linear, biases[linear["weights"][0]])
        _write_manifest(path, manifest)
    return packed, weights


# All files of an artifact.
_ARTIFACT = frozenset(("manifest.json", "kernels.cubin", "kernels.ptx", "packed.safetensors"))


def build_artifact(source, output, *, chip="sm_90a", activation="f16", replace=False, progress=None, diagnostic=None):
    """Compiles what quant_llm.torch.load_quantized and the GPU runtime load: the
    packed weights of a directory that `quant-llm quantize` wrote and kernels for
    `chip`, a linear for every weight, to the new directory `output` (see
    docs/GPURuntime.md). It appears complete or not at all. Raises
    QuantLLMError."""
    from . import model  # needs the compiler, as all that is made here

    output = os.path.abspath(check_path(output, "output"))
    if chip not in CHIPS:
        raise QuantLLMError(f"expected a chip of {', '.join(CHIPS)} but got '{chip}'")
    if activation not in ("f16", "bf16"):
        raise QuantLLMError(f"expected activations of f16 or bf16 but got '{activation}'")
    if os.path.lexists(output):
        if not (replace and os.path.isfile(os.path.join(output, "manifest.json"))):
            raise QuantLLMError(f"'{output}' exists already; {'it is no artifact' if replace else 'choose another name, or replace it'}")
        model.check_is_ours(output, _ARTIFACT)
    try:
        with tempfile.TemporaryDirectory(prefix=".artifact-", dir=os.path.dirname(output)) as scratch:
            made = os.path.join(scratch, "artifact")
            os.mkdir(made)
            pack_model(source, made, chip=chip, activation=activation, progress=progress, diagnostic=diagnostic)
            with model.committing:
                if os.path.lexists(output):
                    model.check_is_ours(output, _ARTIFACT)
                    model.replace_directory(made, os.path.realpath(output))
                else:
                    os.rename(made, output)
    except OSError as error:
        raise QuantLLMError(f"cannot write '{output}': {error.strerror or error}") from None
