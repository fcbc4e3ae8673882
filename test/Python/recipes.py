# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""Recipes: those of the project all quantize a model, files of users, everything
that can be wrong with them, and tokens that count the same."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = os.path.dirname(__file__)
sys.path.insert(0, os.path.join(HERE, "..", "Import", "Inputs"))
sys.path.insert(0, os.path.join(HERE, "..", "..", "benchmarks"))
from oracle import load_model, make_model
from quality import count_order
from quality_judge import run_ours
from quant_llm import QuantLLMError, cli, model, recipe
from quant_llm.calibration import CalibrationFile, calibrate, calibrate_behind, random_tokens

TOKENS = np.random.default_rng(3).integers(0, 61, (6, 16))
STATISTICS = ("absmax", "absmean", "quantiles", "hessian", "inputs")

MINE = '''name = "mine"
summary = "mine"
pipeline = """
convert-linalg-to-quant-llm,  # as ever
quant-llm-choose-granularity{element=uint$bits block=1,$group exclude=$exclude},
quant-llm-quantize{output=$output report=$report}
"""
[options.bits]
default = 4
help = "bits"
minimum = 2
maximum = 8
[options.group]
default = 16
help = "group"
[options.exclude]
default = "lm_head|embed"
help = "what stays"
'''


@pytest.fixture(scope="module")
def files(directory, tmp_path_factory):
    """{token weights: calibration file}"""
    path = tmp_path_factory.mktemp("calibration")
    result = {}
    for weights in (None, "energy", "attention", "attention-energy"):
        result[weights] = str(path / f"{weights}.safetensors")
        statistics = (*STATISTICS, "fisher", "row-fisher") if weights == "energy" else STATISTICS
        calibrate(directory, TOKENS, result[weights], statistics=statistics, token_weights=weights, inputs=TOKENS.size)
    return result


def write(tmp_path, old="", new="", text=MINE):
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe(directory, files, name, tmp_path):
    loaded = recipe.load(name)
    assert loaded.name == name
    warnings = []
    options = {key: value for key, value in {"group": 16, "budget": 6.0}.items() if key in loaded.options}
    report = model.quantize_directory(
        directory, tmp_path / "q", recipe=loaded, options=options,
        calibration=files[loaded.calibration.token_weights] if loaded.needs_calibration else None,
        behind=(lambda prepared: calibrate_behind(prepared, TOKENS, tmp_path / "behind", token_weights="energy")["output"]) if loaded.is_behind else None, diagnostic=lambda d: warnings.append(d) if d.severity == "warning" else None,
    )
    assert [w for w in warnings if 'tokenizer' not in w.message] == []
    # Parts of a weight count as one.
    assert len({weight["name"].split(".rows")[0] for weight in report["weights"]}) == 14
    assert sorted(os.listdir(tmp_path)) == (["behind", "q"] if loaded.is_behind else ["q"])
    assert not [file for file in os.listdir(tmp_path / "q") if file.startswith(".")]
    assert all(0 < weight["relative_frobenius"] < 0.6 for weight in report["weights"])


def test_energy(files):
    plain, weighted = CalibrationFile(files[None]), CalibrationFile(files["energy"])
    assert (plain.metadata["token_weights"], weighted.metadata["token_weights"]) == ("none", "energy")
    for name in plain.parameters:
        x = weighted.read("inputs", name).astype(np.float64)
        x /= np.sqrt((x**2).mean(1, keepdims=True))
        np.testing.assert_allclose(weighted.read("hessian", name), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weighted.read("absmean", name), plain.read("absmean", name))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_attention(architecture, tmp_path):
    path = make_model(str(tmp_path / "model"), architecture, num_hidden_layers=2)
    paid = load_model(path)(torch.from_numpy(TOKENS), output_attentions=True).attentions
    found = {}
    for rule in ("attention", "attention-energy"):
        calibrate(path, TOKENS, tmp_path / rule, statistics=STATISTICS, token_weights=rule, inputs=TOKENS.size)
        found[rule] = CalibrationFile(tmp_path / rule)
        assert found[rule].metadata["token_weights"] == rule
    for name in found["attention"].parameters:
        if "layers" not in name:
            continue
        # What every token is paid, in the layer of the linear.
        received = paid[int(name.split(".")[2])].detach().double().numpy().sum((1, 2))
        received = np.minimum(received, np.quantile(received, 0.95, axis=1, keepdims=True))
        low, high = received.min(1, keepdims=True), received.max(1, keepdims=True)
        weights = (1 + 2 * (received - low) / (high - low)).reshape(-1, 1)
        assert weights.min() == 1 and weights.max() == pytest.approx(3)
        x = found["attention"].read("inputs", name).astype(np.float64)
        close = dict(rtol=2e-4, atol=1e-4 * (x**2).mean())
        np.testing.assert_allclose(found["attention"].read("hessian", name), (x * weights).T @ x / weights.sum(), **close)
        np.testing.assert_allclose(found["attention"].read("absmean", name), (abs(x) * weights).sum(0) / weights.sum(), rtol=2e-4, atol=1e-6)
        x /= np.sqrt((x**2).mean(1, keepdims=True))
        np.testing.assert_allclose(found["attention-energy"].read("hessian", name), (x * weights).T @ x / weights.sum(), rtol=2e-4, atol=1e-4)


def test_attention_in_other_words():
    from quant_llm.calibration._attention import WatchAttention

    scores, values = torch.randn(2, 5, 7), torch.randn(2, 7, 3)
    expected = torch.softmax(scores, -1).sum((0, 1))
    expected = expected.clamp(max=torch.quantile(expected, 0.95))
    expected = 1 + 2 * (expected - expected.min()) / (expected.max() - expected.min())
    powers = torch.exp(scores)
    for attend in (
        lambda: torch.nn.functional.softmax(scores, dim=-1) @ values,
        lambda: torch.bmm(scores.softmax(-1), values),
        lambda: torch.matmul(torch.exp(scores) / powers.sum(-1, keepdim=True), values),
    ):
        with WatchAttention(7) as watch:
            attend()
        torch.testing.assert_close(watch.finish(), expected)
    with WatchAttention(7) as watch:  # of other tokens, and products of what is no power
        torch.softmax(scores[..., :4], -1) @ values[:, :4]
        scores @ values
    assert watch.finish() is None
    with WatchAttention(7) as watch:  # all tokens are paid the same
        torch.softmax(torch.zeros(1, 2, 7), -1) @ values[:1]
    torch.testing.assert_close(watch.finish(), torch.ones(7))


def test_no_attention(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("quant_llm.calibration._driver.WatchAttention.finish", lambda self: None)
    with pytest.raises(QuantLLMError, match="block 0 has no attention by which tokens could be weighed; choose other weights of tokens"):
        calibrate(directory, TOKENS, tmp_path / "c.safetensors", statistics=["hessian"], token_weights="attention")


def test_energy_of_nothing():
    from quant_llm.calibration._statistics import InputStatistics

    statistics = InputStatistics(2, ("hessian",), "cpu", by_energy=True)
    statistics.update(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(statistics.finish(())["hessian"], [[1.0, 0.0], [0.0, 0.0]])


def test_random_tokens(directory, tmp_path):
    tokens = random_tokens(61, samples=3, length=50, seed=1)
    assert tokens.shape == (3, 50) and tokens.min() >= 0 and 50 < tokens.max() < 61
    np.testing.assert_array_equal(tokens, random_tokens(61, samples=3, length=50, seed=1))
    assert (tokens != random_tokens(61, samples=3, length=50, seed=2)).any()
    report = calibrate(directory, lambda vocabulary: random_tokens(vocabulary, samples=2, length=8), tmp_path / "c.safetensors", statistics=["absmax"])
    assert report["tokens"] == 16
    with pytest.raises(QuantLLMError, match="'energy' are for the statistic hessian"):
        calibrate(directory, TOKENS, tmp_path / "d.safetensors", statistics=["absmax"], token_weights="energy")
    with pytest.raises(QuantLLMError, match="expected weights of tokens, or one of 'energy', 'attention', 'attention-energy', but got 'size'"):
        calibrate(directory, TOKENS, tmp_path / "d.safetensors", token_weights="size")


def test_render(tmp_path):
    mine = recipe.load(write(tmp_path))
    assert mine.render({"bits": 3, "exclude": ""}, output="a b.safetensors", report="r.json") == (
        "convert-linalg-to-quant-llm, quant-llm-choose-granularity{element=uint3 block=1,16 }, quant-llm-quantize{output='a b.safetensors' report=r.json}"
    )
    assert mine.parse_options(["bits=3", "exclude=a=b"]) == {"bits": "3", "exclude": "a=b"}
    # Spaces in names of files stay as they are, comments do not.
    assert "output='a  b'" in mine.render({}, output="a  b", report="r") and "as ever" not in mine.pipeline.partition("#")[0]
    with pytest.raises(QuantLLMError, match="at most one kind of quotation marks"):
        mine.render({"exclude": "a'b\""}, output="q", report="r")
    with pytest.raises(QuantLLMError, match="the recipe 'mine' needs report, which is not given"):
        mine.render({}, output="q")


@pytest.mark.parametrize("texts, message", [
    (["bits"], "expected option=value but got 'bits'"),
    (["bits=3", "bits=4"], "'bits' is given twice"),
    (["bits=three"], "bits: expected an integer but got 'three'"),
    (["bits=9"], "bits: expected an integer from 2 up to 8 but got 9"),
    (["bits=4.0"], "bits: expected an integer but got '4.0'"),
    (["bits="], "bits: expected an integer but got ''"),
    (["bits=99999999999999999999"], "bits: expected an integer but got '99999999999999999999'"),
    (["size=3"], "the recipe 'mine' has no option 'size'; it has bits, group, exclude"),
])
def test_wrong_options(tmp_path, texts, message):
    with pytest.raises(QuantLLMError, match=message):
        recipe.load(write(tmp_path)).parse_options(texts)


@pytest.mark.parametrize("default, extra, good, bad, message", [
    ("true", "", [True, False, "TRUE"], ["yes", 1], "x: expected true or false but got '(yes|1)'"),
    ("0.5", "minimum = 0.0\nmaximum = 1.0", [1, 0.25, "1e-3"], [1.5, "-1e-9"], "x: expected a number from 0.0 up to 1.0 but got (1.5|-1e-9)"),
    ("0.5", "", [1e300], ["nan", float("inf"), "half", True], "x: expected a number but got '(nan|inf|half|true)'"),
    ("'a'", "choices = ['a', 'b']", ["b"], ["c", ""], "x: expected one of a, b but got '(c|)'"),
    ("4", "choices = [4, 8]", [8, "4"], [5, True], "x: expected (one of 4, 8|an integer) but got '(5|true)'"),
])
def test_kinds_of_options(tmp_path, default, extra, good, bad, message):
    mine = recipe.load(write(tmp_path, "[options.group]", f"[options.x]\ndefault = {default}\n{extra}\nhelp = 'x'\n[options.group]", MINE.replace("$bits ", "$bits scale=$x ")))
    for value in good:
        assert f"scale={recipe.to_text(value, 'x').lower()} " in mine.render({"x": value}, output="q", report="r")
    for value in bad:
        with pytest.raises(QuantLLMError, match=f"^{message}$"):
            mine.check_options({"x": value})


def test_values_that_are_no_options():
    # Their texts would be taken as regular expressions.
    for value in (None, ["a"], b"x", ("a",), {"a": 1}, object()):
        with pytest.raises(TypeError, match=f"^exclude: expected text, a number, true or false but got {type(value).__name__}$"):
            recipe.load("rtn").check_options({"exclude": value})
    with pytest.raises(TypeError, match="^name of an option: expected text .* but got int"):
        recipe.load("rtn").check_options({3: "a"})
    with pytest.raises(QuantLLMError, match="^exclude: expected no NUL"):
        recipe.load("rtn").check_options({"exclude": "a\0"})
    assert recipe.load("rtn").check_options({"group": np.int64(32)}) == {"group": "32"}


@pytest.mark.parametrize("default, choices, values, rendered", [
    ("0.5", "[0.5, 1.0]", [1, 1.0, "1", "1.00", "1e0", np.float32(1)], "1.0"),
    ("1", "[1, 2]", [2, "2", "02", np.int64(2)], "2"),
    ("1", "[]", [-3, "-3", "-03"], "-3"),
])
def test_numbers_in_other_words(tmp_path, default, choices, values, rendered):
    more = f"[options.x]\ndefault = {default}\nchoices = {choices}\nhelp = 'x'\n[options.group]"
    mine = recipe.load(write(tmp_path, "[options.group]", more, MINE.replace("$bits ", "$bits scale=$x ")))
    for value in values:
        assert f"scale={rendered} " in mine.render({"x": value}, output="q", report="r")


@pytest.mark.parametrize("old, new, message", [
    ('name = "mine"', "", "expected the key name"),
    ('name = "mine"', 'name = "My recipe"', "name: expected small letters"),
    ('summary = "mine"', "summary = 3", "summary: expected text but got 3"),
    ('summary = "mine"', 'summary = "mine"\ncolour = "red"', "expected keys among .* but got 'colour'"),
    ("uint$bits", "uint$width", r"pipeline: expected placeholders of options, or .*, but got \$width"),
    ("uint$bits", "uint4", "options: the pipeline does not use bits"),
    ("report=$report", "", r"pipeline: expected \$report in it"),
    ("report=$report", "report=$report calibration=$calibration", r"expected a table \[calibration\]"),
    ("quant-llm-quantize{", "$output{output=", "expected placeholders in values of options of passes only"),
    ("default = 4", "default = [4]", "options.bits: expected a default"),
    ("default = 4", "default = '4'", "options.bits: expected a number as default, as there is a minimum, but got '4'"),
    ("default = 4", "default = 9", "options.bits: default: expected an integer from 2 up to 8"),
    ("default = 4", "default = 4.0", "options.bits: minimum: expected a number with a point, as the default 4.0 is one, but got 2, an integer; write both in one way"),
    ("minimum = 2", "minimum = 2.5", "options.bits: minimum: expected an integer, as the default 4 is one, but got 2.5, a number with a point; write both in one way"),
    ("minimum = 2", 'minimum = "2"', "options.bits: minimum: expected an integer"),
    ("minimum = 2", "choices = ['a']", "options.bits: choices: expected values of the kind of the default but got \"a\""),
    ("default = 16", "default = inf", "options.group: default: expected a number but got inf"),
    ("uint$bits", "uint$bits$", r"pipeline: expected placeholders of options, or .*, but got \$$"),
    ("[options.bits]", "[options.output]", "options.output: expected a name"),
    ('help = "what stays"', 'help = "what stays"\n[calibration]\nstatistics = ["mood"]', "calibration: expected statistics among .* but got mood"),
    ('help = "what stays"', 'help = "what stays"\n[calibration]\nstatistics = ["hessian"]\ntokens = "many"', "calibration: tokens: expected text or random"),
    ('help = "what stays"', 'help = "what stays"\n[calibration]\nstatistics = ["hessian"]\nsamples = 0', "calibration: samples: expected an integer from 1"),
    ("name =", "name", "is no TOML file"),
])
def test_wrong_files(tmp_path, old, new, message):
    with pytest.raises(QuantLLMError, match="mine.toml': .*" + message if "TOML" not in message else message):
        recipe.load(write(tmp_path, old, new))


def test_no_such_recipe(tmp_path):
    with pytest.raises(QuantLLMError, match="there is no recipe 'magic'; expected adadim, "):
        recipe.load("magic")
    with pytest.raises(QuantLLMError, match="there is no recipe file"):
        recipe.load(tmp_path / "none.toml")
    with pytest.raises(TypeError, match=r"^recipe: expected a path \(str, bytes or os.PathLike\) but got int"):
        recipe.load(3)
    with pytest.raises(QuantLLMError, match="^recipe: expected no NUL"):
        recipe.load("rtn\0")


@pytest.mark.parametrize("name", ["awq", os.path.join(recipe.DIRECTORY, "awq.toml")])
def test_recipes_by_name(directory, files, tmp_path, name):
    loaded = recipe.load("awq")
    options = {"group": 16}
    expected = model.quantize_directory(directory, tmp_path / "loaded", recipe=loaded, options=options, calibration=files[loaded.calibration.token_weights])
    assert model.quantize_directory(directory, tmp_path / "named", recipe=name, options=options, calibration=files[loaded.calibration.token_weights]) == expected
    with pytest.raises(TypeError, match="^options: expected a dict of names and values but got str"):
        model.quantize_directory(directory, tmp_path / "q", recipe=name, options="group=16", calibration=files[None])


UNSCALED = [("awq", {"grid": 1}), ("random-tokens", {"alpha": 0.0}), *[(f"smoothquant{suffix}", {}) for suffix in ("", "-plus", "-static")]]


@pytest.mark.parametrize("name, options", UNSCALED)
def test_no_scales(directory, files, tmp_path, name, options):
    """Where no scale of channels helps, the model is quantized without any."""
    loaded = recipe.load(name)
    calibration = files[loaded.calibration.token_weights]
    if not options:
        # No channel has a range of its own.
        with safe_open(calibration, "np") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
        calibration = str(tmp_path / "zeros.safetensors")
        save_file({key: np.zeros_like(value) for key, value in tensors.items()}, calibration, metadata)
    report = model.quantize_directory(directory, tmp_path / "q", recipe=loaded, options={"group": 16, **options}, calibration=calibration)
    assert report["totals"]["weights"] > 0 and "scale_channels" not in (tmp_path / "q" / "model.mlir").read_text()
    wanted, found = (model.Model.load(str(d), cache=False, need_tokenizer=False).forward(TOKENS[0]) for d in (directory, tmp_path / "q"))
    assert np.square(found - wanted).sum() < 0.2 * np.square(wanted).sum()


def test_wrong_calibration(directory, files, tmp_path):
    def quantize(name, calibration, **options):
        return model.quantize_directory(directory, tmp_path / "q", recipe=recipe.load(name), options=options, calibration=calibration)

    for name, calibration, message in [
        ("gptq", None, r"the recipe 'gptq' needs a calibration file with hessian \(quant-llm calibrate\)"),
        ("rtn", files[None], "the recipe 'rtn' reads no calibration file"),
        ("gptq", tmp_path / "none", "cannot read '.*none'"),
        ("gptq", os.path.join(directory, "model.safetensors"), "is no calibration file"),
    ]:
        with pytest.raises(QuantLLMError, match=message):
            quantize(name, calibration)
    calibrate(directory, TOKENS, tmp_path / "few.safetensors", statistics=["absmax"])
    with pytest.raises(QuantLLMError, match="has no statistic hessian, which the recipe 'gptq' needs; it has absmax"):
        quantize("gptq", tmp_path / "few.safetensors")
    with pytest.raises(QuantLLMError, match="the recipe 'rtn' cannot be used: .*scale rule"):
        quantize("rtn", None, rule="best")
    mine = str(tmp_path / "mine.toml")
    shutil.copy(recipe.load("rtn").path, mine)
    with pytest.raises(QuantLLMError, match="the recipe 'rtn' of '.*mine.toml' cannot be used: .*scale rule"):
        quantize(mine, None, rule="best")
    other = make_model(str(tmp_path / "other"), "llama", num_hidden_layers=2)
    with pytest.raises(QuantLLMError, match="is of another model"):
        model.quantize_directory(other, tmp_path / "q", recipe=recipe.load("gptq"), options={"group": 16}, calibration=files[None])
    seen = []
    model.quantize_directory(directory, tmp_path / "q", recipe=recipe.load("gptq"), options={"group": 16}, calibration=files[None], diagnostic=lambda d: seen.append(d.message))
    assert any("is for token weights 'energy', but those of" in message for message in seen)


def test_sensitivities(directory, files, tmp_path):
    """All that the recipe offers work, if the file has what they need."""
    loaded = recipe.load("allocate")
    path = str(tmp_path / "fisher.safetensors")
    calibrate(directory, TOKENS, path, statistics=["hessian", "fisher", "row-fisher"], token_weights="energy")
    options = {"group": 16, "budget": 6.0}
    for sensitivity in loaded.options["sensitivity"].choices:
        report = model.quantize_directory(directory, tmp_path / sensitivity, recipe=loaded, options={**options, "sensitivity": sensitivity}, calibration=path)
        assert report["totals"]["bits_per_weight"] <= 6.0
    with pytest.raises(QuantLLMError, match="has no statistic 'fisher' of '.*calibrate with --statistics fisher"):
        model.quantize_directory(directory, tmp_path / "q", recipe=loaded, options={**options, "sensitivity": "fisher"}, calibration=files["attention-energy"])
    assert not (tmp_path / "q").exists()


def test_rows_of_a_weight(tmp_path):
    """Outputs that matter more have more bits; the parts compute what the weight did."""
    directory = make_model(str(tmp_path / "wide"), "llama", hidden_size=192, intermediate_size=256)
    path = str(tmp_path / "rows.safetensors")
    calibrate(directory, TOKENS, path, statistics=["hessian", "row-fisher"], token_weights="energy")
    loaded = recipe.load("allocate-by-row")
    results = {}
    wanted = model.Model.load(directory, cache=False, need_tokenizer=False).forward(TOKENS[0])
    for budget in (3.5, 6.0):
        out = tmp_path / str(budget)
        report = model.quantize_directory(directory, out, recipe=loaded, options={"budget": budget}, calibration=path)
        text = (out / "model.mlir").read_text()
        # The order of the outputs counts, which the report leaves out.
        bits = report["totals"]["bits_per_weight"] + 8 * count_order(out / "model.mlir") / report["totals"]["weights"]
        assert budget - 0.03 < bits <= budget and bits > report["totals"]["bits_per_weight"]
        assert "tensor.concat" in text and ".rows_1" in text
        found = model.Model.load(str(out), cache=False, need_tokenizer=False).forward(TOKENS[0])
        # The printed PyTorch source of the parts computes the same.
        judged = run_ours(str(out), "cpu")(torch.from_numpy(TOKENS[0]))
        np.testing.assert_allclose(judged.numpy(), found, rtol=2e-3, atol=2e-3 * np.abs(found).max())
        results[budget] = np.square(found - wanted).sum() / np.square(wanted).sum()
    assert results[6.0] < 0.25 * results[3.5] < 0.1, results


def test_command(directory, files, tmp_path, capsys):
    def run(*arguments):
        status = cli.main(["quantize", directory, "-o", str(tmp_path / "q"), "--force", *arguments])
        return status, capsys.readouterr()

    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in listed for name in recipe.names())
    assert cli.main(["recipes", "gptq"]) == 0
    with open(recipe.load("gptq").path, encoding="utf-8") as file:
        assert capsys.readouterr().out == file.read()
    mine = write(tmp_path)
    assert run("--recipe", mine, "--set", "bits=3")[0] == 0
    with open(tmp_path / "q" / "report.json", encoding="utf-8") as file:
        assert "uint3" in json.load(file)["weights"][0]["scheme"]
    assert run("--recipe", "gptq", "--bits", "5", "--set", "group=16", "--calibration", files[None])[0] == 0
    with open(tmp_path / "q" / "report.json", encoding="utf-8") as file:
        assert "uint5" in json.load(file)["weights"][0]["scheme"]
    for arguments, message in [
        (("--recipe", "gptq"), "needs a text to calibrate with (--text FILE)"),
        (("--recipe", "rtn", "--text", "x"), "--text: the recipe 'rtn' needs no data"),
        (("--recipe", "random-tokens", "--text", "x"), "draws tokens at random"),
        (("--recipe", "rtn", "--alpha", "0.5"), "the recipe 'rtn' has no option 'alpha'"),
        (("--recipe", "rtn", "--rule", "mse", "--set", "rule=mse"), "--set rule: the option is given twice"),
    ]:
        status, out = run(*arguments)
        assert status == 2 and message in out.err, out.err


def test_calibrates(directory, tmp_path, capsys):
    output = str(tmp_path / "q")
    arguments = ["quantize", directory, "-o", output, "--recipe", "random-tokens", "--set", "group=16", "--samples", "4", "--length", "8"]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert CalibrationFile(output + ".calibration.safetensors").metadata["samples"] == "4"
    capsys.readouterr()
    assert cli.main([*arguments, "--force"]) == 0
    assert "took what an earlier run wrote, " in capsys.readouterr().out
    assert cli.main([*arguments, "--force", "--length", "7"]) == 2
    assert "q.calibration.safetensors' exists already, of a calibration with another tokens, length, text; take it as it is, or remove it" in capsys.readouterr().err
    assert cli.main([*arguments, "--force", "--calibration", output + ".calibration.safetensors"]) == 0
