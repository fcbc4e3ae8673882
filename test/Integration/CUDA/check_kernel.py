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
    threads, shared_bytes, cluster, tokens, token_tile, row_tile, split, grid, ctas_per_sm, args, tensor_map_x: docs/GPURuntime.md
"""

import argparse
import glob
import json
import os
import queue
import subprocess
import sys
import threading
import time

DEFAULT_TOKENS = "1,2,3,7,8,16,17,33,64,100,128,257,1024"
CRASHED = 77


# ---------------------------------------------------------------------------
# Descriptions
# ---------------------------------------------------------------------------


def find_image(stem):
    for suffix in (".cubin", ".ptx"):
        if os.path.exists(stem + suffix):
            return stem + suffix
    return None


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
    if options.manifest:
        with open(os.path.join(options.manifest, "manifest.json")) as file:
            manifest = json.load(file)
        kernels = {kernel["name"]: kernel for kernel in manifest["kernels"]}
        for linear in manifest["linears"]:
            for variant in linear["variants"]:
                kernel = kernels[variant["kernel"]]
                desc = {**linear, **kernel, "tokens": variant["tokens"], "weights": len(linear["weights"])}
                cases.append((f"{linear['name']}:{kernel['name']}", desc, os.path.join(options.manifest, kernel["file"])))
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
        self.problems = {}
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
                box = form["box_tokens"]
                if form.get("clamp_tokens", True):
                    box = min(box, m)
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

    def check(self, desc, function, m, weight_buffers, problem, packs):
        """Of one token count: text, record, addresses of the arguments, and the buffers, which the caller keeps as long as the addresses."""
        case = self.harness.Case(problem, m, self.options)
        grid, tiles = grid_of(desc, m, self.multiprocessors)
        workspace = self.harness.Guarded(max(16, workspace_bytes(desc, m, grid, tiles)), fill=0)
        addresses = {name: buffer.address for name, buffer in weight_buffers.items()}
        addresses.update({"x": case.x_buffer.address, "y": case.y_buffer.address, "workspace": workspace.address})
        addresses.update({f"epilogue{i}": buffer.address for i, buffer in enumerate(case.operand_buffers)})
        addresses.update({f"output_scale{i}": pack.output_scale for i, pack in enumerate(packs)})
        launch = self.driver.prepare(function, grid, desc["threads"], desc["shared_bytes"], desc.get("cluster", 1), self.arguments(desc, m, addresses))
        text, record = case.check(launch, {**weight_buffers, "workspace": workspace})
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
        storage, launches = [], []
        for _ in range(copies):
            current = dict(addresses)
            for name in rotating:
                data = weight_buffers[name].bytes.clone()
                storage.append(data)
                current[name] = data.data_ptr()
            launches.append(self.driver.prepare(function, grid, desc["threads"], desc["shared_bytes"], desc.get("cluster", 1), self.arguments(desc, m, current)))
        while len(launches) < 20:
            launches = launches + launches
        median, low, high = self.harness.time_graph(launches)
        del storage, aligned
        limit = self.read_limit.us(size)
        dense = self.dense_time.us(desc["n"] * len(packs), desc["k"], m, problem.activation)
        flops = 2.0 * m * desc["n"] * desc["k"] * len(packs)
        record = {"us": median, "us_min": low, "us_max": high, "bytes": size, "read_limit_us": limit, "cublas_us": dense, "tflops": flops / median / 1e6}
        text = f"{median:.2f} us [{low:.2f} {high:.2f}] limit {limit:.2f} ({median / limit:.2f}x) cublas {dense:.2f} ({dense / median:.2f}x) {record['tflops']:.0f} TFLOP/s"
        return text, record

    def run(self, label, desc, image):
        """Yields (line, record) per token count."""
        with open(image, "rb") as file:
            data = file.read()
        module = self.driver.load(data)
        function = self.driver.function(module, desc["name"], desc["shared_bytes"], desc.get("cluster", 1))
        registers, local = self.driver.resources(function)
        problem, packs = self.problem(desc)
        weight_buffers = self.weight_buffers(desc, packs)
        low, high = desc.get("tokens", [1, 1 << 30])
        for m in self.options.tokens:
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
        self.driver.call("cuModuleUnload", module)


def work(cases, start, run):
    """Runs the cases from `start` on, the loop of a worker: run(case) yields lines and records. Ends the process when the context is lost."""
    import torch

    from driver import DriverError

    for index, case in enumerate(cases):
        if index < start:
            continue
        print(f"@begin {index}", flush=True)
        try:
            for line, record in run(case):
                print(line, flush=True)
                print("@record " + json.dumps(record), flush=True)
            torch.cuda.empty_cache()
        except (DriverError, RuntimeError) as error:
            print(f"FAIL {case[0]}: {str(error).splitlines()[0]}", flush=True)
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                os._exit(CRASHED)
        except Exception as error:  # A broken description must not end the run.
            print(f"FAIL {case[0]}: {type(error).__name__}: {error}", flush=True)
    print("@done", flush=True)


def worker(options):
    checker = Checker(options)

    def run(case):
        if case[2] is None:
            raise ValueError("there is no cubin beside the description")
        return checker.run(*case)

    work(load_cases(options), options.start, run)


# ---------------------------------------------------------------------------
# Parent: restarts the worker after crashes and hangs
# ---------------------------------------------------------------------------


def supervise(options, count, script):
    """Runs workers of the script until every case was begun; returns (records, failures)."""
    start, records, failures = 0, [], 0
    deadline = time.monotonic() + options.limit if options.limit else None
    while start < count:
        command = [sys.executable, script, "--worker", "--start", str(start)] + sys.argv[1:]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=os.getcwd())
        lines = queue.Queue()

        def pump(pipe=process.stdout, to=lines):
            for line in pipe:
                to.put(line)
            to.put(None)

        threading.Thread(target=pump, daemon=True).start()
        current, finished = start - 1, False
        while True:
            patience = options.timeout if current >= start else options.timeout + 60
            if deadline:
                patience = min(patience, max(0.1, deadline - time.monotonic()))
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                late = deadline is not None and time.monotonic() >= deadline
                print(f"FAIL case {max(current, start)}: " + ("time limit of the run" if late else f"no answer for {patience:.0f} s (hang)"), flush=True)
                failures += 1
                process.kill()
                if late:
                    return records, failures
                break
            if line is None:
                break
            if line.startswith("@begin "):
                current = int(line.split()[1])
            elif line.startswith("@record "):
                records.append(json.loads(line[len("@record ") :]))
            elif line.startswith("@done"):
                finished = True
            else:
                failures += line.startswith("FAIL")
                print(line, end="", flush=True)
        process.wait()
        if finished:
            break
        if current < start:
            print("FAIL: the worker did not start", flush=True)
            failures += 1
            break
        if process.returncode not in (0, CRASHED, -9):
            print(f"FAIL case {current}: the worker ended with {process.returncode}", flush=True)
            failures += 1
        start = current + 1
    return records, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubin", help="cubin or PTX of --desc")
    parser.add_argument("--desc", help="description of one kernel")
    parser.add_argument("--dir", help="directory of descriptions with their cubins")
    parser.add_argument("--manifest", help="directory with manifest.json")
    parser.add_argument("--filter", help="only cases whose label contains this")
    parser.add_argument("--m", default=DEFAULT_TOKENS, help="token counts (default: %(default)s)")
    parser.add_argument("--time", action="store_true", help="time what passed, with the read limit and cuBLAS")
    parser.add_argument("--repeat", type=int, default=30, help="launches compared bitwise (default: 30)")
    parser.add_argument("--offset", type=int, default=16, help="bytes by which x, y and operands miss an alignment of 256 in checks (default: 16)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60, help="seconds without a line after which a kernel hangs (default: 60)")
    parser.add_argument("--limit", type=float, default=0, help="seconds for the whole run (default: none)")
    parser.add_argument("--json", help="write all records here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.tokens = [int(piece) for piece in options.m.split(",")]
    if options.worker:
        worker(options)
        return 0
    count = len(load_cases(options))
    if count == 0:
        print("no cases: expected --desc, --dir or --manifest with kernels")
        return 2
    begin = time.monotonic()
    records, failures = supervise(options, count, os.path.abspath(__file__))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(records, file, indent=1)
    passed = sum(record["passed"] for record in records)
    print(f"{count} kernels, {len(records)} cases checked, {passed} passed, {failures} failures, {time.monotonic() - begin:.0f} s")
    return 0 if failures == 0 and records else 1


if __name__ == "__main__":
    sys.exit(main())
