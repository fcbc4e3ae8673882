# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Models of every architecture as PyTorch source: the numbers of the CPU path,
whole and block by block, dense and quantized, with gradients and compiled."""

import os
import sys

import numpy as np
import pytest
import torch

HERE = os.path.dirname(__file__)
sys.path[:0] = [os.path.join(HERE, "Inputs"), os.path.join(HERE, "..", "..", "Import", "Inputs")]
from bridge import BLOCKS, load_parameters, new_caches, optimize, relative_error, run, translate
from oracle import LLAMA3, make_model
from runner import Module, import_model

CONFIGS = {
    "llama": dict(architecture="llama", attention_bias=True, mlp_bias=True, num_hidden_layers=2),
    "llama3": dict(architecture="llama", head_dim=32, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "gelu": dict(architecture="llama", hidden_act="gelu"),
    "gelu_tanh": dict(architecture="llama", hidden_act="gelu_pytorch_tanh"),
    "relu": dict(architecture="llama", hidden_act="relu", dtype=torch.bfloat16),
    "mistral": dict(architecture="mistral", num_hidden_layers=2, sliding_window=None),
    "qwen2": dict(architecture="qwen2", num_hidden_layers=2, dtype=torch.float16),
    "qwen3": dict(architecture="qwen3", num_hidden_layers=3, head_dim=16),
}
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 61, 11))


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    """Module, parameters and the logits of the CPU path for TOKENS."""
    return make(tmp_path_factory.mktemp(request.param), **CONFIGS[request.param])


def make(folder, **config):
    directory = make_model(str(folder / "model"), **config)
    module = import_model(directory, str(folder / "model.mlir"))
    expected = torch.from_numpy(Module(module, capacity=16)(TOKENS.numpy(), 0))
    return module, load_parameters(os.path.join(directory, "model.safetensors")), expected


def test_whole_function(model):
    module, parameters, expected = model
    forward = translate(module)
    logits, keys, values = forward(TOKENS, *new_caches(module, 16), 0, parameters=parameters)
    assert relative_error(logits, expected) < 2e-6
    # Token by token, with the caches that came out.
    keys, values = new_caches(module, 16)
    for position, token in enumerate(TOKENS):
        last, keys, values = forward(token[None], keys, values, position, parameters=parameters)
        assert relative_error(last[0], expected[position]) < 5e-6


def test_types(model):
    module, parameters, expected = model
    forward = translate(module)
    for dtype, bound in ((torch.float64, 1e-6), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)):
        logits, keys, _ = forward(TOKENS, *new_caches(module, 16, dtype), 0, parameters=parameters, dtype=dtype)
        assert logits.dtype == keys.dtype == dtype
        assert relative_error(logits, expected) < bound


def test_raised_and_fused(model, tmp_path):
    module, parameters, expected = model
    pipeline = "builtin.module(convert-linalg-to-quant-llm,quant-llm-fuse-epilogues,canonicalize,cse)"
    fused = optimize(module, os.path.join(os.path.dirname(module), "fused.mlir"), pipeline)
    logits, _, _ = translate(fused)(TOKENS, *new_caches(module, 16), 0, parameters=parameters)
    assert relative_error(logits, expected) < 2e-6


def in_blocks(module):
    path = os.path.join(os.path.dirname(module), "blocks.mlir")
    return path if os.path.exists(path) else optimize(module, path, BLOCKS)


def test_blocks_are_transparent(model):
    module, parameters, expected = model
    logits, _, _ = translate(in_blocks(module))(TOKENS, *new_caches(module, 16), 0, parameters=parameters)
    assert relative_error(logits, expected) < 2e-6


def test_gradients_and_compilation(model):
    module, parameters, expected = model
    parameters = {name: value.float().requires_grad_() for name, value in parameters.items()}
    forward = translate(module)
    caches = new_caches(module, 16)
    logits, _, _ = forward(TOKENS, *caches, 0, parameters=parameters)
    loss = torch.nn.functional.cross_entropy(logits[:-1], TOKENS[1:])
    gradients = torch.autograd.grad(loss, parameters.values())
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)

    # One graph, with gradients.
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    logits, _, _ = compiled(TOKENS, *caches, 0, parameters=parameters)
    assert relative_error(logits.detach(), expected) < 2e-6
    loss = torch.nn.functional.cross_entropy(logits[:-1], TOKENS[1:])
    for ours, theirs in zip(torch.autograd.grad(loss, parameters.values()), gradients):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("recipe", [
    "", "element=int4", "element=uint3 block=1,32", "element=nf4 block=1,16", "element=f8E4M3FN",
    "element=uint4 zero=f16 block=2,24", "element=ternary block=1,-1", "element=uint5 block=-1,-1",
])
def test_quantized(recipe, tmp_path):
    module, _, _ = make(tmp_path, **CONFIGS["qwen2"])
    quantized = str(tmp_path / "quantized.mlir")
    run("quant-opt", module, f"--quant-llm-finequant={recipe} output={tmp_path}/q.safetensors", "-o", quantized)
    expected = torch.from_numpy(Module(quantized, capacity=16)(TOKENS.numpy(), 0))
    parameters = load_parameters(str(tmp_path / "q.safetensors"))
    logits, _, _ = translate(quantized)(TOKENS, *new_caches(module, 16), 0, parameters=parameters)
    assert relative_error(logits, expected) < 5e-6
