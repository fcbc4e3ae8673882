# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from typing import Iterable, Literal

class Diagnostic:
    severity: Literal["error", "warning", "remark", "note"]
    location: str
    message: str
    def __init__(self, severity: str, location: str, message: str) -> None: ...

class QuantLLMError(Exception):
    diagnostics: tuple[Diagnostic, ...]
    def __init__(self, message: str, diagnostics: Iterable[Diagnostic] = ()) -> None: ...
