# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from os import PathLike
from typing import Any, Callable, Literal, overload

from ._errors import Diagnostic as Diagnostic, QuantLLMError as QuantLLMError

__version__: str
__all__: list[str]

Progress = Callable[[str, str, int, int], object]
DiagnosticHandler = Callable[[Diagnostic], object]
Path = str | bytes | PathLike[str] | PathLike[bytes]

@overload
def run_pipeline(source: str | bytes | bytearray | memoryview, pipeline: str, *, name: str | None = None, bytecode: Literal[False] = False, progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> str: ...
@overload
def run_pipeline(source: str | bytes | bytearray | memoryview, pipeline: str, *, name: str | None = None, bytecode: Literal[True], progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> bytes: ...
@overload
def parse(source: str | bytes | bytearray | memoryview, *, name: str | None = None, bytecode: Literal[False] = False) -> str: ...
@overload
def parse(source: str | bytes | bytearray | memoryview, *, name: str | None = None, bytecode: Literal[True]) -> bytes: ...
def describe_archive(path: Path) -> dict[str, Any]: ...
def describe_module(source: str | bytes | bytearray | memoryview, *, name: str | None = None) -> dict[str, Any]: ...
def import_model(input: Path, output: Path, *, blocks_as_f32: bool = False, progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> None: ...
def read_gguf_metadata(path: Path) -> dict[str, Any]: ...
