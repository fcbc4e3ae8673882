# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

import ctypes
import functools
import os
import sys

from quant_llm import gpu

# 0 rows are legal as well, and launch nothing.
if len(sys.argv) != 4 or not sys.argv[3].isdecimal() or int(sys.argv[3]) < 1:
    sys.exit("usage: linear.py ARTIFACT NAME M (M rows, at least 1)")
path, name, m = sys.argv[1:]
artifact = gpu.Artifact(path)  # needs no GPU
layer = artifact.find(name)
module = gpu.Module(artifact)  # on device 0
plan = module.plan(layer, int(m))

# Device memory may come from anywhere: a tensor of PyTorch (data_ptr()), an array of CuPy, or the driver itself.
driver = ctypes.CDLL(os.environ.get("QUANT_LLM_CUDA_DRIVER", "libcuda.so.1"))


def call(name, *arguments):
    if code := getattr(driver, name)(*arguments):
        raise RuntimeError(f"{name}: {code}")


def allocate(size):
    address = ctypes.c_uint64()
    if size:
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
    return address.value, size


context = ctypes.c_void_p()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxPushCurrent_v2", context)
x, y, workspace = allocate(plan.x_bytes), allocate(plan.y_bytes), allocate(plan.workspace_bytes)
host = (ctypes.c_uint16 * (plan.x_bytes // 2))(*[0x3800 if i % 3 else 0xB800 for i in range(plan.x_bytes // 2)])  # 0.5 and -0.5 in f16
call("cuMemcpyHtoD_v2", ctypes.c_uint64(x[0]), host, ctypes.c_size_t(x[1]))

module.launch(plan, x, y, stream=0, workspace=workspace)

call("cuStreamSynchronize", None)
result = (ctypes.c_uint16 * (plan.y_bytes // 2))()
call("cuMemcpyDtoH_v2", result, ctypes.c_uint64(y[0]), ctypes.c_size_t(y[1]))
checksum = functools.reduce(lambda total, value: (total * 31 + value) & 0xFFFFFFFF, result, 0)
print(f"{layer.name} [{layer.n}, {layer.k}] on {module.device_name}: kernel {plan.kernel}, y[0] = {result[0]:04x}, checksum {checksum:08x}")
