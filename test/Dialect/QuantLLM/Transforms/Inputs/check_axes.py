# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_axes.py DIR REPORT...: reports of quant-llm-choose-group-axis for uint3 in groups of 8 say true errors and choose the smaller."""

import json
import os
import sys

from scheme_errors import Errors

directory, *names = sys.argv[1:]
errors = Errors(directory)
chosen = set()
for name in names:
    report = json.load(open(os.path.join(directory, name + ".json")))
    assert report["error"] == name and len(report["weights"]) == 2
    for weight in report["weights"]:
        (parameter,) = weight["parameters"]
        inputs, outputs = (errors.get(name, parameter, 3, *block) for block in ((1, 8), (8, 1)))
        assert abs(weight["error_inputs"] / inputs - 1) < 2e-3, (name, weight, inputs)
        assert abs(weight["error_outputs"] / outputs - 1) < 2e-3, (name, weight, outputs)
        assert weight["block"] == ([8, 1] if outputs < inputs else [1, 8]), weight
        assert weight["bits_inputs"] == weight["bits_outputs"] == 6
        chosen.add(tuple(weight["block"]))
assert len(chosen) == 2, chosen
