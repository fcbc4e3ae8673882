# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""benchmarks/quantization_rate.py: its table, its record, wrong arguments."""

import json
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "Python"))
from conftest import tiny_checkpoint

SETTINGS = ["nothing", "FineQuant", "block=1,128", "block=1,64", "block=1,32"]


def run(*arguments):
    return subprocess.run([sys.executable, TESTS.parent / "benchmarks" / "quantization_rate.py", *arguments], capture_output=True, text=True)


def test_table_and_record(tmp_path):
    model, record = tmp_path / "tiny", tmp_path / "record.json"
    tiny_checkpoint.make(model, dtype="F16", vocab_size=32)
    result = run(model, "--threads", "1", "--repeat", "2", "--json", record)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[4:]]
    assert [row[0] for row in rows] == SETTINGS
    assert not rows[0][1] and all(row[1] for row in rows[1:])
    measured = json.loads(record.read_text())
    assert measured["threads"] == 1 and measured["bytes"] > 0
    for name, row in zip(SETTINGS, rows):
        taken = measured["runs"][name]
        assert len(taken) == 2 and all(run["seconds"] > 0 and run["peak_mib"] > 0 for run in taken)
        peaks = sorted(run["peak_mib"] for run in taken)
        assert row[4].endswith(f"({peaks[0]:.0f} to {peaks[1]:.0f})")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["no/such/model"], 1, "status 1: quant-import: error: "),
        (["x", "--json", "no/such/directory/x.json"], 1, "error: cannot write 'no/such/directory/x.json'"),
        (["x", "--repeat", "0"], 2, "expected an integer of at least 1 but got '0'"),
        (["x", "--threads", "-1"], 2, "expected an integer of at least 1 but got '-1'"),
    ],
)
def test_wrong_arguments(arguments, status, message):
    result = run(*arguments)
    assert result.returncode == status and message in result.stderr and "Traceback" not in result.stderr
