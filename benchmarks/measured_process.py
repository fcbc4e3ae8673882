# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs a program and measures what it took.

The peak memory of a process counts what it had before it became another program, which is that of its parent. So the
program is the child of a process that is small: of this file.
"""

import json
import os
import subprocess
import sys
import tempfile
import time


class Failed(Exception):
    """The program's exit `status` was not 0; the message is its last line."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def run(command, *, environment=None, cpus=None, log=None):
    """(last line of the output, {"seconds", "processor_seconds", "peak_mib"}) of a
    command. All of its threads run on `cpus`, if they are given. What it says
    besides is written to the file `log`. Raises Failed."""
    with tempfile.TemporaryDirectory() as directory:
        report, errors = os.path.join(directory, "report"), log or os.path.join(directory, "errors")
        launcher = [sys.executable, "-I", "-S", os.path.abspath(__file__), report, ",".join(map(str, sorted(cpus or ())))]
        with open(errors, "wb") as file:
            result = subprocess.run([*launcher, *map(str, command)], stdout=subprocess.PIPE, stderr=file, stdin=subprocess.DEVNULL, env=environment)
        with open(errors, "rb") as file:
            said = file.read().decode(errors="replace")
        if result.returncode:
            lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no message"]
            name = next(os.path.basename(word) for word in map(str, command[1:]) if not word.startswith("-"))
            raise Failed(result.returncode, f"{name}: status {result.returncode}: {lines[-1][:500]}")
        with open(report, encoding="utf-8") as file:
            took = json.load(file)
    return (result.stdout.decode().strip().splitlines() or [""])[-1], took


def launch(report, cpus, *command):
    """The exit status of the command; writes the report."""
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    begin = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    took = {
        "seconds": round(time.perf_counter() - begin, 3),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }
    with open(report, "w", encoding="utf-8") as file:
        json.dump(took, file)
    status = os.waitstatus_to_exitcode(status)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(launch(*sys.argv[1:]))
