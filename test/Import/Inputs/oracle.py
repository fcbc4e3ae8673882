# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Tiny random models of Hugging Face Transformers, the oracle of the importer."""

import json
import os

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}

DEFAULTS = dict(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=61,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)

# Sizes that blocks of 32 divide.
GGUF_SIZES = dict(num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2)

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def make_model(directory, architecture, dtype=torch.float32, shard_size=None, **options):
    """Saves a random model; all of its parameters are random, biases and norms too."""
    torch.manual_seed(sum(map(ord, directory[-8:])))
    config_class, model_class = CLASSES[architecture]
    config = config_class(**{**DEFAULTS, **options})
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.25 * torch.randn_like(parameter))
    model = model.to(dtype)
    arguments = {"max_shard_size": shard_size} if shard_size else {}
    model.save_pretrained(directory, **arguments)
    return directory


def edit_config(directory, edit):
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    edit(config)
    with open(path, "w") as file:
        json.dump(config, file)


def edit_tensors(directory, edit):
    path = os.path.join(directory, "model.safetensors")
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def load_model(directory, **arguments):
    """The model in float32, with attention by the plain formula."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **arguments
    ).eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens))[None]).logits[0].numpy()


def relative_error(actual, expected):
    expected = expected.astype(np.float64)
    return np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)
