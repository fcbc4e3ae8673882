# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles grouped linears for check_grouped.py: one artifact per case, without weights.

    make_grouped.py smoke|bench DIRECTORY [--opt quant-opt] [--chip sm_90a]
"""

import argparse
import json
import os
import subprocess
import sys

G128 = "int4, block = [1, 128], scale = f16"
ELEMENT = {"f16": 16, "bf16": 16, "f32": 32}

# The families by hand: 64 tokens or fewer, up to 256, and more, all experts together.
FEW = "few_tokens, tokens = [1, {}], row_tile = 32, token_tile = 8, stage_k = 256, stages = 3, warps_rows = 2, warps_k = 2, split = {}, copy = tensor"
MULTI = "multistage, tokens = [{}, {}], row_tile = 64, token_tile = 16, stage_k = 128, stages = 3, warps_rows = 4, warps_k = 1, copy = {}"
WGMMA = "wgmma, tokens = [{}, *], row_tile = 64, token_tile = 32, stage_k = 64, stages = 4, warps_rows = 1, warps_k = {}, split = {}, copy = tensor"


def kernels(split, wgmma=True, parts=1):
    result = [FEW.format(64, split), MULTI.format(65, 256 if wgmma else "*", "async16")]
    return result + ([WGMMA.format(257, parts, split)] if wgmma else [])


def case(name, experts, n, k, scheme=G128, act="f16", out=None, steps="", offsets="i32", configs=None, loop=False):
    return {"name": name, "experts": experts, "n": n, "k": k, "scheme": scheme, "act": act, "out": out or act, "steps": steps, "offsets": offsets, "kernels": configs, "loop": loop}


def cases(name):
    if name == "bench":
        return [case("up8", 8, 14336, 4096, loop=True), case("down8", 8, 4096, 14336, loop=True), case("up64", 64, 1408, 2048, loop=True)]
    return [
        case("one", 1, 192, 512, configs=kernels(1)),
        case("eight", 8, 192, 576, configs=kernels(2)),
        # Experts that begin inside of strips; rows of x that are no multiple of 16 bytes.
        case("odd", 4, 17, 172, configs=[MULTI.format(1, "*", "element")]),
        case("sixty", 60, 40, 512, act="bf16", configs=kernels(1, wgmma=False)),
        case("channels", 64, 64, 256, "int8, block = [1, -1], scale = f16", offsets="i64", configs=kernels(1)),
        case("zeros", 128, 64, 256, "uint4, block = [1, 64], scale = f16, zero = int, rule = minmax", configs=kernels(1)),
        case("many", 300, 24, 128, "int4, block = [1, 32], scale = f32", out="f32", configs=[MULTI.format(1, "*", "async16")]),
        case("gated", 8, 128, 512, steps="gate_silu", configs=kernels(1)),
        case("bias", 5, 192, 512, steps="bias,silu", configs=kernels(2, parts=2)),
        case("nvfp4", 6, 128, 512, "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, -1], scale = f32>", configs=kernels(1)),
        # What quant-llm-select-kernels chooses.
        case("chosen", 8, 320, 512, act="bf16", out="f32"),
    ]


def epilogue(case):
    """The region, and the types of its operands."""
    steps = [step for step in case["steps"].split(",") if step]
    if not steps:
        return "", []
    rows, out = case["experts"] * case["n"], case["out"]
    gated, lines, arguments, types = "gate_silu" in steps, [], ["%acc: f32"], []
    value = "%acc"
    if gated:
        arguments.append("%up: f32")

    def define(text):
        nonlocal value
        value = f"%v{len(lines)}"
        lines.append(f"    {value} = {text}")
        return value

    for step in steps:
        if step == "bias":
            arguments.append("%bias: f32")
            types.append(f"tensor<{rows}xf32>")
            define(f"arith.addf {value}, %bias : f32")
        else:
            before = value
            one = define("arith.constant 1.0 : f32")
            negative = define(f"arith.negf {before} : f32")
            exponential = define(f"math.exp {negative} : f32")
            total = define(f"arith.addf {one}, {exponential} : f32")
            define(f"arith.divf {before}, {total} : f32")
            if step == "gate_silu":
                define(f"arith.mulf {value}, %up : f32")
    if out != "f32":
        define(f"arith.truncf {value} : f32 to {out}")
    operands = f"(%b0 : {types[0]})" if types else ""
    body = "\n".join([f"  ^bb0({', '.join(arguments)}):"] + lines + [f"    quant_llm.yield {value} : {out}"])
    return f" epilogue{operands} {{\n{body}\n  }}", types


def module(case, loop):
    experts, n, k = case["experts"], case["n"], case["k"]
    scheme = f"#quant_llm.scheme<{case['scheme'].replace('scheme<', '#quant_llm.scheme<')}>"
    rows = n if loop else experts * n
    weight = f"!quant_llm.weight<{rows}x{k}xf16, #s, #quant_llm.fragment_layout>"
    x, y = f"tensor<?x{k}x{case['act']}>", f"tensor<?x{n}x{case['out']}>"
    count = experts if loop else (2 if "gate" in case["steps"] else 1)
    lines = [f"#s = {scheme}", 'quant_llm.archive @packed "packed.safetensors"']
    lines += [f"quant_llm.parameter @w{i} from @packed : {weight}" for i in range(count)]
    gets = [f"  %w{i} = quant_llm.get_parameter @w{i} : {weight}" for i in range(count)]
    if loop:
        lines += [f"func.func @main(%x: {x}) -> ({', '.join([y] * count)}) {{", *gets]
        lines += [f"  %y{i} = quant_llm.linear %x, %w{i} : ({x}, {weight}) -> {y}" for i in range(count)]
        results = ", ".join(f"%y{i}" for i in range(count))
        return "\n".join(lines + [f"  return {results} : {', '.join([y] * count)}", "}", ""])
    region, types = epilogue(case)
    offsets = f"tensor<{experts + 1}x{case['offsets']}>"
    attributes = ""
    if case["kernels"]:
        attributes = " {kernels = [" + ", ".join(f"#quant_llm.kernel_config<{config}>" for config in case["kernels"]) + "]}"
    arguments = "".join(f", %b{i}: {kind}" for i, kind in enumerate(types))
    weights = ", ".join(f"%w{i}" for i in range(count))
    lines += [f"func.func @main(%x: {x}, %o: {offsets}{arguments}) -> {y} {{", *gets]
    lines.append(f"  %y = quant_llm.grouped_linear %x, {weights} offsets(%o : {offsets}){attributes}{region} : ({x}, {', '.join([weight] * count)}) -> {y}")
    return "\n".join(lines + [f"  return %y : {y}", "}", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["smoke", "bench"])
    parser.add_argument("directory")
    parser.add_argument("--opt", default="quant-opt")
    parser.add_argument("--chip", default="sm_90a")
    options = parser.parse_args()
    for entry in cases(options.name):
        for loop in [False] + [True] * entry["loop"]:
            directory = os.path.join(options.directory, entry["name"] + ("-loop" if loop else ""))
            os.makedirs(directory, exist_ok=True)
            path = os.path.join(directory, "module.mlir")
            with open(path, "w") as file:
                file.write(module(entry, loop))
            with open(os.path.join(directory, "case.json"), "w") as file:
                json.dump(entry, file)
            command = [options.opt, path, f"--quant-llm-to-gpu=chip={options.chip} output={directory}", "-o", os.devnull]
            if subprocess.run(command).returncode:
                print(f"cannot compile {path}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
