# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python, shared-data
# RUN: %pytest %s
"""quant-llm calibrate: a trained model on text of its kind, from the command
line, killed and resumed."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "Inputs"))
from processes import wait_for

SHARED = os.environ["QUANT_LLM_SHARED"]
MODEL = os.path.join(SHARED, "models", "stories260K")
TEXT = os.path.join(SHARED, "text", "tinystories_sample_2M.txt")


def start(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "quant_llm", "calibrate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=600)
    return process.returncode, out, error


def test_command(tmp_path):
    output = str(tmp_path / "c.safetensors")
    status, out, error = run(MODEL, "--text", TEXT, "--samples", "8", "--length", "64", "--device", "cpu", "-o", output)
    assert (status, error) == (0, ""), error
    assert out == f"wrote {output}: 8 samples, 512 tokens\n"
    from quant_llm.calibration import CalibrationFile

    file = CalibrationFile(output)
    assert len(file.parameters) == 5 * 7 + 1
    assert file.read("hessian", "model.layers.4.mlp.down_proj.weight").shape == (172, 172)


def test_killed_and_resumed(tmp_path):
    output = tmp_path / "c.safetensors"
    arguments = (MODEL, "--text", TEXT, "--samples", "256", "--length", "256", "--device", "cpu", "-o", str(output))
    process = start(*arguments)
    progress = tmp_path / "c.safetensors.partial" / "part-1.safetensors"
    wait_for(lambda: progress.exists() or process.poll() is not None, seconds=300)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted, the same command goes on from the last block that was saved, if any was" in error
    assert not output.exists() and progress.exists()
    # With other samples there is a message and nothing is lost.
    status, _, error = run(*arguments, "--seed", "7")
    assert status == 2 and "unfinished calibration with another seed, text" in error and progress.exists()
    status, out, error = run(*arguments)
    assert status == 0, error
    assert output.exists() and not progress.exists()


def test_tokenizer_of_another_model(tmp_path):
    """It has tokens that the model has not: said before any work."""
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    shutil.copy(os.path.join(SHARED, "models", "TinyStories-656K", "tokenizer.json"), model)
    status, out, error = run(str(model), "--text", TEXT, "--samples", "4", "--length", "64", "--device", "cpu", "-o", str(tmp_path / "c.safetensors"))
    assert status == 2 and "expected tokens in [0, 512), the vocabulary of the model, but got" in error and "the tokenizer is that of another model" in error, error
    assert os.listdir(tmp_path) == ["model"]
    # Its tokens may all be known to a model with more of them, so that nothing else tells.
    shutil.copytree(os.path.join(SHARED, "models", "TinyStories-656K"), tmp_path / "larger")
    shutil.copy(os.path.join(MODEL, "tokenizer.json"), tmp_path / "larger")
    status, out, error = run(str(tmp_path / "larger"), "--text", TEXT, "--samples", "2", "--length", "16", "--device", "cpu", "-o", str(tmp_path / "c.safetensors"))
    assert status == 0 and "warning: the tokenizer has 512 tokens but the vocabulary of the model 2048; is it that of another model?" in error, error


def test_errors(tmp_path):
    output = str(tmp_path / "c.safetensors")
    short = tmp_path / "short.txt"

    def fails(message, *arguments):
        status, out, error = run(*arguments, "-o", output)
        assert status == 2 and out == "" and error.startswith("quant-llm: error: ") and message in error, error
        assert os.listdir(tmp_path) in (["short.txt"], ["short.txt", "w.npy"], ["w.npy", "short.txt"])

    short.write_text("")
    fails(f"'{short}': expected a text but it is empty", MODEL, "--text", str(short))
    short.write_text("Once upon a time there was a cat.")
    fails("expected at least 65536 tokens for 128 samples of 512 but the text has", MODEL, "--text", str(short))
    fails("cannot read", MODEL, "--text", str(tmp_path / "none"))
    fails("expected statistics among", MODEL, "--text", TEXT, "--statistics", "variance")
    fails("is not a .npy file", MODEL, "--tokens", str(short))
    np.save(tmp_path / "w.npy", np.full((2, 16), 600))
    fails("expected tokens in [0, 512), the vocabulary of the model, but got 600 to 600; the tokenizer is that of another model", MODEL, "--tokens", str(tmp_path / "w.npy"))
    fails("expected one weight for each", MODEL, "--text", TEXT, "--token-weights", str(tmp_path / "w.npy"))
