# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantization of large language models as passes over MLIR.

Modules are exchanged as text (str) or bytecode (bytes), so that no MLIR package
is needed, and none in the same process is disturbed.

What runs on a GPU (quant_llm.gpu, quant_llm.torch) needs no compiler where its
artifact exists, so the extension with the compiler is loaded when it is first
used.
"""

import importlib
import os

from ._check import check_flag, check_handler, check_path, check_source, check_text
from ._errors import Diagnostic, QuantLLMError

__all__ = [
    "Diagnostic",
    "QuantLLMError",
    "__version__",
    "describe_archive",
    "describe_module",
    "import_model",
    "parse",
    "read_gguf_metadata",
    "run_pipeline",
]


def __getattr__(name):
    if name == "__version__":
        return _compiler().version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _compiler():
    """The extension with the compiler."""
    try:
        return importlib.import_module("._quant_llm", __name__)
    except ImportError as error:
        raise ImportError(f"cannot load the compiler of quant_llm, which needs LLVM and MLIR 22 (libmlir-22): {error}", name=error.name, path=error.path) from None


def _load_json(text):
    import json  # not before a command is ready for Ctrl-C (_start.py)

    return json.loads(text)


def run_pipeline(source, pipeline, *, name=None, bytecode=False, progress=None, diagnostic=None):
    """Runs a textual pass pipeline on a module and returns the module.

    `source` is MLIR text (str or bytes) or bytecode (bytes). `name` stands for
    its file in messages; relative paths of archives are relative to its
    directory. `progress(stage, item, done, total)` is called now and then, and
    `diagnostic(Diagnostic)` for every remark and warning. What they raise, and
    KeyboardInterrupt, ends the work at the next call of `progress`, or before
    files appear: none is left. Returns str, or
    bytes if `bytecode`. Raises QuantLLMError.
    """
    result = _compiler().compile(
        check_source(source),
        check_text(name, "name", optional=True),
        check_text(pipeline, "pipeline"),
        check_flag(bytecode, "bytecode"),
        check_handler(progress, "progress"),
        check_handler(diagnostic, "diagnostic"),
    )
    return result if bytecode else result.decode()


def parse(source, *, name=None, bytecode=False):
    """Parses and verifies a module and returns it in MLIR's own spelling (or,
    with `bytecode`, as bytecode). Raises QuantLLMError."""
    return run_pipeline(source, "", name=name, bytecode=bytecode)


def describe_archive(path):
    """What a safetensors file, the index of a sharded one or a GGUF file holds:
    {"path", "format", "files", "tensors": [{"name", "dtype", "shape", "bytes"}],
    "metadata"}. Raises QuantLLMError."""
    return _load_json(_compiler().describe_archive(check_path(path)))


def describe_module(source, *, name=None):
    """What a module declares: {"archives": [{"name", "path"}], "parameters":
    [{"name", "archive", "key", "shape", "element_type", "scheme", "planned_scheme", "bytes"}],
    "functions": [{"name", "type"}]}. Raises QuantLLMError."""
    return _load_json(_compiler().describe_module(check_source(source), check_text(name, "name", optional=True)))


def import_model(input, output, *, blocks_as_f32=False, progress=None, diagnostic=None):
    """Imports a Hugging Face directory or a GGUF file to the module `output`, a
    file ending in .mlir. The weights of a directory stay where they are; those
    of a GGUF file are dequantized (to f16, or to f32 if `blocks_as_f32`) to a
    safetensors file beside `output`, with a config.json. For the handlers see
    run_pipeline. Raises QuantLLMError."""
    input = check_path(input, "input")
    if check_flag(blocks_as_f32, "blocks_as_f32") and os.path.isdir(input):
        raise QuantLLMError(f"blocks_as_f32: only GGUF files have quantized tensors, but '{input}' is a directory")
    _compiler().import_model(
        input,
        check_path(output, "output"),
        blocks_as_f32,
        check_handler(progress, "progress"),
        check_handler(diagnostic, "diagnostic"),
    )


def read_gguf_metadata(path):
    """All metadata of a GGUF file, the tokenizer among them, as a dict. Raises
    QuantLLMError."""
    return _load_json(_compiler().read_gguf_metadata(check_path(path)))
