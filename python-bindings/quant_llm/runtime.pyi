# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from typing import Any, Iterable, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import Path

class Value(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    scalar: bool

class Function(NamedTuple):
    name: str
    arguments: tuple[Value, ...]
    results: tuple[Value, ...]
    aliases: tuple[int, ...]

class Engine:
    functions: dict[str, Function]
    from_cache: bool
    compile_seconds: float
    def __init__(self, source: Path | bytes | bytearray | memoryview, *, name: str | None = None, reference: bool = False, threads: int = 0, base_directory: Path | None = None, cache: bool = True) -> None: ...
    def invoke(self, function: str, *arguments: ArrayLike, in_place: Iterable[int] = ()) -> tuple[NDArray[Any], ...]: ...
