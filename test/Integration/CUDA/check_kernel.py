# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks and times single kernels: a cubin (or PTX) and the JSON description of its launch, nothing else.

Runs on a machine with a GPU, Python, torch and numpy. Weights are random, packed here (schemes.py), so neither the compiler nor the runtime
library takes part; the reference is float64. A kernel that crashes or hangs ends only its own worker process.

    check_kernel.py --cubin k.cubin --desc k.json --m 1,2,3,17
    check_kernel.py --dir DIR --m 1,16,64 --time          every NAME.json in DIR with NAME.cubin or NAME.ptx beside it
    check_kernel.py --manifest DIR --time                 every variant of every linear of DIR/manifest.json

A description holds the launch (the dictionary `quant_llm.launch`) and the problem:

    name            entry of the cubin                   n, k       shape of a weight
    scheme          "int4, block = [1, 128], scale = f16"
    activation      "f16" | "bf16"                       output     "f16" | "bf16" | "f32"
    weights         1, or 2 for a gated pair             epilogue   [{"type", "per_element"}, ...] its operands
    epilogue_steps  what the epilogue computes, in order: bias, residual, mul (each takes one operand), silu, gelu, gelu_tanh, relu,
                    gate_silu (and the others: f(acc0) * acc1), scale:<number>
    threads, shared_bytes, cluster, dependent_launch, tokens, token_tile, row_tile, split, grid, ctas_per_sm, args, tensor_map_x: docs/GPURuntime.md
"""

import argparse
import glob
import json
import os
import sys

import workers


# ---------------------------------------------------------------------------
# Descriptions
# ---------------------------------------------------------------------------


def find_image(stem):
    for suffix in (".cubin", ".ptx"):
        if os.path.exists(stem + suffix):
            return stem + suffix
    return None


def tokens_of(desc, options):
    """What is asked for, what the case says, or the usual."""
    return options.tokens or desc.get("m") or [int(piece) for piece in workers.DEFAULT_TOKENS.split(",")]


def load_cases(options):
    """[(label, description, image path)]."""
    cases = []
    if options.desc:
        with open(options.desc) as file:
            desc = json.load(file)
        image = options.cubin or find_image(os.path.splitext(options.desc)[0])
        cases.append((os.path.basename(options.desc), desc, image))
    if options.dir:
        for path in sorted(glob.glob(os.path.join(options.dir, "*.json"))):
            with open(path) as file:
                desc = json.load(file)
            image = os.path.join(options.dir, desc["file"]) if "file" in desc else find_image(os.path.splitext(path)[0])
            if isinstance(desc, dict) and image:
                cases.append((os.path.basename(path), desc, image))
    for directory in options.manifest:
        with open(os.path.join(directory, "manifest.json")) as file:
            manifest = json.load(file)
        kernels = {kernel["name"]: kernel for kernel in manifest["kernels"]}
        # What the manifest does not say: token counts and what epilogues compute.
        given = [{}] * len(manifest["linears"])
        path = os.path.join(directory, "cases.json")
        if os.path.exists(path):
            with open(path) as file:
                given = [{"m": case["m"], "epilogue_steps": case["steps"]} for case in json.load(file)]
        for linear, more in zip(manifest["linears"], given, strict=True):
            for variant in linear["variants"]:
                kernel = kernels[variant["kernel"]]
                desc = {**linear, **more, **kernel, "tokens": variant["tokens"], "weights": len(linear["weights"])}
                label = f"{os.path.basename(os.path.normpath(directory))}/{linear['name']}:{kernel['name']}"
                # Machine code that was made of the PTX later is beside it.
                stem = os.path.splitext(os.path.join(directory, kernel["file"]))[0]
                if any(variant["tokens"][0] <= m <= variant["tokens"][1] for m in tokens_of(desc, options)):
                    cases.append((label, desc, find_image(stem)))
    result = []
    for label, desc, image in cases:
        desc = {**{key: value for key, value in desc.items() if key != "kernel"}, **(desc.get("kernel") if isinstance(desc.get("kernel"), dict) else {})}
        if options.filter and options.filter not in label:
            continue
        result.append((label, desc, image))
    return result


def grid_of(desc, m, multiprocessors):
    """(x, y, 1) and the number of tiles."""
    cluster, split = desc.get("cluster", 1), desc.get("split", 1)
    padded = -(-desc["n"] // 64) * 64
    columns = -(-m // desc["token_tile"])
    if desc.get("grid", "tiles") == "tiles":
        rows = -(-padded // desc["row_tile"])
        return (rows * split, columns, 1), rows * columns
    tiles = -(-desc["n"] // desc["row_tile"]) * columns
    limit = max(cluster, desc.get("ctas_per_sm", 1) * multiprocessors // cluster * cluster)
    return (min(limit, -(-tiles * split // cluster) * cluster), 1, 1), tiles


def workspace_bytes(desc, m, grid, tiles):
    return (
        desc.get("workspace_bytes", 0)
        + desc.get("workspace_bytes_per_tile", 0) * tiles
        + desc.get("workspace_bytes_per_cta", 0) * grid[0] * grid[1]
        + desc.get("workspace_bytes_per_token", 0) * m
    )


# ---------------------------------------------------------------------------
# Worker: everything that needs the GPU
# ---------------------------------------------------------------------------


class Checker:
    def __init__(self, options):
        import torch

        import harness
        import schemes
        from driver import Driver

        self.torch, self.harness, self.schemes = torch, harness, schemes
        self.options = options
        harness.start()
        self.driver = Driver()
        self.feeder = harness.Feeder.make(self.driver)
        self.problems = {}
        self.loaded = None, None
        self.read_limit = harness.ReadLimit(self.driver) if options.time else None
        self.dense_time = harness.DenseTime()
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count

    def problem(self, desc):
        """Weights, reference and packed bytes; kept for the kernels of one problem."""
        key = json.dumps([desc.get(name) for name in ("n", "k", "scheme", "activation", "output", "weights", "epilogue", "epilogue_steps")])
        if key not in self.problems:
            self.problems.clear()
            generator = self.torch.Generator(device="cuda").manual_seed(self.options.seed)
            scheme = self.schemes.Scheme.parse(desc["scheme"])
            weights = [self.schemes.random_weight(desc["n"], desc["k"], scheme, generator, "cuda") for _ in range(desc.get("weights", 1))]
            operands = desc.get("epilogue", [])
            problem = self.harness.Problem(
                weights, desc.get("activation", "f16"), desc.get("output", "f16"), desc.get("epilogue_steps", []), [operand["type"] for operand in operands], [operand.get("per_element", False) for operand in operands]
            )
            self.problems[key] = (problem, [self.schemes.pack_weight(weight) for weight in weights])
        return self.problems[key]

    def arguments(self, desc, m, buffers):
        from driver import c_int

        import ctypes

        result = []
        for name in desc["args"]:
            if name == "tensor_map_x":
                form = desc["tensor_map_x"]
                box = min(form["box_tokens"], m)
                result.append(self.driver.tensor_map(desc.get("activation", "f16"), buffers["x"], desc["k"], m, form["box_k"], box, form.get("swizzle", 128), form.get("box_segments", 0)))
            elif name == "m":
                result.append(c_int(m))
            elif name.startswith("output_scale"):
                result.append(ctypes.c_float(buffers[name]))
            else:
                result.append(ctypes.c_uint64(buffers[name]))
        return result

    def weight_buffers(self, desc, packs):
        """Guarded copies of what the kernel reads of the weights, by argument name."""
        Guarded = self.harness.Guarded
        guarded = {}
        for i, pack in enumerate(packs):
            guarded[f"packed{i}"] = Guarded.of(pack.packed)
            guarded[f"packed_scales{i}"] = Guarded.of(pack.scales)
            if pack.zeros is not None:
                guarded[f"packed_zeros{i}"] = Guarded.of(pack.zeros)
        return guarded

    def launch(self, desc, function, m, grid, addresses, plain=False):
        """launch(stream); a kernel that may overlap the one before it does, unless `plain`."""
        return self.driver.prepare(function, grid, desc["threads"], desc["shared_bytes"], desc.get("cluster", 1), self.arguments(desc, m, addresses), not plain and bool(desc.get("dependent_launch")))

    def check(self, desc, function, m, weight_buffers, problem, packs):
        """Of one token count: text, record, addresses of the arguments, and the buffers, which the caller keeps as long as the addresses."""
        case = self.harness.Case(problem, m, self.options)
        grid, tiles = grid_of(desc, m, self.multiprocessors)
        workspace = self.harness.Guarded(max(16, workspace_bytes(desc, m, grid, tiles)), fill=0)
        addresses = {name: buffer.address for name, buffer in weight_buffers.items()}
        addresses.update({"x": case.x_buffer.address, "y": case.y_buffer.address, "workspace": workspace.address})
        addresses.update({f"epilogue{i}": buffer.address for i, buffer in enumerate(case.operand_buffers)})
        addresses.update({f"output_scale{i}": pack.output_scale for i, pack in enumerate(packs)})
        launch = self.launch(desc, function, m, grid, addresses)

        def prepare(buffers):
            return self.launch(desc, function, m, grid, {**addresses, **{name: address for name, (address, _) in buffers.items()}})

        overlap = (prepare, self.feeder, ({}, {})) if desc.get("dependent_launch") else None
        text, record = case.check(launch, {**weight_buffers, "workspace": workspace}, overlap)
        record["grid"] = grid
        return text, record, addresses, (case, workspace)

    def measure(self, desc, function, m, addresses, weight_buffers, problem, packs, case):
        """Timing with rotating copies of the weights, everything else aligned."""
        aligned = case.aligned_buffers()
        addresses = {**addresses, **{name: buffer.address for name, buffer in aligned.items()}}
        rotating = [name for name in weight_buffers if name.startswith("packed")]
        size = sum(weight_buffers[name].size for name in rotating)
        copies = self.harness.num_copies(size)
        grid, _ = grid_of(desc, m, self.multiprocessors)
        storage, launches, plain = [], [], []
        for _ in range(copies):
            current = dict(addresses)
            for name in rotating:
                data = weight_buffers[name].bytes.clone()
                storage.append(data)
                current[name] = data.data_ptr()
            launches.append(self.launch(desc, function, m, grid, current))
            plain.append(self.launch(desc, function, m, grid, current, plain=True))
        while len(launches) < 20:
            launches, plain = launches + launches, plain + plain
        median, low, high = self.harness.time_graph(launches)
        without, _, _ = self.harness.time_graph(plain) if desc.get("dependent_launch") else (median, low, high)
        del storage, aligned
        limit = self.read_limit.us(size)
        dense = self.dense_time.us(desc["n"] * len(packs), desc["k"], m, problem.activation)
        flops = 2.0 * m * desc["n"] * desc["k"] * len(packs)
        record = {"us": median, "us_min": low, "us_max": high, "us_plain": without, "bytes": size, "read_limit_us": limit, "cublas_us": dense, "tflops": flops / median / 1e6}
        text = f"{median:.2f} us [{low:.2f} {high:.2f}], {without:.2f} us without overlap, limit {limit:.2f} ({median / limit:.2f}x) cublas {dense:.2f} ({dense / median:.2f}x) {record['tflops']:.0f} TFLOP/s"
        return text, record

    def run(self, label, desc, image):
        """Yields (line, record) per token count."""
        if self.loaded[0] != image:
            if self.loaded[0]:
                self.driver.call("cuModuleUnload", self.loaded[1])
            self.loaded = None, None
            with open(image, "rb") as file:
                self.loaded = image, self.driver.load(file.read())
        function = self.driver.function(self.loaded[1], desc["name"], desc["shared_bytes"], desc.get("cluster", 1))
        registers, local = self.driver.resources(function)
        problem, packs = self.problem(desc)
        weight_buffers = self.weight_buffers(desc, packs)
        low, high = desc.get("tokens", [1, 1 << 30])
        for m in tokens_of(desc, self.options):
            if not low <= m <= high:
                continue
            text, record, addresses, buffers = self.check(desc, function, m, weight_buffers, problem, packs)
            passed = not record["failures"]
            if passed and self.options.time:
                more, timing = self.measure(desc, function, m, addresses, weight_buffers, problem, packs, buffers[0])
                text += " | " + more
                record.update(timing)
            del buffers
            record.update({"case": label, "n": desc["n"], "k": desc["k"], "scheme": desc["scheme"], "registers": registers, "local_bytes": local, "passed": passed})
            yield f"{'ok  ' if passed else 'FAIL'} {label} {desc['n']}x{desc['k']} m={m} regs {registers}{f' LOCAL {local}' if local else ''} {text}", record


def worker(options):
    checker = Checker(options)

    def run(case):
        if case[2] is None:
            raise ValueError("there is no cubin beside the description")
        return checker.run(*case)

    workers.work(load_cases(options), options.start, run)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubin", help="cubin or PTX of --desc")
    parser.add_argument("--desc", help="description of one kernel")
    parser.add_argument("--dir", help="directory of descriptions with their cubins")
    parser.add_argument("--manifest", nargs="+", default=[], help="directories with manifest.json")
    parser.add_argument("--filter", help="only cases whose label contains this")
    parser.add_argument("--time", action="store_true", help="time what passed, with the read limit and cuBLAS")
    workers.add_arguments(parser, None)
    return workers.main(parser.parse_args(), __file__, load_cases, worker, "kernels", "no cases: expected --desc, --dir or --manifest with kernels")


if __name__ == "__main__":
    sys.exit(main())
