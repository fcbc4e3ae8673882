# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""shrink.py with planted faults instead of a compiler and a GPU: shrink_test.py DIRECTORY, of shrink.py"""

import json
import os
import sys
import tempfile
import types

sys.path.insert(0, sys.argv[1])
import matrix  # noqa: E402
import shrink  # noqa: E402

FAULTS = [
    lambda case: case["scheme"].startswith("int3") and case["k"] > 40 and any(step.startswith("gate_") for step in case["steps"]),
    lambda case: case["n"] % 16 == 3 and max(case["m"]) > 8 and "zero" in case["scheme"],
    lambda case: case["kernels"] is not None and "split = 1," not in case["kernels"][0],
    lambda case: case["out"] == "f32" and "bias" in case["steps"],
]

cases = matrix.cases_of("random:400:5")
for index, fault in enumerate(FAULTS):
    failing = [case for case in cases if fault(case)]
    if index == 0:
        # Three conditions seldom meet.
        failing = [{**case, "scheme": "int3, block = [1, 32], scale = bf16"} for case in cases if case["weights"] == 2 and case["k"] > 100]
    rounds = 0

    def check(candidates):
        global rounds
        rounds += 1
        return [fault(case) for case in candidates]

    best = shrink.minimize(failing[0], check)
    assert fault(best) and rounds < 60, (best, rounds)
    assert not any(fault(case) for case in shrink.simplifications(best)), best
    print(f"{rounds} rounds: {best['n']}x{best['k']} m={best['m']} {best['scheme']} {best['steps']} {best['act']} {best['out']} {'configured' if best['kernels'] else 'chosen'}")
assert shrink.minimize(cases[0], lambda candidates: [False] * len(candidates)) is None

# Between two machines: the state is in the directory, the results in a file.
with tempfile.TemporaryDirectory() as scratch:
    directory, results = os.path.join(scratch, "round"), os.path.join(scratch, "results.json")
    fault, options = FAULTS[3], types.SimpleNamespace(quant_opt="none", chip="sm_90a", format="ptx")

    def compile_cases(kept, quant_opt, chip, form, output, per_module, jobs):
        os.makedirs(os.path.join(output, "0"))
        with open(os.path.join(output, "0", "manifest.json"), "w") as file:
            json.dump({"linears": [{"name": f"w{index}"} for index in range(len(kept))]}, file)

    matrix.buildable = lambda cases, quant_opt, chip, directory: (cases, [])
    matrix.compile_cases = compile_cases
    given = next(case for case in cases if fault(case))
    status = 3 if shrink.write_round(directory, None, [given] + shrink.simplifications(given), options) else 1
    while status == 3:
        with open(os.path.join(directory, shrink.ROUND)) as file:
            candidates = json.load(file)["candidates"]
        with open(results, "w") as file:
            json.dump([{"case": f"0/w{index}:kernel", "passed": not fault(case)} for index, case in enumerate(candidates)], file)
        status = shrink.advance(directory, results, options)
    assert status == 0
print("shrinking: ok")
