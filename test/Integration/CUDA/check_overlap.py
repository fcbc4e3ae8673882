# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels of all families that overlap, each with the next, through libQuantLLMRuntime on a GPU.

One module has four layers: few_tokens, wgmma and wgmma with stream_k with a residual each, and experts with wgmma. Launches of it, each of which reads what
others wrote, in one stream, in a graph, and in a graph that forks into two streams and joins, give the bits of launches that wait for each other
(see overlap_agrees in harness.py), and those have small errors against float64.

    check_overlap.py compile DIR [--opt quant-opt] [--chip sm_90a]
    check_overlap.py run DIR --library libQuantLLMRuntime.so [--m 1,40,300]
"""

import argparse
import os
import subprocess
import sys

SIZE, EXPERTS = 512, 4
SCHEME = "int4, block = [1, 128], scale = f16"
FAMILIES = [
    "few_tokens, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 256, stages = 3, warps_rows = 1, warps_k = 2, split = 2, copy = tensor",
    "wgmma, tokens = [1, *], row_tile = 64, token_tile = 32, stage_k = 64, stages = 4, warps_rows = 1, warps_k = 1, split = 2, copy = tensor",
    "wgmma, tokens = [1, *], row_tile = 64, token_tile = 32, stage_k = 64, stages = 4, warps_rows = 1, warps_k = 1, split = stream_k, copy = tensor",
]
GROUPED = "wgmma, tokens = [1, *], row_tile = 64, token_tile = 32, stage_k = 64, stages = 4, warps_rows = 1, warps_k = 1, copy = tensor"


def module():
    """The text of the module; weight i is that of layer i."""
    x = f"tensor<?x{SIZE}xf16>"
    types = [f"!quant_llm.weight<{rows}x{SIZE}xf16, #s, #quant_llm.fragment_layout>" for rows in [SIZE] * len(FAMILIES) + [EXPERTS * SIZE]]
    offsets = f"tensor<{EXPERTS + 1}xi32>"
    lines = [f"#s = #quant_llm.scheme<{SCHEME}>", 'quant_llm.archive @packed "packed.safetensors"']
    lines += [f"quant_llm.parameter @w{i} from @packed : {kind}" for i, kind in enumerate(types)]
    for i, config in enumerate(FAMILIES):
        lines += [
            f"func.func @layer{i}(%x: {x}, %r: {x}) -> {x} {{",
            f"  %w = quant_llm.get_parameter @w{i} : {types[i]}",
            f"  %y = quant_llm.linear %x, %w {{kernels = [#quant_llm.kernel_config<{config}>]}} epilogue(%r : {x}) {{",
            "  ^bb0(%sum: f32, %more: f16):",
            "    %wide = arith.extf %more : f16 to f32",
            "    %all = arith.addf %sum, %wide : f32",
            "    %result = arith.truncf %all : f32 to f16",
            "    quant_llm.yield %result : f16",
            f"  }} : ({x}, {types[i]}) -> {x}",
            f"  return %y : {x}",
            "}",
        ]
    lines += [
        f"func.func @experts(%x: {x}, %o: {offsets}) -> {x} {{",
        f"  %w = quant_llm.get_parameter @w{len(FAMILIES)} : {types[-1]}",
        f"  %y = quant_llm.grouped_linear %x, %w offsets(%o : {offsets}) {{kernels = [#quant_llm.kernel_config<{GROUPED}>]}} : ({x}, {types[-1]}) -> {x}",
        f"  return %y : {x}",
        "}",
        "",
    ]
    return "\n".join(lines)


def compile_module(options):
    os.makedirs(options.directory, exist_ok=True)
    path = os.path.join(options.directory, "module.mlir")
    with open(path, "w") as file:
        file.write(module())
    return subprocess.run([options.opt, path, f"--quant-llm-to-gpu=chip={options.chip} output={options.directory}", "-o", os.devnull]).returncode


# Steps of a round: (layer, what it reads as x, as residual or offsets, what it writes). "x", "r" and "o" are written before by the feeder.
LINE = [(0, "x", "r", "y0"), (1, "y0", "x", "y1"), (2, "y1", "y0", "y2"), (3, "y2", "o", "y3"), (0, "y3", "y2", "y4")]
# The second and the third at the same time; what follows needs both.
FORK = [(0, "x", "r", "y0"), [(1, "y0", "x", "y1"), (2, "y0", "r", "y2")], (3, "y2", "o", "y3"), (1, "y1", "y3", "y4")]


def flat(steps):
    return [step for entry in steps for step in (entry if isinstance(entry, list) else [entry])]


class Overlap:
    def __init__(self, options):
        import torch

        import check_grouped
        import harness
        import schemes

        self.torch, self.harness = torch, harness
        harness.start()
        scheme = schemes.Scheme.parse(SCHEME)
        generator = torch.Generator(device="cuda").manual_seed(options.seed)
        weights = [schemes.random_weight(rows, SIZE, scheme, generator, "cuda") for rows in [SIZE] * len(FAMILIES) + [EXPERTS * SIZE]]
        tensors = {}
        for i, weight in enumerate(weights):
            tensors.update(check_grouped.components(f"w{i}", schemes.pack_weight(weight)))
        check_grouped.save(os.path.join(options.directory, "packed.safetensors"), tensors)
        self.exact = [weight.dequantize().double() for weight in weights]
        self.runtime = check_grouped.GroupedRuntime(options.library, options.directory)
        names = [linear.name.decode() for linear in self.runtime.linears()]
        self.index = [names.index(f"w{i}") for i in range(len(weights))]
        self.feeder = harness.Feeder.make()
        self.generator = generator

    def input(self, m):
        """What the feeder writes in a round."""
        torch = self.torch
        values = {name: torch.randn((m, SIZE), generator=self.generator, device="cuda").half() for name in ("x", "r")}
        cuts = torch.randint(0, m + 1, (EXPERTS - 1,), generator=self.generator, device="cuda").sort().values
        values["o"] = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), m)]).to(torch.int32)
        return values

    def reference(self, layer, x, more):
        """In float64, of what a launch has read."""
        if layer < len(FAMILIES):
            return x.double() @ self.exact[layer].T + more.double()
        cuts = more.tolist()
        return self.torch.cat([x[low:high].double() @ self.exact[layer][i * SIZE : (i + 1) * SIZE].T for i, (low, high) in enumerate(zip(cuts, cuts[1:]))])

    def check(self, m, what, steps):
        """What is wrong, as text, or None."""
        torch, harness = self.torch, self.harness
        inputs = [self.input(m), self.input(m)]
        sizes = {name: value.numel() * value.element_size() for name, value in inputs[0].items()}
        shared, images = harness.Pieces(sizes, 16), [harness.Pieces(sizes, 16).fill(values) for values in inputs]
        outputs = {step[3]: 2 * m * SIZE for step in flat(steps)}
        poison, rounds = harness.Pieces(outputs, 16), [harness.Pieces(outputs, 16) for _ in range(3)]
        plans = [self.runtime.plan(index, m) for index in self.index]
        workspace = harness.Guarded(max([16] + [plan.workspace_bytes for plan in plans]), fill=0)
        assert workspace.size > harness.ZEROS, "no kernel has a workspace"

        def prepare(own, layer, x, more, y):
            at = {**{name: (shared.address(name), size) for name, size in sizes.items()}, **{name: (own.address(name), size) for name, size in outputs.items()}}
            if layer == len(FAMILIES):
                return self.runtime.prepare_grouped(plans[layer], at[x], at[y], at[more], [])
            # Of two that run at once only one has a workspace.
            return self.runtime.prepare(plans[layer], at[x], at[y], (workspace.address, workspace.size), [at[more]])

        launches = []
        for i, own in enumerate(rounds):
            launches.append(self.feeder.prepare([(shared.memory, images[i % 2].memory), (own.memory, poison.memory)], workspace))
            launches += [[prepare(own, *step) for step in entry] if isinstance(entry, list) else prepare(own, *entry) for entry in steps]
        everything = [shared, *rounds]
        main, side = torch.cuda.Stream(), torch.cuda.Stream()
        for launch in flat(launches):
            launch(main.cuda_stream)
            torch.cuda.synchronize()
        expected = [pieces.memory.storage.clone() for pieces in everything]
        for i, own in enumerate(rounds):
            has = {**inputs[i % 2], **{name: own.bytes(name).clone().view(torch.float16).reshape(m, SIZE) for name in outputs}}
            for layer, x, more, y in flat(steps):
                error = harness.relative_error(has[y], self.reference(layer, has[x], has[more]))
                if not error < 1e-3:
                    return f"{y} of round {i} has an error of {error:.2e}"
        for first, second in zip(*[[own.bytes(name) for name in outputs] for own in rounds[:2]]):
            if torch.equal(first, second):
                return "two inputs have one result"

        def issue():
            for entry in launches:
                if not isinstance(entry, list):
                    entry(main.cuda_stream)
                    continue
                side.wait_stream(main)
                entry[0](main.cuda_stream)
                entry[1](side.cuda_stream)
                main.wait_stream(side)

        def agree(how):
            torch.cuda.synchronize()
            wrong = [i for i, (pieces, bits) in enumerate(zip(everything, expected)) if not torch.equal(pieces.memory.storage, bits)]
            if wrong:
                return f"{what} {how} differs from launches one by one: {', '.join(f'round {i}' if i else 'the inputs' for i in wrong)}"
            return f"{what} {how} leaves the workspace without its zeros" if bool(workspace.bytes[: harness.ZEROS].any()) else None

        def reset():
            for pieces in everything:
                pieces.memory.bytes.fill_(0xFF)
            torch.cuda.synchronize()

        reset()
        issue()
        failure = agree("in streams")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(main):
            graph.capture_begin()
            issue()
            graph.capture_end()
        for i in range(3):
            reset()
            graph.replay()
            failure = failure or agree(f"in replay {i} of a graph")
        return failure


def run(options):
    overlap, failures = Overlap(options), 0
    for m in options.tokens:
        for what, steps in (("a line", LINE), ("a fork", FORK)):
            failure = overlap.check(m, what, steps)
            failures += failure is not None
            print(f"FAIL m={m} {failure}" if failure else f"ok   m={m} {what}", flush=True)
    print(f"{2 * len(options.tokens)} cases checked, {failures} failures")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["compile", "run"])
    parser.add_argument("directory")
    parser.add_argument("--opt", default="quant-opt")
    parser.add_argument("--chip", default="sm_90a")
    parser.add_argument("--library", help="libQuantLLMRuntime.so")
    parser.add_argument("--m", default="1,8,40,300,1000", help="token counts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.action == "compile":
        return compile_module(options)
    if not options.library:
        parser.error("expected --library")
    options.tokens = [int(piece) for piece in options.m.split(",")]
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
