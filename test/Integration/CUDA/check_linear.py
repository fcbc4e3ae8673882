# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks the linear layers of an artifact through libQuantLLMRuntime on a GPU, against float64.

Needs the library, what quant-llm-to-gpu wrote (manifest.json, kernels, packed weights), the archive of canonical weights that was packed
(<key>.codes, .scales, .zeros under the keys of the packed ones), Python, torch and numpy. The reference comes from the canonical weights and docs/Spec.md (schemes.py).

    check_linear.py DIR... --library libQuantLLMRuntime.so --m 0,1,16,257
    check_linear.py DIR --weights model.safetensors --library libQuantLLMRuntime.so
"""

import argparse
import ctypes
import json
import os
import struct
import sys
import threading

import workers

TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


# ---------------------------------------------------------------------------
# The library
# ---------------------------------------------------------------------------


class Linear(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("n", ctypes.c_int64), ("k", ctypes.c_int64), ("weights", ctypes.c_size_t), ("operands", ctypes.c_size_t), ("variants", ctypes.c_size_t), ("scheme", ctypes.c_char_p), ("activation", ctypes.c_char_p), ("output", ctypes.c_char_p)]


class Operand(ctypes.Structure):
    _fields_ = [("type", ctypes.c_char_p), ("per_element", ctypes.c_int)]


class Options(ctypes.Structure):
    _fields_ = [("device", ctypes.c_int), ("driver", ctypes.c_char_p), ("memory", ctypes.c_void_p), ("memory_bytes", ctypes.c_uint64), ("without_weights", ctypes.c_int)]


class Plan(ctypes.Structure):
    _fields_ = [("linear", ctypes.c_size_t), ("m", ctypes.c_int64), ("kernel", ctypes.c_char_p), ("grid", ctypes.c_uint32 * 3), ("threads", ctypes.c_uint32), ("cluster", ctypes.c_uint32), ("shared", ctypes.c_uint32), ("x_bytes", ctypes.c_uint64), ("y_bytes", ctypes.c_uint64), ("workspace_bytes", ctypes.c_uint64)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64)]


class Operands(ctypes.Structure):
    _fields_ = [("x", Buffer), ("y", Buffer), ("workspace", Buffer), ("epilogue", ctypes.POINTER(Buffer)), ("count", ctypes.c_size_t)]


class Runtime:
    """A module of the C interface (include/quant-llm-c/CudaRuntime.h). `memory(bytes)` gives device memory for the weights."""

    def __init__(self, library, path, archive=None, driver=None, memory=None):
        self.library = ctypes.CDLL(os.path.abspath(library))
        self.library.quantLLMCudaGetLastError.restype = ctypes.c_char_p
        self.library.quantLLMCudaArtifactGetNumLinears.restype = ctypes.c_size_t
        self.library.quantLLMCudaArtifactGetWeightBytes.restype = ctypes.c_uint64
        self.artifact, self.module = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("quantLLMCudaArtifactOpen", path.encode(), archive.encode() if archive else None, ctypes.byref(self.artifact))
        size = self.library.quantLLMCudaArtifactGetWeightBytes(self.artifact)
        options = Options(0, driver.encode() if driver else None, None, 0, 0)
        if memory:
            options.memory, options.memory_bytes = memory(size), size
        self.call("quantLLMCudaModuleCreate", self.artifact, ctypes.byref(options), ctypes.byref(self.module))

    def call(self, name, *arguments):
        if getattr(self.library, name)(*arguments):
            raise RuntimeError(f"{name}: {self.library.quantLLMCudaGetLastError().decode()}")

    def linears(self):
        result = []
        for index in range(self.library.quantLLMCudaArtifactGetNumLinears(self.artifact)):
            linear = Linear()
            self.call("quantLLMCudaArtifactGetLinear", self.artifact, ctypes.c_size_t(index), ctypes.byref(linear))
            result.append(linear)
        return result

    def operands(self, index, count):
        result = []
        for i in range(count):
            operand = Operand()
            self.call("quantLLMCudaArtifactGetEpilogueOperand", self.artifact, ctypes.c_size_t(index), ctypes.c_size_t(i), ctypes.byref(operand))
            result.append((operand.type.decode(), bool(operand.per_element)))
        return result

    def plan(self, index, m):
        plan = Plan()
        self.call("quantLLMCudaModulePlan", self.module, ctypes.c_size_t(index), ctypes.c_int64(m), ctypes.byref(plan))
        return plan

    def prepare(self, plan, x, y, workspace, epilogue):
        """launch(stream) of a plan on (address, bytes) pairs."""
        buffers = (Buffer * max(1, len(epilogue)))(*[Buffer(*pair) for pair in epilogue])
        operands = Operands(Buffer(*x), Buffer(*y), Buffer(*workspace), buffers, len(epilogue))

        def launch(stream):
            self.call("quantLLMCudaModuleLaunch", self.module, ctypes.byref(plan), ctypes.c_void_p(stream), ctypes.byref(operands))

        launch.keep = buffers
        return launch

    def close(self):
        self.library.quantLLMCudaModuleDestroy(self.module)
        self.library.quantLLMCudaArtifactDestroy(self.artifact)


# ---------------------------------------------------------------------------
# Canonical weights
# ---------------------------------------------------------------------------


class Safetensors:
    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            self.header = json.loads(file.read(size))
        self.begin = 8 + size

    def tensor(self, key):
        """In its own type, 8-bit floats as bytes; None if there is none."""
        import numpy as np
        import torch

        if key not in self.header:
            return None
        entry = self.header[key]
        first, last = entry["data_offsets"]
        data = np.fromfile(self.path, np.uint8, last - first, offset=self.begin + first)
        tensor = torch.from_numpy(data).cuda()
        if entry["dtype"] in TYPES:
            tensor = tensor.view(getattr(torch, TYPES[entry["dtype"]]))
        return tensor.reshape(entry["shape"])


def read_weight(archive, key, scheme, n, k):
    import schemes

    def need(name):
        tensor = archive.tensor(name)
        if tensor is None:
            raise ValueError(f"'{archive.path}' has no tensor '{name}'")
        return tensor

    _, _, grid_n, grid_k = scheme.grid(n, k)
    weight = schemes.Weight(n, k, scheme, schemes.unpack_codes(need(key + ".codes"), k, scheme.bits))
    if scheme.scale_scheme is not None:
        weight.scale_weight = read_weight(archive, key + ".scales", scheme.scale_scheme, grid_n, grid_k)
    else:
        weight.scales = need(key + ".scales").reshape(grid_n, grid_k)
    if scheme.zero != "none":
        weight.zeros = need(key + ".zeros").reshape(grid_n, grid_k)
    return weight


# ---------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------


def load_cases(options):
    """[(label, directory, index, entry of the manifest)]."""
    cases = []
    for directory in options.directories:
        with open(os.path.join(directory, "manifest.json")) as file:
            linears = json.load(file)["linears"]
        for index, linear in enumerate(linears):
            if options.linear in linear["name"]:
                label = linear["name"] if len(options.directories) == 1 else f"{os.path.basename(os.path.normpath(directory))}/{linear['name']}"
                cases.append((label, directory, index, linear))
    return cases


class Loaded:
    """An artifact on the device, in guarded memory, with its canonical weights."""

    def __init__(self, options, directory):
        import harness

        self.directory = directory

        def memory(size):
            self.memory = harness.Guarded(size)
            return self.memory.address

        self.runtime = Runtime(options.library, directory, options.archive, memory=memory)
        self.weights = Safetensors(options.weights or os.path.join(directory, "weights.safetensors"))
        self.before = self.memory.bytes.clone()


def launch_at_once(threads, runtime, plan, data):
    """Launches from several threads on streams of their own; a failure as text. Results must have the bits of a launch alone."""
    import torch

    import harness

    outputs = [harness.Guarded(data.y_buffer.size, offset=data.options.offset) for _ in range(threads)]
    scratch = [harness.Guarded(max(16, plan.workspace_bytes), fill=0) for _ in range(threads)]
    alone = data.run(runtime.prepare(plan, (data.x_buffer.address, data.x_buffer.size), (data.y_buffer.address, data.y_buffer.size), (scratch[0].address, plan.workspace_bytes), [(buffer.address, buffer.size) for buffer in data.operand_buffers]), torch.cuda.Stream())
    errors = []

    def run(index):
        try:
            stream = torch.cuda.Stream()
            launch = runtime.prepare(plan, (data.x_buffer.address, data.x_buffer.size), (outputs[index].address, outputs[index].size), (scratch[index].address, plan.workspace_bytes), [(buffer.address, buffer.size) for buffer in data.operand_buffers])
            for _ in range(8):
                launch(stream.cuda_stream)
            stream.synchronize()
        except RuntimeError as error:
            errors.append(str(error))

    running = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    torch.cuda.synchronize()
    if errors:
        return f"launches of several threads: {errors[0]}"
    for output in outputs:
        if not harness.same_bits(output.view(data.problem.output, alone.shape), alone):
            return "a launch beside others differs"
        if not output.intact():
            return "written outside of y beside other launches"
    return None


def worker(options):
    import torch

    import harness
    import schemes

    harness.start()
    feeder = harness.Feeder.make()
    loaded = None
    epilogues = dict(text.split("=", 1) for text in options.epilogue)

    def run(case):
        nonlocal loaded
        label, directory, index, entry = case
        if loaded is None or loaded.directory != directory:
            if loaded is not None:
                loaded.runtime.close()
                loaded = None
            loaded = Loaded(options, directory)
        runtime = loaded.runtime
        linear = runtime.linears()[index]
        scheme = schemes.Scheme.parse(linear.scheme.decode())
        weights = [read_weight(loaded.weights, key, scheme, linear.n, linear.k) for key in entry["packed"]["keys"]]
        operands = runtime.operands(index, linear.operands)
        steps = epilogues.get(entry["name"], epilogues.get("*", ""))
        problem = harness.Problem(weights, linear.activation.decode(), linear.output.decode(), [step for step in steps.split(",") if step], [kind for kind, _ in operands], [per_element for _, per_element in operands])
        for m in options.tokens:
            try:
                plan = runtime.plan(index, m)
            except RuntimeError as error:
                if "has a kernel for" not in str(error):
                    raise
                yield f"skip {label} m={m}: no kernel", {"case": label, "m": m, "passed": True, "skipped": True}
                continue
            workspace = harness.Guarded(max(16, plan.workspace_bytes), fill=0)
            if m == 0:
                sizes = [0 if per_element else linear.n * torch.finfo(schemes.FLOAT_TYPES[kind]).bits // 8 for kind, per_element in operands]
                enough = harness.Guarded(max([16] + sizes))
                runtime.prepare(plan, (None, 0), (None, 0), (None, 0), [(enough.address, size) for size in sizes])(0)
                torch.cuda.synchronize()
                yield f"ok   {label} {linear.n}x{linear.k} m=0", {"case": label, "m": 0, "passed": True}
                continue
            data = harness.Case(problem, m, options)

            def prepare(buffers, plan=plan, workspace=workspace):
                return runtime.prepare(plan, buffers["x"], buffers["y"], (workspace.address, plan.workspace_bytes), [buffers[f"epilogue{i}"] for i in range(len(operands))])

            text, record = data.check(prepare(data.buffers()), {"workspace": workspace, "weights": loaded.memory}, (prepare, feeder, ({}, {})))
            failure = launch_at_once(options.threads, runtime, plan, data)
            if failure:
                text, record["passed"] = f"{text} | {failure}", False
                record["failures"].append(failure)
            if not torch.equal(loaded.memory.bytes, loaded.before):
                text, record["passed"] = text + " | weights overwritten", False
            record.update({"case": label, "n": linear.n, "k": linear.k, "scheme": linear.scheme.decode(), "kernel": plan.kernel.decode()})
            yield f"{'ok  ' if record['passed'] else 'FAIL'} {label} {linear.n}x{linear.k} m={m} {plan.kernel.decode()} {text}", record

    workers.work(load_cases(options), options.start, run)
    if loaded is not None:
        loaded.runtime.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directory with manifest.json")
    parser.add_argument("--weights", help="safetensors file of the canonical weights (default: weights.safetensors in each DIR)")
    parser.add_argument("--library", required=True, help="libQuantLLMRuntime.so")
    parser.add_argument("--archive", help="packed weights, if not where the manifest says")
    parser.add_argument("--linear", default="", help="only linears whose name contains this")
    parser.add_argument("--epilogue", action="append", default=[], help="NAME=steps (or *=steps) that the epilogue computes, as in check_kernel.py")
    parser.add_argument("--threads", type=int, default=4, help="threads that launch at once, each on a stream of its own (default: %(default)s)")
    workers.add_arguments(parser, "0," + workers.DEFAULT_TOKENS)
    return workers.main(parser.parse_args(), __file__, load_cases, worker, "linears", "no cases: expected linears in the manifest")


if __name__ == "__main__":
    sys.exit(main())
