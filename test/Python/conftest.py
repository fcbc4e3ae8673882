# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A tiny model of every kind for the tests of the package."""

import os
import sys

import gguf
import numpy as np
import pytest
import tokenizers

for folder in ("Inputs", os.path.join("Import", "Inputs")):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", folder))
import tiny_checkpoint

SENTENCES = ["the cat sat on the mat", "a dog ran to the hat", "she said that it is a fat rat"]


def write_tokenizer(path, size):
    """A byte-level tokenizer that needs only a few tokens: bytes that do not
    occur in the sentences become token 0."""
    alphabet = sorted(set("".join(SENTENCES).replace(" ", "\u0120")))
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.save(str(path))


@pytest.fixture(scope="session")
def hf_model(tmp_path_factory):
    """A Hugging Face directory: Llama, 2 layers, 32 tokens, random weights."""
    directory = tmp_path_factory.mktemp("hf") / "tiny model"
    tiny_checkpoint.make(directory, dtype="F16", max_position_embeddings=128, vocab_size=32)
    write_tokenizer(directory / "tokenizer.json", 32)
    return directory


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The same without a tokenizer: 61 tokens, made by Transformers."""
    from oracle import make_model  # takes seconds, for Transformers

    return make_model(str(tmp_path_factory.mktemp("models") / "model"), "llama", num_hidden_layers=2)


@pytest.fixture(scope="session")
def gguf_model(tmp_path_factory):
    """A GGUF file without tokenizer: one layer, 16 tokens."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in [("block_count", 1), ("context_length", 64), ("embedding_length", 16), ("feed_forward_length", 24), ("attention.head_count", 2)]:
        writer.add_uint32("llama." + key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    shapes = {"token_embd": (16, 16), "output_norm": (16,)}
    shapes |= {f"blk.0.{name}": (16, 16) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.ffn_gate": (24, 16), "blk.0.ffn_up": (24, 16), "blk.0.ffn_down": (16, 24), "blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,)}
    for name, shape in shapes.items():
        writer.add_tensor(name + ".weight", np.ones(shape, np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
