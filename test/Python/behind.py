# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""Recipes that measure behind the layers that they quantized: against the original model in Transformers and the quantized
one as a whole, runs that are killed, and everything that can be wrong."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.overrides import TorchFunctionMode

HERE = os.path.dirname(__file__)
sys.path.insert(0, os.path.join(HERE, "..", "Import", "Inputs"))
from oracle import load_model, make_model
from quant_llm import QuantLLMError, cli, model, recipe
from quant_llm.calibration import CalibrationFile, Parameters, calibrate, calibrate_behind, translate
from quant_llm.calibration._residuals import FindResiduals, TakeSums
from quant_llm.recipe import split_pipeline

TOKENS = np.random.default_rng(3).integers(0, 61, (6, 16))
BOTH = ("gptaq", "allocate-by-row-gptaq")
# Of models with two blocks, in the order in which they write to the residual stream.
WRITERS = [f"model.layers.{i}.{name}.weight" for i in range(2) for name in ("self_attn.o_proj", "mlp.down_proj")]


class Killed(Exception):
    pass


def quantize(source, output, name, *, tokens=TOKENS, token_weights="energy", options=None, calibration=None, **behind):
    loaded = recipe.load(name)
    if loaded.needs_calibration and calibration is None:
        calibration = str(output) + ".calibration"
        if not os.path.exists(calibration):
            calibrate(source, TOKENS, calibration, statistics=loaded.calibration.statistics, token_weights="energy")
    values = {key: value for key, value in {"group": 16, "budget": 5.5, "element": "uint3"}.items() if key in loaded.options}
    measure = lambda prepared: calibrate_behind(prepared, tokens, str(output) + ".behind", **{"token_weights": token_weights, "device": "cpu", **behind})["output"]
    return model.quantize_directory(source, output, recipe=loaded, options={**values, **(options or {})}, calibration=calibration, behind=measure)


def find_inputs(function, inputs):
    """{weight: inputs [tokens, K]} and what outputs are added to, [tokens, N], in the order of
    the additions."""
    found, streams = {}, []

    def tap(weight, x):
        found.setdefault(weight, []).append(x.detach().reshape(-1, x.shape[-1]).double())
        return x

    with torch.no_grad():
        function(inputs, tap, lambda *values: streams.append([value.detach().reshape(-1, value.shape[-1]).double() for value in values]))
    return found, streams


class _WatchStream(TorchFunctionMode):
    """Sums of two tensors [tokens, width], and outputs of linears by their weights."""

    def __init__(self, width, add):
        super().__init__()
        self.width, self.add, self.outputs, self.name = width, add, {}, None

    def tap(self, weight):
        self.name = weight

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is F.linear:
            self.outputs[self.name] = result.double()
        if function.__name__ == "add" and all(isinstance(a, torch.Tensor) and a.shape[1:] == (self.width,) for a in args):
            self.add(*args)
        return result


def run_translated(directory):
    with open(os.path.join(directory, "model.mlir"), encoding="utf-8") as file:
        text = file.read()
    path = os.path.join(directory, "model.mlir")
    part = translate(text, name=path, tap=True)
    parameters = Parameters(text, name=path).load(part.parameters, dtype=torch.float32)

    def run(row, tap, add):
        arguments = []
        for value in part.inputs:
            if value["dtype"] == "float":
                arguments.append(torch.zeros([len(row) if size < 0 else size for size in value["shape"]]))
            else:
                arguments.append(torch.from_numpy(row)[None] if value["shape"] and len(value["shape"]) == 2 else torch.from_numpy(row) if value["shape"] else 0)
        watch = _WatchStream(48, add)
        with watch:
            part(*arguments, parameters=parameters, dtype=torch.float32, tap=lambda weight, x: (watch.tap(weight), tap(weight, x))[1])
        run.outputs = watch.outputs

    return run


def run_transformers(directory):
    whole = load_model(directory)

    def run(row, tap, add):
        def watch(name):
            def hook(module, arguments):
                tap(name + ".weight", arguments[0])  # and replaces nothing

            return hook

        hooks = [linear.register_forward_pre_hook(watch(name)) for name, linear in whole.named_modules() if isinstance(linear, torch.nn.Linear)]
        # What comes into the norms is what attention and MLP are added to.
        for layer in whole.model.layers:
            hooks += [norm.register_forward_pre_hook(lambda module, arguments: add(arguments[0])) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        whole(torch.from_numpy(row)[None])
        for hook in hooks:
            hook.remove()

    return run


@pytest.mark.parametrize("architecture, name, residual", [("llama", BOTH[1], 0.25), ("qwen2", BOTH[0], 1), ("qwen3", BOTH[1], 1e-3), ("mistral", BOTH[0], 0.0)])
def test_moments(tmp_path, architecture, name, residual):
    """What is measured is E[y^T y], E[(x - y)^T y] and E[(u - v)^T y], with x and u of Transformers and y and v of the quantized
    model as a whole."""
    source = make_model(str(tmp_path / "model"), architecture, num_hidden_layers=2)
    given = np.random.default_rng(4).random(TOKENS.shape).astype(np.float32) + 0.1
    weights = "energy" if architecture != "qwen2" else given
    report = quantize(source, tmp_path / "q", name, token_weights=weights, options={"residual_drift": residual})
    file = CalibrationFile(str(tmp_path / "q") + ".behind")
    planned = {weight["name"] for weight in report["weights"]}
    assert set(file.parameters) == planned and len({weight.split(".rows")[0] for weight in planned}) == 14
    original, quantized = run_transformers(source), run_translated(str(tmp_path / "q"))
    sums = {}
    for row, of_tokens in zip(TOKENS, given):
        (x, u), (y, v) = find_inputs(original, row), find_inputs(quantized, row)
        assert len(u) == len(v) == len(WRITERS)
        for weight in planned:
            a, b = x[weight.split(".rows")[0]][0], y[weight][0]
            size = a
            name_of_whole = weight.split(".rows")[0]
            if residual and name_of_whole in WRITERS:
                at = WRITERS.index(name_of_whole)
                (size,), (behind, added) = u[at], v[at]
                # Where the outputs are in what is added: equal for all tokens.
                outputs = quantized.outputs[weight]
                same = (outputs[:, :, None] == added[:, None, :]).all(0)
                assert (same.sum(1) == 1).all()
                places = same.double().argmax(1)
            r = size.square().mean(1, keepdim=True).reciprocal() if isinstance(weights, str) else torch.from_numpy(of_tokens).double()[:, None]
            total = sums.setdefault(weight, [0, 0, 0.0, None])
            total[0], total[1] = total[0] + (r * b).T @ b, total[1] + (a - b).T @ (r * b)
            total[2] += len(a) if isinstance(weights, str) else float(of_tokens.sum())
            if residual and name_of_whole in WRITERS:
                total[3] = (0 if total[3] is None else total[3]) + (size - behind)[:, places].T @ (r * b)
    drifts = 0
    assert sum(moments[3] is not None for moments in sums.values()) >= 4 * bool(residual)
    for weight, (hessian, drift, count, lacking) in sums.items():
        for statistic, wanted in (("hessian", hessian / count), ("drift", drift / count)):
            scale = float((hessian / count).abs().max())
            np.testing.assert_allclose(file.read(statistic, weight), wanted.numpy(), rtol=0, atol=2e-5 * scale, err_msg=f"{statistic} {weight}")
        assert (lacking is not None) == ("residual-drift" in file.statistics(weight)), weight
        if lacking is not None:
            wanted = (lacking / count).numpy()
            # The embedding stays as it is.
            assert wanted.any() != weight.startswith(WRITERS[0]), weight
            np.testing.assert_allclose(file.read("residual-drift", weight), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max(), err_msg=weight)
        drifts += float(np.abs(file.read("drift", weight)).max()) > 1e-3 * scale
        # Nothing is in front of the first linears.
        if weight.startswith(("model.layers.0.self_attn.q", "model.layers.0.self_attn.k", "model.layers.0.self_attn.v")):
            assert not file.read("drift", weight).any()
    assert drifts > len(planned) // 2
    for weight in report["weights"]:
        assert weight["drift_change"] == 0 if weight["name"].startswith("model.layers.0.self_attn.q") else weight["drift_change"] >= 0
    assert sum(weight["drift_change"] > 1e-3 for weight in report["weights"]) > len(planned) // 2


def test_it_helps(tmp_path):
    """Errors of the model on the tokens that it was measured on, over seeds: less behind quantized layers, less towards
    the original outputs, and least towards the original residual stream."""
    source = make_model(str(tmp_path / "model"), "llama", num_hidden_layers=2)
    run, ratios = model.Model.load(source, cache=False, need_tokenizer=False), {(0.0, 0.0): [], (0.25, 0.0): [], (0.25, 0.25): []}
    for seed in range(2):
        tokens = np.random.default_rng(seed).integers(0, 61, (12, 16))
        errors = {}
        calibration = str(tmp_path / f"{seed}.calibration")
        calibrate(source, tokens, calibration, statistics=["hessian"], token_weights="energy")
        model.quantize_directory(source, tmp_path / f"p{seed}", recipe=recipe.load("gptq-clip"), options={"group": 16, "element": "uint3"}, calibration=calibration)
        outputs = {None: tmp_path / f"p{seed}"}
        for drift, residual in ratios:
            outputs[drift, residual] = tmp_path / f"q{seed}-{drift}-{residual}"
            quantize(source, outputs[drift, residual], "gptaq", tokens=tokens, options={"drift": drift, "residual_drift": residual})
        for strengths, output in outputs.items():
            found = model.Model.load(str(output), cache=False, need_tokenizer=False)
            errors[strengths] = sum(np.square(found.forward(row) - run.forward(row)).sum() for row in tokens)
        for strengths in ratios:
            ratios[strengths].append(errors[strengths] / errors[None])
    neither, inputs, both = (np.mean(values) for values in ratios.values())
    assert both < inputs < neither and inputs < 0.97, ratios


@pytest.mark.parametrize("after", [1, 6, 7, 12, 17, 24])
def test_killed_run_goes_on(directory, tmp_path, after, reference):
    def kill(done, total, part):
        if done >= after:
            raise Killed

    output = tmp_path / "q"
    with pytest.raises(Killed):
        quantize(directory, output, "gptaq", progress=kill)
    assert sorted(os.listdir(tmp_path)) == ["q.behind.partial"]
    with pytest.raises(QuantLLMError, match="unfinished calibration with another behind; finish that one"):
        quantize(directory, output, "gptaq", options={"drift": 0.5})
    with pytest.raises(QuantLLMError, match="unfinished calibration with another schemes"):
        quantize(directory, output, "gptaq", options={"element": "uint5"})
    calls = []
    quantize(directory, output, "gptaq", progress=lambda *call: calls.append(call))
    assert calls[0][0] == after // len(TOKENS) * len(TOKENS) and calls[0][1] == 4 * len(TOKENS)
    assert calls == sorted(calls, key=lambda call: call[0]) and calls[-1][0] == calls[-1][1]
    assert sorted(os.listdir(tmp_path)) == ["q", "q.behind"]
    for name, content in reference.items():
        assert (tmp_path / name).read_bytes() == content, name


@pytest.fixture(scope="module")
def reference(directory, tmp_path_factory):
    """{file: bytes}"""
    path = tmp_path_factory.mktemp("reference")
    quantize(directory, path / "q", "gptaq")
    return {name: (path / name).read_bytes() for name in ("q.behind", "q/model.safetensors", "q/model.mlir")}


def test_file_of_an_earlier_run(directory, tmp_path, reference):
    """With the same options the same bytes, without the tokens."""
    (tmp_path / "b").write_bytes(reference["q.behind"])
    options = {"group": 16, "element": "uint3"}
    load = lambda name: recipe.load(name)
    model.quantize_directory(directory, tmp_path / "q", recipe=load("gptaq"), options={**options, "threads": 3}, behind=tmp_path / "b")
    assert (tmp_path / "q" / "model.safetensors").read_bytes() == reference["q/model.safetensors"]
    # Measured behind other weights, with other schemes or another rounding; the user may insist.
    for change in ({"element": "uint4"}, {"drift": 0.5}):
        with pytest.raises(QuantLLMError, match="'.*b' was measured behind layers of another model, or quantized in another way than by these options of the recipe 'gptaq'; measure it again"):
            model.quantize_directory(directory, tmp_path / "never", recipe=load("gptaq"), options={**options, **change}, behind=tmp_path / "b")
        assert not (tmp_path / "never").exists()
        model.quantize_directory(directory, tmp_path / "q", recipe=load("gptaq"), options={**options, **change, "any_model": True}, behind=tmp_path / "b", replace=True)
    (tmp_path / "c").write_bytes(b"x")
    other = make_model(str(tmp_path / "other"), "llama", num_hidden_layers=2)
    plain = str(tmp_path / "plain")
    calibrate(directory, TOKENS, plain, statistics=["hessian"])
    for source, name, more, message in [
        (other, "gptaq", {"behind": tmp_path / "b"}, "is of another model"),
        (directory, "gptaq", {"behind": tmp_path / "c"}, "'.*c' is not a safetensors file"),
        (directory, "gptaq", {"behind": plain}, "expected a calibration file with hessian and drift, measured behind quantized layers, but '.*plain' is none"),
        (directory, "gptaq", {}, "'gptaq' measures behind layers that it quantized, and needs a function that does so with tokens, or the file of an earlier run"),
        (directory, "gptaq", {"behind": tmp_path / "b", "calibration": plain}, "reads no calibration file but one measured behind quantized layers"),
        (directory, "rtn", {"behind": tmp_path / "b"}, "'rtn' measures nothing behind quantized layers"),
        (directory, "allocate-by-row-gptaq", {"behind": tmp_path / "b"}, "needs a calibration file with hessian, row-fisher"),
    ]:
        with pytest.raises(QuantLLMError, match=message):
            model.quantize_directory(source, tmp_path / "never", recipe=load(name), options=options if name == "gptaq" else {}, **more)
        assert not (tmp_path / "never").exists()


def test_wrong_data(directory, tmp_path, monkeypatch):
    for weights, message in [("attention", "for calibrations of the original model only"), ("none", "or one of 'energy'"), (np.zeros(TOKENS.shape, np.float32), "not all 0")]:
        with pytest.raises(QuantLLMError, match=message):
            quantize(directory, tmp_path / "q", "gptaq", token_weights=weights)
    with pytest.raises(QuantLLMError, match="vocabulary"):
        quantize(directory, tmp_path / "q", "gptaq", tokens=TOKENS + 61)
    assert not (tmp_path / "q").exists()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(QuantLLMError, match="expected one process behind quantized layers.*but there are 2"):
        quantize(directory, tmp_path / "q", "gptaq")


@pytest.mark.parametrize(
    "value, message",
    [
        (6e4, r"block 1, the \w+ of 'model.layers.1.mlp.\w+.weight' has infinities or NaN as float16; take another dtype \(recipes have it under \[calibration\]\)"),
        (7e4, r"the parameter 'model.layers.1.post_attention_layernorm.weight' has infinities or NaN as float16; take a model whose weights are finite, or another dtype"),
    ],
)
def test_type_of_too_small_a_range(directory, tmp_path, value, message):
    """Of inputs, or already of a parameter."""
    source = shutil.copytree(directory, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.post_attention_layernorm.weight"][:] = value
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    quantize(str(source), tmp_path / "wide", "gptaq")
    with pytest.raises(QuantLLMError, match=message):
        quantize(str(source), tmp_path / "q", "gptaq", dtype="float16")
    assert not (tmp_path / "q").exists()


def test_full_disk(directory, tmp_path, monkeypatch):
    """The inputs of a part are in a file; what was done before stays."""
    from quant_llm.calibration import _behind

    write = _behind._Spool.write

    def fail(self, key, tensor):
        if key == (3, 0, "model.layers.1.self_attn.q_proj.weight"):
            self.file.close()
            self.file = open("/dev/full", "wb")
        write(self, key, tensor)

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    monkeypatch.setattr(_behind._Spool, "write", fail)
    with pytest.raises(QuantLLMError, match="cannot write '.*inputs.bin': No space left on device"):
        quantize(directory, tmp_path / "q", "gptaq")
    assert sorted(os.listdir(tmp_path)) == ["q.behind.partial"]
    assert "inputs.bin" not in os.listdir(tmp_path / "q.behind.partial")
    monkeypatch.undo()
    calls = []
    quantize(directory, tmp_path / "q", "gptaq", progress=lambda *call: calls.append(call))
    assert calls[0][0] == 2 * len(TOKENS)


def test_command(directory, tmp_path, capsys, monkeypatch):
    tokens = str(tmp_path / "t.npy")
    np.save(tokens, TOKENS)
    os.mkdir(tmp_path / "my models")
    output = str(tmp_path / "my models" / "q")

    def run(*arguments):
        status = cli.main(["quantize", directory, "-o", output, "--force", *arguments])
        return status, capsys.readouterr()

    read = lambda: (tmp_path / "my models" / "q" / "model.safetensors").read_bytes()
    rows = ("--recipe", "allocate-by-row-gptaq", "--set", "budget=5.5")
    status, out = run(*rows, "--tokens", tokens)
    assert status == 0 and f"wrote {output}.behind.safetensors: 6 samples" in out.out, out.err
    assert "changes nothing" not in out.err
    before = read()
    files = ("--calibration", output + ".calibration.safetensors", "--behind", output + ".behind.safetensors")
    assert run(*rows, *files)[0] == 0
    assert read() == before
    # The same command again takes both files.
    status, out = run(*rows, "--tokens", tokens)
    assert status == 0 and out.out.count("took what an earlier run wrote, ") == 2, (out.out, out.err)
    assert read() == before
    others = str(tmp_path / "u.npy")
    np.save(others, TOKENS[::-1])
    for arguments, message in [
        ((*rows, "--tokens", others), "q.calibration.safetensors' exists already, of a calibration with another text; take it as it is, or remove it"),
        ((*rows, *files[:2], "--tokens", others), "q.behind.safetensors' exists already, of a calibration with another text; take it as it is, or remove it"),
        ((*rows, "--set", "drift=0.5", "--tokens", tokens), "q.behind.safetensors' exists already, of a calibration with another behind; take it as it is, or remove it"),
        ((*rows, "--tokens", tokens, "--samples", "2"), "--samples: --tokens has samples of its own; leave --samples out"),
        (("--recipe", "gptq", "--calibration", output + ".behind.safetensors"), "q.behind.safetensors' has statistics behind layers that a recipe quantized, but the recipe 'gptq' needs those of the original model"),
        ((*rows, *files, "--tokens", tokens), "--tokens: nothing is measured, as --calibration and --behind are given"),
        ((*rows, *files[:2]), "or a calibration file (--behind FILE)"),
        (rows, "or the files of an earlier run (--calibration FILE, --behind FILE)"),
        (("--recipe", "gptaq", *files), "--calibration: the recipe 'gptaq' reads no statistics of the original model"),
        (("--recipe", "rtn", *files[2:]), "--behind: the recipe 'rtn' needs no data"),
        (("--recipe", "gptq", *files[2:]), "--behind: the recipe 'gptq' measures nothing behind quantized layers"),
        (("--recipe", "gptq", *files[:2], "--tokens", tokens), "--tokens: nothing is measured, as --calibration is given"),
    ]:
        status, out = run(*arguments)
        assert status == 2 and message in out.err, (arguments, out.err)
    assert run("--recipe", "gptq", "--set", "group=16", *files[:2])[0] == 0
    # A model in which nothing is found to follow.
    with monkeypatch.context() as patch:
        patch.setattr(FindResiduals, "take_sum", lambda *_: None)
        status, out = run("--recipe", "gptaq", "--set", "group=16", "--set", "residual_drift=0.5", "--tokens", others, "-o", str(tmp_path / "n"))
        assert status == 0 and out.err.count("changes nothing") == 1 and "has the statistic residual-drift of no weight" in out.err, out.err
    # Messages about a step of the recipe name the model, no directory that is gone.
    tensors, metadata = load_file(output + ".behind.safetensors"), safe_open(output + ".behind.safetensors", "np").metadata()
    name = next(name for name in tensors if name.startswith("drift/"))
    for change, message in [({name: tensors[name][:4, :4].copy()}, "expected the shape"), ({}, "only what quantizes layer by layer measures it")]:
        save_file({**{other: value for other, value in tensors.items() if other != name}, **change}, str(tmp_path / "bad"), metadata=metadata)
        status, out = run(*rows, *files[:3], str(tmp_path / "bad"))
        assert status == 2 and message in out.err and f"error: {directory}: 'quant_llm.linear'" in out.err and ".scratch" not in out.err, out.err


def test_recipes_of_users(tmp_path):
    with open(recipe.load("gptaq").path, encoding="utf-8") as file:
        text = file.read()
    path = tmp_path / "mine.toml"
    for old, new, message in [
        ("quant-llm-fuse-epilogues", "quant-llm-quantize{output=$output}", "expected \\$behind as an option of one pass quant-llm-quantize, and no other such pass"),
        ("statistics = []", 'statistics = ["hessian"]', "expected no statistics, which the pipeline does not read"),
        ("damping=$damping act", "damping=$damping clip-exclude=$calibration act", "expected statistics, which the pipeline reads"),
        ("[calibration]\nstatistics = []\nsamples = 128\nlength = 512\ntoken_weights = \"energy\"\n", "", "expected a table \\[calibration\\] if the pipeline uses \\$calibration or \\$behind"),
    ]:
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(QuantLLMError, match=message):
            recipe.load(str(path))
    assert split_pipeline("a{b='quant-llm-quantize{' c={d}},quant-llm-quantize{x='}' y={1,2}},e") == ("a{b='quant-llm-quantize{' c={d}}", "quant-llm-quantize{x='}' y={1,2}}", "e")
    with pytest.raises(QuantLLMError, match="expected a pass quant-llm-quantize with options"):
        split_pipeline("quant-llm-quantize,e")


def test_residuals():
    """What outputs are added to is found through copies and biases, and nothing else is taken for it."""
    weights = {name: torch.randn(4, 3) for name in "ab"} | {name: torch.randn(8, 3) for name in "cd"}
    order = torch.tensor([3, 0, 7, 1, 2, 6, 4, 5])

    def find(function):
        watch = FindResiduals()
        linear = lambda name, x: F.linear(watch.tap(name, x), weights[name])
        x, stream = torch.randn(5, 3), torch.randn(5, 8)
        with watch:
            function(linear, x, stream)
        found = {name: (number, argument, places.tolist()) for name, (number, argument, places) in watch.found.items()}
        # What is known of sums by their numbers holds in another run.
        takes = TakeSums({name: place[:2] for name, place in found.items()}, lambda: None)
        with takes:
            function(lambda name, x: F.linear(x, weights[name]), x, stream)
        return found, takes.found, stream

    found, taken, stream = find(lambda linear, x, stream: stream + linear("c", x))
    assert found == {"c": (0, 0, list(range(8)))} and taken["c"] is stream
    found, taken, stream = find(lambda linear, x, stream: (x + x, linear("c", x) + stream))
    assert found == {"c": (1, 1, list(range(8)))} and taken["c"] is stream
    # Rows of one weight in another order, of another type, behind a bias.
    found, taken, stream = find(lambda linear, x, stream: stream + (torch.cat([linear("a", x), linear("b", x)], 1)[torch.arange(5)[:, None], order] + torch.ones(8)).to(torch.float64))
    assert found == {"a": (1, 0, [1, 3, 4, 0]), "b": (1, 0, [6, 7, 5, 2])} and taken["a"] is taken["b"] is stream
    found, taken, stream = find(lambda linear, x, stream: stream.unflatten(1, (4, 2)).flatten(1) + linear("d", x).unflatten(1, (2, 4)).flatten(1))
    assert found == {"d": (0, 0, list(range(8)))} and torch.equal(taken["d"], stream)
    # The stream behind one that wrote to it; and that it wrote to is no reason to write to itself.
    found, taken, stream = find(lambda linear, x, stream: (stream + linear("c", x)) + linear("d", x))
    assert {name: place[:2] for name, place in found.items()} == {"c": (0, 0), "d": (1, 0)}
    for function in (
        lambda linear, x, stream: stream + 2 * linear("c", x),
        lambda linear, x, stream: linear("c", x) + linear("d", x),
        lambda linear, x, stream: (y := linear("c", x)) + 0.04 * y * y * y,
        lambda linear, x, stream: linear("c", x) + stream[:1],
        lambda linear, x, stream: linear("c", x) + 1.0,
        lambda linear, x, stream: stream + linear("c", x)[:, :1].expand(5, 8),
        lambda linear, x, stream: stream + linear("c", x).reshape(-1)[torch.randperm(40)].reshape(5, 8),
        lambda linear, x, stream: stream + F.silu(linear("c", x)),
        lambda linear, x, stream: torch.add(stream, linear("c", x), alpha=2),
        lambda linear, x, stream: stream[:1].expand(5, 8) + linear("c", x),
        lambda linear, x, stream: stream + ((y := linear("c", x)) + y.mean(0)),
        lambda linear, x, stream: stream[:0] + linear("c", x[:0]),
        lambda linear, x, stream: (y := linear("c", x)) + torch.cat([half * half for half in y.chunk(2, 1)], 1),
    ):
        assert find(function)[0] == {}

    def overwrite(linear, x, stream):
        y = linear("c", x).clone()
        y[:, 1] = 0
        return stream + y

    assert find(overwrite)[0] == {}

    def overwrite_view(linear, x, stream):
        y = linear("c", x).clone()
        y[:, :4][:, 1] = 0
        y.reshape(5, 2, 4)[:, :, 1] = 0
        return stream + y

    assert find(overwrite_view)[0] == {}
    # Biases in other shapes.
    for bias in (torch.ones(1, 8), torch.ones(8).expand(5, 8), torch.ones(1), torch.ones(())):
        found, taken, stream = find(lambda linear, x, stream: stream + (linear("c", x) + bias))
        assert found == {"c": (1, 0, list(range(8)))} and taken["c"] is stream, bias.shape
    # What differs from token to token is no bias, whatever its shape.
    for other, found in (torch.ones(1, 1, 8), {"c": (1, 0, list(range(8)))}), (torch.randn(5, 1), {}), (torch.randn(5, 8), {}):
        assert find(lambda linear, x, stream: stream[None] + (linear("c", x[None]) + other))[0] == found, other.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_recorded_runs():
    """What is replayed is what a run gives, for every shape."""
    from quant_llm.calibration._runner import Runner

    device = torch.device("cuda")
    weight = torch.randn(64, 64, device=device)
    recorded, plain = (Runner(lambda arguments: (arguments[0] @ weight * arguments[1],), device, can_be_recorded) for can_be_recorded in (True, False))
    for length in (8, 16, 8, 8, 16, 24, 8):
        x, scale = torch.randn(length, 64, device=device), torch.randn((), device=device)
        assert torch.equal(recorded([x, scale])[0], plain([x, scale])[0])
    assert sum(record is not None for record in recorded.records.values()) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", BOTH)
def test_devices(directory, tmp_path, name):
    """The GPU, where launches are recorded, measures what the CPU does."""
    files = []
    for device in ("cpu", "cuda"):
        quantize(directory, tmp_path / device, name, options={"residual_drift": 0.25}, device=device)
        files.append(CalibrationFile(str(tmp_path / device) + ".behind"))
    expected, found = files
    assert set(expected.parameters) == set(found.parameters)
    for weight in expected.parameters:
        assert expected.statistics(weight) == found.statistics(weight)
        for statistic in expected.statistics(weight):
            value = expected.read(statistic, weight)
            np.testing.assert_allclose(found.read(statistic, weight), value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=f"{statistic} {weight}")


def test_reuse(directory, tmp_path):
    """Only of the very same call, as far as a file can tell."""
    output = str(tmp_path / "c")
    measure = lambda statistics=("hessian",), tokens=TOKENS, **more: calibrate(directory, tokens, output, statistics=statistics, reuse=True, **more)
    assert not measure()["reused"]
    content = (tmp_path / "c").read_bytes()
    calls = []
    again = measure(progress=lambda *call: calls.append(call))
    assert again["reused"] and again["samples"] == len(TOKENS) and calls == [] and (tmp_path / "c").read_bytes() == content
    for more, what in [
        ({"tokens": TOKENS[1:]}, "samples, tokens, text"),
        ({"statistics": ("hessian", "absmax")}, r"statistics \(without absmax\)"),
        ({"token_weights": "energy"}, "token_weights"),
        ({"token_weights": np.ones(TOKENS.shape, np.float32)}, "token_weights"),
        ({"dtype": "float64"}, "dtype"),
    ]:
        with pytest.raises(QuantLLMError, match=f"'.*/c' exists already, of a calibration with another {what}; take it as it is, or remove it"):
            measure(**more)
    given = {"statistics": ["hessian"], "token_weights": np.ones(TOKENS.shape, np.float32), "reuse": True}
    calibrate(directory, TOKENS, str(tmp_path / "given"), **given)
    with pytest.raises(QuantLLMError, match=r"with another token_weights \(of given ones a file does not tell which\); take"):
        calibrate(directory, TOKENS, str(tmp_path / "given"), **given)
    # The same tokens in other samples, and other numbers of rows.
    rows = [TOKENS[0][:9], TOKENS[0][:4], TOKENS[0][4:9], TOKENS[1]]
    for name, first, second, what in [
        ("lengths", {"tokens": rows}, {"tokens": [rows[0], rows[0][:5], TOKENS[0][5:9], rows[3]]}, "lengths"),
        ("inputs", {"tokens": rows, "statistics": ["inputs"], "inputs": 8}, {"tokens": rows, "statistics": ["inputs"], "inputs": 9}, "inputs"),
        ("all inputs", {"tokens": rows, "statistics": ["inputs"], "inputs": 900}, {"tokens": rows, "statistics": ["inputs"], "inputs": 8}, "inputs"),
    ]:
        again = lambda tokens, statistics=("hessian",), **more: calibrate(directory, tokens, str(tmp_path / name), statistics=statistics, reuse=True, **more)
        assert not again(**first)["reused"] and again(**first)["reused"]
        with pytest.raises(QuantLLMError, match=f"'.*/{name}' exists already, of a calibration with another {what}; take"):
            again(**second)
    with pytest.raises(QuantLLMError, match="expected no on_part with reuse"):
        measure(on_part=lambda *_: None)
    assert (tmp_path / "c").read_bytes() == content and not (tmp_path / "c.partial").exists()
