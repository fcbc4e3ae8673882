# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""docs/Commands.md names every command, with the exit status that it has."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "Commands.md").read_text()
ROWS = {row[0]: row[2:5] for row in (re.split(r"\s*\|\s*", line)[1:-1] for line in PAGE.splitlines() if line.startswith("| `")) if len(row) == 5}
TOOLS = {f"`{path.name}`" for path in (ROOT / "tools").iterdir() if path.is_dir() and path.name != "quant-plugin"}


def status(*command, **options):
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, **options).returncode


def test_every_command_has_a_row():
    scripts = {f"`scripts/{path.name}`" for path in (ROOT / "scripts").glob("*.sh")}
    assert set(ROWS) == TOOLS | scripts | {"`quant-llm`", "`benchmarks/*.py`"}


def documented(command, text):
    """The status under which the row of a command has these words."""
    return next(number for number, cell in enumerate(ROWS[f"`{command}`"]) if text in cell)


@pytest.mark.parametrize("tool", sorted(name.strip("`") for name in TOOLS))
def test_tools(tool):
    usage = "wrong usage" if "wrong usage" in "".join(ROWS[f"`{tool}`"]) else "anything else"
    file = "input" if "input" in "".join(ROWS[f"`{tool}`"]) else "anything else"
    assert status(tool, "--help") == 0
    assert status(tool, "--no-such-option") == documented(tool, usage)
    assert status(tool, "no/such/file") == documented(tool, file)


def test_quant_llm(tmp_path):
    command = [sys.executable, "-m", "quant_llm"]
    assert status(*command, "--help") == 0
    assert status(*command, "--no-such-option") == documented("quant-llm", "wrong usage")
    assert status(*command, "info", "no/such/file") == documented("quant-llm", "input")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.mlir").write_text("func.func private @forward()")
    with open("/dev/full", "w") as full:
        assert subprocess.run([*command, "info", tmp_path], stdout=full, stderr=subprocess.PIPE).returncode == documented("quant-llm", "a file that cannot be")
    fault = "import quant_llm.cli as c; c.run_info = lambda a: 1 / 0; raise SystemExit(c.main(['info', 'x']))"
    assert status(sys.executable, "-c", fault) == documented("quant-llm", "a fault of the program")


def test_closed_pipe(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = "import quant_llm.cli as c; c.run_info = lambda a: print('x'); raise SystemExit(c.main(['info', 'x']))"
    result = subprocess.run([sys.executable, "-c", command], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, b"") and "(and 141 where nobody reads" in PAGE


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.sh")))
def test_scripts(script):
    wrong = documented(f"scripts/{script}", "wrong argument" if script == "quickstart.sh" else "wrong usage")
    assert status("bash", ROOT / "scripts" / script, "--no-such-option") == wrong
    assert status("bash", ROOT / "scripts" / script, "no-such-word") == wrong
    assert status("bash", ROOT / "scripts" / script, "--help") == 0


@pytest.mark.parametrize("script", ["granularity_sweep.py", "plot_granularity.py", "quality.py", "quality_cost.py", "quantization_rate.py"])  # those that need no PyTorch
def test_benchmarks(script):
    assert status(sys.executable, ROOT / "benchmarks" / script, "--no-such-option") == documented("benchmarks/*.py", "wrong usage")


def test_how_messages_begin(tmp_path):
    def message(*command):
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stderr

    (tmp_path / "bad.mlir").write_text("func.func @f(")
    for tool, *more in (("quant-import", "-o", "x.mlir"), ("quant-run",), ("quant-bench",)):
        assert message(tool, "no/such/file", *more).startswith(f"{tool}: error: ")
    assert message(sys.executable, "-m", "quant_llm", "info", "no/such/file").startswith("quant-llm: error: ")
    assert message("quant-opt", "bad.mlir").startswith("bad.mlir:1:13: error: ")
    for command in (("quant-opt", "no/such/file"), ("quant-translate", "--quant-llm-to-ptx", "no/such/file"), ("quant-translate", "bad.mlir")):
        assert message(*command).startswith(f"{command[0]}: error: ")


def documents():
    """The text of every page, and where it is."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "python-bindings/README.md")]
    for path in (*pages, *(ROOT / "docs").rglob("*.md")):
        yield path.relative_to(ROOT), path.read_text()


def test_subcommands_and_options_exist():
    """Every `quant-llm WORD` and every option beside it."""
    from quant_llm import cli

    (commands,) = (action.choices for action in cli.make_parser()._actions if action.dest == "function" or action.metavar == "COMMAND")
    assert set(re.search(r"^\| `quant-llm` \| ([a-z, ]+) \|", PAGE, re.M)[1].split(", ")) == set(commands)
    found = 0
    for path, text in documents():
        # In code only: between backticks, or at the begin of a line of a block.
        for call in re.findall(r"(?:`|^|bin/|^ +)quant-llm +([a-z][^`\n|;]*)", text, re.M):
            words = call.split("#")[0].split()
            assert words[0] in commands, (path, call)
            known = {option for action in commands[words[0]]._actions for option in action.option_strings}
            assert {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known, (path, call)
            found += 1
    assert found > 8


def test_passes_and_options_of_tools_exist():
    """Every --word of a line with one of our tools, and every name of a pass."""
    options = {}
    for tool in (name.strip("`") for name in TOOLS):
        for help in ("--help", "--help-hidden"):
            result = subprocess.run([tool, help], capture_output=True, text=True)
            options.setdefault(tool, set()).update(re.findall(r"(?:^|[ \[|])--?([a-zA-Z][\w-]*)", result.stdout + result.stderr, re.M))
    # Passes have short and long names in one list.
    passes = {name for name in options["quant-opt"] if "quant-llm" in name}
    found = 0
    for path, text in documents():
        for line in text.replace("\\\n", " ").splitlines():
            calls = re.findall(r"\b(" + "|".join(options) + r")\b((?: [^|;`#]*)?)", line)
            for tool, rest in calls:
                rest = re.sub(r"\"[^\"]*\"|'[^']*'", "", rest)
                for option in re.findall(r"(?:^|\s)--?([a-zA-Z][\w-]*)", rest):
                    if len(option) > 1 and option not in ("help", "no-such-option"):
                        assert option in options[tool], (str(path), tool, option)
                        found += 1
        for name in re.findall(r"`-{0,2}((?:convert-)?(?:[a-z]+-)*quant-llm-[a-z-]+[a-z])(?:\{[^`]*\})?`", text):
            assert name in passes or f"quant-llm-{name}" in passes or name in {word.strip("`") for word in ROWS} or name.startswith("quant-llm-example"), (str(path), name)
            found += 1
    assert found > 50


def test_every_variable_is_named():
    named = set(re.findall(r"QUANT_LLM_[A-Z0-9_]+", PAGE))
    read = set()
    for folder in ("lib", "tools", "python-bindings"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".cpp", ".py"):
                read |= set(re.findall(r"""(?:getenv\(|environ(?:\.get)?[\[(])"(QUANT_LLM_[A-Z0-9_]+)""", path.read_text()))
    assert read <= named, read - named
