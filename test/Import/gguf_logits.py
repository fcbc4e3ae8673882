# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""GGUF files import to the weights and the logits that Transformers gets from them."""

import os
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
import tiny_gguf
from oracle import GGUF_SIZES as SIZES
from oracle import LLAMA3, load_model, logits_of, make_model, relative_error
from runner import Module, import_model


MODELS = {
    "llama-f32": ("llama", "F32", {}),
    "llama-f16": ("llama", "F16", dict(tie_word_embeddings=True)),
    "llama-bf16": ("llama", "BF16", {}),
    "llama-q8_0": ("llama", "Q8_0", {}),
    "llama-q4_0": ("llama", "Q4_0", dict(tie_word_embeddings=True)),
    "llama-q4_1": ("llama", "Q4_1", {}),
    "qwen2-q8_0": ("qwen2", "Q8_0", dict(tie_word_embeddings=True)),
    "qwen3-q4_1": ("qwen3", "Q4_1", dict(head_dim=32)),
}

# Compilation takes a while: once for each architecture.
LOGITS = ("llama-q4_1", "qwen2-q8_0", "qwen3-q4_1")


def make(tmp_path, architecture, matrix_type="F32", options=None, **arguments):
    directory = make_model(str(tmp_path / "source"), architecture, **SIZES, **(options or {}))
    model = load_model(directory)
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model, matrix_type, **arguments)
    return path, model


def run_import(tmp_path, path, *options):
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    import_model(path, str(output / "model.mlir"), *options)
    assert sorted(os.listdir(output)) == ["config.json", "model.mlir", "model.safetensors"]
    return str(output)


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_logits(name, tmp_path):
    architecture, matrix_type, options = MODELS[name]
    path, source = make(tmp_path, architecture, matrix_type, options)
    output = run_import(tmp_path, path)
    weights = load_file(os.path.join(output, "model.safetensors"))
    # Transformers reads GGUF files itself; for Qwen3 it does not know the head size,
    # so there the state of the model that was written is the oracle.
    if architecture == "qwen3":
        expected = source.state_dict()
    else:
        expected = load_model(str(tmp_path), gguf_file="model.gguf").state_dict()
    block = matrix_type.startswith("Q")
    tied = source.config.tie_word_embeddings
    assert set(weights) == set(expected) - ({"lm_head.weight"} if tied else set())
    for key, value in weights.items():
        if value.ndim == 1:
            assert value.dtype == torch.float32
        elif block:
            assert value.dtype == torch.float16
        reference = expected[key]
        if architecture == "qwen3":
            assert relative_error(value.float().numpy(), reference.numpy()) < 0.2
        elif block and value.ndim == 2:
            assert torch.equal(value, reference.half()), key
        else:
            assert torch.equal(value.float(), reference), key

    # What we wrote is a model for Transformers: its logits are the oracle of ours.
    model = load_model(output)
    assert model.config.rms_norm_eps == source.config.rms_norm_eps
    if name not in LOGITS:
        return
    tokens = np.random.default_rng(3).integers(0, model.config.vocab_size, 24)
    logits = Module(os.path.join(output, "model.mlir"), 24)(tokens, 0)
    assert relative_error(logits, logits_of(model, tokens)) < 1e-5


def test_dequantize_to_f32_is_exact(tmp_path):
    path, _ = make(tmp_path, "llama", "Q4_1")
    output = run_import(tmp_path, path, "--dequantize-to=f32")
    weights = load_file(os.path.join(output, "model.safetensors"))
    expected = load_model(str(tmp_path), gguf_file="model.gguf").state_dict()
    for key, value in weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[key]), key


def test_biases_are_reordered_too(tmp_path):
    path, source = make(tmp_path, "llama", "F32", dict(attention_bias=True, mlp_bias=True))
    output = run_import(tmp_path, path)
    weights = load_file(os.path.join(output, "model.safetensors"))
    for key, value in source.state_dict().items():
        assert torch.equal(weights[key], value), key


def test_llama3_scaling_by_factors(tmp_path):
    """llama.cpp stores the divisors of the frequencies, not what they come from."""
    scaling = dict(LLAMA3, original_max_position_embeddings=8192, rope_theta=500000.0)
    options = dict(head_dim=64, rope_parameters=scaling, max_position_embeddings=16384)
    directory = make_model(str(tmp_path / "source"), "llama", **{**SIZES, **options})
    model = load_model(directory)
    scaled = model.model.rotary_emb.inv_freq.numpy()
    plain = 1 / 500000.0 ** (np.arange(0, 64, 2) / 64)
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model, rope_factors=plain / scaled)
    output = run_import(tmp_path, path)
    imported = load_model(output)
    parameters = imported.config.rope_parameters
    assert parameters["rope_type"] == "llama3"
    assert parameters["factor"] == pytest.approx(8, rel=1e-5)
    tokens = np.random.default_rng(3).integers(0, model.config.vocab_size, 30)
    logits = Module(os.path.join(output, "model.mlir"), 30)(tokens, 0)
    assert relative_error(logits, logits_of(model, tokens)) < 1e-5
