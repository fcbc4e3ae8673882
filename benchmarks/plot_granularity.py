#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Plots bits per weight against perplexity from a JSON of measured points.

  plot_granularity.py POINTS.json OUTPUT.svg

POINTS.json: {"title": ..., "series": [{"name": ..., "line": bool, "points": [[bits, perplexity, label], ...]}]}
"""

import argparse
import io
import json


def read(path):
    """The title and the series [(name, line, [(bits, perplexity, label), ...])]."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        series = [(str(one["name"]), bool(one["line"]), [(float(x), float(y), str(label)) for x, y, label in one["points"]]) for one in data["series"]]
        return str(data["title"]), series
    except OSError as error:
        raise ValueError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected points of granularity_sweep.py in '{path}': {type(error).__name__}: {error}") from None


def plot(title, series):
    import matplotlib

    matplotlib.use("Agg")
    # The same points give the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "quant-llm"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for name, line, points in series:
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-" if line else "x", label=name, markersize=6)
        for x, y, label in points:
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel("bits per weight, scales and zeros included")
    axes.set_ylabel("perplexity")
    axes.set_title(title, fontsize=9)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", metavar="POINTS.json", help="written by granularity_sweep.py --json")
    parser.add_argument("output", metavar="OUTPUT.svg")
    arguments = parser.parse_args()
    try:
        title, series = read(arguments.points)
    except ValueError as error:
        parser.error(str(error))
    try:
        picture = plot(title, series)
    except ImportError as error:
        parser.exit(1, f"{parser.prog}: error: {error}; install matplotlib\n")
    try:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(picture)
    except OSError as error:
        parser.error(f"cannot write '{arguments.output}': {error.strerror}")


if __name__ == "__main__":
    main()
