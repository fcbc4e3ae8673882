# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""What is refused of GGUF files, and what is never overwritten."""

import os
import sys

import numpy as np
import pytest
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
import tiny_gguf
from oracle import GGUF_SIZES, load_model, make_model
from runner import import_model, run_tool

REFUSED = {
    "architecture": (dict(architecture="mamba"), "architecture 'mamba' is not supported"),
    "experts": (dict(metadata={"llama.expert_count": 8}), "mixture of experts"),
    "linear-rope": (dict(metadata={"llama.rope.scaling.type": "linear"}), "rope scaling type 'linear'"),
    "yarn-rope": (dict(metadata={"llama.rope.scaling.type": "yarn"}), "rope scaling type 'yarn'"),
    "scale-linear": (dict(metadata={"llama.rope.scale_linear": 2.0}), "linear rope scaling"),
    "window": (dict(metadata={"llama.attention.sliding_window": 16}), "'attention.sliding_window' of 16"),
    "softcapping": (dict(metadata={"llama.attn_logit_softcapping": 30.0}), "'llama.attn_logit_softcapping' is not supported"),
    "logit-scale": (dict(metadata={"llama.logit_scale": 2.0}), "'llama.logit_scale' is not supported"),
    "not-causal": (dict(metadata={"llama.attention.causal": False}), "without causal mask"),
    "value-heads": (dict(metadata={"llama.attention.value_length": 8}), "value heads of another size"),
    "partial-rope": (dict(metadata={"llama.rope.dimension_count": 8}), "'rope.dimension_count' of 8"),
    "adapter": (dict(metadata={"general.type": "adapter"}), "expected a file of type 'model' but got 'adapter'"),
    "split": (dict(metadata={"split.count": 3}), "llama-gguf-split --merge"),
    "no-layers": (dict(metadata={"llama.block_count": None}), "expected an integer for 'llama.block_count' but got nothing"),
    "heads-per-layer": (dict(metadata={"llama.attention.head_count": [4, 4]}), "expected an integer for 'llama.attention.head_count'"),
    "text-for-number": (dict(metadata={"llama.attention.layer_norm_rms_epsilon": "small"}), "expected a number for 'llama.attention.layer_norm_rms_epsilon'"),
    "unread-type": (dict(unread_type="IQ4_NL"), "tensor 'blk.0.attn_q.weight' has ggml type IQ4_NL"),
    "rope-factors": (dict(rope_factors=[1.0] * 3 + [2.0, 3.0, 8.0, 8.0, 8.0]), "'rope_freqs.weight'"),
    "rope-factor-shape": (dict(rope_factors=[1.0] * 3), "expected shape [8] but got [3]"),
    "no-vocabulary": (dict(metadata={"llama.vocab_size": 0}), "expected 'llama.vocab_size' to be 61, the rows of 'token_embd.weight', but got 0"),
    "other-vocabulary": (dict(metadata={"llama.vocab_size": 2**32 - 1}), "the rows of 'token_embd.weight', but got 4294967295"),
    "rope-base": (dict(metadata={"llama.rope.freq_base": 1e-44}), "expected a base of the rotary embedding (rope_theta, or rope.freq_base) above 1 and at most 1e12 but got"),
    "huge-epsilon": (dict(metadata={"llama.attention.layer_norm_rms_epsilon": 1e30}), "expected 'llama.attention.layer_norm_rms_epsilon' in (0, 1) but got 1"),
    "no-epsilon": (dict(metadata={"llama.attention.layer_norm_rms_epsilon": 0.0}), "expected 'llama.attention.layer_norm_rms_epsilon' in (0, 1) but got 0"),
    "nan-epsilon": (dict(metadata={"llama.attention.layer_norm_rms_epsilon": float("nan")}), "expected 'llama.attention.layer_norm_rms_epsilon' in (0, 1) but got"),
    "bos": (dict(metadata={"tokenizer.ggml.bos_token_id": 61}), "expected 'tokenizer.ggml.bos_token_id' in [0, 61), the vocabulary of the model, but got 61"),
    "eos": (dict(metadata={"tokenizer.ggml.eos_token_id": 99}), "expected 'tokenizer.ggml.eos_token_id' in [0, 61), the vocabulary of the model, but got 99"),
    "large-eos": (dict(metadata={"tokenizer.ggml.eos_token_id": 2**32 - 1}), "but got 4294967295"),
    "eos-as-text": (dict(metadata={"tokenizer.ggml.eos_token_id": "2"}), "expected an integer for 'tokenizer.ggml.eos_token_id'"),
    "more-tokens": (dict(metadata={"tokenizer.ggml.tokens": [f"t{i}" for i in range(62)]}), "expected at most 61 tokens in 'tokenizer.ggml.tokens', the rows of 'token_embd.weight', but got 62"),
    "missing": (dict(drop=["blk.1.ffn_up.weight"]), "expected a tensor 'blk.1.ffn_up.weight'"),
    "shape": (dict(metadata={"llama.feed_forward_length": 128}), "expected the shape [128, 64] that the metadata ask for but got [96, 64]"),
    "extra-in-layer": (dict(extra={"blk.0.attn_sub_norm.weight": np.ones(64, np.float32)}), "'blk.0.attn_sub_norm.weight'"),
    "integers": (dict(drop=["output_norm.weight"], extra={"output_norm.weight": np.ones(64, np.int32)}), "'output_norm.weight'"),
    "infinity": (dict(drop=["output_norm.weight"], extra={"output_norm.weight": np.full(64, np.inf, np.float32)}), "tensor 'output_norm.weight', row 0, column 0: expected a finite number"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(str(tmp_path_factory.mktemp("refused") / "source"), "llama", **GGUF_SIZES))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, model, tmp_path):
    arguments, message = REFUSED[name]
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model, **arguments)
    output = tmp_path / "out"
    output.mkdir()
    result = run_tool("quant-import", path, "-o", output / "model.mlir")
    assert result.returncode == 1
    assert "quant-import: error: " in result.stderr and message in result.stderr, result.stderr
    assert os.listdir(output) == []


def test_overflow_of_f16_names_the_place(model, tmp_path):
    with torch.no_grad():
        row = model.model.layers[1].mlp.up_proj.weight[5]
        saved = row.clone()
        row[:] = 3.0e5
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model, "Q8_0")
    with torch.no_grad():
        row[:] = saved
    result = run_tool("quant-import", path, "-o", tmp_path / "model.mlir")
    assert result.returncode == 1
    assert "'blk.1.ffn_up.weight', row 5, column 0" in result.stderr
    assert "dequantized to f32" in result.stderr
    assert not (tmp_path / "model.mlir").exists() and not (tmp_path / "model.safetensors").exists()
    import_model(path, str(tmp_path / "model.mlir"), "--dequantize-to=f32")


def test_infinite_scales_are_damage(model, tmp_path):
    with torch.no_grad():
        row = model.model.layers[1].mlp.up_proj.weight[5]
        saved = row.clone()
        row[:] = 3.0e8  # of a scale that f16 has not
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model, "Q8_0")
    with torch.no_grad():
        row[:] = saved
    for option in ("f16", "f32"):
        result = run_tool("quant-import", path, "-o", tmp_path / "model.mlir", f"--dequantize-to={option}")
        assert result.returncode == 1
        assert "'blk.1.ffn_up.weight', row 5, column 0: expected a finite number but got an infinity or NaN; the file is damaged" in result.stderr


def test_files_of_others_are_not_replaced(model, tmp_path):
    path = tiny_gguf.write(str(tmp_path / "model.gguf"), model)
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text('{"mine": true}')
    result = run_tool("quant-import", path, "-o", output / "model.mlir")
    assert result.returncode == 0
    assert "config.json' exists and is left as it is" in result.stderr
    assert (output / "config.json").read_text() == '{"mine": true}'
    # Our own files are replaced, with the same bytes.
    (output / "config.json").unlink()
    import_model(path, output / "model.mlir")
    before = {name: (output / name).read_bytes() for name in os.listdir(output)}
    import_model(path, output / "model.mlir")
    assert before == {name: (output / name).read_bytes() for name in os.listdir(output)}
    assert len(before) == 3
    # Weights from elsewhere are not.
    (output / "other.safetensors").write_bytes(b"precious")
    result = run_tool("quant-import", path, "-o", output / "other.mlir")
    assert result.returncode == 1
    assert "other.safetensors' exists and was not written by this tool" in result.stderr
    assert (output / "other.safetensors").read_bytes() == b"precious"
    result = run_tool("quant-import", path, "-o", "-")
    assert result.returncode == 1
    assert "expected an output file for a GGUF model" in result.stderr
