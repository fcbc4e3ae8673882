# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""reparse.py FILE OPTION...: the pipeline that quant-opt prints for the options is accepted by it
and printed the same way again."""

import subprocess
import sys


def dump(*options):
    result = subprocess.run(["quant-opt", sys.argv[1], *options, "-dump-pass-pipeline", "-o", "/dev/null"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = result.stderr[result.stderr.index("builtin.module") :]
    return "".join(line.strip() for line in text.splitlines())


first = dump(*sys.argv[2:])
second = dump("-pass-pipeline=" + first)
assert first == second, (first, second)
print(first)
