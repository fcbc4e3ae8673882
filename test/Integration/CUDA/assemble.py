# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes kernels.cubin beside the kernels.ptx of directories with a manifest, in as many processes as there are processors.

    assemble.py DIR...

For machines with a GPU and a CUDA toolkit, where no compiler of this project is. Spills, stack frames and serialized matrix instructions
are failures; so is a ptxas that is not of CUDA 13.0 or from 13.3 on (docs/UpstreamIssues.md)."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys


def assemble(directory):
    """(number of kernels, most registers, failures)."""
    ptx, cubin = (os.path.join(directory, "kernels." + suffix) for suffix in ("ptx", "cubin"))
    with open(os.path.join(directory, "manifest.json")) as file:
        chip = json.load(file)["chip"]
    result = subprocess.run(["ptxas", "-v", "-O3", f"-arch={chip}", ptx, "-o", cubin], capture_output=True, text=True)
    report = result.stdout + result.stderr
    if result.returncode:
        return 0, 0, [f"{directory}: {report.strip()[:400]}"]
    failures = []
    # sm_120a needs 8 bytes of stack for a tensor copy.
    allowed = 8 if chip.startswith("sm_12") else 0
    for name, stack, stores, loads in re.findall(r"Compiling entry function '([^']*)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report, re.DOTALL):
        if int(stack) > allowed or int(stores) or int(loads):
            failures.append(f"{directory}: {name} has {stack} bytes of stack and {stores} + {loads} of spills")
    if re.search(r"\(C7[56]", report):
        failures.append(f"{directory}: matrix instructions are serialized")
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    return len(registers), max(registers, default=0), failures


def main(directories):
    version = subprocess.run(["ptxas", "--version"], capture_output=True, text=True).stdout
    release = tuple(int(piece) for piece in re.search(r"release (\d+)\.(\d+)", version).groups())
    if release != (13, 0) and release < (13, 3):
        print(f"FAIL ptxas {release[0]}.{release[1]} compiles some of the kernels wrongly; use 13.0.88, or 13.3 or newer")
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(assemble, directories))
    failures = [failure for _, _, some in results for failure in some]
    for failure in failures[:20]:
        print("FAIL " + failure)
    print(f"{sum(count for count, _, _ in results)} kernels assembled, at most {max((most for _, most, _ in results), default=0)} registers, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
