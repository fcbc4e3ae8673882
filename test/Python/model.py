# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Language models through the Python package and the command line: logits with
and without a cache, perplexity, generation, evaluation."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_checkpoint  # found by conftest.py
from conftest import write_tokenizer
from quant_llm import QuantLLMError, cli
from quant_llm.model import Model, import_directory, quantize_directory, replace_directory, sample
from quant_llm.tokenizer import find_end_tokens

TEXT = "the cat sat on the mat a dog ran to the hat " * 30


@pytest.fixture(scope="module")
def model(hf_model):
    return Model.load(hf_model)


@pytest.fixture(scope="module")
def quantized(hf_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("q") / "int4"
    quantize_directory(hf_model, path, options="block=1,8")
    return path


def test_cache_gives_the_same_logits(model):
    tokens = np.arange(20) % 32
    whole = model.forward(tokens)
    assert whole.shape == (20, 32) and whole.dtype == np.float32 and np.isfinite(whole).all()
    cache = model.new_cache(24)
    parts = [model.forward(tokens[a:b], cache) for a, b in ((0, 7), (7, 8), (8, 9), (9, 20))]
    assert cache.length == 20
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=2e-4, atol=2e-5)


def test_fast_path_equals_reference(hf_model, quantized):
    tokens = np.arange(17) % 32
    for path in (hf_model, quantized):
        fast = Model.load(path).forward(tokens)
        reference = Model.load(path, reference=True).forward(tokens)
        np.testing.assert_allclose(fast, reference, rtol=1e-3, atol=1e-4)


def test_quantized_model_is_close_but_not_equal(model, quantized):
    tokens = np.arange(16) % 32
    a, b = model.forward(tokens), Model.load(quantized).forward(tokens)
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert 0.001 < error < 0.5


def test_perplexity_is_the_mean_over_windows(model):
    tokens = model.tokenizer.encode(TEXT, special_tokens=False)
    window = 16
    result = model.perplexity(tokens, window=window, max_windows=5)
    total = 0.0
    for i in range(5):
        chunk = tokens[i * window : (i + 1) * window]
        logits = model.forward(chunk)[:-1].astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        total -= np.log(probabilities[np.arange(window - 1), chunk[1:]]).sum()
    assert result["tokens"] == 5 * (window - 1) and result["seconds"] > 0
    assert math.isclose(result["perplexity"], math.exp(total / (5 * (window - 1))), rel_tol=1e-5)


def test_greedy_generation_takes_the_likeliest(model):
    prompt = model.tokenizer.encode("the cat")
    generated = list(model.generate(prompt, max_tokens=6))
    tokens = list(prompt)
    end = find_end_tokens(model.config)
    for token in generated:
        best = int(np.argmax(model.forward(tokens)[-1]))
        assert token == best
        tokens.append(token)
    if len(generated) < 6:
        assert int(np.argmax(model.forward(tokens)[-1])) in end


def test_seed_decides_the_sample(model):
    prompt = model.tokenizer.encode("the cat")
    options = {"max_tokens": 12, "temperature": 5.0}
    first = list(model.generate(prompt, seed=1, **options))
    assert first == list(model.generate(prompt, seed=1, **options))
    assert any(first != list(model.generate(prompt, seed=s, **options)) for s in range(2, 6))


def test_sampling_follows_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    random = np.random.default_rng(0)
    for options, allowed, expected in (
        ({"top_k": 0, "top_p": 1.0}, 4, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2, "top_p": 1.0}, 2, [0.625, 0.375]),
        ({"top_k": 0, "top_p": 0.7}, 2, [0.625, 0.375]),
        ({"top_k": 0, "top_p": 0.4}, 1, [1.0]),
    ):
        drawn = [sample(logits, 1.0, random=random, **options) for _ in range(4000)]
        assert max(drawn) < allowed
        share = np.bincount(drawn, minlength=allowed)[:allowed] / 4000
        np.testing.assert_allclose(share, expected, atol=0.03)
    assert sample(logits, 0.0, 0, 1.0, random) == 0
    assert {sample([-np.inf, 1.0, -np.inf, 1.0], 1.0, 0, 1.0, random) for _ in range(50)} == {1, 3}
    assert sample(np.array([0.0, 1.0, 1.0]), 0.0, 0, 1.0, random) == 1
    assert sample(np.array([1e30, 3e38, 2e38], np.float32), 1e-300, 0, 1.0, random) == 1


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m: m.new_cache(-1), QuantLLMError, "capacity: expected an integer from 0 to 2147483647 but got -1"),
        (lambda m: m.new_cache("x"), TypeError, "capacity: expected an integer but got str"),
        (lambda m: m.forward(np.array([3, 2**63], np.uint64)), QuantLLMError, r"expected tokens in \[0, \d+\) but got 3 to 9223372036854775808"),
        (lambda m: m.perplexity([3, 2**64]), QuantLLMError, r"expected tokens in \[0, \d+\) but got 3 to 18446744073709551616"),
        (lambda m: m.forward([1], cache=4), TypeError, "cache: expected a Cache of new_cache.. or None but got int"),
        (lambda m: m.perplexity([1] * 9, window=1), QuantLLMError, "window: expected an integer from 2 to .* but got 1"),
        (lambda m: m.perplexity([1] * 9, window=2.5), TypeError, "window: expected an integer but got float"),
        (lambda m: m.perplexity([1] * 9, window=4, max_windows=0), QuantLLMError, "max_windows: expected an integer from 1"),
        (lambda m: m.perplexity([1] * 9, window=4, progress=1), TypeError, "progress: expected a function or None but got int"),
        # These say so before the first token is asked for.
        (lambda m: m.generate([1], max_tokens=-1), QuantLLMError, "max_tokens: expected an integer from 0"),
        (lambda m: m.generate([1], temperature="hot"), TypeError, "temperature: expected a number but got str"),
        (lambda m: m.generate([1], temperature=math.nan), QuantLLMError, r"temperature: expected a number in \[0, 100\] but got nan"),
        (lambda m: m.generate([1], top_p=0), QuantLLMError, r"top_p: expected a number in \(0, 1\] but got 0"),
        (lambda m: m.generate([1], top_k=-1), QuantLLMError, "top_k: expected an integer from 0"),
        (lambda m: m.generate([1], seed=-1), QuantLLMError, "seed: expected an integer from 0"),
        (lambda m: m.generate("the"), QuantLLMError, r"expected a list of tokens but got shape \[\]"),
        (lambda m: m.stream(b"the"), TypeError, r"prompt: expected text \(str\) but got bytes"),
        (lambda m: m.stream("caf\udce9"), QuantLLMError, "prompt: expected UTF-8 but got .* at character 3"),
        (lambda m: m.stream(""), QuantLLMError, "expected a prompt of at least one token"),
        (lambda m: m.tokenizer.encode(5), TypeError, r"text: expected text \(str\) but got int"),
        (lambda m: m.tokenizer.decode([-1]), QuantLLMError, "token: expected an integer from 0"),
        (lambda m: m.tokenizer.decode(["a"]), TypeError, "token: expected an integer but got str"),
        (lambda m: m.tokenizer.save("no/such/directory/x"), QuantLLMError, "cannot write 'no/such/directory/x': No such file"),
        (lambda m: Model.load(5), TypeError, r"path: expected a path \(str, bytes or os.PathLike\) but got int"),
        (lambda m: Model.load("x\0y"), QuantLLMError, "path: expected no NUL"),
        (lambda m: Model.load(b"caf\xe9"), QuantLLMError, "path: expected UTF-8 but got .* at character 3"),
        (lambda m: quantize_directory("x", "y", recipe=None), TypeError, r"recipe: expected text \(str\) but got NoneType"),
        (lambda m: quantize_directory("x", "y", options=5), TypeError, "options: expected a dict of names and values but got int"),
        (lambda m: quantize_directory("x", "y", recipe="magic", options={}), QuantLLMError, "there is no recipe 'magic'; expected adadim, "),
        (lambda m: quantize_directory("x", "y", progress="bar"), TypeError, "progress: expected a function or None but got str"),
        (lambda m: m.forward([1] * 129), QuantLLMError, "tokens: expected at most 128, .*, as the model is for no more .*, but got 129"),
        (lambda m: sample([], 1, 0, 1, None), QuantLLMError, r"logits: expected a non-empty list of numbers but got shape \[0\]"),
        (lambda m: sample(["x"], 1, 0, 1, None), TypeError, "logits: expected a list of numbers but got list"),
        (lambda m: sample([math.nan, 1, math.inf], 0, 0, 1, None), QuantLLMError, "logits: expected finite numbers or -inf but 2 of 3 are inf or NaN"),
        (lambda m: sample([-math.inf, -math.inf], 0, 0, 1, None), QuantLLMError, "logits: expected a finite number but all are -inf"),
        (lambda m: sample([0, 1], 1, 0, 1, None), TypeError, "random: expected a numpy.random.Generator but got NoneType"),
        (lambda m: sample([0, 1], -1, 0, 1, None), QuantLLMError, "temperature: expected a number in"),
        (lambda m: sample([0, 1], 1, -1, 1, None), QuantLLMError, "top_k: expected an integer from 0"),
        (lambda m: replace_directory("none", "nor/this"), QuantLLMError, "cannot put 'none' in the place of 'nor/this': expected a directory but 'none' is none"),
        (lambda m: import_directory("x", "y", diagnostic=1), TypeError, "diagnostic: expected a function or None but got int"),
    ],
)
def test_wrong_arguments(model, call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(model)


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([], "expected a non-empty list of tokens"),
        ([[1, 2]], r"expected a list of tokens but got shape \[1, 2\]"),
        (3, r"expected a list of tokens but got shape \[\]"),
        ([1.5], "expected tokens as integers but got float64"),
        (["the"], "expected tokens as integers but got <U3"),
        ([None], "expected tokens as integers but got object"),
        ([32], r"expected tokens in \[0, 32\) but got 32 to 32"),
        ([-1], r"expected tokens in \[0, 32\) but got -1"),
    ],
)
def test_bad_tokens(model, tokens, message):
    with pytest.raises(QuantLLMError, match=message):
        model.forward(tokens)


def test_full_cache(model):
    cache = model.new_cache(4)
    model.forward([1, 2, 3], cache)
    with pytest.raises(QuantLLMError, match="expected at most 4 tokens in the cache but got 5"):
        model.forward([1, 2], cache)


@pytest.mark.parametrize(
    "name, value, error, message",
    [
        ("length", 1.5, TypeError, "cache.length: expected an integer but got float"),
        ("length", -1, QuantLLMError, "cache.length: expected an integer from 0 to 8 but got -1"),
        ("length", 9, QuantLLMError, "cache.length: expected an integer from 0 to 8 but got 9"),
        ("key", [1.0], TypeError, "cache.key: expected an array of new_cache.. but got list"),
        ("key", np.float32(1), TypeError, "cache.key: expected an array of new_cache.. but got float32"),
        ("key", np.zeros((2, 2, 8, 5), np.float32), QuantLLMError, r"cache.key: expected float32 of shape \[2, 2, capacity, 4\] but got float32 of shape \[2, 2, 8, 5\]"),
        ("key", np.zeros((2, 2), np.float32), QuantLLMError, "cache.key: expected float32 of shape .* but got float32 of shape"),
        ("value", np.zeros((2, 2, 7, 4), np.float32), QuantLLMError, r"cache.value: expected float32 of shape \[2, 2, 8, 4\] but got float32 of shape \[2, 2, 7, 4\]"),
        ("value", np.zeros((2, 2, 8, 4)), QuantLLMError, "cache.value: expected float32 of .* but got float64 of .*; take a new_cache"),
        ("value", np.zeros((2, 2, 4, 8), np.float32).swapaxes(2, 3), QuantLLMError, "cache.value: expected a contiguous, writable array"),
    ],
)
def test_cache_that_was_changed(model, name, value, error, message):
    cache = model.new_cache(8)
    setattr(cache, name, value)
    with pytest.raises(error, match=f"^{message}"):
        model.forward([1], cache)


def test_cache_of_shared_memory(model):
    cache = model.new_cache(8)
    cache.key = cache.value
    with pytest.raises(QuantLLMError, match="^cache: expected keys and values that share no memory; copy one"):
        model.forward([1], cache)


def test_short_text(model):
    with pytest.raises(QuantLLMError, match="a text of at least one window, 8 tokens, but it has 3"):
        model.perplexity([1, 2, 3], window=8)


def test_damaged_weights_are_noticed(hf_model, tmp_path):
    broken = {"model.norm.weight": np.full(16, np.nan, np.float16)}
    tiny_checkpoint.make(tmp_path / "broken", dtype="F16", tensors=broken)
    with pytest.raises(QuantLLMError, match="window 0: expected finite logits"):
        Model.load(tmp_path / "broken").perplexity(np.arange(16) % 32, window=8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [[], ["--temperature", "1"]])
def test_damaged_weights_generate_nothing(capsys, tmp_path, value, options):
    broken = {"model.norm.weight": np.full(16, value, np.float16)}
    tiny_checkpoint.make(tmp_path / "broken", dtype="F16", vocab_size=32, tensors=broken)
    write_tokenizer(tmp_path / "broken" / "tokenizer.json", 32)
    status, out, err = run(capsys, "generate", tmp_path / "broken", "--prompt", "the cat", *options)
    assert status == 2 and out == "" and "expected finite logits but 32 of 32 are infinite or NaN; the weights may be damaged" in err


def test_module_without_forward(tmp_path):
    (tmp_path / "model.mlir").write_text("func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {\n  return %a : tensor<2xf32>\n}\n")
    with pytest.raises(QuantLLMError, match="function @forward"):
        Model.load(tmp_path)


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_eval_command(capsys, model, quantized, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    status, out, err = run(capsys, "eval", quantized, "--text", tmp_path / "text.txt", "--window", "32", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert list(result) == ["perplexity", "tokens", "seconds"]
    assert result["tokens"] % 31 == 0 and result["perplexity"] > 1
    status, out, err = run(capsys, "eval", quantized, "--text", tmp_path / "text.txt", "--window", "32", "--max-windows", "2")
    assert status == 0 and "over 62 tokens" in out


def test_eval_is_of_the_tokens_of_the_tokenizer(capsys, model, hf_model, tmp_path):
    import tokenizers
    import transformers

    directory = tmp_path / "start"
    shutil.copytree(hf_model, directory)
    path = str(directory / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(path)
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    backend.save(path)
    (tmp_path / "text.txt").write_text(TEXT)
    status, out, err = run(capsys, "eval", directory, "--text", tmp_path / "text.txt", "--window", "16", "--json")
    assert (status, err) == (0, "")
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_file=path)(TEXT).input_ids
    assert tokens[0] == backend.token_to_id("<s>")
    assert math.isclose(json.loads(out)["perplexity"], model.perplexity(tokens, window=16)["perplexity"], rel_tol=1e-6)
    assert not math.isclose(json.loads(out)["perplexity"], model.perplexity(tokens[1:], window=16)["perplexity"], rel_tol=1e-4)


def test_eval_needs_a_whole_window(capsys, quantized, tmp_path):
    (tmp_path / "text.txt").write_text("the cat")
    status, out, err = run(capsys, "eval", quantized, "--text", tmp_path / "text.txt")
    assert status == 2 and out == "" and "at least one window, 128 tokens, but it has 4; take a longer text or a smaller window" in err


def test_generate_command(capsys, quantized):
    status, out, err = run(capsys, "generate", quantized, "--prompt", "the cat", "--max-tokens", "5")
    assert (status, err) == (0, "") and out.startswith("the cat") and out.endswith("\n")
    sampled = [
        run(capsys, "generate", quantized, "--prompt", "the cat", "--temperature", "3", "--seed", seed, "--top-k", "20")[1] for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_prompt_that_is_not_text(quantized):
    command = [sys.executable, "-m", "quant_llm", "generate", quantized, "--prompt", b"caf\xe9"]
    result = subprocess.run(command, capture_output=True)
    message = b"quant-llm: error: --prompt: expected UTF-8 text but got the byte 0xe9 at character 3\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", message)


def test_model_without_tokenizer(capsys, quantized, tmp_path):
    for name in ("model.mlir", "model.safetensors", "config.json"):
        os.link(quantized / name, tmp_path / name)
    status, _, err = run(capsys, "generate", tmp_path, "--prompt", "x")
    assert status == 2 and "has no tokenizer.json; put one there" in err


def test_missing_weights(capsys, quantized, tmp_path):
    for name in ("model.mlir", "tokenizer.json"):
        os.link(quantized / name, tmp_path / name)
    status, _, err = run(capsys, "generate", tmp_path, "--prompt", "x")
    assert status == 2 and "model.safetensors" in err
