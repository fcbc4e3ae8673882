# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: shared-data
# RUN: %pytest %s
"""Two trained models: logits equal to Transformers on a text of their kind."""

import os
import sys

import pytest
import transformers

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
from oracle import load_model, logits_of, relative_error
from runner import Module, import_model

SHARED = os.environ["QUANT_LLM_SHARED"]


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_logits(name, tmp_path):
    directory = os.path.join(SHARED, "models", name)
    with open(os.path.join(SHARED, "text", "tinystories_sample_2M.txt")) as file:
        text = file.read(2000)
    tokens = transformers.AutoTokenizer.from_pretrained(directory)(text)["input_ids"][:200]
    module = import_model(directory, str(tmp_path / "model.mlir"))
    expected = logits_of(load_model(directory), tokens)
    logits = Module(module, 256)(tokens, 0)
    error = relative_error(logits, expected)
    print(f"relative error {error:.1e}")
    assert error < 1e-5
    assert (logits.argmax(1) == expected.argmax(1)).all()
