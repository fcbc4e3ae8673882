# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks of arguments: a wrong type is a TypeError, a wrong value a
QuantLLMError; both say what was expected and what came."""

import operator
import os

from ._errors import QuantLLMError


def wrong_type(name, expected, value):
    return TypeError(f"{name}: expected {expected} but got {type(value).__name__}")


def check_path(value, name="path"):
    """A path as str."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise wrong_type(name, "a path (str, bytes or os.PathLike)", value)
    return check_text(os.fsdecode(value), name)


def check_text(value, name, optional=False):
    """A str that the C API can take: no NUL, and nothing that UTF-8 lacks (such
    as what Python makes of other bytes in arguments and names of files)."""
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise wrong_type(name, "text (str)", value)
    if "\0" in value:
        raise QuantLLMError(f"{name}: expected no NUL but got {value!r}")
    check_unicode(value, name)
    return value


def check_unicode(value, name):
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise QuantLLMError(f"{name}: expected UTF-8 but got {value[error.start]!r} at character {error.start}") from None


def check_source(value):
    """A module as bytes."""
    if isinstance(value, str):
        check_unicode(value, "source")
        return value.encode()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise wrong_type("source", "a module as text (str or bytes) or bytecode (bytes)", value)
    return bytes(value)


def check_handler(value, name):
    if value is not None and not callable(value):
        raise wrong_type(name, "a function or None", value)
    return value


def check_flag(value, name):
    if not isinstance(value, bool):
        raise wrong_type(name, "True or False", value)
    return value


def check_integer(value, name, low, high=2**31 - 1):
    """An int in [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong_type(name, "an integer", value) from None
    if not low <= number <= high:
        raise QuantLLMError(f"{name}: expected an integer from {low} to {high} but got {number}")
    return number


# As many threads as there may be.
MAX_THREADS = 4096


def check_threads(value):
    """A number of threads; 0 leaves it to $QUANT_LLM_THREADS, which must then be
    one, too."""
    number = check_integer(value, "threads", 0, MAX_THREADS)
    text = os.environ.get("QUANT_LLM_THREADS", "")
    if number == 0 and text and not (text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 4 and 1 <= int(text.lstrip("0") or 0) <= MAX_THREADS):
        raise QuantLLMError(f"QUANT_LLM_THREADS: expected an integer from 1 to {MAX_THREADS} but got '{text}'")
    return number


def check_number(value, name, low, high, open_low=False):
    """A float in [low, high], or in (low, high]."""
    if isinstance(value, (str, bytes)):
        raise wrong_type(name, "a number", value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong_type(name, "a number", value) from None
    if not (low < number if open_low else low <= number) or not number <= high:
        raise QuantLLMError(f"{name}: expected a number in {'(' if open_low else '['}{low}, {high}] but got {number}")
    return number
