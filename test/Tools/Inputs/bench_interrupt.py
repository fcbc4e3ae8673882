# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What quant-bench leaves behind when a signal ends it while it compiles: nothing."""

import os
import signal
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "Inputs"))
from processes import accept_signals, alive, wait_for


def check(number, group):
    with tempfile.TemporaryDirectory() as directory:
        compiler, scratch = os.path.join(directory, "compiler"), os.path.join(directory, "scratch")
        os.mkdir(scratch)
        with open(compiler, "w") as file:
            file.write(f"#!/bin/sh\necho $$ > {directory}/pid.part && mv {directory}/pid.part {directory}/pid\nexec sleep 60\n")
        os.chmod(compiler, stat.S_IRWXU)
        command = ["quant-bench", "--n", "64", "--k", "64", "--scheme", "int4", "--compiler", compiler]
        process = subprocess.Popen(command, env={**os.environ, "TMPDIR": scratch}, start_new_session=True, preexec_fn=accept_signals)
        wait_for(lambda: os.path.exists(os.path.join(directory, "pid")))
        assert os.listdir(scratch), "expected a directory to compile in"
        with open(os.path.join(directory, "pid")) as file:
            child = int(file.read())
        if group:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(30) == -number, process.returncode
        assert os.listdir(scratch) == [], os.listdir(scratch)
        assert not alive(child)


for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    for group in (False, True):
        check(number, group)
print("nothing is left")
sys.exit(0)
