# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""benchmarks/granularity_sweep.py: its table, its points, wrong
arguments; benchmarks/plot_granularity.py: wrong points."""

import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "Python"))
sys.path.insert(0, str(TESTS.parent / "benchmarks"))
import granularity_sweep
from conftest import tiny_checkpoint, write_tokenizer

SCRIPT = TESTS.parent / "benchmarks" / "granularity_sweep.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_table_and_points(tmp_path):
    model = tmp_path / "tiny"
    tiny_checkpoint.make(model, dtype="F16", vocab_size=32, max_position_embeddings=2048)
    write_tokenizer(model / "tokenizer.json", 32)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat a dog ran to the hat " * 200)
    points = tmp_path / "points.json"
    result = run(model, "--text", text, "--windows", "1", "--groups", "row,4", "--alphas", "1.5", "--options", "sizes=8", "--json", points)
    assert (result.returncode, result.stderr) == (0, "")
    row = r"\| (row|group 4|alpha 1.5) \| ([0-9.]+) \| ([0-9.]+) \| (?:[-+][0-9.]+ %)? \|"
    rows = [re.fullmatch(row, line).groups() for line in result.stdout.splitlines()[4:]]
    assert [name for name, _, _ in rows] == ["row", "group 4", "alpha 1.5"]
    assert "%" in result.stdout.splitlines()[-1]
    uniform, adaptive = (series["points"] for series in json.loads(points.read_text())["series"])
    assert [[name, f"{bits:.3f}", f"{perplexity:.4f}"] for bits, perplexity, name in uniform + adaptive] == [[name.split()[-1], *values] for name, *values in rows]
    assert uniform[0][0] < adaptive[0][0] < uniform[1][0]
    assert json.loads(points.read_text())["title"].startswith("tiny, 1023 tokens of text.txt (original: ")


def test_difference_from_a_line():
    line = [(4.0, math.e**3), (5.0, math.e**2)]
    assert granularity_sweep.against_line(line, 4.5, math.e**2.6) == pytest.approx(0.1)
    assert granularity_sweep.against_line(line, 5.5, 2.0) is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no/such/model", "--text", __file__], "error: expected a model directory or a GGUF file but 'no/such/model' does not exist"),
        (["x", "--text", "no/such/text"], "error: cannot read 'no/such/text'"),
        (["x", "--text", __file__, "--groups", "64,x"], "error: expected an integer of at least 1 but got 'x'"),
        (["x", "--text", __file__, "--windows", "0"], "expected an integer of at least 1 but got '0'"),
    ],
)
def test_wrong_arguments(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "error: cannot read '{path}': No such file or directory"),
        ("{", "error: expected points of granularity_sweep.py in '{path}': "),
        ("[]", "error: expected points of granularity_sweep.py in '{path}': "),
        ('{"title": "x"}', "error: expected points of granularity_sweep.py in '{path}': KeyError: 'series'"),
        ('{"title": "x", "series": [{"name": "a", "line": true, "points": [[1, 2]]}]}', "error: expected points of granularity_sweep.py in '{path}': "),
    ],
)
def test_points_that_cannot_be_plotted(tmp_path, text, message):
    path = tmp_path / "points.json"
    if text is not None:
        path.write_text(text)
    for more, expected in ((["out.svg"], message.format(path=path)), ([], "the following arguments are required: OUTPUT.svg")):
        result = subprocess.run([sys.executable, SCRIPT.parent / "plot_granularity.py", path, *more], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2 and expected in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.svg").exists()


def test_points_of_the_page_can_be_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    points = TESTS.parent / "docs" / "Results" / "granularity.json"
    subprocess.run([sys.executable, SCRIPT.parent / "plot_granularity.py", points, "out.svg"], check=True, cwd=tmp_path)
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")
