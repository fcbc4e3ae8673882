# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Wrong directories, files and options: one message, exit status 1, no output."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "Inputs"))
from runner import run_tool
from tiny_checkpoint import make


def fails(tmp_path, source, *parts, options=()):
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    result = run_tool("quant-import", source, "-o", output / "model.mlir", *options)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("error:") == 1, result.stderr
    assert result.stderr.splitlines()[-1].startswith("quant-import: error: ")
    for part in parts:
        assert part in result.stderr, result.stderr
    assert os.listdir(output) == []
    return result.stderr


def succeeds(tmp_path, source, *warnings):
    result = run_tool("quant-import", source, "-o", tmp_path / "model.mlir")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == len(warnings), result.stderr
    for line, warning in zip(lines, warnings):
        assert line.startswith("quant-import: warning: ") and warning in line
    check = run_tool("quant-opt", tmp_path / "model.mlir", "-o", os.devnull)
    assert check.returncode == 0, check.stderr


# Options of config.json, each with a part of the message (all combinations of values
# are in test/Unit/Import).
OPTIONS = {
    "model-type": (dict(model_type="mixtral"), "model type 'mixtral' is not supported"),
    "architecture": (dict(architectures=["LlamaModel"]), 'architecture "LlamaModel" is not supported'),
    "activation": (dict(hidden_act="xielu"), "'hidden_act' of 'xielu'"),
    "rope": (dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope type 'yarn' is not supported"),
    "rope-list": (dict(rope_scaling=[]), "expected an object for 'rope_scaling' but got []"),
    "no-epsilon": (dict(rms_norm_eps=None), "expected a value for 'rms_norm_eps' but got null"),
    "no-activation": (dict(hidden_act=None), "expected a value for 'hidden_act' but got null"),
    "rope-parameters": (dict(rope_parameters={"rope_type": "linear", "factor": 2.0}), "rope type 'linear' is not supported"),
    "partial-rotary": (dict(partial_rotary_factor=0.5), "'partial_rotary_factor' of 0.5"),
    "window": (dict(model_type="mistral", sliding_window=8), "'sliding_window' of 8"),
    "use-window": (dict(model_type="qwen2", use_sliding_window=True), "'use_sliding_window' is not supported"),
    "layer-types": (dict(model_type="qwen3", layer_types=["sliding_attention"] * 2), "'layer_types' is not supported"),
    "quantized": (dict(quantization_config={"quant_method": "awq"}), "'quantization_config' with method \"awq\""),
    "heads": (dict(num_key_value_heads=3), "multiple of the number of key-value heads but got 4 and 3"),
    "negative": (dict(num_hidden_layers=-1), "expected a number of layers from 1 to 4096 but got -1"),
    "many-layers": (dict(num_hidden_layers=4096), "expected a tensor 'model.layers.2."),
    "epsilon": (dict(rms_norm_eps=1e30), "expected 'rms_norm_eps' in (0, 1) but got 1"),
    "bos": (dict(bos_token_id=32), "expected 'bos_token_id' in [0, 32), the vocabulary of the model, but got 32"),
    "eos": (dict(eos_token_id=[2, -7]), "expected 'eos_token_id' in [0, 32), the vocabulary of the model, but got -7"),
    "text": (dict(vocab_size="32"), "expected an integer for 'vocab_size' but got \"32\""),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_refused_option(name, tmp_path):
    options, message = OPTIONS[name]
    make(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["architectures"]
    path.write_text(json.dumps(dict(config, **options)))
    fails(tmp_path, tmp_path / "model", message, "config.json" if name != "many-layers" else "model.safetensors")


def test_missing_key(tmp_path):
    make(tmp_path / "model", remove=["hidden_size"])
    fails(tmp_path, tmp_path / "model", "expected an integer for 'hidden_size' but got nothing")


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "llama"', "[]", '{"a": 1, "a": 2}', "\xff"])
def test_damaged_config(text, tmp_path):
    make(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_bytes(text.encode("latin-1"))
    fails(tmp_path, tmp_path / "model", "config.json")


def test_no_such_place(tmp_path):
    fails(tmp_path, tmp_path / "absent", "does not exist")
    (tmp_path / "empty").mkdir()
    fails(tmp_path, tmp_path / "empty", "expected a file config.json")
    (tmp_path / "file.txt").write_text("hello")
    fails(tmp_path, tmp_path / "file.txt", "expected a Hugging Face model directory or a GGUF file", "is neither")
    make(tmp_path / "model")
    fails(tmp_path, tmp_path / "model" / "model.safetensors", "give the directory that holds it")
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path, tmp_path / "pipe")
    fails(tmp_path, "/dev/null")
    fails(tmp_path, "")


def test_config_is_a_directory(tmp_path):
    (tmp_path / "model" / "config.json").mkdir(parents=True)
    fails(tmp_path, tmp_path / "model", "config.json")


def test_weights_missing_or_pickled(tmp_path):
    make(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.unlink()
    fails(tmp_path, tmp_path / "model", "expected model.safetensors or model.safetensors.index.json", "found neither")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    fails(tmp_path, tmp_path / "model", "found only pytorch_model.bin", "save it again")


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_damaged_weights(size, tmp_path):
    make(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    fails(tmp_path, tmp_path / "model", "model.safetensors")


def test_wrong_header_length(tmp_path):
    make(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**63) + weights.read_bytes()[8:])
    fails(tmp_path, tmp_path / "model", "model.safetensors")


def test_missing_tensor(tmp_path):
    make(tmp_path / "model", drop=["model.layers.1.mlp.up_proj.weight"])
    fails(tmp_path, tmp_path / "model", "expected a tensor 'model.layers.1.mlp.up_proj.weight'", "there is none")


def test_missing_head_hints_at_tying(tmp_path):
    make(tmp_path / "model", drop=["lm_head.weight"])
    fails(tmp_path, tmp_path / "model", "expected a tensor 'lm_head.weight'", "set 'tie_word_embeddings' to true")


def test_tied_but_different(tmp_path):
    make(tmp_path / "model", tie_word_embeddings=True,
         tensors={"lm_head.weight": np.zeros((32, 16), np.float32)})
    fails(tmp_path, tmp_path / "model", "'tie_word_embeddings' is true", "differ; set it to false")


def test_wrong_shape_and_type(tmp_path):
    name = "model.layers.0.self_attn.k_proj.weight"
    make(tmp_path / "shape", tensors={name: np.zeros((16, 16), np.float32)})
    fails(tmp_path, tmp_path / "shape", f"tensor '{name}'", "expected the shape [8, 16]", "but got [16, 16]")
    make(tmp_path / "type", tensors={name: np.zeros((8, 16), np.int8)})
    fails(tmp_path, tmp_path / "type", f"tensor '{name}'", "expected type F32, F16 or BF16 but got I8")
    make(tmp_path / "double", tensors={name: np.zeros((8, 16), np.float64)})
    fails(tmp_path, tmp_path / "double", f"tensor '{name}'", "but got F64")


def test_extra_tensors(tmp_path):
    make(tmp_path / "known", add=["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
    succeeds(tmp_path, tmp_path / "known")
    make(tmp_path / "one", add=["model.layers.0.self_attn.q_proj.bias"])
    succeeds(tmp_path, tmp_path / "one", "tensor 'model.layers.0.self_attn.q_proj.bias'")
    make(tmp_path / "many", add=[f"extra.{i}" for i in range(9)])
    succeeds(tmp_path, tmp_path / "many", *[f"tensor 'extra.{i}'" for i in range(5)], "4 more tensors")


def test_unknown_option_is_named(tmp_path):
    make(tmp_path / "model", flux_capacitor=1.21)
    succeeds(tmp_path, tmp_path / "model", 'unknown option "flux_capacitor" is ignored')


def test_sharded_index(tmp_path):
    make(tmp_path / "model", shards=3)
    succeeds(tmp_path, tmp_path / "model")
    text = (tmp_path / "model.mlir").read_text()
    assert 'archive @model "model/model.safetensors.index.json"' in text
    shard = tmp_path / "model" / "model-00002-of-00003.safetensors"
    saved = shard.read_bytes()
    shard.unlink()
    fails(tmp_path, tmp_path / "model", "model-00002-of-00003.safetensors")
    shard.write_bytes(saved)
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))
    fails(tmp_path, tmp_path / "model", "..")
    index.write_text("{}")
    fails(tmp_path, tmp_path / "model", "index.json")


def test_wrong_output(tmp_path):
    make(tmp_path / "model")
    for output, message in [
        (tmp_path, "is a directory; give a name such as"),
        (tmp_path / "model.txt", "expected an output file that ends in .mlir"),
        (tmp_path / "absent" / "model.mlir", "create it first"),
    ]:
        result = run_tool("quant-import", tmp_path / "model", "-o", output)
        assert result.returncode == 1 and message in result.stderr, (output, result.stderr)
    result = run_tool("quant-import", tmp_path / "model")
    assert result.returncode == 1 and "give one with -o" in result.stderr
    result = run_tool("quant-import")
    assert result.returncode == 1 and "see quant-import --help" in result.stderr
    result = run_tool("quant-import", tmp_path / "model", "-o", "x.mlir", "--frobnicate")
    assert result.returncode != 0 and "frobnicate" in result.stderr
    result = run_tool("quant-import", tmp_path / "model", "-o", "x.mlir", "--dequantize-to=int4")
    assert result.returncode != 0 and "--dequantize-to: expected f16 or f32 but got 'int4'" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions(tmp_path):
    make(tmp_path / "model")
    (tmp_path / "model" / "config.json").chmod(0)
    fails(tmp_path, tmp_path / "model", "config.json")


def test_full_disk(tmp_path):
    make(tmp_path / "model")
    with open("/dev/full", "w") as full:
        result = subprocess.run(["quant-import", str(tmp_path / "model"), "-o", "-"],
                                stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and "cannot write to standard output" in result.stderr
    # A file that cannot grow: the old module stays.
    module = tmp_path / "out" / "model.mlir"
    module.parent.mkdir()
    module.write_text("old")
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec quant-import "$0" -o "$1"', tmp_path / "model", module]
    result = run_tool(*limited)
    assert result.returncode == 1 and "model.mlir" in result.stderr, result.stderr
    assert os.listdir(module.parent) == ["model.mlir"] and module.read_text() == "old"


def test_moved_together(tmp_path):
    """Paths in modules are relative, so that model and module can move together."""
    make(tmp_path / "a" / "weights")
    (tmp_path / "a" / "modules").mkdir()
    result = run_tool("quant-import", tmp_path / "a" / "weights", "-o", tmp_path / "a" / "modules" / "m.mlir")
    assert result.returncode == 0
    text = (tmp_path / "a" / "modules" / "m.mlir").read_text()
    assert 'archive @model "../weights/model.safetensors"' in text
    # The same through a link to the directory.
    (tmp_path / "link").symlink_to(tmp_path / "a" / "modules")
    result = run_tool("quant-import", tmp_path / "a" / "weights", "-o", tmp_path / "link" / "m.mlir")
    assert result.returncode == 0
    assert (tmp_path / "a" / "modules" / "m.mlir").read_text() == text
    # Writing into the model directory itself.
    result = run_tool("quant-import", tmp_path / "a" / "weights", "-o", tmp_path / "a" / "weights" / "m.mlir")
    assert result.returncode == 0
    assert 'archive @model "model.safetensors"' in (tmp_path / "a" / "weights" / "m.mlir").read_text()


def test_name_with_quotes_and_spaces(tmp_path):
    make(tmp_path / 'a "b" \\c é')
    succeeds(tmp_path, tmp_path / 'a "b" \\c é')


def test_same_bytes_each_time(tmp_path):
    make(tmp_path / "model")
    texts = set()
    for _ in range(3):
        succeeds(tmp_path, tmp_path / "model")
        texts.add((tmp_path / "model.mlir").read_bytes())
    assert len(texts) == 1
