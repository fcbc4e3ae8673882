# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes a failing case of the matrices smaller, step by step.

    shrink.py start CASE.json DIR [--quant-opt ...]     the case (an object, or its list of one) and its first simplifications, compiled to DIR
    shrink.py next DIR RESULTS.json [...]               after check_kernel.py --manifest DIR/* --json RESULTS.json, wherever the GPU is

Every round compiles all simplifications of the smallest case that still fails; `next` prints that case and ends with status 0 when none of
its simplifications fails any more, and with status 3 when DIR holds another round. With compiler and GPU on one machine,
`shrink.py loop CASE.json DIR` does all rounds.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import matrix
import schemes

ROUND = "round.json"


def size(given):
    """What is to become small: first the shape, then everything that is not the plain case."""
    config = sum(len(kernel) for kernel in given["kernels"] or [])
    return given["n"] * given["k"] * max(given["m"]), given["n"] + given["k"] + sum(given["m"]), given["weights"], len(given["steps"]), len(given["scheme"]), given["act"] != "f16", given["out"] != "f16", config


def smaller_numbers(value):
    """Candidates below a number, large steps first."""
    candidates = (1, value % 16, value % 128, value // 2, value * 3 // 4, value * 7 // 8, value - value % 16, value - value % 8, value - 8, value - 1)
    return sorted({candidate for candidate in candidates if 0 < candidate < value})


def simplifications(given):
    """Cases one step simpler; whether they can be built is another matter."""

    def change(**fields):
        result.append({**given, **fields})

    result = []
    for name in ("n", "k"):
        for value in smaller_numbers(given[name]):
            change(**{name: value})
    if len(given["m"]) > 1:
        for value in given["m"]:
            change(m=[value])
    else:
        for value in smaller_numbers(given["m"][0]):
            change(m=[value])
    if given["steps"]:
        change(steps=[], operands=[], weights=1)
        for index, step in enumerate(given["steps"]):
            if step.startswith("gate_") and given["weights"] == 2:
                continue
            consuming = [other in ("bias", "residual", "mul") for other in given["steps"]]
            operands = [operand for position, operand in enumerate(given["operands"]) if not consuming[index] or position != sum(consuming[:index])]
            if len(given["steps"]) > 1:
                change(steps=given["steps"][:index] + given["steps"][index + 1 :], operands=operands)
    for name in ("act", "out"):
        if given[name] != "f16":
            change(**{name: "f16"})
    element, *fields = schemes.split_top(given["scheme"])
    for simple in (matrix.G128, "int4, block = [1, -1], scale = f16"):
        if given["scheme"] != simple:
            change(scheme=simple)
    if element != "int4" and "zero = int" not in given["scheme"]:
        change(scheme=", ".join(["int4", *fields]))
    for field in fields:
        if field.startswith(("zero", "rule")):
            change(scheme=", ".join([element, *(other for other in fields if not other.startswith(("zero", "rule")))]))
            break
    for field in fields:
        if field.startswith("scale") and field != "scale = f16":
            change(scheme=", ".join([element, *("scale = f16" if other == field else other for other in fields)]))
    if given["kernels"]:
        change(kernels=None)
        for name in ("row_tile", "token_tile", "stage_k", "stages", "warps_rows", "warps_k", "split", "ctas_per_sm"):
            values = [int(found) for kernel in given["kernels"] for found in re.findall(rf"{name} = (\d+)", kernel)]
            if any(value > 1 for value in values):
                change(kernels=[re.sub(rf"({name} = )(\d+)", lambda found: found[1] + str(max(1, int(found[2]) // 2)), kernel) for kernel in given["kernels"]])
    unique = {json.dumps(case): case for case in result if case != given}
    return sorted((case for case in unique.values() if size(case) < size(given)), key=size)


def minimize(given, check):
    """The smallest case found that fails; check(cases) says for each whether it does. None if nothing fails."""
    best, candidates = None, [given] + simplifications(given)
    while candidates:
        wrong = [case for case, fails in zip(candidates, check(candidates), strict=True) if fails]
        if not wrong:
            break
        best = min(wrong, key=size)
        candidates = simplifications(best)
    return best


def write_round(directory, best, candidates, options):
    """Compiles the candidates that can be built; whether there are any."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    kept, _ = matrix.buildable(candidates, options.quant_opt, options.chip, directory)
    if kept:
        matrix.compile_cases(kept, options.quant_opt, options.chip, options.format, directory, len(kept), 1)
    with open(os.path.join(directory, ROUND), "w") as file:
        json.dump({"best": best, "candidates": kept}, file, indent=1)
    return bool(kept)


def failing(directory, results):
    """The candidates of the round in DIR that failed."""
    with open(os.path.join(directory, ROUND)) as file:
        state = json.load(file)
    with open(os.path.join(directory, "0", "manifest.json")) as file:
        names = [linear["name"] for linear in json.load(file)["linears"]]
    with open(results) as file:
        wrong = {record["case"].split("/", 1)[1].split(":")[0] for record in json.load(file) if not record["passed"]}
    return state, [case for name, case in zip(names, state["candidates"], strict=True) if name in wrong]


def advance(directory, results, options):
    """0 when nothing is left to try, 3 when DIR holds another round, 1 when the case itself has passed."""
    state, wrong = failing(directory, results)
    if state["best"] is None and not wrong:
        print("the case passes")
        return 1
    best = min(wrong, key=size) if wrong else state["best"]
    print(json.dumps(best), flush=True)
    return 3 if wrong and write_round(directory, best, simplifications(best), options) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "next", "loop"])
    parser.add_argument("first", help="CASE.json, or DIR of next")
    parser.add_argument("second", help="DIR, or RESULTS.json of next")
    parser.add_argument("--quant-opt", default="quant-opt")
    parser.add_argument("--chip", default="sm_90a")
    parser.add_argument("--format", default="cubin", choices=["cubin", "ptx"])
    options = parser.parse_args()
    if options.action == "next":
        return advance(options.first, options.second, options)
    with open(options.first) as file:
        given = json.load(file)
    given = given[0] if isinstance(given, list) else given
    directory = options.second
    if options.action == "start":
        if write_round(directory, None, [given] + simplifications(given), options):
            return 3
        print("neither the case nor anything simpler can be built")
        return 1
    checker, results = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_kernel.py"), directory.rstrip("/") + ".results.json"

    def check(candidates):
        if not write_round(directory, None, candidates, options):
            return [False] * len(candidates)
        subprocess.run([sys.executable, checker, "--manifest", os.path.join(directory, "0"), "--json", results, "--quiet"], stdout=subprocess.DEVNULL)
        _, wrong = failing(directory, results)
        return [case in wrong for case in candidates]

    best = minimize(given, check)
    print(json.dumps(best) if best else "the case passes")
    return 0 if best else 1


if __name__ == "__main__":
    sys.exit(main())
