# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Blocks of a page that are fenced as ```LANG file=NAME must be the file Examples/NAME beside it, without its license."""

import pathlib
import re
import sys

page = pathlib.Path(sys.argv[1])
examples = page.parent / "Examples"
shown = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S))
names = {path.name for path in examples.iterdir()}
assert shown.keys() == names, f"expected {sorted(names)} in {page} but got {sorted(shown)}"
for name, text in shown.items():
    code = (examples / name).read_text(encoding="utf-8").split("\n\n", 1)[1].lstrip("\n")
    assert text == code, f"{name}: the page differs from the file"
