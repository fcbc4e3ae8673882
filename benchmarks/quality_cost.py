#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Time and memory of calibration and quantization, beside the package of somebody else.

  quality_cost.py MODEL --calibration-text FILE --output DIR [--methods gptq,awq] [--samples 128] [--length 512] [--cpus 0,1]
                  [--device cpu|cuda] [--repeat 1] [--who ours,peer] [--peer-python PYTHON]

MODEL is a Hugging Face directory. Ours is the recipe of the same name: the model is run on the sample, the calibration file written,
the quantized model written. The peer is the method of that name of quality_peers.py (llm-compressor), on the same tokens.
Each run is a process of its own, ours and the peer's in turns; with --cpus all of its threads are on these
processors. Writes DIR/cost.json after every run and prints a table in Markdown: wall time, processor time and peak memory of
the whole process, start and imports included; and in brackets the wall time without them.
"""

import argparse
import json
import os
import statistics
import sys
import time

import measured_process

HERE = os.path.dirname(os.path.abspath(__file__))


def parse():
    from quant_llm import cli

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration-text", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--methods", default="gptq,awq", help="recipes that have a namesake in quality_peers.py (default: %(default)s)")
    parser.add_argument("--samples", type=cli.positive, default=128)
    parser.add_argument("--length", type=cli.positive, default=512)
    parser.add_argument("--bits", type=cli.positive, default=4)
    parser.add_argument("--group", type=cli.positive, default=64)
    parser.add_argument("--cpus", default="", metavar="LIST", help="numbers of processors; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=cli.positive, default=1)
    parser.add_argument("--who", default="ours,peer")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    try:
        arguments.cpus = {cli.natural(cpu) for cpu in arguments.cpus.split(",") if cpu} or os.sched_getaffinity(0)
    except argparse.ArgumentTypeError as error:
        parser.error(f"--cpus: {error}")
    if not arguments.cpus <= os.sched_getaffinity(0):
        parser.error(f"--cpus: this process may use {','.join(map(str, sorted(os.sched_getaffinity(0))))}")
    arguments.who = arguments.who.split(",")
    if not set(arguments.who) <= {"ours", "peer"}:
        parser.error("--who: expected ours, peer or both")
    arguments.methods = arguments.methods.split(",")
    return arguments


def run_ours(method, path, tokens, directory, bits, group, device, threads):
    """What one run of ours is, in a process of its own."""
    import numpy as np
    import torch
    from quant_llm import model, recipe
    from quant_llm.calibration import calibrate

    torch.set_num_threads(int(threads))
    loaded = recipe.load(method)
    wanted = loaded.calibration
    begin = time.perf_counter()
    calibration = os.path.join(directory, "calibration.safetensors")
    calibrate(path, np.load(tokens, allow_pickle=False), calibration, statistics=wanted.statistics, token_weights=wanted.token_weights, dtype=wanted.dtype, device=device)
    calibrated = time.perf_counter()
    options = {"element": f"uint{bits}", "group": int(group), "threads": int(threads)}
    model.quantize_directory(path, os.path.join(directory, "quantized"), recipe=loaded, options=options, calibration=calibration)
    record = {
        "seconds": time.perf_counter() - begin,
        "calibration_seconds": calibrated - begin,
        "device_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None,
    }
    print(json.dumps(record))


def measure(arguments, who, method, tokens):
    from quant_llm import QuantLLMError, model

    with model._temporary_directory("quality-cost-", arguments.output) as directory:
        threads = str(len(arguments.cpus))
        if who == "ours":
            command = [sys.executable, os.path.abspath(__file__), "--run-ours", method, arguments.model, tokens, directory, str(arguments.bits), str(arguments.group), arguments.device, threads]
        else:
            command = [arguments.peer_python, os.path.join(HERE, "quality_peers.py"), method, arguments.model, "--tokens", tokens, "--bits", str(arguments.bits)]
            command += ["--group", str(arguments.group), "--device", arguments.device]
        environment = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        log = os.path.join(arguments.output, f"{who}-{method}.log")
        try:
            line, took = measured_process.run(command, environment=environment, cpus=arguments.cpus, log=log)
        except measured_process.Failed as error:
            raise QuantLLMError(f"{who}, {method}: {error}; '{log}' says more") from None
        inner = json.loads(line)
        names = {"seconds": "wall_seconds"}
        return {"who": who, "method": method, **inner, **{names.get(name, name): value for name, value in took.items()}}


def render(runs):
    lines = ["| method | | wall s | processor s | peak MiB | GPU MiB |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys((run["method"], run["who"]) for run in runs):
        chosen = [run for run in runs if (run["method"], run["who"]) == key]
        middle = lambda name: statistics.median(run[name] for run in chosen)
        device = "" if chosen[0]["device_peak_mib"] is None else f"{middle('device_peak_mib'):.0f}"
        lines.append(f"| {key[0]} | {key[1]} | {middle('wall_seconds'):.1f} ({middle('seconds'):.1f}) | {middle('processor_seconds'):.1f} | {middle('peak_mib'):.0f} | {device} |")
    return "\n".join(lines)


def main(arguments):
    import numpy as np
    from quant_llm import cli, model
    from quant_llm.calibration import sample_tokens

    os.makedirs(arguments.output, exist_ok=True)
    text = model.find_tokenizer(arguments.model).encode(cli.read_text(arguments.calibration_text), special_tokens=False)
    tokens = os.path.join(arguments.output, "tokens.npy")
    np.save(tokens, sample_tokens(text, samples=arguments.samples, length=arguments.length))
    setting = {name: getattr(arguments, name) for name in ("samples", "length", "bits", "group", "device")}
    runs = []
    for _ in range(arguments.repeat):
        for method in arguments.methods:
            for who in arguments.who:
                runs.append(measure(arguments, who, method, tokens))
                with open(os.path.join(arguments.output, "cost.json"), "w", encoding="utf-8") as file:
                    json.dump({**setting, "cpus": len(arguments.cpus), "runs": runs}, file, indent=1)
                    file.write("\n")
    print(render(runs))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run-ours"]:
        run_ours(*sys.argv[2:])
    else:
        from quant_llm import cli

        parsed = parse()
        sys.exit(cli.run_command("quality_cost.py", lambda: main(parsed), "runs until now are in cost.json"))
