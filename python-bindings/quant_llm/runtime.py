# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Running compiled modules on NumPy arrays."""

import json
from collections import namedtuple
from collections.abc import Iterable

import numpy as np

from . import _quant_llm
from ._check import check_flag, check_integer, check_path, check_text, check_threads, wrong_type
from ._errors import QuantLLMError

# Names of element types in safetensors and in NumPy (those of the second group
# come from the package ml_dtypes, if it is installed).
_NUMPY = {
    "BOOL": "bool",
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_SAFETENSORS = {numpy: name for name, numpy in (_NUMPY | _ML_DTYPES).items()}


def _numpy_dtype(name):
    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    if name in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            raise QuantLLMError(f"arrays of {name} need the package ml_dtypes; install it") from None
        return np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    raise QuantLLMError(f"there is no NumPy type for {name}")


def _convert(argument, expected, where):
    """A number or a list as an array of the expected type, if that can hold it
    (no 1.5 and no 300 as an i8)."""
    dtype = _numpy_dtype(expected.dtype)
    try:
        given = np.asarray(argument)
        kinds = "biufc".find(given.dtype.kind), "biufc".find(dtype.kind)
        # Integers of any sign go into each other; types that NumPy lacks (kind V)
        # are floating-point ones.
        if given.size and (kinds[0] < 0 or 0 <= kinds[1] < kinds[0] and kinds != (2, 1)):
            raise TypeError
        with np.errstate(over="ignore", invalid="ignore"):
            converted = np.asarray(argument, dtype=dtype)
        if not np.array_equal(converted, given) if dtype.kind in "iu" else not np.array_equal(np.isfinite(converted), np.isfinite(given)):
            raise OverflowError
        return converted
    except (TypeError, ValueError, OverflowError):
        raise QuantLLMError(f"{where}: expected an array of {expected.dtype} but got {_shorten(argument)}") from None


def _shorten(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


Value = namedtuple("Value", "dtype shape scalar")
Value.__doc__ = "The type of an argument or a result; -1 in `shape` is a dynamic extent."
Function = namedtuple("Function", "name arguments results aliases")
Function.__doc__ = "The type of a function; `aliases[r]` is the argument that result r updates, or -1."


class Engine:
    """A compiled module with its parameters bound.

    `source` is the path of a .mlir or .mlirbc file, or a module as bytes (text
    or bytecode). `reference` takes the exact reference lowering instead of the
    fast kernels; `threads` of 0 means $QUANT_LLM_THREADS or all cores;
    `base_directory` is that of relative paths of archives, by default the
    directory of the file; `cache` keeps compiled code for the next time.
    Raises QuantLLMError.
    """

    def __init__(self, source, *, name=None, reference=False, threads=0, base_directory=None, cache=True):
        if base_directory is not None:
            base_directory = check_path(base_directory, "base_directory")
        name = check_text(name, "name", optional=True)
        options = (check_flag(reference, "reference"), check_threads(threads), base_directory, check_flag(cache, "cache"))
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._engine = _quant_llm.Engine.from_memory(bytes(source), name, *options)
        else:
            self._engine = _quant_llm.Engine.from_file(check_path(source, "source"), *options)
        description = json.loads(self._engine.describe())
        self.from_cache = description["from_cache"]
        self.compile_seconds = description["compile_seconds"]
        self.functions = {}
        for function in description["functions"]:
            values = {
                kind: tuple(Value(v["dtype"], tuple(v["shape"]), v["scalar"]) for v in function[kind])
                for kind in ("arguments", "results")
            }
            self.functions[function["name"]] = Function(function["name"], **values, aliases=tuple(function["aliases"]))

    def invoke(self, function, *arguments, in_place=()):
        """Calls a function with arrays (or numbers, for scalars) and returns a
        tuple of arrays. Nothing is copied that is contiguous and has the right
        element type; numbers and lists are converted. The function runs to its
        end: signals wait for it.

        `in_place` names arguments (by position) that may be overwritten where a
        result is their new value; that result is the same array. They must be
        arrays that share no memory with the others.
        """
        signature = self.functions.get(check_text(function, "function"))
        if signature is None:
            raise QuantLLMError(f"expected a function among {', '.join(self.functions) or 'none'} but got '{function}'")
        if len(arguments) != len(signature.arguments):
            raise QuantLLMError(f"'{function}': expected {len(signature.arguments)} arguments but got {len(arguments)}")
        if not isinstance(in_place, Iterable):
            raise wrong_type(f"'{function}': in_place", "a list of positions of arguments", in_place)
        in_place = {check_integer(i, f"'{function}': in_place", 0, len(arguments) - 1) for i in in_place}
        passed, flags = [], []
        for position, (argument, expected) in enumerate(zip(arguments, signature.arguments)):
            if not isinstance(argument, np.ndarray):
                if position in in_place:
                    raise QuantLLMError(f"'{function}': argument {position}: expected a NumPy array to be updated in place but got {type(argument).__name__}")
                argument = _convert(argument, expected, f"'{function}': argument {position}")
            dtype = _SAFETENSORS.get(argument.dtype.name)
            if dtype is None or not argument.dtype.isnative:
                raise QuantLLMError(f"'{function}': argument {position}: expected {expected.dtype} but got an array of {argument.dtype}")
            if position in in_place and not (argument.flags.c_contiguous and argument.flags.writeable):
                raise QuantLLMError(f"'{function}': argument {position}: expected a contiguous, writable array to be updated in place")
            flat = np.ascontiguousarray(argument).reshape(-1).view(np.uint8)
            passed.append((dtype, list(argument.shape), flat))
            flags.append(position in in_place)
        for position in in_place:
            for other, (_, _, data) in enumerate(passed):
                if other != position and np.may_share_memory(passed[position][2], data):
                    raise QuantLLMError(
                        f"'{function}': arguments {position} and {other}: expected arrays that share no memory, since argument {position} is updated in place; copy one"
                    )
        results = self._engine.invoke(function, passed, flags)
        converted = []
        for (dtype, shape, data), alias in zip(results, signature.aliases):
            if alias in in_place:
                converted.append(arguments[alias])
            else:
                converted.append(data.view(_numpy_dtype(dtype)).reshape(shape))
        return tuple(converted)
