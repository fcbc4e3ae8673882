# REQUIRES: ptxas
# RUN: %python %s %t | FileCheck %s
# CHECK: all {{[1-9][0-9]+}} kernels are within their budgets
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Assembles kernels for some chips and compares what ptxas reports with budgets: no spills, no stack (but for 8 bytes that tensor copies need
on sm_120a), registers and shared memory of the family. Prints a line for each kernel.

    budgets.py DIR                                 the kernels that are chosen for some linears, and every family with some schemes
    budgets.py DIR --matrix schemes epilogues wide shapes random [--chips sm_80]     all kernels of matrices of the GPU checks
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Integration" / "CUDA"))
import matrix  # noqa: E402

CHIPS = ["sm_80", "sm_90a", "sm_120a"]
# Registers of a thread: what a kernel has now, and some room.
REGISTERS = {"few_tokens": 232, "multistage": 232, "wgmma": 255}
# Bytes that a CTA can have.
SHARED = {"sm_80": 163 * 1024, "sm_90a": 227 * 1024, "sm_120a": 99 * 1024}
GATED = (2, ["gate_silu", "residual"], [("f16", True)])


def some_cases(chip):
    """What is representative and takes less than a minute on all chips: the kernels chosen for large layers, and small ones of other schemes."""
    cases = [matrix.case(4096, 4096), matrix.case(4096, 4096, matrix.G128, "f16", "f16", matrix.TOKENS, *GATED), matrix.case(1000, 172)]
    cases.append(matrix.case(4096, 4096, "uint4, block = [1, 64], scale = bf16, zero = int, rule = minmax", "bf16"))
    for scheme in (
        *matrix.STANDARDS.values(),
        "int8, block = [1, -1], scale = f32",
        "int8, block = [-1, 1], scale = f32",
        "uint3, block = [1, 24], scale = bf16, zero = f16, rule = minmax",
        f"{matrix.CODEBOOK256}, block = [16, 32], scale = f16",
        "f8E5M2, block = [1, 32], scale = f8E4M3FN",
    ):
        cases.append(matrix.case(80, 576, scheme, "bf16", "f32", kernels=matrix.families(576, scheme, chip)[0]))
    # Scales and zeros of two numbers.
    scheme = "uint7, block = [-1, -1], scale = f32, zero = f32, rule = minmax"
    cases.append(matrix.case(130, 264, scheme, "bf16", kernels=matrix.families(264, scheme, chip)[0]))
    if chip == "sm_90a":
        # Long epilogues beside as many sums as there can be.
        gated, user = (matrix.config("wgmma", 1, None, rows, 128, 64, stages, rows // 64, 1, "tensor") for rows, stages in ((128, 6), (192, 8)))
        cases.append(matrix.case(1536, 576, matrix.G128, "f16", "bf16", weights=2, steps=["gate_gelu", "scale:0.5"], kernels=[gated]))
        cases.append(matrix.case(1536, 576, matrix.G128, "bf16", steps=["user"], kernels=[user]))
    return cases


def check(chip, kernel):
    """A line about the kernel, and whether it is within its budgets."""
    resources = kernel["resources"]
    family = next(family for family in REGISTERS if f"_{family}_" in kernel["name"])
    faults = []
    allowed_stack = 8 if chip == "sm_120a" and family == "few_tokens" else 0
    if resources["spill_bytes"] or resources["stack_bytes"] > allowed_stack:
        faults.append("expected no spills and no stack")
    if resources["registers"] > REGISTERS[family]:
        faults.append(f"expected at most {REGISTERS[family]} registers")
    if resources["registers"] * kernel["threads"] * kernel["ctas_per_sm"] > 65536:
        faults.append(f"expected registers for {kernel['ctas_per_sm']} CTAs on a multiprocessor")
    if kernel["shared_bytes"] + resources["static_shared_bytes"] > SHARED[chip]:
        faults.append(f"expected at most {SHARED[chip]} bytes of shared memory")
    numbers = f"{resources['registers']} registers, {resources['spill_bytes']} spilled, {resources['stack_bytes']} stack, {kernel['shared_bytes']} shared"
    return f"{chip} {kernel['name']}: {numbers} {'; '.join(faults)}", not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--matrix", nargs="+", help="names of test/Integration/CUDA/matrix.py")
    parser.add_argument("--chips", nargs="+", default=CHIPS, choices=CHIPS)
    parser.add_argument("--quant-opt", default="quant-opt")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    over = count = 0
    for chip in options.chips:
        for name in options.matrix or ["some"]:
            cases = some_cases(chip) if name == "some" else matrix.cases_of(name, chip)
            output = options.directory / chip / name.replace(":", "-")
            os.makedirs(output, exist_ok=True)
            cases, _ = matrix.buildable(cases, options.quant_opt, chip, str(output))
            modules = matrix.compile_cases(cases, options.quant_opt, chip, "cubin", str(output), 8, options.jobs)
            for module in range(modules):
                for kernel in json.loads((output / str(module) / "manifest.json").read_text())["kernels"]:
                    line, within = check(chip, kernel)
                    print(line)
                    over += not within
                    count += 1
    print(f"{over} kernels of {count} are over their budgets" if over else f"all {count} kernels are within their budgets")


main()
