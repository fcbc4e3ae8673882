# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels wait (griddepcontrol.wait) before they touch what is not a weight: overlap.py DIR...

Reads the manifest and the PTX of each directory. On every path from the entry of a kernel with `dependent_launch`, each access of global memory at an
address that is computed from an argument that is not a weight comes after a wait; so does each at an address that none of the arguments is in.
A wait that is jumped over counts: the wait of the first tile, which a loop has inside. Whether its condition holds the first time shows on a GPU
only (docs/GPURuntime.md). Prints what is found of each kernel, and how many of its waits there have to be: without one of them this must find an
access, or else it finds nothing.
"""

import json
import os
import re
import sys

WAIT = "griddepcontrol.wait"
CONSTANT = re.compile(r"(packed|packed_scales|packed_zeros|output_scale)\d+|m|table")
ACCESS = re.compile(r"(ld|st|red|atom|cp\.async|cp\.reduce|prefetch)\b")
REGISTER = re.compile(r"%(?:r|rd|rs|f|fd|p)\d+")


def entries(text):
    """{name: lines of the body}."""
    result = {}
    for part in text.split(".visible .entry ")[1:]:
        lines = [re.sub(r"//.*", "", line).strip().rstrip(";") for line in part[part.index("\n{") :].split("\n")]
        # Braces are scopes of inline assembly.
        result[re.match(r"\w+", part)[0]] = [line for line in lines if line not in ("", "{", "}") and not line.startswith(".")]
    return result


def blocks_of(lines):
    """[(lines, following blocks)]. Blocks end at labels and jumps."""
    blocks, labels, current = [], {}, []
    for line in lines:
        label = re.fullmatch(r"(\$\w+):", line)
        if label:
            if current:
                blocks.append(current)
            current = []
            labels[label[1]] = len(blocks)
        elif re.match(r"(@!?%p\d+\s+)?(bra|ret|exit|brx|trap)\b", line):
            blocks.append(current + [line])
            current = []
        else:
            current.append(line)
    blocks.append(current)
    follows = []
    for i, block in enumerate(blocks):
        last = block[-1] if block else ""
        jump = re.match(r"(@!?%p\d+\s+)?bra(\.uni)?\s+(\$\w+)", last)
        if re.match(r"(@!?%p\d+\s+)?brx", last) or (re.match(r"(@!?%p\d+\s+)?bra\b", last) and not (jump and jump[3] in labels)):
            raise ValueError(f"no idea where this goes: {last}")
        ends = not last.startswith("@") and re.match(r"(bra|ret|exit|trap)\b", last)
        follows.append(([labels[jump[3]]] if jump else []) + ([] if ends or i + 1 == len(blocks) else [i + 1]))
    return list(zip(blocks, follows))


def sources_of(lines, arguments):
    """{register: names of the arguments that its value is computed from}; what is loaded from memory is not computed from its address."""
    sources = {}
    rules = []
    for line in lines:
        line = re.sub(r"^@!?%p\d+\s+", "", line)
        opcode, _, operands = line.partition(" " if "\t" not in line else "\t")
        names = {arguments[int(index)] for index in re.findall(r"\w+_param_(\d+)", operands)}
        # Of the values of codes, in the machine code.
        names |= {"table"} if re.search(r"\w_table\b", operands) else set()
        if opcode.startswith(("ld", "atom", "shfl", "ldmatrix", "mma", "wgmma", "setp", "elect")) and not opcode.startswith("ld.param"):
            continue
        registers = REGISTER.findall(operands)
        if registers:
            rules.append((registers[0], names, registers[1:]))
    changed = True
    while changed:
        changed = False
        for target, names, registers in rules:
            found = set(names).union(*(sources.get(register, ()) for register in registers))
            if not found <= sources.setdefault(target, set()):
                sources[target] |= found
                changed = True
    return sources


def accesses(line, sources):
    """The arguments (None: of no argument) whose memory a line may touch; nothing if it touches no global memory."""
    line = re.sub(r"^@!?%p\d+\s+", "", line)
    opcode, _, operands = line.partition(" " if "\t" not in line else "\t")
    if not ACCESS.match(opcode) or ".param" in opcode or opcode.startswith("prefetch.tensormap") or "commit_group" in opcode or "wait_group" in opcode or "mbarrier" in opcode.split(".")[2:3]:
        return set()
    if re.match(r"(ld|st|red|atom)\b", opcode) and ".shared" in opcode:
        return set()
    addresses = re.findall(r"\[([^\]]*)\]", operands)
    # From global to shared memory, or the other way.
    if opcode.startswith("cp.async"):
        addresses = addresses[:1] if ".global.shared" in opcode else addresses[1:2]
    result = set()
    for address in addresses:
        address = address.split(",")[0]
        if not address.startswith("%"):
            # A table of the module, by name.
            continue
        found = {name for register in REGISTER.findall(address) for name in sources.get(register, ())} - {"m"}
        result |= found or {None}
    return result


def unwaited(lines, arguments):
    """[(line, argument)] of what may be touched before the wait, and what is touched after it."""
    sources = sources_of(lines, arguments)
    graph = blocks_of(lines)
    if conditional := [line for line in lines if "griddepcontrol.wait" in line and line != WAIT]:
        raise ValueError(f"no idea who waits: {conditional[0]}")
    reached, before = {0}, [0]
    while before:
        new = set(graph[before.pop()][1]) - reached
        reached |= new
        before += new
    if unreached := [block for i, (block, _) in enumerate(graph) if i not in reached and block]:
        raise ValueError(f"no idea how to get to: {unreached[0][0]}")
    waits = [WAIT in block for block, _ in graph]
    early, before = {0}, [0]
    while before:
        block = before.pop()
        if waits[block]:
            continue
        following = graph[block][1]
        # Jumps over a block that does nothing but wait.
        if len(following) == 2 and any([line for line in graph[other][0] if not line.startswith("bra")] == [WAIT] and graph[other][1] == [next_] for other, next_ in (following, following[::-1])):
            continue
        for other in following:
            if other not in early:
                early.add(other)
                before.append(other)
    wrong, after = [], set()
    for i, (block, _) in enumerate(graph):
        waited = i not in early
        for line in block:
            waited |= line == WAIT
            for name in accesses(line, sources):
                if name is None or not CONSTANT.fullmatch(name):
                    if not waited:
                        wrong.append((line, name))
                    after.add(name)
    return wrong, after


def check(directory):
    with open(os.path.join(directory, "manifest.json")) as file:
        kernels = json.load(file)["kernels"]
    bodies, failed = {}, False
    kernels = [kernel for kernel in kernels if kernel.get("dependent_launch")]
    if not kernels:
        print(f"{directory}: expected a kernel whose launches overlap")
        failed = True
    for kernel in kernels:
        path = os.path.join(directory, os.path.splitext(kernel["file"])[0] + ".ptx")
        if path not in bodies:
            with open(path) as file:
                bodies[path] = entries(file.read())
        lines = bodies[path][kernel["name"]]
        wrong, after = unwaited(lines, kernel["args"])
        for line, name in wrong:
            print(f"{kernel['name']}: before it waits it touches what {name or 'no argument'} points to: {line}")
        # Whatever a kernel is given it uses, or this has not understood the PTX.
        missing = {name for name in kernel["args"] if not CONSTANT.fullmatch(name)} - after
        if missing:
            print(f"{kernel['name']}: found no access of {', '.join(sorted(missing))}")
        waits = [i for i, line in enumerate(lines) if line == WAIT]
        needed = [bool(unwaited(lines[:i] + lines[i + 1 :], kernel["args"])[0]) for i in waits]
        if not wrong and not all(needed):
            print(f"{kernel['name']}: nothing is found without wait {needed.index(False)} of {len(waits)}")
        failed |= bool(wrong or missing or not all(needed))
        if not wrong and not missing:
            print(f"{kernel['name']}: {len(waits)} waits before {', '.join(sorted(str(name) for name in after))}")
    return failed


if __name__ == "__main__":
    sys.exit(len(sys.argv) < 2 or any([check(directory) for directory in sys.argv[1:]]))
