# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Logits of imported models equal those of Transformers in float32."""

import os
import sys

import numpy as np
import pytest
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
from oracle import (LLAMA3, edit_config, edit_tensors, load_model, logits_of, make_model,
                    relative_error)
from runner import Module, import_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# One layer where no option needs more: most of the time goes into compilation.
MODELS = {
    "llama": ("llama", dict(num_hidden_layers=3)),
    "llama-mha-eps-theta": ("llama", dict(
        num_key_value_heads=6, rms_norm_eps=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
    "llama-mqa-relu": ("llama", dict(
        num_key_value_heads=1, vocab_size=50, intermediate_size=37, hidden_act="relu")),
    "llama-attention-bias-gelu": ("llama", dict(attention_bias=True, hidden_act="gelu")),
    "llama-mlp-bias-gelu-tanh": ("llama", dict(mlp_bias=True, hidden_act="gelu_pytorch_tanh")),
    "llama-head-dim-f16": ("llama", dict(head_dim=12, dtype=torch.float16)),
    "llama-llama3-rope-bf16": ("llama", dict(
        head_dim=32, rope_parameters=LLAMA3, dtype=torch.bfloat16)),
    "llama-tied-sharded": ("llama", dict(tie_word_embeddings=True, shard_size="30KB")),
    "mistral": ("mistral", dict(head_dim=10, sliding_window=None, num_hidden_layers=2)),
    "qwen2": ("qwen2", dict(num_hidden_layers=2)),
    "qwen2-tied-bf16": ("qwen2", dict(tie_word_embeddings=True, dtype=torch.bfloat16)),
    "qwen3": ("qwen3", dict(head_dim=16, num_hidden_layers=2)),
    "qwen3-bias-tied": ("qwen3", dict(
        head_dim=10, attention_bias=True, tie_word_embeddings=True)),
}


def check(directory, tmp_path, model=None, bound=1e-5, length=40):
    """Prefill, and prefill with decode steps and a second chunk, on one cache."""
    module = import_model(directory, str(tmp_path / "model.mlir"))
    model = model or load_model(directory)
    tokens = np.random.default_rng(7).integers(0, model.config.vocab_size, length)
    expected = logits_of(model, tokens)
    actual = Module(module, capacity=length)(tokens, 0)
    assert actual.shape == expected.shape
    prefill = relative_error(actual, expected)
    assert prefill < bound

    split = Module(module, capacity=length + 9)
    first, second = length - 12, length - 10
    parts = [split(tokens[:first], 0)]
    parts += [split(tokens[i : i + 1], i) for i in range(first, second)]
    parts.append(split(tokens[second:], second))
    decode = relative_error(np.concatenate(parts), expected)
    assert decode < bound
    print(f"relative error: prefill {prefill:.1e}, split {decode:.1e}")


@pytest.mark.parametrize("name", MODELS)
def test_architecture(name, tmp_path):
    architecture, options = MODELS[name]
    directory = make_model(str(tmp_path / name), architecture, **options)
    if "sharded" in name:
        assert os.path.exists(os.path.join(directory, "model.safetensors.index.json"))
    check(directory, tmp_path)


def test_only_embedding_is_stored(tmp_path):
    directory = make_model(str(tmp_path / "model"), "llama", tie_word_embeddings=True)
    edit_tensors(directory, lambda tensors: tensors.pop(HEAD, None))
    check(directory, tmp_path)


def test_only_head_is_stored(tmp_path):
    directory = make_model(str(tmp_path / "model"), "llama", tie_word_embeddings=True)
    # Transformers reads the file as it was: versions differ in what they make of
    # one without the embedding table.
    model = load_model(directory)

    def rename(tensors):
        tensors[HEAD] = tensors.pop(EMBEDDING)

    edit_tensors(directory, rename)
    check(directory, tmp_path, model)
    with open(tmp_path / "model.mlir") as file:
        text = file.read()
    assert "quant_llm.parameter @lm_head.weight" in text
    assert EMBEDDING not in text


def test_tied_and_both_are_stored(tmp_path):
    directory = make_model(str(tmp_path / "model"), "llama", tie_word_embeddings=True)
    edit_tensors(directory, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    check(directory, tmp_path)


def test_older_form_of_the_configuration(tmp_path):
    directory = make_model(str(tmp_path / "model"), "llama", head_dim=32, rope_parameters=LLAMA3)

    def rewrite(config):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    edit_config(directory, rewrite)
    check(directory, tmp_path)


def test_what_does_not_fit_is_an_error(tmp_path):
    """A wrong position, length or token, or caches of two sizes (ModelBuilder.h)."""
    directory = make_model(str(tmp_path / "model"), "llama")
    path = import_model(directory, str(tmp_path / "model.mlir"))
    vocabulary = 61
    module = Module(path, capacity=8)

    def fault(tokens, position):
        before = np.load(module.keys)
        result = module.run(tokens, position)
        assert result.returncode == 2, result.stderr
        assert np.array_equal(np.load(module.keys), before)
        return result.stderr

    tokens = np.arange(8)
    for position in (-1, -(2**62)):
        assert f"position of the first token is negative: expected at least 0 but got {position}" in fault(tokens, position)
    for position in (1, 2**62):
        assert f"do not fit into the caches from the position on: expected at most 0 but got {position}" in fault(tokens, position)
    assert "more tokens than the caches hold: expected at most 8 but got 20" in fault(np.arange(20), 0)
    for token in (-5, vocabulary, vocabulary + 10**9):
        assert f"a token is not in the vocabulary: expected less than {vocabulary} but got {token}" in fault([1, token, 2], 0)
    assert module([], 0).shape == (0, vocabulary)
    assert module([0, vocabulary - 1], 6).shape == (2, vocabulary)
    values = np.load(module.values)
    np.save(module.values, values[:, :, :7])
    assert "the cache of values has not the size of that of keys: expected 8 but got 7" in fault(tokens[:2], 0)
