# REQUIRES: ptxas
# RUN: %python %s %t | FileCheck %s
# CHECK: all kernels are within their budgets
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Assembles every kernel that is chosen for some linears on some chips and compares what ptxas reports with budgets: no spills, no stack
(but for 8 bytes that tensor copies need on sm_120a), registers of the family. Prints a line for each kernel."""

import json
import pathlib
import subprocess
import sys

CHIPS = ["sm_80", "sm_90a", "sm_120a"]
SCHEMES = {
    "int4-g128": ("f16", "int4, block = [1, 128], scale = f16"),
    "uint4-g64-zero": ("bf16", "uint4, block = [1, 64], scale = bf16, zero = int, rule = minmax"),
    "int8-channel": ("f16", "int8, block = [1, -1], scale = f32"),
    "mxfp4": ("bf16", "f4E2M1FN, block = [1, 32], scale = f8E8M0FNU"),
    "nf4-g64": ("f16", "nf4, block = [1, 64], scale = f16"),
}
# Name, rows, columns and scheme; the first has a gated pair with a residual, too.
CASES = [(name, 4096, 4096, name) for name in SCHEMES] + [("odd", 1000, 172, "int4-g128")]
# Registers of a thread: what a kernel has now, and some room.
BUDGETS = {"few_tokens": 232, "multistage": 232, "wgmma": 255}


def linear(name, n, k, scheme):
    kind, text = SCHEMES[scheme]
    weight = f"!quant_llm.weight<{n}x{k}x{kind}, #quant_llm.scheme<{text}>>"
    x, y = f"tensor<?x{k}x{kind}>", f"tensor<?x{n}x{kind}>"
    return f"""
func.func @{name.replace("-", "_")}(%x: {x}, %w: {weight}) -> {y} {{
  %y = quant_llm.linear %x, %w : ({x}, {weight}) -> {y}
  return %y : {y}
}}"""


GATED = """
!weight = !quant_llm.weight<4096x4096xf16, #quant_llm.scheme<int4, block = [1, 128], scale = f16>>
func.func @gated(%x: tensor<?x4096xf16>, %g: !weight, %u: !weight, %r: tensor<?x4096xf16>) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %g, %u epilogue(%r : tensor<?x4096xf16>) {
  ^bb0(%a: f32, %b: f32, %c: f16):
    %one = arith.constant 1.0 : f32
    %0 = arith.negf %a : f32
    %1 = math.exp %0 : f32
    %2 = arith.addf %1, %one : f32
    %3 = arith.divf %a, %2 : f32
    %4 = arith.mulf %3, %b : f32
    %5 = arith.extf %c : f16 to f32
    %6 = arith.addf %4, %5 : f32
    %7 = arith.truncf %6 : f32 to f16
    quant_llm.yield %7 : f16
  } : (tensor<?x4096xf16>, !weight, !weight) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}"""


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / "linears.mlir"
    source.write_text(GATED + "".join(linear(*case) for case in CASES))
    over = 0
    for chip in CHIPS:
        output = directory / chip
        pipeline = f"builtin.module(quant-llm-to-gpu{{chip={chip} format=cubin output={output}}})"
        subprocess.run(["quant-opt", str(source), f"--pass-pipeline={pipeline}", "-o", str(directory / f"{chip}.mlir")], check=True)
        for kernel in json.loads((output / "manifest.json").read_text())["kernels"]:
            resources = kernel["resources"]
            family = next(family for family in BUDGETS if f"_{family}_" in kernel["name"])
            faults = []
            allowed_stack = 8 if chip == "sm_120a" and family == "few_tokens" else 0
            if resources["spill_bytes"] or resources["stack_bytes"] > allowed_stack:
                faults.append("expected no spills and no stack")
            if resources["registers"] > BUDGETS[family]:
                faults.append(f"expected at most {BUDGETS[family]} registers")
            if resources["registers"] * kernel["threads"] * kernel["ctas_per_sm"] > 65536:
                faults.append(f"expected registers for {kernel['ctas_per_sm']} CTAs on a multiprocessor")
            over += bool(faults)
            numbers = f"{resources['registers']} registers, {resources['spill_bytes']} spilled, {resources['stack_bytes']} stack, {kernel['shared_bytes']} shared"
            print(f"{chip} {kernel['name']}: {numbers} {'; '.join(faults)}")
    print(f"{over} kernels are over their budgets" if over else "all kernels are within their budgets")


main()
