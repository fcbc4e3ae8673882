# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Checks quant_llm.torch on a GPU: numbers against float64, the operator's registration, torch.compile, CUDA graphs, streams, devices.

Needs the package quant_llm and torch. Kernels come from the cache (QUANT_LLM_CACHE_DIR); missing ones are compiled into it where the compiler is.

    check_torch.py --compile           only fills the cache, for a machine without compiler; needs no GPU
    check_torch.py [--only NAME,...]
"""

import argparse
import sys
import time
import traceback

import torch

import schemes

INT4 = "int4, block = [1, 64], scale = f16"
UINT4 = "uint4, block = [1, 128], scale = f16, zero = int"
G128 = "int4, block = [1, 128], scale = f16"
NF4 = "nf4, block = [1, 64], scale = f16"
NVFP4 = "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, -1], scale = f32>"
LAYERS = [  # scheme, n, k, type of x, bias
    (INT4, 576, 576, torch.float16, False),
    (INT4, 576, 576, torch.float16, True),
    (UINT4, 200, 264, torch.bfloat16, True),
    (NVFP4, 192, 576, torch.float16, False),
    # Values from a table in shared memory.
    (NF4, 576, 576, torch.float16, True),
]
# On an H100 some numbers of tokens have kernels that deal tiles out by their columns, with a workspace.
STREAM_K = [(G128, 1280, 8192, torch.float16, False), (G128, 3584, 3584, torch.float16, True)]
TOKENS = (1, 2, 7, 16, 33, 100, 300)


def make_layer(scheme, n, k, bias, device="cuda", seed=1):
    """A QuantLinear of random weights, and them in float64."""
    from quant_llm.torch import QuantLinear
    from quant_llm._scheme import parse_scheme

    generator = torch.Generator().manual_seed(seed)
    weight = schemes.random_weight(n, k, schemes.Scheme.parse(scheme), generator)
    packed = schemes.pack_weight(weight)
    parts = [None if part is None else part.contiguous().view(torch.uint8).reshape(shape) for part, shape in zip((packed.packed, packed.scales, packed.zeros), parse_scheme(scheme).packed_shapes(n, k))]
    values = torch.randn(n, generator=generator) if bias else None
    layer = QuantLinear(*parts, packed.output_scale, k, n, scheme, None if values is None else torch.nn.Parameter(values)).to(device)
    return layer, weight.dequantize().double().to(device), None if values is None else values.double().to(device)


def random(*shape, dtype=torch.float16, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def relative(actual, expected):
    return float(((actual.double() - expected).norm() / expected.norm()).detach())


def expect(condition, message=""):
    if not condition:
        raise AssertionError(message or "failed")


def expect_error(part, run):
    from quant_llm import QuantLLMError

    try:
        run()
    except (QuantLLMError, RuntimeError) as error:
        expect(part in str(error), f"expected '{part}' in '{error}'")
        return
    raise AssertionError(f"expected an error with '{part}'")


def check_numbers():
    for scheme, n, k, dtype, bias in LAYERS:
        layer, weight, values = make_layer(scheme, n, k, bias)
        if values is not None:
            layer.bias.data = layer.bias.data.to(dtype)
            values = layer.bias.data.double()
        dense = weight.to(dtype)
        for m in TOKENS:
            x = random(m, k, dtype=dtype)
            exact = torch.nn.functional.linear(x.double(), weight, values)
            error, baseline = relative(layer(x), exact), relative(torch.nn.functional.linear(x, dense, None if values is None else layer.bias.data), exact)
            expect(error <= 2 * baseline, f"{scheme} {n}x{k} m={m}: error {error:.2e}, dense {baseline:.2e}")
        # The fallback is the same weight.
        expect(relative(layer.dequantize(), weight) < 1e-6, scheme)
        on_cpu = make_layer(scheme, n, k, bias, "cpu")[0]
        expect(relative(on_cpu(x.cpu()).cuda(), exact) < 2 * baseline + 1e-2, scheme)


def check_shapes():
    layer, weight, _ = make_layer(*LAYERS[0][:3], False)
    x = random(3, 5, 576)
    y = layer(x)
    expect(y.shape == (3, 5, 576) and torch.equal(y.view(15, 576), layer(x.view(15, 576))))
    expect(layer(x[0, 0]).shape == (576,))
    expect(layer(x[:0]).shape == (0, 5, 576) and layer(x[:, :0]).shape == (3, 0, 576))
    wide = random(15, 600)
    expect(torch.equal(layer(wide[:, 7:583]), layer(wide[:, 7:583].contiguous())))
    expect(torch.equal(layer(x.transpose(0, 1)), layer(x.transpose(0, 1).contiguous())))
    flat = random(577)
    expect(torch.equal(layer(flat[1:]), layer(flat[1:].clone())), "misaligned")
    expect_error("expected x with 576 columns but got shape [3, 575]", lambda: layer(random(3, 575)))
    expect_error("use model.half()", lambda: layer(random(3, 576, dtype=torch.float32)))
    expect_error("on one device", lambda: layer(x.cpu()))
    bits = layer(x)
    expect(all(torch.equal(layer(x), bits) for _ in range(20)), "not deterministic")


def check_opcheck():
    for index in (0, 1):
        scheme, n, k, dtype, bias = LAYERS[index]
        layer, _, _ = make_layer(scheme, n, k, bias)
        for x in (random(4, k), random(2, 3, k).requires_grad_(), random(0, k)):
            arguments = (x, layer.packed, layer.packed_scales, None, layer.bias, layer.output_scale, n, k, layer.scheme, "f16", "")
            torch.library.opcheck(torch.ops.quant_llm.linear.default, arguments)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = make_layer(*LAYERS[0][:3], False)[0], make_layer(*LAYERS[1][:3], True, seed=3)[0]

    def forward(self, x):
        return x + self.down(torch.nn.functional.silu(self.up(x)))


def check_compile():
    block, x = Block(), random(6, 576)
    with torch.no_grad():
        expected = block(x)
        compiled = torch.compile(block, fullgraph=True, dynamic=True)
        expect(relative(compiled(x), expected.double()) < 1e-3)
        for m in (1, 3, 40):
            expect(relative(compiled(random(m, 576)), block(random(m, 576)).double()) < 1e-3)
        graphs = torch.compile(block, fullgraph=True, mode="reduce-overhead")
        for seed in range(4):
            x = random(6, 576, seed=seed)
            expect(relative(graphs(x), block(x).double()) < 1e-3, "reduce-overhead")


def check_graphs():
    from quant_llm.torch import prepare_kernels

    layer, _, _ = make_layer(INT4, 576, 576, False)
    x = random(6, 576)
    other = torch.device("cuda")
    graph = torch.cuda.CUDAGraph()
    layer(x)
    with torch.cuda.graph(graph):
        y = layer(x)
    for seed in range(3):
        x.copy_(random(6, 576, seed=seed))
        graph.replay()
        expect(torch.equal(y, layer(x)))
    # Kernels that are not there yet: an error, or prepared ones.
    import quant_llm.torch as ql

    ready = dict(ql._store.ready)
    ql._store.ready.clear()
    stream = torch.cuda.Stream()

    def capture():
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
            layer(x)

    expect_error("prepare_kernels", capture)
    torch.cuda.synchronize(other)
    prepare_kernels(layer)
    capture()
    ql._store.ready.update(ready)


def check_streams():
    layer, _, _ = make_layer(INT4, 576, 576, False)
    x = random(64, 576)
    expected = layer(x)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for stream in streams * 8:
        with torch.cuda.stream(stream):
            results.append(layer(x))
    torch.cuda.synchronize()
    expect(all(torch.equal(result, expected) for result in results))


@torch.no_grad()
def check_stream_k():
    """A workspace that grows, is shared by layers one after the other, and is left as it was."""
    import quant_llm.torch as ql

    tokens = (400, 512, 1280, 1024, 64)
    layers = [make_layer(scheme, n, k, bias) for scheme, n, k, _, bias in STREAM_K]
    cases = []
    for layer, weight, values in layers:
        if values is not None:
            layer.bias.data = layer.bias.data.half()
            values = layer.bias.data.double()
        for m in tokens:
            x = random(m, weight.shape[1])
            exact = torch.nn.functional.linear(x.double(), weight, values)
            dense = torch.nn.functional.linear(x, weight.half(), None if values is None else layer.bias.data)
            y = layer(x)
            expect(relative(y, exact) <= 2 * relative(dense, exact), f"{tuple(weight.shape)} m={m}: error {relative(y, exact):.2e}, dense {relative(dense, exact):.2e}")
            cases.append((layer, x, y))
    used = sum(memory.numel() for memory in ql._store.workspaces.values())
    if torch.cuda.get_device_capability() == (9, 0):
        expect(used > 16384, "no kernel with a workspace was chosen")

    def flags_are_clear():
        torch.cuda.synchronize()
        return all(int(memory.flatten()[:16384].count_nonzero()) == 0 for memory in ql._store.workspaces.values())

    expect(flags_are_clear())
    # By turns, on several streams at once, each with memory of its own.
    streams = [torch.cuda.Stream() for _ in range(3)]
    results = []
    for _ in range(6):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results += [(y, layer(x)) for layer, x, y in cases[i:] + cases[:i]]
    torch.cuda.synchronize()
    expect(all(torch.equal(first, again) for first, again in results), "bits differ over launches and streams")
    expect(flags_are_clear())
    results.clear()
    # All in one graph; replays beside launches of their own.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [layer(x) for layer, x, _ in cases]
    for _ in range(10):
        for y in captured:
            y.fill_(torch.nan)
        graph.replay()
        again = [layer(x) for layer, x, _ in cases]
        torch.cuda.synchronize()
        for (_, _, first), replayed, launched in zip(cases, captured, again):
            expect(torch.equal(first, replayed), "a graph replay differs")
            expect(torch.equal(first, launched), "a launch after a graph replay differs")
    expect(flags_are_clear())
    layer, x, _ = cases[0]
    arguments = (x, layer.packed, layer.packed_scales, None, layer.bias, layer.output_scale, *STREAM_K[0][1:3], layer.scheme, "f16", "")
    with torch.enable_grad():
        torch.library.opcheck(torch.ops.quant_llm.linear.default, arguments)
    return f"workspaces of {used} bytes"


@torch.no_grad()
def check_constant_weights():
    """Launches that start while the kernel before them ends: the same bits, also of weights that were written just before."""
    layers = [make_layer(INT4, 576, 576, False, seed=seed)[0] for seed in range(6)]
    other = make_layer(INT4, 576, 576, False, seed=9)[0]
    x = random(7, 576)

    def run(constant):
        y = x
        for first, second in zip(layers[::2], layers[1::2]):
            first.constant_weights = second.constant_weights = constant
            y = torch.nn.functional.layer_norm(second(first(y)), (576,))
        return y

    expected = run(False)
    expect(all(torch.equal(run(True), expected) for _ in range(50)), "bits differ")
    streams = [torch.cuda.Stream() for _ in range(3)]
    results = []
    torch.cuda.synchronize()
    for stream in streams * 10:
        with torch.cuda.stream(stream):
            results.append(run(True))
    torch.cuda.synchronize()
    expect(all(torch.equal(result, expected) for result in results), "bits differ on several streams")
    # A graph, with a copy and a fill between kernels; weights that change between replays.
    graph, copied = torch.cuda.CUDAGraph(), torch.empty_like(x)
    with torch.cuda.graph(graph):
        y = run(True)
        copied.copy_(y)
        filled = torch.zeros_like(y)
        again = layers[0](copied + filled)
    for state in (layers[3].state_dict(), other.state_dict(), layers[3].state_dict()):
        state = {name: value.clone() for name, value in state.items()}
        layers[2].load_state_dict(state)
        graph.replay()
        first, second = y.clone(), again.clone()
        expected = run(False)
        expect(torch.equal(first, expected), "a replay differs after weights were written")
        layers[0].constant_weights = False
        expect(torch.equal(second, layers[0](expected)), "a replay differs behind a copy")
    # Written while the GPU has work to do, and used at once.
    states = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in (layers[0], other)]
    layer, busy = layers[1], random(4096, 4096)
    layer.constant_weights = False
    wanted = []
    for state in states:
        layer.load_state_dict(state)
        wanted.append(layer(x))
    layer.constant_weights = True
    results = []
    for i in range(60):
        torch.mm(busy, busy)
        layer.load_state_dict(states[i % 2])
        results.append([layer(x) for _ in range(3)])
    torch.cuda.synchronize()
    expect(all(torch.equal(y, wanted[i % 2]) for i, three in enumerate(results) for y in three), "stale weights")


def check_gradient():
    layer, weight, _ = make_layer(INT4, 576, 576, False)
    x = random(5, 576).requires_grad_()
    grad = random(5, 576, seed=9)
    layer(x).backward(grad)
    expect(relative(x.grad, grad.double() @ weight) < 2e-3)


def check_devices():
    if torch.cuda.device_count() < 2:
        return "skipped: one GPU"
    layer, weight, _ = make_layer(INT4, 576, 576, False, device="cuda:1")
    x = random(5, 576).to("cuda:1")
    expect(torch.cuda.current_device() == 0)
    expect(relative(layer(x), x.double() @ weight.T) < 2e-3)
    return None


CHECKS = {name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")}


def fill_cache(chip):
    from quant_llm._build import Problem, compile_kernels, compiler_identity
    from quant_llm._scheme import parse_scheme
    from quant_llm.torch import _digest, _store

    for scheme, n, k, dtype, bias in LAYERS + STREAM_K:
        kind = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
        problem = Problem(parse_scheme(scheme).text, n, k, kind, kind, bias)
        print(_store.cache.get(f"{_digest([chip, *problem])}-{compiler_identity()}", lambda directory, problem=problem: compile_kernels(problem, chip, directory)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="only compile the kernels into the cache")
    parser.add_argument("--chip", default="sm_90a", help="what to compile for (default: %(default)s)")
    parser.add_argument("--only", help=f"some of {', '.join(CHECKS)}")
    options = parser.parse_args()
    if options.compile:
        fill_cache(options.chip)
        return 0
    failures = 0
    for name in options.only.split(",") if options.only else CHECKS:
        begin = time.monotonic()
        try:
            note = CHECKS[name]()
            print(f"ok   {name} {note or ''} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception:  # One check must not end the others.
            failures += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
