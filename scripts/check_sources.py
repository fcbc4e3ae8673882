#!/usr/bin/env python3
"""Checks text files of the repository: no trailing white space, one newline at
the end, no tabs in sources, no file above 500 kB, no file without its licence.
Without arguments it checks every file git knows, and that every folder of lib
has its tests.

  check_sources.py [FILE...]
"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LICENSED = {".h", ".c", ".cpp", ".td"}
TESTS = {".mlir", ".test", ".py", ".c", ".cpp"}
BINARY = {".safetensors", ".gguf", ".npy", ".mlirbc", ".png"}


def faults(path):
    data = path.read_bytes()
    if len(data) > 500_000:
        yield f"expected at most 500000 bytes but got {len(data)}"
    if path.suffix in BINARY or "Inputs" in path.parts or path.name == "LICENSE":
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
        if "\t" in line and path.suffix in LICENSED | {".py"}:
            yield f"line {number}: tab"
    if path.suffix in LICENSED and "SPDX-License-Identifier" not in text[:1000]:
        yield "expected 'SPDX-License-Identifier' in the banner"


def folders_without_tests(names):
    """Folders of lib with sources, but without tests where one looks for them."""
    paths = [pathlib.PurePosixPath(name) for name in names]
    tests = {p.parent for p in paths if p.parts[0] == "test" and p.suffix in TESTS}
    for folder in sorted({p.parent for p in paths if p.parts[0] == "lib" and p.suffix == ".cpp"}):
        inside = pathlib.PurePosixPath(*folder.parts[1:])
        if not tests & {"test" / inside, "test" / ("Unit" / inside)}:
            yield folder


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
    for name in names:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            for fault in faults(path):
                print(f"{name}: {fault}")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
