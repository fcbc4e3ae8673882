# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The steps of --epilogue against their definitions. A kernel and the formula that it is verified with come of one text: a wrong constant in it
would agree with itself.

    bench_formula.py CASES       writes a list of cases
    bench_formula.py --check DIR reads the manifests of what was compiled of it"""

import json
import math
import pathlib
import sys

ACTIVATIONS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
}
# Of the sums and the operands.
EPILOGUES = {name: lambda s, o, f=f: f(s[0]) for name, f in ACTIVATIONS.items()}
EPILOGUES.update({f"gate_{name}, scale:0.3, residual": lambda s, o, f=f: f(s[0]) * s[1] * 0.3 + o[0] for name, f in ACTIVATIONS.items()})
EPILOGUES["residual, bias, scale:-2"] = lambda s, o: (s[0] + o[0] + o[1]) * -2

OPS = {
    "arith.addf": lambda x, y: x + y,
    "arith.cmpf olt": lambda x, y: x < y,
    "arith.divf": lambda x, y: x / y,
    "arith.extf": lambda x: x,
    "arith.mulf": lambda x, y: x * y,
    "arith.negf": lambda x: -x,
    "arith.select": lambda c, x, y: x if c else y,
    "arith.truncf": lambda x: x,
    "math.erf": math.erf,
    "math.exp": math.exp,
    "math.tanh": math.tanh,
    "quant_llm.yield": lambda x: x,
}


def evaluate(formula, named):
    values = []
    for step in formula:
        arguments = [values[name] if isinstance(name, int) else named[name] for name in step.get("args", [])]
        op = " ".join([step["op"], *([step["predicate"]] if "predicate" in step else [])])
        values.append(step["value"] if op == "arith.constant" else OPS[op](*arguments))
    return values[-1]


if sys.argv[1] == "--check":
    for index, (name, function) in enumerate(EPILOGUES.items()):
        (linear,) = json.loads((pathlib.Path(sys.argv[2]) / str(index) / "manifest.json").read_text())["linears"]
        for i in range(-40, 41):
            sums, operands = [i / 8, 0.7 - i / 16], [i / 3, 2.5]
            named = {f"sum{j}": sums[j] for j in range(len(linear["weights"]))} | {f"epilogue{j}": operands[j] for j in range(len(linear["epilogue"]))}
            expected, got = function(sums, operands), evaluate(linear["formula"], named)
            # Constants are f32.
            assert abs(got - expected) <= 1e-6 * max(1, abs(expected)), (name, sums, operands, expected, got)
    print(f"{len(EPILOGUES)} epilogues are what their names say")
else:
    cases = [{"n": 16, "k": 32, "scheme": "int4, block = [1, 32], scale = f16", "epilogue": name} for name in EPILOGUES]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(cases))
