# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""A parameter that is quantized with scales of every type runs, from its archive, and gives what its stored parts say."""

import subprocess
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
rng = np.random.default_rng(11)
n, k, group = 24, 96, 32
weight = rng.normal(0, 0.05, (n, k)).astype("f2")
x = rng.normal(0, 1, (5, k)).astype("f4")
save_file({"w": weight}, f"{directory}/a.safetensors")
np.save(f"{directory}/x.npy", x)
with open(f"{directory}/m.mlir", "w") as file:
    file.write(f"""
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<{n}x{k}xf16>
func.func @f(%x: tensor<?x{k}xf32>) -> tensor<?x{n}xf32> {{
  %w = quant_llm.get_parameter @w : tensor<{n}x{k}xf16>
  %y = quant_llm.linear %x, %w : (tensor<?x{k}xf32>, tensor<{n}x{k}xf16>) -> tensor<?x{n}xf32>
  return %y : tensor<?x{n}xf32>
}}
""")


def stored_parts(path):
    """Arrays of a safetensors file; its own reader, because the package has no type for f8E8M0FNU."""
    import json
    import struct

    types = {"U8": np.uint8, "I8": np.int8, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32,
             "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    data = open(path, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    parts = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            parts[name] = np.frombuffer(data[8 + size + begin : 8 + size + end], types[entry["dtype"]]).reshape(entry["shape"])
    return parts


for scale in ("f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN"):
    for element, zero in (("int4", "none"), ("uint4", "int")):
        name = f"{element}_{scale}"
        subprocess.run(
            ["quant-opt", f"{directory}/m.mlir", "-o", f"{directory}/{name}.mlir",
             f"-quant-llm-choose-granularity=element={element} zero={zero} scale={scale} block=1,{group}",
             f"-quant-llm-quantize=output={directory}/{name}.safetensors"],
            check=True,
        )
        parts = stored_parts(f"{directory}/{name}.safetensors")
        packed = parts["w.codes"].view(np.uint8)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(n, k).astype("f8")
        if element == "int4":
            codes -= 16 * (codes > 7)
        spread = lambda array: np.repeat(array.astype("f8"), group, 1)
        value = spread(parts["w.scales"]) * (codes - (spread(parts["w.zeros"].view(np.uint8)) if zero == "int" else 0))
        assert np.linalg.norm(value - weight) < 0.3 * np.linalg.norm(weight.astype("f8")), name
        np.save(f"{directory}/y.npy", (x.astype("f8") @ value.T).astype("f4"))
        for path in ([], ["--reference"]):
            subprocess.run(
                ["quant-run", f"{directory}/{name}.mlir", "--input", f"{directory}/x.npy", "--expect", f"{directory}/y.npy",
                 "--max-relative-error", "1e-5", *path],
                check=True,
            )
