#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The tables of docs/Results.md on launches that overlap, from records of check_kernel.py --time.

    benchmarks/overlap_figures.py docs/Results/gpu_int4_overlap.json

A record has microseconds of launches that overlap (`us`), of plain ones (`us_plain`) and of cuBLAS (`cublas_us`). Means are arithmetic.
"""

import argparse
import json
import statistics


def ratio(record, key):
    """The time of cuBLAS over ours."""
    return record["cublas_us"] / record[key]


def gain(record):
    return record["us_plain"] / record["us"]


def name(record):
    return f"{record['n']}x{record['k']}, M = {record['m']}"


def beside_cublas(records):
    lines = ["| cells | cuBLAS time / ours, overlapping | the same, plain launches |", "|---|---|---|"]
    for title, cells in (("up to 64", [r for r in records if r["m"] <= 64]), ("more than 64", [r for r in records if r["m"] > 64])):
        columns = []
        for key in ("us", "us_plain"):
            ratios = [ratio(record, key) for record in cells]
            below = [sum(value < limit for value in ratios) for limit in (1.0, 0.8)]
            columns.append(f"least {min(ratios):.2f}, mean {statistics.mean(ratios):.2f}; {below[0]} below 1.0, {below[1]} below 0.8")
        lines.append(f"| {len(cells)} with {title} tokens | {' | '.join(columns)} |")
    return lines


def gains(records):
    lines = ["| cells, by their overlapping time | plain time / overlapping: least, median, most | median of the difference | slower than plain |", "|---|---|---|---|"]
    for title, low, high in (("of less than 60 us", 0, 60), ("of 60 to 150 us", 60, 150), ("of 150 us and more", 150, float("inf"))):
        cells = [record for record in records if low <= record["us"] < high]
        values = [gain(record) for record in cells]
        difference = statistics.median(record["us_plain"] - record["us"] for record in cells)
        lines.append(f"| {len(cells)} {title} | {min(values):.3f} {statistics.median(values):.3f} {max(values):.3f} | {difference:.1f} us | {sum(value < 1 for value in values)} |")
    worst = min(records, key=gain)
    return lines + ["", f"Least of all: {name(worst)}, {worst['us']:.1f} us overlapping and {worst['us_plain']:.1f} us plainly ({gain(worst):.3f})."]


def below(records, limit=0.8):
    lines = [f"| cell below {limit} with plain launches | plain | overlapping |", "|---|---|---|"]
    for record in sorted(records, key=lambda record: (record["n"], record["k"], record["m"])):
        if ratio(record, "us_plain") < limit:
            lines.append(f"| {name(record)} | {record['us_plain']:.1f} {ratio(record, 'us_plain'):.3f} | {record['us']:.1f} {ratio(record, 'us'):.3f} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="JSON, a list of records")
    with open(parser.parse_args().records, encoding="utf-8") as file:
        records = json.load(file)
    print("\n\n".join("\n".join(table(records)) for table in (beside_cublas, gains, below)))


if __name__ == "__main__":
    main()
