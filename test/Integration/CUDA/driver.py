# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The CUDA driver API through ctypes, on the primary context of PyTorch."""

import ctypes
from ctypes import byref, c_char, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

MAX_DYNAMIC_SHARED = 8
NON_PORTABLE_CLUSTER = 14
ATTRIBUTE_CLUSTER = 4
ATTRIBUTE_PROGRAMMATIC_SERIALIZATION = 6
DEVICE_SHARED_OPTIN = 97
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
TENSOR_MAP_TYPES = {"f16": 6, "f32": 7, "bf16": 9}


class DriverError(RuntimeError):
    """`sticky` errors end the context: nothing works in this process afterwards."""

    def __init__(self, what, code, name):
        super().__init__(f"{what}: {name} ({code})")
        self.sticky = code >= 700 and code not in (701, 704, 705, 708, 711, 712, 713)


class _AttributeValue(ctypes.Union):
    _fields_ = [("pad", c_char * 64), ("cluster", c_uint * 3), ("serialization", c_int)]


class _Attribute(ctypes.Structure):
    _fields_ = [("id", c_int), ("pad", c_char * 4), ("value", _AttributeValue)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("count", c_uint)]


class Driver:
    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.check("cuInit", self.library.cuInit(0))

    def check(self, what, code):
        if code:
            name = ctypes.c_char_p()
            self.library.cuGetErrorName(code, byref(name))
            raise DriverError(what, code, name.value.decode() if name.value else "unknown error")

    def call(self, name, *arguments):
        self.check(name, getattr(self.library, name)(*arguments))

    def load(self, image):
        """A module from the bytes of a cubin or the text of PTX."""
        module = c_void_p()
        buffer = ctypes.create_string_buffer(image, len(image) + 1)
        log = ctypes.create_string_buffer(8192)
        options = (c_int * 2)(5, 6)  # error log and its size
        values = (c_void_p * 2)(ctypes.cast(log, c_void_p), 8192)
        code = self.library.cuModuleLoadDataEx(byref(module), buffer, 2, options, values)
        if code and log.value:
            print(log.value.decode(errors="replace"), flush=True)
        self.check("cuModuleLoadDataEx", code)
        return module

    def function(self, module, name, shared_bytes, cluster=1):
        function = c_void_p()
        self.call("cuModuleGetFunction", byref(function), module, name.encode())
        if shared_bytes > 48 * 1024:
            self.call("cuFuncSetAttribute", function, c_int(MAX_DYNAMIC_SHARED), c_int(shared_bytes))
        if cluster > 8:
            self.call("cuFuncSetAttribute", function, c_int(NON_PORTABLE_CLUSTER), c_int(1))
        return function

    def resources(self, function):
        """Registers and bytes of local memory of a thread."""
        result = []
        for attribute in (4, 3):
            value = c_int()
            self.call("cuFuncGetAttribute", byref(value), c_int(attribute), function)
            result.append(value.value)
        return tuple(result)

    def tensor_map(self, kind, address, k, m, box_k, box_m, swizzle, segments=0):
        """A map of the row-major matrix [m, k], or of [k / box_k, m, box_k] with `segments` in a box, as 128 bytes aligned to 64 (the caller keeps the array alive)."""
        storage = (c_char * 192)()
        begin = -ctypes.addressof(storage) % 64
        width = 4 if kind == "f32" else 2
        dims, strides = (c_uint64 * 3)(box_k if segments else k, m, k // box_k), (c_uint64 * 2)(k * width, box_k * width)
        box, steps = (c_uint32 * 3)(box_k, box_m, segments), (c_uint32 * 3)(1, 1, 1)
        self.call("cuTensorMapEncodeTiled", c_void_p(ctypes.addressof(storage) + begin), c_int(TENSOR_MAP_TYPES[kind]), c_uint32(3 if segments else 2), c_void_p(address), dims, strides, box, steps, c_int(0), c_int(SWIZZLES[swizzle]), c_int(3), c_int(0))
        return storage, begin

    def prepare(self, function, grid, threads, shared_bytes, cluster, arguments, overlaps=False):
        """A launch with fixed arguments: ctypes values or (storage, offset) of bytes. Returns launch(stream). With `overlaps` the kernel may start while the one before it in the stream still runs."""
        pointers = (c_void_p * max(1, len(arguments)))()
        for i, argument in enumerate(arguments):
            pointers[i] = ctypes.addressof(argument[0]) + argument[1] if isinstance(argument, tuple) else ctypes.addressof(argument)
        config = _LaunchConfig()
        config.grid[:] = grid
        config.block[:] = (threads, 1, 1)
        config.shared = shared_bytes
        attributes = (_Attribute * 2)()
        config.attributes = attributes
        if cluster > 1:
            attributes[config.count].id = ATTRIBUTE_CLUSTER
            attributes[config.count].value.cluster[:] = (cluster, 1, 1)
            config.count += 1
        if overlaps:
            attributes[config.count].id = ATTRIBUTE_PROGRAMMATIC_SERIALIZATION
            attributes[config.count].value.serialization = 1
            config.count += 1
        keep = (arguments, attributes)

        def launch(stream):
            config.stream = stream
            self.check("cuLaunchKernelEx", self.library.cuLaunchKernelEx(byref(config), function, pointers, None))

        launch.keep = keep
        return launch


def pointer(tensor):
    return c_uint64(tensor if isinstance(tensor, int) else tensor.data_ptr())


__all__ = ["Driver", "DriverError", "pointer", "c_int", "c_size_t"]
