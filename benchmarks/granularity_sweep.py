#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bits per weight against perplexity: uniform blocks, and FineQuant at several alphas.

  granularity_sweep.py MODEL --text FILE [--windows 16] [--groups row,128,64,32] [--alphas 0.6,0.7,0.75,0.8]
                       [--element uint4] [--options TEXT] [--json POINTS.json]

MODEL is anything that quant-llm reads. Every setting is quantized with the pipeline quant-llm-finequant and measured
like `quant-llm eval`: windows of 1024 tokens that do not overlap. Prints a table in Markdown; POINTS.json is for
plot_granularity.py. The last column is the difference of FineQuant from the line through the uniform points at the
same bits, in log perplexity: negative is better. `--options` are further options of the pipeline.
"""

import argparse
import json
import math
import os
import sys
import tempfile

from quant_llm import cli, model


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=cli.positive, default=16)
    parser.add_argument("--groups", default="row,128,64,32", help="row: one scale for each")
    parser.add_argument("--alphas", default="0.6,0.7,0.75,0.8")
    parser.add_argument("--element", default="uint4")
    parser.add_argument("--options", default="")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    try:
        arguments.groups = [-1 if group == "row" else cli.positive(group) for group in arguments.groups.split(",") if group]
        arguments.alphas = [float(alpha) for alpha in arguments.alphas.split(",") if alpha]
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    return arguments


def against_line(line, bits, perplexity):
    """The difference in log perplexity from the line through points in order of
    bits, or None outside of it."""
    for (left, low), (right, high) in zip(line, line[1:]):
        if left <= bits <= right:
            at = (bits - left) / (right - left)
            return math.log(perplexity) - (1 - at) * math.log(low) - at * math.log(high)
    return None


def sweep(arguments):
    text = cli.read_text(arguments.text)
    loaded = model.Model.load(arguments.model)
    tokens = loaded.require_tokenizer().encode(text, special_tokens=False)

    def measure(path):
        return model.Model.load(path).perplexity(tokens, max_windows=arguments.windows)["perplexity"]

    original = loaded.perplexity(tokens, max_windows=arguments.windows)
    del loaded
    print(f"original: perplexity {original['perplexity']:.4f} on {original['tokens']} tokens\n", flush=True)
    print("| setting | bits per weight | perplexity | against uniform |\n|---|---|---|---|", flush=True)

    uniform, adaptive = [], []
    # Options of the choice mean nothing where there is none to make, and are refused there.
    common = " ".join(option for option in arguments.options.split() if option.split("=")[0] not in ("sizes", "statistic", "aggregation"))
    settings = [("row" if group < 0 else f"group {group}", f"block=1,{group} {common}", uniform) for group in arguments.groups]
    settings += [(f"alpha {alpha:g}", f"alpha={alpha} {arguments.options}", adaptive) for alpha in arguments.alphas]
    with tempfile.TemporaryDirectory() as directory:
        source = arguments.model
        if model.classify(source) != "quant-llm":
            source = os.path.join(directory, "original")
            model.import_directory(arguments.model, source)
        for name, options, points in settings:
            output = os.path.join(directory, "quantized")
            report = model.quantize_directory(source, output, replace=True, options=f"element={arguments.element} {options}")
            bits, perplexity = report["totals"]["bits_per_weight"], measure(output)
            difference = against_line(sorted(point[:2] for point in uniform), bits, perplexity) if points is adaptive else None
            points.append((bits, perplexity, name.split()[-1]))
            last = "" if difference is None else f"{100 * math.expm1(difference):+.1f} %"
            print(f"| {name} | {bits:.3f} | {perplexity:.4f} | {last} |", flush=True)

    if arguments.json:
        title = f"{os.path.basename(os.path.abspath(arguments.model))}, {original['tokens']} tokens of {os.path.basename(arguments.text)} (original: {original['perplexity']:.2f})"
        series = [{"name": f"uniform {arguments.element}", "line": True, "points": sorted(uniform)}, {"name": "FineQuant; alpha", "line": False, "points": adaptive}]
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"title": title, "series": series}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(cli.run_command("granularity_sweep.py", lambda: sweep(arguments), "POINTS.json was not written"))
