# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_bits.py DIR REPORT...: reports of quant-llm-allocate-bits say true errors, and their choices are the best of all."""

import itertools
import json
import os
import re
import sys

from scheme_errors import Errors

directory, *names = sys.argv[1:]
errors = Errors(directory)
for name in names:
    report = json.load(open(os.path.join(directory, name + ".json")))
    assert report["sensitivity"] == name
    tables, total = [], sum(weight["weights"] for weight in report["weights"])
    for weight in report["weights"]:
        (parameter,) = weight["parameters"]
        table = []
        for option in weight["options"]:
            bits, rows, columns = map(int, re.match(r"#quant_llm.scheme<uint(\d), block = \[(-?\d+), (-?\d+)\]", option["scheme"]).groups())
            error = errors.get(name, parameter, bits, rows, columns)
            assert abs(option["error"] / error - 1) < 2e-3, (name, option, error)
            n, k = errors.weights[parameter].shape
            stored = 8 * n * -(-k * bits // 8) + n * (k // columns if columns > 0 else 1) * 24
            assert abs(option["bits_per_weight"] * n * k - stored) < 1e-6, (option, stored)
            table.append((option["error"], stored))
        tables.append(table)
        assert weight["scheme"] == weight["options"][weight["chosen"]]["scheme"]
    budget = report["budget"] * total
    best = min(sum(e for e, _ in choice) for choice in itertools.product(*tables) if sum(b for _, b in choice) <= budget)
    chosen = [table[weight["chosen"]] for table, weight in zip(tables, report["weights"])]
    assert abs(sum(e for e, _ in chosen) / best - 1) < 1e-9, (name, chosen, best)
    assert abs(report["error"] / best - 1) < 1e-9
    assert sum(b for _, b in chosen) <= budget and abs(report["bits_per_weight"] - sum(b for _, b in chosen) / total) < 1e-9
    assert report["stored_bytes"] * 8 == sum(b for _, b in chosen)
