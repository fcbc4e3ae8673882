# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_calibration.py DIR: an archive and calibration files for its weights w
[4, 8] and v [4, 8]."""

import os
import sys

import numpy as np
from safetensors.numpy import save_file

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
METADATA = {
    "schema": "quant_llm.calibration/1", "model": "0" * 64, "tokens": "16", "samples": "2", "length": "8", "seed": "0",
    "aliases": '{"v": "w"}',
}


def write(name, tensors, **metadata):
    save_file(tensors, os.path.join(directory, name), {**METADATA, **metadata})


largest = np.arange(8, dtype=np.float32)
save_file({"w": np.ones((4, 8), np.float16), "v": np.ones((4, 8), np.float16)}, os.path.join(directory, "a.safetensors"))
write("good.safetensors", {"absmax/w": largest, "hessian/w": np.diag(largest)})
squares = {f"fisher/{name}": np.ones((4, 8), np.float32) for name in "wv"} | {f"row-fisher/{name}": largest[:4].copy() for name in "wv"}
lacking = {f"residual-drift/{name}": -np.ones((4, 8), np.float32) for name in "wv"}
write("all.safetensors", {"drift/w": -np.outer(largest, largest), **squares, **lacking})
write("part.safetensors", {"drift/w": largest, "fisher/w": squares["fisher/w"], "row-fisher/w": largest})
write("nan.safetensors", {"absmax/w": np.where(largest == 5, np.float32(np.nan), largest)})
write("narrow.safetensors", {"absmax/w": largest[:4]})
write("other.safetensors", {"absmax/u": largest}, aliases="{}")
write("later.safetensors", {"absmax/w": largest}, schema="quant_llm.calibration/2")
