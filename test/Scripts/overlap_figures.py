# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""benchmarks/overlap_figures.py: its figures of a few cells, and that docs/Results.md has what it prints of the record."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run([sys.executable, ROOT / "benchmarks" / "overlap_figures.py", *arguments], capture_output=True, text=True)


def test_figures(tmp_path):
    def cell(n, m, us, plain, cublas):
        return {"n": n, "k": 64, "m": m, "us": us, "us_plain": plain, "cublas_us": cublas}

    path = tmp_path / "records.json"
    path.write_text(json.dumps([cell(64, 1, 2, 3, 6), cell(64, 64, 4, 4, 6), cell(128, 65, 10, 20, 9), cell(128, 65, 100, 90, 90), cell(64, 4096, 200, 200, 150)]))
    lines = run(path).stdout.splitlines()
    assert "| 2 with up to 64 tokens | least 1.50, mean 2.25; 0 below 1.0, 0 below 0.8 | least 1.50, mean 1.75; 0 below 1.0, 0 below 0.8 |" in lines
    assert "| 3 with more than 64 tokens | least 0.75, mean 0.85; 3 below 1.0, 1 below 0.8 | least 0.45, mean 0.73; 2 below 1.0, 2 below 0.8 |" in lines
    assert "| 3 of less than 60 us | 1.000 1.500 2.000 | 1.0 us | 0 |" in lines
    assert "| 1 of 60 to 150 us | 0.900 0.900 0.900 | -10.0 us | 1 |" in lines
    assert "Least of all: 128x64, M = 65, 100.0 us overlapping and 90.0 us plainly (0.900)." in lines
    assert lines[-2:] == ["| 64x64, M = 4096 | 200.0 0.750 | 200.0 0.750 |", "| 128x64, M = 65 | 20.0 0.450 | 10.0 0.900 |"]


def test_the_page_has_them():
    page = (ROOT / "docs" / "Results.md").read_text(encoding="utf-8").splitlines()
    result = run(ROOT / "docs" / "Results" / "gpu_int4_overlap.json")
    assert result.returncode == 0 and len(result.stdout.splitlines()) > 20
    assert not [line for line in result.stdout.splitlines() if line not in page]


def test_wrong_arguments():
    result = run()
    assert result.returncode == 2 and "usage:" in result.stderr
