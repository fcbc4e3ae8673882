#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Rate and memory of `quant-opt --quant-llm-finequant` on a whole model.

  quantization_rate.py MODEL.gguf|HF_DIR [--threads 2] [--repeat 5] [--json FILE]

The rate is the bytes of the weights that are quantized, as stored before, by the seconds of
processor time of the whole command (reading, error metrics, report and writing of
all tensors included), which is what one core does in a second. Beside it stand the
seconds that pass, and the peak of memory; `nothing` is the same command without
the pass. Every repetition runs all settings, one after the other. Reported are
medians with the lowest and the highest. quant-import and quant-opt come from PATH.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile

import measured_process
from quant_llm import cli

SETTINGS = {
    "nothing": None,
    "FineQuant": "",
    "block=1,128": " block=1,128",
    "block=1,64": " block=1,64",
    "block=1,32": " block=1,32",
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=cli.positive, default=2)
    parser.add_argument("--repeat", type=cli.positive, default=5)
    parser.add_argument("--json")
    return parser.parse_args()


def measure(arguments, directory):
    """({setting: its runs}, bytes of the weights before)"""
    module, report = os.path.join(directory, "model.mlir"), os.path.join(directory, "report.json")
    measured_process.run(["quant-import", arguments.model, "-o", module])
    environment = dict(os.environ, QUANT_LLM_THREADS=str(arguments.threads))
    runs = {name: [] for name in SETTINGS}
    for _ in range(arguments.repeat):
        for name, options in SETTINGS.items():
            command = ["quant-opt", module, "-o", os.devnull]
            if options is not None:
                output = os.path.join(directory, "int4.safetensors")
                command.append(f"--quant-llm-finequant=output={output} report={report}{options}")
            runs[name].append(measured_process.run(command, environment=environment)[1])
    with open(report, encoding="utf-8") as file:
        return runs, json.load(file)["totals"]["weight_bytes_before"]


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    arguments = parse()
    if arguments.json and not os.access(os.path.dirname(os.path.abspath(arguments.json)), os.W_OK):
        sys.exit(f"error: cannot write '{arguments.json}'")
    try:
        with tempfile.TemporaryDirectory() as directory:
            runs, size = measure(arguments, directory)
    except (measured_process.Failed, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{size / 1e6:.0f} MB of weights, {arguments.threads} threads, {arguments.repeat} repetitions: median (lowest to highest)\n")
    print("| setting | GB/s per core | seconds of processor | seconds | peak MiB |\n|---|---|---|---|---|")
    for name, taken in runs.items():
        processor, seconds, peak = ([run[key] for run in taken] for key in ("processor_seconds", "seconds", "peak_mib"))
        rate = spread([size / second / 1e9 for second in processor], 3) if SETTINGS[name] is not None else ""
        print(f"| {name} | {rate} | {spread(processor, 2)} | {spread(seconds, 2)} | {spread(peak, 0)} |")
    if arguments.json:
        try:
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump({"bytes": size, "threads": arguments.threads, "runs": runs}, file, indent=1)
        except OSError as error:
            sys.exit(f"error: cannot write '{arguments.json}': {error.strerror}")


if __name__ == "__main__":
    main()
