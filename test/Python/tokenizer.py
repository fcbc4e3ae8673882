# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Tokenizers: from tokenizer.json and from the metadata of GGUF files, against
the package that made them."""

import json

import pytest
import tokenizers
from quant_llm import QuantLLMError
from quant_llm.tokenizer import StreamDecoder, Tokenizer, check_special_tokens, find_end_tokens

TEXT = "Once upon a time,  there were 1234 caf\u00e9s\n\n\tand 2 don't \U0001f600 <s>it</s>."


def train_byte_level(use_regex=True):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([TEXT, __doc__, open(__file__).read()], trainer)
    return backend


def describe(backend, kind, **more):
    """The metadata of a GGUF file with this tokenizer."""
    model = json.loads(backend.to_str())["model"]
    vocabulary = model["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    rank = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), index)

    def type_of(token):
        return 3 if token in ("<s>", "</s>") else 2 if token == "<unk>" else 6 if token.startswith("<0x") else 1

    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.scores": [-float(rank.get(token, len(merges))) for token in tokens],
        "tokenizer.ggml.token_type": [type_of(token) for token in tokens],
        "tokenizer.ggml.bos_token_id": vocabulary["<s>"],
        "tokenizer.ggml.eos_token_id": vocabulary["</s>"],
        "tokenizer.ggml.unknown_token_id": vocabulary.get("<unk>", 0),
        **more,
    }


@pytest.fixture(scope="module")
def backend():
    return train_byte_level()


def test_byte_level_bpe_from_gguf(backend):
    ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2"))
    expected = backend.encode(TEXT, add_special_tokens=False).ids
    assert ours.encode(TEXT).tolist() == expected
    assert ours.decode(expected) == backend.decode(expected)
    assert ours.vocabulary_size == backend.get_vocab_size()


def test_start_token_if_the_file_says_so(backend):
    ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2", **{"tokenizer.ggml.add_bos_token": True}))
    start = backend.token_to_id("<s>")
    assert ours.encode("a").tolist() == [start] + ours.encode("a", special_tokens=False).tolist()


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "default", "smollm"])
def test_every_cut_into_words_is_lossless(backend, pre):
    ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2", **{"tokenizer.ggml.pre": pre}))
    text = TEXT.replace("<s>", "").replace("</s>", "")
    assert ours.decode(ours.encode(text)) == text


def test_digits_of_llama_bpe_and_qwen2(backend):
    def words(pre):
        ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2", **{"tokenizer.ggml.pre": pre}))
        return [word for word, _ in ours.backend.pre_tokenizer.pre_tokenize_str("x 12345")]

    assert words("llama-bpe") == ["x", "\u0120", "123", "45"]
    assert words("qwen2") == ["x", "\u0120", "1", "2", "3", "4", "5"]
    assert words("gpt-2") == ["x", "\u012012345"]


def sentencepiece_like():
    """A tokenizer.json as Transformers makes of a SentencePiece model."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    space = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")])
    trained.normalizer = space
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator([TEXT, __doc__], tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = space
    d = tokenizers.decoders
    backend.decoder = d.Sequence([d.Replace("\u2581", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in specials[:3]])
    return backend


def test_sentencepiece_bpe_from_gguf():
    backend = sentencepiece_like()
    ours = Tokenizer.from_gguf_metadata(describe(backend, "llama"))
    text = "Once upon a time, there were caf\u00e9s \u4e2d \U0001f600 don't"
    expected = backend.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, special_tokens=False).tolist() == expected
    assert ours.encode(text).tolist() == [1] + expected  # a start token unless told otherwise
    assert ours.decode(expected) == text


def test_save_and_load(backend, tmp_path):
    ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2"))
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()


def test_streaming_gives_the_text_of_decode(backend):
    ours = Tokenizer.from_gguf_metadata(describe(backend, "gpt2"))
    long = TEXT * 20
    tokens = ours.encode(long)
    for start in (0, 5):
        stream = StreamDecoder(ours, tokens[:start])
        text = "".join(stream.push(token) for token in tokens[start:])
        assert ours.decode(tokens[:start]) + text == ours.decode(tokens)


def test_streaming_keeps_spaces_of_sentencepiece():
    ours = Tokenizer.from_gguf_metadata(describe(sentencepiece_like(), "llama"))
    tokens = ours.encode("a time of many many words " * 10, special_tokens=False)
    stream = StreamDecoder(ours, tokens[:3])
    text = "".join(stream.push(token) for token in tokens[3:])
    assert ours.decode(tokens[:3]) + text == ours.decode(tokens)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokenizer.ggml.model": None}, "there is no key 'tokenizer.ggml.model'"),
        ({"tokenizer.ggml.model": "bert"}, "expected a tokenizer of kind 'gpt2' or 'llama' but got 'bert'"),
        ({"tokenizer.ggml.pre": "strange"}, "expected a pre-tokenizer among .* but got 'strange'"),
        ({"tokenizer.ggml.tokens": []}, "expected 'tokenizer.ggml.tokens' to be a non-empty array of strings"),
        ({"tokenizer.ggml.merges": ["ab"]}, "expected merges of two known tokens into a third but got 'ab'"),
        ({"tokenizer.ggml.merges": None}, "expected 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.token_type": [1]}, "entries in 'tokenizer.ggml.token_type' but got 1"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "expected 'tokenizer.ggml.bos_token_id' in"),
    ],
)
def test_bad_metadata(backend, change, message):
    with pytest.raises(QuantLLMError, match=message):
        Tokenizer.from_gguf_metadata({**describe(backend, "gpt2"), **change})


def test_scores_are_required_for_sentencepiece(backend):
    with pytest.raises(QuantLLMError, match="tokenizer.ggml.scores"):
        Tokenizer.from_gguf_metadata({**describe(backend, "llama"), "tokenizer.ggml.scores": [0.0]})


def test_bad_files(tmp_path):
    with pytest.raises(QuantLLMError, match="cannot read tokenizer"):
        Tokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(QuantLLMError, match="is not a tokenizer.json"):
        Tokenizer.from_file(tmp_path / "bad.json")


def test_wrong_arguments():
    with pytest.raises(TypeError, match="^metadata: expected a dict of read_gguf_metadata.. but got int"):
        Tokenizer.from_gguf_metadata(3)
    with pytest.raises(TypeError, match="^backend: expected a Tokenizer of the package tokenizers but got NoneType"):
        Tokenizer(None)


def test_end_tokens():
    assert find_end_tokens({}) == ()
    assert find_end_tokens({"eos_token_id": 2}) == (2,)
    assert find_end_tokens({"eos_token_id": [2, 3]}) == (2, 3)


@pytest.mark.parametrize("key, value, got", [("bos_token_id", 8, "8"), ("bos_token_id", "<s>", '"<s>"'), ("eos_token_id", -7, "-7"), ("eos_token_id", [2, 99], "99")])
def test_special_tokens_are_of_the_vocabulary(key, value, got):
    check_special_tokens({"bos_token_id": None}, 8)
    check_special_tokens({"bos_token_id": 7, "eos_token_id": [0, 7]}, 8)
    with pytest.raises(QuantLLMError, match=rf"config.json: expected '{key}' in \[0, 8\), the vocabulary of the model, but got {got}"):
        check_special_tokens({key: value}, 8)
