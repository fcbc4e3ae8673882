# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""Calibration: statistics equal to those of hooks in Transformers, files, runs
that are killed or divided, and everything that can be wrong."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

HERE = os.path.dirname(__file__)
sys.path.insert(0, os.path.join(HERE, "..", "Import", "Inputs"))
import quant_llm
import quant_llm.model
import quant_llm.recipe
from oracle import load_model, make_model
from quant_llm.calibration import CalibrationFile, calibrate, sample_tokens
from safetensors.numpy import save_file

SAMPLES, LENGTH, VOCABULARY = 5, 12, 61
TOKENS = np.random.default_rng(3).integers(0, VOCABULARY, (SAMPLES, LENGTH))
EVERYTHING = ("absmax", "absmean", "mean", "min", "max", "quantiles", "hessian", "inputs", "fisher", "row-fisher")
OF_INPUTS = EVERYTHING[:-2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_model(str(tmp_path_factory.mktemp("models") / "model"), "qwen2", num_hidden_layers=2)


@pytest.fixture(scope="module")
def reference(directory):
    """{weight: inputs [tokens, K] of its linear}, {weight: mean squared gradient of
    samples}, {weight: of tokens and outputs, times the squared length of the input}"""
    model = load_model(directory)
    inputs, squares, rows, latest = {}, {}, {}, {}
    names = {module: name + ".weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for module in names:
        module.register_forward_hook(lambda module, args, result: inputs.setdefault(names[module], []).append(args[0].detach()[0]))
    for module in names:
        module.register_forward_hook(lambda module, args, result: latest.update({names[module]: (args[0].detach()[0], result)}))
    for sample, row in enumerate(TOKENS):
        model.zero_grad()
        tokens = torch.from_numpy(row)
        torch.nn.functional.cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:]).backward()
        # Tokens drawn from the predictions, by inverting their distribution.
        logits = model(tokens[None]).logits[0]
        below = torch.softmax(logits.detach().double(), -1).cumsum(-1)
        draws = torch.from_numpy(np.random.Generator(np.random.PCG64([0, sample])).random(LENGTH))
        drawn = (below <= draws[:, None] * below[:, -1:]).sum(-1)
        loss = -torch.log_softmax(logits, -1)[torch.arange(LENGTH), drawn].sum()
        for name, gradient in zip(latest, torch.autograd.grad(loss, [y for _, y in latest.values()])):
            value = (gradient[0].square() * latest[name][0].square().sum(1, keepdim=True)).sum(0) / TOKENS.size
            rows[name] = rows.get(name, 0) + value
        for module, name in names.items():
            squares[name] = squares.get(name, 0) + module.weight.grad.square() / SAMPLES
    return {name: torch.cat(found[::2]).double() for name, found in inputs.items()}, squares, rows


def check(file, reference, weights=None):
    inputs, squares, rows_of = reference
    assert file.parameters == sorted(inputs)
    for name, x in inputs.items():
        r = torch.ones(len(x)) if weights is None else torch.from_numpy(weights).flatten()
        r = r.double()[:, None]

        def close(statistic, expected, bound=2e-6):
            actual = torch.from_numpy(file.read(statistic, name)).double()
            assert actual.shape == expected.shape
            assert (actual - expected).abs().max() <= bound * expected.abs().max(), (statistic, name)

        known = file.statistics(name)
        close("absmax", x.abs().amax(0))
        close("absmean", (r * x.abs()).sum(0) / r.sum())
        close("mean", (r * x).sum(0) / r.sum(), 5e-6)
        close("min", x.amin(0))
        close("max", x.amax(0))
        close("hessian", (r * x).T @ x / r.sum())
        if "quantiles" in known:
            fractions = [float(f) for f in file.metadata["quantiles"].split(",")]
            # The smallest value that enough tokens do not exceed.
            expected = torch.stack([x.abs().sort(0).values[max(int(np.ceil(f * len(x))), 1) - 1] for f in fractions])
            error = (torch.from_numpy(file.read("quantiles", name)).double() - expected).abs()
            assert (error <= 0.02 * expected + 1e-6).all()
        if "inputs" in known:
            rows = torch.from_numpy(file.read("inputs", name)).double()
            assert rows.shape == (7, x.shape[1])
            distance = torch.cdist(rows, x).amin(1)
            assert distance.max() < 1e-4
        if "fisher" in known:
            close("fisher", squares[name].double(), 1e-4)
        if "row-fisher" in known:
            close("row-fisher", rows_of[name].double(), 1e-4)


def test_statistics(directory, reference, tmp_path):
    output = tmp_path / "c.safetensors"
    calls = []
    report = calibrate(directory, TOKENS, output, statistics=EVERYTHING, inputs=7, progress=lambda *call: calls.append(call), device="cpu")
    assert report["samples"] == SAMPLES and report["tokens"] == SAMPLES * LENGTH and report["dead"] == {}
    assert os.listdir(tmp_path) == ["c.safetensors"]
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    file = CalibrationFile(output)
    assert file.metadata["samples"] == str(SAMPLES) and file.metadata["length"] == str(LENGTH)
    prefix = "model.layers.1.self_attn."
    assert file.aliases[prefix + "v_proj.weight"] == prefix + "q_proj.weight"
    check(file, reference)
    # The passes accept it, and know another model.
    module = tmp_path / "model.mlir"
    quant_llm.import_model(directory, module)
    raise_ = f"convert-linalg-to-quant-llm,quant-llm-verify-calibration{{calibration={output} statistics=absmax,hessian,min}}"
    quant_llm.run_pipeline(module.read_bytes(), raise_, name=str(module))
    other = make_model(str(tmp_path / "another"), "qwen2", num_hidden_layers=2)
    quant_llm.import_model(other, tmp_path / "other.mlir")
    with pytest.raises(quant_llm.QuantLLMError, match="is of another model"):
        quant_llm.run_pipeline((tmp_path / "other.mlir").read_bytes(), raise_, name=str(tmp_path / "other.mlir"))


def test_weights_of_tokens_and_samples_of_any_length(directory, reference, tmp_path):
    weights = np.random.default_rng(1).uniform(0, 3, TOKENS.shape).astype(np.float32)
    weights[2] = 0
    calibrate(directory, TOKENS, tmp_path / "c.safetensors", token_weights=weights, device="cpu")
    file = CalibrationFile(tmp_path / "c.safetensors")
    assert file.metadata["token_weights"] == "given"
    check(file, reference, weights)
    # Tokens see only those before them, so a prefix changes nothing.
    short = [TOKENS[0], TOKENS[1][:4]]
    calibrate(directory, short, tmp_path / "short.safetensors", statistics=["absmax", "hessian"], device="cpu")
    name = "model.layers.1.mlp.down_proj.weight"
    x = reference[0][name]
    x = torch.cat([x[:LENGTH], x[LENGTH:LENGTH + 4]])
    hessian = CalibrationFile(tmp_path / "short.safetensors").read("hessian", name)
    expected = (x.T @ x / len(x)).numpy()
    assert np.abs(hessian - expected).max() < 2e-6 * expected.max()


def test_types(directory, reference, tmp_path):
    for dtype, bound in (("float64", 2e-6), ("bfloat16", 0.1)):
        calibrate(directory, TOKENS, tmp_path / dtype, statistics="absmax", dtype=getattr(torch, dtype), device="cpu")
        name = "model.layers.1.mlp.gate_proj.weight"
        expected = reference[0][name].abs().amax(0).numpy()
        actual = CalibrationFile(tmp_path / dtype).read("absmax", name)
        assert np.abs(actual - expected).max() < bound * expected.max()


def test_replaced_parameters(directory, tmp_path):
    """What a method makes of a part is what the next part sees."""
    seen = []

    def on_part(linears, statistics, read):
        seen.append(list(linears))
        if "model.layers.0.self_attn.o_proj.weight" not in linears:
            return None
        assert statistics["model.layers.0.self_attn.k_proj.weight"]["absmax"].shape == (48,)
        return {name: torch.zeros_like(read(name)) for name in linears if "o_proj" in name or "down_proj" in name}

    calibrate(directory, TOKENS, tmp_path / "c.safetensors", on_part=on_part, statistics=["absmax", "inputs"], inputs=1, device="cpu")
    with pytest.raises(quant_llm.QuantLLMError, match=r"expected the shape \[\d+, \d+\] of what takes the place of 'model.layers.0.self_attn.q_proj.weight' but got \[3\]"):
        calibrate(directory, TOKENS, tmp_path / "d", on_part=lambda linears, *_: {linears[0]: torch.zeros(3)} if linears else {}, device="cpu")
    assert [len(linears) for linears in seen] == [0, 7, 7, 1]
    # Without both, layer 1 sees the embedding.
    model = load_model(directory)
    hidden = model.model.layers[1].input_layernorm(model.model.embed_tokens(torch.from_numpy(TOKENS)))
    actual = CalibrationFile(tmp_path / "c.safetensors").read("absmax", "model.layers.1.self_attn.q_proj.weight")
    assert np.allclose(actual, hidden.detach().abs().amax((0, 1)).numpy(), rtol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 13, 22, 31, 43, 52])
def test_killed_run_goes_on(directory, reference, tmp_path, after):
    """After any sample of any part, on the way forward or back (what that needs is saved after every part)."""
    output = tmp_path / "c.safetensors"
    options = dict(statistics=EVERYTHING, inputs=7, device="cpu")

    def kill(done, total, part):
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        calibrate(directory, TOKENS, output, progress=kill, **options)
    assert not output.exists()
    with pytest.raises(quant_llm.QuantLLMError, match="unfinished calibration with another seed; finish that one"):
        calibrate(directory, TOKENS, output, seed=1, **options)
    calls = []
    calibrate(directory, TOKENS, output, progress=lambda *call: calls.append(call), **options)
    # Whole parts are not done again.
    assert calls[0][0] == after // SAMPLES * SAMPLES
    check(CalibrationFile(output), reference)
    assert os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize("after", [0, 1, 4, 9, 12])
def test_killed_while_it_tidies_up(directory, reference, tmp_path, monkeypatch, after):
    """The next run does all again, and loses nothing of the file that is there."""
    output = tmp_path / "c.safetensors"
    options = dict(statistics=EVERYTHING, inputs=7, device="cpu")
    remove, removed = os.remove, []

    def kill(path):
        if os.path.exists(output):
            if len(removed) == after:
                raise Killed
            removed.append(path)
        remove(path)

    monkeypatch.setattr(os, "remove", kill)
    with pytest.raises(Killed):
        calibrate(directory, TOKENS, output, **options)
    assert len(removed) == after and os.listdir(str(output) + ".partial")
    monkeypatch.undo()
    calibrate(directory, TOKENS, output, **options)
    check(CalibrationFile(output), reference)
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_work_that_is_incomplete(directory, tmp_path):
    output = tmp_path / "c.safetensors"
    options = dict(statistics=["hessian", "row-fisher"], device="cpu")

    def kill(done, total, part):
        if done >= total - 1:
            os.remove(f"{output}.partial/part-1.safetensors")
            raise Killed

    with pytest.raises(Killed):
        calibrate(directory, TOKENS, output, progress=kill, **options)
    with pytest.raises(quant_llm.QuantLLMError, match="part-1.safetensors' is missing; remove '.*c.safetensors.partial' to begin anew"):
        calibrate(directory, TOKENS, output, **options)
    assert not output.exists()
    # Killed before anything was in it, and what is not ours.
    shutil.rmtree(f"{output}.partial")
    os.mkdir(f"{output}.partial")
    open(f"{output}.partial/.progress.json", "w").close()
    calibrate(directory, TOKENS, output, **options)
    os.mkdir(f"{output}.partial")
    open(f"{output}.partial/mine.txt", "w").close()
    with pytest.raises(quant_llm.QuantLLMError, match="is none of our work"):
        calibrate(directory, TOKENS, output, **options)


def test_what_the_way_back_needs(directory, tmp_path):
    for statistics in (["fisher"], ["hessian", "row-fisher"]):
        with pytest.raises(quant_llm.QuantLLMError, match=f"expected no on_part with the statistic {statistics[-1]}: the way back needs the original parameters"):
            calibrate(directory, TOKENS, tmp_path / "c", statistics=statistics, on_part=lambda *_: {}, device="cpu")
    quant_llm.model.quantize_directory(directory, tmp_path / "q", recipe=quant_llm.recipe.load("rtn"), options={"group": 16})
    with pytest.raises(quant_llm.QuantLLMError, match="expected dense weights for the statistic row-fisher but 'model.layers.0.self_attn.q_proj.weight' is quantized; take the original model"):
        calibrate(tmp_path / "q", TOKENS, tmp_path / "c", statistics=["row-fisher"], device="cpu")
    assert sorted(os.listdir(tmp_path)) == ["q"]


def test_squared_gradients_have_no_aliases(directory, tmp_path):
    calibrate(directory, TOKENS, tmp_path / "c", statistics=["fisher", "row-fisher"], device="cpu")
    assert CalibrationFile(tmp_path / "c").aliases == {}


@pytest.mark.parametrize("work, goes_on_at", [(0.0, 10), (1e9, 5)])
def test_saves_when_it_is_worth_it(directory, reference, tmp_path, monkeypatch, work, goes_on_at):
    """After every part, or when so much work was done that writing is nothing beside it; the first save is free."""
    from quant_llm.calibration import _driver

    monkeypatch.setattr(_driver, "_WORK_PER_SAVE", work)
    output = tmp_path / "c.safetensors"
    options = dict(statistics=["absmax", "absmean", "mean", "min", "max", "hessian"], device="cpu")

    def kill(done, total, part):
        if done >= 13:
            raise Killed

    with pytest.raises(Killed):
        calibrate(directory, TOKENS, output, progress=kill, **options)
    calls = []
    calibrate(directory, TOKENS, output, progress=lambda *call: calls.append(call), **options)
    assert calls[0][0] == goes_on_at
    check(CalibrationFile(output), reference)
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_few_statistics_are_those_of_all(directory, tmp_path):
    """What is not asked for is not computed, and nothing else depends on it."""
    calibrate(directory, TOKENS, tmp_path / "all", device="cpu")
    everything = CalibrationFile(tmp_path / "all")
    for statistic in ("absmax", "absmean", "mean", "min", "max", "hessian"):
        calibrate(directory, TOKENS, tmp_path / statistic, statistics=[statistic], device="cpu")
        one = CalibrationFile(tmp_path / statistic)
        for name in everything.parameters:
            assert one.statistics(name) == [statistic]
            np.testing.assert_array_equal(one.read(statistic, name), everything.read(statistic, name))


def test_restart(directory, tmp_path):
    output = tmp_path / "c.safetensors"

    def kill(done, total, part):
        if done >= 6:
            raise Killed

    with pytest.raises(Killed):
        calibrate(directory, TOKENS, output, progress=kill, device="cpu")
    mine = tmp_path / "c.safetensors.partial" / "mine.safetensors"
    mine.write_text("x")
    with pytest.raises(quant_llm.QuantLLMError, match="partial' exists and is none of our work; remove it"):
        calibrate(directory, TOKENS, output, seed=1, restart=True, device="cpu")
    assert os.listdir(mine.parent) == [mine.name]
    mine.unlink()
    calibrate(directory, TOKENS, output, seed=1, restart=True, device="cpu")
    assert CalibrationFile(output).metadata["seed"] == "1"
    assert os.listdir(tmp_path) == ["c.safetensors"]
    # Another calibration file may be replaced, and nothing else.
    calibrate(directory, TOKENS, output, device="cpu")
    assert CalibrationFile(output).metadata["seed"] == "0"
    weights = tmp_path / "model.safetensors"
    shutil.copy(os.path.join(directory, "model.safetensors"), weights)
    before = weights.read_bytes()
    with pytest.raises(quant_llm.QuantLLMError, match="exists and is no calibration file; choose another output"):
        calibrate(directory, TOKENS, weights, device="cpu")
    assert weights.read_bytes() == before


WORKER = """
import sys
import numpy as np, torch
import quant_llm.calibration
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=int(sys.argv[4]), world_size=2)
quant_llm.calibration.calibrate(sys.argv[1], np.load(sys.argv[5]), sys.argv[2], statistics=sys.argv[6].split(","), inputs=7, device="cpu")
"""


@pytest.mark.parametrize("statistics", [EVERYTHING, OF_INPUTS])  # without the way back not every state is saved
def test_two_processes(directory, reference, tmp_path, statistics):
    output, tokens = str(tmp_path / "c.safetensors"), str(tmp_path / "tokens.npy")
    np.save(tokens, TOKENS)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, directory, output, str(tmp_path / "meeting"), str(rank), tokens, ",".join(statistics)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for worker in workers:
        _, error = worker.communicate(timeout=600)
        assert worker.returncode == 0, error
    check(CalibrationFile(output), reference)
    assert not os.path.exists(output + ".partial")


def test_dead_inputs(directory, tmp_path):
    from oracle import edit_tensors

    dead = make_model(str(tmp_path / "dead"), "llama", num_hidden_layers=1)

    def edit(tensors):
        tensors["model.layers.0.input_layernorm.weight"][[3, 5]] = 0

    edit_tensors(dead, edit)
    for statistics in (["absmax"], ["hessian"], ["absmax", "hessian"]):
        report = calibrate(dead, TOKENS, tmp_path / "c.safetensors", statistics=statistics, device="cpu")
        assert report["dead"] == {"model.layers.0.self_attn.q_proj.weight": 2}


def test_dead_inputs_are_not_small_ones(tmp_path):
    """The largest magnitude tells them apart, if it is there."""
    from oracle import edit_tensors

    small = make_model(str(tmp_path / "small"), "llama", num_hidden_layers=1)

    def edit(tensors):
        tensors["model.layers.0.input_layernorm.weight"][[3, 5]] = torch.tensor([1e-30, 0.0])

    edit_tensors(small, edit)
    report = calibrate(small, TOKENS, tmp_path / "c.safetensors", statistics=["absmax", "hessian"], device="cpu")
    assert report["dead"] == {"model.layers.0.self_attn.q_proj.weight": 1}


def test_dead_inputs_of_tokens_that_count(tmp_path):
    """What only others have is dead, whether magnitudes are measured or not."""
    from oracle import edit_tensors

    path = make_model(str(tmp_path / "rare"), "llama", num_hidden_layers=1)

    def edit(tensors):
        # Of no other token than 7 channel 2 is not 0.
        others = torch.arange(len(tensors["model.embed_tokens.weight"])) != 7
        tensors["model.embed_tokens.weight"][others, 2] = 0

    edit_tensors(path, edit)
    tokens = np.where(TOKENS == 7, 8, TOKENS)
    tokens[:, -1] = 7
    weights = np.ones(tokens.shape, np.float32)
    for count, dead in ((1, {}), (0, {"model.layers.0.self_attn.q_proj.weight": 1})):
        weights[:, -1] = count
        for statistics in (["hessian"], ["absmax", "hessian"]):
            report = calibrate(path, tokens, tmp_path / "c.safetensors", statistics=statistics, token_weights=weights, device="cpu")
            assert report["dead"] == dead, (count, statistics)


def test_aliases_share_inputs_alone(tmp_path):
    """What is of a linear's outputs is not that of another one with its input."""
    path = str(tmp_path / "c.safetensors")
    arrays = {name + "/w": np.ones((4, 4), np.float32) for name in ("hessian", "drift", "residual-drift", "fisher")}
    metadata = {"schema": "quant_llm.calibration/1", "aliases": '{"v": "w"}'}
    save_file({**arrays, "row-fisher/w": np.ones(4, np.float32)}, path, metadata=metadata)
    file = CalibrationFile(path)
    assert file.statistics("v") == ["drift", "hessian"]
    assert file.statistics("w") == ["drift", "fisher", "hessian", "residual-drift", "row-fisher"]
    for name in ("residual-drift", "fisher", "row-fisher"):
        with pytest.raises(quant_llm.QuantLLMError, match=f"has no statistic '{name}' of 'v'"):
            file.read(name, "v")


def expect(match, *arguments, **options):
    with pytest.raises(quant_llm.QuantLLMError, match=match):
        calibrate(*arguments, **{"device": "cpu", **options})


def test_wrong_input(directory, tmp_path):
    output = tmp_path / "c.safetensors"
    expect("at least one sample", directory, [], output)
    expect("a row of at least 2 integers but got float64", directory, [[0.5, 1.5]], output)
    expect("a row of at least 2 integers", directory, [[1]], output)
    expect(r"sample 1: expected tokens in \[0, 61\).*but got 0 to 61; the tokenizer is that of another model", directory, [[0, 1], [0, 61]], output)
    expect("expected tokens in", directory, [[-1, 1]], output)
    expect("one weight for each of the 60 tokens of 5 samples", directory, TOKENS, output, token_weights=np.ones((5, 11)))
    expect("not negative and not all 0", directory, TOKENS, output, token_weights=np.zeros(TOKENS.shape))
    expect("statistics among .* but got variance", directory, TOKENS, output, statistics=["variance"])
    expect("at least one statistic", directory, TOKENS, output, statistics=[])
    expect("a type among .* but got 'int8'", directory, TOKENS, output, dtype="int8")
    expect("cannot use the device 'abacus'", directory, TOKENS, output, device="abacus")
    expect(r"quantiles in \[0, 1\]", directory, TOKENS, output, statistics=["quantiles"], quantiles=[2])
    expect("there is no directory", directory, TOKENS, tmp_path / "none" / "c")
    expect("is a directory", directory, TOKENS, tmp_path)
    expect("expected a model", tmp_path / "none", TOKENS, output)
    os.mkdir(str(output) + ".partial")
    (tmp_path / "c.safetensors.partial" / "mine").touch()
    expect("is none of our work", directory, TOKENS, output)
    assert (tmp_path / "c.safetensors.partial" / "mine").exists()


@pytest.mark.parametrize("weight", ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_weights_that_are_not_finite(directory, tmp_path, weight):
    """In the part whose inputs suffer, or in the one before."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(directory, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors[weight][3, 5] = float("nan")
    if "embed" in weight:
        tensors[weight][:] = float("inf")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(quant_llm.QuantLLMError, match=f"the parameter '{weight}' has infinities or NaN"):
        calibrate(str(broken), TOKENS, tmp_path / "c.safetensors", statistics=["row-fisher" if "head" in weight else "hessian"], device="cpu")
    # No inputs are looked at on the way back.
    with pytest.raises(quant_llm.QuantLLMError, match=f"the parameter '{weight}' has infinities or NaN"):
        calibrate(str(broken), TOKENS, tmp_path / "d.safetensors", statistics=["row-fisher"], device="cpu")
    assert not (tmp_path / "c.safetensors").exists()


def test_samples():
    text = np.arange(100)
    samples = sample_tokens(text, samples=4, length=16, seed=5)
    assert samples.shape == (4, 16) and (samples[:, 0] % 16 == 0).all() and len(set(samples[:, 0])) == 4
    assert (samples == sample_tokens(text, samples=4, length=16, seed=5)).all()
    assert (sample_tokens(text, samples=6, length=16, seed=1) == text[:96].reshape(6, 16)).all()
    for arguments, match in (
        ((text, 7, 16), "at least 112 tokens for 7 samples of 16 but the text has 100; take at most 6 samples"),
        ((text, 1, 128), "take shorter samples or a longer text"),
        (([], 1, 16), "expected a text but it is empty"),
        ((text, 1, 1), "at least 1 sample of at least 2 tokens"),
    ):
        with pytest.raises(quant_llm.QuantLLMError, match=match):
            sample_tokens(arguments[0], samples=arguments[1], length=arguments[2])
