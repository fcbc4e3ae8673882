# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python, shared-data
# RUN: %pytest %s
"""benchmarks/quality.py and quality_judge.py: a small model end to end, going on,
what cannot be measured, wrong arguments."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import quality
from quant_llm import QuantLLMError

SHARED = pathlib.Path(os.environ["QUANT_LLM_SHARED"])
MODEL = SHARED / "models" / "stories260K"
STORIES = (SHARED / "text" / "tinystories_sample_2M.txt").read_text(encoding="utf-8")

ENTRIES = {
    "schema": "quant_llm.quality/1",
    "bars": [{"group": "statistics", "bits": 4, "bits_per_weight": 5, "perplexity": {"stories": 1000}}],
    "entries": [
        {"name": "rtn", "group": "data-free", "recipe": "rtn", "bits": [2]},
        {"name": "gptq", "group": "statistics", "recipe": "gptq", "bits": [4], "options": {"damping": 0.02}},
        {"name": "nobody", "group": "statistics", "peer": "gptq", "bits": [4]},
    ],
}

# What a run says where no picture can be drawn.
NO_PLOT = "" if importlib.util.find_spec("matplotlib") else "quality.py: warning: no plot: expected the package matplotlib; pip install matplotlib\n"

# In the place of a Python without the packages of others.
EMPTY_PYTHON = "#!/bin/sh\nexec {python} -S \"$@\"\n"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    directory = tmp_path_factory.mktemp("quality")
    (directory / "train.txt").write_text(STORIES[-40000:])
    (directory / "test.txt").write_text(STORIES[:8000])
    (directory / "entries.json").write_text(json.dumps(ENTRIES))
    (directory / "empty-python").write_text(EMPTY_PYTHON.format(python=sys.executable))
    (directory / "empty-python").chmod(0o755)
    command = [sys.executable, BENCHMARKS / "quality.py", MODEL, "--calibration-text", directory / "train.txt", "--text", f"stories={directory / 'test.txt'}:4"]
    command += ["--output", directory / "out", "--entries", directory / "entries.json", "--samples", "4", "--length", "32", "--width", "128", "--group", "16"]
    return [str(word) for word in [*command, "--seeds", "0,1", "--jobs", "2", "--threads", "1", "--peer-python", directory / "empty-python"]]


def run(command, *more):
    return subprocess.run([*command, *map(str, more)], capture_output=True, text=True)


def test_measures_and_goes_on(command, tmp_path):
    out = pathlib.Path(command[command.index("--output") + 1])
    first = run(command, "--only", "original|rtn")
    assert (first.returncode, first.stderr) == (0, NO_PLOT), first.stderr
    kept = (out / "entries" / "rtn-w2.json").read_bytes()
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{quality.BEGIN}\nold\n{quality.END}\n\nafter\n")
    second = run(command, "--results", page)
    assert (second.returncode, second.stderr) == (0, NO_PLOT), second.stderr
    # What was measured before is not measured again, and the rest is there.
    assert (out / "entries" / "rtn-w2.json").read_bytes() == kept
    data = json.loads((out / "quality.json").read_text())
    entries = {entry["id"]: entry for entry in data["entries"]}
    assert set(entries) == {"original", "rtn-w2", "gptq-w4-s0", "gptq-w4-s1", "nobody-w4-s0", "nobody-w4-s1"}
    perplexity = {id: entry["perplexity"]["stories"] for id, entry in entries.items() if "perplexity" in entry}
    assert perplexity["original"] < min(perplexity["gptq-w4-s0"], perplexity["gptq-w4-s1"]) < perplexity["rtn-w2"]
    assert perplexity["gptq-w4-s0"] != perplexity["gptq-w4-s1"]
    assert entries["original"]["transformers"]["stories"] == pytest.approx(perplexity["original"], rel=1e-4)
    assert entries["nobody-w4-s0"]["skipped"].endswith("the package llmcompressor is not installed")
    for step in ("calibration", "quantization", "evaluation"):
        record = entries["gptq-w4-s0"][step]
        assert record["seconds"] > 0 and record["peak_mib"] > 50 and str(out) not in record["command"]
    assert "--set damping=0.02" in entries["gptq-w4-s0"]["quantization"]["command"]
    assert 4.5 < entries["gptq-w4-s0"]["bits_per_weight"] < 6.5 and entries["original"]["bits_per_weight"] == 16
    assert os.listdir(out / "work") == []
    text = page.read_text()
    assert text.startswith(f"before\n\n{quality.BEGIN}\n| method | bits per weight | stories |") and text.endswith(f"{quality.END}\n\nafter\n")
    assert (out / "quality.md").read_text() in text and "* nobody-w4-s0: skipped: " in text
    third = run(command)
    assert third.returncode == 0 and sorted(third.stdout.splitlines()) == sorted(second.stdout.splitlines())


def test_results_of_another_build(command, tmp_path):
    """They are measured again, or kept and marked."""
    def remember(**change):
        record = json.loads(entry.read_text())
        record["configuration"].update(change)
        record["perplexity"]["stories"] = 123.25
        entry.write_text(json.dumps(record))

    command = [*command, "--only", "rtn", "--output", tmp_path / "out"]
    command = list(map(str, command))
    entry = tmp_path / "out" / "entries" / "rtn-w2.json"
    assert run(command).returncode == 0
    code = json.loads(entry.read_text())["configuration"]["code"]
    remember()
    result = run(command)
    assert result.returncode == 0 and "stories 123.250" in result.stdout
    remember(code="another")
    result = run(command, "--keep-older")
    assert result.returncode == 0 and "stories 123.250" in result.stdout
    table = (tmp_path / "out" / "quality.md").read_text()
    assert "| data-free: rtn, 2 bits † |" in table and "†: a value of it at least is by an earlier build" in table
    # Of other options it is never kept.
    remember(code="another", group=8)
    for more in ([], ["--keep-older"]):
        result = run(command, *more)
        assert result.returncode == 0 and "stories 123.250" not in result.stdout
        assert json.loads(entry.read_text())["configuration"]["code"] == code
        remember(code="another", **({} if more else {"group": 8}))
    result = run(command)
    assert result.returncode == 0 and "stories 123.250" not in result.stdout
    assert "†" not in (tmp_path / "out" / "quality.md").read_text()


def test_digest_of_code(monkeypatch, tmp_path):
    """It changes with a file of the package or of the scripts, and not with their place."""
    ours, others = quality.digest_code(False), quality.digest_code(True)
    assert ours != others and (ours, others) == (quality.digest_code(False), quality.digest_code(True))
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("quality_judge.py", "quality_peers.py"):
        (scripts / name).write_bytes((BENCHMARKS / name).read_bytes())
    monkeypatch.setattr(quality, "HERE", str(scripts))
    assert (ours, others) == (quality.digest_code(False), quality.digest_code(True))
    (scripts / "quality_peers.py").write_text("pass")
    assert ours == quality.digest_code(False) and others != quality.digest_code(True)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(quality.quant_llm, "__file__", str(package / "__init__.py"))
    first = quality.digest_code(False)
    (package / "model.py").write_text("")
    assert quality.digest_code(False) != first


def test_plot():
    pytest.importorskip("matplotlib")
    records = [
        {"id": id, "name": id, "group": id if id == "original" else "g", "bits": None, "bits_per_weight": bits, "perplexity": {"a": value}, "configuration": {}}
        for id, bits, value in (("original", 16.0, 10.0), ("near", 4.0, 11.0), ("far", 3.0, 1000.0))
    ]
    picture = quality.plot(records)
    assert picture == quality.plot(records) and "beyond the upper edge: far" in picture


def test_bars():
    bar = {"group": "g", "bits": 4, "bits_per_weight": 4.3, "perplexity": {"a": 10.0, "b": 20.0}}

    def record(name, bits_per_weight, a, b, **configuration):
        return {"id": name, "name": name, "group": "g", "bits": 4, "bits_per_weight": bits_per_weight, "perplexity": {"a": a, "b": b}, "configuration": configuration}

    # One recipe on both texts, no more bits than allowed, and no method of others.
    records = [record("x", 4.3, 9.0, 21.0, recipe="x"), record("y", 4.25, 10.0, 20.0, recipe="y"), record("wide", 4.5, 1.0, 1.0, recipe="w"), record("peer", 4.0, 1.0, 1.0, peer="p")]
    assert "| y: 10.00 / 20.00 | met |" in quality.render_table(records, [bar])
    # The worse of two seeds counts.
    assert "| x: 9.00 / 21.00 | missed by 5.0 % |" in quality.render_table([*records, record("y", 4.25, 10.0, 22.0, recipe="y")], [bar])
    # A part of what another method has, the mean of its seeds.
    compared = {"group": "g", "bits": 4, "bits_per_weight": 4.25, "part_of": {"name": "wide", "bits": 4, "part": 0.9}}
    wide = [record("wide", 4.5, 10.0, 24.0, recipe="w"), record("wide", 4.5, 12.0, 26.0, recipe="w")]
    table = quality.render_table([records[1], *wide], [compared])
    assert "| g, 4 bits, at most 4.25 bits in all, 10 % below wide with 4 bits | 9.90 / 22.50 | y: 10.00 / 20.00 | missed by 1.0 % |" in table
    assert "10 % below" not in quality.render_table([records[1]], [compared])


def test_words_of_wikitext():
    assert quality.undo_words("= = A 5 @,@ 000 @-@ year <unk> = =") == "== A 5,000-year <unk> =="
    assert quality.undo_words("He said : \" no , it 's ( not ) so \" .") == 'He said: "no, it\'s (not) so".'


@pytest.mark.parametrize("text, message", [
    ("{", "is no list of measurements"),
    ('{"schema": "x"}', "expected the schema quant_llm.quality/1 but got x"),
    ('{"schema": "quant_llm.quality/1"}', "expected the key 'entries'"),
    ('{"schema": "quant_llm.quality/1", "entries": [{"name": "a", "group": "g"}]}', "expected a name, a group and either a recipe or a peer"),
    ('{"schema": "quant_llm.quality/1", "entries": [{"name": "a", "group": "g", "recipe": "rtn", "bit": 4}]}', "a: expected keys among .* but got bit"),
    ('{"schema": "quant_llm.quality/1", "entries": [{"name": "a", "group": "g", "recipe": "magic"}]}', "there is no recipe 'magic'"),
])
def test_wrong_lists(tmp_path, text, message):
    (tmp_path / "entries.json").write_text(text)
    with pytest.raises(QuantLLMError, match=message):
        quality.read_entries(tmp_path / "entries.json")


def test_wrong_arguments(command, tmp_path):
    def fails(message, *more):
        result = run(command, *more)
        assert result.returncode == 2 and message in result.stderr, result.stderr

    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    fails("expected NAME=FILE[:WINDOWS] but got 'stories'", "--text", "stories")
    fails("texts of different names", "--text", "stories=x")
    fails("expected measurements whose name --only finds, but there are none", "--only", "nothing")
    fails("expected the lines '<!-- quality.py: begin -->'", "--results", page)
    fails("expected at least one window of 100000 tokens", "--width", "100000", "--output", tmp_path / "o")
    assert page.read_text() == "no marks\n"


def test_failures_are_kept_apart(command, tmp_path):
    entries = {"schema": "quant_llm.quality/1", "entries": [{"name": "odd", "group": "g", "recipe": "rtn", "bits": [4], "options": {"rule": "best"}}]}
    (tmp_path / "entries.json").write_text(json.dumps(entries))
    result = run(command, "--entries", tmp_path / "entries.json", "--output", tmp_path / "out")
    assert result.returncode == 2 and "1 of 2 measurements failed: odd-w4; the same command tries them again" in result.stderr
    data = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert data["entries"][1]["error"].startswith("quant_llm: status 2: quant-llm: error: ") and "rule" in data["entries"][1]["error"] and math.isfinite(data["entries"][0]["perplexity"]["stories"])


def test_leftovers_of_a_killed_run(command, tmp_path):
    """What one left behind is not in the way of the next."""
    entries = tmp_path / "entries.json"
    entries.write_text(json.dumps({**ENTRIES, "entries": [{"name": "gptaq", "group": "statistics", "recipe": "gptaq", "bits": [4]}]}))
    work = tmp_path / "out" / "work"
    (work / "gptaq-w4-s0").mkdir(parents=True)
    (work / "gptaq-w4-s0" / "model.mlir").write_text("module {")
    (work / "gptaq-w4-s0.behind.safetensors").write_bytes(b"half")
    found = run(command, "--entries", entries, "--output", tmp_path / "out", "--seeds", "0")
    assert (found.returncode, found.stderr) == (0, NO_PLOT), found.stderr
    entry = json.loads((tmp_path / "out" / "quality.json").read_text())["entries"][-1]
    assert entry["id"] == "gptaq-w4-s0" and entry["perplexity"]["stories"] < 1000
    assert not list(work.iterdir())


def test_list_of_the_project():
    bars, entries = quality.read_entries(BENCHMARKS / "quality_entries.json")
    arguments = quality.parse(["model", "--calibration-text", "x", "--text", "wikitext=y", "--output", "o"])
    ids = [one["id"] for one in quality.expand(entries, arguments)]
    assert {"original", "rtn-w4", "gptq-w3-s1", "gptq-llm-compressor-w4-s0"} <= set(ids) and len(bars) >= 4
