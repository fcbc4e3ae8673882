# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The exception of the package."""


class Diagnostic:
    """One message of the compiler: `severity` is error, warning, remark or
    note; `location` is where, in the form of MLIR, or empty."""

    __slots__ = ("severity", "location", "message")

    def __init__(self, severity, location, message):
        self.severity = severity
        self.location = location
        self.message = message

    def __str__(self):
        where = f"{self.location}: " if self.location else ""
        return f"{where}{self.severity}: {self.message}"

    def __repr__(self):
        return f"Diagnostic({self.severity!r}, {self.location!r}, {self.message!r})"


class QuantLLMError(Exception):
    """Something that the user gave is wrong, or an operation failed. `str()` is
    one readable message; `diagnostics` holds what the compiler said."""

    def __init__(self, message, diagnostics=()):
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)
