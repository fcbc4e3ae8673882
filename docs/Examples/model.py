# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

import os
import sys

import torch
import transformers

import quant_llm.torch
from quant_llm.model import quantize_directory

if len(sys.argv) != 4:
    sys.exit("usage: model.py CHECKPOINT QUANTIZED ARTIFACT (a Hugging Face directory, and two directories to write)")
checkpoint, quantized, artifact = sys.argv[1:]
device = "cuda" if torch.cuda.is_available() else "cpu"

# Once, where the compiler is. The artifact is all that the GPU machine needs beside the checkpoint.
if not os.path.exists(artifact):
    quantize_directory(checkpoint, quantized, options="element=int4")  # quant-llm quantize
    quant_llm.torch.build_artifact(quantized, artifact, chip="sm_90a")

# Everywhere else: no compiler.
model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16).eval()
model = quant_llm.torch.load_quantized(model, artifact).to(device)
ids = torch.arange(8, device=device)[None]
with torch.no_grad():
    print(list(model(ids).logits.shape))

# Or in memory, from the modules that are there; kernels are compiled when they are first used, and cached.
model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16).eval()
model = quant_llm.torch.quantize_model_(model, "int4, block = [1, 64], scale = f16").to(device)
quant_llm.torch.prepare_kernels(model)
compiled = torch.compile(model, fullgraph=True, backend="inductor" if device == "cuda" else "eager")
with torch.no_grad():
    print(list(compiled(ids, use_cache=False).logits.shape))
