# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""scripts/check_sources.py finds what it is there for."""

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "check_sources.py"
LICENCE = "".join(SCRIPT.read_text().splitlines(keepends=True)[1:4])


def check(path):
    run = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)
    assert (run.returncode != 0) == bool(run.stdout) and run.stderr == ""
    return run.stdout


@pytest.mark.parametrize(
    "name", ["a.py", "a.pyi", "a.sh", "a.cmake", "CMakeLists.txt", "lit.site.cfg.py.in", "lit.local.cfg", "a.inc", "a.td", "Inputs/a.py"]
)
def test_licences(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("# a comment\n")
    assert "expected 'SPDX-License-Identifier: " in check(path)
    path.write_text(LICENCE + "\n# a comment\n")
    assert check(path) == ""


def test_licences_of_scripts_without_suffix(tmp_path):
    path = tmp_path / "run"
    path.write_text("#!/bin/sh\ntrue\n")
    assert "expected 'SPDX-License-Identifier: " in check(path)
    path.write_text("#!/bin/sh\n" + LICENCE + "true\n")
    assert check(path) == ""
    path.write_text("text, not code\n")
    assert check(path) == ""


def test_a_mention_is_no_licence(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('print("SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception")\n')
    assert "expected 'SPDX-License-Identifier: " in check(path)


@pytest.mark.parametrize(
    "content, fault",
    [
        ("a \n", "line 1: trailing white space"),
        ("a", "one newline at the end"),
        ("a\n\n", "one newline at the end"),
        ("a" * 500_000 + "\n", "at most 500000 bytes"),
        ("see '/" + "home/me/model'\n", "is a path of one machine"),
        ("/" + "dev/shm/x\n", "is a path of one machine"),
    ],
)
def test_text(tmp_path, content, fault):
    path = tmp_path / "a.txt"
    path.write_text(content)
    assert fault in check(path)


def test_paths_of_every_machine(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("${base}/ho" + "me/x docs/wo" + "rk/y /usr/lib/z ~/wo" + "rk/a\n")
    assert check(path) == ""


@pytest.mark.parametrize(
    "line, fault",
    [
        ("def A : Pass<", "':" + " Pass<'"),
        ("def A : InterfacePass<", "':" + " InterfacePass<'"),
        ("def A : CheckedPass<", ""),
        ("class A : PassBase<", ""),
        ("    static PassPipelineRegistration" + "<> p(", "expected options that are checked first"),
        ("    ::mlir::InterfacePass<", ""),
    ],
)
def test_options_that_nothing_checks(tmp_path, line, fault):
    path = tmp_path / "a.td"
    path.write_text(LICENCE + line + "\n")
    assert fault in check(path) if fault else check(path) == ""


def test_folders_without_tests():
    sys.path.insert(0, str(SCRIPT.parent))
    import check_sources

    names = ["lib/A/x.cpp", "lib/A/B/y.cpp", "lib/C/z.cpp", "lib/D/only.h", "test/A/x.mlir", "test/Unit/A/B/YTest.cpp", "test/C/CMakeLists.txt"]
    assert [str(folder) for folder in check_sources.folders_without_tests(names)] == ["lib/C"]
