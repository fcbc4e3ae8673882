#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Plots bits per weight against perplexity from a JSON of measured points.

  plot_granularity.py POINTS.json OUTPUT.svg

POINTS.json: {"title": ..., "series": [{"name": ..., "line": bool, "points": [[bits, perplexity, label], ...]}]}
"""

import io
import json
import sys

import matplotlib

matplotlib.use("Agg")
# The same points give the same bytes.
matplotlib.rcParams["svg.hashsalt"] = "quant-llm"
import matplotlib.pyplot as plt

data = json.load(open(sys.argv[1], encoding="utf-8"))
figure, axes = plt.subplots(figsize=(8, 5))
for series in data["series"]:
    bits = [point[0] for point in series["points"]]
    values = [point[1] for point in series["points"]]
    axes.plot(bits, values, "o-" if series["line"] else "x", label=series["name"], markersize=6)
    for x, y, label in series["points"]:
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
axes.set_xlabel("bits per weight, scales and zeros included")
axes.set_ylabel("perplexity")
axes.set_title(data["title"], fontsize=9)
axes.legend()
axes.grid(alpha=0.3)
figure.tight_layout()
buffer = io.StringIO()
figure.savefig(buffer, format="svg", metadata={"Date": None})
with open(sys.argv[2], "w", encoding="utf-8") as output:
    output.writelines(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())
