# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Guarded buffers, comparison with float64, and timing, for everything that runs on the GPU."""

import math
import statistics

import torch

from schemes import FLOAT_TYPES

GUARD = 4096
# What is zero at the beginning of a workspace before and after each launch.
ZEROS = 16384
ACTIVATIONS = {
    "silu": lambda v: v * torch.sigmoid(v),
    "gelu": lambda v: 0.5 * v * (1 + torch.erf(v * math.sqrt(0.5))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "relu": lambda v: torch.where(v < 0, torch.zeros_like(v), v),
}


class Guarded:
    """Device memory between two zones of 0xff bytes (NaN in every float type): what is read beyond the ends poisons the result, and what
    is written there is seen. The memory begins at a multiple of 256 plus `offset`."""

    def __init__(self, size, offset=0, fill=0xFF):
        self.storage = torch.full((GUARD + offset + size + GUARD + 256,), 0xFF, dtype=torch.uint8, device="cuda")
        self.begin = GUARD + (-self.storage.data_ptr() - GUARD) % 256 + offset
        self.size = size
        if fill != 0xFF:
            self.bytes.fill_(fill)

    @property
    def bytes(self):
        return self.storage[self.begin : self.begin + self.size]

    @property
    def address(self):
        return self.storage.data_ptr() + self.begin

    @staticmethod
    def of(tensor, offset=0):
        data = tensor.contiguous().view(torch.uint8).flatten()
        result = Guarded(data.numel(), offset)
        result.bytes.copy_(data)
        return result

    def view(self, dtype, shape):
        """The contents as a tensor (a copy where the memory is not aligned for a view)."""
        return self.bytes.clone().view(dtype).reshape(shape)

    def intact(self):
        return bool((self.storage[: self.begin] == 0xFF).all()) and bool((self.storage[self.begin + self.size :] == 0xFF).all())


class Pieces:
    """Buffers of {name: bytes} between guard zones in one guarded memory, so that one copy fills all of them."""

    def __init__(self, sizes, offset):
        self.sizes, self.begin, end = sizes, {}, 0
        for name, size in sizes.items():
            self.begin[name] = end + offset
            end += -(-(offset + size) // 256) * 256 + GUARD
        self.memory = Guarded(end)

    def address(self, name):
        return self.memory.address + self.begin[name]

    def bytes(self, name):
        return self.memory.bytes[self.begin[name] : self.begin[name] + self.sizes[name]]

    def fill(self, values):
        for name, value in values.items():
            self.bytes(name).copy_(value.contiguous().view(torch.uint8).flatten())
        return self


def feed_kernel():
    """PTX of a kernel that copies up to three times `n` vectors of 16 bytes. The next one may start at once; this one waits for those before it,
    and then some time, in which one that does not wait reads and writes."""
    parameters = ", ".join(f".param .u64 to{i}, .param .u64 from{i}, .param .u64 n{i}" for i in range(3))
    copies = "\n".join(
        f"""  ld.param.u64 %rd1, [to{i}];
  ld.param.u64 %rd2, [from{i}];
  ld.param.u64 %rd3, [n{i}];
  cvta.to.global.u64 %rd1, %rd1;
  cvta.to.global.u64 %rd2, %rd2;
  mov.u64 %rd4, %rd10;
COPY{i}:
  setp.ge.u64 %p1, %rd4, %rd3;
  @%p1 bra DONE{i};
  shl.b64 %rd5, %rd4, 4;
  add.s64 %rd6, %rd2, %rd5;
  ld.global.v4.u32 {{%r4,%r5,%r6,%r7}}, [%rd6];
  add.s64 %rd6, %rd1, %rd5;
  st.global.v4.u32 [%rd6], {{%r4,%r5,%r6,%r7}};
  add.s64 %rd4, %rd4, %rd11;
  bra COPY{i};
DONE{i}:"""
        for i in range(3)
    )
    return f""".version 7.8
.target sm_90
.address_size 64
.visible .entry feed({parameters}, .param .u64 cycles)
{{
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<16>;
  griddepcontrol.launch_dependents;
  griddepcontrol.wait;
  ld.param.u64 %rd9, [cycles];
  mov.u64 %rd7, %clock64;
SPIN:
  mov.u64 %rd8, %clock64;
  sub.s64 %rd8, %rd8, %rd7;
  setp.lt.u64 %p1, %rd8, %rd9;
  @%p1 bra SPIN;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.u32 %r1, %r1, %r2, %r3;
  cvt.u64.u32 %rd10, %r1;
  mov.u32 %r1, %nctaid.x;
  mul.lo.u32 %r1, %r1, %r2;
  cvt.u64.u32 %rd11, %r1;
{copies}
  ret;
}}
"""


class Feeder:
    """Launches that write what the next ones read, while those may already run. None of it without an instruction to wait (below sm_90)."""

    # Few CTAs, so that the next kernel starts on all other multiprocessors, and some 20 us, more than a start takes.
    GRID, THREADS, CYCLES = 8, 512, 40000

    @staticmethod
    def make(driver=None):
        if torch.cuda.get_device_capability()[0] < 9:
            return None
        if driver is None:
            from driver import Driver

            driver = Driver()
        return Feeder(driver)

    def __init__(self, driver):
        self.driver = driver
        self.function = driver.function(driver.load(feed_kernel().encode()), "feed", 0)
        self.poison = None

    def prepare(self, copies, workspace=None):
        """launch(stream) that makes copies of guarded memory, (to, from), and fills what has to hold no zeros of a workspace with NaN."""
        from driver import pointer

        parts = [(to.address, source.address, to.size // 16) for to, source in copies]
        if workspace is not None and workspace.size > ZEROS:
            size = (workspace.size - ZEROS) // 16 * 16
            if self.poison is None or self.poison.numel() < size:
                self.poison = torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda")
            parts.append((workspace.address + ZEROS, self.poison.data_ptr(), size // 16))
        parts += [(0, 0, 0)] * (3 - len(parts))
        arguments = [pointer(value) for part in parts for value in part] + [pointer(self.CYCLES)]
        launch = self.driver.prepare(self.function, (self.GRID, 1, 1), self.THREADS, 0, 1, arguments, overlaps=True)
        launch.poison = self.poison
        return launch


def apply_epilogue(steps, accumulators, operands):
    """Steps such as `bias`, `silu`, `residual`, `gate_silu`, `scale:0.5`, in float64. An operand is consumed by bias and residual."""
    accumulators, operands = list(accumulators), list(operands)
    value = accumulators[0]
    for step in steps:
        if step in ("bias", "residual"):
            value = value + operands.pop(0).double()
        elif step == "mul":
            value = value * operands.pop(0).double()
        elif step.startswith("gate_"):
            value = ACTIVATIONS[step[len("gate_") :]](value) * accumulators[1]
        elif step == "user":  # as in matrix.py
            value = torch.minimum(value, torch.full_like(value, 2)) + value.abs().sqrt() * torch.tanh(value)
        elif step.startswith("scale:"):
            value = value * float(step[len("scale:") :])
        else:
            value = ACTIVATIONS[step](value)
    return value


class Problem:
    """The product of one set of weights, its float64 reference and the dense product in the activation type."""

    def __init__(self, weights, activation, output, steps=(), operand_types=(), per_element=()):
        self.weights, self.activation, self.output, self.steps = weights, FLOAT_TYPES[activation], FLOAT_TYPES[output], list(steps)
        self.n, self.k = weights[0].n, weights[0].k
        exact = [weight.dequantize() for weight in weights]
        self.exact = [value.double() for value in exact]
        self.dense = [value.to(self.activation) for value in exact]
        self.rounding = [(dense.double() - value).square_() for dense, value in zip(self.dense, self.exact)]
        self.operand_types, self.per_element = operand_types, per_element

    def vanishes(self, column):
        """Rows whose weight in the column may be zero of any sign in a kernel: a code and a float zero that cancel but for their rounding, or far
        below the largest weight, with which it is divided to fit into f16."""
        result = torch.zeros(self.exact[0].shape[0], dtype=torch.bool, device=self.exact[0].device)
        for weight, exact in zip(self.weights, self.exact):
            if weight.scheme.zero not in ("none", "int"):
                result |= exact[:, column].abs() <= 4 * torch.finfo(self.activation).eps * weight.terms(column)
            if self.activation == torch.float16:
                result |= exact[:, column].abs() <= 2.0**-16 * exact.abs().max()
        return result

    def operands(self, m, generator):
        return [torch.randn((m, self.n) if per_element else (self.n,), generator=generator, device="cuda").to(FLOAT_TYPES[kind]) for kind, per_element in zip(self.operand_types, self.per_element)]

    def product(self, x, weight):
        return x @ weight.T

    def own(self, operands):
        """The operands as the results have them."""
        return operands

    def reference(self, x, operands):
        return apply_epilogue(self.steps, [self.product(x.double(), weight) for weight in self.exact], self.own(operands))

    def dense_product(self, x, operands):
        products = [self.product(x, weight).double() for weight in self.dense]
        return apply_epilogue(self.steps, products, self.own(operands)).to(self.output)

    def tolerance(self, x, operands, reference):
        """Twice the error of the dense product; where there are too few elements for a stable ratio, four times what rounding the weights
        and the result gives on average, if that is more."""
        norm = float(reference.norm())
        dense = float((self.dense_product(x, operands).double() - reference).norm())
        allowed = 2 * dense
        if reference.numel() < 1024:
            unit = 0.2 * torch.finfo(self.activation).eps  # root mean square of the relative error of rounding
            square = float(self.product(x.double().square(), sum(self.rounding)).sum()) + float((reference * unit).square().sum())
            allowed = max(allowed, 4 * math.sqrt(square))
        return dense / max(norm, 1e-30), allowed / max(norm, 1e-30)


def relative_error(result, reference):
    error = float((result.double() - reference).norm() / reference.norm().clamp(min=1e-30))
    return error if math.isfinite(error) else math.inf


def wrong_class(result, ignored, *references):
    """Number of elements, of those that are not ignored, that are not NaN, +inf, -inf or finite as in any of the references."""

    def kind(value):
        return value.isnan() * 3 + (value == math.inf) * 2 + (value == -math.inf) * 1

    wrong = torch.ones_like(result, dtype=torch.bool)
    for reference in references:
        wrong &= kind(result) != kind(reference)
    return int((wrong & ~ignored).sum())


def capture(stream, launches):
    """A CUDA graph of launches on the stream (without the garbage collection of torch.cuda.graph)."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        for launch in launches:
            launch(stream.cuda_stream)
        graph.capture_end()
    return graph


def start():
    """Creates the context. The dense products of comparisons must accumulate in f32, too."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.zeros(1, device="cuda")


def same_bits(a, b):
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def describe_error(result, reference, tolerance):
    """Which elements are far off, as a line for people."""
    wrong = ~torch.isclose(result.double(), reference, rtol=0, atol=4 * tolerance * float(reference.square().mean().sqrt()))
    text = f"error above {tolerance:.2e}: {int(wrong.sum())} of {wrong.numel()} elements wrong"
    if not wrong.any():
        return text
    tokens, rows = torch.nonzero(wrong.any(1)).flatten(), torch.nonzero(wrong.any(0)).flatten()
    samples = ", ".join(f"[{token},{row}] {float(result[token, row]):.4g} for {float(reference[token, row]):.4g}" for token, row in torch.nonzero(wrong)[:3].tolist())
    return f"{text}, tokens {int(tokens[0])}..{int(tokens[-1])} ({len(tokens)}), rows {int(rows[0])}..{int(rows[-1])} ({len(rows)}): {samples}"


class Case:
    """Random input of m tokens for a problem, with guarded buffers: `x_buffer`, `y_buffer`, `operand_buffers`."""

    def __init__(self, problem, m, options):
        self.problem, self.m, self.options = problem, m, options
        generator = torch.Generator(device="cuda").manual_seed(options.seed * 1000003 + m)
        self.x = torch.randn((m, problem.k), generator=generator, device="cuda").to(problem.activation)
        self.operands = problem.operands(m, generator)
        # The smallest alignment that callers may use.
        self.x_buffer = Guarded.of(self.x, offset=options.offset)
        self.y_buffer = Guarded(m * problem.n * torch.finfo(problem.output).bits // 8, offset=options.offset)
        self.operand_buffers = [Guarded.of(operand, offset=options.offset) for operand in self.operands]

    def aligned_buffers(self):
        """Copies at multiples of 256, as allocators give them: what is timed. Rows of x that are not aligned cost up to twice the L2 traffic."""
        buffers = {"x": Guarded.of(self.x), "y": Guarded(self.y_buffer.size)}
        buffers.update({f"epilogue{i}": Guarded.of(operand) for i, operand in enumerate(self.operands)})
        return buffers

    def buffers(self):
        """{name: (address, bytes)} of what a launch reads and writes."""
        buffers = {"x": self.x_buffer, "y": self.y_buffer, **{f"epilogue{i}": buffer for i, buffer in enumerate(self.operand_buffers)}}
        return {name: (buffer.address, buffer.size) for name, buffer in buffers.items()}

    def output(self):
        return self.y_buffer.view(self.problem.output, (self.m, self.problem.n))

    def run(self, launch, stream):
        torch.cuda.synchronize()
        launch(stream.cuda_stream)
        torch.cuda.synchronize()
        return self.output()

    def inputs(self, extra, seed):
        """What a launch reads, by name: x, the operands, and `extra`; with a seed other values of the same shapes."""
        if seed is None:
            x, operands = self.x, self.operands
        else:
            generator = torch.Generator(device="cuda").manual_seed(seed * 7777777 + self.m)
            x = torch.randn((self.m, self.problem.k), generator=generator, device="cuda").to(self.problem.activation)
            operands = self.problem.operands(self.m, generator)
        return {"x": x, **{f"epilogue{i}": operand for i, operand in enumerate(operands)}, **extra}

    def link(self):
        """The name of what a launch can read of the result of the one before it without making NaN of it: x, an operand, or none. Where the
        result is smaller, the rest are random numbers."""
        if self.problem.output.itemsize == self.problem.activation.itemsize:
            return "x"
        names = [f"epilogue{i}" for i, kind in enumerate(self.problem.operand_types) if FLOAT_TYPES[kind] == self.problem.output]
        return names[0] if names else None

    def overlap_agrees(self, prepare, feeder, extra, first, workspace):
        """Whether launches that overlap give the bits of launches that wait for each other: what is wrong, or None, and whether stale inputs, and stale
        results of the launch before, would show. In each of three rounds the feeder writes all that a launch reads where it read it in the round before, with two inputs in
        turn (at first there is NaN), as late as it can, a launch uses that, and another the result of that launch, all with one
        workspace. Every result has memory of its own; before a launch may write, the feeder writes NaN there, and into the workspace."""
        rounds, offset = 3, self.options.offset
        y_size, link = self.y_buffer.size, self.link()
        for seed in range(1, 9):
            inputs = [self.inputs(extra[0], None), self.inputs(extra[1], self.options.seed + seed)]
            sizes = {name: value.numel() * value.element_size() for name, value in inputs[0].items()}
            shared = Pieces(sizes, offset)
            images = [Pieces(sizes, offset).fill(values) for values in inputs]
            # The result of the first launch of a round, or more, if the second reads more, and that of the second.
            results = {"first": max(y_size, sizes[link]) if link else y_size, "second": y_size}
            poison = Pieces(results, offset)
            if link:
                poison.bytes("first").view(torch.uint8)[: sizes[link]].copy_(inputs[1][link].contiguous().view(torch.uint8).flatten())
                poison.bytes("first")[:y_size].fill_(0xFF)
            written = [Pieces(results, offset) for _ in range(rounds)]
            launches = []
            for i, out in enumerate(written):
                copies = [(shared.memory, images[i % 2].memory), (out.memory, poison.memory)]
                launches.append(feeder.prepare(copies, workspace))
                reads = {name: (shared.address(name), size) for name, size in sizes.items()}
                launches.append(prepare({**reads, "y": (out.address("first"), y_size)}))
                if link:
                    reads[link] = out.address("first"), sizes[link]
                launches.append(prepare({**reads, "y": (out.address("second"), y_size)}))
            everything = [shared, *written]

            stream = torch.cuda.Stream()
            for launch in launches:
                launch(stream.cuda_stream)
                torch.cuda.synchronize()
            expected = [pieces.memory.storage.clone() for pieces in everything]
            # With inputs whose results are equal (of one element under a relu, for instance), nothing would show.
            shows = [not torch.equal(written[0].bytes(name)[:y_size], written[1].bytes(name)[:y_size]) for name in ("first", "second")]
            if all(shows) or y_size > 4096:
                break
        shows = [shows[0], shows[1] and link is not None]
        if not same_bits(written[0].bytes("first")[:y_size], first.contiguous().view(torch.uint8).flatten()):
            return "a launch after one that writes its inputs differs", shows
        for pieces in everything:
            pieces.memory.bytes.fill_(0xFF)
        capture(stream, launches).replay()
        torch.cuda.synchronize()
        wrong = [i for i, (pieces, bits) in enumerate(zip(everything, expected)) if not torch.equal(pieces.memory.storage, bits)]
        if workspace is not None and bool(workspace.bytes[:ZEROS].any()):
            workspace.bytes.fill_(0)
            return "launches that overlap leave the workspace without its zeros", shows
        if not wrong:
            return None, shows
        where = ", ".join(f"round {i}" if i else "the inputs" for i in wrong)
        return f"launches that overlap differ from launches one by one: {where} of {rounds}", shows

    def check(self, launch, others, overlap=None):
        """Text and record of everything that launch(stream) may do wrong. `others` are the guarded buffers of the kernel, by name; `overlap` is for
        launches that may overlap each other: prepare({name: (address, bytes)}), which gives launch(stream), the feeder or None, and two times what else they read."""
        problem, x, operands, m = self.problem, self.x, self.operands, self.m
        failures = []
        streams = [torch.cuda.Stream(), torch.cuda.Stream()]
        first = self.run(launch, streams[0])
        reference = problem.reference(x, operands)
        dense_error, tolerance = problem.tolerance(x, operands, reference)
        error = relative_error(first, reference)
        if not error <= tolerance:
            failures.append(describe_error(first, reference, tolerance))

        # Bitwise equal over launches, streams and a graph, with another poison each time.
        for i in range(self.options.repeat):
            self.y_buffer.bytes.fill_(0xFF if i % 2 else 0x5A)
            if not same_bits(self.run(launch, streams[i % 2]), first):
                different = int((self.output().view(torch.uint8) != first.view(torch.uint8)).sum())
                failures.append(f"launch {i + 2} differs in {different} bytes")
                break
        self.y_buffer.bytes.fill_(0xFF)
        capture(streams[0], [launch]).replay()
        torch.cuda.synchronize()
        if not same_bits(self.output(), first):
            failures.append("a graph replay differs")

        shows = None
        if overlap is not None and overlap[1] is not None:
            failure, shows = self.overlap_agrees(*overlap, first, others.get("workspace"))
            failures += [failure] if failure else []

        # NaN and infinity, in every token that has one and in no other.
        special = x.clone()
        rows = sorted({0, m // 2, m - 1})
        ignored = torch.zeros((m, problem.n), dtype=torch.bool, device=x.device)
        for i, (row, value) in enumerate(zip(rows, (math.inf, math.nan, -math.inf))):
            column = (i * 7919 + problem.k // 2) % problem.k
            special[row, column] = value
            ignored[row] |= problem.vanishes(column)
        self.x_buffer.bytes.copy_(special.view(torch.uint8).flatten())
        result = self.run(launch, streams[0])
        # Weights that vanish in the activation type make NaN of an infinity.
        misplaced = wrong_class(result, ignored, problem.reference(special, operands), problem.dense_product(special, operands))
        finite = [row for row in range(m) if row not in rows]
        if misplaced:
            failures.append(f"NaN or infinity misplaced in {misplaced} elements")
        elif finite and not same_bits(result[finite], first[finite]):
            failures.append("NaN or infinity in one token changes another")
        self.x_buffer.bytes.copy_(x.view(torch.uint8).flatten())
        torch.cuda.synchronize()

        buffers = {**others, "x": self.x_buffer, "y": self.y_buffer, **{f"epilogue{i}": buffer for i, buffer in enumerate(self.operand_buffers)}}
        broken = [name for name, buffer in buffers.items() if not buffer.intact()]
        if broken:
            failures.append("written outside of " + ", ".join(broken))
        text = f"err {error:.2e} (dense {dense_error:.2e})" + "".join(f" | {failure}" for failure in failures)
        return text, {"m": m, "rel_error": error, "dense_error": dense_error, "overlap": shows, "failures": failures, "passed": not failures}


def time_graph(launches, replays=30, warmup=3):
    """(median, min, max) in us of one launch: all of them in one CUDA graph, replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for launch in launches[:2]:
            launch(stream.cuda_stream)
    stream.synchronize()
    graph = capture(stream, launches)
    times = []
    with torch.cuda.stream(stream):
        for i in range(replays + warmup):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            if i >= warmup:
                times.append(begin.elapsed_time(end) * 1000 / len(launches))
    return statistics.median(times), min(times), max(times)


def num_copies(size, limit=1024, memory=24 << 30):
    """Copies of `size` bytes that exceed four times the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return int(max(1, min(limit, 4 * cache // max(1, size) + 1, memory // max(1, size))))


def read_kernel(unroll):
    """PTX of a kernel that reads n vectors of 16 bytes once: what a memory-bound kernel cannot beat."""


    def load(i):
        registers = ",".join(f"%v{4 * i + j}" for j in range(4))
        return f"ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {{{registers}}}, [%rd5];"

    def fold(i):
        return [f"xor.b32 %r5, %r5, %v{4 * i + j};" for j in range(4)]

    lines = []
    for i in range(unroll):
        lines += [load(i), "add.s64 %rd5, %rd5, %rd6;"]
    for i in range(unroll):
        lines += fold(i)
    body = "\n  ".join(lines)
    tail = "\n  ".join([load(0)] + fold(0))
    return f""".version 7.4
.target sm_80
.address_size 64
.visible .entry read_{unroll}(.param .u64 p, .param .u64 n, .param .u64 out)
{{
  .reg .pred %p<3>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<16>;
  .reg .b32 %v<{4 * unroll}>;
  ld.param.u64 %rd1, [p];
  ld.param.u64 %rd2, [n];
  ld.param.u64 %rd3, [out];
  cvta.to.global.u64 %rd1, %rd1;
  cvta.to.global.u64 %rd3, %rd3;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %rd7, %r1, %r2;
  cvt.u64.u32 %rd8, %r3;
  add.s64 %rd7, %rd7, %rd8;
  mul.wide.u32 %rd9, %r4, %r2;
  shl.b64 %rd6, %rd9, 4;
  mul.lo.s64 %rd10, %rd9, {unroll};
  mul.lo.s64 %rd11, %rd9, {unroll - 1};
  mov.b32 %r5, 0;
LOOP:
  add.s64 %rd12, %rd7, %rd11;
  setp.ge.u64 %p1, %rd12, %rd2;
  @%p1 bra TAIL;
  shl.b64 %rd5, %rd7, 4;
  add.s64 %rd5, %rd5, %rd1;
  {body}
  add.s64 %rd7, %rd7, %rd10;
  bra LOOP;
TAIL:
  setp.ge.u64 %p1, %rd7, %rd2;
  @%p1 bra DONE;
  shl.b64 %rd5, %rd7, 4;
  add.s64 %rd5, %rd5, %rd1;
  {tail}
  add.s64 %rd7, %rd7, %rd9;
  bra TAIL;
DONE:
  setp.ne.u32 %p2, %r5, 0x12345679;
  @%p2 bra END;
  st.global.u32 [%rd3], %r5;
END:
  ret;
}}
"""


class ReadLimit:
    """Time to read some bytes once, the best of twelve launch shapes."""

    def __init__(self, driver):
        self.driver = driver
        self.functions = {}
        for unroll in (4, 8):
            module = driver.load(read_kernel(unroll).encode())
            self.functions[unroll] = driver.function(module, f"read_{unroll}", 0)
        self.known = {}

    def us(self, size):
        from driver import pointer

        size = -(-size // 256) * 256
        if size in self.known:
            return self.known[size]
        copies = num_copies(size)
        data = torch.randint(-(1 << 62), 1 << 62, (copies * size // 8,), device="cuda")
        out = torch.zeros(16, dtype=torch.int32, device="cuda")
        multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        best = math.inf
        for unroll, function in self.functions.items():
            for threads in (256, 512):
                for ctas in (1, 2, 4):
                    launches = []
                    for i in range(max(copies, 40)):
                        arguments = [pointer(data.data_ptr() + i % copies * size), pointer(size // 16), pointer(out)]
                        launches.append(self.driver.prepare(function, (multiprocessors * ctas, 1, 1), threads, 0, 1, arguments))
                    best = min(best, time_graph(launches, replays=10)[0])
        self.known[size] = best
        return best


class DenseTime:
    """Time of the dense product by PyTorch (cuBLAS) with rotating weights."""

    def __init__(self):
        self.known = {}

    def us(self, n, k, m, dtype):
        key = (n, k, m, dtype)
        if key not in self.known:
            copies = num_copies(2 * n * k, limit=64)
            weights = [torch.randn((n, k), device="cuda", dtype=torch.float32).to(dtype) for _ in range(copies)]
            x = torch.randn((m, k), device="cuda").to(dtype)
            out = torch.empty((m, n), device="cuda", dtype=dtype)
            torch.mm(x, weights[0].T, out=out)
            launches = [lambda stream, weight=weight: torch.mm(x, weight.T, out=out) for weight in weights]
            while len(launches) < 20:
                launches = launches + launches
            self.known[key] = time_graph(launches)[0]
        return self.known[key]
