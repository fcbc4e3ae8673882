# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the GPU checks on the CPU, to see that they pass what is right and find what is wrong.

torch's "cuda" becomes the CPU. check_kernel.py gets a driver whose one kernel computes the product in torch, with a fault on demand;
check_linear.py gets the runtime library on the fake driver of the unit tests, which computes int4 products from the packed layout.

    fake_gpu.py LIBRARY DRIVER
    fake_gpu.py --artifact DIR[,GROUP[,EXPERTS[,EPILOGUE]]]...   only writes artifacts for that driver, whose kernel takes groups of another size,
                                                                 or does nothing (0); with an epilogue of EPILOGUES
"""

import contextlib
import ctypes
import json
import os
import struct
import sys
import tempfile
import types

import torch


def become_cpu():
    """Replaces what the checks use of torch.cuda."""

    def on_cpu(function):
        def call(*arguments, **options):
            if options.get("device") == "cuda":
                options["device"] = "cpu"
            return function(*arguments, **options)

        return call

    for name in ("arange", "empty", "full", "rand", "randint", "randn", "tensor", "zeros"):
        setattr(torch, name, on_cpu(getattr(torch, name)))
    generator, to = torch.Generator, torch.Tensor.to
    torch.Generator = lambda device: generator()
    torch.Tensor.to = lambda self, *arguments, **options: to(self, *["cpu" if isinstance(argument, str) and argument == "cuda" else argument for argument in arguments], **options)
    torch.Tensor.cuda = lambda self: self

    class Stream:
        cuda_stream = 0

        def synchronize(self):
            pass

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self, stream):
            pass

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 1.0

    class Graph:
        """Launches run when they are captured; a replay is what has run."""

        def capture_begin(self):
            pass

        def capture_end(self):
            pass

        def replay(self):
            pass

    cuda = torch.cuda
    cuda.Stream, cuda.Event, cuda.CUDAGraph = Stream, Event, Graph
    cuda.empty_cache = lambda: None
    cuda.synchronize = lambda: FakeDriver.unfinished.clear()
    cuda.get_device_capability = lambda: (9, 0)
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.get_device_properties = lambda device: types.SimpleNamespace(L2_cache_size=1 << 16, multi_processor_count=4)


become_cpu()

import check_grouped  # noqa: E402
import check_kernel  # noqa: E402
import check_linear  # noqa: E402
import driver  # noqa: E402
import harness  # noqa: E402
import schemes  # noqa: E402


# ---------------------------------------------------------------------------
# check_kernel.py
# ---------------------------------------------------------------------------


def put_back(current, address, begin, old):
    """Puts what was at `begin` into the copy of what is at the address, where they meet."""
    low, high = max(begin, address), min(begin + len(old), address + len(current))
    if low < high:
        current[low - address : high - address] = old[low - begin : high - begin]


class FakeDriver:
    """A kernel that computes y from x, with a fault."""

    fault, checker, desc, launches = None, None, None, 0
    # What the launch before writes, as it was before, if nobody has waited for it: {address: bytes}.
    unfinished = {}

    def call(self, *arguments):
        pass

    def load(self, image):
        return None

    def function(self, module, name, shared_bytes, cluster=1):
        return name

    def resources(self, function):
        return 40, 0

    def tensor_map(self, *arguments):
        return (ctypes.c_char * 192)(), 0

    def prepare(self, function, grid, threads, shared_bytes, cluster, arguments, overlaps=False):
        def feed(values):
            copies = [(to, source, 16 * n) for to, source, n in zip(*[iter(values)] * 3)]
            FakeDriver.unfinished = {to: ctypes.string_at(to, size) for to, _, size in copies if size}
            for to, source, size in copies:
                ctypes.memmove(to, source, size)

        def view(address, shape):
            return torch.frombuffer((ctypes.c_char * (2 * shape[0] * shape[1])).from_address(address.value), dtype=torch.float16).reshape(shape)

        def launch(stream):
            cls = FakeDriver
            if function.startswith("read"):
                return
            if function == "feed":
                feed([argument.value for argument in arguments[:9]])
                return
            cls.launches += 1
            named = dict(zip(cls.desc["args"], arguments))
            m, (problem, _) = named["m"].value, cls.checker.problem(cls.desc)

            def stale(name, shape):
                """As a kernel sees it that does not wait for it."""
                address, size = named[name].value, 2 * shape[0] * shape[1]
                current = bytearray(ctypes.string_at(address, size))
                for begin, old in cls.unfinished.items() if overlaps else ():
                    if cls.fault == "does not wait for a kernel" and begin != address:
                        continue
                    put_back(current, address, begin, old)
                return torch.frombuffer(current, dtype=torch.float16).reshape(shape)

            def is_unfinished(address):
                return overlaps and any(begin <= address < begin + len(old) for begin, old in cls.unfinished.items())

            y = view(named["y"], (m, problem.n))
            x, operand = view(named["x"], (m, problem.k)), view(named["epilogue0"], (1, problem.n))
            if cls.fault in ("does not wait", "does not wait for a kernel"):
                x = stale("x", (m, problem.k))
            if cls.fault == "does not wait for operands":
                operand = stale("epilogue0", (1, problem.n))
            result = (x.double() @ problem.exact[0].T + operand.double()).to(torch.float16)
            if cls.fault == "wrong element":
                result[m // 2, 0] += 1
            if cls.fault == "imprecise":
                result *= 1.002
            if cls.fault == "clears NaN":
                result = result.nan_to_num(0)
            if cls.fault == "spreads NaN" and result.isnan().any():
                result[:] = torch.nan
            if cls.fault == "not deterministic" and cls.launches % 7 == 0:
                result[0, 0] = -result[0, 0]
            # Sums that were in the workspace before the launch before has ended, a result that was written before.
            if cls.fault == "uses the workspace at once" and is_unfinished(named["workspace"].value + harness.ZEROS):
                result[0, 0] = torch.nan
            if cls.fault == "writes at once" and is_unfinished(named["y"].value):
                result = y.clone()
            if cls.fault == "leaves a flag" and is_unfinished(named["x"].value):
                ctypes.memset(named["workspace"].value + 4, 1, 1)
            cls.unfinished = {named["y"].value: ctypes.string_at(named["y"].value, 2 * m * problem.n)}
            if cls.fault == "skips an element":
                result[m - 1, problem.n - 1] = y[m - 1, problem.n - 1]
            y.copy_(result)
            if cls.fault == "writes before":
                ctypes.memset(named["y"].value - 4, 0, 4)
            if cls.fault == "writes behind":
                ctypes.memset(named["y"].value + 2 * m * problem.n, 0, 2)

        return launch


driver.Driver = FakeDriver

FAULTS = {
    None: None,
    "wrong element": "error above",
    "imprecise": "error above",
    "clears NaN": "NaN or infinity misplaced",
    "spreads NaN": "NaN or infinity misplaced",
    "not deterministic": "differs in",
    "does not wait": "launches that overlap differ",
    "does not wait for a kernel": "launches that overlap differ",
    "does not wait for operands": "launches that overlap differ",
    "uses the workspace at once": "launches that overlap differ",
    "writes at once": "launches that overlap differ",
    "leaves a flag": "launches that overlap leave the workspace without its zeros",
    "skips an element": "error above",
    "writes before": "written outside of y",
    "writes behind": "written outside of y",
}


def test_kernels(directory):
    image = os.path.join(directory, "kernel.cubin")
    with open(image, "w") as file:
        file.write("nothing")
    for scheme in ("int4, block = [1, 128], scale = f16", "uint3, block = [1, 32], scale = bf16, zero = int"):
        names = ["tensor_map_x", "x", "packed0", "packed_scales0"] + ["packed_zeros0"] * ("zero" in scheme) + ["output_scale0", "epilogue0", "y", "workspace", "m"]
        desc = {"name": "k", "n": 72, "k": 136, "scheme": scheme, "threads": 128, "shared_bytes": 1000, "token_tile": 16, "row_tile": 64, "grid": "tiles", "args": names, "tensor_map_x": {"box_k": 64, "box_tokens": 16}, "dependent_launch": 1}
        desc.update({"epilogue": [{"type": "f16"}], "epilogue_steps": ["bias"], "workspace_bytes": harness.ZEROS + 4096})
        for fault, message in FAULTS.items():
            options = types.SimpleNamespace(time=fault is None, seed=1, offset=16, repeat=8, tokens=[5, 40])
            checker = check_kernel.Checker(options)
            FakeDriver.fault, FakeDriver.checker, FakeDriver.desc = fault, checker, desc
            for line, record in checker.run("case", desc, image):
                assert record["passed"] == (fault is None), line
                assert message is None or message in line, line
                assert record["overlap"] == [True, True], line
                if fault is None:
                    assert record["us"] > 0 and record["read_limit_us"] > 0 and record["cublas_us"] > 0, record


# ---------------------------------------------------------------------------
# check_linear.py
# ---------------------------------------------------------------------------


def write_safetensors(path, tensors):
    names = {torch.float16: "F16", torch.float32: "F32", torch.uint8: "U8"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


RELU = [{"op": "arith.constant", "value": 0}, {"op": "arith.maximumf", "args": ["sum0", 0]}]
BIAS = [{"op": "arith.extf", "args": ["epilogue0"]}, {"op": "arith.addf", "args": ["sum0", 0]}, {"op": "arith.constant", "value": 0}]
# Steps of the formula. The driver computes relu(sum + bias), and relu(sum of the first weight) * (sum of the second).
EPILOGUES = {
    "bias": [*BIAS, {"op": "arith.maximumf", "args": [1, 2]}, {"op": "quant_llm.yield", "args": [3]}],
    "bias_without_relu": [*BIAS, {"op": "quant_llm.yield", "args": [1]}],
    "gate": [*RELU, {"op": "arith.mulf", "args": [1, "sum1"]}, {"op": "quant_llm.yield", "args": [2]}],
    "gate_of_the_other": [{"op": "arith.constant", "value": 0}, {"op": "arith.maximumf", "args": ["sum1", 0]}, {"op": "arith.mulf", "args": ["sum0", 1]}, {"op": "quant_llm.yield", "args": [2]}],
    "bias_unknown": [{"op": "math.surprise", "args": ["sum0"]}, {"op": "quant_llm.yield", "args": [0]}],
    "bias_untold": None,
}


def write_artifact(directory, n=72, k=200, group=32, kernel_group=32, experts=0, epilogue=None):
    """An artifact for the fake driver, and the canonical weights."""
    import hashlib

    scheme = f"int4, block = [1, {group}], scale = f16"
    keys = ["w", "u"] if epilogue and epilogue.startswith("gate") else ["w"]
    biased = bool(epilogue) and epilogue.startswith("bias")
    canonical, stored = {}, {}
    for seed, key in enumerate(keys, 1):
        weight = schemes.random_weight(max(experts, 1) * n, k, schemes.Scheme.parse(scheme), torch.Generator("cpu").manual_seed(seed))
        packed = schemes.pack_weight(weight)
        canonical.update({f"{key}.codes": schemes.pack_codes(weight.codes, 4), f"{key}.scales": weight.scales})
        stored.update({f"{key}.packed": packed.packed, f"{key}.packed_scales": packed.scales, f"{key}.output_scale": torch.tensor(packed.output_scale)})
    write_safetensors(os.path.join(directory, "weights.safetensors"), canonical)
    write_safetensors(os.path.join(directory, "packed.safetensors"), stored)
    shape = f"@{n},{k},{kernel_group}" + (f",{experts}" if experts else "") if kernel_group else ""
    arguments = ["x"] + [f"{name}{i}" for i in range(len(keys)) for name in ("packed", "packed_scales", "output_scale")]
    arguments += ["offsets"] * bool(experts) + ["epilogue0"] * biased + ["y", "m"]
    sizes = ",".join("4" if name == "m" or name.startswith("output_scale") else "8" for name in arguments)
    code = f"\x7fELF product:{sizes}{shape}".encode()
    with open(os.path.join(directory, "kernels.cubin"), "wb") as file:
        file.write(code)
    kernel = {"name": "product", "file": "kernels.cubin", "sha256": hashlib.sha256(code).hexdigest(), "threads": 128, "shared_bytes": 0, "token_tile": 16, "row_tile": 64, "grid": "tiles", "args": arguments}
    linear = {"name": "layer", "n": n, "k": k, "scheme": scheme, "activation": "f16", "output": "f16", "weights": keys}
    if experts:
        linear.update({"kind": "grouped_linear", "experts": experts, "offsets": "i32"})
    if epilogue:
        linear["epilogue"] = [{"type": "f16"}] * biased
        if EPILOGUES[epilogue] is not None:
            linear["formula"] = EPILOGUES[epilogue]
    linear.update({"packed": {"archive": "packed.safetensors", "keys": keys}, "variants": [{"tokens": [1, 100], "kernel": "product"}]})
    with open(os.path.join(directory, "manifest.json"), "w") as file:
        json.dump({"schema": "quant_llm.manifest/1", "chip": "sm_90a", "kernels": [kernel], "linears": [linear]}, file)


def run_linear(directory, library):
    """What a worker of check_linear.py prints."""
    options = types.SimpleNamespace(directories=[directory], library=library, archive=None, weights=os.path.join(directory, "weights.safetensors"), epilogue=[], linear="", tokens=[0, 1, 7, 101], seed=1, offset=16, repeat=3, start=0, threads=2)
    with tempfile.TemporaryFile("w+") as output, contextlib.redirect_stdout(output):
        check_linear.worker(options)
        output.seek(0)
        return output.read()


def run_grouped(directory, library):
    """What a worker of check_grouped.py prints."""
    options = types.SimpleNamespace(directories=[directory], library=library, tokens=[0, 1, 9], time=False, seed=1, offset=16, repeat=3, start=0)
    with tempfile.TemporaryFile("w+") as output, contextlib.redirect_stdout(output):
        check_grouped.worker(options)
        output.seek(0)
        return output.read()


def with_faults(original, third):
    """Runtime.prepare, or that of experts, of launches with the fault. `third` is what their third buffer is."""

    def prepare(self, plan, x, y, more, epilogue):
        launch = original(self, plan, x, y, more, epilogue)
        faults = {"does not wait": x, "does not wait for offsets": more if third == "offsets" else (None, 0)}

        def run(stream):
            address, size = faults.get(FakeDriver.fault, (None, 0))
            if size:
                now = ctypes.string_at(address, size)
                current = bytearray(now)
                for begin, old in FakeDriver.unfinished.items():
                    put_back(current, address, begin, old)
                ctypes.memmove(address, bytes(current), size)
            before = {y[0]: ctypes.string_at(*y)} if y[1] else {}
            offsets = list(struct.unpack(f"{more[1] // 4}i", ctypes.string_at(*more))) if third == "offsets" else [0]
            # Of offsets that make no sense the fake driver knows nothing.
            if offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] <= plan.m:
                launch(stream)
            if size:
                ctypes.memmove(address, now, size)
            FakeDriver.unfinished = before

        run.keep = launch
        return run

    return prepare


def test_grouped(directory, library):
    # Names and sizes as check_grouped.py makes them; 32-bit offsets.
    case = {"name": "experts", "experts": 3, "n": 48, "k": 96, "scheme": "int4, block = [1, 32], scale = f16", "act": "f16", "out": "f16", "steps": "", "offsets": "i32"}
    write_artifact(directory, case["n"], case["k"], experts=case["experts"])
    path = os.path.join(directory, "manifest.json")
    with open(path) as file:
        manifest = json.load(file)
    manifest["linears"][0]["packed"]["keys"] = ["w0"]
    with open(path, "w") as file:
        json.dump(manifest, file)
    with open(os.path.join(directory, "case.json"), "w") as file:
        json.dump(case, file)
    for fault in (None, "does not wait", "does not wait for offsets"):
        FakeDriver.fault = fault
        text = run_grouped(directory, library)
        assert text.count("ok  ") == (9 if fault is None else 1) and "@done" in text, text
        assert text.count("launches that overlap differ") == (0 if fault is None else 16), text
    FakeDriver.fault = None


def test_linears(directory, library):
    write_artifact(directory)
    text = run_linear(directory, library)
    for line in ("ok   layer 72x200 m=0", "ok   layer 72x200 m=1 product err", "ok   layer 72x200 m=7 product err", "skip layer m=101", "@done"):
        assert line in text, text
    assert "FAIL" not in text, text
    FakeDriver.fault = "does not wait"
    text = run_linear(directory, library)
    assert text.count("launches that overlap differ") == 2 * 2 and "@done" in text, text
    FakeDriver.fault = None
    # One code of the weights that are the reference is changed.
    path = os.path.join(directory, "weights.safetensors")
    with open(path, "r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + size)
        byte = file.read(1)[0]
        file.seek(8 + size)
        file.write(bytes([byte ^ 0x44]))
    text = run_linear(directory, library)
    assert "FAIL layer 72x200 m=7 product err" in text and "rows 0..0 (1)" in text, text


if __name__ == "__main__":
    if sys.argv[1] == "--artifact":
        for text in sys.argv[2:]:
            directory, group, experts, epilogue = (text.split(",") + ["32", "0", None][text.count(",") :])[:4]
            os.makedirs(directory, exist_ok=True)
            write_artifact(directory, kernel_group=int(group), experts=int(experts), epilogue=epilogue)
        sys.exit()
    library, os.environ["QUANT_LLM_CUDA_DRIVER"] = sys.argv[1:3]
    check_linear.Runtime.prepare = with_faults(check_linear.Runtime.prepare, "workspace")
    check_grouped.GroupedRuntime.prepare_grouped = with_faults(check_grouped.GroupedRuntime.prepare_grouped, "offsets")
    with tempfile.TemporaryDirectory() as scratch:
        test_kernels(scratch)
        test_linears(scratch, library)
    with tempfile.TemporaryDirectory() as scratch:
        test_grouped(scratch, library)
    print("the checks find faults: ok")
