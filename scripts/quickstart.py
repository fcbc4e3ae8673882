#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The main job on one model: import, quantize, evaluate both, continue a prompt,
and one summary. scripts/quickstart.sh gets everything ready and calls this.

  quickstart.py MODEL TEXT OUTPUT [--windows N] [--prompt TEXT]
"""

import argparse
import os
import sys
import time

from quant_llm._start import prepare

prepare("quickstart.py")

from quant_llm import cli, model  # noqa: E402
from quant_llm.cli import say  # noqa: E402


class Steps:
    """Says what is being done and how long it took; the time goes to stderr with
    the bars, so that the summary alone is on stdout."""

    def __init__(self):
        self.bars = cli.Bars()

    def __call__(self, title, function, *arguments, **options):
        print(f"{title} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        with self.bars:
            result = function(*arguments, **options)
        print(f"{title}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        return result


def bytes_of(parameters):
    return sum(p["bytes"] for p in parameters), sum(cli.count_elements(p) for p in parameters)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("output")
    parser.add_argument("--windows", type=cli.positive, default=8, metavar="N", help="windows of 1024 tokens per perplexity (default: %(default)s)")
    parser.add_argument("--prompt", default="The three most important rules of writing software are", metavar="TEXT")
    return parser.parse_args()


def run(arguments):
    step = Steps()
    os.makedirs(arguments.output, exist_ok=True)
    original_path = os.path.join(arguments.output, "original")
    quantized_path = os.path.join(arguments.output, "int4")
    source = arguments.model
    # What is missing or wrong of these is better said before the long work.
    text = cli.read_text(arguments.text)
    tokens = model.find_tokenizer(source).encode(text)
    if model.classify(source) != "quant-llm":
        step("importing", model.import_directory, source, original_path, replace=True, progress=step.bars)
    else:
        original_path = source
    report = step("quantizing", model.quantize_directory, original_path, quantized_path, replace=True, progress=step.bars)

    results, continuation, speed = {}, "", 0.0
    for name, path in (("original", original_path), ("int4", quantized_path)):
        loaded = step(f"compiling the {name} model", model.Model.load, path)
        results[name] = step(
            f"perplexity of the {name} model",
            loaded.perplexity,
            tokens,
            max_windows=arguments.windows,
            progress=lambda done, total, perplexity: step.bars("evaluating", f"perplexity {perplexity:.3f}", done, total),
        )
        if name == "int4":
            start = time.monotonic()
            pieces = list(loaded.stream(arguments.prompt, max_tokens=48))
            continuation, speed = "".join(pieces), len(pieces) / (time.monotonic() - start)
        del loaded

    before, weights = bytes_of(model.describe(original_path)["parameters"])
    after, _ = bytes_of(model.describe(quantized_path)["parameters"])
    totals = report["totals"]
    say("")
    say("Summary")
    say("=======")
    say(f"model          {os.path.basename(source.rstrip('/'))} -> {quantized_path}")
    say(f"weights        {cli.count(weights)} in all, {cli.count(totals['weights'])} of them quantized to 4-bit integers")
    say(f"bytes          {cli.count(before)} -> {cli.count(after)} ({before / after:.2f} times smaller)")
    say(
        f"of the matrices {cli.count(totals['weight_bytes_before'])} -> {cli.count(totals['stored_bytes'])}, "
        f"{totals['bits_per_weight']:.3f} bits per weight, scales included"
    )
    say("")
    say("Granularity that FineQuant chose, and why")
    say("\n".join(cli.render_granularities(report)))
    say("")
    first, second = results["original"], results["int4"]
    change = 100 * (second["perplexity"] / first["perplexity"] - 1)
    say(f"perplexity     {first['perplexity']:.3f} -> {second['perplexity']:.3f} ({change:+.1f} %) on {first['tokens']} tokens of {os.path.basename(arguments.text)}")
    say(f"evaluation     {first['tokens'] / first['seconds']:.0f} -> {second['tokens'] / second['seconds']:.0f} tokens/s")
    say(f"prompt         {arguments.prompt}")
    say(f"continuation   {' '.join(continuation.split())}  ({speed:.1f} tokens/s)")
    say("")
    say(f"Go on with     .venv/bin/quant-llm generate {quantized_path} --prompt 'Once upon a time'")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(cli.run_command("quickstart.py", lambda: run(arguments), "what is in the output directory is complete"))
