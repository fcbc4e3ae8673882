# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Recipes: files that say how a method quantizes a model (docs/Recipes.md).

    recipe = load("gptq")
    pipeline = recipe.render({"group": 128}, output="q.safetensors", report="report.json", ...)
"""

import json
import math
import numbers
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _compiler
from ._calibrate import DTYPES, LENGTH, SAMPLES, STATISTICS, TOKEN_WEIGHTS
from ._check import check_path, check_text, wrong_type
from ._errors import QuantLLMError

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")

# Placeholders that the command gives a value to.
FILES = ("output", "report", "calibration", "behind", "scratch")

# The pass that is run for one group of linears after another with $behind.
STEP = "quant-llm-quantize"

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_KEY = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Option:
    default: Any
    help: str
    choices: tuple = ()
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What a recipe asks of a calibration file, and how one is made."""

    statistics: tuple
    samples: int = SAMPLES
    length: int = LENGTH
    seed: int = 0
    token_weights: str | None = None
    tokens: str = "text"
    dtype: str = "float32"


@dataclass(frozen=True)
class Recipe:
    name: str
    summary: str
    paper: str
    pipeline: str
    path: str
    calibration: Calibration | None = None
    options: dict = field(default_factory=dict)

    @property
    def is_behind(self):
        """Whether it reads what is measured behind layers that it quantized."""
        return self._uses("behind")

    @property
    def needs_calibration(self):
        """Whether it reads statistics of the original model."""
        return self._uses("calibration")

    @property
    def _passes(self):
        """The pipeline without its comments."""
        return re.sub(r"#.*", "", self.pipeline)

    def _uses(self, file):
        return re.search(rf"\${file}\b", self._passes) is not None

    def check_options(self, values):
        """Raises QuantLLMError unless `values` are values of options, as they are in
        Python or as texts, and TypeError for what has no such text. Returns them as
        texts."""
        texts = _to_texts(values)
        _compiler().check_recipe(self._to_json(), json.dumps(texts))
        return texts

    def parse_options(self, texts):
        """{name: text} from texts `name=value`, checked."""
        values = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise QuantLLMError(f"expected option=value but got '{text}'")
            if name in values:
                raise QuantLLMError(f"'{name}' is given twice")
            values[name] = value
        return self.check_options(values)

    def render(self, values, **files):
        """The pass pipeline as text, with these options and names of files. An option
        of a pass that gets an empty text is left out."""
        texts = _to_texts(values)
        texts |= {name: check_path(value, name) for name, value in files.items()}
        return _compiler().render_recipe(self._to_json(), json.dumps(texts)).decode()

    def _to_json(self):
        """The form of the C API (quant-llm-c/Compile.h)."""
        options = [
            {"name": name, "default": option.default, "help": option.help}
            | ({"choices": list(option.choices)} if option.choices else {})
            | {key: bound for key, bound in (("minimum", option.minimum), ("maximum", option.maximum)) if bound is not None}
            for name, option in self.options.items()
        ]
        return json.dumps({"name": self.name, "summary": self.summary, "pipeline": self.pipeline, "options": options, "calibration": self.calibration is not None})


def _to_texts(values):
    if not isinstance(values, Mapping):
        raise wrong_type("options", "a dict of names and values", values)
    return {check_text(name, "name of an option"): to_text(value, name) for name, value in values.items()}


def to_text(value, name):
    """A value of an option as text. Nothing else has one that everybody would
    expect, such as None, which is not the default here."""
    if isinstance(value, str):
        return check_text(value, name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return str(float(value))
    raise wrong_type(name, "text, a number, true or false", value)


def names():
    """The names of the recipes that come with the package."""
    return sorted(name.removesuffix(".toml") for name in os.listdir(DIRECTORY) if name.endswith(".toml"))


def load(recipe):
    """A recipe by its name, or that of a file, whose name has a dot or a slash."""
    recipe = check_path(recipe, "recipe")
    is_file = "/" in recipe or "." in recipe
    path = recipe if is_file else os.path.join(DIRECTORY, recipe + ".toml")
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        if is_file:
            raise QuantLLMError(f"there is no recipe file '{recipe}'") from None
        raise QuantLLMError(f"there is no recipe '{recipe}'; expected {', '.join(names())}, or the name of a file") from None
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QuantLLMError(f"'{path}' is no TOML file: {error}") from None
    try:
        return _parse(content, path)
    except QuantLLMError as error:
        raise QuantLLMError(f"'{path}': {error}") from None


def _parse(content, path):
    keys = {"name": str, "summary": str, "paper": str, "pipeline": str, "calibration": dict, "options": dict}
    _check_keys(content, keys, ("name", "summary", "pipeline"), "")
    if not _NAME.fullmatch(content["name"]):
        raise QuantLLMError(f"name: expected small letters, digits and hyphens but got '{content['name']}'")
    options = {}
    for name, entry in content.get("options", {}).items():
        options[name] = _parse_option(name, entry)
    calibration = _parse_calibration(content["calibration"]) if "calibration" in content else None
    recipe = Recipe(content["name"], content["summary"].strip(), content.get("paper", "").strip(), content["pipeline"], path, calibration, options)
    recipe.check_options({})
    if recipe.is_behind and len(re.findall(rf"\b{STEP}\b", recipe._passes)) != 1:
        raise QuantLLMError(f"pipeline: expected $behind as an option of one pass {STEP}, and no other such pass")
    if calibration and calibration.statistics and not recipe.needs_calibration:
        raise QuantLLMError("calibration: expected no statistics, which the pipeline does not read ($calibration)")
    if calibration and not calibration.statistics and recipe.needs_calibration:
        raise QuantLLMError("calibration: expected statistics, which the pipeline reads ($calibration)")
    return recipe


def split_pipeline(text):
    """What is before the pass STEP of a rendered pipeline, this pass, and what comes
    after it."""
    at, quote, depth, begin = 0, "", 0, None
    while at < len(text):
        char = text[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif text.startswith(STEP + "{", at) and begin is None and (at == 0 or text[at - 1] in " ,("):
            begin, at = at, at + len(STEP)
            continue
        elif begin is not None and char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return text[:begin].strip(" ,"), text[begin : at + 1], text[at + 1 :].strip(" ,")
        at += 1
    raise QuantLLMError(f"pipeline: expected a pass {STEP} with options but there is none")


def _check_keys(table, keys, required, where):
    for key, value in table.items():
        if key not in keys:
            raise QuantLLMError(f"{where}expected keys among {', '.join(keys)} but got '{key}'")
        if type(value) is not keys[key]:
            raise QuantLLMError(f"{where}{key}: expected {_KINDS.get(keys[key], 'a table' if keys[key] is dict else 'a list')} but got {value!r}")
    if missing := [key for key in required if key not in table]:
        raise QuantLLMError(f"{where}expected the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}")


def _parse_option(name, entry):
    where = f"options.{name}: "
    if not _KEY.fullmatch(name) or name in FILES:
        raise QuantLLMError(f"{where}expected a name of small letters, digits and underscores, other than {', '.join(FILES)}")
    if type(entry) is not dict:
        raise QuantLLMError(f"{where}expected a table but got {entry!r}")
    kind = type(entry.get("default"))
    if kind not in _KINDS:
        raise QuantLLMError(f"{where}expected a default: a number, a text, true or false")
    for key in ("minimum", "maximum"):
        if key in entry and kind not in (int, float):
            raise QuantLLMError(f"{where}expected a number as default, as there is a {key}, but got {entry['default']!r}")
        if {kind, type(entry.get(key))} == {int, float}:
            words = ("an integer", "a number with a point") if kind is int else ("a number with a point", "an integer")
            default, value = entry["default"], entry[key]
            raise QuantLLMError(f"{where}{key}: expected {words[0]}, as the default {default!r} is one, but got {value!r}, {words[1]}; write both in one way")
    _check_keys(entry, {"default": kind, "help": str, "choices": list, "minimum": kind, "maximum": kind}, ("default", "help"), where)
    for key, value in entry.items():
        if type(value) is float and not math.isfinite(value):
            raise QuantLLMError(f"{where}{key}: expected a number but got {value}")
    return Option(entry["default"], entry["help"], tuple(entry.get("choices", ())), entry.get("minimum"), entry.get("maximum"))


def _parse_calibration(table):
    where = "calibration: "
    keys = {"statistics": list, "samples": int, "length": int, "seed": int, "token_weights": str, "tokens": str, "dtype": str}
    _check_keys(table, keys, ("statistics",), where)
    if unknown := [s for s in table["statistics"] if s not in STATISTICS]:
        raise QuantLLMError(f"{where}expected statistics among {', '.join(STATISTICS)} but got {', '.join(map(str, unknown))}")
    for key, allowed in (("token_weights", TOKEN_WEIGHTS), ("tokens", ("text", "random")), ("dtype", DTYPES)):
        if key in table and table[key] not in allowed:
            raise QuantLLMError(f"{where}{key}: expected {' or '.join(allowed)} but got '{table[key]}'")
    for key, least in (("samples", 1), ("length", 2), ("seed", 0)):
        if table.get(key, least) < least:
            raise QuantLLMError(f"{where}{key}: expected an integer from {least} but got {table[key]}")
    return Calibration(**{**table, "statistics": tuple(table["statistics"])})
