# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantized linear layers in PyTorch.

    model = AutoModelForCausalLM.from_pretrained(...).half()
    quant_llm.torch.quantize_model_(model, "int4").cuda()

The layers are calls of the custom operator `quant_llm::linear`, which works
eagerly, under torch.compile and in CUDA graphs. On a GPU it launches kernels of
the project (docs/GPURuntime.md): those of an artifact, which needs no compiler,
or of a cache, into which missing ones are compiled. On the CPU it multiplies
with the dequantized weight, which is slow.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Mapping

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import gpu
from ._build import Problem, build_artifact, compile_kernels, compiler_identity, find_recipe, is_scheme, pack_model, quantize_weights
from ._cache import DirectoryCache, default_directory, parse_size
from ._check import check_path, wrong_type
from ._errors import QuantLLMError
from ._safetensors import read_header
from ._scheme import parse_scheme
from .recipe import Recipe

__all__ = ["QuantLinear", "build_artifact", "dequantize", "linear", "load_quantized", "prepare_kernels", "quantize_model_", "set_kernel_cache"]

_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

# ---------------------------------------------------------------------------
# Weights in the packed layout (docs/Weights.md)
# ---------------------------------------------------------------------------


def _planes(bits):
    """(width, shift of the code's bits) in their order in a unit."""
    if bits == 8:
        return [(8, 0)]
    planes, shift = [], 0
    for width in (4, 2, 1):
        if bits & width:
            planes.append((width, shift))
            shift += width
    return planes


@functools.lru_cache(maxsize=None)
def _fragment(width):
    """Word of the lane, first bit, and the masks of the bits from there on and of
    those that follow at the other end of the word, of the elements in the order
    step, register, half."""
    words, bits = [], []
    for step in range(8):
        for register in range(4):
            for half in range(2):
                if width == 8:
                    words.append(2 * step + (register >> 1))
                    bits.append((3 + 8 * (register & 1) + 16 * half) % 32)
                else:
                    slot = 4 * (step % (4 // width)) + register
                    words.append(step // (4 // width))
                    bits.append((7 - width + width * (slot ^ 1) + 16 * half) % 32)
    low = [(1 << min(width, 32 - bit)) - 1 for bit in bits]
    high = [(1 << max(0, bit + width - 32)) - 1 for bit in bits]
    return words, bits, low, high


def _unpack_codes(packed, bits):
    """Stored codes [16 S, 128 U] of bytes [S, U, 256 bits]."""
    strips, units = packed.shape[:2]
    codes, begin = 0, 0
    for width, shift in _planes(bits):
        vector = min(4, 2 * width)
        plane = packed[:, :, begin : begin + 256 * width].contiguous().view(torch.int32)
        begin += 256 * width
        lanes = plane.view(strips, units, -1, 32, vector).transpose(2, 3).reshape(strips, units, 32, 2 * width)
        words, bit, low, high = (torch.tensor(values, dtype=torch.int32, device=packed.device) for values in _fragment(width))
        word = lanes[..., words]
        codes = codes | (word >> bit & low | (word & high) << 32 - bit) << shift
    # Lane 4g + c, step j, register r0 + 2 r1, half e: row 8 r0 + g, column 16 j + 8 r1 + 2 c + e.
    codes = codes.view(strips, units, 8, 4, 8, 2, 2, 2)
    return codes.permute(0, 6, 2, 1, 4, 5, 3, 7).reshape(16 * strips, 128 * units)


def _decode(raw, kind):
    """Bytes [..., size of the element times count] as f32 (integers of a byte,
    too)."""
    raw = raw.contiguous()
    if kind in _TYPES:
        return raw.view(_TYPES[kind]).float()
    if kind == "int":
        return raw.float()
    if kind == "f8E8M0FNU":
        # 2^(code - 127), as f64: the smallest is subnormal in f32.
        return torch.ldexp(torch.ones((), dtype=torch.float64, device=raw.device), raw.to(torch.float64) - 127).float()
    return raw.view(torch.float8_e4m3fn).float()


def _expand(raw, kind, scheme, n, k):
    """A grid of scales or zeros to [n, k]."""
    values = _decode(raw, kind)
    if scheme.has_column_scales(n, k):
        return values[:k].expand(n, k)
    groups = values.shape[1]
    rows = values.view(-1, groups, 8, 2).permute(0, 3, 2, 1).reshape(-1, groups)[:n]
    return rows.repeat_interleave(scheme.block_size_k(k), dim=1)[:, :k]


# Codes are unpacked as integers of 32 bits: so many at once.
_CHUNK = 1 << 23


def _dequantize(packed, packed_scales, packed_zeros, output_scale, n, k, scheme):
    scheme = parse_scheme(scheme)
    _check_weight(packed, packed_scales, packed_zeros, n, k, scheme)
    table = torch.tensor(scheme.table, dtype=torch.float32, device=packed.device)
    strips = max(1, _CHUNK // (16 * 128 * packed.shape[1]))
    value = torch.cat([table[_unpack_codes(part, scheme.bits)[:, :k]] for part in packed.split(strips)])[:n]
    scale = _expand(packed_scales, scheme.packed_scale_type, scheme, n, k)
    if packed_zeros is None:
        value = value * scale
    else:
        zero = _expand(packed_zeros, scheme.packed_zero_type, scheme, n, k)
        value = (value - zero) * scale if scheme.zero == "int" else value * scale + zero
    return value * output_scale


def _check_weight(packed, packed_scales, packed_zeros, n, k, scheme):
    if n < 1 or k < 1:
        raise QuantLLMError(f"expected a weight of at least one row and column but got [{n}, {k}]")
    shapes = scheme.packed_shapes(n, k)
    for name, tensor, shape in zip(("packed", "packed_scales", "packed_zeros"), (packed, packed_scales, packed_zeros), shapes):
        if (tensor is None) != (shape is None):
            raise QuantLLMError(f"expected {'no ' if shape is None else ''}{name} under the scheme '{scheme.text}'")
        if tensor is not None and (tensor.dtype != torch.uint8 or tuple(tensor.shape) != shape):
            raise QuantLLMError(f"expected {name} of shape {list(shape)} and type uint8 for [{n}, {k}] under the scheme '{scheme.text}' but got {list(tensor.shape)} and {str(tensor.dtype).removeprefix('torch.')}")
        if tensor is not None and tensor.device != packed.device:
            raise QuantLLMError(f"expected packed and {name} on one device but got {packed.device} and {tensor.device}")


# ---------------------------------------------------------------------------
# Kernels on devices
# ---------------------------------------------------------------------------

_CHIPS = {(8, 0): "sm_80", (8, 6): "sm_86", (8, 7): "sm_86", (8, 9): "sm_89", (9, 0): "sm_90a", (10, 0): "sm_100a", (12, 0): "sm_120a"}

_DEFAULT_CACHE_SIZE = "2G"
# Bytes at the beginning of a workspace that are zero before and after every launch.
_WORKSPACE_ZEROS = 16384


def _chip_of(device):
    capability = torch.cuda.get_device_capability(device)
    if capability not in _CHIPS:
        raise QuantLLMError(f"expected a GPU of compute capability {', '.join('.'.join(map(str, known)) for known in _CHIPS)} but got {'.'.join(map(str, capability))} ({device})")
    return _CHIPS[capability]


def _is_capturing(device):
    # PyTorch asks the current device, which is also that of no index.
    with contextlib.nullcontext() if device.index is None else torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _captures(device):
    """Whether work on the device goes into a CUDA graph."""
    return device.type == "cuda" and _is_capturing(device)


def _stream_of(device):
    return torch.cuda.current_stream(device).cuda_stream


class _Kernels:
    """The kernels of a problem on a device."""

    def __init__(self, module, linear):
        self.module = module
        self.linear = linear
        self.plans = {}

    def plan(self, m):
        plan = self.plans.get(m)
        if plan is None:
            # Prompts have many lengths.
            if len(self.plans) >= 4096:
                self.plans.clear()
            plan = self.plans[m] = self.module.plan(self.linear, m)
        return plan


class _MetWeights:
    """Which weights launches have met on which streams, as they were then.

    A launch with constant weights may read them while the kernel before it runs.
    What wrote them comes before the first launch that meets them as they are,
    which starts plainly, so that for those after it in the stream all of that has
    ended. Weights that were written since (their `_version`), moved or replaced
    count as new. Writes that PyTorch does not count are what users promise not to
    make, and not to write in one thread while another launches: a write is counted
    after it has been issued. No lock: what races here only costs a plain launch.
    """

    def __init__(self):
        self.records = {}

    @staticmethod
    def state_of(parts):
        """Something that changes with them; None if that cannot be known."""
        try:
            # An assignment to `data` counts nothing, and the memory may be at the address of the one before; a storage that is held weakly
            # is none that is made later.
            return [(part.data_ptr(), part._version, StorageWeakRef(part.untyped_storage())) for part in parts]
        except RuntimeError:
            # Tensors made in inference mode do not count writes.
            return None

    def find(self, parts, state):
        """The streams that met these tensors in this state; None if none did."""
        record = self.records.get(id(parts[0]))
        if state is None or record is None:
            return None
        references, known, streams = record
        same = known == state and all(reference() is part for reference, part in zip(references, parts))
        return streams if same else None

    def add(self, stream, parts, state):
        """To be called after the launch, which other threads must not overtake."""
        if state is None:
            return
        streams = self.find(parts, state)
        if streams is not None:
            streams.add(stream)
            return
        key, records = id(parts[0]), self.records

        def forget(reference):
            record = records.get(key)
            if record is not None and record[0][0] is reference:
                records.pop(key, None)

        references = [weakref.ref(parts[0], forget), *map(weakref.ref, parts[1:])]
        records[key] = (references, state, {stream})


class _Store:
    """Finds kernels: of an artifact, of the cache, of the compiler."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ready = {}
        self.modules = {}
        self.workspaces = {}
        self.met = _MetWeights()
        self.directory = None
        self.size = None

    @property
    def cache(self):
        size = self.size if self.size is not None else parse_size(os.environ.get("QUANT_LLM_KERNEL_CACHE_SIZE") or _DEFAULT_CACHE_SIZE)
        return DirectoryCache(self.directory or os.path.join(default_directory(), "kernels"), size)

    def get(self, device, problem, artifact):
        kernels = self.ready.get((device, problem, artifact))
        if kernels is None:
            if _captures(device):
                raise QuantLLMError("expected kernels that are loaded while a CUDA graph is captured; run the model once before, or call quant_llm.torch.prepare_kernels(model)")
            with self.lock:
                kernels = self.ready.get((device, problem, artifact))
                if kernels is None:
                    kernels = self.ready[device, problem, artifact] = self.find(device, problem, artifact)
        return kernels

    def find(self, device, problem, artifact):
        chip = _chip_of(device)
        if artifact:
            module = self.load(device, artifact, chip)
            if module:
                for linear in module.artifact.linears:
                    if self.computes(linear, problem, artifact):
                        return _Kernels(module, linear)
        return self.from_cache(device, problem, chip)

    def load(self, device, path, chip):
        """The kernels of an artifact; None if they are for another chip."""
        key = (device, path)
        if key not in self.modules:
            artifact = gpu.Artifact(path)
            self.modules[key] = gpu.Module(artifact, _index_of(device), without_weights=True) if artifact.chip == chip else None
        return self.modules[key]

    @staticmethod
    def computes(linear, problem, path):
        """Whether a linear of an artifact is that problem."""
        same = (parse_scheme(linear.scheme).text, linear.n, linear.k, linear.activation, linear.output) == problem[:5]
        if not same or linear.num_weights != 1 or linear.num_experts:
            return False
        if not problem.bias:
            return not linear.epilogue
        return linear.epilogue == (gpu.Operand(problem.activation, False),) and _epilogue_steps(path).get(linear.name) == ["bias"]

    def from_cache(self, device, problem, chip):
        name = f"linear_{problem.n}x{problem.k}"
        prefix = f"{_digest([chip, *problem])}-"
        cache = self.cache
        try:
            key = prefix + compiler_identity()
            reason = None
        except ImportError as error:
            # What another process compiled, or this one before the compiler was removed, will do.
            found = cache.find(prefix)
            if not found:
                raise QuantLLMError(f"expected kernels of {name} under the scheme '{problem.scheme}' for {chip} in an artifact or in the cache '{cache.directory}': {error}") from None
            key, reason = os.path.basename(found[0]), error
        for attempt in range(3):
            path = os.path.join(cache.directory, key) if reason else cache.get(key, functools.partial(compile_kernels, problem, chip))
            try:
                artifact = gpu.Artifact(path)
                if artifact.chip != chip or len(artifact.linears) != 1 or not self.computes(artifact.linears[0], problem, path):
                    raise gpu.GPUError(f"expected kernels of {name} for {chip} in '{path}' but got those of something else", "artifact")
                cache.use(path)
                return _Kernels(gpu.Module(artifact, _index_of(device), without_weights=True), artifact.linears[0])
            except gpu.GPUError as error:
                # Removed by another process meanwhile, or damaged.
                if error.kind != "artifact" or reason or attempt == 2:
                    raise
                cache.remove(path)

    def workspace(self, device, stream, size):
        """Memory whose first bytes are zero, to be kept by the caller until the launch."""
        if size == 0:
            return None

        def make():
            made = torch.empty(size, dtype=torch.uint8, device=device)
            made[:_WORKSPACE_ZEROS].zero_()
            return made

        # A graph may run beside everything else later: it gets memory of its own.
        if _captures(device):
            return make()
        with self.lock:
            memory = self.workspaces.get((device, stream))
            if memory is None or memory.numel() < size:
                memory = self.workspaces[device, stream] = make()
        return memory


_store = _Store()


def _digest(parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _index_of(device):
    return device.index or 0


@functools.lru_cache(maxsize=64)
def _epilogue_steps(path):
    """What the epilogues of an artifact compute, where it says so."""
    return {linear["name"]: linear.get("epilogue_steps") for linear in _read_manifest(path)["linears"]}


def set_kernel_cache(directory=None, size=None):
    """Where kernels are cached, and at most how many bytes of them (a number, or a
    text such as "512M"). None is the default: the folder `kernels` of
    $QUANT_LLM_CACHE_DIR or of quant-llm in $XDG_CACHE_HOME or ~/.cache, and
    $QUANT_LLM_KERNEL_CACHE_SIZE or 2G."""
    directory = None if directory is None else check_path(directory, "directory")
    size = None if size is None else parse_size(size)
    _store.directory, _store.size = directory, size


# ---------------------------------------------------------------------------
# The operators
# ---------------------------------------------------------------------------

_library = torch.library.Library("quant_llm", "DEF")
_library.define(
    "linear(Tensor x, Tensor packed, Tensor packed_scales, Tensor? packed_zeros, Tensor? bias, float output_scale, int n, int k, str scheme, str output, str artifact, bool constant_weights=False) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "dequantize(Tensor packed, Tensor packed_scales, Tensor? packed_zeros, float output_scale, int n, int k, str scheme, ScalarType dtype) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _check_linear(x, packed, bias, n, k, output):
    """The conditions on shapes and types, also of fake tensors."""
    if x.dtype not in _NAMES:
        raise QuantLLMError(f"expected x of float16, bfloat16 or float32 but got {str(x.dtype).removeprefix('torch.')}")
    if output not in _TYPES:
        raise QuantLLMError(f"expected an output of f16, bf16 or f32 but got '{output}'")
    if x.dim() < 1 or x.shape[-1] != k:
        raise QuantLLMError(f"expected x with {k} columns but got shape {list(x.shape)}")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != n):
        raise QuantLLMError(f"expected a bias of shape [{n}] but got {list(bias.shape)}")
    if x.device != packed.device or (bias is not None and bias.device != x.device):
        raise QuantLLMError(f"expected x, weight and bias on one device but got {x.device}, {packed.device}{'' if bias is None else f' and {bias.device}'}")


def _linear_on_cpu(x, packed, packed_scales, packed_zeros, bias, output_scale, n, k, scheme, output, artifact, constant_weights=False):
    _check_linear(x, packed, bias, n, k, output)
    weight = _dequantize(packed, packed_scales, packed_zeros, output_scale, n, k, scheme)
    y = torch.nn.functional.linear(x.float(), weight, None if bias is None else bias.float())
    return y.to(_TYPES[output])


def _linear_on_gpu(x, packed, packed_scales, packed_zeros, bias, output_scale, n, k, scheme, output, artifact, constant_weights=False):
    _check_linear(x, packed, bias, n, k, output)
    if x.dtype == torch.float32:
        raise QuantLLMError("expected x of float16 or bfloat16 on a GPU but got float32; use model.half() or model.bfloat16()")
    parsed = parse_scheme(scheme)
    _check_weight(packed, packed_scales, packed_zeros, n, k, parsed)
    y = torch.empty((*x.shape[:-1], n), dtype=_TYPES[output], device=x.device)
    if y.numel() == 0:
        return y
    problem = Problem(parsed.text, n, k, _NAMES[x.dtype], output, bias is not None)
    kernels = _store.get(x.device, problem, artifact)
    x, packed, packed_scales = _aligned(x), _aligned(packed), _aligned(packed_scales)
    packed_zeros = None if packed_zeros is None else _aligned(packed_zeros)
    bias = None if bias is None else _aligned(bias.to(x.dtype))
    plan = kernels.plan(x.numel() // k)
    stream = _stream_of(x.device)
    workspace = _store.workspace(x.device, stream, plan.workspace_bytes)
    weight = gpu.Weight(_buffer(packed), _buffer(packed_scales), _buffer(packed_zeros), output_scale)
    parts, state, captures, overlaps = (), None, False, False
    if constant_weights:
        parts = [packed, packed_scales] if packed_zeros is None else [packed, packed_scales, packed_zeros]
        state, captures = _MetWeights.state_of(parts), _captures(x.device)
        streams = _store.met.find(parts, state)
        # A graph begins when all before it has ended: there only writes in the graph itself matter, which change the state.
        overlaps = streams is not None and (captures or stream in streams)
    kernels.module.launch(plan, _buffer(x), _buffer(y), stream=stream, workspace=_buffer(workspace), epilogue=() if bias is None else (_buffer(bias),), weights=(weight,), constant_weights=overlaps)
    # What is captured has not run.
    if constant_weights and not overlaps and not captures:
        _store.met.add(stream, parts, state)
    return y


def _aligned(tensor):
    """Contiguous, and at a multiple of 16 bytes."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _buffer(tensor):
    return (0, 0) if tensor is None else (tensor.data_ptr(), tensor.numel() * tensor.element_size())


def _linear_of_fakes(x, packed, packed_scales, packed_zeros, bias, output_scale, n, k, scheme, output, artifact, constant_weights=False):
    _check_linear(x, packed, bias, n, k, output)
    return x.new_empty((*x.shape[:-1], n), dtype=_TYPES[output])


def _dequantize_op(packed, packed_scales, packed_zeros, output_scale, n, k, scheme, dtype):
    return _dequantize(packed, packed_scales, packed_zeros, output_scale, n, k, scheme).to(dtype)


def _dequantize_of_fakes(packed, packed_scales, packed_zeros, output_scale, n, k, scheme, dtype):
    return packed.new_empty((n, k), dtype=dtype)


def _setup_backward(ctx, inputs, output):
    x, packed, packed_scales, packed_zeros, bias, output_scale, n, k, scheme, *_ = inputs
    ctx.save_for_backward(packed, packed_scales, packed_zeros)
    ctx.weight = (output_scale, n, k, scheme)
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype


def _backward(ctx, grad):
    """Of x and bias: the weight is a constant."""
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        weight = torch.ops.quant_llm.dequantize(*ctx.saved_tensors, *ctx.weight, torch.float32)
        grad_x = (grad.float() @ weight).to(ctx.x_dtype)
    if ctx.needs_input_grad[4]:
        grad_bias = grad.float().flatten(0, -2).sum(0).to(ctx.bias_dtype)
    return (grad_x, None, None, None, grad_bias) + (None,) * 7


_library.impl("linear", _linear_on_cpu, "CPU")
_library.impl("linear", _linear_on_gpu, "CUDA")
_library.impl("dequantize", _dequantize_op, "CPU")
_library.impl("dequantize", _dequantize_op, "CUDA")
torch.library.register_fake("quant_llm::linear", _linear_of_fakes, lib=_library)
torch.library.register_fake("quant_llm::dequantize", _dequantize_of_fakes, lib=_library)
torch.library.register_autograd("quant_llm::linear", _backward, setup_context=_setup_backward, lib=_library)

linear = torch.ops.quant_llm.linear
dequantize = torch.ops.quant_llm.dequantize

# ---------------------------------------------------------------------------
# Modules
# ---------------------------------------------------------------------------


class QuantLinear(torch.nn.Module):
    """A linear layer with a quantized weight [out_features, in_features].

    Its buffers are the packed weight (docs/Weights.md) as bytes, so that
    model.half() and the like leave them alone; the type of x, f16 or bf16 on a
    GPU, is that of the result. `artifact` is a directory with kernels, or empty.
    The weight is no parameter: gradients reach x and the bias. `constant_weights`,
    an attribute, promises that the buffers are written, if at all, by operations of
    PyTorch on them, which it counts (load_state_dict, copy_; not through `.data`, in
    replayed CUDA graphs, or by others): on Hopper and later their kernels then start
    while the one before them ends.
    """

    constant_weights = False

    def __init__(self, packed, packed_scales, packed_zeros, output_scale, in_features, out_features, scheme, bias=None, artifact="", constant_weights=False):
        super().__init__()
        parsed = parse_scheme(scheme)
        _check_weight(packed, packed_scales, packed_zeros, out_features, in_features, parsed)
        self.in_features, self.out_features = in_features, out_features
        self.scheme = parsed.text
        self.output_scale = float(output_scale)
        self.artifact = artifact
        self.constant_weights = bool(constant_weights)
        self.register_buffer("packed", packed)
        self.register_buffer("packed_scales", packed_scales)
        self.register_buffer("packed_zeros", packed_zeros)
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, x):
        return torch.ops.quant_llm.linear(x, self.packed, self.packed_scales, self.packed_zeros, self.bias, self.output_scale, self.out_features, self.in_features, self.scheme, _NAMES.get(x.dtype, "f32"), self.artifact, self.constant_weights)

    def dequantize(self, dtype=torch.float32):
        """The weight [out_features, in_features]."""
        return torch.ops.quant_llm.dequantize(self.packed, self.packed_scales, self.packed_zeros, self.output_scale, self.out_features, self.in_features, self.scheme, dtype)

    def prepare(self, dtype=torch.float16):
        """Loads the kernels for x of that type, so that the next call does not; on
        the CPU nothing is needed."""
        if self.packed.device.type == "cuda":
            name = _NAMES[dtype]
            _store.get(self.packed.device, Problem(self.scheme, self.out_features, self.in_features, name, name, self.bias is not None), self.artifact)

    def get_extra_state(self):
        # A tensor, so that every format of checkpoints can hold it.
        state = {"scheme": self.scheme, "output_scale": self.output_scale, "shape": [self.out_features, self.in_features]}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state):
        state = json.loads(bytes(state.cpu().tolist()))
        expected = (self.scheme, [self.out_features, self.in_features])
        if (state["scheme"], state["shape"]) != expected:
            raise QuantLLMError(f"expected a weight {expected[1]} under the scheme '{expected[0]}' but got {state['shape']} under '{state['scheme']}'")
        self.output_scale = state["output_scale"]

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, scheme='{self.scheme}'{', constant_weights=True' if self.constant_weights else ''}"


def prepare_kernels(model, dtype=torch.float16):
    """Loads (and, where needed, compiles) the kernels of all QuantLinear of a
    model for x of that type. Without it the first call does."""
    _check_model(model)
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.prepare(dtype)
    return model


# Names of output heads.
_HEADS = "lm_head|embed"

# At most so many bytes of dense weights are written to the disk at once.
_GROUP_BYTES = 4 << 30


def quantize_model_(model, recipe="int4", *, options=None, include=None, exclude=None, constant_weights=False, progress=None, diagnostic=None):
    """Replaces the torch.nn.Linear of a model by QuantLinear, in place.

    `recipe` is the element of FineQuant's quantization (docs/FineQuant.md), such
    as int4 or uint4, with `options` of the pipeline quant-llm-finequant (a
    dict), or a whole scheme such as "int4, block = [1, 128], scale = f16", or a
    recipe that needs nothing but weights, such as "hqq", with its options
    (docs/Recipes.md; for all others: `quant-llm quantize` and load_quantized).
    `include` and `exclude` are regular expressions that select modules by name; if
    there is neither, all but an output head (lm_head) are taken, unless `recipe` is
    a whole scheme. Modules that share their weight with others, such as the head
    with the embedding, stay as they are. `constant_weights` is the promise of
    QuantLinear for all of them. Needs the compiler. Returns the model, which is as
    it was if anything fails.
    """
    _check_model(model)
    if isinstance(options, Mapping) and (named := {"include", "exclude"} & set(options)):
        raise QuantLLMError(f"expected no option '{sorted(named)[0]}' but the argument {sorted(named)[0]}")
    recipe = find_recipe(recipe) or recipe
    if include is None and exclude is None and (isinstance(recipe, Recipe) or not is_scheme(recipe)):
        exclude = _HEADS
    chosen = [(name, module) for name, module in _named_linears(model, include, exclude)]
    if not chosen:
        hint = "put the module into another, such as torch.nn.Sequential, in which it can be replaced" if isinstance(model, torch.nn.Linear) else "look at include and exclude"
        raise QuantLLMError(f"expected torch.nn.Linear modules to quantize but found none; {hint}")
    replacements = {}
    with tempfile.TemporaryDirectory(prefix="quant-llm-") as scratch:
        while chosen:
            size, group = 0, []
            while chosen and (not group or size + _bytes_of(chosen[0][1].weight) <= _GROUP_BYTES):
                size += _bytes_of(chosen[0][1].weight)
                group.append(chosen.pop(0))
            weights = [(name, _NAMES[module.weight.dtype], tuple(module.weight.shape), functools.partial(_to_bytes, module.weight)) for name, module in group]
            path, packed = quantize_weights(weights, scratch, recipe, options, progress=progress, diagnostic=diagnostic)
            archive, modules = _Archive(path), dict(group)
            for weight in packed:
                old = modules.pop(weight.name)
                new = archive.make_linear(weight, weight.name, old.bias, "").to(old.weight.device)
                # The file goes, and what is mapped from it with it.
                new.load_state_dict({key: value.clone() for key, value in new.state_dict().items()}, assign=True)
                new.constant_weights = bool(constant_weights)
                replacements[old] = new.train(old.training)
            if modules:
                raise QuantLLMError(f"expected all weights to be quantized but not {', '.join(modules)}")
    _replace(model, replacements)
    return model


def load_quantized(model, path, *, strict=True, constant_weights=False, progress=None, diagnostic=None):
    """Replaces the torch.nn.Linear of a model by those of a directory.

    `path` is an artifact of build_artifact or of quant-llm-to-gpu, which needs no
    compiler, or a directory that `quant-llm quantize` wrote. The names of
    weights are those of the model's parameters. Of the latter, dense
    parameters of the model that the directory has are loaded, too. `strict`
    refuses a directory with weights that the model does not have.
    `constant_weights` is the promise of QuantLinear for all of them. Returns the
    model.
    """
    _check_model(model)
    path = os.path.abspath(check_path(path))
    if os.path.isfile(os.path.join(path, "manifest.json")):
        _load_artifact(model, path, strict, constant_weights)
        return model
    if not os.path.isfile(os.path.join(path, "model.mlir")):
        raise QuantLLMError(f"expected an artifact (manifest.json) or a directory that quant-llm quantize wrote (model.mlir) but found neither in '{path}'")
    with tempfile.TemporaryDirectory(prefix="quant-llm-") as scratch:
        archive, weights = pack_model(path, scratch, progress=progress, diagnostic=diagnostic)
        archive = _Archive(archive)
        _replace_all(model, [(weight, weight.name, archive, "") for weight in weights], strict, constant_weights, copy=True)
    _load_dense(model, path)
    return model


def _load_artifact(model, path, strict, constant_weights):
    # Opened by the runtime, everything in it is checked.
    artifact = gpu.Artifact(path)
    archives, found, seen = {}, [], set()
    for linear, entry in zip(artifact.linears, _read_manifest(path)["linears"]):
        if linear.num_experts:
            raise QuantLLMError(f"expected linears but '{linear.name}' is a grouped linear, which has no module here")
        if "packed" not in entry:
            raise QuantLLMError(f"expected an artifact with weights but '{path}' has only kernels of '{linear.name}'")
        file = entry["packed"]["archive"]
        if file not in archives:
            archives[file] = _Archive(os.path.join(path, file))
        # A gated pair is one linear of two weights; here they are two modules.
        for name, key in zip(entry["weights"], entry["packed"]["keys"]):
            if name not in seen:
                seen.add(name)
                found.append((_Weight(name, linear.n, linear.k, linear.scheme), key, archives[file], path))
    _replace_all(model, found, strict, constant_weights, copy=False)


class _Weight:
    def __init__(self, name, n, k, scheme):
        self.name, self.n, self.k, self.scheme = name, n, k, scheme


def _replace_all(model, weights, strict, constant_weights, copy):
    modules, unknown, new = dict(model.named_modules(remove_duplicate=False)), [], []
    for weight, key, archive, artifact in weights:
        name = weight.name.removesuffix(".weight")
        old = modules.get(name)
        if not isinstance(old, (torch.nn.Linear, QuantLinear)):
            unknown.append(weight.name)
            continue
        if (old.out_features, old.in_features) != (weight.n, weight.k):
            raise QuantLLMError(f"expected '{weight.name}' to be [{old.out_features}, {old.in_features}] but got [{weight.n}, {weight.k}]")
        new.append((old, weight, key, archive, artifact))
    if unknown and strict:
        raise QuantLLMError(f"expected the names of linear modules of the model but got {', '.join(repr(name) for name in unknown[:5])}{' and others' if len(unknown) > 5 else ''}; strict=False leaves them out")
    if not new:
        raise QuantLLMError("expected weights of linear modules of the model but found none")
    replacements = {}
    for old, weight, key, archive, artifact in new:
        made = archive.make_linear(weight, key, old.bias, artifact)
        device = (old.weight if isinstance(old, torch.nn.Linear) else old.packed).device
        if device.type != "meta":
            made = made.to(device)
        if copy:
            made.load_state_dict({key: value.clone() for key, value in made.state_dict().items()}, assign=True)
        made.constant_weights = bool(constant_weights)
        replacements[old] = made.train(old.training)
    _replace(model, replacements)


def _load_dense(model, path):
    """Parameters and buffers that the quantized model has as they are."""
    file = os.path.join(path, "model.safetensors")
    if not os.path.isfile(file):
        return
    archive = _Archive(file)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in archive.entries:
                value = archive.tensor(name)
                if value.shape != parameter.shape:
                    raise QuantLLMError(f"expected '{name}' to be {list(parameter.shape)} but got {list(value.shape)}")
                if parameter.device.type == "meta":
                    raise QuantLLMError(f"expected '{name}' with memory but the model is on the meta device; use model.to_empty(device=...)")
                parameter.copy_(value)


def _named_linears(model, include, exclude):
    """Linear modules that are alone with their weight."""
    try:
        include, exclude = (re.compile(pattern) if pattern is not None else None for pattern in (include, exclude))
    except re.error as error:
        raise QuantLLMError(f"expected a regular expression but got '{error.pattern}': {error}") from None
    users = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(id(module))
    places = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    for module, names in places.items():
        name = names[0]
        if type(module) is not torch.nn.Linear or not name or len(users[id(module.weight)]) > 1:
            continue
        if (include and not any(map(include.search, names))) or (exclude and any(map(exclude.search, names))):
            continue
        if module.weight.dtype not in _NAMES or module.weight.device.type == "meta":
            raise QuantLLMError(f"expected a weight of float16, bfloat16 or float32 with memory but '{name}' has {str(module.weight.dtype).removeprefix('torch.')} on {module.weight.device}")
        yield name, module


def _bytes_of(tensor):
    return tensor.numel() * tensor.element_size()


def _to_bytes(weight):
    return weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _check_model(model):
    if not isinstance(model, torch.nn.Module):
        raise wrong_type("model", "a torch.nn.Module", model)


def _replace(model, replacements):
    """{old: new} modules, everywhere: one may be used in several places."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])


_ARCHIVE_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


class _Archive:
    """The tensors of a safetensors file, mapped. The compiler or the runtime has
    checked the file."""

    def __init__(self, path):
        self.path = path
        self.entries, _ = read_header(path)
        self.bytes = torch.from_file(path, shared=False, size=os.path.getsize(path), dtype=torch.uint8)

    def raw(self, name):
        entry = self.entries[name]
        return self.bytes[entry.begin : entry.begin + entry.size], entry

    def tensor(self, name):
        data, entry = self.raw(name)
        if entry.dtype not in _ARCHIVE_TYPES:
            raise QuantLLMError(f"{self.path}: expected '{name}' to be F16, BF16 or F32 but got {entry.dtype}")
        return data.clone().view(_ARCHIVE_TYPES[entry.dtype]).view(entry.shape)

    def make_linear(self, weight, key, bias, artifact):
        shapes = parse_scheme(weight.scheme).packed_shapes(weight.n, weight.k)
        parts = [None if shape is None else self.raw(f"{key}.{part}")[0].view(shape) for part, shape in zip(("packed", "packed_scales", "packed_zeros"), shapes)]
        return QuantLinear(*parts, self.tensor(f"{key}.output_scale").item(), weight.k, weight.n, weight.scheme, bias, artifact)


def _read_manifest(path):
    with open(os.path.join(path, "manifest.json"), encoding="utf-8") as file:
        return json.load(file)
