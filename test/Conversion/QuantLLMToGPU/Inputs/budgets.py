# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels of the GPU checks within their budgets: no spills, no stack (but for 8 bytes that tensor copies need on sm_120a), registers and
shared memory of the family. Prints a line for each kernel, or for each module of some cases that is on record.

    budgets.py DIR [--chips sm_80]             representative kernels are assembled; of all matrices, those that are not on record
    budgets.py DIR --all                       everything is assembled, whatever is on record
    budgets.py DIR [--all] --update            and the record written again, if all are within their budgets

budgets.txt is the record of what assembling gave: of a module by the hash of the kernels that the generator makes of it (gpu.func, of which
machine code is a function). That what comes after the generator, and LLVM and ptxas, are those of the record is seen from their versions and
the machine code of the representative kernels (docs/Decisions/0012-budgets-are-on-record.md)."""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "Integration" / "CUDA"))
import make_grouped  # noqa: E402
import matrix  # noqa: E402

RECORD = pathlib.Path(__file__).with_name("budgets.txt")
CHIPS = ["sm_80", "sm_90a", "sm_120a"]
MATRICES = ["schemes", "epilogues", "wide", "shapes", "random:300:1", "smoke", "layers", "bench-short", "grouped"]
# Registers of a thread: what a kernel has now, and some room. Of multistage it is a random configuration of sm_90a with 252 that has most (824 x 1664
# uint4, 256 x 64), of those that are chosen one with 241.
REGISTERS = {"few_tokens": 232, "multistage": 252, "wgmma": 255}
# Bytes that a CTA can have.
SHARED = {"sm_80": 163 * 1024, "sm_90a": 227 * 1024, "sm_120a": 99 * 1024}
GATED = (2, ["gate_silu", "residual"], [("f16", True)])
REPRESENTATIVE = "representative"


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
        # Parts of tiles, of which the last has not all rows.
        ragged = matrix.config("wgmma", 1, None, 256, 128, 64, 8, 2, 1, "tensor", split="stream_k")
        cases.append(matrix.case(10944, 4096, kernels=[ragged]))
    return cases


def modules_of(name, chip, quant_opt, directory, per_module=8):
    """The text of modules with the cases of a matrix that have kernels on the chip."""
    if name == "grouped":
        cases = make_grouped.cases("smoke")
        # Configurations by hand are for sm_90a; elsewhere kernels are chosen.
        return [make_grouped.module(case if chip == "sm_90a" else {**case, "kernels": None}, False) for case in cases]
    cases = some_cases(chip) if name == REPRESENTATIVE else matrix.cases_of(name, chip)
    cases, _ = matrix.buildable(cases, quant_opt, chip, str(directory))
    return ["".join(matrix.function(i, case) for i, case in enumerate(cases[first : first + per_module])) for first in range(0, len(cases), per_module)]


def check(chip, kernel):
    """What is over its budget, of a kernel of a manifest."""
    resources = kernel["resources"]
    faults = []
    allowed_stack = 8 if chip == "sm_120a" and family_of(kernel) == "few_tokens" else 0
    if resources["spill_bytes"] or resources["stack_bytes"] > allowed_stack:
        faults.append("expected no spills and no stack")
    if resources["registers"] > REGISTERS[family_of(kernel)]:
        faults.append(f"expected at most {REGISTERS[family_of(kernel)]} registers")
    if resources["registers"] * kernel["threads"] * kernel["ctas_per_sm"] > 65536:
        faults.append(f"expected registers for {kernel['ctas_per_sm']} CTAs on a multiprocessor")
    if shared_bytes(kernel) > SHARED[chip]:
        faults.append(f"expected at most {SHARED[chip]} bytes of shared memory")
    return faults


def family_of(kernel):
    return next(family for family in REGISTERS if f"_{family}_" in kernel["name"])


def shared_bytes(kernel):
    return kernel["shared_bytes"] + kernel["resources"]["static_shared_bytes"]


def summary(manifest):
    """The line of a module in the record: kernels, most registers of each family, most shared memory."""
    kernels = manifest["kernels"]
    registers = [f"{family}={max(kernel['resources']['registers'] for kernel in kernels if family_of(kernel) == family)}" for family in REGISTERS if any(family_of(kernel) == family for kernel in kernels)]
    return " ".join([f"kernels={len(kernels)}", *registers, f"shared={max(map(shared_bytes, kernels))}", f"stack={max(kernel['resources']['stack_bytes'] for kernel in kernels)}"])


class Module:
    """A module on its way: `key` is the hash of its kernels as the generator makes them."""

    def __init__(self, options, chip, name, index, text):
        self.options, self.chip, self.name, self.index = options, chip, name, index
        self.directory = options.directory / chip / name.replace(":", "-") / str(index)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.source = self.directory / "model.mlir"
        self.source.write_text(text)
        self.lines, self.faults, self.code = [], 0, ""

    def run(self, *arguments):
        result = subprocess.run([self.options.quant_opt, str(self.source), *arguments], capture_output=True)
        if result.returncode:
            raise SystemExit(f"{self.source} cannot be compiled: {result.stderr.decode()}")
        return result.stdout

    def generate(self):
        text = self.run(f"-quant-llm-select-kernels=chip={self.chip}", f"-convert-quant-llm-to-gpu=chip={self.chip}")
        self.key = hashlib.sha256(text).hexdigest()[:20]

    def assemble(self):
        self.run(f"--pass-pipeline=builtin.module(quant-llm-to-gpu{{chip={self.chip} format=cubin output={self.directory}}})", "-o", os.devnull)
        manifest = json.loads((self.directory / "manifest.json").read_text())
        self.count, self.summary = len(manifest["kernels"]), summary(manifest)
        self.code = manifest["kernels"][0]["sha256"][:20]
        for kernel in manifest["kernels"]:
            faults, resources = check(self.chip, kernel), kernel["resources"]
            self.faults += bool(faults)
            numbers = f"{resources['registers']} registers, {resources['spill_bytes']} spilled, {resources['stack_bytes']} stack, {shared_bytes(kernel)} shared"
            self.lines.append(f"{self.chip} {kernel['name']}: {numbers} {'; '.join(faults)}".rstrip())
        # Thousands of kernels are not kept.
        shutil.rmtree(self.directory)

    def recall(self, known):
        self.summary = known
        numbers = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", known)}
        self.count = numbers["kernels"]
        within = numbers["shared"] <= SHARED[self.chip] and all(numbers.get(family, 0) <= most for family, most in REGISTERS.items())
        self.faults += not within
        self.lines.append(f"{self.chip} {self.name}, module {self.index}: on record: {known}{'' if within else ' expected less'}")


def read_record(path):
    """Versions, and {(chip, key): (matrix, code, summary)}."""
    versions, modules = "", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("# made with "):
            versions = line[len("# made with ") :]
        elif line and not line.startswith("#"):
            chip, name, key, code, text = line.split(" ", 4)
            modules[chip, key] = (name, code, text)
    return versions, modules


def current_versions(quant_opt):
    llvm = subprocess.run([quant_opt, "--version"], capture_output=True, text=True).stdout
    # As quant-opt finds it.
    ptxas = os.environ.get("QUANT_LLM_PTXAS") or shutil.which("ptxas") or next(map(str, sorted(pathlib.Path("/usr/local").glob("cuda*/bin/ptxas"))), "")
    if not ptxas:
        packages = pathlib.Path(sys.prefix).glob("lib/python3*/site-packages/nvidia/cu*/bin/ptxas")
        ptxas = next(map(str, packages), "ptxas")
    release = subprocess.run([ptxas, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"LLVM version (\S+)", llvm), re.search(r"V(\d+\.\d+\.\d+)", release)
    return "LLVM {}, ptxas {}".format(*(match[1] if match else "unknown" for match in found))


HEADER = """# What assembling the kernels of the GPU checks gave: chip, matrix, hash of the kernels of a module as the generator makes them, hash of its machine
# code, kernels, most registers of each family, most shared memory and stack in bytes; none of them spills. Written by budgets.py --update.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--chips", nargs="+", default=CHIPS, choices=CHIPS)
    parser.add_argument("--matrices", nargs="*", default=MATRICES, help="beside the representative kernels (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="assemble everything")
    parser.add_argument("--update", action="store_true", help="write the record of these chips and matrices again")
    parser.add_argument("--record", type=pathlib.Path, default=RECORD)
    parser.add_argument("--quant-opt", default="quant-opt")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    versions = current_versions(options.quant_opt)
    recorded_versions, record = read_record(options.record)
    if versions != recorded_versions:
        print(f"the record was made with {recorded_versions or 'nothing'}, not with {versions}: everything is assembled")
    over = count = assembled = 0
    made = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:

        def collect(modules):
            nonlocal over, count, assembled
            for module in modules:
                print("\n".join(module.lines))
                over, count, assembled = over + module.faults, count + module.count, assembled + bool(module.code) * module.count
                recorded = record.get((module.chip, module.key), ("", "", ""))
                made[module.chip, module.key] = (module.name, module.code or recorded[1], module.summary)
            sys.stdout.flush()

        for chip in options.chips:
            known = {} if options.all or versions != recorded_versions else {key: entry for (of, key), entry in record.items() if of == chip}

            def prepare(name):
                directory = options.directory / chip / name.replace(":", "-")
                directory.mkdir(parents=True, exist_ok=True)
                modules = [Module(options, chip, name, i, text) for i, text in enumerate(modules_of(name, chip, options.quant_opt, directory))]
                list(pool.map(Module.generate, modules))
                return modules

            def finish(module):
                if module.key in known:
                    module.recall(known[module.key][2])
                else:
                    module.assemble()

            representative = prepare(REPRESENTATIVE)
            list(pool.map(Module.assemble, representative))
            collect(representative)
            for module in representative:
                if module.key in known and known[module.key][1] != module.code:
                    print(f"{chip}: the same kernels give other machine code than on record: everything is assembled")
                    known = {}
            for name in options.matrices:
                modules = prepare(name)
                list(pool.map(finish, modules))
                collect(modules)
    if over:
        print(f"{over} kernels of {count} are over their budgets")
        return 1
    if options.update:
        names = [REPRESENTATIVE, *options.matrices]
        kept = {key: entry for key, entry in record.items() if key[0] not in options.chips or entry[0] not in names} if versions == recorded_versions else {}
        lines = sorted(f"{chip} {name} {key} {code} {text}" for (chip, key), (name, code, text) in {**kept, **made}.items())
        options.record.write_text(HEADER + f"# made with {versions}\n" + "\n".join(lines) + "\n")
    print(f"all {count} kernels are within their budgets, {assembled} of them assembled now, the others as on record")
    return 0


if __name__ == "__main__":
    sys.exit(main())
