# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Text to tokens and back, with the package `tokenizers`.

A tokenizer comes from a `tokenizer.json`, or is rebuilt from the metadata of a
GGUF file: the byte-level BPE of GPT-2 and its relatives, and the
SentencePiece BPE of Llama 2.
"""

import json
import os
from collections.abc import Mapping

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from ._check import check_integer, check_path, check_unicode, wrong_type
from ._errors import QuantLLMError

# How a byte-level BPE cuts text into words, by `tokenizer.ggml.pre`. None is the
# cut of GPT-2. "smollm" was trained with digits cut apart first; like
# Transformers we do without, as the merges have no digits and only a run of
# spaces before a digit is told apart.
_WORDS = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Values of `tokenizer.ggml.token_type`.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_SPACE = "\u2581"


class MissingTokenizerError(QuantLLMError):
    """A model has no tokenizer that can be used."""


class Tokenizer:
    """Encodes text to token numbers and decodes token numbers to text."""

    def __init__(self, backend):
        if not isinstance(backend, tokenizers.Tokenizer):
            raise wrong_type("backend", "a Tokenizer of the package tokenizers", backend)
        self.backend = backend

    @classmethod
    def from_file(cls, path):
        """Reads a tokenizer.json."""
        path = check_path(path)
        try:
            with open(path, encoding="utf-8") as file:
                return cls(tokenizers.Tokenizer.from_str(file.read()))
        except OSError as error:
            raise QuantLLMError(f"cannot read tokenizer '{path}': {error.strerror}") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise QuantLLMError(f"'{path}' is not a tokenizer.json: {error}") from None

    @classmethod
    def from_gguf_metadata(cls, metadata, source="GGUF metadata"):
        """Builds the tokenizer that the metadata of a GGUF file describe."""
        if not isinstance(metadata, Mapping):
            raise wrong_type("metadata", "a dict of read_gguf_metadata()", metadata)
        kind = metadata.get("tokenizer.ggml.model")
        if kind is None:
            raise MissingTokenizerError(f"{source}: expected a tokenizer but there is no key 'tokenizer.ggml.model'")
        tokens = _strings(metadata, "tokenizer.ggml.tokens", source)
        types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
        if len(types) != len(tokens):
            raise QuantLLMError(f"{source}: expected {len(tokens)} entries in 'tokenizer.ggml.token_type' but got {len(types)}")
        vocabulary = {}
        for index, token in enumerate(tokens):
            vocabulary.setdefault(token, index)
        for key in ("bos", "eos", "unknown"):
            number = metadata.get(f"tokenizer.ggml.{key}_token_id")
            if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
                raise QuantLLMError(f"{source}: expected 'tokenizer.ggml.{key}_token_id' in [0, {len(tokens)}) but got {number}")
        if kind == "gpt2":
            backend = _byte_level_bpe(metadata, vocabulary, source)
            default_bos = False
        elif kind == "llama":
            backend = _sentencepiece_bpe(metadata, vocabulary, tokens, types, source)
            default_bos = True
        else:
            raise MissingTokenizerError(f"{source}: expected a tokenizer of kind 'gpt2' or 'llama' but got '{kind}'")

        added = [
            AddedToken(token, normalized=False, special=type != _USER_DEFINED)
            for token, type in zip(tokens, types)
            if type in (_CONTROL, _USER_DEFINED) or (type == _UNKNOWN and kind == "llama")
        ]
        backend.add_special_tokens([token for token in added if token.special])
        backend.add_tokens([token for token in added if not token.special])

        bos = metadata.get("tokenizer.ggml.bos_token_id")
        if metadata.get("tokenizer.ggml.add_bos_token", default_bos) and bos is not None:
            token = tokens[bos]
            backend.post_processor = processors.TemplateProcessing(
                single=[token, "$A"], pair=[token, "$A", token, "$B:1"], special_tokens=[(token, bos)]
            )
        return cls(backend)

    @property
    def vocabulary_size(self):
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text, special_tokens=True):
        """The tokens of `text` as an int64 array; `special_tokens` puts those
        around that the model expects, such as a start token."""
        if not isinstance(text, str):
            raise wrong_type("text", "text (str)", text)
        check_unicode(text, "text")
        return np.array(self.backend.encode(text, add_special_tokens=special_tokens).ids, dtype=np.int64)

    def decode(self, tokens, skip_special_tokens=True):
        return self.backend.decode([check_integer(t, "token", 0) for t in tokens], skip_special_tokens=skip_special_tokens)

    def save(self, path):
        """Writes a tokenizer.json."""
        path = check_path(path)
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(self.backend.to_str())
        except OSError as error:
            raise QuantLLMError(f"cannot write '{path}': {error.strerror}") from None


class StreamDecoder:
    """Decodes tokens one by one. A token may end inside a character; its text
    then comes with a later one. The text of all calls together is that of
    Tokenizer.decode, up to an unfinished character at the end."""

    def __init__(self, tokenizer, context=()):
        self._tokenizer = tokenizer
        # Text depends on its neighbours (a leading space is stripped, say), so
        # a few tokens before the new ones are decoded with them.
        self._tokens = [check_integer(t, "token", 0) for t in context][-8:]
        self._shown = tokenizer.decode(self._tokens)

    def push(self, token):
        self._tokens.append(check_integer(token, "token", 0))
        text = self._tokenizer.decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        new = text[len(self._shown):]
        if len(self._tokens) > 64:
            self._tokens = self._tokens[-8:]
            text = self._tokenizer.decode(self._tokens)
        self._shown = text
        return new


def _strings(metadata, key, source):
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise QuantLLMError(f"{source}: expected '{key}' to be a non-empty array of strings")
    return value


def _byte_level_bpe(metadata, vocabulary, source):
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _WORDS:
        raise MissingTokenizerError(f"{source}: expected a pre-tokenizer among {', '.join(sorted(_WORDS))} but got '{pre}'")
    merges = []
    for merge in _strings(metadata, "tokenizer.ggml.merges", source):
        left, space, right = merge.partition(" ")
        if not space or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise QuantLLMError(f"{source}: expected merges of two known tokens into a third but got '{merge}'")
        merges.append((left, right))
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", ignore_merges=pre == "llama-bpe")
    )
    words = _WORDS[pre]
    if words is None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(words), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe(metadata, vocabulary, tokens, types, source):
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise QuantLLMError(f"{source}: expected {len(tokens)} entries in 'tokenizer.ggml.scores'")
    # SentencePiece joins the two neighbours whose union scores best. As an
    # ordered list of merges that is: every split of every token, best first.
    merges = []
    for index, token in enumerate(tokens):
        if types[index] not in (_NORMAL, _UNUSED):
            continue
        splits = []
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                splits.append((vocabulary[left], vocabulary[right], left, right))
        merges += [(scores[index], left, right) for _, _, left, right in sorted(splits)]
    merges.sort(key=lambda merge: -merge[0])

    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    bytes_known = all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for _, left, right in merges],
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=bytes_known,
        )
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", _SPACE)])
    decode = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(decode + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return backend


def find_end_tokens(config):
    """The numbers of the tokens that end a text, from the dictionary of a
    config.json."""
    end = config.get("eos_token_id")
    tokens = tuple(end) if isinstance(end, list) else () if end is None else (end,)
    for token in tokens:
        if not isinstance(token, int):
            raise QuantLLMError(f"config.json: expected 'eos_token_id' to be a number or a list of numbers but got {json.dumps(end)}")
    return tokens


def check_special_tokens(config, vocabulary_size):
    """QuantLLMError if the dictionary of a config.json names tokens that are not in
    the vocabulary of the model."""
    bos = config.get("bos_token_id")
    for key, tokens in (("bos_token_id", () if bos is None else (bos,)), ("eos_token_id", find_end_tokens(config))):
        for token in tokens:
            if not isinstance(token, int) or not 0 <= token < vocabulary_size:
                raise QuantLLMError(f"config.json: expected '{key}' in [0, {vocabulary_size}), the vocabulary of the model, but got {json.dumps(token)}")


def load_tokenizer(directory):
    """The tokenizer of a model directory, or None if it has none."""
    path = os.path.join(directory, "tokenizer.json")
    return Tokenizer.from_file(path) if os.path.exists(path) else None
