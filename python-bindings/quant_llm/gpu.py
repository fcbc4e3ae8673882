# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantized linear layers on NVIDIA GPUs: what quant-llm-to-gpu wrote, launched
on raw device pointers.

The library libQuantLLMRuntime.so through ctypes; docs/GPURuntime.md describes
it. Neither the compiler nor PyTorch nor NumPy is needed, and a GPU only for
modules.
"""

import ctypes
import os
import weakref
from ctypes import POINTER, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import NamedTuple

from ._check import check_integer, check_path, wrong_type
from ._errors import QuantLLMError

__all__ = ["Artifact", "GPUError", "Linear", "Module", "Operand", "Plan", "Variant", "Weight", "load_library"]

# The version of the library's interface: its name on Linux ends in it.
_SONAME = "libQuantLLMRuntime.so.0"

_KINDS = {1: "argument", 2: "artifact", 3: "unavailable", 4: "driver", 5: "memory", 6: "internal"}


class GPUError(QuantLLMError):
    """`kind` says whose fault it is: "argument", "artifact" (a file is missing or
    wrong), "unavailable" (no driver, no such device, or one that the kernels are
    not for), "driver" (a call of it failed), "memory" or "internal"."""

    def __init__(self, message, kind):
        super().__init__(message)
        self.kind = kind


class Operand(NamedTuple):
    """An operand of an epilogue: [n], or [m, n] if `per_element`."""

    type: str
    per_element: bool


class Variant(NamedTuple):
    """Token counts, both included, and the kernel that runs for them."""

    min_tokens: int
    max_tokens: int
    kernel: str


class Linear(NamedTuple):
    """y [m, n] = epilogue(x [m, k] W^T) with one or two weights W [n, k].
    `weight_bytes` are those of packed codes, scales and zeros of each weight. A
    grouped linear has `num_experts` of them, with the rows of all in one, and
    offsets of the type `offsets`, i32 or i64; else these are 0 and ""."""

    index: int
    name: str
    n: int
    k: int
    scheme: str
    activation: str
    output: str
    num_weights: int
    epilogue: tuple
    variants: tuple
    weight_bytes: tuple
    num_experts: int
    offsets: str


class Weight(NamedTuple):
    """A packed weight in device memory: pairs (address, bytes)."""

    packed: tuple
    packed_scales: tuple
    packed_zeros: tuple
    output_scale: float


# ---------------------------------------------------------------------------
# include/quant-llm-c/CudaRuntime.h
# ---------------------------------------------------------------------------


class _Linear(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("n", c_int64), ("k", c_int64), ("num_weights", c_size_t), ("num_operands", c_size_t), ("num_variants", c_size_t), ("scheme", c_char_p), ("activation", c_char_p), ("output", c_char_p)]


class _Operand(ctypes.Structure):
    _fields_ = [("type", c_char_p), ("per_element", c_int)]


class _Variant(ctypes.Structure):
    _fields_ = [("min_tokens", c_int64), ("max_tokens", c_int64), ("kernel", c_char_p)]


class _WeightBytes(ctypes.Structure):
    _fields_ = [("packed", c_uint64), ("packed_scales", c_uint64), ("packed_zeros", c_uint64)]


class _Grouping(ctypes.Structure):
    _fields_ = [("num_experts", c_int64), ("offsets", c_char_p), ("offsets_bytes", c_uint64)]


class _Options(ctypes.Structure):
    _fields_ = [("device", c_int), ("driver", c_char_p), ("memory", c_void_p), ("memory_bytes", c_uint64), ("without_weights", c_int)]


class _Plan(ctypes.Structure):
    _fields_ = [("linear", c_size_t), ("m", c_int64), ("kernel", c_char_p), ("grid", c_uint32 * 3), ("threads", c_uint32), ("cluster", c_uint32), ("shared_bytes", c_uint32), ("x_bytes", c_uint64), ("y_bytes", c_uint64), ("workspace_bytes", c_uint64)]


class _Buffer(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_uint64)]


class _Operands(ctypes.Structure):
    _fields_ = [("x", _Buffer), ("y", _Buffer), ("workspace", _Buffer), ("epilogue", POINTER(_Buffer)), ("num_epilogue", c_size_t)]


class _Weight(ctypes.Structure):
    _fields_ = [("packed", _Buffer), ("packed_scales", _Buffer), ("packed_zeros", _Buffer), ("output_scale", c_float)]


class _LaunchOptions(ctypes.Structure):
    _fields_ = [("weights", POINTER(_Weight)), ("num_weights", c_size_t), ("offsets", POINTER(_Buffer)), ("plain", c_int), ("constant_weights", c_int)]


# Functions that return a status, by their parameters.
_CALLS = {
    "quantLLMCudaArtifactOpen": [c_char_p, c_char_p, POINTER(c_void_p)],
    "quantLLMCudaArtifactGetLinear": [c_void_p, c_size_t, POINTER(_Linear)],
    "quantLLMCudaArtifactGetEpilogueOperand": [c_void_p, c_size_t, c_size_t, POINTER(_Operand)],
    "quantLLMCudaArtifactGetVariant": [c_void_p, c_size_t, c_size_t, POINTER(_Variant)],
    "quantLLMCudaArtifactGetGrouping": [c_void_p, c_size_t, POINTER(_Grouping)],
    "quantLLMCudaArtifactGetBytesOfWeight": [c_void_p, c_size_t, POINTER(_WeightBytes)],
    "quantLLMCudaModuleCreate": [c_void_p, POINTER(_Options), POINTER(c_void_p)],
    "quantLLMCudaModulePlan": [c_void_p, c_size_t, c_int64, POINTER(_Plan)],
    "quantLLMCudaModuleLaunchWithOptions": [c_void_p, POINTER(_Plan), c_void_p, POINTER(_Operands), POINTER(_LaunchOptions)],
}
_OTHERS = {
    "quantLLMCudaGetLastError": (c_char_p, []),
    "quantLLMCudaGetVersion": (c_char_p, []),
    "quantLLMCudaArtifactDestroy": (None, [c_void_p]),
    "quantLLMCudaArtifactGetChip": (c_char_p, [c_void_p]),
    "quantLLMCudaArtifactGetWeightBytes": (c_uint64, [c_void_p]),
    "quantLLMCudaArtifactGetNumLinears": (c_size_t, [c_void_p]),
    "quantLLMCudaModuleDestroy": (None, [c_void_p]),
    "quantLLMCudaModuleGetDeviceName": (c_char_p, [c_void_p]),
}

_libraries = {}


class _Library:
    """The library with types for its functions."""

    def __init__(self, path):
        self.path = path
        try:
            self.functions = ctypes.CDLL(path)
            for name, parameters in _CALLS.items():
                function = getattr(self.functions, name)
                function.restype, function.argtypes = c_int, parameters
            for name, (result, parameters) in _OTHERS.items():
                function = getattr(self.functions, name)
                function.restype, function.argtypes = result, parameters
        except OSError as error:
            raise GPUError(f"cannot load the GPU runtime '{path}': {error}; it is part of the package, or QUANT_LLM_CUDA_RUNTIME names another copy", "unavailable") from None
        except AttributeError as error:
            raise GPUError(f"expected the GPU runtime of this version of quant_llm but got '{path}': {error}", "unavailable") from None

    def __getattr__(self, name):
        return getattr(self.functions, name)

    def call(self, name, *arguments):
        status = getattr(self.functions, name)(*arguments)
        if status:
            message = self.functions.quantLLMCudaGetLastError().decode(errors="replace")
            raise GPUError(message, _KINDS.get(status, "internal"))

    @property
    def version(self):
        return self.functions.quantLLMCudaGetVersion().decode()


def load_library(path=None):
    """The GPU runtime: `path`, or $QUANT_LLM_CUDA_RUNTIME, or the copy in this
    package, or what the system finds. Raises GPUError."""
    path = os.fspath(path) if path is not None else os.environ.get("QUANT_LLM_CUDA_RUNTIME")
    if not path:
        beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), _SONAME)
        path = beside if os.path.exists(beside) else _SONAME
    if path not in _libraries:
        _libraries[path] = _Library(path)
    return _libraries[path]


# ---------------------------------------------------------------------------
# Artifacts and modules
# ---------------------------------------------------------------------------


def _to_bytes(path, name):
    return None if path is None else os.fsencode(check_path(path, name))


_MOST = 2**64 - 1


def _to_integer(value, name, bits, signed=False):
    """ctypes would cut off what does not fit."""
    low = -(2 ** (bits - 1)) if signed else 0
    try:
        return check_integer(value, name, low, low + 2**bits - 1)
    except QuantLLMError as error:
        raise GPUError(str(error), "argument") from None


def _to_buffer(value, name):
    try:
        address, size = value
    except (TypeError, ValueError):
        raise wrong_type(name, "a pair (address, bytes)", value) from None
    # Launches are to be quick.
    if type(address) is int and type(size) is int and 0 <= address <= _MOST and 0 <= size <= _MOST:
        return _Buffer(address, size)
    return _Buffer(_to_integer(address or 0, f"address of {name}", 64), _to_integer(size, f"bytes of {name}", 64))


class Artifact:
    """A directory that quant-llm-to-gpu wrote (or its manifest.json), checked.
    `archive` is the path of the packed weights if they are not where the
    manifest says. Raises GPUError."""

    def __init__(self, path, archive=None, *, library=None):
        self._library = library or load_library()
        self.path = check_path(path)
        handle = c_void_p()
        self._library.call("quantLLMCudaArtifactOpen", _to_bytes(path, "path"), _to_bytes(archive, "archive"), ctypes.byref(handle))
        self._handle = handle
        self._finalizer = weakref.finalize(self, self._library.quantLLMCudaArtifactDestroy, handle)
        self.chip = self._library.quantLLMCudaArtifactGetChip(handle).decode()
        self.weight_bytes = self._library.quantLLMCudaArtifactGetWeightBytes(handle)
        self.linears = tuple(self._read(i) for i in range(self._library.quantLLMCudaArtifactGetNumLinears(handle)))
        self._by_name = {linear.name: linear for linear in self.linears}

    def _read(self, index):
        def get(name, struct, *more):
            result = struct()
            self._library.call(f"quantLLMCudaArtifactGet{name}", self._handle, index, *more, ctypes.byref(result))
            return result

        linear, size, grouping = get("Linear", _Linear), get("BytesOfWeight", _WeightBytes), get("Grouping", _Grouping)
        operands = [get("EpilogueOperand", _Operand, i) for i in range(linear.num_operands)]
        variants = [get("Variant", _Variant, i) for i in range(linear.num_variants)]
        return Linear(
            index,
            linear.name.decode(errors="replace"),
            linear.n,
            linear.k,
            linear.scheme.decode(),
            linear.activation.decode(),
            linear.output.decode(),
            linear.num_weights,
            tuple(Operand(operand.type.decode(), bool(operand.per_element)) for operand in operands),
            tuple(Variant(variant.min_tokens, variant.max_tokens, variant.kernel.decode(errors="replace")) for variant in variants),
            (size.packed, size.packed_scales, size.packed_zeros),
            grouping.num_experts,
            grouping.offsets.decode(),
        )

    def find(self, name):
        """The linear of that name."""
        if name not in self._by_name:
            raise GPUError(f"expected the name of a linear of '{self.path}' but got '{name}'", "argument")
        return self._by_name[name]

    def __repr__(self):
        return f"Artifact({self.path!r}, {self.chip}, {len(self.linears)} linears)"


class Plan:
    """What a linear launches for `m` tokens, and the bytes of the buffers."""

    def __init__(self, linear, raw):
        self.linear = linear
        self._raw = raw
        self.m = raw.m
        self.kernel = raw.kernel.decode(errors="replace") if raw.kernel is not None else None
        self.grid = tuple(raw.grid)
        self.threads, self.cluster, self.shared_bytes = raw.threads, raw.cluster, raw.shared_bytes
        self.x_bytes, self.y_bytes, self.workspace_bytes = raw.x_bytes, raw.y_bytes, raw.workspace_bytes


class Module:
    """An artifact on a device: kernels loaded, weights copied once.

    `driver` names the library of the CUDA driver (default
    $QUANT_LLM_CUDA_DRIVER, or libcuda.so.1). `weight_memory` is a pair (address,
    bytes) of device memory for the weights, aligned to 256, which the caller
    keeps; nothing else may write it, because launches read weights of the module
    before they wait for earlier kernels. With `without_weights` only kernels are
    loaded, and every launch brings its weights. Raises GPUError.
    """

    def __init__(self, artifact, device=0, *, driver=None, weight_memory=None, without_weights=False):
        if not isinstance(artifact, Artifact):
            raise wrong_type("artifact", "an Artifact", artifact)
        self.artifact = artifact
        self.device = _to_integer(device, "device", 32, signed=True)
        self._library = artifact._library
        memory = _Buffer(None, 0) if weight_memory is None else _to_buffer(weight_memory, "weight_memory")
        options = _Options(self.device, _to_bytes(driver, "driver"), memory.data, memory.bytes, int(without_weights))
        handle = c_void_p()
        self._library.call("quantLLMCudaModuleCreate", artifact._handle, ctypes.byref(options), ctypes.byref(handle))
        self._handle = handle
        # At exit the driver may be gone before this module.
        self._finalizer = weakref.finalize(self, self._library.quantLLMCudaModuleDestroy, handle)
        self._finalizer.atexit = False

    @property
    def device_name(self):
        return self._library.quantLLMCudaModuleGetDeviceName(self._handle).decode(errors="replace")

    def plan(self, linear, m):
        """The Plan of a linear (a Linear of the artifact, or its name) for `m`
        tokens."""
        if not isinstance(linear, Linear):
            linear = self.artifact.find(linear)
        m = _to_integer(m, "m", 64, signed=True)
        raw = _Plan()
        self._library.call("quantLLMCudaModulePlan", self._handle, linear.index, m, ctypes.byref(raw))
        return Plan(linear, raw)

    def launch(self, plan, x, y, *, stream=0, workspace=(0, 0), epilogue=(), weights=None, offsets=None, plain=False, constant_weights=False):
        """Launches a plan on a CUDA stream (its address; 0 is the default stream).

        Buffers are pairs (address, bytes) of device memory, at addresses that
        are multiples of 16: x [m, k], y [m, n], one for every operand of the
        epilogue, and a workspace of `plan.workspace_bytes`, whose first 16384 are
        zero once. `weights` are one or two Weight instead of those of the module.
        A grouped linear needs `offsets` [num_experts + 1], of its type: where the
        tokens of each expert begin in x, and m.
        With weights of the module the kernel may start while the one before it
        in the stream ends, but not with `plain`; with `weights`, only if the
        caller promises by `constant_weights` that nothing writes them:
        docs/GPURuntime.md, "Launches that overlap".
        Neither allocates nor waits: the memory must live until the launch is
        done. Raises GPUError.
        """
        if not isinstance(plan, Plan):
            raise wrong_type("plan", "a Plan", plan)
        if type(stream) is not int or not 0 <= stream <= _MOST:
            stream = _to_integer(stream, "stream", 64)
        epilogue = [_to_buffer(operand, "epilogue") for operand in epilogue]
        buffers = (_Buffer * len(epilogue))(*epilogue) if epilogue else None
        operands = _Operands(_to_buffer(x, "x"), _to_buffer(y, "y"), _to_buffer(workspace, "workspace"), buffers, len(epilogue))
        options = _LaunchOptions(None, 0, None, int(bool(plain)), int(bool(constant_weights)))
        if offsets is not None:
            if weights is not None:
                raise GPUError("expected the weights of the module for a grouped linear", "argument")
            options.offsets = ctypes.pointer(_to_buffer(offsets, "offsets"))
        if weights is not None:
            given = (_Weight * len(weights))()
            for to, weight in zip(given, weights):
                to.packed, to.packed_scales, to.packed_zeros = (_to_buffer(part, "weights") for part in (weight.packed, weight.packed_scales, weight.packed_zeros))
                to.output_scale = weight.output_scale
            options.weights, options.num_weights = given, len(weights)
        self._library.call("quantLLMCudaModuleLaunchWithOptions", self._handle, ctypes.byref(plan._raw), stream, ctypes.byref(operands), ctypes.byref(options))

    def close(self):
        """Unloads kernels and weights; no launch may be running. Nothing else may
        be done with the module afterwards."""
        self._finalizer()
        self._handle = None
