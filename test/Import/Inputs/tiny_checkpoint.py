# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes small Hugging Face checkpoints without Transformers.

As a program: tiny_checkpoint.py DIR [key=value ...], where keys are those of
config.json (values in JSON; `null` as a value removes nothing, it is stored),
"dtype" (F32, F16, BF16), "shards" (number of files), "drop" and "add" (names of
tensors) and "remove" (keys of config.json to leave out).
"""

import json
import os
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64, "I8": np.int8}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def shapes(config):
    """The tensors of a model by name, in the order of use."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = config["num_attention_heads"] * head
    keys = config["num_key_value_heads"] * head
    kind = config["model_type"]
    attention_bias = bool(config.get("attention_bias"))
    qkv_bias = kind == "qwen2" or attention_bias
    mlp_bias = bool(config.get("mlp_bias"))
    result = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}

    def linear(name, outputs, inputs, bias):
        result[name + ".weight"] = (outputs, inputs)
        if bias:
            result[name + ".bias"] = (outputs,)

    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        result[prefix + "input_layernorm.weight"] = (hidden,)
        linear(prefix + "self_attn.q_proj", queries, hidden, qkv_bias)
        linear(prefix + "self_attn.k_proj", keys, hidden, qkv_bias)
        linear(prefix + "self_attn.v_proj", keys, hidden, qkv_bias)
        linear(prefix + "self_attn.o_proj", hidden, queries, attention_bias)
        if kind == "qwen3":
            result[prefix + "self_attn.q_norm.weight"] = (head,)
            result[prefix + "self_attn.k_norm.weight"] = (head,)
        result[prefix + "post_attention_layernorm.weight"] = (hidden,)
        linear(prefix + "mlp.gate_proj", inner, hidden, mlp_bias)
        linear(prefix + "mlp.up_proj", inner, hidden, mlp_bias)
        linear(prefix + "mlp.down_proj", hidden, inner, mlp_bias)
    result["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (config["vocab_size"], hidden)
    return result


def make(directory, dtype="F32", shards=1, drop=(), add=(), remove=(), tensors=None, **options):
    """Writes config.json and safetensors with random weights; `tensors` replaces
    or adds arrays."""
    config = dict(CONFIG, **options)
    config["architectures"] = [CLASSES.get(config["model_type"], "OtherForCausalLM")]
    if "architectures" in options:
        config["architectures"] = options["architectures"]
    generator = np.random.default_rng(0)
    data = {}
    for name, shape in shapes(config).items():
        values = generator.normal(0, 0.2, shape)
        if "norm" in name:
            values = values + 1
        data[name] = values.astype(DTYPES[dtype])
    for name in drop:
        del data[name]
    for name in add:
        data[name] = np.zeros(4, np.float32)
    data.update(tensors or {})
    for key in remove:
        config.pop(key, None)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    if shards == 1:
        save_file(data, os.path.join(directory, "model.safetensors"))
        return config, data
    names = sorted(data)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: data[name] for name in names[shard::shards]}
        save_file(part, os.path.join(directory, file))
        weight_map.update(dict.fromkeys(part, file))
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)
    return config, data


if __name__ == "__main__":
    options = {}
    for argument in sys.argv[2:]:
        key, value = argument.split("=", 1)
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    make(sys.argv[1], **options)
