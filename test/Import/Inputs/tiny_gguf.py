# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes small GGUF files as llama.cpp's converter does, from Transformers models."""

import gguf
import numpy as np
import torch

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def rename(name):
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, module = module.split(".", 3)
    return f"blk.{layer}.{LAYER[module]}.{kind}"


def interleave(values, heads):
    """The row order of queries and keys in files of architecture llama."""
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write(path, model, matrix_type="F32", architecture=None, head_type=None, metadata=None,
          extra=None, drop=(), rope_factors=None, unread_type=None):
    """Matrices in `matrix_type`, vectors in F32. `metadata` changes entries: values
    None remove, others replace or add. `extra` adds tensors. The first query matrix
    is stored in `unread_type`, as zeros."""
    config = model.config
    architecture = architecture or config.model_type
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    entries = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if architecture == "llama":
        entries["rope.dimension_count"] = head_dim
    entries = {f"{architecture}.{key}": value for key, value in entries.items()}
    entries["tokenizer.ggml.bos_token_id"] = 1
    entries["tokenizer.ggml.eos_token_id"] = 2
    entries.update(metadata or {})

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in entries.items():
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)

    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = rename(name)
        if target in drop:
            continue
        values = tensor.to(torch.float32).numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = interleave(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = interleave(values, config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType.F32
        if values.ndim == 2:
            kind = getattr(gguf.GGMLQuantizationType, matrix_type)
        if unread_type and target == "blk.0.attn_q.weight":
            kind = getattr(gguf.GGMLQuantizationType, unread_type)
            data = np.zeros(gguf.quant_shape_to_byte_shape(values.shape, kind), np.uint8)
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(target, data, raw_dtype=kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_factors, np.float32))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
