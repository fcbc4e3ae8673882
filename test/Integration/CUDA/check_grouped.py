# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks grouped linears (experts) that make_grouped.py compiled through libQuantLLMRuntime on a GPU, against float64.

Random weights are packed here. Tokens are routed at random, all to one expert, to few experts, and by offsets that make no sense (nothing may
then be touched but y). --time compares with a loop over the experts, whose token counts the host then has to know.

    check_grouped.py DIR... --library libQuantLLMRuntime.so [--m 0,1,8,100,600] [--time]
"""

import argparse
import ctypes
import json
import os
import struct
import sys

import workers
from check_linear import Buffer, Operands, Runtime

NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "uint8": "U8"}
FLOAT8 = {"f8E8M0FNU": "F8_E8M0", "f8E4M3FN": "F8_E4M3"}


def save(path, tensors):
    """A safetensors file of {name: (type, tensor)}."""
    header, offset = {}, 0
    for name, (kind, tensor) in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors.values():
            import torch

            file.write(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())


def components(key, packed):
    """The tensors of a packed weight."""
    import torch

    def plain(tensor):
        return NAMES[str(tensor.dtype).split(".")[1]], tensor

    result = {key + ".packed": plain(packed.packed.view(torch.uint8)), key + ".packed_scales": (FLOAT8.get(packed.scale_type) or plain(packed.scales)[0], packed.scales)}
    if packed.zeros is not None:
        result[key + ".packed_zeros"] = plain(packed.zeros)
    result[key + ".output_scale"] = plain(torch.tensor(packed.output_scale))
    return result


def make_weights(options, directory, case):
    """Weights of a case; their archive is written beside the manifest, and beside that of the loop."""
    import torch

    import schemes

    scheme = schemes.Scheme.parse(case["scheme"])
    generator = torch.Generator(device="cuda").manual_seed(options.seed)
    weights = [schemes.random_weight(case["experts"] * case["n"], case["k"], scheme, generator, "cuda") for _ in range(2 if "gate" in case["steps"] else 1)]
    packed = [schemes.pack_weight(weight) for weight in weights]
    tensors = {}
    for i, weight in enumerate(packed):
        tensors.update(components(f"w{i}", weight))
    save(os.path.join(directory, "packed.safetensors"), tensors)
    loop = directory.rstrip("/") + "-loop"
    if options.time and os.path.isdir(loop):
        tensors, strips = {}, case["n"] // 16
        for expert in range(case["experts"]):
            part = slice(expert * strips, (expert + 1) * strips)
            one = packed[0]
            tensors.update(components(f"w{expert}", schemes.Packed(one.packed[part], one.scales[part], one.scale_type, None, one.output_scale)))
        save(os.path.join(loop, "packed.safetensors"), tensors)
    return weights


class GroupedRuntime(Runtime):
    def prepare_grouped(self, plan, x, y, offsets, epilogue):
        """launch(stream) of a plan on (address, bytes) pairs."""
        buffers = (Buffer * max(1, len(epilogue)))(*[Buffer(*pair) for pair in epilogue])
        operands, where = Operands(Buffer(*x), Buffer(*y), Buffer(None, 0), buffers, len(epilogue)), Buffer(*offsets)

        def launch(stream):
            self.call("quantLLMCudaModuleLaunchGrouped", self.module, ctypes.byref(plan), ctypes.c_void_p(stream), ctypes.byref(operands), ctypes.byref(where))

        launch.keep = buffers
        return launch


def routings(experts, m, generator):
    """{name: tokens of every expert}."""
    import torch

    def count(chosen):
        return torch.bincount(chosen, minlength=experts).tolist()

    device = generator.device
    result = {"random": count(torch.randint(experts, (m,), generator=generator, device=device))}
    if experts > 1:
        result["first"] = count(torch.zeros(m, dtype=torch.int64, device=device))
        result["last"] = count(torch.full((m,), experts - 1, device=device))
        few = torch.randperm(experts, generator=generator, device=device)[: max(2, experts // 4)]
        result["few"] = count(few[torch.randint(len(few), (m,), generator=generator, device=device)])
    return result


def make_problem(case, weights):
    import torch

    import harness

    class Problem(harness.Problem):
        """The product of tokens with the weights of their experts."""

        def __init__(self):
            steps = [step for step in case["steps"].split(",") if step]
            bias = "bias" in steps
            super().__init__(weights, case["act"], case["out"], steps, ["f32"] * bias, [False] * bias)
            self.experts, self.n = case["experts"], case["n"]

        def route(self, counts):
            self.counts = counts
            self.owner = torch.repeat_interleave(torch.arange(self.experts, device="cuda"), torch.tensor(counts, device="cuda"))
            self.offsets = self.offsets_of(counts)

        def offsets_of(self, counts):
            return torch.tensor([0] + counts, device="cuda").cumsum(0).to(torch.int64 if case["offsets"] == "i64" else torch.int32)

        def product(self, x, weight):
            parts, begin = [], 0
            for expert, count in enumerate(self.counts):
                if count:
                    parts.append(x[begin : begin + count] @ weight[expert * self.n : (expert + 1) * self.n].T)
                begin += count
            return torch.cat(parts)

        def vanishes(self, column):
            return super().vanishes(column).reshape(self.experts, self.n).any(0)

        def operands(self, m, generator):
            return [torch.randn((self.experts * self.n,), generator=generator, device="cuda") for _ in self.operand_types]

        def own(self, operands):
            return [operand.reshape(self.experts, self.n)[self.owner] for operand in operands]

    return Problem()


def worker(options):
    import torch

    import harness

    harness.start()
    feeder = harness.Feeder.make()

    def check(runtime, problem, case, label, m, name, counts, memory):
        problem.route(counts)
        plan = runtime.plan(0, m)
        if m == 0:
            offsets = harness.Guarded.of(problem.offsets, offset=8)
            rows = [(harness.Guarded(4 * problem.experts * problem.n).address, 4 * problem.experts * problem.n) for _ in problem.operand_types]
            runtime.prepare_grouped(plan, (None, 0), (None, 0), (offsets.address, offsets.size), rows)(0)
            torch.cuda.synchronize()
            return f"ok   {label} m=0", {"case": label, "m": 0, "passed": True}
        data = harness.Case(problem, m, options)
        offsets = harness.Guarded.of(problem.offsets, offset=8)

        def prepare(buffers):
            return runtime.prepare_grouped(plan, buffers["x"], buffers["y"], buffers["offsets"], [buffers[f"epilogue{i}"] for i in range(len(problem.operand_types))])

        launch = prepare({**data.buffers(), "offsets": (offsets.address, offsets.size)})
        # Launches that overlap read these offsets and others in turn: as many tokens, dealt otherwise.
        text, record = data.check(launch, {"offsets": offsets, "weights": memory}, (prepare, feeder, ({"offsets": problem.offsets}, {"offsets": problem.offsets_of(counts[1:] + counts[:1])})))
        # Offsets that make no sense: results are unspecified, but nothing else may change.
        kept = offsets.bytes.clone()
        generator = torch.Generator(device="cuda").manual_seed(m)
        for low, high in ((-5, m + 5), (-(1 << 31), (1 << 31) - 1)):
            wrong = torch.randint(low, high, problem.offsets.shape, generator=generator, device="cuda").to(problem.offsets.dtype)
            offsets.bytes.copy_(wrong.view(torch.uint8))
            data.run(launch, torch.cuda.Stream())
            broken = [what for what, buffer in (("x", data.x_buffer), ("y", data.y_buffer), ("offsets", offsets), ("weights", memory)) if not buffer.intact()]
            if broken:
                text, record["passed"] = text + " | wrong offsets: written outside of " + ", ".join(broken), False
        offsets.bytes.copy_(kept)
        record.update({"case": label, "experts": problem.experts, "n": problem.n, "k": problem.k, "scheme": case["scheme"], "routing": name, "kernel": plan.kernel.decode()})
        return f"{'ok  ' if record['passed'] else 'FAIL'} {label} {problem.experts}x{problem.n}x{problem.k} m={m} {name} {plan.kernel.decode()} {text}", record

    def measure(problem, case, directory, m):
        """Over copies of the weights that exceed the L2 cache, and over several routings; beside the loop, if it was compiled."""
        loop = directory.rstrip("/") + "-loop"
        has_loop = os.path.isdir(loop)
        size = os.path.getsize(os.path.join(directory, "packed.safetensors"))
        active = min(1.0, m / problem.experts)
        copies = min(8, harness.num_copies(int(size * active), limit=8))
        generator = torch.Generator(device="cuda").manual_seed(m)
        x = torch.randn((m, problem.k), generator=generator, device="cuda").to(problem.activation)
        y = torch.empty((m, problem.n), device="cuda", dtype=problem.output)
        width = problem.output.itemsize
        grouped, loops, keep, launches = [], [], [], 0
        workspace = torch.zeros(16, dtype=torch.uint8, device="cuda")
        workspaces = [workspace]
        for copy in range(copies):
            runtime = GroupedRuntime(options.library, directory)
            separate = Runtime(options.library, loop) if has_loop else None
            plan = runtime.plan(0, m)
            for _ in range(-(-8 // copies)):
                counts = routings(problem.experts, m, generator)["random"]
                problem.route(counts)
                keep.append((runtime, separate, problem.offsets))
                grouped.append(runtime.prepare_grouped(plan, (x.data_ptr(), x.nbytes), (y.data_ptr(), y.nbytes), (problem.offsets.data_ptr(), problem.offsets.nbytes), []))
                own, begin = [], 0
                for expert, count in enumerate(counts):
                    if count and has_loop:
                        at = separate.plan(expert, count)
                        # One after the other, they share what a workspace they need; zeroed once (docs/GPURuntime.md).
                        if at.workspace_bytes > workspace.nbytes:
                            workspace = torch.zeros(at.workspace_bytes, dtype=torch.uint8, device="cuda")
                            workspaces.append(workspace)
                        own.append(separate.prepare(at, (x.data_ptr() + 2 * begin * problem.k, 2 * count * problem.k), (y.data_ptr() + width * begin * problem.n, width * count * problem.n), (workspace.data_ptr(), workspace.nbytes), []))
                    begin += count
                launches += len(own)
                loops.append(lambda stream, own=own: [launch(stream) for launch in own])
        together = harness.time_graph(grouped, replays=20)
        apart = harness.time_graph(loops, replays=20) if has_loop else [None]
        for runtime, separate in {id(pair[0]): pair[:2] for pair in keep}.values():
            runtime.close()
            if separate:
                separate.close()
        return {"us": together[0], "us_min": together[1], "us_max": together[2], "loop_us": apart[0], "loop_launches": launches / len(loops), "weight_bytes": size * active}

    def run(entry):
        label, directory = entry[0], entry[1]
        with open(os.path.join(directory, "case.json")) as file:
            case = json.load(file)
        weights = make_weights(options, directory, case)
        problem = make_problem(case, weights)
        memory = None

        def allocate(size):
            nonlocal memory
            memory = harness.Guarded(size)
            return memory.address

        runtime = GroupedRuntime(options.library, directory, memory=allocate)
        before = memory.bytes.clone()
        generator = torch.Generator(device="cuda").manual_seed(options.seed)
        for m in options.tokens:
            for name, counts in routings(case["experts"], m, generator).items():
                if (m == 0 or options.time) and name != "random":
                    continue
                text, record = check(runtime, problem, case, label, m, name, counts, memory)
                if not torch.equal(memory.bytes, before):
                    text, record["passed"] = text + " | weights overwritten", False
                if options.time and record["passed"] and m:
                    record.update(measure(problem, case, directory, m))
                    text += f" | {record['us']:.1f} us ({record['us_min']:.1f}..{record['us_max']:.1f})"
                    if record["loop_us"]:
                        text += f", {record['loop_launches']:.1f} launches of a loop {record['loop_us']:.1f} us"
                yield text, record
        runtime.close()

    workers.work([(name, path) for name, path in load_cases(options)], options.start, run)


def load_cases(options):
    return [(os.path.basename(os.path.normpath(path)), path) for path in options.directories if not os.path.normpath(path).endswith("-loop")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directory that make_grouped.py wrote; those that end with -loop are skipped")
    parser.add_argument("--library", required=True, help="libQuantLLMRuntime.so")
    parser.add_argument("--time", action="store_true", help="time random routings beside a loop over the experts")
    workers.add_arguments(parser, "0,1,8,40,100,600", repeat=6)
    return workers.main(parser.parse_args(), __file__, load_cases, worker, "grouped linears", "no cases: expected directories that make_grouped.py wrote")


if __name__ == "__main__":
    sys.exit(main())
