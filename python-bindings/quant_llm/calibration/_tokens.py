# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Text as samples of tokens."""

import numpy as np

from .._errors import QuantLLMError


def sample_tokens(tokens, *, samples, length, seed=0):
    """`samples` pieces of `length` tokens of a text, drawn at random and without
    overlap: an int64 array [samples, length]. The same seed draws the same.
    Raises QuantLLMError if the text is too short."""
    tokens = np.asarray(tokens, dtype=np.int64).reshape(-1)
    if samples < 1 or length < 2:
        raise QuantLLMError(f"expected at least 1 sample of at least 2 tokens but got {samples} of {length}")
    count = tokens.size // length
    if tokens.size == 0:
        raise QuantLLMError("expected a text but it is empty")
    if count < samples:
        raise QuantLLMError(
            f"expected at least {samples * length} tokens for {samples} samples of {length} but the text has {tokens.size}; "
            + (f"take at most {count} samples or a longer text" if count else "take shorter samples or a longer text")
        )
    random = np.random.Generator(np.random.PCG64(seed))
    chosen = np.sort(random.permutation(count)[:samples])
    return tokens[: count * length].reshape(count, length)[chosen]


def random_tokens(vocabulary_size, *, samples, length, seed=0):
    """Tokens of no text: each drawn at random, uniformly, from the vocabulary; an
    int64 array [samples, length]. For methods that are to need no data."""
    if samples < 1 or length < 2:
        raise QuantLLMError(f"expected at least 1 sample of at least 2 tokens but got {samples} of {length}")
    random = np.random.Generator(np.random.PCG64(seed))
    return random.integers(vocabulary_size, size=(samples, length), dtype=np.int64)


def check_tokens(tokens, vocabulary_size):
    """A list of int64 arrays, one for each sample; QuantLLMError if they are none
    or do not belong to the model."""
    try:
        rows = [np.asarray(row) for row in tokens]
    except TypeError:
        raise QuantLLMError("expected samples of tokens: an array [samples, length] or a list of arrays") from None
    if not rows:
        raise QuantLLMError("expected at least one sample of tokens but got none")
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.size < 2 or row.dtype.kind not in "iu":
            raise QuantLLMError(f"sample {i}: expected a row of at least 2 integers but got {row.dtype} of shape {list(row.shape)}")
        if row.min() < 0 or (vocabulary_size is not None and row.max() >= vocabulary_size):
            raise QuantLLMError(
                f"sample {i}: expected tokens in [0, {vocabulary_size}), the vocabulary of the model, but got "
                f"{int(row.min())} to {int(row.max())}; the tokenizer is that of another model"
            )
    return [np.ascontiguousarray(row, dtype=np.int64) for row in rows]


def check_token_weights(weights, tokens):
    """A list of float32 arrays like the tokens, or None."""
    if weights is None:
        return None
    rows = [np.asarray(row, dtype=np.float32) for row in weights]
    if [row.shape for row in rows] != [row.shape for row in tokens]:
        raise QuantLLMError(f"expected one weight for each of the {sum(map(len, tokens))} tokens of {len(tokens)} samples")
    if not all(np.isfinite(row).all() and (row >= 0).all() for row in rows) or not any(row.any() for row in rows):
        raise QuantLLMError("expected weights of tokens that are finite, not negative and not all 0")
    return rows
