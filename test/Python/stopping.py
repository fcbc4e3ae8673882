# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""What a handler raises ends the work, which leaves no files, and so does an
interrupt."""

import os
import signal

import pytest
import quant_llm
from quant_llm import model


class Stop(Exception):
    pass


def raise_at(count, seen):
    """A handler that raises at its call number `count`."""

    def handler(*arguments):
        seen.append(arguments)
        if len(seen) == count:
            raise Stop(str(count))

    return handler


def interrupt(*arguments):
    """What Ctrl-C does to the process."""
    os.kill(os.getpid(), signal.SIGINT)


def run_import(source, directory, **handlers):
    quant_llm.import_model(source, directory / "m.mlir", **handlers)


def run_pipeline(source, directory, **handlers):
    quant_llm.import_model(source, directory.parent / "source.mlir")
    text = (directory.parent / "source.mlir").read_bytes()
    pipeline = f"quant-llm-finequant{{sizes=16 output={directory}/o.safetensors report={directory}/r.json}}"
    quant_llm.run_pipeline(text, pipeline, name=str(directory.parent / "source.mlir"), **handlers)


def run_quantize(source, directory, **handlers):
    model.quantize_directory(source, directory / "q", **handlers)


WORK = [run_import, run_pipeline, run_quantize]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


@pytest.mark.parametrize("work", WORK)
def test_progress_that_raises(work, gguf_model, directory):
    seen = []
    work(gguf_model, directory, progress=raise_at(0, seen))
    assert os.listdir(directory)
    for count in {1, 2, len(seen) // 2, len(seen)}:
        for path in directory.iterdir():
            for file in path.iterdir() if path.is_dir() else []:
                file.unlink()
            path.rmdir() if path.is_dir() else path.unlink()
        calls = []
        with pytest.raises(Stop, match=str(count)):
            work(gguf_model, directory, progress=raise_at(count, calls))
        assert len(calls) == count
        assert os.listdir(directory) == []


def test_diagnostic_that_raises(gguf_model, directory):
    (directory / "config.json").write_text("{}")  # which is left as it is, with a warning
    with pytest.raises(Stop):
        run_import(gguf_model, directory, diagnostic=raise_at(1, []))
    assert os.listdir(directory) == ["config.json"]


@pytest.mark.parametrize("work", WORK)
def test_interrupt(work, gguf_model, directory):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            work(gguf_model, directory, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert os.listdir(directory) == []


def test_interrupt_without_handlers(gguf_model, directory):
    """The interrupt comes at any time, mostly while no Python code runs."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            for count in range(10000):
                quant_llm.import_model(gguf_model, directory / f"{count}.mlir")
    finally:
        signal.signal(signal.SIGALRM, before)
    names = {name.partition(".")[0] for name in os.listdir(directory) if name != "config.json"}
    assert all((directory / f"{name}.mlir").exists() and (directory / f"{name}.safetensors").exists() for name in names)
    assert not any(name.startswith(".") or "tmp" in name for name in os.listdir(directory))
