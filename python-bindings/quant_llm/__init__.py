# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization of large language models as passes over MLIR.

Modules are exchanged as text (str) or bytecode (bytes), so that no MLIR package
is needed, and none in the same process is disturbed.
"""

from . import _quant_llm
from ._errors import Diagnostic, QuantLLMError

__version__ = _quant_llm.version()

__all__ = ["Diagnostic", "QuantLLMError", "__version__", "parse", "run_pipeline"]


def run_pipeline(source, pipeline, *, name=None, bytecode=False, progress=None, diagnostic=None):
    """Runs a textual pass pipeline on a module and returns the module.

    `source` is MLIR text (str or bytes) or bytecode (bytes). `name` stands for
    its file in messages; relative paths of archives are relative to its
    directory. `progress(stage, item, done, total)` is called now and then, and
    `diagnostic(Diagnostic)` for every remark and warning. Returns str, or
    bytes if `bytecode`. Raises QuantLLMError.
    """
    data = source.encode() if isinstance(source, str) else bytes(source)
    result = _quant_llm.compile(data, name, pipeline, bytecode, progress, diagnostic)
    return result if bytecode else result.decode()


def parse(source, *, name=None, bytecode=False):
    """Parses and verifies a module and returns it in MLIR's own spelling (or,
    with `bytecode`, as bytecode). Raises QuantLLMError."""
    return run_pipeline(source, "", name=name, bytecode=bytecode)
