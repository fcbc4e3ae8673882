# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs cases in a worker process that is started again after crashes and hangs, so that a broken kernel costs only its own case.

A script calls main(); in the worker it is called with the same arguments and hands its cases to work()."""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time

DEFAULT_TOKENS = "1,2,3,7,8,16,17,33,64,100,128,257,1024"
CRASHED = 77


def add_arguments(parser, tokens, repeat=30):
    parser.add_argument("--m", default=tokens, help="token counts (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=repeat, help="launches compared bitwise (default: %(default)s)")
    parser.add_argument("--offset", type=int, default=16, help="bytes by which x, y and operands miss an alignment of 256 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60, help="seconds without a line after which a kernel hangs (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=0, help="seconds for the whole run (default: none)")
    parser.add_argument("--quiet", action="store_true", help="print only what fails")
    parser.add_argument("--json", help="write all records here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)


def report(label, message):
    """A failure that has no numbers."""
    print(f"FAIL {label}: {message}", flush=True)
    print("@record " + json.dumps({"case": label, "failures": [message], "passed": False}), flush=True)


def work(cases, start, run):
    """Runs the cases from `start` on, the loop of a worker: run(case) yields lines and records. Ends the process when the context is lost."""
    import torch

    from driver import DriverError

    for index, case in enumerate(cases):
        if index < start:
            continue
        print(f"@begin {index}", flush=True)
        try:
            for line, record in run(case):
                print(line, flush=True)
                print("@record " + json.dumps(record), flush=True)
            torch.cuda.empty_cache()
        except (DriverError, RuntimeError) as error:
            report(case[0], str(error).splitlines()[0])
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                os._exit(CRASHED)
        except Exception as error:  # A broken description must not end the run.
            report(case[0], f"{type(error).__name__}: {error}")
    print("@done", flush=True)


def supervise(options, labels, script):
    """Runs workers of the script until every case was begun; returns (records, failures)."""
    start, count, records, failures = 0, len(labels), [], 0

    def fail(index, message):
        nonlocal failures
        failures += 1
        print(f"FAIL {labels[index]}: {message}", flush=True)
        records.append({"case": labels[index], "failures": [message], "passed": False})

    deadline = time.monotonic() + options.limit if options.limit else None
    while start < count:
        command = [sys.executable, script, "--worker", "--start", str(start)] + sys.argv[1:]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=os.getcwd())
        lines = queue.Queue()

        def pump(pipe=process.stdout, to=lines):
            for line in pipe:
                to.put(line)
            to.put(None)

        threading.Thread(target=pump, daemon=True).start()
        current, finished, killed = start - 1, False, False
        while True:
            patience = options.timeout if current >= start else options.timeout + 60
            if deadline:
                patience = min(patience, max(0.1, deadline - time.monotonic()))
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                late = deadline is not None and time.monotonic() >= deadline
                fail(max(current, start), "time limit of the run" if late else f"no answer for {patience:.0f} s (hang)")
                process.kill()
                killed = True
                if late:
                    return records, failures
                break
            if line is None:
                break
            if line.startswith("@begin "):
                current = int(line.split()[1])
            elif line.startswith("@record "):
                records.append(json.loads(line[len("@record ") :]))
            elif line.startswith("@done"):
                finished = True
            else:
                failures += line.startswith("FAIL")
                if not (options.quiet and line.startswith(("ok", "skip"))):
                    print(line, end="", flush=True)
        process.wait()
        if finished:
            break
        if current < start:
            fail(start, "the worker did not start")
            break
        if process.returncode != CRASHED and not killed:
            fail(current, f"the worker ended with {process.returncode}")
        start = current + 1
    return records, failures


def main(options, script, load_cases, worker, what, nothing):
    """The exit status of a script. `what`: the cases in a message; `nothing`: the message for none."""
    options.tokens = [int(piece) for piece in options.m.split(",")] if options.m else None
    if options.worker:
        worker(options)
        return 0
    labels = [case[0] for case in load_cases(options)]
    if not labels:
        print(nothing)
        return 2
    begin = time.monotonic()
    records, failures = supervise(options, labels, os.path.abspath(script))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(records, file, indent=1)
    passed = sum(record["passed"] for record in records)
    print(f"{len(labels)} {what}, {len(records)} cases checked, {passed} passed, {failures} failures, {time.monotonic() - begin:.0f} s")
    return 0 if failures == 0 and records else 1
