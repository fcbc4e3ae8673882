# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the GPU checks compile and run.

    matrix.py cases NAME                       the cases of a matrix as JSON
    matrix.py layers NAME DIR                  the same as quant-bench --cases compiles them, with weights, each in a file
    matrix.py compile NAME DIR [options]       their kernels: DIR/0, DIR/1, ... with manifest.json, kernels.cubin or .ptx, and cases.json

Matrices:

    smoke, layers   some layers               shapes      all of N and K in EXTENTS, as they are chosen
    schemes     every pair of element, scale, zero, block and types of x and y, and every triple of scale, zero and block, with every family
    epilogues   every epilogue with every family, activation and result type
    wide        gated pairs, operands and result types on larger shapes
    random[:COUNT[:SEED]]   random shapes, schemes, epilogues and configurations
    bench, bench-short   what is timed

check_kernel.py --manifest DIR/0 runs them; it makes the weights itself, so that no file holds any.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import random
import re
import subprocess
import sys

G128 = "int4, block = [1, 128], scale = f16"
TOKENS = [1, 2, 3, 7, 8, 16, 17, 33, 64, 100, 128, 257, 1024]
EXTENTS = [1, 17, 64, 172, 192, 576, 1000, 1536, 4096, 7392, 10944, 11008]
BENCH = [(4096, 4096), (28672, 4096), (8192, 8192), (1280, 8192)]

# ---------------------------------------------------------------------------
# Schemes
# ---------------------------------------------------------------------------

CODEBOOK16 = "codebook<4, [-1.0, -0.75, -0.5, -0.375, -0.25, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]>"
CODEBOOK256 = f"codebook<8, [{', '.join(f'{(i - 128) * abs(i - 128) / 4096}' for i in range(256))}]>"
ELEMENTS = [
    *[f"int{bits}" for bits in range(1, 9)],
    *[f"uint{bits}" for bits in range(1, 9)],
    *("ternary", "f4E2M1FN", "f6E2M3FN", "f6E3M2FN", "f8E4M3FN", "f8E5M2", "nf4", CODEBOOK16, CODEBOOK256),
]
TWO_LEVELS = "scheme<f8E4M3FN, block = [-1, -1], scale = f32>"
SCALES = ["f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN", TWO_LEVELS, "scheme<uint8, block = [1, 4], scale = f32>"]
ZEROS = ["none", "int", "f16", "bf16", "f32", "f8E4M3FN"]
# Per tensor, output and input channel; groups in the fast and the general path; 2-D.
BLOCKS = [(-1, -1), (1, -1), (-1, 1), (1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 24), (1, 100), (16, 32), (128, 128)]
# As the standards define them, and as models are published.
STANDARDS = {
    "MXFP4": "f4E2M1FN, block = [1, 32], scale = f8E8M0FNU",
    "MXFP6": "f6E3M2FN, block = [1, 32], scale = f8E8M0FNU",
    "MXFP8": "f8E4M3FN, block = [1, 32], scale = f8E8M0FNU",
    "MXFP8 of E5M2": "f8E5M2, block = [1, 32], scale = f8E8M0FNU",
    "NVFP4": f"f4E2M1FN, block = [1, 16], scale = {TWO_LEVELS}",
    "blocks of FP8": "f8E4M3FN, block = [128, 128], scale = f32",
    "ternary": "ternary, block = [-1, -1], scale = f16",
    "AWQ": "uint4, block = [1, 128], scale = f16, zero = int, rule = minmax",
    "double quantization": "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = f32>",
}


def scheme_text(element, scale, zero, block):
    text = f"{element}, block = [{block[0]}, {block[1]}], scale = {scale}"
    if zero != "none":
        text += f", zero = {zero}, rule = minmax"
    elif element == "int1":
        text += ", rule = absmax_full"
    return text


def is_scheme(element, scale, zero, block):
    """Whether docs/Spec.md has the combination."""
    if zero == "int" and not element.startswith("uint"):
        return False
    # A zero goes with a range of both signs.
    return not (zero != "none" and element in ("int1", "ternary"))


def all_schemes():
    return [combination for combination in itertools.product(ELEMENTS, SCALES, ZEROS, BLOCKS) if is_scheme(*combination)]


def covering_schemes(seed=1):
    """Few combinations (text, types of x and y) with every pair of their parts and every triple of scale, zero and block."""

    def parts(combination):
        element, scale, zero, block = combination
        for pair in itertools.combinations(enumerate(combination), 2):
            yield pair
        yield scale, zero, block

    everything = all_schemes()
    random.Random(seed).shuffle(everything)
    wanted = {part for combination in everything for part in parts(combination)}
    chosen = []
    # Greedy over random candidates: close to the smallest such set.
    for least in (7, 6, 5, 4, 3, 2, 1):
        for combination in everything:
            fresh = wanted.intersection(parts(combination))
            if len(fresh) >= least:
                chosen.append(combination)
                wanted -= fresh
    # The types that have not yet met most of the parts, or else in turns.
    met, result = set(), []
    for i, combination in enumerate(chosen):
        pairs = {types: {(part, types) for part in enumerate(combination)} for types in TYPES}
        turn = i % len(TYPES)
        types = max(TYPES[turn:] + TYPES[:turn], key=lambda types: len(pairs[types] - met))
        met |= pairs[types]
        result.append((scheme_text(*combination), types))
    assert len(met) == len(TYPES) * sum(map(len, (ELEMENTS, SCALES, ZEROS, BLOCKS)))
    return result


# ---------------------------------------------------------------------------
# Configurations
# ---------------------------------------------------------------------------


def config(family, low, high, row_tile, token_tile, stage_k, stages, rows, k, copy, split=1, ctas=1):
    sizes = f"row_tile = {row_tile}, token_tile = {token_tile}, stage_k = {stage_k}, stages = {stages}, warps_rows = {rows}, warps_k = {k}, split = {split}, ctas_per_sm = {ctas}"
    return f"#quant_llm.kernel_config<{family}, tokens = [{low}, {'*' if high is None else high}], {sizes}, copy = {copy}>"


def block_k(scheme):
    return int(re.search(r"block = \[-?\d+, (-?\d+)\]", re.sub(r"codebook<[^>]*>|scheme<[^>]*>", "", scheme))[1])


def has_wgmma(k, scheme):
    block = block_k(scheme)
    one_group = block < 0 or block >= k
    return k % 8 == 0 and (one_group or block in (16, 32, 64) or block % 128 == 0)


def families(k, scheme, chip="sm_90a"):
    """One kernel of every family of the chip that takes the problem, and token counts that meet all of them."""
    if k % 8:
        return [config("multistage", 1, None, 64, 16, 128, 2, 4, 1, "element")], [1, 7, 17]
    if chip.startswith("sm_8"):
        return [config("multistage", 1, 8, 64, 8, 128, 3, 4, 1, "async16"), config("multistage", 9, None, 64, 16, 128, 3, 2, 1, "async16")], [1, 5, 20, 33]
    few = config("few_tokens", 1, 8, 16, 8, 256, 3, 1, 2, "tensor", split=2 if k > 256 else 1)
    if chip != "sm_90a" or not has_wgmma(k, scheme):
        return [few, config("multistage", 9, None, 64, 16, 128, 3, 2, 1, "async16")], [1, 5, 20, 33]
    wide = config("wgmma", 25, None, 64, 32, 64, 4, 1, 1, "tensor")
    return [few, config("multistage", 9, 24, 64, 16, 128, 3, 2, 1, "async16"), wide], [1, 5, 20, 33]


# ---------------------------------------------------------------------------
# Matrices
# ---------------------------------------------------------------------------


def case(n, k, scheme=G128, act="f16", out=None, m=TOKENS, weights=1, steps=(), operands=(), kernels=None):
    """`operands`: (type, per element) of the epilogue; `kernels`: configurations, or None for those that are chosen."""
    return {"n": n, "k": k, "scheme": scheme, "act": act, "out": out or act, "m": list(m), "weights": weights, "steps": list(steps), "operands": [list(operand) for operand in operands], "kernels": kernels}


EPILOGUES = [
    (1, ["bias"], [("f16", False)]),
    (1, ["bias"], [("f32", False)]),
    (1, ["silu"], []),
    (1, ["gelu"], []),
    (1, ["gelu_tanh"], []),
    (1, ["relu"], []),
    (1, ["residual"], [("f16", True)]),
    (1, ["scale:0.125"], []),
    (1, ["bias", "silu", "residual"], [("bf16", False), ("f32", True)]),
    (1, ["user"], []),
    (1, ["user", "mul", "relu", "bias"], [("f32", True), ("f16", False)]),
    (2, ["gate_silu"], []),
    (2, ["gate_gelu", "scale:0.5"], []),
    (2, ["gate_gelu_tanh", "residual"], [("f16", True)]),
    (2, ["gate_relu", "bias"], [("f32", False)]),
]
TYPES = [("f16", "f16"), ("bf16", "bf16"), ("f16", "f32"), ("bf16", "f32"), ("f16", "bf16"), ("bf16", "f16")]


def schemes_matrix(chip):
    cases = []
    standards = [(scheme, TYPES[i % len(TYPES)]) for i, scheme in enumerate(STANDARDS.values())]
    for i, (scheme, (act, out)) in enumerate(standards + covering_schemes()):
        # Ragged rows and groups; every fifth with rows of X that do not begin at multiples of 16 bytes.
        n, k = [(80, 320), (64, 576), (17, 192), (130, 264), (33, 172)][i % 5]
        kernels, m = families(k, scheme, chip)
        cases.append(case(n, k, scheme, act, out, m, kernels=kernels))
    return cases


def epilogues_matrix(chip):
    cases = []
    for i, (weights, steps, operands) in enumerate(EPILOGUES):
        for j, (act, out) in enumerate(TYPES):
            scheme = list(STANDARDS.values())[(i + j) % len(STANDARDS)] if j else G128
            n, k = [(80, 320), (17, 264), (33, 172)][(i + j) % 3 if j else 0]
            kernels, m = families(k, scheme, chip)
            cases.append(case(n, k, scheme, act, out, m, weights, steps, operands, kernels))
    return cases


def wide_matrix():
    """Chosen kernels with epilogues: gated pairs and results of other types."""
    cases = []
    for i, (weights, steps, operands) in enumerate(EPILOGUES[8:]):
        act, out = TYPES[i % len(TYPES)]
        cases.append(case(1536, 576, G128, act, out, [1, 16, 33, 100, 257], weights, steps, operands))
        cases.append(case(576, 1536, STANDARDS["MXFP4"], act, out, [3, 17, 64, 1024], weights, steps, operands))
    return cases


def random_config(pick, n, k, scheme, weights):
    """One kernel for all token counts, perhaps one that cannot be built: quant-opt knows."""
    family = pick.choice(["few_tokens", "multistage", "multistage", "wgmma"])
    split, ctas = pick.choice([1, 1, 1, 2, 3, 4, 8]), pick.choice([1, 1, 2, 3])
    if family == "wgmma":
        return config(family, 1, None, 64 * pick.randint(1, 4), 16 * pick.randint(1, 16), 64, pick.randint(3, 8), pick.randint(1, 4), pick.choice([1, 1, 2, 4]), "tensor", split, ctas)
    rows, along_k = pick.choice([1, 1, 2, 4, 8]), pick.choice([1, 1, 2, 4, 8])
    copy = "tensor" if family == "few_tokens" else "async16" if k % 8 == 0 else "element"
    return config(family, 1, None, 16 * rows * pick.randint(1, 4), 8 * pick.choice([1, 2, 3, 4, 6, 8, 12, 16]), 128 * along_k * pick.randint(1, 2), pick.randint(2, 5), rows, along_k, copy, split if family == "few_tokens" else 1, ctas)


def random_matrix(count, seed):
    pick = random.Random(seed)
    cases = []
    for _ in range(count):
        n, k = (pick.choice([pick.randint(1, 300), pick.randint(1, 2000), 8 * pick.randint(1, 300)]) for _ in range(2))
        while True:
            parts = pick.choice(ELEMENTS), pick.choice(SCALES), pick.choice(ZEROS), pick.choice(BLOCKS + [(1, 16 * pick.randint(1, 20)), (pick.randint(1, 40), pick.randint(16, 300))])
            if is_scheme(*parts):
                break
        scheme = pick.choice([scheme_text(*parts), scheme_text(*parts), pick.choice(list(STANDARDS.values())), G128])
        act, out = pick.choice(TYPES)
        weights, steps, operands = pick.choice(EPILOGUES + [(1, [], [])] * len(EPILOGUES))
        kernels = None if pick.random() < 0.2 else [random_config(pick, n, k, scheme, weights)]
        cases.append(case(n, k, scheme, act, out, sorted({pick.randint(1, 20), pick.randint(1, 300)}), weights, steps, operands, kernels))
    return cases


def cases_of(name, chip="sm_90a"):
    name, *numbers = name.split(":")
    if name == "smoke":
        return [case(192, 576), case(17, 172), case(1000, 1000, act="bf16"), case(192, 576, STANDARDS["AWQ"])]
    if name == "layers":
        return [
            *(case(192, 576, scheme, act) for scheme in STANDARDS.values() for act in ("f16", "bf16")),
            *(case(n, k, scheme) for n, k in ((17, 172), (1000, 1000)) for scheme in (G128, "uint3, block = [1, 24], scale = bf16, zero = f16, rule = minmax", "int8, block = [-1, 1], scale = f32", "f8E5M2, block = [1, 32], scale = f8E4M3FN")),
        ]
    if name == "shapes":
        return [case(n, k) for n in EXTENTS for k in EXTENTS]
    if name == "schemes":
        return schemes_matrix(chip)
    if name == "epilogues":
        return epilogues_matrix(chip)
    if name == "wide":
        return wide_matrix()
    if name == "random":
        return random_matrix(*[int(number) for number in numbers] + [200, 1][len(numbers) :])
    if name == "bench-short":
        return [case(4096, 4096, m=[1, 16, 64, 256, 1024]), case(1280, 8192, m=[1, 16, 64, 256, 1024])]
    if name == "bench":
        return [case(n, k, m=[1, 16, 64, 256, 1024, 4096]) for n, k in BENCH]
    raise SystemExit(f"expected smoke, layers, shapes, schemes, epilogues, wide, random, bench or bench-short but got '{name}'")


# ---------------------------------------------------------------------------
# Modules
# ---------------------------------------------------------------------------


class Body:
    """Lines of an epilogue, in f32."""

    def __init__(self):
        self.lines, self.count = [], 0

    def op(self, text, kind="f32"):
        self.count += 1
        self.lines.append(f"    %v{self.count} = {text} : {kind}")
        return f"%v{self.count}"

    def constant(self, value):
        return self.op(f"arith.constant {value:.9e}")

    def binary(self, name, a, b):
        return self.op(f"{name} {a}, {b}")

    def activation(self, name, x):
        one = self.constant(1)
        if name == "silu":
            exp = self.op(f"math.exp {self.op(f'arith.negf {x}')}")
            return self.binary("arith.divf", x, self.binary("arith.addf", exp, one))
        if name == "relu":
            zero = self.constant(0)
            return self.op(f"arith.select {self.op(f'arith.cmpf olt, {x}, {zero}')}, {zero}, {x}")
        if name == "gelu":
            inner = self.op(f"math.erf {self.binary('arith.mulf', x, self.constant(0.5**0.5))}")
        else:
            cube = self.binary("arith.mulf", x, self.binary("arith.mulf", x, x))
            sum_ = self.binary("arith.addf", x, self.binary("arith.mulf", cube, self.constant(0.044715)))
            inner = self.op(f"math.tanh {self.binary('arith.mulf', sum_, self.constant(0.7978845608))}")
        half = self.binary("arith.mulf", x, self.constant(0.5))
        return self.binary("arith.mulf", half, self.binary("arith.addf", inner, one))

    def user(self, x):
        """min(x, 2) + sqrt(|x|) * tanh(x): what harness.py has under this name."""
        root = self.op(f"math.sqrt {self.op(f'math.absf {x}')}")
        product = self.binary("arith.mulf", root, self.op(f"math.tanh {x}"))
        return self.binary("arith.addf", self.binary("arith.minimumf", x, self.constant(2)), product)


def function(index, given):
    n, k = given["n"], given["k"]
    weight = f"!quant_llm.weight<{n}x{k}x{given['act']}, #quant_llm.scheme<{given['scheme'].replace('= scheme<', '= #quant_llm.scheme<')}>>"
    x, y = f"tensor<?x{k}x{given['act']}>", f"tensor<?x{n}x{given['out']}>"
    operands = [(f"%e{i}", f"tensor<?x{n}x{kind}>" if per_element else f"tensor<{n}x{kind}>", kind) for i, (kind, per_element) in enumerate(given["operands"])]
    weights = [f"%w{i}" for i in range(given["weights"])]
    arguments = [f"%x: {x}"] + [f"{name}: {weight}" for name in weights] + [f"{name}: {kind}" for name, kind, _ in operands]
    attributes = f" {{kernels = [{', '.join(given['kernels'])}]}}" if given["kernels"] else ""
    epilogue = ""
    if given["steps"]:
        body = Body()
        left = [(f"%o{i}", kind) for i, (_, _, kind) in enumerate(operands)]
        value = "%a0"
        for step in given["steps"]:
            if step in ("bias", "residual", "mul"):
                name, kind = left.pop(0)
                operand = name if kind == "f32" else body.op(f"arith.extf {name}", f"{kind} to f32")
                value = body.binary("arith.mulf" if step == "mul" else "arith.addf", value, operand)
            elif step.startswith("gate_"):
                value = body.binary("arith.mulf", body.activation(step[len("gate_") :], value), "%a1")
            elif step.startswith("scale:"):
                value = body.binary("arith.mulf", value, body.constant(float(step[len("scale:") :])))
            elif step == "user":
                value = body.user(value)
            else:
                value = body.activation(step, value)
        if given["out"] != "f32":
            value = body.op(f"arith.truncf {value}", f"f32 to {given['out']}")
        block = [f"%a{i}: f32" for i in range(given["weights"])] + [f"%o{i}: {kind}" for i, (_, _, kind) in enumerate(operands)]
        given_operands = f"({', '.join(name for name, _, _ in operands)} : {', '.join(kind for _, kind, _ in operands)})" if operands else ""
        epilogue = f" epilogue{given_operands} {{\n  ^bb0({', '.join(block)}):\n" + "\n".join(body.lines) + f"\n    quant_llm.yield {value} : {given['out']}\n  }}"
    types = ", ".join([x] + [weight] * given["weights"])
    return f"func.func @case{index}({', '.join(arguments)}) -> {y} {{\n  %y = quant_llm.linear %x, {', '.join(weights)}{attributes}{epilogue} : ({types}) -> {y}\n  return %y : {y}\n}}\n"


def buildable(cases, quant_opt, chip, directory):
    """The cases whose kernels quant-opt accepts, and its reasons against the others. It always finds kernels where none are given."""
    asked = [(index, given) for index, given in enumerate(cases) if given["kernels"]]
    source = os.path.join(directory, "candidates.mlir")
    with open(source, "w") as file:
        file.write("// -----\n".join(function(index, given) for index, given in asked))
    result = subprocess.run([quant_opt, source, "-split-input-file", f"-quant-llm-select-kernels=chip={chip}"], capture_output=True, text=True)
    if result.returncode < 0:
        raise SystemExit(f"{quant_opt} ended with {result.returncode}: {result.stderr}")
    found = {int(index) for index in re.findall(r"func\.func @case(\d+)\(", result.stdout)}
    kept = [given for index, given in enumerate(cases) if index in found or not given["kernels"]]
    return kept, re.findall(r"error: (.*)", result.stderr)


def compile_cases(cases, quant_opt, chip, form, output, per_module, jobs):
    """Writes output/0, output/1, ..., and returns how many."""
    os.makedirs(output, exist_ok=True)
    chunks = [cases[i : i + per_module] for i in range(0, len(cases), per_module)]

    def build(index):
        directory = os.path.join(output, str(index))
        os.makedirs(directory, exist_ok=True)
        source = os.path.join(directory, "model.mlir")
        with open(source, "w") as file:
            file.write("".join(function(i, given) for i, given in enumerate(chunks[index])))
        pipeline = f"builtin.module(quant-llm-to-gpu{{chip={chip} format={form} output={directory}}})"
        result = subprocess.run([quant_opt, source, f"--pass-pipeline={pipeline}", "-o", os.devnull], capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{source} cannot be compiled: {result.stderr}")
        with open(os.path.join(directory, "cases.json"), "w") as file:
            json.dump(chunks[index], file)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(build, range(len(chunks))))
    return len(chunks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["cases", "layers", "compile"])
    parser.add_argument("name", help="of the matrix, or a JSON file of cases")
    parser.add_argument("directory", nargs="?", help="where to compile to")
    parser.add_argument("--quant-opt", default="quant-opt")
    parser.add_argument("--chip", default="sm_90a")
    parser.add_argument("--format", default="cubin", choices=["cubin", "ptx"], help="of the kernels (default: cubin; ptx if they are assembled elsewhere)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--per-module", type=int, default=8, help="cases in a module (default: %(default)s)")
    options = parser.parse_args()
    if options.name.endswith(".json"):
        with open(options.name) as file:
            cases = json.load(file)
    else:
        cases = cases_of(options.name, options.chip)
    if options.action == "cases":
        json.dump(cases, sys.stdout, indent=1)
        return
    if not options.directory:
        parser.error(f"expected a directory for {options.action}")
    if options.action == "layers":
        for index, given in enumerate(cases):
            with open(os.path.join(options.directory, f"{index}.json"), "w") as file:
                json.dump([{key: given[key] for key in ("n", "k", "scheme", "act", "m")}], file)
    else:
        os.makedirs(options.directory, exist_ok=True)
        kept, reasons = buildable(cases, options.quant_opt, options.chip, options.directory)
        count = compile_cases(kept, options.quant_opt, options.chip, options.format, options.directory, options.per_module, options.jobs)
        print(f"{options.name}: {len(kept)} cases in {count} modules, {len(cases) - len(kept)} that cannot be built")
        for reason in sorted(set(reasons)):
            print(f"  {reason}")


if __name__ == "__main__":
    main()
