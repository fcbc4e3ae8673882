#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks text files of the repository: no trailing white space, one newline at
the end, no tabs in sources, no file above 500 kB, no file without its licence,
no path that only one machine has, no pass or pipeline whose options nothing checks.
Without arguments it checks every file git knows, that every folder of lib has
its tests, and that a test names every numbered constraint of an op or a pass.

  check_sources.py [FILE...]
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LICENCE = "SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception"
SOURCES = {".h", ".c", ".cpp", ".inc", ".td", ".py", ".pyi", ".sh", ".cmake", ".cfg"}
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:dev/shm|home|root|work|Users)/\S*")
TESTS = {".mlir", ".test", ".py", ".c", ".cpp"}
CONSTRAINT = re.compile(r"\bQL-[A-Z0-9-]+-C[0-9]+\b")
# Of MLIR: what their options are given is checked by LLVM alone (CheckedOptions.h).
UNCHECKED = re.compile(r"(?:(?<!:):\s*(?:Interface)?Pass|\bPassPipelineRegistration|\bPassPipelineOptions)<")
BINARY = {".safetensors", ".gguf", ".npy", ".mlirbc", ".png"}


def faults(path):
    data = path.read_bytes()
    if len(data) > 500_000:
        yield f"expected at most 500000 bytes but got {len(data)}"
    if path.suffix in BINARY or path.name == "LICENSE":
        return
    # Of what tests read, only programs have to be as they should.
    if "Inputs" in path.parts and path.suffix not in SOURCES:
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield f"expected UTF-8 but got {error}"
        return
    if not text:
        return
    if not text.endswith("\n") or text.endswith("\n\n"):
        yield "expected exactly one newline at the end"
    for number, line in enumerate(text.split("\n"), 1):
        if line.rstrip() != line and path.suffix != ".md":
            yield f"line {number}: trailing white space"
        if found := MACHINE_PATH.search(line):
            yield f"line {number}: '{found[0]}' is a path of one machine"
        if path.suffix in {".td", ".h", ".cpp"} and path.name != "CheckedOptions.h" and (found := UNCHECKED.search(line)):
            yield f"line {number}: expected options that are checked first (CheckedPass.td, CheckedOptions.h) but got '{found[0]}'"
        if "\t" in line and path.suffix in SOURCES:
            yield f"line {number}: tab"
    if needs_licence(path, text) and not any(line.strip(" #/|*").startswith(LICENCE) for line in text.split("\n")[:20]):
        yield f"expected '{LICENCE}' among the first lines; CONTRIBUTING.md has the banners"


def needs_licence(path, text):
    """Whether it is source code, by its name or because it is a script."""
    suffix = pathlib.Path(path.stem).suffix if path.suffix == ".in" else path.suffix
    return suffix in SOURCES or path.name == "CMakeLists.txt" or text.startswith("#!")


def folders_without_tests(names):
    """Folders of lib with sources, but without tests where one looks for them."""
    paths = [pathlib.PurePosixPath(name) for name in names]
    tests = {p.parent for p in paths if p.parts[0] == "test" and p.suffix in TESTS}
    for folder in sorted({p.parent for p in paths if p.parts[0] == "lib" and p.suffix == ".cpp"}):
        inside = pathlib.PurePosixPath(*folder.parts[1:])
        if not tests & {"test" / inside, "test" / ("Unit" / inside)}:
            yield folder


def constraints_without_tests(names):
    """Constraints that a header or an ODS file states and that no test names."""

    def stated(top, suffixes):
        paths = [pathlib.PurePosixPath(name) for name in names]
        texts = ((ROOT / p).read_text(encoding="utf-8") for p in paths if p.parts[0] == top and p.suffix in suffixes and (ROOT / p).is_file())
        return {found for text in texts for found in CONSTRAINT.findall(text)}

    return sorted(stated("include", {".h", ".td"}) - stated("test", TESTS))


def main():
    names = sys.argv[1:]
    if not names:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True)
        names = [n for n in listed.stdout.decode().split("\0") if n] if listed.returncode == 0 else []
    bad = 0
    if not sys.argv[1:]:
        for folder in folders_without_tests(names):
            print(f"{folder}: expected tests in the folder of this name in test or test/Unit")
            bad += 1
        for constraint in constraints_without_tests(names):
            print(f"{constraint}: expected a test that names it, of input that breaks it")
            bad += 1
    for name in names:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            for fault in faults(path):
                print(f"{name}: {fault}")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
